"""A split whose files were all read, and a finding on it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from segzoo.data import DatasetFile

from .inspection import (
    SplitReport,
)
from .remedies import (
    Files,
    Option,
)


class Finding(NamedTuple):
    """A problem of a split, or a note on it.

    Attributes:
        is_problem: False for a note, which does not fail the check.
        split: registered name.
        text, remedy: one line each.
        files: a message for each of the files.
        options: alternative keys for the YAML, where setting them is the whole remedy.
    """

    is_problem: bool
    split: str
    text: str
    remedy: str = ""
    files: tuple[str, ...] = ()
    options: tuple[Option, ...] = ()


class CheckedSplit(NamedTuple):
    """A split whose files were all read."""

    name: str
    dataset: DatasetFile
    records: Sequence[Mapping[str, Any]]
    report: SplitReport

    @property
    def has_labels(self) -> bool:
        return self.name not in self.dataset.without_labels

    def files(self) -> Files | None:
        """Return the semantic label files, or None if the split has none."""
        layout = self.records[0]["layout"] if self.records else 0
        encoding = self.dataset.layouts[layout].encoding
        if encoding is None or not self.has_labels or not self.report.stored.files:
            return None
        return Files(self.dataset, self.name, layout, encoding, self.report.stored)

    def label_files(self) -> set[str]:
        """Return the paths of all label files of the split."""
        found: set[str] = set()
        for record in self.records:
            for key in ("sem_seg_file_name", "pan_seg_file_name"):
                names = record.get(key, ())
                found.update([names] if isinstance(names, str) else names)
        return found
