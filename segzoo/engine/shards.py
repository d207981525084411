"""Testing in shards: independent jobs score a part of the test set each, can be killed, and are merged.

A shard keeps what it has scored in OUTPUT_DIR/inference/shards/<dataset>/<i>_of_<n>.json: a confusion matrix
and the images in it. Started again, it goes on after them. The job that finds all shards complete writes the
results that a single job would have written.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.utils import comm
from torch import nn

from segzoo.data import build_test_loader, reading_facts
from segzoo.evaluation import SemanticEvaluator
from segzoo.utils.errors import InputError
from segzoo.utils.files import write_text

from .evaluation_loop import (
    build_evaluators,
    evaluation_mode,
    given_up_on_error,
    inference_folder,
    protocol_facts,
    report,
    resizing_facts,
    speed_facts,
    tested_model,
)
from .progress import Stopwatch
from .skipped_files import skipped_facts

logger = logging.getLogger(__name__)

FOLDER = "shards"


@dataclass(frozen=True)
class Shard:
    """The `index`-th of `count` parts of a test set, counted from 1."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Reads "i/n".

        Raises:
            InputError: not of that form, or not 1 <= i <= n.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise InputError(f"--shard {text}: expected i/n with 1 <= i <= n, such as 1/4, 2/4, 3/4 and 4/4")
        return cls(int(match[1]), int(match[2]))

    def part(self, records: Sequence[Mapping]) -> list[Mapping]:
        """A run of consecutive records; the shards' parts are equally long, but for one record."""
        bounds = [len(records) * index // self.count for index in (self.index - 1, self.index)]
        return list(records[slice(*bounds)])


@dataclass
class ShardState:
    """What a shard has scored so far.

    Attributes:
        facts: how; a shard goes on, and is merged, only where they agree.
        total: images of the shard.
        matrix: (K + 1, K + 1) int64, the confusion matrix of `SemanticEvaluator`.
        images: file names, in order.
        skipped: {file name: what is wrong} of those that DATALOADER.ON_ERROR skip passed over.
        seconds: spent on "data", "compute" and "scoring".
    """

    facts: dict[str, Any]
    total: int
    matrix: np.ndarray
    images: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.images) + len(self.skipped) == self.total

    def save(self, path: Path) -> None:
        rows, columns = np.nonzero(self.matrix)
        entries = np.stack([rows, columns, self.matrix[rows, columns]], 1).tolist()
        document = {
            "facts": self.facts,
            "total": self.total,
            "classes": len(self.matrix) - 1,
            "seconds": self.seconds,
            "images": self.images,
            "skipped": self.skipped,
            "matrix": entries,
        }
        write_text(path, json.dumps(document))

    @classmethod
    def load(cls, path: Path) -> "ShardState":
        """Raises InputError for a file that is not one of these."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            matrix = np.zeros((document["classes"] + 1,) * 2, np.int64)
            for row, column, count in document["matrix"]:
                matrix[row, column] = count
            keys = ("images", "skipped", "seconds")
            return cls(document["facts"], document["total"], matrix, **{key: document[key] for key in keys})
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise InputError(f"{path}: not the state of a shard ({error}); delete it") from None


def check_shards(cfg: CfgNode) -> None:
    """Raises InputError where a test cannot be split into shards."""
    if tuple(cfg.TEST.TASKS) != ("semantic",):
        raise InputError(
            f"--shard supports the semantic task only, but TEST.TASKS is {tuple(cfg.TEST.TASKS)}; set "
            "TEST.TASKS \"('semantic',)\", or use --num-gpus, which splits every task"
        )
    if comm.get_world_size() > 1:
        raise InputError(
            f"--shard runs in one process, found {comm.get_world_size()}; start a shard for each GPU, "
            "with --num-gpus 1"
        )


def evaluate_shard(cfg: CfgNode, model: nn.Module, shard: Shard, *, weights: str = "") -> dict:
    """Scores one shard of every dataset of DATASETS.TEST, going on where it was interrupted.

    Args:
        model: as for `evaluate`.
        weights: path or URL of what the model has loaded.

    Returns:
        What `evaluate` returns once all shards are complete, and {} before.

    Raises:
        InputError: as `evaluate`; tasks other than semantic; several processes; or OUTPUT_DIR holds shards of
            another test.
    """
    check_shards(cfg)
    facts = json.loads(json.dumps(protocol_facts(cfg, weights, None)))
    states = {}
    for name in cfg.DATASETS.TEST:
        _run(cfg, model, shard, name, facts)
        states[name] = _complete_states(cfg, shard, name, facts)
    if not all(states.values()):
        return {}
    results, images, speed, skipped = {}, {}, {}, {}
    for name, parts in states.items():
        evaluator = _evaluator(cfg, name)
        tables = [(state.matrix, [(image, []) for image in state.images]) for state in parts]
        results[name] = {evaluator.task_key: evaluator.summarize(evaluator.merge(tables))}
        images[name] = evaluator.image_count
        skipped[name] = {file: message for state in parts for file, message in state.skipped.items()}
        if not images[name]:
            raise InputError(f"{name}: none of its images can be used; {next(iter(skipped[name].values()))}")
        speed[name] = {
            key: sum(state.seconds.get(key, 0.0) for state in parts) / images[name]
            for key in ("data", "compute", "scoring")
        }
    # Not a fact of the shards, so that those begun before it was recorded go on.
    facts |= resizing_facts(cfg, model)
    facts["image_reading"] = {
        name: reading_facts(DatasetCatalog.get(name)[0], cfg.INPUT.IMAGE_RANGE) for name in states
    }
    facts = {**facts, "datasets": images, **speed_facts(speed), **skipped_facts(skipped, images)}
    return report(cfg, results, facts)


def _run(cfg: CfgNode, model: nn.Module, shard: Shard, name: str, facts: dict) -> None:
    """Scores what is left of a shard of a dataset."""
    records = shard.part(DatasetCatalog.get(name))
    evaluator = _evaluator(cfg, name)
    path = _path(cfg, shard, name)
    state = ShardState(facts, len(records), np.zeros_like(evaluator.confusion_matrix))
    if path.exists():
        state = ShardState.load(path)
        _check_facts(path, state.facts, facts)
        done = {*state.images, *state.skipped}
        if state.total != len(records) or not done <= {record["file_name"] for record in records}:
            raise InputError(f"{path}: was made with other images of {name}; delete {path.parent}")
        records = [record for record in records if record["file_name"] not in done]
    logger.info(
        "Shard %d/%d of %s: %d of %d images are done",
        shard.index,
        shard.count,
        name,
        len(state.images),
        state.total,
    )
    state.save(path)
    tested = tested_model(cfg, model, name)
    period = max(cfg.TEST.SHARD_PERIOD, 1)
    if not records:
        return
    stopwatch, before, unsaved = Stopwatch(), dict(state.seconds), 0
    with given_up_on_error(evaluator), evaluation_mode(tested), torch.no_grad():
        loader = build_test_loader(cfg, name, dataset=records)
        for inputs in loader:
            stopwatch.lap("data")
            outputs = tested(inputs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            stopwatch.lap("compute")
            evaluator.process(inputs, outputs)
            stopwatch.lap("scoring")
            unsaved += len(inputs)
            if unsaved >= period:
                _keep(evaluator, state, stopwatch, before, path)
                unsaved = 0
    state.skipped |= loader.skipped_images
    if unsaved or loader.skipped_images:
        _keep(evaluator, state, stopwatch, before, path)


def _keep(
    evaluator: SemanticEvaluator,
    state: ShardState,
    stopwatch: Stopwatch,
    before: Mapping[str, float],
    path: Path,
) -> None:
    """Moves what the evaluator has scored to the state, and saves that."""
    evaluator.flush()
    state.matrix += evaluator.confusion_matrix
    state.images += [file_name for file_name, _ in evaluator.records]
    evaluator.confusion_matrix[:] = 0
    evaluator.records.clear()
    stopwatch.lap("scoring")
    state.seconds = {key: before.get(key, 0.0) + spent for key, spent in stopwatch.seconds.items()}
    state.save(path)
    logger.info("%s: %d of %d images are done", path.stem, len(state.images), state.total)


def _complete_states(cfg: CfgNode, shard: Shard, name: str, facts: dict) -> list[ShardState]:
    """The states of all shards of a dataset; [] while any is missing or unfinished."""
    states, open_shards = [], []
    for index in range(1, shard.count + 1):
        path = _path(cfg, Shard(index, shard.count), name)
        state = ShardState.load(path) if path.exists() else None
        if state is None or not state.complete:
            open_shards.append(f"{index}/{shard.count}")
            continue
        _check_facts(path, state.facts, facts)
        states.append(state)
    if open_shards:
        logger.info("Not yet complete on %s: shards %s", name, ", ".join(open_shards))
        return []
    return states


def _check_facts(path: Path, found: Mapping, expected: Mapping) -> None:
    for key in expected:
        if found.get(key) != expected[key]:
            raise InputError(
                f"{path}: was made with {key} {json.dumps(found.get(key))}, now it is "
                f"{json.dumps(expected[key])}; delete the folder to test anew, or choose another OUTPUT_DIR"
            )


def _evaluator(cfg: CfgNode, name: str) -> SemanticEvaluator:
    return build_evaluators(cfg, name)._evaluators[0]


def _path(cfg: CfgNode, shard: Shard, name: str) -> Path:
    return Path(inference_folder(cfg), FOLDER, name, f"{shard.index}_of_{shard.count}.json")
