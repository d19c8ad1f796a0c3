"""The backend in pure PyTorch against the reference: values, gradients, extremes, chunks, memory."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from monai_mamba_gen.ops import selective_scan, selective_scan_ref, torch_chunks

# rtol and atol of mamba's own tests, keyed by the dtype of the inputs
HALF = {torch.float16: (3e-3, 5e-3), torch.bfloat16: (3e-2, 5e-2)}
torch_backend = partial(selective_scan, backend="torch")


@pytest.mark.parametrize("length", [1, 7, 64, 257])
@pytest.mark.parametrize("groups", [None, 1, 2, 6])
def test_equals_reference_in_double(length, groups, scan_inputs, compare_with_reference):
    inputs = scan_inputs(length, groups=groups)
    compare_with_reference(inputs, 1e-10, 1e-10, delta_softplus=True)


@pytest.mark.parametrize("length", [1, 7, 64, 257])
@pytest.mark.parametrize("groups", [1, 2])
def test_equals_reference_in_single(length, groups, scan_inputs, compare_with_reference):
    inputs = scan_inputs(length, groups=groups, dtype=torch.float32)
    compare_with_reference(inputs, 6e-4, 2e-3, delta_softplus=True)


@pytest.mark.parametrize("leave_out", [{"D"}, {"z"}, {"delta_bias"}, {"D", "z", "delta_bias"}])
def test_equals_reference_without_optional_arguments(leave_out, scan_inputs, compare_with_reference):
    inputs = {name: tensor for name, tensor in scan_inputs(7).items() if name not in leave_out}
    inputs["delta"] = inputs["delta"].abs()
    inputs["A"] = inputs["A"] / 4
    compare_with_reference(inputs, 1e-10, 1e-10, delta_softplus=False)


@pytest.mark.parametrize("b_groups", [None, 1, 2, 6])
@pytest.mark.parametrize("c_groups", [None, 2, 3])
def test_equals_reference_with_unlike_groups(b_groups, c_groups, scan_inputs, compare_with_reference):
    inputs = scan_inputs(7, groups=b_groups)
    inputs["C"] = scan_inputs(7, groups=c_groups)["C"]
    compare_with_reference(inputs, 1e-10, 1e-10, delta_softplus=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs(dtype, scan_inputs, value_and_gradients, assert_same):
    """Against double on the same rounded inputs; parameters stay in single, as under autocast."""
    inputs = scan_inputs(64, groups=2)
    rounded = {n: t.to(dtype if n in ("u", "delta", "B", "C", "z") else torch.float32) for n, t in inputs.items()}
    actual = value_and_gradients(torch_backend, rounded, delta_softplus=True)
    assert actual["y"].dtype == dtype
    assert actual["last"].dtype == torch.float32
    double = {name: tensor.double() for name, tensor in rounded.items()}
    expected = value_and_gradients(selective_scan_ref, double, delta_softplus=True)
    rtol, atol = HALF[dtype]
    actual = {name: value.double() for name, value in actual.items()}
    scale = {name: value.abs().max().clamp(min=1) for name, value in expected.items()}
    assert_same(
        {name: value / scale[name] for name, value in actual.items()},
        {name: value / scale[name] for name, value in expected.items()},
        rtol,
        atol,
    )


def test_gradcheck(scan_inputs):
    inputs = [tensor.requires_grad_() for tensor in scan_inputs(5, channels=4, state=3, groups=2).values()]
    run = partial(selective_scan, delta_softplus=True, return_last_state=True, backend="torch")
    assert torch.autograd.gradcheck(run, inputs)


def test_gradient_of_the_last_state_alone(scan_inputs):
    inputs = {name: tensor.requires_grad_() for name, tensor in scan_inputs(7).items()}
    grads = []
    for backend in ("torch", "reference"):
        last = selective_scan(**inputs, delta_softplus=True, return_last_state=True, backend=backend)[1]
        needed = [inputs[name] for name in ("u", "delta", "A", "B", "delta_bias")]
        grads.append(torch.autograd.grad(last.square().sum(), needed))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-10, atol=1e-10)


EXTREMES = {
    "huge step": lambda inputs: inputs["delta"].add_(60),
    "vanishing step": lambda inputs: inputs["delta"].sub_(40),
    "fast decay": lambda inputs: inputs["A"].mul_(1000),
    "fast decay and huge step": lambda inputs: (inputs["A"].mul_(1000), inputs["delta"].add_(60)),
    "growth": lambda inputs: inputs["A"].mul_(-0.02),
    "one huge step": lambda inputs: inputs["delta"][..., 20].add_(200),
}


@pytest.mark.parametrize("change", EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_extreme_steps_stay_exact(change, dtype, scan_inputs, value_and_gradients, assert_same):
    """The cumulative-sum form of the scan divides by products of decays, and gives NaN on most of these."""
    inputs = scan_inputs(64, groups=2)
    change(inputs)
    inputs = {name: tensor.to(dtype) for name, tensor in inputs.items()}
    actual = value_and_gradients(torch_backend, inputs, delta_softplus=True)
    assert all(value.isfinite().all() for value in actual.values())
    expected = value_and_gradients(selective_scan_ref, inputs, delta_softplus=True)
    scale = {name: value.abs().max().clamp(min=1) for name, value in expected.items()}
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    assert_same(
        {name: value / scale[name] for name, value in actual.items()},
        {name: value / scale[name] for name, value in expected.items()},
        tolerance,
        tolerance,
    )


@pytest.mark.parametrize("steps", [1, 2, 5, 23, 24])
@pytest.mark.parametrize("samples", [1, 2])
def test_chunks_do_not_change_the_result(steps, samples, monkeypatch, scan_inputs, value_and_gradients, assert_same):
    """23 steps in chunks of 1, 2 (a ragged last one), 5 (ragged), 23 (one) and more than there are; 3 samples."""
    inputs = scan_inputs(23, batch=3, groups=2)
    whole = value_and_gradients(torch_backend, inputs, delta_softplus=True)
    elements = 6 * 5  # of one step of one sample: D * S
    monkeypatch.setattr(torch_chunks, "_MIN_STEPS", 1)
    monkeypatch.setattr(torch_chunks, "_SAMPLE_ELEMENTS", steps * elements)
    monkeypatch.setattr(torch_chunks, "_WORK_ELEMENTS", samples * min(steps, 23) * elements)
    assert torch_chunks.chunk_steps(inputs["A"]) == steps
    chunked = value_and_gradients(torch_backend, inputs, delta_softplus=True)
    assert_same(chunked, whole, rtol=1e-12, atol=1e-12)


def test_chunks_have_enough_steps_to_be_worth_a_kept_state():
    assert torch_chunks.chunk_steps(torch.empty(64, 1024, 256, device="meta")) == 16


def test_batch_does_not_change_a_sample(scan_inputs):
    inputs = scan_inputs(40, batch=3, dtype=torch.float32)
    one = {name: m[1:2] if name in ("u", "delta", "B", "C", "z") else m for name, m in inputs.items()}
    whole, alone = torch_backend(**inputs, delta_softplus=True), torch_backend(**one, delta_softplus=True)
    torch.testing.assert_close(whole[1:2], alone, rtol=1e-5, atol=1e-6)


def test_same_for_any_number_of_threads(scan_inputs, value_and_gradients, assert_same):
    inputs = scan_inputs(65, channels=128, state=16, groups=2, dtype=torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(value_and_gradients(torch_backend, inputs, delta_softplus=True))
    finally:
        torch.set_num_threads(before)
    assert_same(results[0], results[1], rtol=0, atol=0)


def test_non_contiguous_inputs(scan_inputs, value_and_gradients, assert_same):
    inputs = scan_inputs(17, groups=2)
    strided = {name: tensor.repeat_interleave(2, dim=-1)[..., ::2] for name, tensor in inputs.items()}
    strided["u"] = inputs["u"].permute(2, 0, 1).contiguous().permute(1, 2, 0)
    strided["B"] = inputs["B"][..., :1].expand_as(inputs["B"])
    inputs["B"] = strided["B"].contiguous()
    assert not any(strided[name].is_contiguous() for name in strided)

    def direct(function):  # the views themselves, which a clone would make contiguous
        return function(**strided, delta_softplus=True)

    torch.testing.assert_close(direct(torch_backend), selective_scan_ref(**inputs, delta_softplus=True))
    contiguous = {name: tensor.contiguous() for name, tensor in strided.items()}
    assert_same(
        value_and_gradients(torch_backend, strided, delta_softplus=True),
        value_and_gradients(torch_backend, contiguous, delta_softplus=True),
        rtol=0,
        atol=0,
    )


def test_leaves_its_inputs_alone(scan_inputs, value_and_gradients):
    inputs = scan_inputs(9)
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    leaves = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    torch_backend(**leaves, delta_softplus=True).square().sum().backward()
    assert all(torch.equal(inputs[name], before[name]) for name in before)


@pytest.mark.parametrize("shape", [{"length": 0}, {"length": 4, "batch": 0}], ids=["no time", "no batch"])
def test_empty_inputs(shape, scan_inputs, value_and_gradients, assert_same):
    inputs = scan_inputs(**shape)
    actual = value_and_gradients(torch_backend, inputs, delta_softplus=True)
    assert_same(actual, value_and_gradients(selective_scan_ref, inputs, delta_softplus=True), rtol=0, atol=0)
    assert actual["last"].shape == (inputs["u"].shape[0], 6, 5)


@pytest.mark.parametrize("length", [64, 512])
def test_memory_kept_for_backward_does_not_grow_with_the_state(length, scan_inputs):
    """States of all steps would be L * N * D * S; the graph may hold a few inputs' worth and a state a chunk."""
    saved: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    batch, channels, state = 1, 16, 64
    inputs = scan_inputs(length, batch, channels, state, dtype=torch.float32)
    leaves = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        torch_backend(**leaves, delta_softplus=True)
    sequences = 4 * length * batch * channels  # bytes of one (N, D, L) tensor
    matrices = 4 * length * batch * state  # of B or C
    chunks = -(-length // torch_chunks.chunk_steps(inputs["A"]))
    states = 4 * chunks * batch * channels * state
    assert sum(saved.values()) <= 10 * sequences + 4 * matrices + 2 * states
    assert sum(saved.values()) < sequences * state / 2
