"""
What is built from the sources: an sdist that holds all it needs, and wheels with and without a compiler.

Each is built once, in a copy of the sources, and tried in a process of its own that sees no other copy of the package.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NATIVE = ROOT / "monai_mamba_gen" / "ops" / "native"
COMPILED = "monai_mamba_gen/ops/_native.abi3.so"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="names and tools are those of Linux")
needs_limited_api = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="this Python has no limited API"
)

# What the module may use of Python: all of it in the limited API of 3.10. A name that is missing here may be added
# when https://docs.python.org/3/c-api/stable.html lists it as "since 3.10" or earlier.
LIMITED_API = set(
    "PyArg_ParseTuple _PyArg_ParseTuple_SizeT PyBytes_AsStringAndSize PyErr_Format PyErr_NoMemory PyErr_Occurred "
    "PyErr_SetString PyEval_RestoreThread PyEval_SaveThread PyExc_MemoryError PyExc_RuntimeError PyExc_ValueError "
    "PyFloat_FromDouble PyList_Append PyList_New PyLong_AsLongLong PyLong_FromLong PyLong_FromLongLong "
    "PyModuleDef_Init PyModule_AddIntConstant PyModule_AddObjectRef PyModule_Create2 PyUnicode_FromString _Py_Dealloc "
    "_Py_NoneStruct".split()
)

USE = """
import json, sys, torch
torch.set_num_threads(2)
import monai_mamba_gen
from monai_mamba_gen.ops import cross_scan_orders, ordered_scan, scan_backends
from monai_mamba_gen.ops.native_module import instruction_sets, native_problem
generator = torch.Generator().manual_seed(0)
x, delta, B, C = (torch.randn(2, 100, *rest, generator=generator) for rest in [(40,), (4, 40), (4, 3), (4, 3)])
def gradients(backend, dtype):
    leaves = [m.to(dtype, copy=True).requires_grad_() for m in (x, delta, -torch.ones(4, 40, 3), B, C)]
    orders = cross_scan_orders(10, 10)
    y = ordered_scan(*leaves, orders=orders, delta_softplus=True, backend=backend)
    return [y.detach(), *torch.autograd.grad(y, leaves, x.to(y))]
for _ in range(2):
    found = gradients(None, torch.float32)
for actual, exact in zip(found, gradients("reference", torch.float64)):
    torch.testing.assert_close(actual.double(), exact, rtol=0, atol=1e-5 * float(exact.abs().max()))
maps = open("/proc/self/maps").read().split() if sys.platform == "linux" else []
print(json.dumps({
    "file": monai_mamba_gen.__file__, "backends": scan_backends("cpu"), "problem": native_problem(),
    "sets": instruction_sets(), "libgomp": sorted({path for path in maps if "libgomp" in path}),
}))
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """The files that the build reads, without anything that an earlier build left."""
    target = tmp_path_factory.mktemp("sources") / "tree"
    built = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd")
    shutil.copytree(ROOT / "monai_mamba_gen", target / "monai_mamba_gen", ignore=built)
    names = "CHANGELOG.md LICENSE MANIFEST.in README.md constraints.txt pyproject.toml setup.cfg setup.py"
    for name in names.split():
        shutil.copy2(ROOT / name, target / name)
    return target


def build(kind: str, tree: Path, target: Path, **environment: str) -> tuple[Path, str]:
    """Call what pip calls; return the file and what the build printed."""
    target.mkdir()
    code = f"import setuptools.build_meta as b; b.build_{kind}({str(target)!r})"
    env = {**os.environ, **environment}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env=env, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (built,) = target.iterdir()
    return built, result.stdout + result.stderr


def unpack(archive: Path, target: Path) -> Path:
    if archive.suffix == ".whl":
        zipfile.ZipFile(archive).extractall(target)
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(target)
    return target


