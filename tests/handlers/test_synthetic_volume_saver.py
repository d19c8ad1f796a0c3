"""Volumes from files to files through MONAI's evaluator: turned, resampled, padded, and put back on the scan."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import (
    Compose,
    LoadImaged,
    Orientationd,
    ResizeWithPadOrCropd,
    ScaleIntensityRanged,
    Spacingd,
    SqueezeDimd,
)
from PIL import Image
from torch import nn

from monai_mamba_gen.data import read_manifest, read_provenance, synthetic_nifti, unfinished_volumes, volume_files
from monai_mamba_gen.engines import TranslationInferenceBatch
from monai_mamba_gen.handlers import SyntheticVolumeSaver
from monai_mamba_gen.inferers import IntensityBaseline, TranslationInferer
from monai_mamba_gen.networks.nets import LatentSpace
from monai_mamba_gen.networks.schedulers import RespacedDDIMScheduler
from monai_mamba_gen.transforms import BodyMaskd
from monai_mamba_gen.utils import DataError, file_sha256, state_dict_sha256

SHAPE = (19, 14, 11)
COS, SIN = np.cos(0.3), np.sin(0.3)
TURN = np.array([[1, 0, 0], [0, COS, -SIN], [0, SIN, COS]]) @ np.array([[COS, -SIN, 0], [SIN, COS, 0], [0, 0, 1]])
# Voxel axes towards posterior, superior and left, tilted; anisotropic.
AXES = np.array([[0, 0, -1.0], [-1, 0, 0], [0, 1, 0]])
AFFINE = np.eye(4)
AFFINE[:3, :3] = TURN @ AXES @ np.diag([1.1, 1.4, 2.3])
AFFINE[:3, 3] = (-31.25, 17.5, 402.7)


def linear(shape=SHAPE, affine=AFFINE):
    """HU that grow evenly through space, which trilinear resampling keeps."""
    index = np.stack([*np.indices((*shape, 1)[:3]), np.ones((*shape, 1)[:3])])
    x, y, z, _ = np.einsum("ij,jxyz->ixyz", affine, index)
    values = 9 * (x - x.mean()) - 7 * (y - y.mean()) + 5 * (z - z.mean())
    return values.astype(np.float32).reshape(shape)


def ball(shape=SHAPE, reach=1.15):
    index = np.indices((*shape, 1)[:3]).reshape(3, *shape).astype(float)
    centre = (np.array([*shape, 1][:3]) - 1) / 2
    distance = sum(((axis - middle) / max(middle, 1)) ** 2 for axis, middle in zip(index, centre))
    return (distance <= reach).astype(np.uint8)  # reaches beyond the first and last slices


def scan(folder, name, shape=SHAPE, affine=AFFINE, codes=(1, 2), values=None):
    folder.mkdir(exist_ok=True)
    arrays = {"image": linear(shape) if values is None else values, "mask": ball(shape)}
    item = {"patient": name}
    for key, array in arrays.items():
        image = nib.Nifti1Image(array, affine)
        image.set_qform(affine, codes[0])
        image.set_sform(affine, codes[1])
        item[key] = str(folder / f"{name}_{key}.nii.gz")
        nib.save(image, item[key])
    return item


class Averaging(IntensityBaseline):
    """Two samples that differ by 0.5, 0.3 apart from the source's sign: a standard deviation of 0.25 everywhere."""

    direction = "ct2mr"

    def forward(self, inputs, network=None, mask=None, seeds=None):
        pred = super().forward(inputs, network, mask, seeds)
        self.result |= {"std": torch.full_like(self.result["pred"], 0.25), "seeds": [[4, 5]] * len(inputs)}
        return pred


def run(
    folder,
    data,
    spacing=None,
    size=(24, 24, 24),
    decollate=True,
    inferer=None,
    batch_size=1,
    keys=("image", "mask"),
    **options,
):
    steps = [LoadImaged(keys, ensure_channel_first=True), Orientationd(keys, axcodes="RAS")]
    if spacing is not None:
        steps.append(Spacingd(keys, spacing, mode=["nearest" if key == "mask" else "bilinear" for key in keys]))
    steps += [
        ScaleIntensityRanged([key for key in keys if key != "mask"], -500, 500, -1, 1, clip=True),
        ResizeWithPadOrCropd(keys, size),
    ]
    return evaluate(
        folder, DataLoader(Dataset(data, Compose(steps)), batch_size=batch_size), decollate, inferer, **options
    )


def evaluate(folder, loader, decollate=True, inferer=None, **options):
    inferer = inferer or IntensityBaseline("identity")
    saver = SyntheticVolumeSaver(folder, inferer, **options)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=options["network"] if "network" in options else nn.Linear(1, 1, bias=False),
        inferer=inferer,
        prepare_batch=TranslationInferenceBatch(),
        decollate=decollate,
        val_handlers=[saver],
    )
    evaluator.run()
    saver.finish()
    return evaluator


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.jsonl"}


