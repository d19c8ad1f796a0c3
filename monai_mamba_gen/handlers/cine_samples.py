"""Film strips of what the network makes of the same patients while it learns."""

from __future__ import annotations

import numpy as np
import torch

from ..utils.film_strip import film_strip
from ..utils.image_grid import labelled_rows
from ..utils.plain_tensor import plain_tensor
from .patient_picture import PatientPicture

__all__ = ["CineSampleHandler"]


class CineSampleHandler(PatientPicture):
    """
    Make a cine of the same patients every few epochs and draw its middle slice, see `TrainingPicture`.

    For each patient there is a film strip between end diastole and end systole and, of a network that can generate, one
    from end diastole and a seed.

    Args:
        inferer: what makes the frames, with mode ``"auto"``.
        network: a `DeformableDiffusion` network or `LinearBlend`, normally the EMA network.
        dataset: patients to choose from, those held out: items with ``"image"`` (ED) and ``"target"`` (ES), each
            (1, H, W, D) in [-1, 1].
        num_images: number of patients, the first of the data set; fewer where it has fewer.
        interval: epochs between pictures; the last epoch is always shown.
        output_dir: pictures go to ``samples/epoch_0005.png`` below it.
        log_dir: also write the picture for TensorBoard here.

    Raises:
        ValueError: when num_images or interval is below 1, or the data set is empty.

    Example:
        >>> import tempfile
        >>> from monai_mamba_gen.inferers import CineInferer
        >>> from monai_mamba_gen.networks.nets import cine_model
        >>> from monai_mamba_gen.networks.schedulers import RespacedDDIMScheduler
        >>> patients = [{"image": torch.zeros(1, 8, 8, 4), "target": torch.ones(1, 8, 8, 4)}]
        >>> inferer = CineInferer(RespacedDDIMScheduler(2000), num_frames=4)
        >>> handler = CineSampleHandler(inferer, cine_model("blend"), patients, 1, 1, tempfile.mkdtemp())
        >>> handler.draw(torch.device("cpu")).shape
        (34, 38)
    """

    marks = {"Synthetic": "all frames but the first and, between ED and ES, the last"}

    def draw(self, device: torch.device) -> np.ndarray:
        """Return the strips of all patients under each other."""
        generates = getattr(self.network, "denoiser", None) is not None
        strips = []
        for number in range(min(self.num_images, len(self.dataset))):
            item = self.dataset[number]
            source, target = (plain_tensor(item[key]).float()[None].to(device) for key in ("image", "target"))
            made = {"ED to ES": self.inferer(source, self.network, target=target)}
            if generates:
                made[f"ED and seed {number}"] = self.inferer(source, self.network, seeds=[number])
            strips += [
                (f"patient {number + 1}: {name}", film_strip(plain_tensor(frames)[0], value_range=(-1.0, 1.0)))
                for name, frames in made.items()
            ]
        return labelled_rows(strips)
