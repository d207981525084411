"""Build models of the zoo."""

from pathlib import Path

import torch
from torch import nn

from segzoo.checkpoint import load_checkpoint
from segzoo.modeling.build import build_model
from segzoo.utils.errors import InputError

from .configs import get_config
from .official import download_weights


def get(name: str, weights: str | Path | None = None, device: str = "cpu") -> nn.Module:
    """Build a model of the zoo, in evaluation mode.

    Args:
        name: one of `list_models()`.
        weights: None for random weights, "official" for the file that the zoo links to, or a path or URL.
        device: device of the model.

    Raises:
        InputError: there is no such model, it has no official weights, or weights do not fill all of it.
    """
    cfg = get_config(name)
    cfg.MODEL.DEVICE = device
    cfg.MODEL.WEIGHTS = ""
    if weights == "official":
        weights = download_weights(name)
    if device != "cpu":
        _check_device(device)
    model = build_model(cfg).eval()
    if weights:
        load_checkpoint(model, weights).require_complete(f"model_zoo.get({name!r})")
    return model


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} is not usable here: {str(error).splitlines()[0]}") from None
