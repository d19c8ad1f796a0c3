"""A small real training: MONAI's trainer and evaluator, dropout, augmentation, EMA, warm-up, checkpoints."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, MeanSquaredError, ValidationHandler, from_engine
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDPMScheduler
from torch import nn

from monai_mamba_gen.engines import SeededDiffusionPrepareBatch
from monai_mamba_gen.handlers import (
    EMA,
    AtomicCheckpointSaver,
    GradientClipHandler,
    HistoryHandler,
    NonFiniteGuard,
    ReproducibilityHandler,
    ResumeHandler,
)
from monai_mamba_gen.utils import keyed_generator


class ToyNetwork(nn.Module):
    """A denoiser with dropout, running statistics and a time input."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.time = nn.Linear(1, width)
        self.drop = nn.Dropout(0.2)
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x, timesteps=None, context=None):
        hidden = self.norm(self.first(x)) + self.time(timesteps.float()[:, None] / 50)[:, :, None, None]
        return self.last(self.drop(torch.relu(hidden)))


class ToyDataset(torch.utils.data.Dataset):
    """Eight images, shifted at random per (epoch, index); one of them may be broken."""

    def __init__(self, broken: int | None = None) -> None:
        self.epoch, self.broken = 0, broken

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict:
        shift = int(torch.randint(8, (1,), generator=keyed_generator(self.epoch, index)))
        image = torch.roll(torch.linspace(-1, 1, 64).reshape(1, 8, 8) * (index + 1) / 8, shift, dims=-1)
        if index == self.broken:
            image[0, 3, 3] = float("nan")
        return {"image": image, "index": index, "source": f"slice_{index}.nii.gz"}


def build_training(folder, max_epochs=4, resume=False, width=4, dataset=None, schedule="linear", seed=3, loss=None):
    torch.manual_seed(11)
    network = ToyNetwork(width)
    dataset = dataset or ToyDataset()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    if schedule == "linear":
        lr_scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=7)
    else:
        from monai.optimizers import WarmupCosineSchedule

        lr_scheduler = WarmupCosineSchedule(optimizer, warmup_steps=3, t_total=16)
    ema = EMA(network, decay=0.9)
    inferer = DiffusionInferer(DDPMScheduler(num_train_timesteps=50))
    prepare_batch = SeededDiffusionPrepareBatch(50, seed=seed)
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=DataLoader(ToyDataset(), batch_size=3),
        network=ema.ema_model,
        inferer=inferer,
        prepare_batch=SeededDiffusionPrepareBatch(50, seed=seed, fixed=True),
        key_val_metric={"val_loss": MeanSquaredError(output_transform=from_engine(["pred", "label"]))},
    )
    state = {"network": network, "optimizer": optimizer, "lr_scheduler": lr_scheduler, "ema": ema.ema_model}
    handlers = [
        ReproducibilityHandler(seed, prepare_batch=prepare_batch, network=network, datasets=[dataset]),
        *([ResumeHandler(folder, state)] if resume else []),
        NonFiniteGuard(),
        GradientClipHandler(1.0),
        LrScheduleHandler(lr_scheduler, print_lr=False, epoch_level=False),
        ema,
        ValidationHandler(interval=1, validator=evaluator),
        HistoryHandler(folder, evaluator=evaluator),
        AtomicCheckpointSaver(folder, state, model=ema.ema_model),
    ]
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=max_epochs,
        train_data_loader=DataLoader(dataset, batch_size=2, shuffle=True),
        network=network,
        optimizer=optimizer,
        loss_function=loss or nn.MSELoss(),
        inferer=inferer,
        prepare_batch=prepare_batch,
        train_handlers=handlers,
    )
    return SimpleNamespace(trainer=trainer, folder=folder, **state)


@pytest.fixture
def make_training(tmp_path):
    """Return a function that builds a training in a folder below the test's own."""

    def make(folder="run", **kwargs):
        return build_training(tmp_path / folder, **kwargs)

    make.dataset = ToyDataset
    return make


@pytest.fixture(autouse=True)
def keep_global_generators():
    """Trainings seed the global generators; tests after them shall not depend on that."""
    with torch.random.fork_rng(devices=[]):
        yield
