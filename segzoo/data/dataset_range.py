"""Estimating the range of a dataset's images of more than 8 bits: one range for all of its splits."""

import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from .dataset_file import DatasetFile, is_builtin
from .images import has_more_than_8_bits, range_of_files
from .layouts import image_files
from .pixel_range import FULL_16_BITS, PixelRange

logger = logging.getLogger(__name__)

# Number of images of a split that are read, evenly spaced.
SAMPLE = 32

# {dataset YAML, without links: its range}, so that images are not read again at every evaluation.
_found: dict[Path, PixelRange | None] = {}
# (dataset YAML, without links; a sample of one split's images, which have 8 bits).
_have_8_bits: set[tuple[Path, tuple[str, ...]]] = set()


def dataset_range(dataset: DatasetFile, file_names: Sequence[str] | None = None) -> PixelRange | None:
    """Return the YAML's `image_range`, else the range that fits a sample of the images of all splits.

    Built-in datasets have 8 bits. An estimate of less than 16 bits is logged once.

    Args:
        file_names: images of one of the splits, by default those that are found. Images of other splits are
            only read if a sample of these has any of more than 8 bits.

    Returns:
        None if no image of the sample has more than 8 bits.
    """
    if dataset.image_range is not None:
        return PixelRange(*dataset.image_range)
    if is_builtin(dataset.path):
        return None
    path = dataset.path.resolve()
    if path not in _found:
        first = _spread(file_names) if file_names is not None else _sample(dataset)
        sample = path, tuple(first)
        if sample in _have_8_bits:
            return None
        if not any(map(has_more_than_8_bits, first)):
            _have_8_bits.add(sample)
            return None
        _found[path] = _fitting(dataset, list(dict.fromkeys(chain(first, _sample(dataset)))))
    return _found[path]


def training_range(names: Sequence[str]) -> tuple[float, ...]:
    """Return the common `dataset_range`, (lowest, highest), of the datasets that have one, or ()."""
    from detectron2.data import MetadataCatalog  # not above: a slow import that configurations do not need

    readers = [MetadataCatalog.get(name).get("label_reader") for name in names]
    ranges = [dataset_range(reader.dataset) for reader in readers if reader is not None]
    found = {tuple(one[:2]) for one in ranges if one is not None}
    # Ranges differ if image depths differ: each dataset keeps its own.
    return found.pop() if len(found) == 1 else ()


def forget_range(dataset: DatasetFile) -> None:
    """Forget the estimated range of a dataset, so that its images are read again."""
    path = dataset.path.resolve()
    _found.pop(path, None)
    _have_8_bits.difference_update([one for one in _have_8_bits if one[0] == path])


def _sample(dataset: DatasetFile) -> list[str]:
    return [file for split in dataset.splits for file in _spread(image_files(dataset, split))]


def _spread(file_names: Sequence[str]) -> list[str]:
    indices = np.linspace(0, len(file_names) - 1, min(SAMPLE, len(file_names)))
    return [file_names[index] for index in np.unique(indices.astype(int))]


def _fitting(dataset: DatasetFile, file_names: Sequence[str]) -> PixelRange | None:
    found = range_of_files(file_names, dataset.path.name)
    if found is not None and found.high < FULL_16_BITS.high:
        logger.warning(
            "%s: the 16 bits of its images hold no value above %d in a sample of %d, which is used as white; "
            "set image_range: [0, %d] there to confirm it",
            *(dataset.path.name, found.high, len(file_names), found.high),
        )
    return found
