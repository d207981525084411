"""Scoring a folder of saved predictions, with no model: the same evaluators on what `save_predictions` wrote.

The panoptic and entity folders may come from anywhere: COCO panoptic format, a PNG folder beside a JSON.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import InputError
from . import files
from .base import prediction_names
from .builder import EVALUATORS, build_evaluator
from .results import RESULTS_FILE, Protocol, load_results, write_results
from .segments import SegmentMap

_FOLDERS = {"semantic": files.LABEL_FOLDER, "panoptic": files.PANOPTIC_NAME, "entity": files.ENTITY_NAME}
_FROM_FILES = "unknown: predictions from files"


def rescore(
    dataset_name: str,
    folder: str | Path,
    tasks: tuple[str, ...] | list[str] = (),
    output_dir: str | Path | None = None,
    class_averaging: str = "valid",
) -> tuple[dict, Path]:
    """Scores the predictions of every image of a dataset.

    Args:
        folder: the `output_dir` that an evaluator wrote with `save_predictions`.
        tasks: default: those of which `folder` has predictions.
        output_dir: where results.json goes; default `folder`/rescored, so that nothing is overwritten.

    Returns:
        The results {"sem_seg": {...}, ...} and the path of results.json, which holds the protocol stored in
        `folder` or, for predictions of other programs, says that it is unknown.

    Raises:
        InputError: a prediction is missing, unreadable or does not fit its image or the dataset.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder; expected the one that TEST.SAVE_PREDICTIONS wrote to")
    output_dir = folder / "rescored" if output_dir is None else Path(output_dir)
    evaluator_type = MetadataCatalog.get(dataset_name).evaluator_type
    if evaluator_type == "no_ground_truth":
        raise InputError(f"{dataset_name}: has no ground truth, only images: there is nothing to score")
    tasks = tasks or [
        task
        for task, name in _FOLDERS.items()
        if (folder / name).is_dir() and (evaluator_type, task) in EVALUATORS
    ]
    if not tasks:
        raise InputError(f"{folder}: no predictions found, expected one of {', '.join(_FOLDERS.values())}")
    entries = DatasetCatalog.get(dataset_name)
    results = {}
    for task in tasks:
        evaluator = build_evaluator(
            dataset_name, [task], output_dir, class_averaging=class_averaging, distributed=False
        )
        for entry, output in saved_outputs(folder, task, dataset_name, entries):
            evaluator.process([entry], [output])
        results |= evaluator.evaluate()
    protocol = {
        **_stored_protocol(folder),
        "datasets": {dataset_name: len(entries)},
        "class_averaging": class_averaging,
    }
    return results, write_results(output_dir, {dataset_name: results}, protocol)


def saved_outputs(
    folder: Path, task: str, dataset_name: str, entries: list[dict]
) -> Iterator[tuple[dict, dict]]:
    """Yields each dataset dict with its saved prediction, in the form of a model's output."""
    if task == "semantic":
        names = prediction_names(entries)
        paths = [folder / files.LABEL_FOLDER / f"{names[entry['file_name']]}.png" for entry in entries]
        _require(paths, entries)
        for entry, path in zip(entries, paths, strict=True):
            yield entry, {"sem_seg_labels": files.load_labels(path)}
        return
    json_path = folder / f"{_FOLDERS[task]}.json"
    annotations = _load_annotations(json_path, entries)
    paths = [folder / _FOLDERS[task] / annotation["file_name"] for annotation in annotations]
    _require(paths, entries)
    key = f"{task}_seg"
    numbers = MetadataCatalog.get(dataset_name).contiguous_id_to_dataset_id
    contiguous = {number: index for index, number in enumerate(numbers)} if task == "panoptic" else {1: 0}
    for entry, annotation, path in zip(entries, annotations, paths, strict=True):
        segments = []
        for segment in annotation["segments_info"]:
            category = segment["category_id"]
            if category not in contiguous:
                raise InputError(
                    f"{json_path}: {annotation['file_name']} has category_id {category}, "
                    f"expected the category ids of {dataset_name}"
                )
            segments.append({**segment, "category_id": contiguous[category]})
        yield entry, {key: SegmentMap(files.load_ids(path), segments)}


def _load_annotations(json_path: Path, entries: list[dict]) -> list[dict]:
    """The annotation of each image, in the order of `entries`."""
    try:
        annotations = json.loads(json_path.read_text(encoding="utf-8"))["annotations"]
        by_image = {annotation["image_id"]: annotation for annotation in annotations}
    except FileNotFoundError:
        raise InputError(f"{json_path}: not found; expected it beside the folder {json_path.stem}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{json_path}: not a COCO panoptic JSON ({type(error).__name__}: {error})") from None
    missing = [entry for entry in entries if entry["image_id"] not in by_image]
    if missing:
        raise InputError(
            f"{json_path}: {len(missing)} of {len(entries)} images are missing, first image_id "
            f"{missing[0]['image_id']} ({missing[0]['file_name']})"
        )
    return [by_image[entry["image_id"]] for entry in entries]


def _require(paths: list[Path], entries: list[dict]) -> None:
    missing = [index for index, path in enumerate(paths) if not path.is_file()]
    if missing:
        first = missing[0]
        raise InputError(
            f"{paths[first]}: not found, the prediction of {entries[first]['file_name']} "
            f"({len(missing)} of {len(paths)} are missing); save all with TEST.SAVE_PREDICTIONS True"
        )


def stored_results(folder: str | Path) -> dict | None:
    """The results.json that belongs to a folder of predictions, or None; see `load_results`."""
    folder = Path(folder).resolve()
    for candidate in (folder, folder.parent):  # several datasets have a folder each below the results
        if (candidate / RESULTS_FILE).is_file():
            return load_results(candidate)
    return None


def _stored_protocol(folder: Path) -> dict:
    stored = stored_results(folder)
    if stored is not None:
        return stored["protocol"]
    unknown = Protocol(datasets={}, input_size=_FROM_FILES, weights=_FROM_FILES)
    return {name: getattr(unknown, name) for name in Protocol.__dataclass_fields__}
