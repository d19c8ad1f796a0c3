"""``--tracking mlflow`` works with every training, and shows samples; MLflow itself is stood for by a recorder."""

from __future__ import annotations

import json
from types import SimpleNamespace

import monai.handlers.mlflow_handler
import pytest
from monai.handlers import from_engine


class Client:
    """Stands for ``mlflow.MlflowClient``; all clients write into one store."""

    def __init__(self, store, artifacts) -> None:
        self.store, self.artifacts, self.tracking_uri = store, artifacts, "recorded:"

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id="0", lifecycle_stage="active")

    def search_runs(self, experiment_id):
        return self.store["runs"]

    def create_run(self, experiment_id, run_name):
        info = SimpleNamespace(run_id=len(self.store["runs"]), run_name=run_name, status="RUNNING")
        info.artifact_uri = self.artifacts
        data = SimpleNamespace(params={})
        self.store["runs"].append(SimpleNamespace(info=info, data=data))
        return self.store["runs"][-1]

    def get_run(self, run_id):
        return self.store["runs"][run_id]

    def log_batch(self, run_id, metrics, params, tags):
        self.store["metrics"] += [(run_id, name, float(value), step) for name, value, _, step in metrics]
        self.get_run(run_id).data.params |= dict(params)

    def log_metric(self, run_id, key, value, step=None):
        self.store["metrics"].append((run_id, key, float(value), step))

    def log_artifact(self, run_id, local_path, artifact_path=None):
        with open(local_path, "rb") as file:
            assert file.read(1), local_path
        name = local_path.replace("\\", "/").rpartition("/")[2]
        self.store["artifacts"].append((run_id, f"{artifact_path}/{name}" if artifact_path else name))

    def set_terminated(self, run_id, status):
        self.get_run(run_id).info.status = status


@pytest.fixture
def mlflow(monkeypatch, request):
    """Put the recorder in MLflow's place; give runs, metrics (run, name, value, step) and artifacts (run, path)."""
    artifacts = getattr(request, "param", "file:///artifacts")
    store = {"runs": [], "metrics": [], "artifacts": []}
    entities = SimpleNamespace(
        RunStatus=SimpleNamespace(FINISHED="FINISHED", to_string=str),
        LifecycleStage=SimpleNamespace(ACTIVE="active"),
        Param=lambda key, value: (key, value),
        Metric=lambda key, value, timestamp, step: (key, value, timestamp, step),
    )
    package = SimpleNamespace(MlflowClient=lambda tracking_uri=None: Client(store, artifacts), entities=entities)
    monkeypatch.setattr(monai.handlers.mlflow_handler, "mlflow", package)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return store


def names(store, run=0):
    return {name for number, name, _, _ in store["metrics"] if number == run}


def artifacts(store, run=0):
    found = {path for number, path in store["artifacts"] if number == run}
    return {path for path in found if not path.startswith("config_")}, {path for path in found if path.endswith("json")}


def train(run, request, kind, root, **settings):
    """Train one epoch with tracking and return the settings that scoring and generating share."""
    if kind == "acdc":
        bundle, tiny, data = run.acdc, run.tiny, request.getfixturevalue("phantoms")
    elif kind == "cine":
        bundle, tiny, data = run.cine, run.cine_tiny, request.getfixturevalue("beats")
    else:
        bundle, tiny, data = run.diffma, run.diffma_tiny, request.getfixturevalue("pairs")
        settings["autoencoder_weights"] = str(request.getfixturevalue("autoencoder") / "models" / "autoencoder.pt")
    shared = {"bundle_root": str(root), "dataset_dir": str(data), **settings}
    run.here(bundle, "training", "train", tracking="mlflow", **tiny, **shared)
    return bundle, shared


@pytest.mark.parametrize("kind", ["acdc", "cine", "diffma"])
def test_losses_metrics_settings_and_pictures_of_a_training(run, request, kind, mlflow, tmp_path):
    """The other bundles of slices are generated from the first."""
    train(run, request, kind, tmp_path)
    (tracked,) = mlflow["runs"]
    assert tracked.info.status == "FINISHED" and tracked.data.params["max_epochs"] == "1"
    assert {"train_loss", "val_loss", "lr_group_0"} <= names(mlflow)
    (line,) = [json.loads(text) for text in open(tmp_path / "eval" / "history.jsonl")]
    values = {(name, step): value for _, name, value, step in mlflow["metrics"]}
    losses = [values["train_loss", step] for step in range(1, line["iteration"] + 1)]
    assert sum(losses) / len(losses) == pytest.approx(line["train_loss"], rel=1e-6)
    assert values["val_loss", 1] == pytest.approx(line["val_loss"])
    pictures, configs = artifacts(mlflow)
    assert pictures == {"curve.png", "samples/epoch_0001.png"}
    assert len(configs) == 1, "the settings of the run"


