"""Writing files so that a crash at any moment leaves either the old file or the new one, never a part."""

import contextlib
import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from segzoo.errors import InputError

from .reading import numpy_allowed, refused_name

_TEMPORARY = ".writing"
_SPACE = "free some space"
# What is to be done where the system refuses to write; for other refusals the disk is to be looked at.
_REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: f"{_SPACE}, or ask for a larger quota",
    errno.EFBIG: "raise the limit for the size of a file (ulimit -f)",
    errno.EROFS: "make the folder writable, or choose another one",
    errno.EACCES: "make the folder writable, or choose another one",
    errno.EPERM: "make the folder writable, or choose another one",
}


def write_atomically(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Calls `write` with a temporary file beside `path`, flushes it to disk, then renames it to `path`.

    Raises:
        OSError: disk full, no permission, ...; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}{_TEMPORARY}")
    try:
        with temporary.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        # torch reports an error of its own for a stream that takes no more.
        refusal = error.__context__
        if isinstance(error, RuntimeError) and isinstance(refusal, OSError):
            raise refusal from None
        raise
    _sync_folder(path.parent)


def cannot_write(path: str | Path, error: OSError, needed: int = 0) -> InputError:
    """The error that explains in one line why a file or folder could not be written.

    Args:
        path: of the file or folder.
        error: what the system said.
        needed: bytes; 0 if unknown.
    """
    facts = [f"about {_mebibytes(needed)} needed"] if needed else []
    with contextlib.suppress(OSError):
        folder = Path(path)
        free = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free
        facts.append(f"{_mebibytes(free)} free")
    known = f" ({', '.join(facts)})" if facts else ""
    remedy = _REMEDIES.get(error.errno, "look at the disk, or choose another folder")
    return InputError(f"{path} cannot be written: {error.strerror or error}{known}; {remedy}")


def size_in_memory(content: Any) -> int:
    """Bytes of the tensors in nested containers."""
    if isinstance(content, Tensor):
        return content.numel() * content.element_size()
    if isinstance(content, Mapping):
        return sum(map(size_in_memory, content.values()))
    return sum(map(size_in_memory, content)) if isinstance(content, list | tuple) else 0


def remove_stale(folder: Path) -> None:
    """Deletes what a killed process left half-written in `folder`."""
    for temporary in folder.glob(f".*{_TEMPORARY}"):
        temporary.unlink(missing_ok=True)


def save_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Writes a checkpoint atomically: `.safetensors` (weights and description only) or torch's format.

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
    torch.save(dict(content), stream)
    stream.flush()
    # Found now, while the previous file still stands, rather than when training is to be resumed. Mapped into
    # memory, only the structure is read.
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
        raise InputError("writing .safetensors needs the package; pip install safetensors") from None
    weights: Mapping[str, Tensor] = content["model"]
    metadata = {"format": "pt"}
    if content.get("segzoo"):
        metadata["segzoo"] = json.dumps(content["segzoo"])
    return save({key: value.detach().cpu().contiguous().clone() for key, value in weights.items()}, metadata)


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _sync_folder(folder: Path) -> None:
    # The rename itself must survive a power cut; not every file system can sync a folder.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
