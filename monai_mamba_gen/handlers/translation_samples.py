"""Pictures of what the network translates while it learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..utils.image_grid import image_grid, labelled_rows
from ..utils.plain_tensor import plain_tensor
from .patient_picture import PatientPicture

__all__ = ["TranslationSampleHandler"]


class TranslationSampleHandler(PatientPicture):
    """
    Translate the same slices every few epochs and draw them below source and truth, see `TrainingPicture`.

    Args:
        inferer: what runs the network on slices (N, 1, H, W), from a fixed seed.
        network: network to translate with, normally the EMA network.
        dataset: slices to choose from, those held out: items with ``"image"`` (CT) and ``"target"`` (MR), (1, H, W) in
            [-1, 1], where given ``"mask"`` of that shape, and ``"position"`` for an inferer that passes it.
        num_images: number of slices, evenly spaced in the data set; fewer where it has fewer.
        interval: epochs between pictures; the last epoch is always shown.
        output_dir: pictures go to ``samples/epoch_0005.png`` below it.
        log_dir: also write the picture for TensorBoard here.

    Raises:
        ValueError: when num_images or interval is below 1, or the data set is empty.

    Example:
        >>> import tempfile
        >>> from monai_mamba_gen.inferers import TranslationInferer
        >>> from monai_mamba_gen.networks.nets import DiffMa, LatentSpace
        >>> from monai_mamba_gen.networks.schedulers import RespacedDDIMScheduler
        >>> network = DiffMa(in_channels=1, image_size=16, hidden_size=16, num_layers=2)
        >>> inferer = TranslationInferer(LatentSpace(), RespacedDDIMScheduler(1000), num_inference_steps=2)
        >>> slices = [{"image": torch.zeros(1, 16, 16), "target": torch.zeros(1, 16, 16)}]
        >>> handler = TranslationSampleHandler(inferer, network, slices, 1, 1, tempfile.mkdtemp())
        >>> handler.draw(torch.device("cpu")).dtype
        dtype('uint8')
    """

    marks = {"Synthetic": "the rows named so"}

    def _chosen(self) -> list[Mapping[str, Any]]:
        """Return slices from the middles of equal parts of the data set."""
        count = min(self.num_images, len(self.dataset))
        return [self.dataset[(2 * number + 1) * len(self.dataset) // (2 * count)] for number in range(count)]

    def draw(self, device: torch.device) -> np.ndarray:
        """Return a column for each slice: source, truth, synthetic."""
        items = self._chosen()

        def stacked(key: str) -> torch.Tensor:
            return torch.stack([plain_tensor(item[key]).float() for item in items]).to(device)

        names = {"image": "CT", "target": "MR"}
        source, truth = ("image", "target") if self.inferer.direction == "ct2mr" else ("target", "image")
        position = torch.tensor([float(item["position"]) for item in items]) if "position" in items[0] else None
        synthetic = self.inferer(
            stacked(source),
            self.network,
            mask=stacked("mask") if "mask" in items[0] else None,
            position=None if position is None else position.to(device),
        )
        rows = {names[source]: stacked(source), names[truth]: stacked(truth), f"synthetic {names[truth]}": synthetic}
        return labelled_rows([(name, image_grid(images, len(items))) for name, images in rows.items()])
