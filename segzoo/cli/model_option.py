"""The option --model, and the configuration and weights that it stands for."""

import argparse
import os

from segzoo.config.files import CONFIGURATIONS, find_config, names_checkpoint, zoo_name
from segzoo.model_zoo.registry import known_models
from segzoo.utils.errors import InputError

from .weights_option import weights_in


def take_model(parsed: argparse.Namespace, trains: bool = False) -> None:
    """Turn --model into --config-file and, where it names a checkpoint or has official weights, --weights.

    Args:
        parsed: the parsed arguments; `model` is not None.
        trains: whether to keep the configuration's MODEL.WEIGHTS, from which a training starts.

    Raises:
        InputError: --config-file is given too; there is no such model; a training is given a checkpoint
            instead of a configuration; or no weights are given, and the authors link to none.
    """
    model = parsed.model
    if parsed.config_file:
        raise InputError(f"--model {model} and --config-file {parsed.config_file} are two models; give one")
    given = parsed.weights or weights_in(parsed.opts)
    if names_checkpoint(model) or (os.path.isfile(model) and not model.lower().endswith(CONFIGURATIONS)):
        if trains:
            raise InputError(
                f"--model {model} is a checkpoint; a training starts from one with --config-file NAME "
                f"--weights {model}"
            )
        if given not in (None, "", model):
            raise InputError(f"--model {model} and the weights {given} are two checkpoints; give one")
        parsed.weights = model
        return
    find_config(model)
    parsed.config_file = model
    if not (trains or given or getattr(parsed, "random_weights", False) or getattr(parsed, "resume", False)):
        parsed.weights = _official(model)


def _official(model: str) -> str:
    info = known_models().get(zoo_name(model))
    if info is not None and info.url:
        return info.url
    place = (info.page or info.folder) if info else ""
    if place:
        raise InputError(
            f"--model {model}: its official weights have no direct link; download them from {place} and give "
            "the file: --weights FILE"
        )
    raise InputError(f"--model {model} has no official weights; give a checkpoint: --weights FILE")