def loaded(path):
    image = nib.load(path)
    return image, np.asarray(image.dataobj, dtype=np.float32)


def expected_of(item):
    """What the identity should give: the window mapped to [0, 1] inside the mask, 0 outside."""
    values, mask = loaded(item["image"])[1], loaded(item["mask"])[1]
    return np.where(mask > 0, np.clip((values + 500) / 1000, 0, 1), 0)


def same_grid(first, second):
    np.testing.assert_array_equal(first.affine, second.affine)
    assert first.shape == second.shape
    for key in ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "srow_x", "srow_z"):
        np.testing.assert_array_equal(first.header[key], second.header[key])
    np.testing.assert_array_equal(first.header["pixdim"][:4], second.header["pixdim"][:4])


@pytest.mark.parametrize("codes", [(1, 2), (1, 0), (0, 1), (1, 1)])
def test_turned_and_padded_is_undone_exactly(tmp_path, codes):
    item = scan(tmp_path / "data", "p0", codes=codes)
    run(tmp_path / "out", [item])
    image, values = loaded(tmp_path / "out" / "p0_mr.nii.gz")
    same_grid(image, nib.load(item["image"]))
    assert nib.aff2axcodes(image.affine) == ("P", "S", "L")
    np.testing.assert_allclose(values, expected_of(item), atol=2e-7)
    assert read_provenance(tmp_path / "out" / "p0_mr.nii.gz")["covered"] == 1


def test_resampled_is_undone(tmp_path):
    """Up to the rim: the end slices of the scan must not fade into the background."""
    item = scan(tmp_path / "data", "p0")
    run(tmp_path / "out", [item], spacing=(1.5, 1.7, 1.9), size=(27, 25, 23))
    image, values = loaded(tmp_path / "out" / "p0_mr.nii.gz")
    same_grid(image, nib.load(item["image"]))
    expected, mask = expected_of(item), loaded(item["mask"])[1] > 0
    assert not values[~mask].any()
    error = np.abs(values - expected)[mask]
    inner = ball(reach=0.4)[mask] > 0
    assert error[inner].max() < 1e-5
    assert np.median(error) < 1e-5 and error.max() < 0.012  # neighbouring voxels differ by up to 0.02


def test_cropped_is_warned_of(tmp_path):
    item = scan(tmp_path / "data", "p0")
    with pytest.warns(UserWarning, match=r"p0: \d+\.\d % of the mask lies beyond the model's grid"):
        run(tmp_path / "out", [item], size=(8, 24, 24), output_range=(-1000, 1000))
    _, values = loaded(tmp_path / "out" / "p0_mr.nii.gz")
    expected = expected_of(item) * 2000 - 1000
    kept = values != -1000
    np.testing.assert_allclose(values[kept], expected[kept], atol=3e-4)
    covered = read_provenance(tmp_path / "out" / "p0_mr.json")["covered"]
    assert 0.3 < covered < 0.95
    assert covered == pytest.approx(kept.sum() / (loaded(item["mask"])[1] > 0).sum(), abs=0.01)


def test_standard_deviation_and_int16(tmp_path):
    item = scan(tmp_path / "data", "p0")
    run(tmp_path / "out", [item], inferer=Averaging(), dtype="int16", output_range=(0, 100))
    image, values = loaded(tmp_path / "out" / "p0_mr_std.nii.gz")
    same_grid(image, nib.load(item["image"]))
    assert image.get_data_dtype() == np.int16
    np.testing.assert_allclose(values, np.where(loaded(item["mask"])[1] > 0, 12.5, 0), atol=1e-3)
    _, values = loaded(tmp_path / "out" / "p0_mr.nii.gz")
    np.testing.assert_allclose(values, 100 * expected_of(item), atol=100 / 65535)
    assert read_provenance(tmp_path / "out" / "p0_mr_std.nii.gz")["seeds"] == [4, 5]
    run(tmp_path / "without", [item], inferer=Averaging(), save_std=False, picture=False)
    assert sorted(contents(tmp_path / "without")) == ["p0_mr.json", "p0_mr.nii.gz"]