@pytest.mark.parametrize("name", ["train_autoencoder", "train_embedder"])
def test_the_stages_of_diffma(run, name, pairs, request, mlflow, tmp_path):
    weights = str(tmp_path / "autoencoder.pt")
    if name == "train_embedder":
        weights = str(request.getfixturevalue("autoencoder") / "models" / "autoencoder.pt")
    settings = run.diffma_tiny | {"bundle_root": str(tmp_path), "dataset_dir": str(pairs)}
    run.here(run.diffma, "training", name, tracking="mlflow", autoencoder_weights=weights, **settings)
    assert {"train_loss", "lr_group_0"} <= names(mlflow) and artifacts(mlflow)[0] == {"curve.png"}


def test_scores_and_pictures_of_an_evaluation(run, request, extractor, mlflow, tmp_path):
    """The run ends with it, so that the next training opens its own."""
    bundle, shared = train(run, request, "acdc", tmp_path)
    settings = shared | run.tiny | {"num_samples": 4, "tracking": "mlflow"}
    run.here(bundle, "evaluating", "train", "evaluate", extra=extractor, **settings)
    assert [tracked.info.status for tracked in mlflow["runs"]] == ["FINISHED", "FINISHED"]
    assert {"frechet_distance", "kernel_distance", "ms_ssim_synthetic"} <= names(mlflow, run=1)
    assert artifacts(mlflow, run=1)[0] == {"report/real_vs_synthetic.png"}
    run.here(bundle, "inferring", "inference", num_samples=2, tracking="mlflow", **run.tiny_generation, **shared)
    assert artifacts(mlflow, run=2)[0] == {"synthetic/grid.png"}


@pytest.mark.parametrize("mlflow", ["file:///artifacts", "mlflow-artifacts:/0"], indirect=True)
def test_pictures_of_patients_stay_on_this_machine(run, request, mlflow, diffma_trained, pairs, tmp_path):
    weights = diffma_trained / "models"
    settings = run.diffma_tiny_inference | {"bundle_root": str(tmp_path), "dataset_dir": str(pairs)}
    settings |= {"weights": str(weights / "model.pt"), "autoencoder_weights": str(weights / "autoencoder.pt")}
    run.here(run.diffma, "evaluating", "train", "evaluate", tracking="mlflow", **settings)
    (tracked,) = mlflow["runs"]
    assert {"mae", "psnr", "ssim"} <= names(mlflow)
    pictures, _ = artifacts(mlflow)
    assert len(pictures) == (1 if tracked.info.artifact_uri.startswith("file:") else 0)


@pytest.mark.parametrize("kind", ["cine", "diffma"])
def test_settings_and_pictures_of_a_generation(run, request, kind, mlflow, tmp_path):
    models = request.getfixturevalue(f"{kind}_trained") / "models"
    settings = {"bundle_root": str(tmp_path), "weights": str(models / "model.pt"), "split": "validation"}
    settings["dataset_dir"] = str(request.getfixturevalue("beats" if kind == "cine" else "pairs"))
    if kind == "cine":
        settings |= run.cine_tiny_generation
    else:
        settings |= run.diffma_tiny_inference | {"autoencoder_weights": str(models / "autoencoder.pt")}
    run.here(getattr(run, kind), "inferring", "inference", tracking="mlflow", **settings)
    (tracked,) = mlflow["runs"]
    pictures, configs = artifacts(mlflow)
    assert tracked.info.status == "FINISHED" and pictures and len(configs) == 1
    assert all(path.endswith((".png", ".gif")) for path in pictures), pictures


def test_monais_settings_still_need_the_repair():
    """When this fails, MONAI reads the loss of an output that is not decollated: drop `read_plain_loss`."""
    assert from_engine(["loss"], first=True)({"loss": 1.0}) == (1.0,)


def test_settings_that_read_the_loss_themselves_are_kept(mlflow, tmp_path, run, phantoms):
    """Those of a file, as MONAI allows."""
    handler = {"_target_": "MLFlowHandler", "output_transform": "$lambda output: {'mse': float(output['loss'])}"}
    tracking = {"handlers_id": {"trainer": {"id": "train#trainer", "handlers": "train#handlers"}}}
    tracking["configs"] = {"trainer": handler}
    path = tmp_path / "tracking.json"
    path.write_text(json.dumps(tracking))
    settings = run.tiny | {"bundle_root": str(tmp_path / "root"), "dataset_dir": str(phantoms)}
    run.here(run.acdc, "training", "train", tracking=str(path), **settings)
    assert "mse" in names(mlflow) and "train_loss" not in names(mlflow)


def test_real_mlflow(run, request, tmp_path):
    package = pytest.importorskip("mlflow", reason="mlflow is not installed")
    train(run, request, "acdc", tmp_path, experiment_name="slices", run_name="first")
    client = package.MlflowClient(monai.utils.path_to_sqlite_uri(str(tmp_path / "eval" / "mlruns.db")))
    experiment = client.get_experiment_by_name("slices")
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.run_name == "first" and tracked.info.status == "FINISHED"
    assert {"train_loss", "val_loss", "lr_group_0"} <= set(tracked.data.metrics)
    assert len(client.get_metric_history(tracked.info.run_id, "train_loss")) == 6
    assert [item.path for item in client.list_artifacts(tracked.info.run_id, "samples")] == ["samples/epoch_0001.png"]
