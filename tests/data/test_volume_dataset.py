"""Volumes come one at a time, with geometry and names, and finished ones are left out."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from monai.data import MetaTensor
from monai.transforms import LoadImaged

from monai_mamba_gen.data import VolumeDataset
from monai_mamba_gen.utils import DataError, file_sha256

LOAD = LoadImaged(["image", "mask"], image_only=True, ensure_channel_first=True, allow_missing_keys=True)


@pytest.fixture
def data(tmp_path):
    items = []
    for number, size in enumerate((4, 6)):
        path = tmp_path / f"ct{number}.nii.gz"
        nib.save(nib.Nifti1Image(np.ones((size, 5, 3), np.float32), np.diag([2.0, 2, 3, 1])), path)
        items.append({"image": str(path), "patient": f"p{number}", "region": "brain", "target": "never read"})
    return items


def test_items_keep_geometry_and_see_their_keys_alone(data):
    def spy(item):
        assert "target" not in item
        return LOAD(item)

    dataset = VolumeDataset(data, spy, ["image", "mask"])
    assert len(dataset) == 2
    item = dataset[1]
    assert isinstance(item["image"], MetaTensor) and item["image"].shape == (1, 6, 5, 3)
    assert item["image"].affine[0, 0] == 2 and "mask" not in item
    assert (item["patient"], item["region"], item["index"]) == ("p1", "brain", 1)
    assert item["image_path"] == data[1]["image"]
    with pytest.raises(IndexError):
        dataset[2]


def test_finished_volumes_are_left_out(data, tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "p0_mr.nii.gz").write_bytes(b"")
    digest = file_sha256(folder / "p0_mr.nii.gz")
    record = {"name": "p0_mr", "file": "p0_mr.nii.gz", "sha256": digest, "files": {"p0_mr.nii.gz": digest}}
    (folder / "manifest.jsonl").write_text(json.dumps(record) + "\n")
    assert [item["patient"] for item in VolumeDataset(data, LOAD, output_dir=folder).data] == ["p1"]
    assert len(VolumeDataset(data, LOAD, output_dir=folder, direction="mr2ct")) == 2


def test_bad_data_is_named(data, tmp_path):
    with pytest.raises(DataError, match="no volumes"):
        VolumeDataset([], LOAD)
    (tmp_path / "ct0.nii.gz").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"ct0.nii.gz \(key 'image'\): cannot be read"):
        VolumeDataset(data, LOAD)[0]
