"""Evaluation in shards: independent jobs score one part of the test set each, can be killed, and are merged.

A shard saves the records that its evaluators would send to the main process (`BackgroundEvaluator.partial`)
in OUTPUT_DIR/inference/shards/<dataset>/<i>_of_<n>, and resumes after them when started again. The job that
finds all shards complete merges the parts like those of several processes, and writes the results that a
single job would have written.
"""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm
from torch import nn

from segzoo.checkpoint import require_loaded
from segzoo.data import describe_reading
from segzoo.data.handover import report_ended_workers
from segzoo.evaluation import BackgroundEvaluator, evaluator_protocols
from segzoo.utils.dataset_records import dataset_records
from segzoo.utils.errors import InputError

from .cuda_settings import exact_settings
from .evaluation_loop import (
    describe_protocol,
    describe_resizing,
    describe_speed,
    feed,
    inference_folder,
    report,
    tested_model,
    trainer_evaluators,
)
from .progress import Stopwatch
from .shard_files import Part, Shard, ShardFiles
from .skipped_files import describe_skipped
from .trainer import Trainer
from .trainers import find_trainer

logger = logging.getLogger(__name__)


class _Saver(DatasetEvaluator):
    """Evaluator that feeds others, and saves their records and resets them every `period` images."""

    def __init__(
        self,
        evaluators: list[BackgroundEvaluator],
        write: Callable[[Part], None],
        protocol: dict[str, Any],
        period: int,
    ):
        self.stopwatch = Stopwatch()
        self._evaluators, self._write, self._protocol, self._period = evaluators, write, protocol, period
        self._images: list[str] = []
        self._counted: dict[str, float] = {}

    def reset(self) -> None:
        for one in self._evaluators:
            one.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for one in self._evaluators:
            one.process(inputs, outputs)
        self._images += [entry["file_name"] for entry in inputs]
        if len(self._images) >= self._period:
            self.save({})

    def save(self, skipped: Mapping[str, str]) -> None:
        """Save what was scored since the last save, and reset the evaluators."""
        if not self._images and not skipped:
            return
        for one in self._evaluators:
            one.flush()
        self.stopwatch.lap("scoring")
        seconds = {part: spent - self._counted.get(part, 0) for part, spent in self.stopwatch.seconds.items()}
        scored = {one.task_key: one.partial() for one in self._evaluators}
        self._write(Part(self._protocol, self._images, dict(skipped), seconds, scored))
        self._images, self._counted = [], dict(self.stopwatch.seconds)
        self.reset()


def check_shards() -> None:
    """Raise InputError where an evaluation cannot be split into shards."""
    if comm.get_world_size() > 1:
        raise InputError(
            f"--shard: runs in one process, found {comm.get_world_size()}; start one shard per GPU, with "
            "--num-gpus 1"
        )


def evaluate_shard(
    cfg: CfgNode,
    model: nn.Module,
    shard: Shard,
    *,
    weights: str = "",
    trainer: type[Trainer] | None = None,
) -> dict:
    """Score one shard of every dataset of DATASETS.TEST, resuming where it was interrupted.

    Args:
        model, trainer: as for `evaluate`.
        weights: path or URL of the loaded checkpoint.

    Returns:
        As `evaluate` once all shards are complete, and {} before.

    Raises:
        InputError: as `evaluate`; several processes; or OUTPUT_DIR holds shards of another evaluation.
    """
    require_loaded(model)
    check_shards()
    trainer = trainer or find_trainer(cfg)
    protocol = describe_protocol(cfg, weights, None)
    scored_by, results, images, skipped, speed = {}, {}, {}, {}, {}
    for name in cfg.DATASETS.TEST:
        evaluators = trainer_evaluators(cfg, name, trainer)
        scored_by[name], built = evaluator_protocols(evaluators), _background(evaluators)
        shard_protocol = protocol | {
            "scores": [one.task_key for one in built],
            "evaluators": scored_by[name],
            "save_predictions": cfg.TEST.SAVE_PREDICTIONS,
        }
        modules = {Part.__module__, *(type(one).__module__ for one in built)}
        folder = inference_folder(cfg) / "shards" / name
        files = ShardFiles(folder, json.loads(json.dumps(shard_protocol)), modules)
        _score(cfg, model, shard, name, trainer, built, files)
        shards = _complete_shards(shard.count, name, files)
        if shards:
            results[name] = _merge(built, files, shards)
            images[name] = built[0].image_count
            skipped[name], speed[name] = _totals(files, shards, images[name])
    if len(results) < len(cfg.DATASETS.TEST):
        return {}
    protocol |= describe_resizing(cfg, model)
    protocol["image_reading"] = {
        name: describe_reading(dataset_records(name)[0], cfg.INPUT.IMAGE_RANGE) for name in results
    }
    protocol["evaluators"] = scored_by
    protocol = {**protocol, "datasets": images, **describe_speed(speed), **describe_skipped(skipped, images)}
    return report(cfg, results, protocol)


