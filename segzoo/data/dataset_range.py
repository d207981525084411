"""The range of a dataset's images of more than 8 bits, where nobody says it: one for all of its splits."""

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

# Images of a split that are looked at, spread over it.
SAMPLE = 32

# {dataset YAML, without links: what was found}. The images are not read again at every evaluation.
_found: dict[Path, PixelRange | None] = {}


def dataset_range(dataset: DatasetFile, file_names: Sequence[str] | None = None) -> PixelRange | None:
    """Return the YAML's `image_range`, else the range that fits a sample of the images of all splits.

    Built-in datasets have 8 bits. What is found out is logged once, where it is less than 16 bits.

    Args:
        file_names: images of one of the splits, by default those that are found. Of other splits, images are
            only read where a sample of these has any of more than 8 bits.

    Returns:
        None where no image of the sample has more than 8 bits.
    """
    if dataset.image_range is not None:
        return PixelRange(*dataset.image_range)
    if is_builtin(dataset.path):
        return None
    path = dataset.path.resolve()
    if path not in _found:
        first = _spread(file_names) if file_names is not None else _sample(dataset)
        if not any(map(has_more_than_8_bits, first)):
            return None
        _found[path] = _fitting(dataset, list(dict.fromkeys(chain(first, _sample(dataset)))))
    return _found[path]


def training_range(names: Sequence[str]) -> tuple[float, ...]:
    """Return the `dataset_range`, (lowest, highest), of those datasets that have one; () where these differ."""
    from detectron2.data import MetadataCatalog  # not above: it takes long, and configurations do without

    readers = [MetadataCatalog.get(name).get("label_reader") for name in names]
    ranges = [dataset_range(reader.dataset) for reader in readers if reader is not None]
    found = {tuple(one[:2]) for one in ranges if one is not None}
    # Ranges that differ are of images of different depth: each dataset keeps its own.
    return found.pop() if len(found) == 1 else ()


def forget_range(dataset: DatasetFile) -> None:
    """Look at the images again when the range is asked for next."""
    _found.pop(dataset.path.resolve(), None)


def _sample(dataset: DatasetFile) -> list[str]:
    return [file for split in dataset.splits for file in _spread(image_files(dataset, split))]


def _spread(file_names: Sequence[str]) -> list[str]:
    indices = np.linspace(0, len(file_names) - 1, min(SAMPLE, len(file_names)))
    return [file_names[index] for index in np.unique(indices.astype(int))]


def _fitting(dataset: DatasetFile, file_names: Sequence[str]) -> PixelRange | None:
    found = range_of_files(file_names, dataset.path.name)
    if found is not None and found.high < FULL_16_BITS.high:
        logger.warning(
            "%s: the 16 bits of its images hold no value above %d in a sample of %d, and that is taken for "
            "white; image_range: [0, %d] there says so without a guess",
            *(dataset.path.name, found.high, len(file_names), found.high),
        )
    return found
