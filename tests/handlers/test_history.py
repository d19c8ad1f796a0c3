from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from monai_mamba_gen.handlers import draw_loss_curve


def lines(training):
    return [json.loads(line) for line in open(training.folder / "history.jsonl")]


def test_one_line_an_epoch(make_training):
    training = make_training(max_epochs=3)
    losses = []
    inner = training.trainer.loss_function
    training.trainer.loss_function = lambda *a: losses.append(inner(*a)) or losses[-1]
    training.trainer.run()
    records = lines(training)
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert [record["iteration"] for record in records] == [4, 8, 12]
    for number, record in enumerate(records):
        assert record["train_loss"] == pytest.approx(
            sum(loss.item() for loss in losses[4 * number : 4 * number + 4]) / 4, rel=1e-6
        )
        assert record["images_per_second"] == pytest.approx(8 / record["seconds"], rel=0.2)
        assert {"val_loss", "gradient_norm"} <= record.keys()
    assert records[0]["learning_rate"] == pytest.approx(1e-2 * (0.01 + 0.99 * 4 / 7))


def test_lines_of_later_epochs_are_dropped_on_resume(make_training):
    make_training(max_epochs=3).trainer.run()
    training = make_training(max_epochs=4)
    (training.folder / "checkpoint_epoch=3.pt").unlink()  # killed before the checkpoint of the third epoch
    training = make_training(max_epochs=4, resume=True)
    training.trainer.run()
    assert [record["epoch"] for record in lines(training)] == [1, 2, 3, 4]
    make_training(max_epochs=1).trainer.run()
    assert [record["epoch"] for record in lines(training)] == [1]


def test_validation_is_left_out_of_epochs_without_it(make_training):
    training = make_training(max_epochs=1)
    training.trainer.run()
    assert "val_loss" in lines(training)[0]
    history = next(
        h[0].__self__
        for hs in training.trainer._event_handlers.values()
        for h in hs
        if type(getattr(h[0], "__self__", None)).__name__ == "HistoryHandler"
    )
    training.trainer.state.epoch = 2
    assert "val_loss" not in history._record(training.trainer)


def test_curve_shows_both_losses_falling(tmp_path):
    records = [{"epoch": e, "train_loss": 1.0 / e, "val_loss": 1.5 / e if e % 2 else 0.0} for e in range(1, 31)]
    draw_loss_curve(records, tmp_path / "curve.png")
    picture = np.asarray(Image.open(tmp_path / "curve.png")).astype(int)
    blue = np.argwhere((np.abs(picture - (31, 119, 180)).sum(axis=2) < 20) & (np.arange(800) < 500))
    left, right = blue[blue[:, 1] < 120, 0].mean(), blue[blue[:, 1] > 480, 0].mean()
    assert left < right  # rows count downwards, so a falling loss goes down the picture
    draw_loss_curve([{"epoch": 1, "train_loss": 0.1}], tmp_path / "single.png")
    draw_loss_curve([{"epoch": 1, "train_loss": float("nan")}], tmp_path / "none.png")
    assert (tmp_path / "single.png").exists() and not (tmp_path / "none.png").exists()


def test_curve_of_negative_losses_falls_too(tmp_path):
    losses = [0.5, -2.0, -3.0, -3.5, -3.8]
    draw_loss_curve([{"epoch": n + 1, "train_loss": loss} for n, loss in enumerate(losses)], tmp_path / "curve.png")
    picture = np.asarray(Image.open(tmp_path / "curve.png")).astype(int)
    blue = np.argwhere((np.abs(picture - (31, 119, 180)).sum(axis=2) < 20) & (np.arange(800) < 500))
    left, right = blue[blue[:, 1] < 120, 0].mean(), blue[blue[:, 1] > 400, 0].mean()
    assert left + 200 < right
    draw_loss_curve([{"epoch": 1, "train_loss": -4.0}], tmp_path / "single.png")
    draw_loss_curve([{"epoch": 1, "train_loss": 0.0}], tmp_path / "zero.png")
    assert (tmp_path / "single.png").exists() and (tmp_path / "zero.png").exists()
