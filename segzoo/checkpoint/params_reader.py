"""Read MXNet's `.params` files, which hold GluonCV's weights, without MXNet.

A file is a list of arrays followed by the list of their names, all numbers little-endian:

    uint64 0x112, uint64 0, uint64 number of arrays
    per array: uint32 version, int32 storage type, int32 ndim, int64[ndim] shape,
               int32 device type, int32 device id, int32 type flag, the values in C order
    uint64 number of names, per name: uint64 length, UTF-8 text

Source: MXNet 1.9.1, `NDArray::Save` in src/ndarray/ndarray.cc; checked against files that it wrote.
"""

import hashlib
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

# The first eight bytes of a file.
MAGIC = struct.pack("<Q", 0x112)
ZIP_MAGIC = b"PK\x03\x04"

_VERSION_2, _VERSION_3 = 0xF993FAC9, 0xF993FACA  # 3: NumPy's shapes, where ndim 0 is a scalar
_OLDER = 0xF993FAC8
_STORAGE = {1: "row-sparse", 2: "sparse (CSR)"}
_TYPES = ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8", "?")  # by type flag
_MOST_DIMENSIONS = 32
_MOST_VALUES = 1 << 48  # NumPy refuses more, even if another side is 0
_LEAST_ARRAY = 12  # bytes of an array without shape
_CHUNK = 1 << 24

# GluonCV's names of published files: the model, and the first digits of the sha1 of its `.params` file.
# Other names may end with eight digits that are no hash, such as a date.
_PUBLISHED = re.compile(
    r"^(?:(?:fcn|psp|deeplab|danet|mask_rcnn|mask_rcnn_fpn)_resnet\d+(?:_v1[a-z])?_[a-z0-9]+"
    r"|deeplab_v3b_plus_wideresnet_[a-z]+|resnet\d+_v1[a-z])-([0-9a-f]{8})\.(?:params|zip)$"
)


class ParamsError(ValueError):
    """Error for a `.params` file that is damaged."""


class UnreadableParamsError(ParamsError):
    """Error for a `.params` file that is intact, perhaps, but not read here; the message says what to do."""


def read_params(path: Path) -> dict[str, Tensor]:
    """Read the arrays of a `.params` file, or of a zip archive that holds one.

    Returns:
        The arrays by name, on the CPU.

    Raises:
        ParamsError: what is wrong with the file, without its name.
    """
    with open_params(path) as (stream, size):
        return dict(_arrays(_Bytes(stream, size)))


def holds_params(archive: zipfile.ZipFile) -> bool:
    """Return whether a zip archive holds `.params` files; `read_params` reads one, and refuses several."""
    return bool(_members(archive))


def published_sha1(name: str) -> str:
    """Return the first digits of the sha1 in the name of one of GluonCV's files; "" for other names."""
    match = _PUBLISHED.match(name)
    return match.group(1) if match else ""


def params_sha1(path: Path) -> str:
    """Return the sha1 of a `.params` file, or of the one in a zip archive, in hexadecimal digits.

    Raises:
        ParamsError: the zip archive is damaged, or does not hold exactly one such file.
    """
    digest = hashlib.sha1(usedforsecurity=False)
    with open_params(path) as (stream, _):
        while block := stream.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def open_params(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """Open a `.params` file, in a zip archive or not, and yield the stream and its number of bytes.

    Raises:
        ParamsError: the zip archive is damaged, or does not hold exactly one such file.
    """
    with path.open("rb") as stream:
        if stream.read(4) != ZIP_MAGIC:
            stream.seek(0)
            yield stream, path.stat().st_size
            return
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive)
            if len(members) != 1:
                raise UnreadableParamsError(
                    f"it holds {len(members)} .params files; unpack it and give one of them"
                )
            (member,) = members
            # Weights are hardly compressible. Such a claim would fill the memory with zeros.
            if member.file_size > max(_CHUNK, 100 * member.compress_size):
                raise UnreadableParamsError(
                    f"{member.filename} has {member.file_size} bytes from {member.compress_size} compressed "
                    "ones; if it is genuine, unpack it and give the .params file"
                )
            with archive.open(member) as stream:
                yield stream, member.file_size
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, zlib.error) as error:
        raise ParamsError(str(error) or type(error).__name__) from None