def test_marks_and_manifest(tmp_path):
    item = scan(tmp_path / "data", "p0")
    evaluator = run(tmp_path / "out", [item], settings={"window": (-500, 500)}, model_name="toy")
    (line,) = read_manifest(tmp_path / "out").values()
    assert (line["name"], line["file"]) == ("p0_mr", "p0_mr.nii.gz") and "date" in line
    assert sorted(line["files"]) == ["p0_mr.json", "p0_mr.nii.gz", "p0_mr.png"]
    for file, digest in line["files"].items():
        assert file_sha256(tmp_path / "out" / file) == digest
        marks = read_provenance(tmp_path / "out" / file)
        assert marks["synthetic"] is True and "date" not in marks
        assert (marks["model"], marks["direction"], marks["window"]) == ("toy", "ct2mr", [-500, 500])
        assert (marks["source"], marks["mask"]) == ("p0_image.nii.gz", "p0_mask.nii.gz")
        assert marks["source_sha256"] == file_sha256(item["image"])
        assert marks["weights_sha256"] == state_dict_sha256(evaluator.network)
        assert str(tmp_path) not in json.dumps(marks)
    assert bytes(nib.load(tmp_path / "out" / "p0_mr.nii.gz").header["descrip"]).startswith(b"SYNTHETIC toy")
    with Image.open(tmp_path / "out" / "p0_mr.png") as picture:
        assert picture.text["Synthetic"] == "true"


@pytest.mark.parametrize("options", [{"decollate": False}, {"batch_size": 2}, {"batch_size": 2, "decollate": False}])
def test_same_bytes_whatever_the_batch(tmp_path, options):
    data = [scan(tmp_path / "data", f"p{number}", values=linear() + 30 * number) for number in range(3)]
    run(tmp_path / "one", data)
    run(tmp_path / "other", data, **options)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")


def test_without_a_mask(tmp_path):
    item = scan(tmp_path / "data", "p0")
    run(tmp_path / "out", [{key: item[key] for key in ("patient", "image")}], keys=("image",))
    _, values = loaded(tmp_path / "out" / "p0_mr.nii.gz")
    np.testing.assert_allclose(values, np.clip((linear() + 500) / 1000, 0, 1), atol=2e-7)


def test_a_mask_made_from_the_image_is_restored(tmp_path):
    """Its metadata name the image's file, which must not be taken for the mask."""
    item = scan(tmp_path / "data", "p0")
    item["mask"] = item["image"]
    run(tmp_path / "out", [item], spacing=(1.5, 1.7, 1.9), size=(27, 25, 23))
    marks = read_provenance(tmp_path / "out" / "p0_mr.png")
    assert marks["mask"] == "restored" and marks["covered"] > 0.9
    _, values = loaded(tmp_path / "out" / "p0_mr.nii.gz")
    assert (values > 0)[linear() > 60].all() and not values[linear() < -60].any()


def test_a_mask_of_another_grid_is_restored(tmp_path):
    item = scan(tmp_path / "data", "p0")
    finer = scan(tmp_path / "data", "other", shape=SHAPE, affine=AFFINE @ np.diag([1, 1, 1.01, 1]))
    run(tmp_path / "out", [{**item, "mask": finer["mask"]}])
    assert read_provenance(tmp_path / "out" / "p0_mr.png")["mask"] == "restored"


def test_one_slice(tmp_path):
    for shape in ((19, 14, 1), (19, 14)):
        item = scan(tmp_path / f"data{len(shape)}", "p0", shape=shape, values=linear(SHAPE)[..., 5].reshape(shape))
        out = tmp_path / f"out{len(shape)}"
        run(out, [item], size=(1, 24, 24)) if len(shape) == 3 else run_flat(out, item)
        image, values = loaded(out / "p0_mr.nii.gz")
        assert image.shape == shape
        np.testing.assert_array_equal(image.affine, nib.load(item["image"]).affine)
        np.testing.assert_allclose(values, expected_of(item), atol=2e-7)


def run_flat(folder, item):
    """Images (1, H, W) on the grid of their file."""
    keys = ["image", "mask"]
    transform = Compose(
        [LoadImaged(keys, ensure_channel_first=True), ScaleIntensityRanged("image", -500, 500, -1, 1, clip=True)]
    )
    sample = transform(item)
    if sample["image"].ndim == 4:
        sample = SqueezeDimd(keys, dim=-1)(sample)
    evaluate(folder, DataLoader([sample], batch_size=1))


class ContextIsTheAnswer(nn.Module):
    """An identity network: whatever the noise, the sample is the source."""

    def forward(self, x, timesteps=None, context=None):
        return context


