"""Every bundle folder: its files, the names in its configs, MONAI's own checks, and what its metadata promises."""

from __future__ import annotations

import ast
import json
import pydoc
import re

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

import monai_mamba_gen

CINE, DIFFMA = "acdc_cine_mstg_synthesis", "synthrad2023_ct2mr_diffma_synthesis"
SMALLEST = {CINE: "tiny", DIFFMA: "tiny/2"}  # presets; of VM-DDPM "micro"
CONFIGS = ("metadata", "train", "inference", "evaluate", "multi_gpu_train", "multi_gpu_inference", "demo")
OVER = {"multi_gpu_inference": ("inference",), "evaluate_folder": ("train", "evaluate")}
FILES = ("LICENSE", "configs/logging.conf", "docs/README.md", "docs/data_license.txt")
REQUIRED_METADATA = (
    "schema version changelog monai_version pytorch_version numpy_version required_packages_version task description "
    "authors copyright network_data_format name intended_use data_source references"
).split()
OURS = ("monai.", "torch.", "ignite.", "monai_mamba_gen.")
ABSOLUTE = re.compile(r"(?<![\w.)'\"])/\w|[A-Za-z]:\\|~/|/(home|tmp|mnt|data|Users)\b")

# What a "$" expression may hold: names, attributes, literals, sums, comparisons, calls; no lambda, no comprehension.
PLAIN_SYNTAX = (
    ast.Expression,
    ast.Name,
    ast.Attribute,
    ast.Constant,
    ast.List,
    ast.Tuple,
    ast.Load,
    ast.Subscript,
    ast.BinOp,
    ast.Add,
    ast.Mult,
    ast.FloorDiv,
    ast.Compare,
    ast.Gt,
    ast.Eq,
    ast.NotEq,
    ast.In,
    ast.IfExp,
    ast.Call,
    ast.keyword,
)
PLAIN_CALLS = re.compile(
    r"(monai|torch|monai_mamba_gen|operator)(\.\w+)+|str|len|list|range|str\(\w+\)\.lower|\w+\.(to|parameters|run|finish)"
)


def read(bundle, name):
    return json.loads((bundle / "configs" / f"{name}.json").read_text(encoding="utf-8"))


def merged(bundle, name):
    """Return a config as it is used: by itself, over those that OVER names, or over the train.json of its stage."""
    parser = ConfigParser()
    alone = name == "inference" or "train" in (own := read(bundle, name)) and "trainer" in own["train"]
    base = "train_autoencoder" if name.startswith("train_autoencoder") else "train"
    files = [name] if alone else [*OVER.get(name, (base,)), name]
    parser.read_config([str(bundle / "configs" / f"{file}.json") for file in files])
    parser.read_meta(str(bundle / "configs" / "metadata.json"))
    return parser


def nodes(tree, path=""):
    """Yield (id, value) of every node of a config."""
    yield path, tree
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from nodes(value, f"{path}#{key}" if path else str(key))


def smallest(bundle):
    return SMALLEST.get(bundle.name, "micro")


def strings(tree):
    return [(path, value) for path, value in nodes(tree) if isinstance(value, str)]


def test_there_are_bundles(request):
    assert (request.config.rootpath / "bundles" / "acdc_slices_vm_ddpm_synthesis" / "configs").is_dir()


def test_files(bundle):
    missing = [name for name in FILES if not (bundle / name).is_file()]
    missing += [f"{name}.json" for name in CONFIGS if not (bundle / "configs" / f"{name}.json").is_file()]
    assert not missing and (bundle / "models").is_dir()
    assert not list(bundle.rglob("*.py"))
    assert "Apache License" in (bundle / "LICENSE").read_text()


def test_no_other_weights_than_monai_label_would_take(bundle):
    """MONAI Label loads the ``*.pt`` with the shortest name."""
    names = sorted((path.name for path in (bundle / "models").glob("*.pt")), key=len)
    assert not names or names[0] == "model.pt"


def test_targets_are_full_dotted_paths_that_exist(bundle, any_config):
    targets = [value for path, value in nodes(read(bundle, any_config)) if path.endswith("_target_")]
    for target in targets:
        assert target.startswith(OURS), target
        assert callable(pydoc.locate(target)), f"{target} does not exist"


