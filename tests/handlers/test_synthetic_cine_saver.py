"""Cines from files to files through MONAI's evaluator: loaded, turned, cropped, warped, and put back on the scan."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, ResizeWithPadOrCropd, ScaleIntensityd, Spacingd
from PIL import Image
from torch import nn

from monai_mamba_gen.data import cine_files, read_manifest, read_provenance, unfinished_cines, warp_volume
from monai_mamba_gen.engines import CineInferenceBatch
from monai_mamba_gen.handlers import SyntheticCineSaver, synthetic_cine_saver
from monai_mamba_gen.inferers import CineInferer
from monai_mamba_gen.networks.schedulers import RespacedDDIMScheduler
from monai_mamba_gen.transforms import LoadCined
from monai_mamba_gen.utils import DataError, state_dict_sha256, weights_sha256

SHAPE, COUNT = (24, 20, 6), 8
COS, SIN = np.cos(0.35), np.sin(0.35)
AFFINE = np.array([[-1.2 * COS, -1.4 * SIN, 0, 12], [-1.2 * SIN, 1.4 * COS, 0, -7], [0, 0, 8, 3], [0, 0, 0, 1.0]])
MODEL_SPACING, MODEL_SHAPE = (1.5, 1.5, 4.0), (12, 12, 10)


class Shift(nn.Module):
    """Pulls from two voxels further along the first axis at phase 1; diffusion makes something of the seed."""

    def __init__(self):
        super().__init__()
        self.register_buffer("distance", torch.tensor(2.0))
        self.denoiser = nn.Identity()

    def predict(self, x, timesteps=None, context=None):
        return x * 0.5, x

    def animate(self, source, target, code, phases):
        phases = phases.expand(len(source), -1)
        field = torch.zeros(*phases.shape, 3, *source.shape[2:])
        field[:, :, 0] = self.distance * phases[..., None, None, None]
        frames = [
            torch.stack([warp_volume(volume[0], each) for each in fields]) for volume, fields in zip(source, field)
        ]
        return torch.stack(frames), field


class ThereAndBack(Shift):
    """ES is pulled back along the way that is left."""

    def animate_back(self, source, target, code, phases):
        return self.animate(target, None, code, phases - 1)


class Half(Shift):
    """The way from the middle back: what `ThereAndBack` does to ES at phase 1/2."""

    def animate(self, source, target, code, phases):
        return super().animate(source, target, code, -phases)


class Blend(nn.Module):
    def predict(self, x, timesteps=None, context=None):
        return None, x

    def animate(self, source, target, code, phases):
        frames = torch.cat([source.lerp(target, phase) for phase in phases.tolist()], dim=1)
        return frames, torch.zeros(len(source), len(phases), 3, *source.shape[2:])


def patient(folder, name, seed=0):
    """ED and ES as 3D files of odd int16 intensities, labels of ED, and the whole cine, on a turned grid."""
    generator = np.random.default_rng(seed)
    series = generator.integers(-100, 3000, (*SHAPE, COUNT)).astype(np.int16)
    labels = generator.integers(0, 4, SHAPE).astype(np.uint8)
    item = {"patient": name, "ed_frame": 2, "es_frame": 6, "seconds_per_frame": 0.05}
    arrays = {"series": series, "image": series[..., 1], "target": series[..., 5], "label": labels}
    for key, array in arrays.items():
        item[key] = str(folder / f"{name}_{key}.nii.gz")
        nib.save(nib.Nifti1Image(array, AFFINE), item[key])
    return item


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return [patient(folder, f"p{number}", number) for number in range(3)]


def without(items, *keys):
    return [{key: value for key, value in item.items() if key not in keys} for item in items]


def run(
    folder, data, network=None, decollate=True, num_frames=5, batch_size=2, phase_curve="auto", added=None, **options
):
    keys = [key for key in ("image", "target", "label") if key in data[0]]
    modes = ["nearest" if key == "label" else "bilinear" for key in keys]
    transform = Compose(
        [
            LoadCined(allow_missing_keys=True),
            Spacingd(keys, MODEL_SPACING, mode=modes),
            ResizeWithPadOrCropd(keys, MODEL_SHAPE),
            ScaleIntensityd([key for key in keys if key != "label"], -1, 1),
            lambda item: {**item, **(added or {})},
        ]
    )
    inferer = CineInferer(RespacedDDIMScheduler(20), num_frames, num_inference_steps=2, phase_curve=phase_curve)
    saver = SyntheticCineSaver(folder, inferer, **options)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(data, transform), batch_size=batch_size),
        network=network or Shift(),
        inferer=inferer,
        prepare_batch=CineInferenceBatch(),
        decollate=decollate,
        val_handlers=[saver],
    )
    evaluator.run()
    saver.finish()
    return evaluator


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.jsonl"}


@pytest.fixture(scope="module")
def reference(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("reference")
    run(folder, data, save_displacement=True, save_frames=True)
    return folder


def series_of(folder, name):
    image = nib.load(folder / f"{name}_4d.nii.gz")
    return np.moveaxis(image.get_fdata(dtype=np.float32), 3, 0), image


def test_files_have_the_geometry_of_the_scan(reference, data):
    kinds = [
        "4d.nii.gz",
        "4d_gt.nii.gz",
        "displacement.nii.gz",
        "strip.png",
        *(f"frame{n:02d}.nii.gz" for n in range(1, 6)),
    ]
    names = [f"p{number}_{kind}" for number in range(3) for kind in kinds] + [f"p{number}.gif" for number in range(3)]
    assert sorted(contents(reference)) == sorted(names)
    for item in data:
        source = nib.load(item["image"])
        frames, image = series_of(reference, item["patient"])
        np.testing.assert_array_equal(image.affine, source.affine)
        assert image.shape == (*SHAPE, 5) and image.header.get_xyzt_units() == ("mm", "sec")
        np.testing.assert_allclose(image.header.get_zooms(), (*source.header.get_zooms(), 4 * 0.05 / 4), rtol=1e-6)
        np.testing.assert_array_equal(frames[0], np.asarray(source.dataobj, dtype=np.float32))
        labels = np.asarray(nib.load(reference / f"{item['patient']}_4d_gt.nii.gz").dataobj)
        np.testing.assert_array_equal(labels[..., 0], np.asarray(nib.load(item["label"]).dataobj))
        assert set(np.unique(labels)) == {0, 1, 2, 3} and (labels[..., 4] != labels[..., 0]).any()
        with Image.open(reference / f"{item['patient']}.gif") as gif:
            assert gif.n_frames == 5 and gif.info["duration"] == 50


def test_two_voxels_of_the_model_are_three_millimetres_of_the_scan(reference):
    """Spacingd keeps the scan's axes, so the vectors point along its first, and are 3 mm long at phase 1."""
    field = nib.load(reference / "p0_displacement.nii.gz").get_fdata(dtype=np.float32)
    assert field.shape == (*SHAPE, 5, 3)
    middle = field[12, 10, 3]
    direction = AFFINE[:3, 0] / np.linalg.norm(AFFINE[:3, 0])
    np.testing.assert_allclose(middle, np.outer(np.linspace(0, 3, 5), direction), atol=1e-4)
    frames, _ = series_of(reference, "p0")
    ours, theirs = frames[4][11:13, 8:12, 2:4], frames[0]
    pulled = 0.5 * (theirs[13:15, 8:12, 2:4] + theirs[14:16, 8:12, 2:4])  # 3 mm are 2.5 voxels of 1.2 mm
    np.testing.assert_allclose(ours, pulled, rtol=1e-3, atol=0.5)
    np.testing.assert_array_equal(frames[4][0], theirs[0])  # outside the crop


