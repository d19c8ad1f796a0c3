"""``manifest.jsonl``: one line of JSON for each synthetic image or cine, safe against a kill at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..utils.atomic_write import atomic_write
from ..utils.weights import file_sha256

__all__ = [
    "append_manifest",
    "finished_cines",
    "finished_seeds",
    "iterate_manifest",
    "manifest_path",
    "merge_manifest",
    "read_manifest",
]

_PATTERN = "manifest*.jsonl"


def manifest_path(output_dir: str | os.PathLike[str], rank: int = 0, world_size: int = 1) -> Path:
    """Return the manifest that a process appends to: ``manifest.jsonl``, or a part of its own where there are more."""
    return Path(output_dir) / ("manifest.jsonl" if world_size == 1 else f"manifest.rank{rank:04d}.jsonl")


def append_manifest(path: str | os.PathLike[str], records: Iterable[dict[str, Any]]) -> None:
    """
    Append records, each as one line, and wait until the disk has them.

    A last line without its end, which a killed process left, is cut off first.

    Args:
        path: the manifest; one process writes to it.
        records: dictionaries that JSON can hold, with at least ``seed``, ``file`` and ``sha256``; a cine's also have
            a ``name``, which then stands for the record, and may have ``files`` (file name to SHA-256).
    """
    lines = "".join(json.dumps(record, sort_keys=True) + "\n" for record in records).encode()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        if file.tell() and not _ends_with_newline(file):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def _ends_with_newline(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def iterate_manifest(output_dir: str | os.PathLike[str]) -> Iterator[tuple[int | str, dict[str, Any]]]:
    """
    Yield seed, or name where there is one, and record of every line of all parts, one at a time and in their order.

    Lines that are not a whole record are left out. A seed may come twice: the later record counts.

    Args:
        output_dir: the folder; it need not exist.
    """
    for path in sorted(Path(output_dir).glob(_PATTERN)):
        with open(path, "rb") as file:
            for line in file:
                try:
                    record = json.loads(line)
                    key = str(record["name"]) if "name" in record else int(record["seed"])
                    record["file"], record["sha256"]  # a line without them is none of ours
                except (ValueError, KeyError, TypeError):
                    continue
                if line.endswith(b"\n"):
                    yield key, record


def read_manifest(output_dir: str | os.PathLike[str]) -> dict[int | str, dict[str, Any]]:
    """
    Return the records of a folder by seed, or by name where they have one, in this order.

    All parts are read. Lines that are not a whole record are left out; of two records of a seed the later counts.

    Args:
        output_dir: the folder; it need not exist.
    """
    records = dict(iterate_manifest(output_dir))
    return dict(sorted(records.items(), key=lambda entry: (isinstance(entry[0], str), entry[0])))


def _is_whole(folder: Path, record: dict[str, Any]) -> bool:
    """Tell whether all files of a record are there as they were written."""
    files = record.get("files") or {record["file"]: record["sha256"]}
    return all((folder / name).is_file() and file_sha256(folder / name) == digest for name, digest in files.items())


def finished_seeds(output_dir: str | os.PathLike[str], seeds: Container[int] | None = None) -> set[int]:
    """
    Return the seeds whose file is there and has the SHA-256 that the manifest gives.

    Args:
        output_dir: the folder; it need not exist.
        seeds: those that are asked about, so that each of several processes reads its own files only; default: all.
    """
    folder, records = Path(output_dir), {}
    for seed, record in iterate_manifest(output_dir):
        if isinstance(seed, int) and (seeds is None or seed in seeds):
            records[seed] = {key: record.get(key) for key in ("file", "sha256", "files")}
    return {seed for seed, record in records.items() if _is_whole(folder, record)}


def finished_cines(output_dir: str | os.PathLike[str]) -> set[str]:
    """Return the names of the cines (see `cine_name`) whose files are all there with the SHA-256 of the manifest."""
    folder, records = Path(output_dir), read_manifest(output_dir)
    return {name for name, record in records.items() if isinstance(name, str) and _is_whole(folder, record)}


def merge_manifest(output_dir: str | os.PathLike[str]) -> dict[int | str, dict[str, Any]]:
    """
    Make one ``manifest.jsonl`` of all parts: sorted, each seed or name once. No process may be appending meanwhile.

    Args:
        output_dir: the folder.

    Returns:
        What `read_manifest` returns.
    """
    records = read_manifest(output_dir)
    target = manifest_path(output_dir)
    if not records:
        return records
    with atomic_write(target) as temporary:
        temporary.write_text("".join(json.dumps(record, sort_keys=True) + "\n" for record in records.values()))
    for part in Path(output_dir).glob(_PATTERN):
        if part != target:
            part.unlink()
    return records
