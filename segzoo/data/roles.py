"""Choosing the splits of a dataset file for training and testing by their names."""

import re
from collections.abc import Sequence

from segzoo.utils.errors import InputError
from segzoo.utils.text import some

from .dataset_file import DatasetFile

# The first group with a match counts. trainval contains the images of val.
_TRAINING = (("train", "training"), ("trainval",))
_TESTING = (("val", "valid", "validation", "dev"), ("test", "testing", "eval"))
# trainval in other spellings: train_val, train-validation.
_TRAINVAL = re.compile(r"(?<![a-z])train(?:ing)?[^a-z]+(?:val|valid|validation|dev)(?![a-z])")


def training_split(dataset: DatasetFile) -> str:
    """Return the registered name of the split to train on, the one with "train" in its name.

    If no name matches, the values of template fields are compared. A single split with labels serves both
    training and testing.

    Raises:
        InputError: none or several match.
    """
    return _find(dataset, _TRAINING, "DATASETS.TRAIN")


def test_split(dataset: DatasetFile) -> str:
    """Return the registered name of the split to test on, with "val" or "test"; see `training_split`."""
    return _find(dataset, _TESTING, "DATASETS.TEST")


def _find(dataset: DatasetFile, groups: Sequence[Sequence[str]], key: str) -> str:
    labeled = [split for split in dataset.splits if split not in dataset.without_labels]
    # Several names for the same images count once.
    distinct = {tuple(sorted(dataset.splits[split].items())): split for split in reversed(labeled)}
    splits = [split for split in labeled if split in distinct.values()]
    fitting: list[str] = splits if len(splits) == 1 else []
    for words in groups:
        fitting = fitting or [split for split in splits if set(words) & _words(split)]
        fitting = fitting or [
            split for split in splits if set(words) & _words(*dataset.splits[split].values())
        ]
    if len(fitting) == 1:
        return fitting[0]
    found = f"{some(fitting)} could be meant" if fitting else f"its splits are {some(splits, 8)}"
    example = (fitting or splits or ["NAME"])[0]
    raise InputError(f"{dataset.path.name}: {found}; choose one: {key} \"('{example}',)\"")


def _words(*texts: str) -> set[str]:
    joined = (_TRAINVAL.sub("trainval", text.lower()) for text in texts)
    return set(re.findall(r"[a-z]+", " ".join(joined)))
