"""Tests of the layout of images in memory."""

from __future__ import annotations

import pytest
import torch

from monai_mamba_gen.networks.blocks import arrange_for_convolution
from monai_mamba_gen.networks.blocks.memory_layout import uses_onednn
from monai_mamba_gen.networks.nets import VMDDPM

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@needs_onednn
@pytest.mark.parametrize(("channels", "last"), [(48, True), (128, True), (192, False)])
@pytest.mark.parametrize("before", [torch.contiguous_format, torch.channels_last])
def test_few_channels_go_last_and_many_first(channels, last, before):
    image = torch.randn(2, 6, 4, 3).contiguous(memory_format=before)
    arranged = arrange_for_convolution(image, channels)
    assert torch.equal(arranged, image)
    assert arranged.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@needs_onednn
def test_nothing_is_copied_where_the_layout_fits():
    image = torch.randn(2, 6, 4, 3)
    last = image.contiguous(memory_format=torch.channels_last)
    assert arrange_for_convolution(image, 192).data_ptr() == image.data_ptr()
    assert arrange_for_convolution(last, 48).data_ptr() == last.data_ptr()


@pytest.mark.parametrize("image", [torch.randn(1, 2, 3, 4).double(), torch.empty(1, 2, 3, 4, device="meta")])
def test_other_tensors_stay_as_they_are(image):
    assert not uses_onednn(image)
    assert arrange_for_convolution(image, 48) is image


def test_network_works_under_vmap():
    torch.manual_seed(0)
    network = VMDDPM(channels=(8, 16), layers_per_stage=1, stem_stride=2, sequence_regeneration="off")
    images, times = torch.randn(2, 1, 16, 16), torch.tensor([3, 700])
    one_by_one = torch.func.vmap(lambda image, time: network(image[None], time[None])[0])(images, times)
    torch.testing.assert_close(one_by_one, network(images, times), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_network_gives_the_same_in_either_layout(monkeypatch, memory_format):
    torch.manual_seed(0)
    network = VMDDPM(channels=(8, 16), layers_per_stage=1, stem_stride=2, sequence_regeneration="off")
    image = torch.randn(2, 1, 20, 12).contiguous(memory_format=memory_format)
    results = []
    for most in (0, 8, 16):
        monkeypatch.setattr("monai_mamba_gen.networks.blocks.memory_layout._MOST_CHANNELS_LAST", most)
        output = network(image, timesteps=torch.tensor([3, 700]))
        gradients = torch.autograd.grad(output.square().mean(), list(network.parameters()))
        results.append([output.detach(), *gradients])
    for result in results[1:]:
        for one, other in zip(result, results[0], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
