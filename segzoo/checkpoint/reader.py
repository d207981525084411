"""Read any published checkpoint file without executing code from it.

Formats are recognized by content, not by extension: torch's zip and legacy files, plain pickles of arrays
(Detectron2, MaskFormer, Caffe2), safetensors, and MXNet's `.params` files (GluonCV). A pickle can call any
function of any module when it is loaded; here it may only reconstruct tensors, arrays and plain containers.
"""

import collections
import contextlib
import io
import json
import logging
import pickle
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segzoo.utils.errors import InputError
from segzoo.utils.unpickling import encode_latin1

from .params_reader import MAGIC, ParamsError, UnreadableParamsError, holds_params, read_params
from .weight_sets import take_weights

logger = logging.getLogger(__name__)


class DamagedFileError(InputError):
    """Error for a file that is empty, truncated or otherwise damaged, or is no checkpoint."""


@dataclass
class CheckpointFile:
    """The content of a checkpoint file.

    Attributes:
        path: the local file.
        weights: parameters and buffers by their name in the file, on the CPU.
        description: metadata of a segzoo checkpoint (classes, colors, ...); else None.
        rest: everything else at the top level of the file: optimizer, iteration, ...
        sets: names of the sets of weights in the file, starting with the one taken; see `take_weights`.
    """

    path: Path
    weights: dict[str, Tensor]
    description: dict[str, Any] | None = None
    rest: dict[str, Any] = field(default_factory=dict)
    sets: list[str] = field(default_factory=list)


def read_checkpoint(
    path: str | Path, trust: bool = False, verify: bool = False, choice: str = ""
) -> CheckpointFile:
    """Read a local `.pth`, `.pkl`, `.safetensors` or `.params` file as published by any code base.

    Args:
        path: the file; its format is recognized by its first bytes.
        trust: execute the pickle in the file if it holds more than arrays and containers.
        verify: also compare the checksums that torch's zip format stores; torch.load itself does not.
        choice: the set of weights to take if the file holds several; "" for the usual one.

    Raises:
        DamagedFileError: an empty or truncated file, or no checkpoint (a web page, a git-LFS pointer, ...).
        InputError: it holds pickled objects, or no weights.
    """
    path = Path(path)
    if verify:
        _check_sums(path)
    content = _parse(path, trust)
    if isinstance(content, nn.Module):  # only with `trust`
        content = {"model": content}
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}; expected a dictionary of weights")
    weights, rest, sets = take_weights(path, content, choice)
    description = rest.pop("segzoo", None)
    return CheckpointFile(path, weights, description if isinstance(description, dict) else None, rest, sets)


def read_description(path: str | Path, trust: bool = False) -> dict[str, Any] | None:
    """Return a checkpoint's metadata or None, without reading its weights if the format allows it.

    Arguments and errors as `read_checkpoint`.
    """
    about = _without_weights(Path(path), trust).get("segzoo")
    return about if isinstance(about, dict) else None


def read_rest(path: str | Path, trust: bool = False) -> dict[str, Any]:
    """Return a segzoo checkpoint's content beside its weights, without reading these if the format allows.

    Tensors in it, such as the optimizer's, are read from the file when they are used.

    Arguments and errors as `read_checkpoint`.
    """
    rest = _without_weights(Path(path), trust)
    return {key: value for key, value in rest.items() if key not in ("model", "segzoo")}


def _without_weights(path: Path, trust: bool) -> dict[str, Any]:
    """Return a file's content, with tensors read from it on use; {} if it is not a dictionary."""
    with path.open("rb") as stream:
        head = stream.read(8)
    is_zip = head.startswith(b"PK\x03\x04")
    if head == MAGIC or (is_zip and _is_zip_of_params(path)):
        return {}  # they hold nothing else
    content = None
    if is_zip:
        with contextlib.suppress(Exception), numpy_allowed():  # the full read below reports the error
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if content is None:
        content = _parse(path, trust)
    return content if isinstance(content, dict) else {}


# ---------------------------------------------------------------------------------------------------------
# From bytes to Python objects

_FOLDER = 0x10  # an attribute bit of zip archive members
_TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch's magic number, pickled


