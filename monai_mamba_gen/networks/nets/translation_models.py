"""The models of a translation by name, so that one key of a config switches between them."""

from __future__ import annotations

from collections.abc import Mapping

from monai.networks.nets import DiffusionModelUNet
from torch import nn

from .concat_conditioned import ConcatConditioned
from .diffma import DiffMa

__all__ = ["TRANSLATION_MODELS", "translation_model"]

TRANSLATION_MODELS = ("diffma", "unet")

_UNET = {  # about as many parameters as the preset "tiny/2" of DiffMa
    "spatial_dims": 2,
    "channels": (32, 64, 96),
    "attention_levels": (False, False, True),
    "num_res_blocks": 1,
    "norm_num_groups": 16,
    "num_head_channels": 32,
}


def translation_model(
    name: str,
    in_channels: int = 4,
    context_channels: int | None = None,
    learn_sigma: bool = False,
    diffma: str | Mapping | None = None,
    unet: Mapping | None = None,
) -> nn.Module:
    """
    Build a denoiser that translates an image, called with ``(x, timesteps, context)``.

    Options that do not concern the named model are passed over, so that a config can state all of them.

    Args:
        name: ``"diffma"``: `DiffMa`; ``"unet"``: MONAI's `DiffusionModelUNet` in `ConcatConditioned`, the baseline.
        in_channels: channels of the noisy latent and of the prediction.
        context_channels: channels of the source's latent; default ``in_channels``.
        learn_sigma: whether to predict a variance too, which doubles the channels of the output.
        diffma: name of a preset of `DiffMa`, or its arguments, among which ``"preset"`` may be one; None: its defaults.
        unet: arguments of `DiffusionModelUNet`, such as ``channels`` and ``attention_levels``, added to the defaults.

    Raises:
        ValueError: when there is no such model.

    Example:
        >>> translation_model("diffma", in_channels=1, learn_sigma=True, diffma="tiny/2").out_channels
        2
        >>> translation_model("unet", in_channels=1, diffma="tiny/2").multiple
        4
    """
    if name not in TRANSLATION_MODELS:
        raise ValueError(f"translation model must be one of {list(TRANSLATION_MODELS)}, got {name!r}")
    context_channels = in_channels if context_channels is None else context_channels
    if name == "diffma":
        options = {"preset": diffma} if isinstance(diffma, str) else dict(diffma or {})
        preset = options.pop("preset", None)
        options |= {"in_channels": in_channels, "context_channels": context_channels, "learn_sigma": learn_sigma}
        return DiffMa(**options) if preset is None else DiffMa.from_preset(preset, **options)
    options = _UNET | dict(unet or {})
    network = DiffusionModelUNet(
        in_channels=in_channels + context_channels, out_channels=in_channels * (1 + learn_sigma), **options
    )
    return ConcatConditioned(network, 2 ** (len(options["channels"]) - 1), context_channels)