def _background(evaluators: DatasetEvaluators) -> list[BackgroundEvaluator]:
    """Return the evaluators, after checking that they can be merged and have distinct keys."""
    found: dict[str, BackgroundEvaluator] = {}
    for one in evaluators._evaluators:
        if not isinstance(one, BackgroundEvaluator):
            raise InputError(
                f"--shard: {type(one).__name__} has no `partial` and `merge`; make it a subclass of "
                "BackgroundEvaluator, or use --num-gpus, which splits every test"
            )
        if one.task_key in found:
            raise InputError(
                f"evaluators {type(found[one.task_key]).__name__} and {type(one).__name__} both have the "
                f"task_key {one.task_key!r}; give one of them another task_key"
            )
        found[one.task_key] = one
    return list(found.values())


def _score(
    cfg: CfgNode,
    model: nn.Module,
    shard: Shard,
    name: str,
    trainer: type[Trainer],
    evaluators: list[BackgroundEvaluator],
    files: ShardFiles,
) -> None:
    """Score the remaining images of a shard of a dataset."""
    records, done = shard.part(dataset_records(name)), files.done(shard)
    positions = {record["file_name"]: index for index, record in enumerate(records)}
    if not done <= positions.keys():
        raise InputError(f"{files.path(shard)}: was made with other images of {name}; delete {files.folder}")
    old = files.path(shard).with_suffix(".json")
    if old.exists() and not done:
        logger.warning("%s is of an earlier version and is not read: the shard starts again", old)
    logger.info("Shard %s of %s: %d of %d images are done", shard, name, len(done), len(records))
    left = [record for record in records if record["file_name"] not in done]
    if not left:
        return

    def write(part: Part) -> None:
        files.write(shard, min(positions[name] for name in (*part.images, *part.skipped)), part)

    saver = _Saver(evaluators, write, files.protocol, max(cfg.TEST.SHARD_PERIOD, 1))
    tested = tested_model(cfg, model, name)
    loader = trainer.build_test_loader(cfg, name, dataset=left)
    with report_ended_workers(cfg.DATALOADER.NUM_WORKERS), exact_settings(cfg.CUDNN_BENCHMARK):
        feed(tested, loader, saver, saver.stopwatch, tasks=cfg.TEST.TASKS)
        saver.save(getattr(loader, "skipped_images", {}))


def _complete_shards(count: int, name: str, files: ShardFiles) -> list[Shard]:
    """Return all shards of a dataset, or [] while any is unfinished."""
    shards = [Shard(index, count) for index in range(1, count + 1)]
    records = dataset_records(name)
    unfinished = [
        one for one in shards if files.done(one) != {record["file_name"] for record in one.part(records)}
    ]
    if unfinished:
        logger.info("Not yet complete on %s: shards %s", name, ", ".join(map(str, unfinished)))
    return [] if unfinished else shards


def _merge(evaluators: list[BackgroundEvaluator], files: ShardFiles, shards: list[Shard]) -> dict[str, dict]:
    """Return what `evaluate` of the evaluators returns, {task_key: {metric: value}}."""
    results: dict[str, dict] = {}
    for one in evaluators:
        # Each evaluator reads the files separately: the parts of all would need much memory.
        merged = one.merge(part.scored[one.task_key] for part in files.read(*shards))
        if not one.image_count:
            message = next(file for part in files.read(*shards) for file in part.skipped.values())
            raise InputError(f"{one.dataset_name}: none of its images can be used; {message}")
        results |= one.metrics_by_key(merged)
    return results


def _totals(files: ShardFiles, shards: list[Shard], images: int) -> tuple[dict[str, str], dict[str, float]]:
    """Return the skipped images with their messages, and the seconds per image, over all shards."""
    skipped, seconds = {}, dict.fromkeys(("data", "compute", "scoring"), 0.0)
    for part in files.read(*shards):
        skipped |= part.skipped
        seconds = {key: spent + part.seconds.get(key, 0.0) for key, spent in seconds.items()}
    return skipped, {key: spent / images for key, spent in seconds.items()}