def _parse(path: Path, trust: bool) -> Any:
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(512)
    text = head.lstrip().lower()
    if not head:
        raise DamagedFileError(f"{path} is empty; copy or download it again")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise DamagedFileError(
            f"{path} is a web page, not a checkpoint: the link needs a login or is dead; download it by hand"
        )
    if text.startswith(b"version https://git-lfs"):
        raise DamagedFileError(
            f"{path} is a git-LFS pointer, not the checkpoint itself; run `git lfs pull` there"
        )
    if head.startswith(MAGIC) or (head.startswith(b"PK\x03\x04") and _is_zip_of_params(path)):
        return _parse_params(path)
    if head.startswith(b"PK\x03\x04") or head.startswith(_TORCH_LEGACY):
        return _parse_torch(path, trust)
    if len(head) > 8 and head[8:9] == b"{":
        return _parse_safetensors(path, size)
    if head[0:1] == b"\x80" and 2 <= head[1] <= pickle.HIGHEST_PROTOCOL:
        return _parse_pickle(path, trust)
    other = _other_format(path, head)
    if other:
        raise DamagedFileError(f"{path} is {other}")
    if not any(head):
        raise DamagedFileError(f"{path} starts with zeros: a write was cut off; copy or download it again")
    raise DamagedFileError(
        f"{path} is not a checkpoint (it starts with {head[:8]!r}); expected .pth, .pkl, .safetensors or "
        ".params"
    )


def _other_format(path: Path, head: bytes) -> str:
    """Return which other format a file has, and what to give instead; "" if unknown."""
    if b'"weight_map"' in head or (head.lstrip().startswith(b"{") and path.name.endswith(".index.json")):
        return "the index of weights in several files; join them into one .safetensors file first"
    if head.lstrip().startswith((b"{", b"[")):
        return "a JSON file; expected .pth, .pkl or .safetensors"
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and re.match(rb"\x08[\x01-\x20]\x12", head)):
        return "an ONNX program; give the checkpoint that it was exported from (.pth, .pkl or .safetensors)"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")) or b"ustar" in head[257:265]:
        return "an archive; unpack it and give the checkpoint inside"
    if head.startswith(b"\x89HDF"):
        return "an HDF5 file, as Keras writes; expected .pth, .pkl or .safetensors"
    return ""


def _is_zip_of_params(path: Path) -> bool:
    """Return whether a zip archive is a download of GluonCV, which holds a `.params` file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return holds_params(archive)
    except Exception:  # a damaged directory, which torch's reader explains
        return False


def _parse_params(path: Path) -> Any:
    try:
        return {"model": read_params(path)}
    except UnreadableParamsError as error:
        raise InputError(f"{path}: {error}") from None
    except ParamsError as error:
        raise _damaged(path, error) from None


def _other_zip(path: Path) -> str:
    """Return likewise what a zip archive that torch.save did not write is; "" if unknown."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # a damaged directory, which torch's reader explains
        return ""
    if any(name.rsplit("/", 1)[-1] == "archive_format" for name in names):
        return "a torch.export program; give the checkpoint that it was exported from"
    if any(name.endswith(".npy") for name in names):
        return "a NumPy archive (.npz); expected .pth, .pkl or .safetensors"
    if any(re.search(r"(^|/)constants\.pkl$", name) for name in names):
        return "a TorchScript archive; save the model's state_dict() instead"
    if not any(re.search(r"(^|/)data\.pkl$", name) for name in names):
        return "a zip archive without weights of torch.save; unpack it and give the checkpoint inside"
    return ""


def _parse_torch(path: Path, trust: bool) -> Any:
    other = _other_zip(path)
    if other:
        raise DamagedFileError(f"{path} is {other}")
    try:
        with numpy_allowed():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        name = refused_name(error)
        if not name:
            raise _damaged(path, error) from None
        if not trust:
            raise _refused(path, name) from None
    except Exception as error:  # torch's zip reader and unpickler raise many types
        raise _damaged(path, error) from None
    return _executed(path, lambda: torch.load(path, map_location="cpu", weights_only=False))


def _parse_pickle(path: Path, trust: bool) -> Any:
    with path.open("rb") as stream:
        try:
            return _ArrayUnpickler(stream, encoding="latin1").load()
        except _ForbiddenGlobalError as error:
            if not trust:
                raise _refused(path, str(error)) from None
        except Exception as error:  # a truncated pickle raises many types
            raise _damaged(path, error) from None
        stream.seek(0)
        return _executed(path, lambda: pickle.load(stream, encoding="latin1"))


def _executed(path: Path, load: Callable[[], Any]) -> Any:
    """Return what a trusted pickle builds, with a warning."""
    logger.warning("%s: executing the pickled code in it, as --trust-checkpoint says", path)
    try:
        return load()
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{path} needs code that cannot be imported ({' '.join(str(error).split())}); add it to "
            "PYTHONPATH, or save the model's state_dict() where it can"
        ) from None


