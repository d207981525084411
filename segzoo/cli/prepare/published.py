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
    # Images without labels are optional where there are others.
    optional = dataset.without_labels if dataset.without_labels < set(dataset.splits) else ()
    return check_splits(dataset, skip=sorted(optional))[1]