def test_no_absolute_paths(bundle, any_config):
    found = [value for _, value in strings(read(bundle, any_config)) if "://" not in value and ABSOLUTE.search(value)]
    assert not found


@pytest.mark.parametrize("text", ["/data/acdc", "$'/tmp/x'", "~/acdc", "C:\\acdc", "a /home/me"])
def test_absolute_paths_would_be_found(text):
    assert ABSOLUTE.search(text)


def plain(expression):
    """Return what is not plain about an expression, None when it is."""
    source = re.sub(r"@([\w#]+)", lambda match: "ref_" + match[1].replace("#", "_"), expression.removeprefix("$"))
    if re.fullmatch(r"import [\w.]+", source):
        return None
    for node in ast.walk(ast.parse(source, mode="eval")):
        if not isinstance(node, PLAIN_SYNTAX):
            return type(node).__name__
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            return node.attr
        if isinstance(node, ast.Call) and not PLAIN_CALLS.fullmatch(ast.unparse(node.func)):
            return ast.unparse(node.func)
    return None


def test_expressions_are_plain(bundle, any_config):
    found = {path: (value, plain(value)) for path, value in strings(read(bundle, any_config)) if value.startswith("$")}
    assert not {path: each for path, each in found.items() if each[1]}


@pytest.mark.parametrize(
    "text", ["$lambda x: x", "$__import__('os').system('x')", "$[x for x in @a]", "$open('a')", "$().__class__"]
)
def test_other_expressions_would_be_found(text):
    assert plain(text)


def test_every_reference_resolves(bundle, any_config):
    parser = merged(bundle, any_config)
    for path, value in strings(parser.get()):
        for reference in re.findall(r"@([A-Za-z_]\w*(?:(?:#|::)\w+)*)", value) if value.startswith(("$", "@")) else ():
            assert reference.replace("::", "#") in parser, f"{path}: @{reference}"


@pytest.mark.parametrize(
    ("name", "run_id"),
    [("train", "training"), ("inference", "inferring"), ("evaluate", "evaluating")],
)
def test_run_and_its_name(bundle, name, run_id):
    parser = merged(bundle, name)
    for key in ("bundle_root", "output_dir", "dataset_dir", "device", "network_def"):
        assert key in parser
    assert parser["dataset_dir"] == "" and parser["bundle_root"] == "."
    parser.parse()
    assert parser["run"] and parser[run_id] == parser["run"]


def check_properties(bundle, kind, *names, **overrides):
    """Return what MONAI finds missing or misnamed; it builds every object, so data and weights have to be there."""
    workflow = ConfigWorkflow(
        config_file=[str(bundle / "configs" / f"{name}.json") for name in names],
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        **overrides,
    )
    workflow.initialize()
    assert workflow.version == read(bundle, "metadata")["version"]
    return workflow.check_properties()


def test_properties_of_monais_train_workflow(bundle, tmp_path, pairs):
    overrides = {"bundle_root": str(tmp_path)}
    if bundle.name == DIFFMA:  # the demo's autoencoder takes a training of its own
        overrides |= {"latent_mode": "pixel", "dataset_dir": str(pairs), "region": "brain", "batch_size": 4}
    assert check_properties(bundle, "train", "train", "demo", **overrides) == []


def test_properties_of_the_stages_before(run, pairs, autoencoder, tmp_path):
    overrides = {**run.diffma_tiny, "bundle_root": str(tmp_path), "dataset_dir": str(pairs)}
    assert check_properties(run.diffma, "train", "train_autoencoder", **overrides) == []
    overrides["autoencoder_weights"] = str(autoencoder / "models" / "autoencoder.pt")
    assert check_properties(run.diffma, "train", "train_embedder", **overrides) == []


