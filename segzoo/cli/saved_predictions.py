"""`segzoo evaluate --predictions`: score what TEST.SAVE_PREDICTIONS wrote, without a model."""

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from segzoo.data import label_reader
from segzoo.data.roles import test_split
from segzoo.evaluation import compare_results
from segzoo.evaluation.rescore import rescore, stored_results
from segzoo.utils.errors import InputError
from segzoo.utils.terminal import ScreenHandler
from segzoo.utils.text import did_you_mean

from .dataset_option import check_splits, splits_of, tested_splits


def score(options: argparse.Namespace) -> int:
    """Score saved predictions, print the tables and write results.json; return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[ScreenHandler(sys.stdout)])
    dataset = chosen_split(options)
    stored = stored_results(options.predictions)  # before --output may replace it
    _, results = rescore(
        dataset,
        options.predictions,
        options.tasks,
        options.output,
        options.class_averaging,
        evaluators=options.evaluators,
        boundary_dilation=options.boundary_dilation,
        box_ap=options.box_ap,
        entity_area=options.entity_area,
    )
    print(f"written to {results}")
    if stored is not None:
        _compare_with_stored(dataset, stored, results)
    return 0


def chosen_split(options: argparse.Namespace) -> str:
    """Return the registered name of the split that was predicted.

    Raises:
        InputError: there is no such dataset, or it has several splits to test on.
    """
    names = [name for data in (options.data, *options.dataset_file) if data for name in splits_of(data)]
    for split in options.split:
        if options.data:
            check_splits([split], names, options.data)
        if split not in DatasetCatalog:
            known = [one for one in DatasetCatalog if hasattr(MetadataCatalog.get(one), "load_sem_seg")]
            close = did_you_mean(split, known) or f"; expected one of {', '.join(sorted(known))}"
            raise InputError(f"--split {split}: not registered{close}, or --data with its file")
        return split
    names = list(tested_splits(options)) or names
    if not names:
        raise InputError("the dataset is missing; give --data with a dataset YAML or the name of a split")
    return names[0] if len(names) == 1 else test_split(label_reader(names[0]).dataset)


def _compare_with_stored(dataset: str, stored: Mapping[str, Any], path: Path) -> None:
    """Print whether the numbers agree with those stored with the predictions."""
    try:
        shared = compare_results(stored, path)[dataset]
    except (InputError, KeyError):
        return  # predictions of another program, or of other images: nothing to compare with
    changed = {key: pair for key, pair in shared.items() if pair[0] != pair[1]}
    print(f"{len(shared) - len(changed)} of {len(shared)} numbers equal those stored with the predictions")
    for key, (before, after) in changed.items():
        print(f"  {key}: stored {before}, now {after}")
