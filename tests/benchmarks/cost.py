"""
Cost of VMDDPM beside MONAI's DiffusionModelUNet, over image sizes: parameters, multiply-accumulates, time, peak memory.

    OMP_NUM_THREADS=1 python tests/benchmarks/cost.py

prints the tables of docs/performance.md. One image, one process, CPU. Times are CPU times of the process, summed over
its threads, and medians of runs that take turns, so that other programs on the machine disturb them little. Peak memory
is measured in a fresh process for each cell, as the growth of the resident set over what weights, gradients and
libraries occupy; that needs Linux.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from monai.networks.blocks.spatialattention import SpatialAttentionBlock
from monai.networks.nets import DiffusionModelUNet
from torch import nn

from monai_mamba_gen.networks.blocks import SS2D
from monai_mamba_gen.networks.nets import VMDDPM
from monai_mamba_gen.utils.cost import count_cost

_CHANNELS = 128  # of the two blocks compared alone


def vm_ddpm(preset: str) -> nn.Module:
    """VMDDPM as the paper describes it, a new random order at every scan included."""
    return VMDDPM.from_preset(preset)


def diffusion_unet(_preset: str) -> nn.Module:
    """MONAI's U-Net with the channels of DDPM (Ho et al. 2020) for 256 px, attention at the two lowest levels."""
    return DiffusionModelUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=(128, 128, 256, 256, 512, 512),
        num_res_blocks=2,
        attention_levels=(False, False, False, False, True, True),
        num_head_channels=64,
    )


class _Block(nn.Module):
    """A block under the signature of a network."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor | None = None) -> torch.Tensor:
        return self.block(x)


NETWORKS: dict[str, Callable[[str], nn.Module]] = {"VMDDPM": vm_ddpm, "DiffusionModelUNet": diffusion_unet}
BLOCKS: dict[str, Callable[[str], nn.Module]] = {
    "SS2D": lambda _: _Block(SS2D(_CHANNELS)),
    "SpatialAttentionBlock": lambda _: _Block(SpatialAttentionBlock(2, _CHANNELS, num_head_channels=64)),
}


def build(name: str, preset: str) -> nn.Module:
    torch.manual_seed(0)
    return {**NETWORKS, **BLOCKS}[name](preset)


def step(network: nn.Module, name: str, size: int, train: bool) -> None:
    """One forward pass, or one forward and backward pass, of one image."""
    x = torch.randn(1, _CHANNELS if name in BLOCKS else 1, size, size)
    with torch.set_grad_enabled(train):
        y = network(x, timesteps=torch.zeros(1))
    if train:
        y.square().mean().backward()


def measure_seconds(networks: dict[str, nn.Module], size: int, train: bool, runs: int) -> dict[str, float]:
    """Median CPU seconds of a step, networks taking turns; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for index in range(runs + 1):
        for name, network in networks.items():
            start = time.process_time()
            step(network, name, size, train)
            if index:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _status_megabytes(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def peak_growth(name: str, preset: str, size: int, train: bool) -> float:
    """Growth of this process's resident set during one step, in MB; a step on a small image before is not counted."""
    network = build(name, preset)
    step(network, name, 8 if name in BLOCKS else 32, train)
    before = _status_megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # start the peak anew
    step(network, name, size, train)
    return _status_megabytes("VmHWM") - before


def peak_growth_in_child(name: str, args: argparse.Namespace, size: int, train: bool) -> float:
    command = [sys.executable, __file__, "--cell", name, str(size), str(int(train))]
    command += ["--preset", args.preset, "--threads", str(args.threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _ratio(value: float, previous: float | None) -> str:
    return "" if previous is None else f"{value / previous:.2f}"


def print_table(title: str, names: Sequence[str], sizes: Sequence[int], train: bool, args: argparse.Namespace) -> None:
    """A row for each size and network, each figure with its ratio to the previous size, and a row of both's ratio."""
    networks = {name: build(name, args.preset) for name in names}
    first, second = names
    print(f"\n{title}\n")
    print("| px | network | GMAC | growth | CPU ms | growth | peak MB | growth |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    previous: dict[str, tuple[float, ...]] = {}
    for size in sizes:
        seconds = measure_seconds(networks, size, train, runs=max(3, min(9, 1024 // size)))
        row: dict[str, tuple[float, ...]] = {}
        for name in names:
            shape = (1, _CHANNELS if name in BLOCKS else 1, size, size)
            macs = count_cost(networks[name], torch.zeros(shape))[1] * (3 if train else 1)
            row[name] = (macs / 1e9, seconds[name] * 1e3, peak_growth_in_child(name, args, size, train))
            cells = [
                f"{value:.4g} | {_ratio(value, previous[name][index] if name in previous else None)}"
                for index, value in enumerate(row[name])
            ]
            print(f"| {size} | {name} | {' | '.join(cells)} |", flush=True)
        ratios = [f"{b / a:.2f} |" for a, b in zip(row[first], row[second], strict=True)]
        print(f"| {size} | *{second} / {first}* | {' | '.join(ratios)} |", flush=True)
        previous = row


def print_presets() -> None:
    """The named sizes of VMDDPM."""
    print("\nPresets of VMDDPM, one image, forward\n")
    columns = ("preset", "channels", "layers a stage", "stem", "parameters")
    print(f"| {' | '.join(columns)} | GMAC at 64 px | at 128 px | CPU ms at 64 px | at 128 px |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, arguments in VMDDPM.presets.items():
        network = VMDDPM.from_preset(name)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        macs = [count_cost(network, torch.zeros(1, 1, size, size))[1] / 1e9 for size in (64, 128)]
        ms = [measure_seconds({name: network}, size, False, runs=7)[name] * 1e3 for size in (64, 128)]
        depth, stem = arguments.get("layers_per_stage", 2), arguments.get("stem_stride", 4)
        print(f"| {name} | {arguments['channels']} | {depth} | {stem} | {parameters:,} ", end="")
        print(f"| {macs[0]:.3f} | {macs[1]:.3f} | {ms[0]:.0f} | {ms[1]:.0f} |")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown CPU"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="base", choices=sorted(VMDDPM.presets), help="size of VMDDPM")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512], help="image sides, forward pass")
    parser.add_argument("--train_sizes", type=int, nargs="*", default=[64, 128, 256], help="image sides, training step")
    parser.add_argument("--block_sizes", type=int, nargs="*", default=[32, 64, 128], help="token grids, blocks alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cell", nargs=3, metavar=("NETWORK", "SIZE", "TRAIN"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.cell:
        name, size, train = args.cell
        print(peak_growth(name, args.preset, int(size), bool(int(train))))
        return
    print(f"{_cpu_name()}, {args.threads} thread(s), torch {torch.__version__}, float32, batch 1, preset {args.preset}")
    for name, make in NETWORKS.items():
        print(f"{name}: {sum(parameter.numel() for parameter in make(args.preset).parameters()):,} parameters")
    print_presets()
    print_table("Forward", tuple(NETWORKS), args.sizes, False, args)
    print_table("Forward and backward (GMAC: three times the forward's)", tuple(NETWORKS), args.train_sizes, True, args)
    print_table(f"One block, {_CHANNELS} channels, forward", tuple(BLOCKS), args.block_sizes, False, args)


if __name__ == "__main__":
    main()
