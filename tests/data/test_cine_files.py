from __future__ import annotations

import hashlib
import json
import time

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from monai_mamba_gen.data import (
    append_manifest,
    cine_name,
    finished_cines,
    finished_seeds,
    manifest_path,
    merge_manifest,
    read_manifest,
    read_provenance,
    unfinished_cines,
    write_synthetic_cine,
)
from monai_mamba_gen.utils import DataError

PROVENANCE = {"model": "MSTG", "seed": 3, "weights_sha256": "ab" * 32, "source": "p1_frame01.nii.gz"}
AFFINE = np.array([[0.0, 1.4, 0, -20], [1.2, 0, 0, 7], [0, 0, 8, 30], [0, 0, 0, 1]])
SHAPE = (9, 7, 4)


def cine(count=5):
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(count, *SHAPE, generator=generator) * 900
    labels = torch.randint(0, 4, (count, *SHAPE), generator=generator)
    return {"frames": frames, "labels": labels, "displacement": torch.randn(count, 3, *SHAPE, generator=generator)}


def write(folder, **options):
    everything = {"seconds_per_frame": 0.04, "save_frames": True, "gif": True, "strip": True, **cine(), **options}
    return write_synthetic_cine(folder, "p1", affine=AFFINE, provenance=PROVENANCE, **everything)


def test_series(tmp_path):
    files, arrays = write(tmp_path), cine()
    series = nib.load(tmp_path / "p1_4d.nii.gz")
    assert series.shape == (*SHAPE, 5) and series.get_data_dtype() == np.float32
    np.testing.assert_allclose(series.affine, AFFINE, atol=1e-6)
    np.testing.assert_allclose(series.header.get_zooms(), (1.2, 1.4, 8, 0.04), rtol=1e-6)
    assert series.header.get_xyzt_units() == ("mm", "sec")
    for number, frame in enumerate(arrays["frames"]):
        np.testing.assert_array_equal(series.get_fdata(dtype=np.float32)[..., number], frame.numpy())
        single = nib.load(tmp_path / f"p1_frame{number + 1:02d}.nii.gz")
        np.testing.assert_array_equal(single.get_fdata(dtype=np.float32), frame.numpy())
        np.testing.assert_allclose(single.affine, AFFINE, atol=1e-6)
    assert next(iter(files)) == "p1_4d.nii.gz" and sorted(files) == sorted(path.name for path in tmp_path.iterdir())
    for file, digest in files.items():
        assert hashlib.sha256((tmp_path / file).read_bytes()).hexdigest() == digest


def test_labels(tmp_path):
    write(tmp_path)
    labels = nib.load(tmp_path / "p1_4d_gt.nii.gz")
    assert labels.get_data_dtype() == np.uint8 and labels.header.get_zooms()[3] == np.float32(0.04)
    np.testing.assert_array_equal(np.moveaxis(np.asarray(labels.dataobj), 3, 0), cine()["labels"].numpy())


def test_displacement_is_in_millimetres(tmp_path):
    field = torch.zeros(5, 3, *SHAPE)
    field[2, 0] = 2.0  # two voxels along X: 2.4 mm along the second axis of the world
    write(tmp_path, displacement=field)
    read = nib.load(tmp_path / "p1_displacement.nii.gz")
    assert read.shape == (*SHAPE, 5, 3) and int(read.header["intent_code"]) == 1006
    assert read.header.get_xyzt_units() == ("mm", "sec") and read.header.get_zooms()[3] == np.float32(0.04)
    vectors = read.get_fdata(dtype=np.float32)
    np.testing.assert_allclose(vectors[..., 2, :], np.broadcast_to([0, 2.4, 0], (*SHAPE, 3)), rtol=1e-6)
    assert not vectors[..., [0, 1, 3, 4], :].any()


def test_unknown_time_is_one_of_an_unknown_unit(tmp_path):
    write(tmp_path, seconds_per_frame=None)
    header = nib.load(tmp_path / "p1_4d.nii.gz").header
    assert header.get_zooms()[3] == 1 and header.get_xyzt_units() == ("mm", "unknown")


def test_one_frame(tmp_path):
    write(tmp_path, **{key: value[:1] for key, value in cine().items()})
    assert nib.load(tmp_path / "p1_4d.nii.gz").shape == (*SHAPE, 1)
    assert nib.load(tmp_path / "p1_displacement.nii.gz").shape == (*SHAPE, 1, 3)
    with Image.open(tmp_path / "p1.gif") as gif:
        assert gif.n_frames == 1


