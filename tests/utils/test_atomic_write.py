from __future__ import annotations

import os
import time

import pytest

from monai_mamba_gen.utils import atomic_write, remove_leftovers


def test_the_file_appears_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.parent == tmp_path
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_leftovers_of_killed_processes_go_and_nothing_else(tmp_path):
    started = time.time()
    with atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
        left = temporary.name
    names = [left, ".notes.tmp", "b.123.tmp", ".c.nii.gz.77.tmp", "d.nii.gz"]
    for name in names:
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (started - 60, started - 60))
    (tmp_path / ".alive.png.78.tmp").write_text("half")  # written after the start
    os.utime(tmp_path / ".alive.png.78.tmp", (started + 60, started + 60))
    assert remove_leftovers(tmp_path, started) == sorted([left, ".c.nii.gz.77.tmp"])
    kept = {"a.txt", ".notes.tmp", "b.123.tmp", "d.nii.gz", ".alive.png.78.tmp"}
    assert {found.name for found in tmp_path.iterdir()} == kept