def use(unpacked: Path) -> tuple[dict, str]:
    """Scan with an unpacked wheel; return what it says of itself, and what it wrote to stderr."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MONAI_MAMBA_GEN_", "TRITON_"))}
    env |= {"PYTHONPATH": str(unpacked), "OMP_NUM_THREADS": "2"}
    result = subprocess.run(
        [sys.executable, "-c", USE], cwd=unpacked, env=env, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert Path(found["file"]).is_relative_to(unpacked)
    return found, result.stderr


@pytest.fixture(scope="module")
def sdist(sources, tmp_path_factory) -> Path:
    return build("sdist", sources, tmp_path_factory.mktemp("sdist") / "dist")[0]


@pytest.fixture(scope="module")
def compiled(sdist, tmp_path_factory) -> tuple[Path, Path]:
    """The wheel that a compiler gives, built from the sdist; and where it is unpacked."""
    if sys.platform != "linux" or not (shutil.which("gcc") or shutil.which("cc")):
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("compiled")
    (tree,) = unpack(sdist, folder / "sdist").iterdir()
    wheel, _ = build("wheel", tree, folder / "dist")
    return wheel, unpack(wheel, folder / "unpacked")


@pytest.fixture(scope="module")
def without_compiler(sources, tmp_path_factory) -> tuple[Path, Path, str]:
    """The wheel without a compiler, where it is unpacked, and what its build printed."""
    folder = tmp_path_factory.mktemp("without")
    shutil.copytree(sources, folder / "tree")
    wheel, output = build("wheel", folder / "tree", folder / "dist", CC="/bin/false")
    return wheel, unpack(wheel, folder / "unpacked"), output


def modules() -> set[str]:
    return {str(path.relative_to(ROOT)) for path in (ROOT / "monai_mamba_gen").rglob("*.py")}


def test_sdist_holds_what_the_build_needs(sdist):
    with tarfile.open(sdist) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    c_files = {str(path.relative_to(ROOT)) for path in NATIVE.iterdir()}
    assert c_files
    assert {Path(name).suffix for name in c_files} == {".c", ".h"}
    needed = {"LICENSE", "README.md", "pyproject.toml", "setup.cfg", "setup.py", "monai_mamba_gen/py.typed"}
    assert names >= c_files | modules() | needed
    assert not [name for name in names if name.startswith("tests/") or name.endswith((".so", ".pyd"))]


@linux_only
@needs_limited_api
def test_wheel_is_one_for_every_python(compiled):
    wheel, unpacked = compiled
    assert re.fullmatch(r"monai_mamba_gen-[\w.]+-cp310-abi3-linux_\w+\.whl", wheel.name)
    names = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert COMPILED in names
    assert names >= modules() | {"monai_mamba_gen/py.typed"}
    assert not [name for name in names if name.endswith((".c", ".h")) or name.startswith("tests")]


@linux_only
@needs_limited_api
@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
def test_module_uses_nothing_but_the_limited_api(compiled):
    lines = subprocess.check_output(["nm", "-D", compiled[1] / COMPILED], text=True).splitlines()
    symbols = {line.split()[-1].partition("@")[0]: line.split()[-2] for line in lines}
    assert {name for name in symbols if re.match("_?Py", name)} - LIMITED_API == {"PyInit__native"}
    assert symbols["PyInit__native"] == "T"
    torch_or_cxx = [name for name in symbols if re.match("_Z|aten|aoti|c10|torch", name)]
    assert torch_or_cxx == []


@linux_only
def test_wheel_works_and_loads_one_openmp(compiled):
    found, errors = use(compiled[1])
    assert found["problem"] is None
    assert found["backends"][0] == "native"
    assert "base" in found["sets"]
    assert errors == ""
    assert len(found["libgomp"]) == 1, found["libgomp"]  # torch's own, which our module shares


@linux_only
def test_build_without_a_compiler_succeeds(without_compiler):
    wheel, unpacked, output = without_compiler
    assert 'building extension "monai_mamba_gen.ops._native" failed' in output
    # setuptools names a wheel before it builds: the platform stays in the name though nothing of it is inside.
    assert re.search(r"-linux_\w+\.whl$", wheel.name)
    names = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert names >= modules() | {"monai_mamba_gen/py.typed"}
    assert not [name for name in names if name.endswith((".so", ".c", ".h"))]


@linux_only
def test_package_without_its_compiled_part_works_and_says_so_once(without_compiler):
    found, errors = use(without_compiler[1])
    assert "native" not in found["backends"]
    assert found["backends"][-2:] == ["torch", "reference"]
    assert found["sets"] == []
    assert "without its compiled part" in found["problem"]
    assert "gcc or clang" in found["problem"]
    (line,) = errors.splitlines()
    assert "run in PyTorch" in line
    assert found["problem"] in line


@linux_only
def test_compiler_without_openmp_builds_one_thread(sources, tmp_path):
    compiler = shutil.which("gcc") or shutil.which("cc") or pytest.skip("no C compiler")
    fake = tmp_path / "compiler"
    fake.write_text(
        "#!/bin/sh\n"
        'case " $* " in *" -fopenmp "*) echo "no OpenMP" >&2; exit 1;; esac\n'
        f'exec {compiler} "$@" -O0\n'  # the last level of optimisation counts
    )
    fake.chmod(0o755)
    shutil.copytree(sources, tmp_path / "tree")
    wheel, output = build("wheel", tmp_path / "tree", tmp_path / "dist", CC=str(fake))
    assert "trying again without OpenMP" in output
    unpacked = unpack(wheel, tmp_path / "unpacked")
    code = "from monai_mamba_gen.ops import _native; print(_native.OPENMP, _native.USABLE_LEVELS[-1])"
    env = {**os.environ, "PYTHONPATH": str(unpacked)}
    output = subprocess.check_output([sys.executable, "-c", code], cwd=unpacked, env=env, text=True)
    assert output.split() == ["0", "base"]
