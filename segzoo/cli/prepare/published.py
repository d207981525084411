"""Count the images of a copy of DATASET; there is nothing to prepare.

    segzoo prepare DATASET
    segzoo prepare DATASET --root /data/copy

segzoo reads the files as unpacked. `segzoo check-data DATASET` checks all of them.
"""

import argparse

from segzoo.data import read_dataset_file

from .common import at_root, check_splits


def prepare(arguments: argparse.Namespace) -> bool:
    """Print the number of images of each split; return whether all have the published number."""
    dataset = at_root(read_dataset_file(arguments.dataset), arguments.root)
    optional = sorted(dataset.without_labels)
    return check_splits(dataset, skip=optional)[1]
