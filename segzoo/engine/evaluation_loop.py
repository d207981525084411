"""Running a model over the test datasets, and writing the numbers together with how they were made."""

import datetime
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, print_csv_format
from detectron2.utils import comm
from torch import nn

from segzoo.checkpoint import require_loaded
from segzoo.checkpoint.download import file_hash, local_file
from segzoo.data import describe_reading
from segzoo.data.handover import ended_workers_explained
from segzoo.evaluation import (
    EvaluationOptions,
    build_evaluator,
    evaluator_protocols,
    load_results,
    printed_metrics,
    write_results,
)
from segzoo.evaluation.results import RESULTS_FILE
from segzoo.modeling import SegmentationModel, as_segmentation_model
from segzoo.modeling.protocols import (
    InferenceProtocol,
    MapAveraging,
    build_inference_protocol,
    build_protocol_model,
    label_cropper,
)
from segzoo.utils.errors import InputError
from segzoo.utils.files import put_aside
from segzoo.utils.logging import log_fields
from segzoo.utils.threads import free_processors

from .model_description import classes_metadata
from .progress import Stopwatch, data_loading_advice
from .skipped_files import describe_skipped, require_scored_images, skipped_images

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 5.0
# An evaluation whose model waits for more than this share of the wall time, and so long, says what to change.
WAITING_PERCENT = 25.0
WAITING_SECONDS = 10.0


def check_evaluation(cfg: CfgNode, trainer: type[DefaultTrainer]) -> None:
    """Finds what would end an evaluation on DATASETS.TEST, without a model.

    Args:
        trainer: as for `evaluate`.

    Raises:
        InputError: no or unreadable test datasets, one that cannot be scored for a task of TEST.TASKS, or a
            TEST.PROTOCOL that cannot be.
    """
    protocol = build_inference_protocol(cfg)
    if protocol is not None and protocol.mode == "center_crop" and cfg.TEST.SAVE_PREDICTIONS:
        raise InputError(
            f"TEST.PROTOCOL {protocol.name} predicts a center crop, which cannot be scored as the image's; "
            "set TEST.SAVE_PREDICTIONS False"
        )
    if not cfg.DATASETS.TEST:
        raise InputError(
            "DATASETS.TEST is empty; give the dataset to evaluate on: --data FILE|NAME, or DATASETS.TEST"
        )
    for name in cfg.DATASETS.TEST:
        trainer_evaluators(cfg, name, trainer)
        if not DatasetCatalog.get(name):
            raise InputError(f"DATASETS.TEST: {name} has no images")


def check_best_metric(cfg: CfgNode, trainer: type[DefaultTrainer]) -> None:
    """Finds out before a training whether its evaluations can report TEST.BEST_METRIC.

    What an evaluator without `task_key` reports is not known beforehand.

    Args:
        trainer: as for `evaluate`.

    Raises:
        InputError: it belongs to a task that TEST.TASKS does not ask for.
    """
    metric, keys = cfg.TEST.BEST_METRIC, set()
    for name in cfg.DATASETS.TEST:
        # With several datasets a metric's name begins with the dataset's.
        prefix = f"{name}/" if len(cfg.DATASETS.TEST) > 1 else ""
        for evaluator in trainer_evaluators(cfg, name, trainer)._evaluators:
            task_key = getattr(evaluator, "task_key", "")
            if not task_key:
                return
            keys.add(f"{prefix}{task_key}/")
    if metric and not metric.startswith(tuple(keys)):
        raise InputError(
            f"TEST.BEST_METRIC {metric!r} is not reported for TEST.TASKS {tuple(cfg.TEST.TASKS)}; "
            f"expected a name that begins with {' or '.join(sorted(keys))}"
        )


