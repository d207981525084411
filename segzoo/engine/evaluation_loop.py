"""Running a model over the test datasets, and writing the metrics with the protocol of the evaluation."""

import contextlib
import datetime
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, print_csv_format
from detectron2.utils import comm
from torch import nn

from segzoo.checkpoint import require_loaded
from segzoo.checkpoint.download import file_hash, local_file
from segzoo.data import describe_reading
from segzoo.data.handover import report_ended_workers
from segzoo.evaluation import (
    EvaluationOptions,
    build_evaluator,
    evaluator_protocols,
    load_results,
    printed_metrics,
    write_results,
)
from segzoo.evaluation.options import ALWAYS, PREDICTED
from segzoo.evaluation.results import RESULTS_FILE
from segzoo.modeling import SegmentationModel, as_segmentation_model
from segzoo.modeling.protocols import (
    InferenceProtocol,
    MapAveraging,
    build_inference_protocol,
    build_protocol_model,
    label_cropper,
)
from segzoo.utils.dataset_records import dataset_records
from segzoo.utils.errors import InputError
from segzoo.utils.files import move_aside
from segzoo.utils.logging import log_fields
from segzoo.utils.threads import free_processors

from .ahead import predictions
from .cuda_settings import exact_settings
from .model_description import classes_metadata
from .progress import Stopwatch, data_loading_advice
from .skipped_files import describe_skipped, require_scored_images, skipped_images

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 5.0
# An evaluation logs advice if its model waits for more than this share of the wall time and these seconds.
WAITING_PERCENT = 25.0
WAITING_SECONDS = 10.0


def check_evaluation(cfg: CfgNode, trainer: type[DefaultTrainer]) -> None:
    """Raise the input errors of an evaluation on DATASETS.TEST that need no model to be found.

    Args:
        trainer: as for `evaluate`.

    Raises:
        InputError: no test datasets, an unreadable one, one that cannot be scored for a task of TEST.TASKS,
            or an impossible TEST.PROTOCOL.
    """
    protocol = build_inference_protocol(cfg)
    if protocol is not None and protocol.mode == "center_crop" and cfg.TEST.SAVE_PREDICTIONS:
        raise InputError(
            f"TEST.PROTOCOL {protocol.name} predicts a center crop, which cannot be saved as the image's "
            "prediction; set TEST.SAVE_PREDICTIONS False"
        )
    if not cfg.DATASETS.TEST:
        raise InputError(
            "DATASETS.TEST is empty; give the dataset to evaluate on: --data FILE|NAME, or DATASETS.TEST"
        )
    for name in cfg.DATASETS.TEST:
        trainer_evaluators(cfg, name, trainer)
        if not dataset_records(name):
            raise InputError(f"DATASETS.TEST: {name} has no images")