def test_pictures(tmp_path):
    write(tmp_path, box=(slice(1, 8), slice(0, 7), slice(0, 1)))
    with Image.open(tmp_path / "p1.gif") as gif:
        assert gif.n_frames == 5 and gif.info["duration"] == 40
    with Image.open(tmp_path / "p1_strip.png") as strip:
        assert strip.size == (5 * 9 - 2, 2 * 9 - 2) and strip.text["Synthetic"] == "true"


def test_every_file_says_what_it_is(tmp_path):
    for file in write(tmp_path):
        marks = read_provenance(tmp_path / file)
        assert marks["synthetic"] is True and PROVENANCE.items() <= marks.items()
        if file.endswith(".nii.gz"):
            assert bytes(nib.load(tmp_path / file).header["descrip"]).startswith(b"SYNTHETIC MSTG seed=3 weights=abab")
    contents = {read_provenance(tmp_path / file)["content"] for file in write(tmp_path)}
    assert contents == {"cine", "labels", "displacement", "frame", "animation", "film strip"}
    assert read_provenance(tmp_path / "p1_frame04.nii.gz")["frame_number"] == 4
    Image.new("L", (4, 4)).save(tmp_path / "real.gif")
    with pytest.raises(DataError, match="real.gif"):
        read_provenance(tmp_path / "real.gif")


def test_same_arguments_same_bytes(tmp_path, monkeypatch):
    first = write(tmp_path / "a")
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert write(tmp_path / "b") == first


def test_int16(tmp_path):
    write(tmp_path, dtype="int16")
    series = nib.load(tmp_path / "p1_4d.nii.gz")
    assert series.get_data_dtype() == np.int16
    np.testing.assert_allclose(np.moveaxis(series.get_fdata(), 3, 0), cine()["frames"].numpy(), atol=900 / 65535)
    assert nib.load(tmp_path / "p1_4d_gt.nii.gz").get_data_dtype() == np.uint8


def test_names():
    assert cine_name("patient001") == "patient001" and cine_name("a-b.c", 12) == "a-b.c_seed_000012"
    for name in ("", "../a", "a/b", ".a", "a b"):
        with pytest.raises(DataError, match="patient must"):
            cine_name(name)


def test_a_folder_of_cines_and_images(tmp_path):
    files = write(tmp_path)
    record = {"seed": 3, "file": "p1_4d.nii.gz", "sha256": files["p1_4d.nii.gz"], "files": files}
    append_manifest(manifest_path(tmp_path), [{**record, "name": name} for name in ("p1_seed_000003", "p0")])
    append_manifest(manifest_path(tmp_path), [{**record, "seed": None, "name": "p2"}, record])
    assert list(read_manifest(tmp_path)) == [3, "p0", "p1_seed_000003", "p2"] == list(merge_manifest(tmp_path))
    assert finished_cines(tmp_path) == {"p1_seed_000003", "p0", "p2"} and finished_seeds(tmp_path) == {3}
    data = [{"patient": "p1"}, {"patient": "p2"}]
    assert unfinished_cines(data, tmp_path) == [{"patient": "p1"}]
    left = unfinished_cines(data, tmp_path, seeds=[2, 3])
    assert left == [{"patient": "p1", "seed": 2}, *[{"patient": "p2", "seed": seed} for seed in (2, 3)]]
    (tmp_path / "p1.gif").write_bytes(b"half")
    assert finished_cines(tmp_path) == set()
    assert json.loads(json.dumps(read_manifest(tmp_path)["p2"]))["files"] == files


def test_errors(tmp_path):
    arrays = cine()
    for options, message in (
        ({"frames": arrays["frames"][0]}, r"frames must be \(T, X, Y, Z\)"),
        ({"frames": arrays["frames"] / 0}, "frames must be .* finite"),
        ({"labels": arrays["labels"][:2]}, "labels must be whole"),
        ({"labels": arrays["labels"] + 0.5}, "labels must be whole"),
        ({"displacement": arrays["displacement"][:2]}, "displacement must fit"),
        ({"displacement": arrays["displacement"][:, 0]}, r"displacement must be \(T, 3, X, Y, Z\)"),
        ({"seconds_per_frame": 0.0}, "seconds_per_frame"),
        ({"dtype": "uint8"}, "dtype must be"),
    ):
        with pytest.raises(ValueError, match=message):
            write(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()
