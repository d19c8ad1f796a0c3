from __future__ import annotations

import hashlib
import json

from monai_mamba_gen.data import (
    append_manifest,
    finished_seeds,
    iterate_manifest,
    manifest,
    manifest_path,
    merge_manifest,
    read_manifest,
)


def record(seed, **more):
    return {"seed": seed, "file": f"{seed}.png", "sha256": "0"} | more


def test_order_and_duplicates(tmp_path):
    append_manifest(manifest_path(tmp_path), [record(3), record(1, steps=1)])
    append_manifest(manifest_path(tmp_path), [record(1, steps=2), record(2)])
    assert list(read_manifest(tmp_path)) == [1, 2, 3] and read_manifest(tmp_path)[1]["steps"] == 2
    merge_manifest(tmp_path)
    lines = manifest_path(tmp_path).read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [1, 2, 3]
    assert read_manifest(tmp_path / "nothing") == merge_manifest(tmp_path / "nothing") == {}


def test_torn_last_line_is_ignored_and_repaired(tmp_path):
    path = manifest_path(tmp_path)
    append_manifest(path, [record(1), record(2)])
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        kept = whole[:cut].count(b"\n")
        assert len(read_manifest(tmp_path)) == kept
        append_manifest(path, [record(9)])
        assert list(read_manifest(tmp_path)) == [1, 2][:kept] + [9]
        assert path.read_bytes().count(b"\n") == kept + 1


def test_parts_of_several_processes(tmp_path):
    for rank in range(3):
        append_manifest(manifest_path(tmp_path, rank, 3), [record(10 - rank)])
    assert list(read_manifest(tmp_path)) == [8, 9, 10]
    merge_manifest(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.jsonl"]
    assert list(read_manifest(tmp_path)) == [8, 9, 10]


def test_lines_come_one_by_one_and_only_whole_ones(tmp_path):
    path = manifest_path(tmp_path)
    append_manifest(path, [record(2), record(1), record(2, steps=5)])
    with open(path, "a") as file:
        file.write('{"seed": 3}\n[1]\n{"seed": 4, "file": "4.png", "sha256": "0"}')
    assert [(seed, line.get("steps")) for seed, line in iterate_manifest(tmp_path)] == [(2, None), (1, None), (2, 5)]
    assert list(iterate_manifest(tmp_path / "nothing")) == []


def test_only_the_files_asked_about_are_read(tmp_path, monkeypatch):
    content = b"image"
    digest = hashlib.sha256(content).hexdigest()
    for seed in range(4):
        (tmp_path / f"{seed}.png").write_bytes(content)
    append_manifest(manifest_path(tmp_path), [record(seed, sha256=digest) for seed in range(4)])
    hashed = []
    monkeypatch.setattr(manifest, "file_sha256", lambda path: hashed.append(path.name) or digest)
    assert finished_seeds(tmp_path, {1, 3, 9}) == {1, 3} and hashed == ["1.png", "3.png"]
    assert finished_seeds(tmp_path) == {0, 1, 2, 3}