def _number_of(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    # macOS adds `__MACOSX/._<name>` to its archives.
    return [
        member
        for member in archive.infolist()
        if member.filename.endswith(".params") and not Path(member.filename).name.startswith(".")
    ]


class _Bytes:
    """A stream of known length, of which no more is read than it has."""

    def __init__(self, stream: IO[bytes], size: int):
        self.stream = stream
        self.left = size

    def take(self, count: int, what: str) -> bytes:
        """Return the next `count` bytes; raise ParamsError with `what` if there are fewer."""
        self.need(count, what)
        data = self.stream.read(count)
        if len(data) != count:
            raise ParamsError(f"it ends within {what}")
        self.left -= count
        return data

    def need(self, count: int, what: str) -> None:
        if count > self.left:
            raise ParamsError(f"it ends within {what}: {self.left} bytes are left of {count}")

    def fill(self, array: np.ndarray, what: str) -> None:
        """Fill an array with the next bytes."""
        self.need(array.nbytes, what)
        view = array.reshape(-1).view(np.uint8).data
        done = 0
        while done < array.nbytes:
            # In parts, so that only pages that the stream fills take memory.
            count = self.stream.readinto(view[done : done + _CHUNK])  # type: ignore[attr-defined]
            if not count:
                raise ParamsError(f"it ends within {what}")
            done += count
        self.left -= array.nbytes

    def integers(self, layout: str, what: str) -> tuple[int, ...]:
        layout = f"<{layout}"
        return struct.unpack(layout, self.take(struct.calcsize(layout), what))


def _arrays(data: _Bytes) -> Iterator[tuple[str, Tensor]]:
    magic, _, count = data.integers("QQQ", "its header")
    if struct.pack("<Q", magic) != MAGIC:
        raise ParamsError(f"it starts with {magic:#x}; a .params file starts with 0x112")
    if count * _LEAST_ARRAY > data.left:
        raise ParamsError(
            f"its header says {_number_of(count, 'array')}, more than fit into {data.left} bytes"
        )
    arrays = [_array(data, f"array {index + 1} of {count}") for index in range(count)]
    (named,) = data.integers("Q", "the number of names")
    if named == 0 and count:
        raise UnreadableParamsError(
            f"it has no names of its {_number_of(count, 'array')}; save it with save_parameters"
        )
    if named != count:
        raise ParamsError(f"it holds {_number_of(count, 'array')} and {_number_of(named, 'name')}")
    names = set()
    for index, array in enumerate(arrays):
        what = f"name {index + 1} of {count}"
        (length,) = data.integers("Q", what)
        try:
            name = data.take(length, what).decode()
        except UnicodeDecodeError:
            raise ParamsError(f"{what} is not UTF-8 text") from None
        if name in names:
            raise ParamsError(f"it holds {name} twice")
        names.add(name)
        yield name, array
    if data.left:
        raise ParamsError(f"{data.left} bytes follow its last name")


def _array(data: _Bytes, what: str) -> Tensor:
    version, storage = data.integers("Ii", what)
    if version not in (_VERSION_2, _VERSION_3):
        if version == _OLDER or version <= _MOST_DIMENSIONS:  # the oldest files start with ndim
            raise UnreadableParamsError(
                f"{what} has the format of MXNet before 1.0; load the file in MXNet 1.x and save it again"
            )
        raise ParamsError(f"{what} starts with {version:#x}; expected {_VERSION_2:#x} or {_VERSION_3:#x}")
    if storage != 0:
        kind = _STORAGE.get(storage, f"of storage type {storage}")
        raise UnreadableParamsError(f"{what} is {kind}; only dense arrays are read: save tostype('default')")
    (ndim,) = data.integers("i", what)
    if ndim == (0 if version == _VERSION_2 else -1):  # no array: nothing follows
        return torch.empty(0)
    if not 0 <= ndim <= _MOST_DIMENSIONS:
        raise ParamsError(f"{what} has {ndim} dimensions; expected at most {_MOST_DIMENSIONS}")
    shape = data.integers(f"{ndim}q", what)
    if any(side < 0 for side in shape) or math.prod(max(side, 1) for side in shape) > _MOST_VALUES:
        raise ParamsError(f"{what} has the shape {shape}")
    _, _, flag = data.integers("iii", what)
    if not 0 <= flag < len(_TYPES):
        raise UnreadableParamsError(
            f"{what} has the unknown type flag {flag}; expected 0 to {len(_TYPES) - 1}, or another file"
        )
    dtype = np.dtype(_TYPES[flag])
    data.need(math.prod(shape) * dtype.itemsize, what)  # before memory is allocated
    # A Boolean that is neither 0 nor 1 is undefined.
    values = np.empty(shape, np.uint8 if dtype.kind == "b" else dtype)
    data.fill(values, what)
    if dtype.kind == "b":
        return torch.from_numpy(values != 0)
    return torch.from_numpy(values.astype(dtype.newbyteorder("="), copy=False))
