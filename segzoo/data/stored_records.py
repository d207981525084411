"""Records in a compact form, in memory or in a file that processes map into memory together.

A hundred thousand records as Python objects take a gigabyte in every process, and forked workers copy them
as they count references. Stored ones are decoded one at a time; the pages of a file are shared by all
processes of a machine.
"""

import errno
import marshal
import mmap
import os
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, overload

import numpy as np

_MAGIC = b"SEGZOOR1"
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
# Number of records, bytes of the description, bytes of the records, checksum of all that follows.
_HEADER = struct.Struct("<8sQQQQ")
_OFFSET = np.dtype("<u8")
_BOXES, _MODE = "annotations", "bbox_mode"

Record = dict[str, Any]


class StoredRecords(Sequence[Record]):
    """Dataset dicts that are decoded when they are asked for: each time a new dict, which may be changed.

    Args:
        content: what `write_records` has written.
        path: the file that `content` is mapped from; while it exists another process gets the same mapping.
        added: entries that every record gets.

    Attributes:
        description: what was given to `write_records`.

    Raises:
        ValueError: the content is damaged, or has another format.
    """

    def __init__(
        self,
        content: bytes | mmap.mmap,
        path: Path | None = None,
        added: Mapping[str, Any] | None = None,
    ) -> None:
        self._content, self._path, self._added = content, path, dict(added or {})
        if len(content) < _HEADER.size:
            raise ValueError("it is too short")
        magic, count, described, size, checksum = _HEADER.unpack_from(content)
        start = _HEADER.size + described
        self._first = start + _OFFSET.itemsize * (count + 1)
        if magic != _MAGIC or len(content) != self._first + size:
            raise ValueError("it is not of this format, or not complete")
        with memoryview(content) as view, view[_HEADER.size :] as body:
            if zlib.crc32(body) != checksum:
                raise ValueError("its checksum is wrong")
        self.description: dict[str, Any] = marshal.loads(content[_HEADER.size : start])
        # A copy: a view would keep the mapping open.
        self._offsets = np.frombuffer(content[start : self._first], _OFFSET)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        start, end = (self._first + int(offset) for offset in self._offsets[number : number + 2])
        record = _restored(marshal.loads(self._content[start:end]))
        record.update(self._added)
        return record

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple:
        # The file may have been removed since; the mapping keeps its content.
        if self._path is None or not self._path.exists():
            return StoredRecords, (bytes(self._content), None, self._added)
        return _reopened, (self._path, self._added)

    def with_entries(self, added: Mapping[str, Any]) -> "StoredRecords":
        """Return the same records with more entries; the content is shared."""
        copied = object.__new__(StoredRecords)
        copied.__dict__.update(self.__dict__, _added={**self._added, **added})
        return copied


def write_records(
    stream: IO[bytes], records: Sequence[Mapping[str, Any]], description: Mapping[str, Any]
) -> None:
    """Write records, and any description of them, to a seekable stream.

    Both are of Python's plain types, except for the `bbox_mode` of annotations.

    Raises:
        ValueError: a value of another type.
    """
    described = marshal.dumps(dict(description))
    offsets = np.zeros(len(records) + 1, _OFFSET)
    first = _HEADER.size + len(described) + offsets.nbytes
    stream.seek(first)
    for number, record in enumerate(records, 1):
        plain = _plain(record)
        content = marshal.dumps(plain)
        # A value of numpy's types would become bytes.
        if marshal.loads(content) != plain:
            raise ValueError("records hold values of other types than Python's plain ones")
        stream.write(content)
        offsets[number] = offsets[number - 1] + len(content)
    size = int(offsets[-1])
    stream.seek(_HEADER.size)
    stream.write(described + offsets.tobytes())
    stream.flush()
    stream.seek(_HEADER.size)
    checksum = 0
    while block := stream.read(1 << 20):
        checksum = zlib.crc32(block, checksum)
    stream.seek(0)
    stream.write(_HEADER.pack(_MAGIC, len(records), len(described), size, checksum))


def open_records(path: Path) -> StoredRecords:
    """Map a file of `write_records` into memory.

    Raises:
        OSError: it cannot be opened; or it belongs to another user, or its group or all may write to it:
            `marshal` must not read what others have made.
        ValueError: it is damaged.
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if status.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, f"it belongs to the user {status.st_uid}")
        if status.st_mode & _WRITABLE_BY_OTHERS:
            raise PermissionError(errno.EPERM, "other users can write to it")
        return StoredRecords(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), path)


def open_for_records(path: Path) -> IO[bytes]:
    """Create a file, or empty one, to write records to; other users may not write to a new one."""
    return open(path, "w+b", opener=lambda name, flags: os.open(name, flags, 0o644))


def _reopened(path: Path, added: Mapping[str, Any]) -> StoredRecords:
    return open_records(path).with_entries(added)


def _plain(record: Mapping[str, Any]) -> Record:
    """Return a record with Detectron2's modes of boxes as numbers."""
    if _BOXES not in record:
        return dict(record)
    boxes = [{**one, _MODE: int(one[_MODE])} if _MODE in one else one for one in record[_BOXES]]
    return {**record, _BOXES: boxes}


def _restored(record: Record) -> Record:
    """Set the modes of boxes, in place."""
    annotations = record.get(_BOXES)
    if annotations:
        from detectron2.structures import BoxMode  # not above: it imports torchvision

        for one in annotations:
            if _MODE in one:
                one[_MODE] = BoxMode(one[_MODE])
    return record