def evaluate(
    cfg: CfgNode,
    model: nn.Module,
    trainer: type[DefaultTrainer],
    *,
    weights: str = "",
    iteration: int | None = None,
) -> dict:
    """Evaluates `model` on every dataset of DATASETS.TEST and writes OUTPUT_DIR/inference/results.json.

    Every process has to call it. Modules are in eval mode meanwhile and then as they were.

    Args:
        model: on its device, not wrapped in DistributedDataParallel. It is run as TEST.PROTOCOL (or
            TEST.AUG) says.
        trainer: builds the loaders and evaluators by `build_test_loader` and `build_evaluator`.
        weights: path or URL of what the model has loaded, for the protocol; "" if from no file.
        iteration: of the training in OUTPUT_DIR that the model is in, for the protocol; instead of `weights`.

    Returns:
        In the main process {task: {metric: value}}, or {dataset: {task: {metric: value}}} for several
        datasets; {} in the others.

    Raises:
        InputError: a dataset cannot be scored for a task of TEST.TASKS, or its labels are wrong; or the model
            is as a checkpoint left it that does not fill it, or is of other classes.
    """
    if iteration is None:
        require_loaded(model)
    results, images, speed, skipped, reading, scored_by = {}, {}, {}, {}, {}, {}
    for name in cfg.DATASETS.TEST:
        loader = trainer.build_test_loader(cfg, name)
        # A loader of another kind does not tell.
        records = getattr(getattr(loader, "dataset", None), "records", None) or DatasetCatalog.get(name)
        reading[name] = describe_reading(records[0], cfg.INPUT.IMAGE_RANGE)
        evaluator = trainer_evaluators(cfg, name, trainer)
        scored_by[name] = evaluator_protocols(evaluator)
        tested = tested_model(cfg, model, name)
        with ended_workers_explained(cfg.DATALOADER.NUM_WORKERS):
            results[name], images[name], speed[name] = run_inference(
                tested, loader, evaluator, tasks=cfg.TEST.TASKS
            )
        skipped[name] = skipped_images(loader)
        for advice in evaluation_advice(cfg, speed[name], images[name] // comm.get_world_size()):
            logger.warning("%s", advice)
    if not comm.is_main_process():
        return {}
    facts = describe_protocol(cfg, weights, iteration) | describe_resizing(cfg, model)
    facts |= {
        "datasets": images,
        "image_reading": reading,
        "evaluators": scored_by,
        **describe_speed(speed),
        **describe_skipped(skipped, images),
    }
    return report(cfg, results, facts)


def report(cfg: CfgNode, results: dict, protocol: dict) -> dict:
    """Writes OUTPUT_DIR/inference/results.json and logs it.

    Args:
        results: {dataset: {task: {metric: value}}}.
        protocol: see `segzoo.evaluation.Protocol`.

    Returns:
        What `evaluate` returns.
    """
    folder = inference_folder(cfg)
    if "iteration" not in protocol:
        # That of a training is replaced by its next one, and metrics.json has them all.
        _keep_other_results(folder / RESULTS_FILE, protocol)
    path = write_results(folder, results, protocol)
    for name, metrics in results.items():
        logger.info("Results on %s, written to %s:", name, path)
        print_csv_format({task: printed_metrics(values) for task, values in metrics.items()})
    return next(iter(results.values())) if len(results) == 1 else results


def run_inference(
    model: nn.Module,
    loader: Iterable[list[dict]],
    evaluator: DatasetEvaluator,
    *,
    tasks: Sequence[str] | None = None,
) -> tuple[dict, int, dict[str, float]]:
    """Feeds a loader's batches through a model into an evaluator, with a progress line every few seconds.

    Loading (by the loader's workers) and scoring (by the evaluator's threads) go on while the model computes;
    what is told of them is how long the model had to wait.

    Args:
        model: a meta-architecture, or one under a test protocol as `tested_model` returns it.
        loader: of this process's share of the images; has a length.
        tasks: the results that the evaluator scores; None: those that the model gives unasked. Of semantic
            results the best class of each pixel is scored, not the scores of all.

    Returns:
        The evaluator's results ({} but in the main process), the number of images over all processes, and the
        seconds per image that this process spent on "data", "compute" and "scoring".
    """
    evaluator.reset()
    stopwatch, started = Stopwatch(), time.perf_counter()
    done = feed(model, loader, evaluator, stopwatch, tasks=tasks)
    with reset_on_error(evaluator):
        require_scored_images(loader, done)
        results = evaluator.evaluate() or {}
    stopwatch.lap("scoring")
    images = sum(comm.all_gather(done))
    taken = time.perf_counter() - started
    speed = {part: spent / max(done, 1) for part, spent in stopwatch.seconds.items()}
    logger.info(
        "Evaluated %d images in %s, %.4g images/s: %s of the wall time",
        images,
        datetime.timedelta(seconds=int(taken)),
        images / max(taken, 1e-9),
        ", ".join(f"{part} {percent:.1f} %" for part, percent in shares(speed).items()),
    )
    return results, images, speed


def feed(
    model: nn.Module,
    loader: Iterable[list[dict]],
    evaluator: DatasetEvaluator,
    stopwatch: Stopwatch,
    *,
    tasks: Sequence[str] | None = None,
) -> int:
    """Do the loop of `run_inference`, up to the last batch; returns the number of this process's images."""
    model = as_segmentation_model(model)
    done, shown, batches = 0, time.perf_counter(), len(loader)
    started = shown
    with reset_on_error(evaluator), evaluation_mode(model), torch.no_grad():
        for index, inputs in enumerate(loader, start=1):
            stopwatch.lap("data")
            outputs = model(inputs, tasks=tasks, semantic="labels")
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            stopwatch.lap("compute")
            evaluator.process(inputs, outputs)
            done += len(inputs)
            stopwatch.lap("scoring")
            now = time.perf_counter()
            if now - shown > SECONDS_BETWEEN_LINES and index < batches:
                shown = now
                left = datetime.timedelta(seconds=int((now - started) / index * (batches - index)))
                # The last batch may be smaller than the others.
                total = max(done, round(done / index * batches))
                log_fields(
                    logger,
                    [f"Evaluating {done}/{total} images", f"eta: {left}", *_speed_fields(stopwatch, done)],
                )
    return done


def shares(speed: Mapping[str, float]) -> dict[str, float]:
    """The share in percent that each part ("data", "compute", "scoring") has of the seconds of all."""
    total = sum(speed.values())
    return {part: 100 * seconds / max(total, 1e-9) for part, seconds in speed.items()}


def describe_speed(speed: Mapping[str, Mapping[str, float]]) -> dict:
    """For results.json, of {dataset: seconds per image of "data", "compute" and "scoring"}.

    "data" and "scoring" count what the model waited for, not what ran beside it.
    """
    percent = {
        name: {part: round(share, 2) for part, share in shares(of_dataset).items()}
        for name, of_dataset in speed.items()
    }
    return {"seconds_per_image": dict(speed), "wall_time_percent": percent}


def evaluation_advice(cfg: CfgNode, speed: Mapping[str, float], images: int) -> list[str]:
    """What would make an evaluation faster, if its model waited for long.

    Args:
        speed: seconds per image spent on "data", "compute" and "scoring".
        images: of this process.
    """
    percent = shares(speed)
    waits = {
        part
        for part in ("data", "scoring")
        if percent.get(part, 0) > WAITING_PERCENT and speed[part] * images > WAITING_SECONDS
    }
    advice = []
    if "data" in waits:
        advice.append(
            f"The model waited for images {percent['data']:.0f} % of the time: "
            f"{data_loading_advice(cfg.DATALOADER.NUM_WORKERS)}"
        )
    if "scoring" in waits:
        advice.append(
            f"The model waited for scores {percent['scoring']:.0f} % of the time: raise TEST.SCORING_THREADS "
            f"(now {cfg.TEST.SCORING_THREADS} for each task) where processors are free ({free_processors()} "
            "here), or ask for fewer TEST.TASKS"
        )
    return advice


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Puts every module in eval mode, and afterwards each back in the mode it had."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        # Not model.train(): a part that its owner keeps in eval mode has to stay there.
        for module in training:
            module.training = True


@contextmanager
def reset_on_error(evaluator: DatasetEvaluator) -> Iterator[None]:
    """Drops what waits to be scored when an error ends the loop: Python would score it all before it ends."""
    try:
        yield
    except BaseException:  # Ctrl-C among them
        evaluator.reset()
        raise


def _speed_fields(stopwatch: Stopwatch, images: int) -> list[str]:
    seconds = ", ".join(f"{part} {spent / images:.4f} s" for part, spent in stopwatch.seconds.items())
    speed = images / max(sum(stopwatch.seconds.values()), 1e-9)
    return [f"{speed:.4g} images/s", f"per image: {seconds}"]


def tested_model(cfg: CfgNode, model: nn.Module, dataset_name: str) -> SegmentationModel:
    """The model as TEST.PROTOCOL (or TEST.AUG) runs it on a dataset."""
    flip_pairs = MetadataCatalog.get(dataset_name).get("flip_pairs", ())
    return build_protocol_model(cfg, model, flip_pairs)


def build_evaluators(cfg: CfgNode, dataset_name: str) -> DatasetEvaluators:
    """Build the evaluators of a test dataset, for TEST.TASKS and TEST.EVALUATORS."""
    protocol = build_inference_protocol(cfg)
    options = EvaluationOptions(
        save_predictions=cfg.TEST.SAVE_PREDICTIONS,
        transform_labels=None if protocol is None else label_cropper(protocol),
        model_classes=instance_classes(cfg),
        boundary_dilation=cfg.TEST.BOUNDARY_DILATION or None,
        detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
        workers=cfg.TEST.SCORING_THREADS,
        config=cfg,
    )
    folder = dataset_folder(cfg, dataset_name)
    return build_evaluator(dataset_name, cfg.TEST.TASKS, folder, options, names=cfg.TEST.EVALUATORS)


def trainer_evaluators(cfg: CfgNode, dataset_name: str, trainer: type[DefaultTrainer]) -> DatasetEvaluators:
    """Build the evaluators of a test dataset as the trainer says, see `evaluate`."""
    built = trainer.build_evaluator(cfg, dataset_name)
    return built if isinstance(built, DatasetEvaluators) else DatasetEvaluators([built])


def instance_classes(cfg: CfgNode) -> list[str]:
    """Names of the classes that the model's instances are numbered by.

    A model trained for instances knows no stuff; one trained for all classes numbers all.
    """
    metadata = classes_metadata(cfg)
    return metadata.thing_classes if cfg.TASK == "instance" else metadata.classes


def inference_folder(cfg: CfgNode) -> Path:
    """Where evaluations write: OUTPUT_DIR/inference; output/inference where a script has set none."""
    return Path(cfg.OUTPUT_DIR or "output", "inference")


def _keep_other_results(path: Path, protocol: Mapping) -> None:
    """Renames results that are there to results_<n>.json, unless these are the same, measured again."""
    try:
        before = load_results(path)["protocol"]
    except InputError:
        before = None
    if not path.is_file() or (before is not None and _without_timings(before) == _without_timings(protocol)):
        return
    put_aside(path, "another evaluation")


def _without_timings(protocol: Mapping) -> dict:
    measured = ("seconds_per_image", "wall_time_percent")
    kept = {key: value for key, value in protocol.items() if key not in measured}
    return json.loads(json.dumps(kept))


def dataset_folder(cfg: CfgNode, name: str) -> Path:
    """Where the evaluation of a dataset writes: OUTPUT_DIR/inference, or a folder of its own therein."""
    folder = inference_folder(cfg)
    return folder / name if len(cfg.DATASETS.TEST) > 1 else folder


def describe_protocol(cfg: CfgNode, weights: str, iteration: int | None) -> dict:
    """How the numbers are made, without the datasets; see `segzoo.evaluation.Protocol`."""
    if iteration is not None:
        weights_entry = {
            "weights": f"{cfg.OUTPUT_DIR}/model at iteration {iteration}",
            "weights_sha256": "",
            "iteration": iteration,
        }
    else:
        sha256 = file_hash(local_file(weights), "sha256") if weights else ""
        weights_entry = {"weights": weights, "weights_sha256": sha256}
    protocol = build_inference_protocol(cfg)
    return {
        "preset": cfg.TEST.PROTOCOL,
        **_inference(cfg, protocol),
        "class_averaging": "valid",
        **weights_entry,
        "tasks": list(cfg.TEST.TASKS),
        "processes": comm.get_world_size(),
    }


def _inference(cfg: CfgNode, protocol: InferenceProtocol | MapAveraging | None) -> dict:
    if protocol is None:
        return _plain_inference(cfg)
    if isinstance(protocol, MapAveraging):
        return _averaging_inference(cfg, protocol)
    return _protocol_inference(protocol)


def describe_resizing(cfg: CfgNode, model: nn.Module) -> dict:
    """What the model resizes to the image's size for semantic labels; None where it does not say."""
    is_semantic = "semantic" in cfg.TEST.TASKS
    return {"semantic_resizing": build_protocol_model(cfg, model).semantic_resizing if is_semantic else None}


def _plain_inference(cfg: CfgNode) -> dict:
    """How a model's own forward pass is made."""
    short_edge = cfg.INPUT.MIN_SIZE_TEST
    input_size = "original"
    if short_edge:
        input_size = {"short_edge": short_edge, "long_edge_max": cfg.INPUT.MAX_SIZE_TEST}
    return {
        "input_size": input_size,
        "scales": [1.0],
        "flip": False,
        "crop": None,
        "stride": None,
        "mode": "whole",
        "averaging": None,
    }


def _averaging_inference(cfg: CfgNode, protocol: MapAveraging) -> dict:
    plain, short_edge = _plain_inference(cfg), cfg.INPUT.MIN_SIZE_TEST
    edges = list(protocol.short_edges)
    return plain | {
        "input_size": {
            "resized_from": plain["input_size"],
            "short_edges": edges,
            "long_edge_max": protocol.long_edge_max,
        },
        # Of images in their original size the copies' sizes are known, but no common factor.
        "scales": [edge / short_edge for edge in edges] if short_edge else [],
        "flip": protocol.flip,
    }


def _protocol_inference(protocol: InferenceProtocol) -> dict:
    slides = protocol.mode == "slide"
    # What does not change the numbers of this protocol is left out, so that it does not prevent comparing.
    size = {"resize": protocol.resize}
    if protocol.resize != "none":
        size |= {"base_size": protocol.base_size, "interpolation": protocol.interpolation}
    if protocol.resize == "box":
        size["max_size"] = protocol.max_size
    if protocol.round_to > 1:
        size["round_to"] = protocol.round_to
    averaging = {"softmax": protocol.softmax, "align_corners": protocol.align_corners}
    if slides:
        keys = ("padding", "pad_value", "last_window")
        averaging |= {key: getattr(protocol, key) for key in keys}
    return {
        "input_size": size,
        "scales": list(protocol.scales),
        "flip": protocol.flip,
        "crop": list(protocol.crop_size) if protocol.mode != "whole" else None,
        "stride": list(protocol.window_stride) if slides else None,
        "mode": protocol.mode,
        "averaging": averaging,
    }
