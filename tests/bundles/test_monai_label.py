"""
MONAI Label with every bundle, without its server: by its own tasks where it is installed, and by a replay of them.

The replay does with plain MONAI, step by step, what MONAI Label 0.8.5 does with a bundle. ``tests/label/serve.py`` asks
the real server.
"""

from __future__ import annotations

import json
import shutil

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, Resize

from monai_mamba_gen.utils import root_cause
from tests.label.cases import CASES, copy_bundle


def replayed_load(loader, data):
    """LoadImageTensord: all keys of the bare LoadImaged must be there; metadata come as a second entry."""
    for key in loader.keys:
        assert isinstance(data[key], str)
    loader._loader.image_only = False
    return loader(data)


def replayed_restore(data):
    """Restored: resized where the spatial shape is another, a channel of 1 dropped from volumes, the file's affine."""
    meta, pred = data["image"].meta, data["pred"]
    current = pred.shape[1:]
    wanted = meta.get("spatial_shape", current)[-len(current) :]
    if np.any(np.not_equal(current, wanted)):
        pred = Resize(spatial_size=wanted, mode="nearest")(pred)
    pred = pred[0] if pred.ndim > 3 and pred.shape[0] == 1 else pred
    return pred, meta.get("original_affine")


class ReplayedInfer:
    """BundleInferTask."""

    def __init__(self, root):
        self.parser = ConfigParser()
        self.parser.read_config(root / "configs" / "inference.json")
        self.parser.config.update({"bundle_root": str(root)})
        self.parser.config["use_click"] = False
        self.network = self.parser.get_parsed_content("network_def", instantiate=True)
        (path, *_) = sorted((root / "models").glob("*.pt"), key=lambda each: len(each.name))
        self.network.load_state_dict(torch.load(path), strict=False)
        self.network.eval()
        self.displayable = self.parser.get_parsed_content("displayable_configs", instantiate=True)
        json.dumps(self.displayable)  # the server tells its clients

    def __call__(self, path, params):
        """Return array and affine as the writer gets them, and the JSON of the answer."""
        data = {"device": "cpu", "model_filename": ["model.pt"], **self.displayable, **params}
        data |= {"model": "m", "description": "d", "image": str(path), "image_path": str(path)}
        self.parser["displayable_configs"].update({key: data[key] for key in self.displayable})
        self.parser.parse()
        self.parser["device"] = "cpu"
        for transform in self._transforms("preprocessing"):
            data = replayed_load(transform, data) if isinstance(transform, LoadImaged) else transform(data)
        with torch.no_grad():
            inferer = self.parser.get_parsed_content("inferer", instantiate=True)
            data["pred"] = inferer(data["image"][None].to(torch.device("cpu")), self.network)[0]
        for transform in self._transforms("postprocessing"):
            data = transform(data)
        pred, affine = replayed_restore(data)
        answer = {**data.get("result", {}), "label_names": {}}
        json.dumps(answer)
        return (pred.array if isinstance(pred, MetaTensor) else np.asarray(pred)), affine, answer

    def _transforms(self, key):
        found = self.parser.get_parsed_content(key, instantiate=True)
        return list(found.transforms) if isinstance(found, Compose) else found


class RealInfer:
    """MONAI Label's own task, without its writer."""

    def __init__(self, root):
        from monailabel.tasks.infer.bundle import BundleInferTask

        self.task = BundleInferTask(str(root), {})
        assert self.task.is_valid()

    def __call__(self, path, params):
        _, data = self.task({"device": "cpu", "model": "m", "image": str(path), "skip_writer": True, **params})
        pred = data["pred"]
        array = pred.array if isinstance(pred, MetaTensor) else np.asarray(pred)
        return array, data["pred_meta_dict"]["affine"], data["result"]


def replayed_train(root, items):
    """BundleTrainTask: the weights are loaded by a handler put first, the data set's list is replaced."""
    config = ConfigParser.load_config_file(root / "configs" / "train.json")
    loader = {"_target_": "CheckpointLoader", "load_path": str(root / "models" / "model.pt"), "strict": False}
    handlers = [{**loader, "load_dict": {"model": "$@network"}}, *config["train"]["handlers"]]
    overrides = {"bundle_root": str(root), "device": "cpu", "train#trainer#max_epochs": 1, "train#handlers": handlers}
    overrides |= {"train#dataset#data": items[:-1], "validate#dataset#data": items[-1:]}
    monai.bundle.run(
        run_id="run",
        init_id=None,
        final_id=None,
        meta_file=str(root / "configs" / "metadata.json"),
        config_file=str(root / "configs" / "train.json"),
        **overrides,
    )


def real_train(root, items):
    from types import SimpleNamespace

    from monailabel.tasks.train.bundle import BundleTrainTask

    request = {"model": root.name, "device": "cpu", "max_epochs": 1, "val_split": 0.25}
    BundleTrainTask(str(root), {})(request, SimpleNamespace(datalist=lambda: items))


def need_label(kind):
    if kind == "monailabel":
        pytest.importorskip("monailabel.tasks.infer.bundle", reason="MONAI Label needs an environment of its own")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return a function that gives a bundle's studies and a copy of it with a tiny network and random weights."""
    made = {}

    def prepare(bundle):
        if bundle.name not in made:
            case, folder = CASES[bundle.name], tmp_path_factory.mktemp(bundle.name)
            case.write(folder / "studies", folder / "phantoms")
            root = copy_bundle(bundle, folder / bundle.name, case.tiny)
            made[bundle.name] = case, folder / "studies", root
        return made[bundle.name]

    return prepare