def test_identity_through_diffusion(tmp_path):
    """Resampled, cut into slices, sampled twice from noise, averaged, put together and back on the scan."""
    item = scan(tmp_path / "data", "p0")
    scheduler = RespacedDDIMScheduler(50, prediction_type="sample", clip_sample=False)
    inferer = TranslationInferer(LatentSpace(), scheduler, 3, num_averages=2, seed=7, slice_batch=5)
    through = {"inferer": inferer, "network": ContextIsTheAnswer()}
    run(tmp_path / "out", [item], spacing=(1.5, 1.7, 1.9), size=(27, 25, 23), **through)
    image, values = loaded(tmp_path / "out" / "p0_mr.nii.gz")
    same_grid(image, nib.load(item["image"]))
    expected, mask = expected_of(item), loaded(item["mask"])[1] > 0
    assert not values[~mask].any()
    np.testing.assert_allclose(values[mask], expected[mask], atol=0.012)
    np.testing.assert_allclose(values[ball(reach=0.4) > 0], expected[ball(reach=0.4) > 0], atol=1e-5)
    assert np.abs(loaded(tmp_path / "out" / "p0_mr_std.nii.gz")[1]).max() < 1e-5
    marks = read_provenance(tmp_path / "out" / "p0_mr.nii.gz")
    assert (marks["seeds"], marks["seed"], marks["steps"], marks["num_averages"]) == ([7, 8], 7, 3, 2)
    assert bytes(image.header["descrip"]).startswith(b"SYNTHETIC DiffMa seed=7 weights=")


@pytest.mark.parametrize("pydicom", [False, True])
def test_dicom_series_in_nifti_out(tmp_path, write_dicom_series, pydicom):
    """With the body mask that is made where the file has none."""
    if pydicom:
        pytest.importorskip("pydicom")
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = TURN @ np.diag([-1.5, -1.25, 3.0]), (12, -7, 40)
    values = np.where(ball() > 0, np.clip(linear(affine=AFFINE), -250, 400), -1000).astype(np.int16)
    series = write_dicom_series(tmp_path / "series", values, affine)
    item = {"patient": "p0", "image": str(series)}
    reader = "PydicomReader" if pydicom else "ITKReader"
    steps = [
        LoadImaged("image", reader=reader, ensure_channel_first=True),
        BodyMaskd(),
        Orientationd(["image", "mask"], axcodes="RAS"),
        ScaleIntensityRanged("image", -500, 500, -1, 1, clip=True),
        ResizeWithPadOrCropd(["image", "mask"], (24, 24, 24)),
    ]
    evaluate(tmp_path / "out", DataLoader(Dataset([item], Compose(steps)), batch_size=1), output_range=(-500, 500))
    image, saved = loaded(tmp_path / "out" / "p0_mr.nii.gz")
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)
    np.testing.assert_allclose(saved, np.clip(values, -500, 500), atol=1e-3)
    marks = read_provenance(tmp_path / "out" / "p0_mr.json")
    assert marks["mask"] == "restored" and str(tmp_path) not in json.dumps(marks)


def test_other_direction_is_named_and_keyed(tmp_path):
    item = scan(tmp_path / "data", "p0")
    inferer = Averaging()
    inferer.direction = "mr2ct"
    saver = SyntheticVolumeSaver(tmp_path, inferer)
    assert (saver.image_key, saver.target_key) == ("target", "image")
    run(tmp_path / "out", [item], inferer=inferer, image_key="image", target_key="target", output_range=(-1000, 1000))
    assert sorted(contents(tmp_path / "out")) == ["p0_ct.json", "p0_ct.nii.gz", "p0_ct.png", "p0_ct_std.nii.gz"]


def test_killed_run_continues(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    data = [scan(tmp_path / "data", f"p{number}") for number in range(3)]
    run(tmp_path / "whole", data)
    original, written = synthetic_nifti.write_content, []

    def dies_in_the_second(path, content):
        written.append(path.name)
        if len(written) == 4:
            raise Killed
        return original(path, content)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(volume_files, "write_content", dies_in_the_second)
        run(tmp_path / "out", data)
    left = unfinished_volumes(data, tmp_path / "out")
    assert [item["patient"] for item in left] == ["p1", "p2"]
    run(tmp_path / "out", left)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert unfinished_volumes(data, tmp_path / "out") == []
    with pytest.raises(DataError, match=r"made with output_range \[0.0, 1.0\], not \[-1.0, 1.0\]"):
        run(tmp_path / "out", data[:1], output_range=(-1, 1))


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="output_range must be"):
        SyntheticVolumeSaver(tmp_path, None, output_range=(1, 0))
    with pytest.raises(DataError, match="weights file not found"):
        SyntheticVolumeSaver(tmp_path, None, weights_path=tmp_path / "model.pt")
    item = scan(tmp_path / "data", "p0")
    with pytest.raises(ValueError, match="patient must consist"):
        run(tmp_path / "out", [{**item, "patient": "../p0"}])
    broken = linear()
    broken[9, 7, 5] = np.nan
    with pytest.raises(DataError, match="patient p1: the synthetic volume holds NaN"):
        run(tmp_path / "out", [scan(tmp_path / "data", "p1", values=broken)])
    assert not (tmp_path / "out").exists() or not contents(tmp_path / "out")
