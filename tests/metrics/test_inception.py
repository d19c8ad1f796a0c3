import pytest
import torch

from monai_mamba_gen.metrics import InceptionV3, InceptionV3Features, TorchFidelityFeatures, inception
from monai_mamba_gen.metrics.inception_v3 import _pool
from monai_mamba_gen.metrics.weights import file_sha256
from monai_mamba_gen.utils.errors import DataError


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file like the published one: same keys and shapes, random values."""
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    state = InceptionV3().state_dict()
    torch.save(state | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, path)
    return path


def test_keys_and_size_are_those_of_the_published_network():
    network = InceptionV3()
    state = network.state_dict()
    # torchvision's Inception-v3 without auxiliary classifier has 23_834_568 parameters, 2_049_000 of them in `fc`.
    assert sum(parameter.numel() for parameter in network.parameters()) == 23_834_568 - 2_049_000
    assert state["Conv2d_1a_3x3.conv.weight"].shape == (32, 3, 3, 3)
    assert state["Mixed_5b.branch5x5_2.conv.weight"].shape == (64, 48, 5, 5)
    assert state["Mixed_6b.branch7x7dbl_5.conv.weight"].shape == (192, 128, 1, 7)
    assert state["Mixed_7c.branch3x3dbl_3b.bn.running_var"].shape == (384,)
    assert len(state) == 564


def test_pooling_of_the_2015_graph():
    ones = torch.ones(1, 1, 4, 4)
    assert torch.equal(_pool(ones, "average"), ones)  # padding counted in would give 4/9 in the corners
    network = InceptionV3()
    pools = {name: getattr(network, name).pool for name in ("Mixed_7b", "Mixed_7c")}
    assert pools == {"Mixed_7b": "average", "Mixed_7c": "max"}


def test_only_the_published_file_makes_a_fid(weights, monkeypatch):
    extractor = InceptionV3Features(weights)
    assert extractor.distance_label == "Frechet distance"
    assert extractor.name.startswith("Inception-v3 (weights ")
    assert extractor(torch.zeros(1, 1, 32, 32)).shape == (1, 2048)
    monkeypatch.setattr(inception, "PUBLISHED_SHA256", file_sha256(weights))
    assert InceptionV3Features(weights).distance_label == "FID"


def test_each_fault_of_the_file_is_one_line(weights, tmp_path):
    with pytest.raises(DataError, match=r"none\.pth: no such file"):
        InceptionV3Features(tmp_path / "none.pth")
    with pytest.raises(DataError, match="sha256 is .*, expected 6726825d"):
        InceptionV3Features(weights, sha256=inception.PUBLISHED_SHA256)
    path = tmp_path / "other.pth"
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(DataError, match=r"564 keys missing|keys missing \(first: Conv2d_1a_3x3.conv.weight\)") as error:
        InceptionV3Features(path)
    assert "\n" not in str(error.value)
    torch.save({"fc.weight": torch.zeros(1000, 2048)}, path)
    with pytest.raises(DataError, match="torchvision's Inception-v3 weights"):
        InceptionV3Features(path)


def test_torch_fidelity_gets_only_the_published_file(weights):
    with pytest.raises(DataError, match="sha256 is .*, expected 6726825d"):
        TorchFidelityFeatures(weights)


def test_missing_torch_fidelity_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_fidelity", None)
    with pytest.raises(ImportError, match=r"monai_mamba_gen\[fidelity\]"):
        TorchFidelityFeatures()
