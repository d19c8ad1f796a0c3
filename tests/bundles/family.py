"""
Not a test: writes the configs of the VM-DDPM bundles that are the same but for their data.

A bundle is copied alone, into MONAI Label or the Model Zoo, so its configs cannot refer to those of another bundle. The
configs of the master are written by hand. Those of the others are the master's with the differences that
``family/<bundle>.json`` lists, as plain and complete JSON. After an edit of the master or of the differences:

    python tests/bundles/family.py            # writes them anew
    python tests/bundles/family.py --check    # names those that would change; exit status 1 if any

Differences of a config, each optional, with MONAI's ids (``a#b#c``; items of a list by number) as they are in the
master:

    {"train": {"set":    {"<id>": value, ...},            another value
               "remove": ["<id>", ...],
               "add":    {"<id>": {"key": value, ...}}}}  keys behind <id>; where <id> is an item of a list, [item, ...]

``metadata.json`` and everything outside ``configs`` is each bundle's own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
DIFFERENCES = Path(__file__).resolve().with_suffix("")
MASTER = "acdc_slices_vm_ddpm_synthesis"
KINDS = {"set": dict, "remove": list, "add": dict}


def derive(master: Any, differences: Mapping[str, Any]) -> Any:
    """Return a config with the differences applied; all ids are those of the master, so their order does not matter."""
    for kind, entries in differences.items():
        if not isinstance(entries, KINDS.get(kind, ())):
            raise ValueError(f"{kind}: expected 'set' and 'add' (objects) and 'remove' (a list of ids)")
    gone = list(differences.get("remove", ()))
    if twice := sorted({name for name in gone if gone.count(name) > 1} | (differences.get("set", {}).keys() & gone)):
        raise ValueError(f"removed and set, or removed twice: {', '.join(twice)}")
    unused = [name for entries in differences.values() for name in entries]
    result = _derive(master, differences, "", unused)
    if unused:
        raise ValueError(f"not in the master: {', '.join(unused)}")
    return result


def _derive(node: Any, differences: Mapping[str, Any], prefix: str, unused: list[str]) -> Any:
    if not isinstance(node, (dict, list)):
        return node
    result: Any = type(node)()
    for key, value in list(node.items()) if isinstance(node, dict) else enumerate(node):
        name = f"{prefix}{key}"
        if name in differences.get("remove", ()):
            unused.remove(name)
        else:
            if name in differences.get("set", {}):
                unused.remove(name)
                value = differences["set"][name]
            else:
                value = _derive(value, differences, f"{name}#", unused)
            _extend(result, {key: value} if isinstance(node, dict) else [value])
        if name in differences.get("add", {}):
            unused.remove(name)
            _extend(result, differences["add"][name])
    return result


def _extend(container: Any, more: Any) -> None:
    if type(container) is not type(more):
        raise ValueError(f"a {type(more).__name__} cannot be added to a {type(container).__name__}: {more}")
    if isinstance(container, list):
        container.extend(more)
    elif again := sorted(container.keys() & more.keys()):
        raise ValueError(f"a key is given twice: {', '.join(again)}")
    else:
        container.update(more)


def write(config: Mapping[str, Any]) -> str:
    """Return the text of a config file."""
    return json.dumps(config, indent=4) + "\n"


def family(bundles: Path = BUNDLES, differences: Path = DIFFERENCES) -> dict[Path, str | None]:
    """Return the text of every generated config by path; None for one of a config that the master no longer has."""
    masters = {path.stem: path for path in (bundles / MASTER / "configs").glob("*.json") if path.stem != "metadata"}
    files: dict[Path, str | None] = {}
    for source in sorted(differences.glob("*.json")):
        own = json.loads(source.read_text(encoding="utf-8"))
        if unknown := sorted(own.keys() - masters.keys()):
            raise ValueError(f"{source.name}: the master has no {', '.join(unknown)}.json")
        configs = bundles / source.stem / "configs"
        files |= {path: None for path in sorted(configs.glob("*.json")) if path.stem not in {*masters, "metadata"}}
        for name, path in sorted(masters.items()):
            try:
                config = derive(json.loads(path.read_text(encoding="utf-8")), own.get(name, {}))
            except ValueError as error:
                raise ValueError(f"{source.name}, {name}: {error}") from error
            files[configs / f"{name}.json"] = write(config)
    return files


def outdated(files: Mapping[Path, str | None]) -> list[Path]:
    """Return the files that are not as they should be."""
    return [path for path, text in files.items() if (path.read_text("utf-8") if path.is_file() else None) != text]


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print("usage: python tests/bundles/family.py [--check]", file=sys.stderr)
        return 2
    files = family()
    changed = outdated(files)
    for path in changed:
        print(path.relative_to(BUNDLES))
        if arguments:
            continue
        if (text := files[path]) is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return int(bool(arguments and changed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
