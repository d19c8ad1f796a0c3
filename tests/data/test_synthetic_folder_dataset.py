"""What was saved is what is scored, from one folder or several, and nothing else."""

from __future__ import annotations

import pytest
import torch

from monai_mamba_gen.data import (
    SeedBatchSampler,
    SyntheticFolderDataset,
    append_manifest,
    manifest_path,
    write_synthetic_image,
)
from monai_mamba_gen.utils import DataError


def image(seed):
    return torch.rand(6, 9, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def fill(folder, seeds, extension=".nii.gz", **settings):
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        digest = write_synthetic_image(folder / f"{seed}{extension}", image(seed), None, {"seed": seed})
        line = {"seed": seed, "file": f"{seed}{extension}", "sha256": digest, "date": f"day {seed}", **settings}
        append_manifest(manifest_path(folder), [line])
    return folder


@pytest.mark.parametrize(("extension", "tolerance"), [(".nii.gz", 0), (".nii", 0), (".png", 1 / 255)])
def test_images_come_back_by_seed(tmp_path, extension, tolerance):
    dataset = SyntheticFolderDataset(fill(tmp_path, (5, 2, 9), extension, model="toy"))
    assert dataset.seeds == [2, 5, 9] and len(dataset) == 3 and dataset.settings == {"model": "toy"}
    for position, seed in enumerate((2, 5, 9)):
        item = dataset[position]
        assert item["seed"] == seed and item["image_path"] == str(tmp_path / f"{seed}{extension}")
        assert item["image"].shape == (1, 6, 9) and item["image"].dtype == torch.float32
        assert float((item["image"][0] - image(seed)).abs().max()) <= tolerance
    assert list(SeedBatchSampler(dataset, 2)) == [[0, 1], [2]]


def test_folders_of_an_array_of_jobs(tmp_path):
    for job, label in ((0, 1), (1, 0)):
        fill(tmp_path / f"job_{job}", range(4 * job, 4 * job + 4), model="toy", class_label=label, version=str(job))
    fill(tmp_path / "job_1", [3], model="toy", class_label=0)  # the same image twice counts once
    (tmp_path / "logs").mkdir()
    for folders in (tmp_path, [tmp_path / "job_1", str(tmp_path / "job_0")]):
        assert SyntheticFolderDataset(folders).seeds == list(range(8))
    assert SyntheticFolderDataset(tmp_path, num_samples=4, first_seed=2).seeds == [2, 3, 4, 5]
    with pytest.raises(DataError, match="8 images of the seeds from 0 on, 9 wanted; the first missing seed is 8"):
        SyntheticFolderDataset(tmp_path, num_samples=9)
    with pytest.raises(DataError, match="0 images of the seeds from 20 on, any wanted; the first missing seed is 20"):
        SyntheticFolderDataset(tmp_path, first_seed=20)


def test_what_does_not_belong_together_is_refused(tmp_path):
    fill(tmp_path / "a", (0, 1), model="toy", steps=2)
    with pytest.raises(DataError, match="made with steps 3, others with 2; score them apart"):
        SyntheticFolderDataset([tmp_path / "a", fill(tmp_path / "b", [2], model="toy", steps=3)])
    with pytest.raises(DataError, match="made with sampler None, others with 'ddim'"):
        SyntheticFolderDataset([fill(tmp_path / "c", [3], sampler="ddim"), fill(tmp_path / "d", [4])])
    other = fill(tmp_path / "e", [1], ".png", model="toy", steps=2)
    with pytest.raises(DataError, match=r"seed 1: .*1\.png and .*1\.nii\.gz are two images"):
        SyntheticFolderDataset([tmp_path / "a", other])
    append_manifest(manifest_path(tmp_path / "f"), [{"name": "p1", "seed": 1, "file": "p1_4d.nii.gz", "sha256": "0"}])
    with pytest.raises(DataError, match="holds p1_4d.nii.gz, images of seeds are needed"):
        SyntheticFolderDataset(tmp_path / "f")
    with pytest.raises(DataError, match="has a manifest.jsonl of generated images"):
        SyntheticFolderDataset(tmp_path / "nothing")
    with pytest.raises(ValueError, match="num_samples must be None or at least 1, got 0"):
        SyntheticFolderDataset(tmp_path / "a", num_samples=0)


def test_faulty_files_are_named(tmp_path):
    dataset = SyntheticFolderDataset(fill(tmp_path, range(3)))
    (tmp_path / "0.nii.gz").write_bytes(b"damaged")
    (tmp_path / "1.nii.gz").unlink()
    with pytest.raises(DataError, match=r"0\.nii\.gz: is not the file that was generated"):
        dataset[0]
    with pytest.raises(DataError, match=r"1\.nii\.gz: listed in the manifest, cannot be read \(No such file"):
        dataset[1]
    digest = write_synthetic_image(tmp_path / "7.nii", torch.zeros(4, 4, 3), None, {})
    append_manifest(manifest_path(tmp_path), [{"seed": 7, "file": "7.nii", "sha256": digest}])
    with pytest.raises(DataError, match=r"7\.nii: one channel of 2D is needed to be scored, got shape \(4, 4, 3\)"):
        SyntheticFolderDataset(tmp_path)[3]