def test_properties_of_monais_infer_workflow(bundle, tmp_path, beats, pairs):
    overrides = {"bundle_root": str(tmp_path), "weights": str(tmp_path / "model.pt")}
    if bundle.name == CINE:
        overrides["dataset_dir"] = str(beats)
    if bundle.name == DIFFMA:
        overrides |= {"dataset_dir": str(pairs), "latent_mode": "pixel", "preset": smallest(bundle)}
        overrides["image_size"] = [32, 32]
    parser = merged(bundle, "inference")
    parser.update(overrides)
    torch.save(parser.get_parsed_content("network_def").state_dict(), tmp_path / "model.pt")
    assert check_properties(bundle, "infer", "inference", **overrides) == []


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_handler_lists_hold_dictionaries(bundle, name):
    """MONAI's checks, its federated client and MONAI Label look into each handler's ``_target_``."""
    config = merged(bundle, name).get()
    for part in ("train", "validate"):
        assert all("_target_" in handler for handler in config[part]["handlers"])


def test_metadata(bundle):
    metadata = read(bundle, "metadata")
    assert not [key for key in REQUIRED_METADATA if not metadata.get(key)]
    assert metadata["version"] in metadata["changelog"]
    assert metadata["required_packages_version"]["monai_mamba_gen"] == monai_mamba_gen.__version__
    assert "optional_packages_version" not in metadata
    data_format = metadata["network_data_format"]
    assert next(iter(data_format["inputs"])) == "image" and next(iter(data_format["outputs"])) == "pred"
    for tensor in (*data_format["inputs"].values(), *data_format["outputs"].values()):
        assert {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range"} <= tensor.keys()
        assert all(key.isdigit() for key in tensor.get("channel_def", {}))


def test_defaults_of_metadata_and_configs_agree(bundle, tmp_path):
    """Training, generation and metadata speak of one network and one image size."""
    train, inference, metadata = (read(bundle, name) for name in ("train", "inference", "metadata"))
    inference |= {"bundle_root": str(tmp_path)}  # without weights, which may bring settings of their own
    for config in (train, inference):
        asked = [key for key, value in config.items() if isinstance(value, str) and "trained_setting" in value]
        config |= {key: ConfigParser(config).get_parsed_content(key) for key in asked}
    assert train["image_size"] == inference["image_size"]
    # DiffMa's network works on latents
    volume = metadata["volume_data_format" if bundle.name == DIFFMA else "network_data_format"]
    shape = volume["inputs"]["image"]["spatial_shape"]
    assert inference["image_size"] == (shape[:2] if bundle.name == DIFFMA else shape)
    networks = []
    for config in (train, inference):
        parser = ConfigParser(config | {"preset": smallest(bundle)})
        networks.append(parser.get_parsed_content("network_def"))
    first, second = (network.state_dict() for network in networks)
    assert {name: value.shape for name, value in first.items()} == {name: value.shape for name, value in second.items()}
    assert train["sampling_scheduler"] == inference["sampling_scheduler"]
    keys = ["num_inference_steps", "num_train_timesteps", "preset", "prediction_type"]
    keys += {
        CINE: ["model", "pixdim", "percentiles", "code_channels", "deformation_channels", "integration_steps"]
        + ["phase_path", "num_frames", "network_def", "val_fraction", "seed"],
        DIFFMA: ["model", "pixdim", "ct_window", "mr_percentiles", "latent_mode", "autoencoder_def", "latent_space_def"]
        + ["latent_space", "autoencoder_settings", "scan_order", "network_def", "image_embedder", "sampler", "region"]
        + ["learn_sigma", "concat_context", "slice_position", "unet_channels", "guidance_scale", "slice_batch"]
        + ["shared_noise", "val_fraction", "seed", "direction"],
    }.get(bundle.name, ["sampler", "sequence_regeneration"])
    assert [train[key] for key in keys] == [inference[key] for key in keys]
    assert (
        train["noise_scheduler"].items()
        >= {key: value for key, value in train["sampling_scheduler"].items() if key not in ("_target_", "name")}.items()
    )


def test_reading_a_config_needs_no_gpu_name(bundle):
    """MONAI Label overwrites ``device`` with a string, so no expression may ask it for attributes."""
    for _, value in strings(read(bundle, "inference")):
        assert not re.search(r"@device\.\w", value)
    assert isinstance(ConfigParser({"imports": ["$import monai_mamba_gen.utils"]}).get(), dict)
    parser = merged(bundle, "inference")
    parser["device"], parser["preset"] = "cpu", smallest(bundle)
    assert isinstance(parser.get_parsed_content("network"), torch.nn.Module)
