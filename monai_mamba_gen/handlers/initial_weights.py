"""A training that starts from weights instead of at random: fine-tuning."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine, Events
from torch.nn import Module

from ..utils.checkpoints import load_weights
from .non_finite_guard import unwrap

__all__ = ["InitialWeightsHandler"]


class InitialWeightsHandler:
    """
    Load weights into the network when a training starts, so that it goes on from them with an optimizer of its own.

    For fine-tuning on other data. To go on with an interrupted training, optimizer and all, use `ResumeHandler`; listed
    after this one, its checkpoint replaces these weights. Only the first run of the trainer loads. Not for a federated
    client, whose first weights come from its server.

    Args:
        load_path: file of weights, such as ``model.pt`` or ``model.safetensors`` of a bundle; None: nothing is done.
        network: network to load them into; DistributedDataParallel is unwrapped.
        settings: settings that both trainings must share, such as ``prediction_type``; compared with the ``model.json``
            beside the file, where there is one.

    Raises:
        DataError: from the trainer's ``run``: the file is missing, damaged, of another network or of other settings.

    Example:
        >>> import torch
        >>> handlers = [InitialWeightsHandler("models/model.pt", torch.nn.Linear(2, 2))]  # of a SupervisedTrainer
    """

    def __init__(
        self,
        load_path: str | os.PathLike[str] | None,
        network: Module,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.load_path = load_path
        self.network = unwrap(network)
        self.settings = dict(settings or {})

    def attach(self, engine: Engine) -> None:
        """Load when ``engine`` starts; list this handler first."""
        if self.load_path is not None:
            self._loaded = False
            engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        if self._loaded:
            return
        load_weights(self.network, self.load_path, self.settings)
        self._loaded = True
        engine.logger.info(f"starts from the weights in {self.load_path}")