def check_best_metric(cfg: CfgNode, trainer: type[DefaultTrainer]) -> None:
    """Raise before a training if its evaluations cannot report TEST.BEST_METRIC.

    The metrics of an evaluator without `task_key` are not known beforehand.

    Args:
        trainer: as for `evaluate`.

    Raises:
        InputError: the metric belongs to no task of TEST.TASKS.
    """
    metric, keys = cfg.TEST.BEST_METRIC, set()
    for name in cfg.DATASETS.TEST:
        # With several datasets a metric's name begins with the dataset's.
        prefix = f"{name}/" if len(cfg.DATASETS.TEST) > 1 else ""
        for evaluator in trainer_evaluators(cfg, name, trainer)._evaluators:
            task_key = getattr(evaluator, "task_key", "")
            if not task_key:
                return
            task_keys = (task_key, *getattr(evaluator, "other_keys", ()))
            keys |= {f"{prefix}{key}/" for key in task_keys}
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
    """Evaluate `model` on every dataset of DATASETS.TEST and write OUTPUT_DIR/inference/results.json.

    Every process has to call it. Modules are in eval mode inside; their modes are restored afterwards.

    Args:
        model: on its device, not wrapped in DistributedDataParallel. It is run as TEST.PROTOCOL (or
            TEST.AUG) says.
        trainer: builds the loaders and evaluators by `build_test_loader` and `build_evaluator`.
        weights: path or URL of the loaded checkpoint, recorded in the protocol; "" if none was loaded.
        iteration: iteration of the running training in OUTPUT_DIR, recorded instead of `weights`.

    Returns:
        In the main process {task: {metric: value}}, or {dataset: {task: {metric: value}}} for several
        datasets; {} in the others.

    Raises:
        InputError: a dataset cannot be scored for a task of TEST.TASKS, or its labels are wrong; or the
            loaded checkpoint did not fill the model, or was trained for other classes.
    """
    if iteration is None:
        require_loaded(model)
    results, images, speed, skipped, reading, scored_by = {}, {}, {}, {}, {}, {}
    for name in cfg.DATASETS.TEST:
        loader = trainer.build_test_loader(cfg, name)
        # Another loader may not have them.
        records = getattr(getattr(loader, "dataset", None), "records", None) or dataset_records(name)
        reading[name] = describe_reading(records[0], cfg.INPUT.IMAGE_RANGE)
        evaluator = trainer_evaluators(cfg, name, trainer)
        scored_by[name] = evaluator_protocols(evaluator)
        tested = tested_model(cfg, model, name)
        with report_ended_workers(cfg.DATALOADER.NUM_WORKERS), exact_settings(cfg.CUDNN_BENCHMARK):
            results[name], images[name], speed[name] = run_inference(
                tested, loader, evaluator, tasks=cfg.TEST.TASKS
            )
        skipped[name] = skipped_images(loader)
        for advice in evaluation_advice(cfg, speed[name], images[name] // comm.get_world_size()):
            logger.warning("%s", advice)
    if not comm.is_main_process():
        return {}
    protocol = describe_protocol(cfg, weights, iteration) | describe_resizing(cfg, model)
    protocol |= {
        "datasets": images,
        "image_reading": reading,
        "evaluators": scored_by,
        **describe_speed(speed),
        **describe_skipped(skipped, images),
    }
    return report(cfg, results, protocol)


def report(cfg: CfgNode, results: dict, protocol: dict) -> dict:
    """Write OUTPUT_DIR/inference/results.json, and log the metrics.

    Args:
        results: {dataset: {task: {metric: value}}}.
        protocol: see `segzoo.evaluation.Protocol`.

    Returns:
        As `evaluate`.
    """
    folder = inference_folder(cfg)
    if "iteration" not in protocol:
        # Each evaluation in a training replaces the one before; metrics.json has them all.
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
    """Feed a loader's batches through a model into an evaluator, with a progress line every few seconds.

    Data-loader workers and scoring threads run while the model computes; the times reported for them are
    those that the model had to wait.

    Args:
        model: a meta-architecture, or one under a test protocol as `tested_model` returns it.
        loader: yields this process's share of the images; has a length.
        tasks: tasks whose results the evaluator scores; None: the model's default. Semantic results are
            labels, not the scores of all classes.

    Returns:
        The evaluator's results ({} outside the main process), the number of images over all processes, and
        the seconds per image that this process spent on "data", "compute" and "scoring".
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
    """Run the loop of `run_inference` up to the last batch; return the number of this process's images."""
    model = as_segmentation_model(model)
    done, shown, batches = 0, time.perf_counter(), len(loader)
    started = shown
    # Closed also after an error, so that what follows is not computed in the stream of the scoring.
    closing = contextlib.closing(predictions(model, loader, stopwatch, tasks=tasks))
    with reset_on_error(evaluator), evaluation_mode(model), torch.no_grad(), closing as predicted:
        for index, (inputs, outputs) in enumerate(predicted, start=1):
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
    """Return the percentage of the total time of each part ("data", "compute", "scoring")."""
    total = sum(speed.values())
    return {part: 100 * seconds / max(total, 1e-9) for part, seconds in speed.items()}


def describe_speed(speed: Mapping[str, Mapping[str, float]]) -> dict:
    """Return the timings for results.json, from {dataset: seconds per image by part}.

    "data" and "scoring" count the time that the model waited, not work done in parallel.
    """
    percent = {
        name: {part: round(share, 2) for part, share in shares(seconds).items()}
        for name, seconds in speed.items()
    }
    return {"seconds_per_image": dict(speed), "wall_time_percent": percent}


def evaluation_advice(cfg: CfgNode, speed: Mapping[str, float], images: int) -> list[str]:
    """Return advice to make an evaluation faster, if its model waited long.

    Args:
        speed: seconds per image spent on "data", "compute" and "scoring".
        images: number of images of this process.
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
    """Put every module in eval mode, and restore each module's mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        # Not model.train(): modules may be kept in eval mode during training.
        for module in training:
            module.training = True


@contextmanager
def reset_on_error(evaluator: DatasetEvaluator) -> Iterator[None]:
    """Drop predictions queued for scoring on an error: Python would score them all before it exits."""
    try:
        yield
    except BaseException:  # also Ctrl-C
        evaluator.reset()
        raise


def _speed_fields(stopwatch: Stopwatch, images: int) -> list[str]:
    seconds = ", ".join(f"{part} {spent / images:.4f} s" for part, spent in stopwatch.seconds.items())
    speed = images / max(sum(stopwatch.seconds.values()), 1e-9)
    return [f"{speed:.4g} images/s", f"per image: {seconds}"]


def tested_model(cfg: CfgNode, model: nn.Module, dataset_name: str) -> SegmentationModel:
    """Return the model as TEST.PROTOCOL (or TEST.AUG) runs it on a dataset."""
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
        box_ap=_box_ap(cfg),
        entity_area=cfg.TEST.ENTITY_AREA,
        scoring_threads=cfg.TEST.SCORING_THREADS,
        config=cfg,
    )
    folder = dataset_folder(cfg, dataset_name)
    return build_evaluator(dataset_name, cfg.TEST.TASKS, folder, options, names=cfg.TEST.EVALUATORS)