def test_marks_and_manifest(reference, data):
    lines = [json.loads(line) for line in (reference / "manifest.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["p0", "p1", "p2"]
    for line, item in zip(lines, data, strict=True):
        assert line["file"] == f"{item['patient']}_4d.nii.gz" and line["files"][line["file"]] == line["sha256"]
        assert len(line["files"]) == 10 and "date" in line
        for file, digest in line["files"].items():
            assert weights_sha256(reference / file) == digest
            marks = read_provenance(reference / file)
            assert marks["weights_sha256"] == state_dict_sha256(Shift()) and "date" not in marks
            assert (marks["kind"], marks["geometry"], marks["method"]) == ("interpolation", "source", "warp")
            assert (marks["patient"], marks["seed"], marks["num_frames"]) == (item["patient"], None, 5)
            assert marks["phases"] == [0, 0.25, 0.5, 0.75, 1] and marks["source"] == f"{item['patient']}_image.nii.gz"
            assert marks["source_sha256"] == weights_sha256(item["image"])


@pytest.mark.parametrize("options", [{}, {"decollate": False}, {"batch_size": 1}])
def test_same_bytes_again(tmp_path, data, reference, options):
    run(tmp_path, data, save_displacement=True, save_frames=True, **options)
    assert contents(tmp_path) == contents(reference)


def test_frames_of_a_4d_file(tmp_path, data, reference):
    """ED and its label come out of the series, by the frame's number."""
    run(tmp_path, [{**data[0], "image": data[0]["series"], "target": None}])
    np.testing.assert_array_equal(series_of(tmp_path, "p0")[0], series_of(reference, "p0")[0])
    assert read_provenance(tmp_path / "p0.gif")["source_frame"] == 2
    beat = without(data[:1], "series", "target", "es_frame", "label")
    run(tmp_path / "beat", [{**beat[0], "image": data[0]["series"], "target": None}], phase_curve="beat")
    assert series_of(tmp_path / "beat", "p0")[1].header.get_zooms()[3] == pytest.approx(COUNT * 0.05 / 5)


def test_generation_is_named_by_its_seed(tmp_path, data):
    items = unfinished_cines(without(data[:1], "target", "es_frame"), tmp_path, seeds=[0, 12])
    run(tmp_path, items, gif=False, strip=False)
    assert list(read_manifest(tmp_path)) == ["p0_seed_000000", "p0_seed_000012"]
    series, image = series_of(tmp_path, "p0_seed_000012")
    assert image.header.get_zooms()[3] == pytest.approx(COUNT * 0.05 / 5)  # the scan's own cycle, shared by the frames
    np.testing.assert_array_equal(series[0], nib.load(items[0]["image"]).get_fdata(dtype=np.float32))
    marks = read_provenance(tmp_path / "p0_seed_000012_4d_gt.nii.gz")
    assert (marks["seed"], marks["kind"], marks["steps"]) == (12, "generation", 2)
    assert unfinished_cines(items, tmp_path) == []
    unknown = [{**item, "seconds_per_frame": 0.0} for item in without(items, "series")]
    run(tmp_path / "unknown", unknown, seconds_per_beat=0.9)
    assert series_of(tmp_path / "unknown", "p0_seed_000000")[1].header.get_zooms()[3] == pytest.approx(0.18)
    with pytest.raises(ValueError, match="needs a 'seed'"):
        run(tmp_path / "unnamed", without(items, "seed"))


def test_grid_of_the_model(tmp_path, data):
    evaluator = run(tmp_path, data[:1], grid="model", save_displacement=True)
    frames, image = series_of(tmp_path, "p0")
    np.testing.assert_allclose(frames, evaluator.inferer.result["frames"][0].numpy(), atol=1e-6)
    assert image.shape == (*MODEL_SHAPE, 5) and image.header.get_zooms()[:3] == pytest.approx(MODEL_SPACING)
    centre = image.affine @ [*((np.array(MODEL_SHAPE) - 1) / 2), 1]
    assert np.linalg.norm(centre - AFFINE @ [*((np.array(SHAPE) - 1) / 2), 1]) < 5
    assert nib.load(tmp_path / "p0_4d_gt.nii.gz").shape == (*MODEL_SHAPE, 5)
    field = nib.load(tmp_path / "p0_displacement.nii.gz").get_fdata()
    np.testing.assert_allclose(np.linalg.norm(field[6, 6, 5], axis=-1), np.linspace(0, 3, 5), atol=1e-5)
    assert read_provenance(tmp_path / "p0_strip.png")["geometry"] == "model"


def test_blending_uses_the_scans_own_volumes(tmp_path, data):
    run(tmp_path, data[:1], Blend(), save_displacement=True)
    frames, _ = series_of(tmp_path, "p0")
    end_diastole, end_systole = (nib.load(data[0][key]).get_fdata(dtype=np.float32) for key in ("image", "target"))
    np.testing.assert_array_equal(frames[0], end_diastole)
    np.testing.assert_array_equal(frames[4], end_systole)
    np.testing.assert_allclose(frames[1], 0.75 * end_diastole + 0.25 * end_systole, rtol=1e-5, atol=1e-3)
    assert sorted(contents(tmp_path)) == ["p0.gif", "p0_4d.nii.gz", "p0_strip.png"]
    assert read_provenance(tmp_path / "p0.gif")["method"] == "blend"


def test_two_sided_frames_mix_the_scans_own_volumes(tmp_path, data, reference):
    run(tmp_path, data[:1], ThereAndBack(), save_displacement=True)
    frames = np.asarray(nib.load(tmp_path / "p0_4d.nii.gz").dataobj)
    scan = {key: np.asarray(nib.load(data[0][key]).dataobj) for key in ("image", "target")}
    np.testing.assert_array_equal(frames[..., 0], scan["image"])
    np.testing.assert_array_equal(frames[..., -1], scan["target"])
    one_sided = np.asarray(nib.load(reference / "p0_4d.nii.gz").dataobj)
    assert np.abs(frames[..., 2] - one_sided[..., 2]).max() > 10
    run(tmp_path / "back", [{**data[0], "image": data[0]["target"], "target": data[0]["image"]}], Half())
    back = np.asarray(nib.load(tmp_path / "back" / "p0_4d.nii.gz").dataobj)
    np.testing.assert_allclose(frames[..., 2], (one_sided[..., 2] + back[..., 2]) / 2, atol=0.1)
    labels = [np.asarray(nib.load(folder / "p0_4d_gt.nii.gz").dataobj) for folder in (tmp_path, reference)]
    np.testing.assert_array_equal(*labels)  # those of ED
    assert read_provenance(tmp_path / "p0.gif")["method"] == "warp of both ends"


def test_two_sided_without_a_file_of_es(tmp_path, data, monkeypatch):
    original = synthetic_cine_saver.item_path
    monkeypatch.setattr(
        synthetic_cine_saver, "item_path", lambda item, key: None if key == "target" else original(item, key)
    )
    with pytest.warns(UserWarning, match="p0: no ES file to mix with"):
        run(tmp_path, data[:1], ThereAndBack())
    assert nib.load(tmp_path / "p0_4d.nii.gz").shape == (*MODEL_SHAPE, 5)


def test_blending_without_a_file_of_es(tmp_path, data, monkeypatch):
    original = synthetic_cine_saver.item_path
    monkeypatch.setattr(
        synthetic_cine_saver, "item_path", lambda item, key: None if key == "target" else original(item, key)
    )
    with pytest.warns(UserWarning, match="p0: no ES file"):
        run(tmp_path, data[:1], Blend())
    assert series_of(tmp_path, "p0")[1].shape == (*MODEL_SHAPE, 5)
    assert read_provenance(tmp_path / "p0.gif")["geometry"] == "model"


def test_no_labels(tmp_path, data):
    run(tmp_path, without(data[:1], "label"), gif=False, strip=False)
    run(tmp_path, data[1:2], save_labels=False, gif=False, strip=False)
    assert sorted(contents(tmp_path)) == ["p0_4d.nii.gz", "p1_4d.nii.gz"]


def test_killed_run_continues(tmp_path, data, reference, monkeypatch):
    class Killed(BaseException):
        pass

    options = {"save_displacement": True, "save_frames": True, "batch_size": 1}
    original, written = cine_files.write_content, []

    def dies_in_the_second(path, content):
        written.append(path.name)
        if len(written) == 12:
            raise Killed
        return original(path, content)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(cine_files, "write_content", dies_in_the_second)
        run(tmp_path, data, **options)
    assert list(read_manifest(tmp_path)) == ["p0"]
    left = unfinished_cines(data, tmp_path)
    assert [item["patient"] for item in left] == ["p1", "p2"]
    run(tmp_path, left, **options)
    assert contents(tmp_path) == contents(reference) and list(read_manifest(tmp_path)) == ["p0", "p1", "p2"]


def test_other_settings_are_refused(tmp_path, data):
    weights = tmp_path / "model.pt"
    torch.save(Shift().state_dict(), weights)
    folder = tmp_path / "cines"
    run(folder, data[:1], gif=False, strip=False)
    for options, message in (
        ({"num_frames": 4}, "made with num_frames 5, not 4"),
        ({"grid": "model"}, "made with grid 'source', not 'model'"),
        ({"weights_path": weights}, "made with weights_sha256"),
        ({"settings": {"spacing": (1.5, 1.5, 4.0)}}, "made with spacing None"),
    ):
        with pytest.raises(DataError, match=message):
            run(folder, data[1:2], **options)
    assert list(read_manifest(folder)) == ["p0"]


def test_errors(tmp_path, data):
    with pytest.raises(ValueError, match="grid must be one of"):
        SyntheticCineSaver(tmp_path, None, grid="other")
    with pytest.raises(ValueError, match="seconds_per_beat"):
        SyntheticCineSaver(tmp_path, None, seconds_per_beat=0)
    with pytest.raises(DataError, match="weights file not found"):
        SyntheticCineSaver(tmp_path, None, weights_path=tmp_path / "model.pt")
    with pytest.raises(ValueError, match="patient must consist"):
        run(tmp_path, [{**data[0], "patient": "../p0"}])
    with pytest.raises(DataError, match="frame 99 is asked for"):
        synthetic_cine_saver._read(data[0]["series"], "image", 99)
    small = tmp_path / "small.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), AFFINE), small)
    with pytest.raises(DataError, match=r"small.nii.gz \(key 'label'\): shape \(4, 4, 4\)"):
        run(tmp_path, data[:1], added={"label_path": str(small)})
