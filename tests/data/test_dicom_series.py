"""A CT as a DICOM series: the same voxels in the same place as its NIfTI twin, through MONAI's own readers."""

import importlib.util

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from monai_mamba_gen.data import SliceDataset, ct_inputs, ct_mr_phantom, load_volume
from monai_mamba_gen.transforms import BodyMaskd, CheckPaird, CheckVolumed, MaskBackgroundd, ScaleIntensityWindowd
from monai_mamba_gen.utils import DataError

TURNED = np.array([[-1.96, 0.32, 0.1, 20], [-0.4, -1.57, 0.6, -15], [0.14, 0.56, 3.9, 40], [0, 0, 0, 1]])
CT = ct_mr_phantom(0, "pelvis", (20, 24, 7))["ct"]


def orthogonal(affine):
    """The same lengths with axes at right angles, as DICOM wants them."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    u, _, v = np.linalg.svd(affine[:3, :3] / lengths)
    affine = affine.copy()
    affine[:3, :3] = (u @ v) * lengths
    return affine


AFFINES = {"straight": np.array([[-1.5, 0, 0, 12], [0, -2, 0, -7], [0, 0, 3, 40], [0, 0, 0, 1.0]])}
AFFINES["turned"] = orthogonal(TURNED)


def prepare(reader=None):
    return Compose(
        [
            LoadImaged(["image", "mask"], reader=reader, allow_missing_keys=True),
            EnsureChannelFirstd(["image", "mask"], allow_missing_keys=True),
            CheckVolumed("image"),
            CheckPaird(allow_missing_keys=True),
            BodyMaskd(),
            ScaleIntensityWindowd("image"),
            MaskBackgroundd("image"),
        ]
    )


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("reader", [None, "ITKReader", "PydicomReader"])
def test_series_and_nifti_are_the_same(tmp_path, write_dicom_series, name, reader):
    if reader == "PydicomReader" and importlib.util.find_spec("pydicom") is None:
        pytest.skip("pydicom is not installed")
    series = write_dicom_series(tmp_path / "series", CT, AFFINES[name])
    nib.save(nib.Nifti1Image(CT, AFFINES[name]), tmp_path / "ct.nii.gz")
    assert len(list(series.iterdir())) == CT.shape[2]
    one, other = ct_inputs(image=series)[0], ct_inputs(image=tmp_path / "ct.nii.gz")[0]
    assert one["patient"] == "series" and other["patient"] == "ct"
    raw = Compose([LoadImaged("image", reader=reader)])
    assert torch.equal(raw(one)["image"].as_tensor(), torch.as_tensor(CT.astype(np.float32)))
    one, other = load_volume(one, prepare(reader)), load_volume(other, prepare())
    for key in ("image", "mask"):
        assert torch.equal(one[key].as_tensor(), other[key].as_tensor())
        assert np.allclose(one[key].affine, AFFINES[name], atol=1e-4)
        assert np.allclose(one[key].affine, other[key].affine, atol=1e-4)
    assert 0.1 < one["mask"].float().mean() < 0.9


def test_a_mask_of_the_nifti_fits_the_series(tmp_path, write_dicom_series):
    series = write_dicom_series(tmp_path / "series", CT, AFFINES["turned"])
    mask = nib.Nifti1Image((CT > -300).astype(np.uint8), AFFINES["turned"])
    nib.save(mask, tmp_path / "mask.nii.gz")
    loaded = load_volume(ct_inputs(image=series, mask=tmp_path / "mask.nii.gz")[0], prepare())
    assert loaded["mask"].sum() == (CT > -300).sum()
    nib.save(nib.Nifti1Image(np.asarray(mask.dataobj), AFFINES["straight"]), tmp_path / "mask.nii.gz")
    with pytest.raises(DataError, match=r"mask.nii.gz \(key 'mask'\), beside file .*series: on another grid"):
        load_volume(ct_inputs(image=series, mask=tmp_path / "mask.nii.gz")[0], prepare())


def test_slices_of_a_series(tmp_path, write_dicom_series):
    series = write_dicom_series(tmp_path / "series", CT, AFFINES["straight"])
    dataset = SliceDataset(ct_inputs(image=series), prepare(), cache_dir=tmp_path / "cache", progress=False)
    assert len(dataset) == 7 and dataset[6]["position"] == 1.0
    expected = ScaleIntensityWindowd("image")({"image": torch.as_tensor(CT.astype(np.float32))})["image"]
    middle = dataset[3]["image"][0]
    assert torch.equal(middle[middle > -1], expected[..., 3][middle > -1]) and (middle > -1).any()


def test_a_folder_without_dicom_is_one_line(tmp_path):
    pytest.importorskip("itk")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError) as caught:
        load_volume(ct_inputs(image=tmp_path)[0], prepare())
    assert str(caught.value).startswith(f"file {tmp_path} (key 'image'): cannot be read: ")
    assert "\n" not in str(caught.value)
