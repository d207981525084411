"""Save checkpoints atomically, and only content that can be read back without executing code."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from segzoo.utils.errors import InputError
from segzoo.utils.files import write_atomically

from .reader import numpy_allowed, refused_name


def size_in_memory(content: Any) -> int:
    """Return the number of bytes of the tensors in nested containers."""
    if isinstance(content, Tensor):
        return content.numel() * content.element_size()
    if isinstance(content, Mapping):
        return sum(map(size_in_memory, content.values()))
    return sum(map(size_in_memory, content)) if isinstance(content, list | tuple) else 0


def save_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically: `.safetensors` (weights and description only) or torch's format.

    Args:
        path: the file; its extension chooses the format.
        content: `{"model": weights, "segzoo": description, ...}`.

    Raises:
        InputError: `content` holds an object that could not be read back without executing code.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        write_atomically(path, lambda stream: stream.write(_as_safetensors(content)))
    else:
        write_atomically(path, lambda stream: _save_readable(path, content, stream))


def _save_readable(path: Path, content: Mapping[str, Any], stream: IO[bytes]) -> None:
    try:
        torch.save(dict(content), stream)
    except RuntimeError as error:
        # torch hides the system's error (disk full) behind one of its own.
        refusal = error.__context__
        if isinstance(refusal, OSError):
            raise refusal from None
        raise
    stream.flush()
    # Unreadable content is found now, while the previous file is still there, and not at resume. With mmap
    # only the structure is read.
    try:
        with numpy_allowed():
            torch.load(stream.name, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        name = refused_name(error) or str(error).splitlines()[-1]
        raise InputError(
            f"{path}: cannot save {name}; expected tensors, numbers, strings, containers"
        ) from None


def _as_safetensors(content: Mapping[str, Any]) -> bytes:
    try:
        from safetensors.torch import save
    except ImportError:
        raise InputError("writing .safetensors needs safetensors; pip install safetensors") from None
    weights: Mapping[str, Tensor] = content["model"]
    metadata = {"format": "pt"}
    if content.get("segzoo"):
        metadata["segzoo"] = json.dumps(content["segzoo"])
    return save({key: value.detach().cpu().contiguous().clone() for key, value in weights.items()}, metadata)
