"""Two hospitals train one network with MONAI's federated client, each with phantom patients of its own."""

from __future__ import annotations

import shutil
import sys
import warnings
from functools import partial

import pytest
import torch
from ignite.engine import Events
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import WeightType
from monai.fl.utils.exchange_object import ExchangeObject

from monai_mamba_gen.data import (
    write_acdc_phantom,
    write_brats_phantom,
    write_chestxray14_phantom,
    write_synthrad_phantom,
)
from monai_mamba_gen.utils import DataError

WRITERS = {
    "acdc_slices_vm_ddpm_synthesis": partial(write_acdc_phantom, num_patients=3, num_frames=2, shape=(32, 32, 3)),
    "acdc_cine_mstg_synthesis": partial(
        write_acdc_phantom, num_patients=3, num_frames=8, shape=(32, 32, 4), spacing=(3.0, 3.0, 12.0)
    ),
    "brats2018_slices_vm_ddpm_synthesis": partial(write_brats_phantom, num_patients=3, shape=(32, 32, 16)),
    "chestxray14_vm_ddpm_synthesis": partial(write_chestxray14_phantom, num_patients=8, size=32),
    "synthrad2023_ct2mr_diffma_synthesis": partial(
        write_synthrad_phantom, num_patients=3, regions="brain", shape=(32, 30, 2)
    ),
}
OF_TRAINING_ALONE = ["configs/train.json"]


@pytest.fixture
def hospital(run, tmp_path, extractor, request):
    """Return a function that gives a hospital's client: its copy of the bundle, its patients, and the settings."""

    def call(bundle, number, *, local_epochs=1, evaluation="default", **settings):
        root = tmp_path / f"hospital{number}"
        shutil.copytree(bundle / "configs", root / "configs")
        shutil.copy(extractor, root / "configs" / "extractor.json")
        data = WRITERS[bundle.name](root / "data", seed=number)
        tiny = {run.cine: run.cine_tiny, run.diffma: run.diffma_tiny}.get(bundle, run.tiny)
        common = tiny | {"dataset_dir": str(data), "device": "cpu", "val_fraction": 0.3} | settings
        if bundle == run.diffma and "autoencoder_weights" not in settings:  # the first stage is common to all
            common["autoencoder_weights"] = str(request.getfixturevalue("autoencoder") / "models" / "autoencoder.pt")
        scored = common | {"weights": None, "num_samples": 2, **run.cine_tiny_generation} if bundle == run.cine else {}
        scored = scored or common | {"weights": None, "num_samples": 2, "num_inference_steps": 2}
        if evaluation == "default" and bundle not in (run.cine, run.diffma):
            evaluation = [f"configs/{name}.json" for name in ("train", "evaluate", "extractor")]
        client = MonaiAlgo(
            str(root),
            local_epochs=local_epochs,
            send_weight_diff=False,
            train_kwargs=common,
            config_evaluate_filename=evaluation,
            eval_kwargs=common if evaluation == OF_TRAINING_ALONE else scored,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            client.initialize({"CLIENT_NAME": f"hospital{number}"})
        return client

    return call


def give(client, weights):
    """Start a round with the server's weights and stop it before the first step."""
    with client.trainer.add_event_handler(Events.STARTED, client.trainer.terminate):
        client.train(ExchangeObject(weights={key: value.clone() for key, value in weights.items()}))


def taken(client):
    """Return the client's weights."""
    sent = client.get_weights()
    assert sent.weight_type == WeightType.WEIGHTS
    return {key: value.clone() for key, value in sent.weights.items()}


def mean(parts):
    """Return the mean of the clients' weights, as a server of federated averaging takes it."""
    return {key: torch.stack([part[key] for part in parts]).mean(0) for key in parts[0]}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


def average_of(client):
    return client.train_workflow.parser.get_parsed_content("ema").ema_model.state_dict()


def key_metric(client, weights):
    return client.evaluate(ExchangeObject(weights=weights)).metrics["val_loss"]


def test_two_rounds_of_two_hospitals(bundle, hospital, run):
    clients = [hospital(bundle, 0), hospital(bundle, 1, evaluation=OF_TRAINING_ALONE)]
    weights = {key: value + 0.001 for key, value in taken(clients[0]).items()}
    for number in (1, 2):
        for client in clients:  # what comes is what is trained from; in the second round there is a checkpoint, too
            give(client, weights)
            assert equal(taken(client), weights) and equal(average_of(client), weights)
            client.train(ExchangeObject(weights=weights))
            assert client.trainer.state.epoch == number and not equal(taken(client), weights)
            assert not equal(average_of(client), weights) and not equal(average_of(client), taken(client))
        parts = [taken(client) for client in clients]
        assert not equal(*parts), "their patients differ"
        weights = mean(parts)
        for key, value in weights.items():
            assert torch.equal(value, ((parts[0][key].double() + parts[1][key].double()) / 2).float()), key
        for client in clients:
            metrics = client.evaluate(ExchangeObject(weights=weights)).metrics
            assert equal(client.evaluator.network.state_dict(), weights), "the server's weights are judged"
            assert metrics and any(value == value for value in metrics.values())
        assert "val_loss" in metrics  # of the second client, whose evaluation is that of the training
    for client in clients:
        model = torch.load(f"{client.bundle_root}/models/model.pt", weights_only=True)
        assert equal(model, average_of(client))


def test_the_loss_of_the_mean_falls_from_round_to_round(run, hospital):
    """Judged on patients that neither hospital trains with, at noises that are the same in every round."""
    settings = {"learning_rate": 0.003, "evaluation": OF_TRAINING_ALONE, "local_epochs": 6, "val_interval": 100}
    settings |= {"num_sample_images": 1, "sequence_regeneration": "off"}
    clients = [hospital(run.acdc, number, **settings) for number in (0, 1)]
    weights = taken(clients[0])
    losses = []
    for _ in range(2):
        losses.append([key_metric(client, weights) for client in clients])
        for client in clients:
            client.train(ExchangeObject(weights=weights))
        weights = mean([taken(client) for client in clients])
    losses.append([key_metric(client, weights) for client in clients])
    assert [key_metric(client, weights) for client in clients] == losses[-1], "the same weights, the same loss"
    for client in range(2):
        first, second, third = (round_[client] for round_ in losses)
        assert second < 0.8 * first and third < 0.8 * second  # 1.06, 0.68, 0.40 when this was written


def test_diffma_without_the_first_stage_says_so_in_one_line(run, hospital, tmp_path, capsys):
    missing = str(tmp_path / "autoencoder.pt")
    with pytest.raises(Exception) as caught:  # noqa: PT011 - what the user sees is compared, not the type
        hospital(run.diffma, 0, evaluation=OF_TRAINING_ALONE, autoencoder_weights=missing)
    cause = caught.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert isinstance(cause, DataError) and str(cause).startswith(f"{missing}: no such file; train the autoencoder")
    capsys.readouterr()
    sys.excepthook(caught.type, caught.value, caught.tb)
    assert capsys.readouterr().err.splitlines() == [f"monai_mamba_gen: error: {cause}"]
