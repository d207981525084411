"""Choose the weights in a file, and remove the prefixes of wrappers from their names.

A training script may save several sets of weights in one file: the model's and their moving average (EMA).
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segzoo.utils.errors import InputError
from segzoo.utils.paths import user_path
from segzoo.utils.text import did_you_mean, some

# Keys under which code bases store weights, in order of preference: Detectron2 and most; Lightning and mmcv;
# pycls; DeepSpeed; Caffe2. Averages come after, since not every script evaluates them.
_NAMES = (
    *("model", "state_dict", "model_state", "model_state_dict", "net", "network", "weights", "params"),
    *("module", "state_dict_ema", "model_ema", "ema", "ema_model", "ema_state", "ema_state_dict"),
    *("model_ema_state_dict", "params_ema", "blobs"),
)
# Keys of the weights inside the dictionary that a wrapper saves.
_INSIDE = ("state_dict", "module", "model", "shadow")
# Entries that hold tensors but no weights.
_STATES = re.compile(
    r"optim|sched|scaler|rng|random|callback|queue|sampler|loader|hyper|segzoo", re.IGNORECASE
)
# Prefixes of torch.compile, FSDP and activation checkpointing, around the model or any part of it.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def split_choice(source: str) -> tuple[str, str]:
    """Split a path or URL from the set of weights to take: `model.pth#ema` -> "model.pth", "ema"."""
    path, mark, choice = source.rpartition("#")
    is_path = "/" in choice or choice.endswith((".pth", ".pkl", ".safetensors", ".params", ".zip"))
    if not mark or is_path or ("://" not in source and os.path.exists(user_path(source))):
        return source, ""
    return path, choice


def take_weights(
    path: Path, content: Mapping[str, Any], choice: str = ""
) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """Take one set of weights from a file's content.

    Args:
        path: for messages.
        content: the file's.
        choice: name of the set to take or its first part, or name of a module in the usual set; "" for the
            first set in the order above.

    Returns:
        The weights by name, without wrappers; the other entries of `content`; the names of the sets in the
        file, starting with the one taken.

    Raises:
        InputError: there are no weights, several sets without a usual name, or no set of that name.
    """
    sets = _find_sets(content)
    if not sets:
        raise InputError(_no_weights(path, content))
    names = list(sets)
    inner = ""
    # "ema" also selects "ema.module".
    name = next((found for found in names if choice in (found, found.partition(".")[0])), None)
    if name is None:
        usual = [found for found in names if found.partition(".")[0] in ("", *_NAMES)]
        if not usual and len(names) > 1:
            raise InputError(
                f"{path} holds several sets of weights ({', '.join(names)}); "
                f"choose one: MODEL.WEIGHTS {path}#{names[0]}"
            )
        name, inner = (usual or names)[0], choice
    rest = {key: value for key, value in content.items() if name and key != name.partition(".")[0]}
    tensors = _without_wrappers(_tensors(path, sets[name]))
    if inner:
        tensors = _below(path, tensors, inner, names)
    return tensors, rest, [name, *(found for found in names if found != name)]


def _find_sets(content: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return {name: weights}, usual names first; the name is "" if the file itself is the set of weights."""
    sets: dict[str, Mapping[str, Any]] = {}
    others = (
        key for key in content if key not in _NAMES and isinstance(key, str) and not _STATES.search(key)
    )
    for name in (*_NAMES, *others):
        found = content.get(name)
        if isinstance(found, nn.Module):  # in a file that was read with --trust-checkpoint
            found = found.state_dict()
        if not isinstance(found, Mapping):
            continue
        inside = next((key for key in _INSIDE if _holds_weights(found.get(key))), None)
        if _holds_weights(found):
            sets[name] = found
        elif inside is not None:
            sets[f"{name}.{inside}"] = found[inside]
    usual = any(name.partition(".")[0] in _NAMES for name in sets)
    return {"": content} if not usual and _holds_weights(content) else sets


def _holds_weights(value: Any) -> bool:
    """Return whether a value is a mapping with at least one named array."""
    return isinstance(value, Mapping) and any(
        isinstance(key, str) and isinstance(item, Tensor | np.ndarray | np.number)
        for key, item in value.items()
    )


def _no_weights(path: Path, content: Mapping[str, Any]) -> str:
    keys = ", ".join(map(str, list(content)[:5])) or "none"
    averages = next((key for key, value in content.items() if key == "shadow_params" and value), None)
    if averages:
        return (
            f"{path} holds weights without names ({averages}); save the averaged model's state_dict() instead"
        )
    return f"{path} holds no weights (top-level keys: {keys}); expected a dictionary of tensors"


def _tensors(path: Path, weights: Mapping[str, Any]) -> dict[str, Tensor]:
    converted = ((str(key), _as_tensor(path, key, value)) for key, value in weights.items())
    return {key: tensor for key, tensor in converted if tensor is not None}


def _as_tensor(path: Path, key: Any, value: Any) -> Tensor | None:
    """Return a weight as a tensor; None for other entries (a version number, a list of Caffe2 blobs)."""
    if isinstance(value, Tensor):
        return value.detach()
    if not isinstance(value, np.ndarray | np.number):
        return None
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{path}: {key} is an array of {array.dtype}; expected numbers")
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _without_wrappers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors = {_WRAPPERS.sub("", key): value for key, value in tensors.items()}
    while all(key.startswith("module.") for key in tensors):  # saved from a parallel wrapper
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def _below(path: Path, tensors: dict[str, Tensor], module: str, names: list[str]) -> dict[str, Tensor]:
    """Return the weights of one module of a set, without its prefix."""
    prefix = f"{module}."
    found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    if not found:
        modules = list(dict.fromkeys(key.partition(".")[0] for key in tensors if "." in key))
        choices = [*filter(None, names), *modules]
        listed = some(choices, 8)
        raise InputError(
            f"{path}#{module}: the file holds no weights of that name{did_you_mean(module, choices)}; "
            f"expected one of {listed}, or nothing after the path"
        )
    return _without_wrappers(found)
