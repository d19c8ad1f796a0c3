"""What ``python -m monai_mamba_gen.ops`` says, and what an interpreter without PyTorch is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import monai_mamba_gen
from monai_mamba_gen.ops import backends, scan_backends
from monai_mamba_gen.ops.__main__ import describe, main, render, run_check
from monai_mamba_gen.ops.native_module import instruction_sets

ROOT = Path(__file__).resolve().parents[2]


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    env = {name: value for name, value in os.environ.items() if not name.startswith("MONAI_MAMBA_GEN_")}
    env |= {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=env)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("MONAI_MAMBA_GEN_BACKEND", "MONAI_MAMBA_GEN_ISA"):
        monkeypatch.delenv(name, raising=False)


def run_main(monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["ops", *arguments])
    return main(), capsys.readouterr().out


def test_prints_plain_lines():
    result = python("-m", "monai_mamba_gen.ops")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert f"monai_mamba_gen {monai_mamba_gen.__version__}, torch {torch.__version__}" in lines[0]
    assert "MONAI_MAMBA_GEN_BACKEND not set, MONAI_MAMBA_GEN_ISA not set" in lines[3]
    listed = {line.split()[0]: line.split()[1] for line in lines[6:] if line.startswith("  ")}
    assert {name for name, usable in listed.items() if usable == "yes"} >= set(scan_backends("cpu"))
    (chosen,) = (line.split()[0] for line in lines[5:] if "(chosen)" in line and lines.index(line) < 11)
    assert chosen == scan_backends("cpu")[0]


def test_json_holds_the_same(monkeypatch, capsys):
    status, out = run_main(monkeypatch, capsys, "--json")
    found = json.loads(out)
    assert status == 0
    assert found["threads"] == torch.get_num_threads()
    cpu = found["devices"]["cpu"]
    assert [entry["name"] for entry in cpu["backends"]] == [backend.name for backend in backends.BACKENDS]
    assert cpu["chosen"] == scan_backends("cpu")[0]
    for entry in cpu["backends"]:
        if entry["usable"] and entry["name"] != "reference":
            assert 0 < entry["errors"]["output"] < 1e-5
            assert 0 < entry["errors"]["gradients"] < 1e-5
        if not entry["usable"]:
            assert entry["problem"]


def test_says_what_a_missing_kernel_lacks(monkeypatch):
    gone = backends.ScanBackend("native", None, lambda device: "no compiler")
    monkeypatch.setattr("monai_mamba_gen.ops.__main__.BACKENDS", (gone, *backends.BACKENDS[3:]))
    monkeypatch.setattr("monai_mamba_gen.ops.__main__.native_problem", lambda: "no compiler")
    text = render(describe())
    assert "C kernel: none; no compiler" in text
    assert "  native     no   no compiler" in text
    assert "(chosen)" in next(line for line in text.splitlines() if line.startswith("  torch"))


def test_a_wrong_backend_is_noticed(monkeypatch, capsys):
    def wrong(*args):
        y, last = backends.scan_torch(*args)
        return 1.001 * y, last

    broken = (backends.ScanBackend("torch", wrong), backends.BACKENDS[-1])
    monkeypatch.setattr("monai_mamba_gen.ops.__main__.BACKENDS", broken)
    monkeypatch.setattr(backends, "BACKENDS", broken)
    status, out = run_main(monkeypatch, capsys)
    assert status == 1
    assert "WRONG" in out
    assert run_check("torch", "cpu")["output"] == pytest.approx(1e-3, rel=0.01)


def test_a_backend_that_fails_is_noticed(monkeypatch, capsys):
    def fails(*args):
        raise RuntimeError("no such kernel image")

    broken = (backends.ScanBackend("torch", fails), backends.BACKENDS[-1])
    monkeypatch.setattr("monai_mamba_gen.ops.__main__.BACKENDS", broken)
    monkeypatch.setattr(backends, "BACKENDS", broken)
    status, out = run_main(monkeypatch, capsys)
    assert status == 1
    assert "failed, RuntimeError: no such kernel image" in out


def test_the_environment_is_reported(monkeypatch):
    monkeypatch.setenv("MONAI_MAMBA_GEN_BACKEND", "torch")
    found = describe()
    assert found["devices"]["cpu"]["chosen"] == "torch"
    assert "MONAI_MAMBA_GEN_BACKEND=torch" in render(found)
    monkeypatch.setenv("MONAI_MAMBA_GEN_BACKEND", "fast")
    assert "MONAI_MAMBA_GEN_BACKEND=fast is not usable here: every scan will fail" in render(describe())


@pytest.mark.skipif(not instruction_sets(), reason="the package has no compiled part here")
def test_the_instruction_set_is_reported(monkeypatch):
    monkeypatch.setenv("MONAI_MAMBA_GEN_ISA", "base")
    assert "C kernel: base in use" in render(describe())
    monkeypatch.setenv("MONAI_MAMBA_GEN_ISA", "sse9")
    text = render(describe())
    assert "C kernel: MONAI_MAMBA_GEN_ISA must be one of" in text
    assert "failed, ValueError: MONAI_MAMBA_GEN_ISA must be one of" in text


@pytest.mark.parametrize("how", ["import monai_mamba_gen.ops", "runpy.run_module('monai_mamba_gen.ops')"])
def test_without_torch_one_line_says_so(how):
    hide = (
        "import sys, runpy; sys.modules['torch'] = None; import monai_mamba_gen; print(monai_mamba_gen.__version__); "
    )
    result = python("-c", hide + how)
    assert result.returncode == 1
    assert result.stdout.strip() == monai_mamba_gen.__version__  # the package itself needs nothing
    last = result.stderr.splitlines()[-1]
    assert last.startswith(
        "ModuleNotFoundError: monai_mamba_gen needs PyTorch, which is not installed: pip install torch"
    )
    assert "During handling" not in result.stderr