def test_every_bundle_has_a_case(bundle):
    assert bundle.name in CASES


@pytest.mark.parametrize("kind", ["replay", "monailabel"])
def test_answers_lie_on_the_grid_of_the_image(bundle, kind, prepared, tmp_path, monkeypatch):
    need_label(kind)
    case, studies, root = prepared(bundle)
    monkeypatch.chdir(tmp_path)
    infer, made = (ReplayedInfer if kind == "replay" else RealInfer)(root), []
    for request in case.requests:
        path = studies / request.image
        if request.refused:
            with pytest.raises(Exception) as caught:  # noqa: PT011 - what the server's log shows is the first error
                infer(path, request.params)
            cause = root_cause(caught.value)
            assert isinstance(cause, ValueError) and "\n" not in str(cause)
            continue
        if request.same:
            continue  # sends the file instead of its name
        array, affine, answer = infer(path, request.params)
        asked = {key: value for key, value in request.params.items() if key in answer["settings"]}
        assert answer["synthetic"] is True and answer["settings"].items() >= asked.items()
        assert np.isfinite(array).all() and np.ptp(array) > 0
        assert not any(np.array_equal(array, other) for other in made)
        made.append(array)
        if path.suffix == ".png":  # a picture is written from bytes, without a geometry
            assert array.dtype == np.uint8 and array.ndim == 2
            continue
        source = nib.load(path)
        assert array.shape == (source.shape[:3] if len(source.shape) > 2 else (*source.shape, 1))
        # of two dimensions MONAI Label would write no geometry
        assert array.ndim == 3 and np.allclose(affine, source.affine, atol=1e-5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["replay", "monailabel"])
def test_training_goes_on_from_the_weights(bundle, kind, prepared, tmp_path, monkeypatch):
    need_label(kind)
    _, studies, root = prepared(bundle)
    shutil.copytree(root, tmp_path / root.name)
    root = tmp_path / root.name
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    labels = sorted((studies / "labels" / "final").iterdir())
    items = [{"image": str(studies / label.name), "label": str(label)} for label in labels]
    before = torch.load(root / "models" / "model.pt", weights_only=True)
    (replayed_train if kind == "replay" else real_train)(root, items)
    after = torch.load(root / "models" / "model.pt", weights_only=True)
    changes = [float((after[key] - before[key]).abs().max()) for key in before if before[key].is_floating_point()]
    assert 0 < max(changes) < 0.01
    assert len((root / "eval" / "history.jsonl").read_text().splitlines()) == 1
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("kind", ["replay", "monailabel"])
def test_training_takes_the_network_from_the_weights(run, kind, prepared, tmp_path, monkeypatch):
    """As with weights that are shipped: nobody says again in `train.json` what network it is."""
    need_label(kind)
    case, studies, prepared_root = prepared(run.chest)
    root = shutil.copytree(prepared_root, tmp_path / run.chest.name)
    config = json.loads((run.chest / "configs" / "train.json").read_text()) | {"batch_size": 4}
    (root / "configs" / "train.json").write_text(json.dumps(config))
    facts = {"preset": case.tiny["preset"], "image_size": [24, 24], "prediction_type": "v_prediction"}
    (root / "models" / "model.json").write_text(json.dumps(facts))
    monkeypatch.chdir(tmp_path)
    labels = sorted((studies / "labels" / "final").iterdir())
    items = [{"image": str(studies / label.name), "label": str(label)} for label in labels]
    before = torch.load(root / "models" / "model.pt", weights_only=True)
    (replayed_train if kind == "replay" else real_train)(root, items)
    after = torch.load(root / "models" / "model.pt", weights_only=True)
    assert 0 < max(float((after[key] - before[key]).abs().max()) for key in before) < 0.01
    assert json.loads((root / "models" / "model.json").read_text()).items() >= facts.items()


def test_strength_decides_how_much_of_the_image_stays(run, prepared):
    """An untrained network leaves noise; the less of it the lower the strength."""
    _, studies, root = prepared(run.acdc)
    infer, path = ReplayedInfer(root), studies / "case0.nii.gz"
    source = nib.load(path).get_fdata()[..., 2].ravel()
    likeness = []
    for strength in (0.2, 0.5, 1.0):
        array = infer(path, {"strength": strength, "num_inference_steps": 10})[0]
        assert (array[..., [0, 1, 3, 4]] == array[..., 0].min()).all()
        likeness.append(np.corrcoef(source, array[..., 2].ravel())[0, 1])
    assert likeness[0] > likeness[1] + 0.1 > likeness[2] + 0.2


def test_a_blank_image_gives_its_grid(run, prepared, tmp_path):
    _, _, root = prepared(run.acdc)
    path = tmp_path / "blank.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((30, 20), np.float32), np.diag([2.0, 2.0, 1.0, 1.0])), path)
    array, affine, _ = ReplayedInfer(root)(path, {})
    assert array.shape == (30, 20, 1) and -1 <= array.min() < array.max() <= 1
    assert np.allclose(affine, nib.load(path).affine)


def test_a_volume_without_movement_cannot_train_a_cine(run, prepared, tmp_path):
    """MONAI Label knows an image and a label; end systole has to come with the image, as a file of several frames."""
    _, studies, root = prepared(run.cine)
    items = [{"image": str(studies / f"volume{n}.nii.gz"), "label": str(studies / f"volume{n}.nii.gz")} for n in (0, 1)]
    with pytest.raises(Exception) as caught:  # noqa: PT011 - what the user reads is the innermost error
        replayed_train(root, items)
    assert "has 1 frame, and there is no 'target' for end systole" in str(root_cause(caught.value))
