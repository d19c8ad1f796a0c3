"""What bundles have in common is the same in all of them: the configs of a family, and what every bundle has."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

SCRIPT = Path(__file__).with_name("family.py")
FAMILY = runpy.run_path(str(SCRIPT))
MASTER = FAMILY["MASTER"]
MEMBERS = sorted(path.stem for path in FAMILY["DIFFERENCES"].glob("*.json"))
PINNED = ("schema", "monai_version", "pytorch_version", "numpy_version")
MULTI_GPU = ("multi_gpu_train", "multi_gpu_inference")

every_vm_ddpm = pytest.mark.parametrize("name", [MASTER, *MEMBERS])


def read(bundle: Path, name: str) -> dict:
    return json.loads((bundle / "configs" / f"{name}.json").read_text(encoding="utf-8"))


def test_configs_of_the_family_are_those_of_the_master_with_their_differences():
    assert FAMILY["outdated"](FAMILY["family"]()) == [], "run python tests/bundles/family.py"
    assert MEMBERS == ["brats2018_slices_vm_ddpm_synthesis", "chestxray14_vm_ddpm_synthesis"]


def test_every_vm_ddpm_bundle_is_of_the_family(run):
    assert sorted(path.name for path in run.bundles if "vm_ddpm" in path.name) == sorted([MASTER, *MEMBERS])


def test_the_masters_configs_are_written_as_the_script_writes(run):
    for path in (run.acdc / "configs").glob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert FAMILY["write"](json.loads(text)) == text, path.name


@pytest.fixture
def copies(tmp_path):
    """The family in a folder of its own, to be harmed."""
    for name in (MASTER, *MEMBERS):
        shutil.copytree(FAMILY["BUNDLES"] / name / "configs", tmp_path / "bundles" / name / "configs")
    shutil.copytree(FAMILY["DIFFERENCES"], tmp_path / "family")
    return tmp_path


def test_an_edit_by_hand_a_missing_and_a_left_over_config_are_noticed(copies):
    def changed():
        files = FAMILY["family"](copies / "bundles", copies / "family")
        return sorted(path.name for path in FAMILY["outdated"](files))

    assert changed() == []
    configs = copies / "bundles" / MEMBERS[0] / "configs"
    (configs / "train.json").write_text((configs / "train.json").read_text().replace("0.0001", "0.0002"))
    (configs / "demo.json").unlink()
    (configs / "old.json").write_text("{}")
    assert changed() == ["demo.json", "old.json", "train.json"]
    master = copies / "bundles" / MASTER / "configs"
    (master / "evaluate.json").write_text((master / "evaluate.json").read_text().replace("1000", "500"))
    assert changed() == ["demo.json", "evaluate.json", "evaluate.json", "old.json", "train.json"]


def test_the_script_writes_and_checks(run, copies):
    """The commands of its description; --check changes nothing."""
    (copies / "tests" / "bundles").mkdir(parents=True)
    shutil.move(copies / "family", copies / "tests" / "bundles")
    script = shutil.copy(SCRIPT, copies / "tests" / "bundles")
    configs = copies / "bundles" / MEMBERS[1] / "configs"
    (configs / "demo.json").write_text("{}")
    result = run.command(script, "--check", cwd=copies)
    assert result.code == 1 and result.out == f"{MEMBERS[1]}/configs/demo.json\n"
    assert (configs / "demo.json").read_text() == "{}"
    assert run.command(script, cwd=copies).code == 0
    assert (configs / "demo.json").read_bytes() == (FAMILY["BUNDLES"] / MEMBERS[1] / "configs/demo.json").read_bytes()
    assert run.command(script, "--check", cwd=copies).code == 0
    assert run.command(script, "--unknown", cwd=copies).code == 2


TREE = {"a": 1, "b": {"c": [10, {"d": 2}, 30], "e": 3}, "f": 4}


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ({}, TREE),
        ({"set": {"b#c#1#d": 5, "f": [1]}}, {"a": 1, "b": {"c": [10, {"d": 5}, 30], "e": 3}, "f": [1]}),
        ({"remove": ["b#c#0", "a"]}, {"b": {"c": [{"d": 2}, 30], "e": 3}, "f": 4}),
        ({"add": {"a": {"x": 0}, "b#c#0": [11, 12]}}, {**TREE, "x": 0, "b": {"c": [10, 11, 12, {"d": 2}, 30], "e": 3}}),
        # what is added behind an item that goes takes its place, and ids stay those of the master
        (
            {"remove": ["b#c#0"], "add": {"b#c#0": [7]}, "set": {"b#c#2": 8}},
            {**TREE, "b": {"c": [7, {"d": 2}, 8], "e": 3}},
        ),
    ],
)
def test_differences(differences, expected):
    before = json.dumps(TREE)
    assert FAMILY["derive"](TREE, differences) == expected
    assert json.dumps(TREE) == before


def test_what_is_added_stands_behind_its_neighbour():
    assert list(FAMILY["derive"](TREE, {"add": {"a": {"x": 0, "y": 1}}})) == ["a", "x", "y", "b", "f"]


@pytest.mark.parametrize(
    ("differences", "message"),
    [
        ({"set": {"b#g": 1}}, "not in the master: b#g"),
        ({"remove": ["b#c#3"]}, "not in the master: b#c#3"),
        ({"add": {"g": {"x": 1}}}, "not in the master: g"),
        ({"set": {"b": {}, "b#e": 1}}, "not in the master: b#e"),  # swallowed by a difference above it
        ({"set": {"a": 2}, "remove": ["a"]}, "removed and set, or removed twice: a"),
        ({"remove": ["a", "a"]}, "removed and set, or removed twice: a"),
        ({"add": {"a": {"f": 1}}}, "a key is given twice: f"),
        ({"add": {"a": [1]}}, "a list cannot be added to a dict"),
        ({"replace": {"a": 1}}, "replace: expected"),
        ({"remove": {"a": 1}}, "remove: expected"),
    ],
)
def test_differences_that_do_not_fit_are_refused(differences, message):
    with pytest.raises(ValueError, match=message):
        FAMILY["derive"](TREE, differences)


def test_differences_of_a_config_that_the_master_lacks_are_refused(copies):
    path = copies / "family" / f"{MEMBERS[0]}.json"
    path.write_text(json.dumps({"inferense": {}}))
    with pytest.raises(ValueError, match="the master has no inferense.json"):
        FAMILY["family"](copies / "bundles", copies / "family")
    path.write_text(json.dumps({"demo": {"remove": ["nothing"]}}))
    with pytest.raises(ValueError, match=f"{MEMBERS[0]}.json, demo: not in the master: nothing"):
        FAMILY["family"](copies / "bundles", copies / "family")


@every_vm_ddpm
def test_inference_repeats_what_training_says(run, name):
    """inference.json has to stand alone, so the network and the noise schedule are in both."""
    bundle = run.bundles[0].parent / name
    train, inference = read(bundle, "train"), read(bundle, "inference")
    network = {key: value for key, value in train["network_def"].items() if key != "use_checkpoint"}
    assert inference["network_def"] == network and inference["network"] == train["network"]
    assert inference["sampling_scheduler"] == train["sampling_scheduler"]
    for key in ("_target_", "scheduler", "class_label", "guidance_scale"):
        assert inference["inferer"][key] == train["sampling_inferer"][key], key
    for key in ("sampler", "num_inference_steps", "class_label", "guidance_scale", "percentiles"):
        assert inference[key] == train[key], key
    assert inference["model_settings"].items() <= train["model_settings"].items()


@every_vm_ddpm
@pytest.mark.parametrize("config", ["inference", "evaluate"])
def test_settings_come_from_the_training_and_else_from_its_defaults(run, tmp_path, name, config):
    bundle = run.bundles[0].parent / name
    train = ConfigParser(read(bundle, "train"))
    given = read(bundle, config) if config == "inference" else read(bundle, "train") | read(bundle, config)
    settings = [key for key, value in given.items() if "trained_setting" in str(value)]
    assert set(settings) == set(train["model_settings"].keys()), "what is noted is read again, and nothing else"

    def value_of(key):
        parser = ConfigParser(read(bundle, "train") | read(bundle, config))
        parser.update({"weights": str(tmp_path / "model.pt"), "ckpt_dir": str(tmp_path)})
        return parser.get_parsed_content(key)

    assert {key: value_of(key) for key in settings} == {key: train.get_parsed_content(key) for key in settings}
    trained = {"preset": "micro", "image_size": [8, 8], "num_class_embeds": 3, "prediction_type": "sample"}
    (tmp_path / "model.json").write_text(json.dumps(trained))
    assert {key: value_of(key) for key in trained} == trained


def test_all_bundles_have_the_same_licence_and_logging(run):
    for name in ("LICENSE", "configs/logging.conf"):
        assert len({(bundle / name).read_bytes() for bundle in run.bundles}) == 1, name
    assert (run.bundles[0] / "LICENSE").read_bytes() == (run.bundles[0].parents[1] / "LICENSE").read_bytes()


def test_all_bundles_name_the_same_versions(run):
    """A bundle may need more packages than another, but not another version of one."""
    pinned: dict[str, set[str]] = {}
    for metadata in (read(bundle, "metadata") for bundle in run.bundles):
        for name, version in [(key, metadata[key]) for key in PINNED] + [
            *metadata["required_packages_version"].items()
        ]:
            pinned.setdefault(name, set()).add(version)
    assert {name: versions for name, versions in pinned.items() if len(versions) > 1} == {}


@pytest.mark.parametrize("config", MULTI_GPU)
@pytest.mark.parametrize("key", ["initialize", "finalize"])
def test_all_bundles_enter_and_leave_the_process_group_alike(run, config, key):
    found = [read(bundle, config) for bundle in run.bundles if (bundle / "configs" / f"{config}.json").is_file()]
    if not found:
        pytest.skip(f"no bundle has {config}.json")
    assert len(found) == len(run.bundles), f"some bundles lack {config}.json"
    assert all(content.get(key) == found[0].get(key) for content in found)


@pytest.mark.parametrize("config", ["train", "inference", "evaluate"])
def test_all_bundles_start_and_end_a_run_alike(run, config):
    """A bundle may do more at the start, such as train a stage before."""
    master, contents = read(run.acdc, config), [read(bundle, config) for bundle in run.bundles]
    for content in contents:
        assert [line for line in content["initialize"] if line in master["initialize"]] == master["initialize"]
        assert content.get("finalize") == master.get("finalize")