def _parse_safetensors(path: Path, size: int) -> Any:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise InputError(f"{path}: reading .safetensors needs safetensors; pip install safetensors") from None
    try:
        with safe_open(path, framework="pt", device="cpu") as stream:
            content: dict[str, Any] = {"model": {key: stream.get_tensor(key) for key in stream.keys()}}  # noqa: SIM118
            metadata = stream.metadata() or {}
    except SafetensorError as error:
        raise _damaged(path, error) from None
    if "segzoo" in metadata:
        try:
            content["segzoo"] = json.loads(metadata["segzoo"])
        except ValueError as error:
            raise _damaged(path, error) from None
    return content


def _check_sums(path: Path) -> None:
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            damaged_part = archive.testzip()
            for part in archive.infolist():
                # The checksums do not show a member that claims to be longer than it is, or to be a folder,
                # and torch would return uninitialized memory for it.
                longer = part.compress_type == zipfile.ZIP_STORED and part.file_size != part.compress_size
                if longer or part.external_attr & _FOLDER:
                    raise zipfile.BadZipFile(f"wrong directory entry of {part.filename}")
    except Exception as error:  # a damaged header raises many types (negative seek, encryption)
        raise _damaged(path, error) from None
    if damaged_part:
        raise _damaged(path, ValueError(f"wrong checksum in {damaged_part}"))


def _damaged(path: Path, error: Exception) -> DamagedFileError:
    reason = " ".join(str(error).split("WeightsUnpickler error:")[-1].split())[:120] or type(error).__name__
    size = path.stat().st_size
    return DamagedFileError(
        f"{path} is truncated or damaged ({size} bytes; {reason}); copy or download it again"
    )


def _refused(path: Path, name: str) -> InputError:
    return InputError(
        f"{path} contains pickled {name}. Convert it, or pass --trust-checkpoint if you trust its source."
    )


def refused_name(error: pickle.UnpicklingError) -> str:
    """Return the class or function that torch refused to unpickle; "" for another error."""
    match = re.search(r"unsupported (?:global: )?GLOBAL (\S+)", str(error), re.IGNORECASE)
    return match.group(1) if match else ""


# ---------------------------------------------------------------------------------------------------------
# What a pickle may name

_NUMPY_TYPES = (np.ndarray, np.dtype, *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"})


def _under_name(function: Callable[..., Any], module: str, name: str) -> Callable[..., Any]:
    """Return the function under the name `module.name`, which torch compares with the pickle's."""

    def renamed(*arguments: Any) -> Any:
        return function(*arguments)

    renamed.__module__, renamed.__name__, renamed.__qualname__ = module, name, name
    return renamed


# numpy 1 and numpy 2 pickle different names of the same functions. Each function is taken from numpy itself
# and allowed under both names, so that either version reads files of the other.
_NUMPY_FUNCTIONS = {
    f"numpy.{core}.{module}.{name}": _under_name(function, f"numpy.{core}.{module}", name)
    for core in ("core", "_core")
    for module, name, function in (
        ("multiarray", "_reconstruct", np.empty(0).__reduce__()[0]),
        ("multiarray", "scalar", np.float32(0).__reduce__()[0]),
        ("numeric", "_frombuffer", np.empty(0).__reduce_ex__(5)[0]),
    )
}


def numpy_allowed() -> contextlib.AbstractContextManager[Any]:
    """Let `torch.load(weights_only=True)` read numpy arrays and scalars."""
    return globals_allowed(*_NUMPY_FUNCTIONS.values(), *_NUMPY_TYPES)


def globals_allowed(*objects: Any) -> contextlib.AbstractContextManager[Any]:
    """Let `torch.load(weights_only=True)` use these classes and functions."""
    safe_globals = getattr(torch.serialization, "safe_globals", None)
    if safe_globals is None:  # torch < 2.5: such files need --trust-checkpoint
        return contextlib.nullcontext()
    return safe_globals(list(objects))


class _ForbiddenGlobalError(Exception):
    """Error for a pickle that names a class or function that reading weights does not need."""


def _load_storage(content: bytes) -> Any:
    """Load a storage, instead of `torch.storage._load_from_bytes`, which would unpickle anything."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


_ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": collections.OrderedDict,
    "torch.storage._load_from_bytes": _load_storage,
    "torch._utils._rebuild_tensor": torch._utils._rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    "torch.Size": torch.Size,
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    **_NUMPY_FUNCTIONS,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler of containers, numbers, strings, numpy arrays and torch tensors that refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name == "_codecs.encode":  # how protocol 2 encodes bytes
            return encode_latin1
        if full_name not in _ALLOWED:
            raise _ForbiddenGlobalError(full_name)
        return _ALLOWED[full_name]
