"""
Tell which scan backends can be used here, why others cannot, and whether the usable ones compute the right thing.

``python -m monai_mamba_gen.ops`` prints it as text, with ``--json`` as JSON. The exit status is 0, or 1 when a usable
backend fails its check.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

import torch

from .. import __version__
from .backends import BACKEND_VARIABLE, BACKENDS
from .causal_conv import causal_conv1d_problem
from .native_module import ISA_VARIABLE, current_instruction_set, instruction_sets, native_problem
from .ordered_scan import ordered_scan
from .scan_order import cross_scan_orders

__all__ = ["describe", "render", "run_check"]

LARGEST_ERROR = 1e-4

# What the reason does not say itself.
HOW_TO_GET = {
    ("cuda", "mamba_ssm"): "build mamba-ssm against this torch: MAMBA_KEEP_CUDA_BUILD=TRUE pip install "
    "--no-build-isolation mamba-ssm",
}


def run_check(backend: str, device: torch.device | str) -> dict[str, float]:
    """
    Compare a backend with the reference, in float64, on one small scan with four orders.

    Returns:
        The largest errors of the output and of any gradient, each divided by the largest value there.
    """
    generator = torch.Generator().manual_seed(0)
    x, delta, B, C = (torch.randn(2, 35, *rest, generator=generator) for rest in [(24,), (4, 24), (4, 5), (4, 5)])
    A, D, bias = -torch.rand(4, 24, 5, generator=generator), torch.ones(4, 24), torch.zeros(4, 24)
    orders = cross_scan_orders(5, 7, device)
    results = []
    for name, dtype in ((backend, torch.float32), ("reference", torch.float64)):
        leaves = [m.to(device, dtype, copy=True).requires_grad_() for m in (x, delta, A, B, C, D, bias)]
        y = ordered_scan(*leaves, orders=orders, delta_softplus=True, backend=name)
        results.append([y.detach(), *torch.autograd.grad(y, leaves, x.to(y))])
    output, *gradients = (
        float((actual - exact).abs().max() / exact.abs().max()) for actual, exact in zip(*results, strict=True)
    )
    return {"output": output, "gradients": max(gradients)}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line[:10] == "model name"]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _describe_native() -> dict:
    problem = native_problem()
    if problem is not None:
        return {"problem": problem}
    from . import _native

    result = {"instruction_sets": instruction_sets(), "openmp": bool(_native.OPENMP)}
    try:
        return result | {"instruction_set": current_instruction_set()}
    except ValueError as error:  # the environment names one that is not here
        return result | {"problem": str(error)}


def _describe_backend(backend, device: torch.device) -> dict:
    problem = backend.device_problem(device)
    if problem is not None:
        how = HOW_TO_GET.get((device.type, backend.name))
        return {"name": backend.name, "usable": False, "problem": problem, "how_to_get": how}
    result = {"name": backend.name, "usable": True}
    if backend.name == "reference":
        return result
    try:
        errors = run_check(backend.name, device)
    except Exception as error:  # whatever it is, it is what the reader wants to know
        return result | {"check": f"failed, {type(error).__name__}: {error}", "passed": False}
    passed = all(value <= LARGEST_ERROR for value in errors.values())  # False for NaN
    return result | {"errors": errors, "passed": passed}


def _describe_device(device: torch.device) -> dict:
    backends = [_describe_backend(backend, device) for backend in BACKENDS]
    usable = [entry["name"] for entry in backends if entry["usable"]]
    wanted = os.environ.get(BACKEND_VARIABLE)
    result = {"chosen": wanted or usable[0], "backends": backends, "causal_conv1d": causal_conv1d_problem(device)}
    if device.type == "cuda":
        result["name"] = torch.cuda.get_device_name(device)
    if wanted and wanted not in usable:
        result["problem"] = f"{BACKEND_VARIABLE}={wanted} is not usable here: every scan will fail"
    return result


def describe() -> dict:
    """Return all that is printed, as what JSON can hold."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return {
        "monai_mamba_gen": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "kernel": _describe_native(),
        "environment": {name: os.environ.get(name) for name in (BACKEND_VARIABLE, ISA_VARIABLE)},
        "devices": {name: _describe_device(torch.device(name)) for name in devices},
    }


def _render_kernel(kernel: dict, threads: int) -> str:
    if "instruction_sets" not in kernel:
        return f"C kernel: none; {kernel['problem']}"
    if "problem" in kernel:
        return f"C kernel: {kernel['problem']}"
    others = [name for name in kernel["instruction_sets"] if name != kernel["instruction_set"]]
    parallel = f"OpenMP, {threads} thread(s)" if kernel["openmp"] else "built without OpenMP, one thread"
    return f"C kernel: {kernel['instruction_set']} in use, also usable: {', '.join(others) or 'none'}; {parallel}"


def _render_backend(entry: dict, chosen: str) -> str:
    if not entry["usable"]:
        how = f"; to get it: {entry['how_to_get']}" if entry["how_to_get"] else ""
        return f"  {entry['name']:<10} no   {entry['problem']}{how}"
    if "errors" in entry:
        errors = ", ".join(f"{name} {value:.1e}" for name, value in entry["errors"].items())
        note = f"largest relative error: {errors}{'' if entry['passed'] else '  WRONG'}"
    else:
        note = entry.get("check", "the others are compared with it; never chosen by itself")
    return f"  {entry['name']:<10} yes  {note}{' (chosen)' if entry['name'] == chosen else ''}"


def render(found: dict) -> str:
    """Return the text for what `describe` found."""
    lines = [
        f"monai_mamba_gen {found['monai_mamba_gen']}, torch {found['torch']}, Python {found['python']}",
        f"{found['platform']}, {found['processor']}",
        _render_kernel(found["kernel"], found["threads"]),
        "environment: " + ", ".join(f"{k}={v}" if v else f"{k} not set" for k, v in found["environment"].items()),
    ]
    for name, device in found["devices"].items():
        lines += ["", f"{name}{' (' + device['name'] + ')' if 'name' in device else ''}: backends, fastest first"]
        lines += [_render_backend(entry, device["chosen"]) for entry in device["backends"]]
        lines += [f"  {device['problem']}"] if "problem" in device else []
        if name == "cuda":
            lines.append(f"  causal convolution: {device['causal_conv1d'] or 'by causal-conv1d'}")
    return "\n".join(lines)


def main() -> int:
    """Print what there is and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m monai_mamba_gen.ops", description=__doc__.strip().split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    as_json = parser.parse_args().json
    found = describe()
    print(json.dumps(found, indent=2) if as_json else render(found))
    entries = [entry for device in found["devices"].values() for entry in device["backends"]]
    return int(not all(entry.get("passed", True) for entry in entries))


if __name__ == "__main__":
    raise SystemExit(main())
