from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from monai_mamba_gen.utils import derive_seed, keyed_generator, per_sample_randn


def test_derive_seed_is_fixed_for_ever() -> None:
    # as `printf "(0, 'noise', 1)" | b2sum -l 64` prints them; a change would change every published image
    assert derive_seed(0) == 0xC8238C97D6320A49 >> 1
    assert derive_seed(0, "noise", 1) == 0x36D7232578EFF241 >> 1


def test_derive_seed_is_the_same_in_another_process() -> None:
    code = "from monai_mamba_gen.utils.seeding import derive_seed; print(derive_seed(3, 'epoch', 7))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(output) == derive_seed(3, "epoch", 7)


def test_derive_seed_differs_between_keys() -> None:
    keys = [(seed, name, epoch) for seed in range(-5, 20) for name in ("noise", "order", "1") for epoch in range(20)]
    keys += [(1,), ("1",), (1, 2), (12,), ("1", "2"), ("12",), (2, 1)]
    seeds = [derive_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("key", [(), (1.0,), (True,), (None,), (0, (1, 2))])
def test_derive_seed_names_a_bad_key(key: tuple) -> None:
    with pytest.raises(ValueError, match="key must be a non-empty sequence of int and str"):
        derive_seed(*key)


def test_keyed_generator_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first = torch.randn(5, generator=keyed_generator(1, "a"))
    assert torch.equal(first, torch.randn(5, generator=keyed_generator(1, "a")))
    assert not torch.equal(first, torch.randn(5, generator=keyed_generator(1, "b")))
    assert torch.equal(before, torch.get_rng_state())


def test_per_sample_randn_does_not_depend_on_the_batch() -> None:
    together = per_sample_randn([keyed_generator(seed) for seed in range(5)], (2, 3, 4))
    alone = [per_sample_randn([keyed_generator(seed)], (2, 3, 4)) for seed in reversed(range(5))]
    assert together.shape == (5, 2, 3, 4)
    assert torch.equal(together, torch.cat(alone[::-1]))


def test_per_sample_randn_goes_on_in_each_stream() -> None:
    generators = [keyed_generator(seed) for seed in range(2)]
    first, second = (per_sample_randn(generators, (8,)) for _ in range(2))
    assert not torch.equal(first, second)
    alone = keyed_generator(0)
    assert torch.equal(first[0], torch.randn(8, generator=alone))
    assert torch.equal(second[0], torch.randn(8, generator=alone))


def test_per_sample_randn_draws_in_float32() -> None:
    half, full = (per_sample_randn([keyed_generator(0)], (6,), dtype=dtype) for dtype in (torch.half, torch.float32))
    assert half.dtype == torch.half
    assert torch.equal(half, full.half())
