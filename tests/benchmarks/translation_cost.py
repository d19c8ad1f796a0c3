"""
Cost of DiffMa over the size of the latent, beside an attention backbone and MONAI's U-Net of like size.

    OMP_NUM_THREADS=1 python tests/benchmarks/translation_cost.py
    python tests/benchmarks/translation_cost.py --device cuda --batch 8 --amp

prints the table of docs/performance.md. "diffma": `DiffMa`, patch 2, spiral; "attention": the same network with every
DiffMa block replaced by a block of DiT's kind (self-attention, MLP, adaLN-Zero); "unet": MONAI's `DiffusionModelUNet`
with attention on its two coarse levels, given the source as further channels. "train" is a forward and a backward
pass, "sample" a forward pass without gradients. Times are medians: CPU time of the process, or time on the GPU. Peak
memory is the growth of the resident set in a fresh process for each cell (Linux), or what CUDA allocated. "ratio" is
over the smallest size of the same network.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

from monai_mamba_gen.networks.nets import DiffMa, translation_model

NETWORKS = ("diffma", "attention", "unet")
SIZES = (28, 56, 112)
CHANNELS = 4  # of the latent


class AttentionBlock(nn.Module):
    """Self-attention and MLP with adaLN-Zero, called as a `DiffMaBlock` is; mask and orders are not used."""

    def __init__(self, hidden_size: int, heads: int = 8) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(hidden_size, elementwise_affine=False) for _ in range(2))
        self.attention = nn.MultiheadAttention(hidden_size, heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, 4 * hidden_size), nn.GELU(), nn.Linear(4 * hidden_size, hidden_size)
        )
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(2 * hidden_size, 6 * hidden_size))
        nn.init.zeros_(self.modulation[1].weight)
        nn.init.zeros_(self.modulation[1].bias)

    def forward(self, x, condition, soft_mask, orders):
        parts = self.modulation(condition)[:, None].chunk(6, dim=-1)  # (N, 1, D) each
        h = self.norm1(x) * (1 + parts[1]) + parts[0]
        x = x + parts[2] * self.attention(h, h, h, need_weights=False)[0]
        return x + parts[5] * self.mlp(self.norm2(x) * (1 + parts[4]) + parts[3])


def build(name: str, preset: str, size: int) -> nn.Module:
    torch.manual_seed(0)
    if name == "unet":
        width = DiffMa.presets[preset]["hidden_size"]
        unet = {"channels": (width // 4, width // 2, width), "attention_levels": (False, True, True)}
        return translation_model("unet", CHANNELS, unet=unet)
    network = DiffMa.from_preset(preset, in_channels=CHANNELS, image_size=size)
    if name == "attention":
        network.blocks = nn.ModuleList(AttentionBlock(network.hidden_size) for _ in network.blocks)
    return network


def peak_of_the_process() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def one_pass(network: nn.Module, batch: int, size: int, train: bool, device: torch.device, amp: bool) -> None:
    x, context = (torch.randn(batch, CHANNELS, size, size, device=device) for _ in range(2))
    times = torch.zeros(batch, device=device)
    with torch.set_grad_enabled(train), torch.autocast(device.type, torch.bfloat16, enabled=amp):
        out = network(x, times, context)
    if train:
        network.zero_grad()
        out.float().square().mean().backward()


def measure(args: argparse.Namespace, name: str, size: int, train: bool) -> dict[str, float]:
    """Seconds an image, peak megabytes and millions of parameters of one cell, in this process."""
    device = torch.device(args.device)
    network = build(name, args.preset, size).to(device)
    run = lambda side: one_pass(network, args.batch, side, train, device, args.amp)  # noqa: E731
    run(8)  # loads all libraries
    on_gpu = device.type == "cuda"
    if on_gpu:
        run(size)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
    else:
        Path("/proc/self/clear_refs").write_text("5")  # start the peak anew
        before = peak_of_the_process()
    spent = []
    for _ in range(args.rounds):
        torch.cuda.synchronize() if on_gpu else None
        start = time.perf_counter() if on_gpu else time.process_time()
        run(size)
        torch.cuda.synchronize() if on_gpu else None
        spent.append((time.perf_counter() if on_gpu else time.process_time()) - start)
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak_of_the_process()
    parameters = sum(value.numel() for value in network.parameters() if value.requires_grad) / 1e6
    return {"seconds": statistics.median(spent) / args.batch, "peak": peak - before, "parameters": parameters}


def cell_in_child(name: str, size: int, train: bool) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", __file__, *sys.argv[1:], "--cell", name, str(size), str(int(train))]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--preset", default="S/2", choices=sorted(DiffMa.presets))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--amp", action="store_true", help="bfloat16 where it is safe")
    parser.add_argument("--quick", action="store_true", help="small latents in one process, to see that it runs")
    parser.add_argument("--cell", nargs=3, metavar=("NETWORK", "SIZE", "TRAIN"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        name, size, train = args.cell
        print(json.dumps(measure(args, name, int(size), train == "1")))
        return
    place = torch.cuda.get_device_name() if args.device.startswith("cuda") else platform.machine()
    print(f"{place}, {os.cpu_count()} CPUs, {torch.get_num_threads()} thread(s), torch {torch.__version__}")
    print(f"preset {args.preset}, batch {args.batch}, bfloat16 {'on' if args.amp else 'off'}\n")
    print("| what | network | parameters (M) | latent | s an image | ratio | peak MB | ratio |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for train in (True, False):
        for name in NETWORKS:
            first = None
            for size in (8, 12) if args.quick else SIZES:
                cell = measure(args, name, size, train) if args.quick else cell_in_child(name, size, train)
                first = first or cell
                print(
                    f"| {'train' if train else 'sample'} | {name} | {cell['parameters']:.1f} | {size} "
                    f"| {cell['seconds']:.3f} | {cell['seconds'] / first['seconds']:.1f} "
                    f"| {cell['peak']:.0f} | {cell['peak'] / max(first['peak'], 1):.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