def _box_ap(cfg: CfgNode) -> str:
    """Return TEST.BOX_AP, or "always" if TEST.BEST_METRIC needs box AP in every evaluation."""
    asked = "bbox" in cfg.TEST.BEST_METRIC.split("/") and cfg.TEST.BOX_AP == PREDICTED
    return ALWAYS if asked else cfg.TEST.BOX_AP


def trainer_evaluators(cfg: CfgNode, dataset_name: str, trainer: type[DefaultTrainer]) -> DatasetEvaluators:
    """Build the evaluators of a test dataset by the trainer's method, see `evaluate`."""
    built = trainer.build_evaluator(cfg, dataset_name)
    return built if isinstance(built, DatasetEvaluators) else DatasetEvaluators([built])


def instance_classes(cfg: CfgNode) -> list[str]:
    """Return the class names that the model's instance classes index.

    A model trained for instances has thing classes only; others have all classes.
    """
    metadata = classes_metadata(cfg)
    return metadata.thing_classes if cfg.TASK == "instance" else metadata.classes


def inference_folder(cfg: CfgNode) -> Path:
    """Return the folder of results: OUTPUT_DIR/inference, or output/inference without OUTPUT_DIR."""
    return Path(cfg.OUTPUT_DIR or "output", "inference")


def _keep_other_results(path: Path, protocol: Mapping) -> None:
    """Rename existing results to results_<n>.json, unless they have the same protocol."""
    try:
        before = load_results(path)["protocol"]
    except InputError:
        before = None
    if not path.is_file() or (before is not None and _without_timings(before) == _without_timings(protocol)):
        return
    move_aside(path, "another evaluation")


def _without_timings(protocol: Mapping) -> dict:
    measured = ("seconds_per_image", "wall_time_percent")
    kept = {key: value for key, value in protocol.items() if key not in measured}
    return json.loads(json.dumps(kept))


def dataset_folder(cfg: CfgNode, name: str) -> Path:
    """Return the folder of a dataset's results: OUTPUT_DIR/inference, or a subfolder if there are several."""
    folder = inference_folder(cfg)
    return folder / name if len(cfg.DATASETS.TEST) > 1 else folder


def describe_protocol(cfg: CfgNode, weights: str, iteration: int | None) -> dict:
    """Return how the metrics are computed, without the datasets; see `segzoo.evaluation.Protocol`."""
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
    """Return what the model resizes to the image's size for semantic labels; None where it is unknown."""
    is_semantic = "semantic" in cfg.TEST.TASKS
    return {"semantic_resizing": build_protocol_model(cfg, model).semantic_resizing if is_semantic else None}


def _plain_inference(cfg: CfgNode) -> dict:
    """Return the protocol of a model's own forward pass."""
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
        # The copies of images in their original size have known sizes, but no common factor.
        "scales": [edge / short_edge for edge in edges] if short_edge else [],
        "flip": protocol.flip,
    }


def _protocol_inference(protocol: InferenceProtocol) -> dict:
    slides = protocol.mode == "slide"
    # Options without effect on this protocol's results are left out, so that they prevent no comparison.
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
