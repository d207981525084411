"""Findings on images that two splits share."""

from collections.abc import Sequence
from itertools import combinations

from .checked import CheckedSplit, Finding
from .inspection import shared_images


def shared_image_findings(splits: Sequence[CheckedSplit]) -> list[Finding]:
    """Return a finding for each two splits that share images."""
    found = []
    for first, second in combinations(splits, 2):
        pairs = shared_images(first.records, second.records, (first.report.files_of, second.report.files_of))
        if not pairs:
            continue
        text = f"{len(pairs):,} images are in both {first.name} and {second.name}, first {pairs[0][1]}"
        meant = _may_overlap(first.name, second.name)
        remedy = "" if meant else "remove them from one split: scores on training images are meaningless"
        files = tuple(f"{one} = {other}" for one, other in pairs)
        found.append(Finding(not meant, second.name, text, remedy, files))
    return found


def _may_overlap(first: str, second: str) -> bool:
    """Return whether two splits may share images, as train and trainval or two validation sets do.

    No split may share them with a test set.
    """
    names = (first, second)
    # Exactly one: where both have it, it is part of the dataset's name.
    if sum("test" in name.split("_") for name in names) == 1:
        return False
    if any("trainval" in name for name in names) or all("train" in name for name in names):
        return True
    return all("val" in name.split("_") and "train" not in name for name in names)
