"""Every saved checkpoint of a real training holds the scale of the weights beside it."""

from __future__ import annotations

import math

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler
from monai.inferers import SimpleInferer
from monai.networks.nets import AutoencoderKL, PatchDiscriminator

from monai_mamba_gen.engines import AutoencoderPrepareBatch
from monai_mamba_gen.handlers import (
    EMA,
    AtomicCheckpointSaver,
    DiscriminatorHandler,
    GradientClipHandler,
    HistoryHandler,
    LatentScaleHandler,
    NonFiniteGuard,
    ReproducibilityHandler,
    ResumeHandler,
)
from monai_mamba_gen.losses import AutoencoderLoss, PatchAdversary
from monai_mamba_gen.metrics import IndexedMeanLoss
from monai_mamba_gen.networks.nets import LatentSpace
from monai_mamba_gen.utils import keyed_generator, load_weights


def network():
    none = {"with_encoder_nonlocal_attn": False, "with_decoder_nonlocal_attn": False}
    levels = {"channels": (4, 4), "attention_levels": (False, False), "num_res_blocks": 1, "norm_num_groups": 2}
    return LatentSpace(AutoencoderKL(2, **levels, **none))


class Pairs(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        image = torch.rand(1, 8, 8, generator=keyed_generator(index)) * 2 - 1
        return {"image": image, "target": -image, "index": index}


def train(folder, max_epochs=2, resume=False, adversarial=False, interval=1):
    torch.manual_seed(3)
    latent_space, prepare_batch = network(), AutoencoderPrepareBatch()
    optimizer, ema = torch.optim.Adam(latent_space.parameters(), lr=1e-2), EMA(latent_space, decay=0.5)
    state = {"network": latent_space, "ema": ema.ema_model, "optimizer": optimizer}
    loader, extra, adversary = DataLoader(Pairs(), batch_size=2, shuffle=True), [], None
    if adversarial:
        adversary = PatchAdversary(PatchDiscriminator(2, channels=4, in_channels=1, num_layers_d=1))
        discriminator_optimizer = torch.optim.Adam(adversary.discriminator.parameters(), lr=1e-2)
        state |= {"discriminator": adversary.discriminator, "discriminator_optimizer": discriminator_optimizer}
        extra = [DiscriminatorHandler(adversary, discriminator_optimizer, warm_up_epochs=1)]
    loss = AutoencoderLoss(adversarial=adversary)
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=DataLoader(Pairs(), batch_size=4),
        network=ema.ema_model,
        inferer=SimpleInferer(),
        prepare_batch=prepare_batch,
        key_val_metric={"val_loss": IndexedMeanLoss(loss)},
        decollate=False,
    )
    scale = LatentScaleHandler([ema.ema_model, latent_space], loader, prepare_batch, interval=interval)
    saver = AtomicCheckpointSaver(folder, state, model=ema.ema_model, interval=interval, n_saved=9)
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=max_epochs,
        train_data_loader=loader,
        network=latent_space,
        optimizer=optimizer,
        loss_function=loss,
        inferer=SimpleInferer(),
        prepare_batch=prepare_batch,
        train_handlers=[
            ReproducibilityHandler(1),
            *([ResumeHandler(folder, state)] if resume else []),
            NonFiniteGuard(),
            GradientClipHandler(1.0),
            ema,
            *extra,
            ValidationHandler(interval=1, validator=evaluator),
            scale,
            HistoryHandler(folder, evaluator=evaluator),
            saver,
        ],
        decollate=False,
    )
    seen = []
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda _: seen.append(float(ema.ema_model.scale_factor)))
    trainer.run()
    return trainer, evaluator, seen


def right_scale(weights):
    latent_space = network()
    latent_space.load_state_dict(weights)
    return latent_space.measure_scale(
        [AutoencoderPrepareBatch()(batch)[0] for batch in DataLoader(Pairs(), batch_size=3)]
    )


def test_saved_weights_hold_their_own_scale(tmp_path):
    trainer, evaluator, seen = train(tmp_path, max_epochs=3, interval=2)
    assert all(math.isfinite(scale) for scale in seen), "known from the start"
    for epoch in (2, 3):
        content = torch.load(tmp_path / f"checkpoint_epoch={epoch}.pt", weights_only=True)
        for name in ("ema", "network"):
            assert float(content[name]["scale_factor"]) == pytest.approx(right_scale(content[name]), rel=1e-5), name
    assert not (tmp_path / "checkpoint_epoch=1.pt").exists()
    model = load_weights(network(), tmp_path / "model.pt")
    assert model.scale_is_known
    assert trainer.state.metrics["latent_scale"] == float(model.scale_factor)
    assert float(model.encode(torch.cat([Pairs()[i]["image"][None] for i in range(6)])).std()) == pytest.approx(
        1, abs=0.2
    )
    assert 0 < evaluator.state.metrics["val_loss"] < 1.5


def test_a_resumed_training_equals_the_uninterrupted_one(tmp_path):
    train(tmp_path / "whole", max_epochs=2, adversarial=True)
    train(tmp_path / "parts", max_epochs=1, adversarial=True)
    train(tmp_path / "parts", max_epochs=2, adversarial=True, resume=True)
    whole, parts = (
        torch.load(tmp_path / name / "checkpoint_epoch=2.pt", weights_only=True) for name in ("whole", "parts")
    )
    for part in ("ema", "network", "discriminator"):
        for key, value in whole[part].items():
            assert torch.equal(value, parts[part][key]), (part, key)


def test_the_adversarial_option_trains_both(tmp_path):
    torch.manual_seed(3)
    plain, _, _ = train(tmp_path / "plain")
    trainer, _, _ = train(tmp_path / "adversarial", max_epochs=2, adversarial=True)
    assert 0 < trainer.state.metrics["discriminator_loss"] < 5 and "discriminator_loss" not in plain.state.metrics
    first, second = (
        torch.load(tmp_path / "adversarial" / f"checkpoint_epoch={epoch}.pt", weights_only=True)["discriminator"]
        for epoch in (1, 2)
    )
    key = next(key for key in first if key.endswith("weight"))
    assert not torch.equal(first[key], second[key]), "trained after the warm-up"
    ours = torch.load(tmp_path / "adversarial" / "model.pt", weights_only=True)
    theirs = torch.load(tmp_path / "plain" / "model.pt", weights_only=True)
    assert any(not torch.equal(ours[key], theirs[key]) for key in ours), "the autoencoder heard of it"


def test_arguments():
    for wrong in ({"max_batches": 0}, {"interval": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LatentScaleHandler(LatentSpace(), [], AutoencoderPrepareBatch(), **wrong)
    with pytest.raises(ValueError, match="warm_up_epochs"):
        DiscriminatorHandler(None, None, warm_up_epochs=-1)


def test_the_data_are_read_without_moving_the_global_generator():
    latent_space, loader = network(), DataLoader(Pairs(), batch_size=2, shuffle=True)
    handler = LatentScaleHandler(latent_space, loader, AutoencoderPrepareBatch(), max_batches=2)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    handler._measure(latent_space, 2)
    assert torch.equal(torch.rand(1), expected) and latent_space.scale_is_known
