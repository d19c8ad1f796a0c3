from __future__ import annotations

import json
import sys
from types import ModuleType

import pytest

from monai_mamba_gen.utils import import_optional


def test_returns_the_module() -> None:
    assert import_optional("json", "test") is json


def test_a_missing_module_names_the_extra() -> None:
    with pytest.raises(ImportError, match=r"no_such\.module is needed here: pip install 'monai_mamba_gen\[metrics\]'"):
        import_optional("no_such.module", "metrics")


def test_a_broken_module_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "present_but_broken", ModuleType("present_but_broken"))
    with pytest.raises(ImportError, match="'present_but_broken' is not a package"):
        import_optional("present_but_broken.part", "cuda")
