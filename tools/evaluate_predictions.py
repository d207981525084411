#!/usr/bin/env python
"""Scores saved predictions again, with no model: `TEST.SAVE_PREDICTIONS True` writes them.

    python tools/evaluate_predictions.py --dataset camvid_val --predictions output/inference

Prints the tables and writes results.json with the protocol under which the predictions were made.
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import segzoo  # noqa: F401  before Detectron2: makes the installed library versions work together

# isort: split
from command_line import CommandLine, explained
from detectron2.data import DatasetCatalog, MetadataCatalog

from segzoo.errors import InputError
from segzoo.evaluation import CLASS_AVERAGING, compare_results
from segzoo.evaluation.saved import rescore, stored_results


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dataset", required=True, help="name of a registered dataset, e.g. ade20k_sem_seg_val"
    )
    parser.add_argument(
        "--predictions",
        required=True,
        metavar="DIR",
        help="the folder with sem_seg/, predictions/ and predictions.json, entity_predictions/ and "
        "entity_predictions.json, coco_instances_results.json, or cityscapes_instances/; usually "
        "OUTPUT_DIR/inference",
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=[],
        metavar="TASK",
        help="semantic, panoptic, entity, instance; default: all found",
    )
    parser.add_argument(
        "--dataset-file", action="append", default=[], metavar="YAML", help="register a dataset file first"
    )
    parser.add_argument("--class-averaging", choices=list(CLASS_AVERAGING), default="valid")
    parser.add_argument("--output", metavar="DIR", help="where results.json goes; default: DIR/rescored")
    return parser.parse_args(arguments)


@explained
def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    return run(options)


def run(options: argparse.Namespace) -> int:
    from segzoo.data import register_dataset_file  # registers the built-in datasets

    for path in options.dataset_file:
        register_dataset_file(path)
    _check_registered(options.dataset)
    stored = stored_results(options.predictions)  # before --output may replace it
    _, path = rescore(
        options.dataset, options.predictions, options.tasks, options.output, options.class_averaging
    )
    print(f"written to {path}")
    if stored is not None:
        _compare_with_stored(options.dataset, stored, path)
    return 0


def _check_registered(name: str) -> None:
    if name in DatasetCatalog:
        return
    known = [known for known in DatasetCatalog if hasattr(MetadataCatalog.get(known), "load_sem_seg")]
    raise InputError(
        f"--dataset {name}: not registered; expected one of {', '.join(sorted(known))}, or its --dataset-file"
    )


def _compare_with_stored(dataset: str, stored: Mapping[str, Any], path: Path) -> None:
    """Says whether the numbers agree with those that were stored with the predictions."""
    try:
        shared = compare_results(stored, path)[dataset]
    except (InputError, KeyError):
        return  # predictions of another program, or of other images: nothing to compare with
    changed = {key: pair for key, pair in shared.items() if pair[0] != pair[1]}
    print(f"{len(shared) - len(changed)} of {len(shared)} numbers equal those stored with the predictions")
    for key, (before, after) in changed.items():
        print(f"  {key}: stored {before}, now {after}")


if __name__ == "__main__":
    sys.exit(main())
