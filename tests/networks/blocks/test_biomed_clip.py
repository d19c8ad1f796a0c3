"""The image embedding on a stand-in for open_clip: what the tower is built as, given and answered."""

from __future__ import annotations

import json
import os
import pickle
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from monai_mamba_gen.networks.blocks import BiomedCLIPEmbedding
from monai_mamba_gen.utils import DataError


class Tower(nn.Module):
    """Stands in for open_clip's TimmModel: same arguments, a projection of the mean colours."""

    built: dict = {}

    def __init__(self, model_name, embed_dim, image_size=224, pool="avg", proj="linear", pretrained=False):
        super().__init__()
        type(self).built = {"model": model_name, "image_size": image_size, "pool": pool, "pretrained": pretrained}
        self.head = nn.Linear(3, embed_dim, bias=False)
        self.drop = nn.Dropout(0.5)

    def forward(self, images):
        self.seen = images
        return self.drop(self.head(images.mean((2, 3))))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    package, module = ModuleType("open_clip"), ModuleType("open_clip.timm_model")
    module.TimmModel = Tower
    monkeypatch.setitem(sys.modules, "open_clip", package)
    monkeypatch.setitem(sys.modules, "open_clip.timm_model", module)
    vision = {"timm_model_name": "vit_base_patch16_224", "timm_pool": "", "timm_proj": "linear", "image_size": 16}
    config = {"model_cfg": {"embed_dim": 512, "vision_cfg": vision}, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    weight = torch.randn(512, 3, generator=torch.Generator().manual_seed(0))
    state = {"visual.head.weight": weight, "text.proj.weight": torch.zeros(2), "logit_scale": torch.zeros(())}
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    return tmp_path


def test_slices_enter_as_they_are_and_nothing_is_trained(folder):
    embedding = BiomedCLIPEmbedding(folder).train()
    assert Tower.built == {"model": "vit_base_patch16_224", "image_size": 16, "pool": "", "pretrained": False}
    slices = torch.rand(3, 1, 16, 16) * 2 - 1
    answer = embedding(slices.requires_grad_())
    assert answer.shape == (3, 512) and not answer.requires_grad
    assert torch.equal(embedding.visual.seen, slices.expand(-1, 3, -1, -1))
    assert torch.equal(answer, embedding(slices)), "no dropout, though training was asked for"
    assert not any(parameter.requires_grad for parameter in embedding.parameters())
    torch.testing.assert_close(answer, slices.mean((2, 3)).expand(-1, 3) @ embedding.visual.head.weight.T)
    assert torch.equal(BiomedCLIPEmbedding(folder / "open_clip_pytorch_model.bin")(slices), answer)


def test_clips_own_normalisation(folder):
    embedding = BiomedCLIPEmbedding(folder, clip_normalization=True)
    embedding(torch.full((1, 1, 16, 16), -1.0))
    expected = [-0.48145466 / 0.26862954, -0.4578275 / 0.26130258, -0.40821073 / 0.27577711]
    assert embedding.visual.seen[0, :, 3, 3].tolist() == pytest.approx(expected, rel=1e-6)


def test_other_sizes_are_squared_by_air_and_resized(folder):
    embedding = BiomedCLIPEmbedding(folder)
    assert embedding(torch.ones(2, 1, 20, 40)).shape == (2, 512)
    seen = embedding.visual.seen
    assert seen.shape == (2, 3, 16, 16) and float(seen.abs().max()) <= 1
    assert float(seen[:, :, :3].max()) < -0.8 and float(seen[:, :, 6:10].min()) > 0.8
    embedding(torch.ones(1, 1, 9, 3))
    assert float(embedding.visual.seen[..., :4].max()) < -0.8


def test_faults_of_the_file_are_one_line(folder):
    path = folder / "open_clip_pytorch_model.bin"
    with pytest.raises(DataError, match="no such file"):
        BiomedCLIPEmbedding(folder / "absent.bin")
    torch.save({"visual.head.weight": torch.zeros(512, 4)}, path)
    with pytest.raises(DataError, match=r"not BiomedCLIP: visual.head.weight is \(512, 4\) in the file"):
        BiomedCLIPEmbedding(folder)
    path.write_bytes(pickle.dumps({"visual.head.weight": os.getcwd}))
    with pytest.raises(DataError, match="is refused: it holds other things than weights"):
        BiomedCLIPEmbedding(folder)
    torch.save([1], path)
    with pytest.raises(DataError, match="holds a list, not a state dict"):
        BiomedCLIPEmbedding(folder)
    (folder / "open_clip_config.json").write_text('{"model_cfg": {}}')
    with pytest.raises(DataError, match="is not a configuration of open_clip"):
        BiomedCLIPEmbedding(folder)


def test_the_published_settings_without_a_configuration(folder):
    (folder / "open_clip_config.json").unlink()
    assert BiomedCLIPEmbedding(folder).image_size == 224


def test_missing_open_clip_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip.timm_model", None)
    with pytest.raises(ImportError, match=r"monai_mamba_gen\[clip\]"):
        BiomedCLIPEmbedding(folder)
