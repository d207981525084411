"""Records of several datasets one after the other, or some of them, in little memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetFromList

from .stored_records import Record


class _ChosenRecords(Sequence[Record]):
    """Records at given indices of several sequences, one after the other, without a copy of them."""

    def __init__(self, parts: Sequence[Sequence[Record]], indices: np.ndarray | None = None) -> None:
        self.parts, self.indices = parts, indices
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1]) if self.indices is None else len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        number = range(len(self))[index]
        number = number if self.indices is None else int(self.indices[number])
        part = int(np.searchsorted(self.ends, number, side="right"))
        return self.parts[part][number - int(self.ends[part]) + len(self.parts[part])]


def joined_records(parts: Sequence[Sequence[Record]]) -> Sequence[Record]:
    """Return all records of several datasets; stored ones stay so."""
    if all(isinstance(part, list) for part in parts):
        return [record for part in parts for record in part]
    return parts[0] if len(parts) == 1 else _ChosenRecords([compact_records(part) for part in parts])


def chosen_records(records: Sequence[Record], chosen: Sequence[bool]) -> Sequence[Record]:
    """Return the records that are chosen; stored ones stay so."""
    if isinstance(records, list):
        return [record for record, keep in zip(records, chosen, strict=True) if keep]
    return _ChosenRecords([records], np.flatnonzero(chosen))


def compact_records(records: Sequence[Record]) -> Sequence[Record]:
    """Return records in a form that forked processes share: a list by Detectron2, stored ones as they are."""
    return DatasetFromList(records, copy=False) if isinstance(records, list) else records
