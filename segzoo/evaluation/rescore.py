"""Score a folder of saved predictions without a model.

The evaluators are the same as for a model. Panoptic, entity and instance predictions may come from other
programs: COCO panoptic format (a PNG folder and a JSON), COCO's results JSON, Cityscapes' text files and
masks.
"""

import contextlib
import json
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances

from segzoo.utils.ahead import map_ahead
from segzoo.utils.dataset_records import dataset_records
from segzoo.utils.errors import InputError
from segzoo.utils.json_values import Ids, as_integer, shown
from segzoo.utils.lazy_masks import LazyMasks
from segzoo.utils.tasks import NO_GROUND_TRUTH
from segzoo.utils.threads import free_processors

from . import prediction_io
from .base import prediction_names
from .boxes import FILE_BOXES
from .builder import build_evaluator, evaluator_protocols
from .instance_base import InstanceTaskEvaluator
from .instance_files import decode_entries, entry_boxes, load_coco_results, load_instances
from .options import OF_MASK, PREDICTED
from .registry import find_evaluator, find_evaluators, names_beside
from .results import RESULTS_FILE, Protocol, load_results, write_results
from .segments import SegmentMap

_FOLDERS = {
    "semantic": prediction_io.LABEL_FOLDER,
    "panoptic": prediction_io.PANOPTIC_NAME,
    "entity": prediction_io.ENTITY_NAME,
}
#: Threads that read predictions, beside those that read ground truth and score.
READING_THREADS = 2
_FROM_FILES = "unknown: predictions from files"


def rescore(
    dataset_name: str,
    folder: str | Path,
    tasks: tuple[str, ...] | list[str] = (),
    output_dir: str | Path | None = None,
    class_averaging: str = "valid",
    *,
    evaluators: Sequence[str] = (),
    boundary_dilation: float | None = None,
    box_ap: str = PREDICTED,
    entity_area: str = OF_MASK,
) -> tuple[dict, Path]:
    """Score the predictions for every image of a dataset.

    Args:
        dataset_name: a registered dataset.
        folder: the `output_dir` that an evaluator wrote with `save_predictions`.
        tasks: tasks to score; by default those that `folder` has predictions of.
        output_dir: folder of results.json; by default `folder`/rescored, so that nothing is overwritten.
        class_averaging, boundary_dilation, box_ap, entity_area: see EvaluationOptions.
        evaluators: names of evaluators beside the standard ones, as in TEST.EVALUATORS.

    Returns:
        The results {"sem_seg": {...}, ...} and the path of results.json, which holds the protocol stored in
        `folder` or, for predictions of other programs, marks it as unknown.

    Raises:
        InputError: a prediction is missing, unreadable or does not fit its image or the dataset.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder; expected the one that TEST.SAVE_PREDICTIONS wrote to")
    output_dir = folder / "rescored" if output_dir is None else Path(output_dir)
    evaluator_type = MetadataCatalog.get(dataset_name).evaluator_type
    if evaluator_type == NO_GROUND_TRUTH:
        raise InputError(f"{dataset_name}: has no ground truth, only images; there is nothing to score")
    names = _saved_names(dataset_name)
    tasks = tasks or [task for task, name in names.items() if (folder / name).exists()]
    if not tasks:
        raise InputError(f"{folder}: no predictions found, expected one of {', '.join(names.values())}")
    stored = _stored_protocol(folder)
    # There are no predictions for images that an evaluation with DATALOADER.ON_ERROR skip has skipped.
    skipped = stored.get("skipped", {}).get(dataset_name, {})
    entries = [entry for entry in dataset_records(dataset_name) if entry["file_name"] not in skipped]
    find_evaluators(dataset_name, tasks, evaluators)
    results: dict[str, dict] = {}
    protocols: dict[str, Any] = {}
    for task in tasks:
        evaluator = build_evaluator(
            dataset_name,
            [task],
            output_dir,
            names=[name for name in evaluators if name in names_beside(dataset_name, task)],
            class_averaging=class_averaging,
            boundary_dilation=boundary_dilation,
            box_ap=box_ap,
            entity_area=entity_area,
            model_classes=MetadataCatalog.get(dataset_name).classes,  # files index all classes
            distributed=False,
        )
        with contextlib.closing(
            saved_outputs(folder, task, dataset_name, entries)
        ) as outputs:  # ends threads
            for entry, output in outputs:
                evaluator.process([entry], [output])
        results |= evaluator.evaluate()
        protocols |= evaluator_protocols(evaluator)
    protocol = {
        **stored,
        "datasets": {dataset_name: len(entries)},
        "class_averaging": class_averaging,
    }
    if protocols:
        before = (stored.get("evaluators") or {}).get(dataset_name, {})
        protocols = {key: {**before.get(key, {}), **own} for key, own in protocols.items()}
        protocol["evaluators"] = {dataset_name: protocols}
    # They are computed again in less time than a flush to the disk saves.
    return results, write_results(output_dir, {dataset_name: results}, protocol, durable=False)


def _saved_names(dataset_name: str) -> dict[str, str]:
    """Return {task that can be scored: file or folder of its predictions}."""
    names = {task: name for task, name in _FOLDERS.items() if find_evaluator(dataset_name, task) is not None}
    evaluator = find_evaluator(dataset_name, "instance")
    if evaluator is not None and issubclass(evaluator, InstanceTaskEvaluator):
        names["instance"] = evaluator.saved_as
    return names


def saved_outputs(
    folder: Path, task: str, dataset_name: str, entries: list[dict]
) -> Generator[tuple[dict, dict], None, None]:
    """Yield each dataset dict with its saved prediction, in the form of a model's output.

    Threads read the next files, as many as there are processors, at most READING_THREADS.
    """
    threads = min(READING_THREADS, free_processors())
    if task == "semantic":
        names = prediction_names(entries)
        paths = [
            folder / prediction_io.LABEL_FOLDER / f"{names[entry['file_name']]}.png" for entry in entries
        ]
        _require(paths, entries)
        outputs = map_ahead(partial(_read_labels, dataset_name), paths, threads=threads)
        yield from zip(entries, outputs, strict=True)
        return
    if task == "instance":
        path = folder / _saved_names(dataset_name)[task]
        read = _coco_instances if path.suffix == ".json" else _text_instances
        yield from read(path, dataset_name, entries)
        return
    json_path = folder / f"{_FOLDERS[task]}.json"
    annotations = _load_annotations(json_path, entries)
    paths = [folder / _FOLDERS[task] / annotation["file_name"] for annotation in annotations]
    _require(paths, entries)
    contiguous = _class_indices(dataset_name) if task == "panoptic" else {1: 0}
    read_segments = partial(_read_segments, dataset_name, json_path, contiguous, Ids(contiguous))
    for entry, segments in zip(
        entries, map_ahead(read_segments, annotations, paths, threads=threads), strict=True
    ):
        yield entry, {f"{task}_seg": segments}


def _read_labels(dataset_name: str, path: Path) -> dict[str, np.ndarray]:
    metadata = MetadataCatalog.get(dataset_name)
    labels = prediction_io.load_labels(path, metadata.get("check_palette"))
    _check_labels(labels, len(metadata.classes), path)
    return {"sem_seg_labels": labels}


def _read_segments(
    dataset_name: str,
    json_path: Path,
    contiguous: dict[int, int],
    categories: Ids,
    annotation: dict,
    path: Path,
) -> SegmentMap:
    """Read the segments of an image; `contiguous`: {category id in the JSON: class index}."""
    described = f"{json_path}: {annotation['file_name']}"
    segments = []
    for segment in annotation["segments_info"]:
        segment_id = as_integer(segment.get("id")) if isinstance(segment, dict) else None
        if segment_id is None or not 0 < segment_id < 1 << 24:
            raise InputError(
                f"{described} has the segment {shown(segment)}; expected one with an id in 1..2**24-1"
            )
        category = categories.find(segment.get("category_id"))
        if category is None:
            raise InputError(
                f"{described} has category_id {shown(segment.get('category_id'))}, expected the category "
                f"ids of {dataset_name} (segment {segment_id})"
            )
        segments.append({**segment, "id": segment_id, "category_id": contiguous[category]})
    return SegmentMap(prediction_io.load_ids(path), segments)


def _check_labels(labels: np.ndarray, num_classes: int, path: Path) -> None:
    """Raise InputError for a prediction that does not have a class in every pixel."""
    if not labels.size or labels.max() < num_classes:
        return
    wrong, pixels = np.unique(labels[labels >= num_classes], return_counts=True)
    raise InputError(
        f"{path}: label {wrong[0]} ({pixels[0]} pixels) is outside [0, {num_classes}); a prediction needs a "
        "class in every pixel, as index in the dataset's classes: write the best class for undecided pixels "
        "(void pixels of the ground truth are ignored), and indices instead of other values"
    )


def _text_instances(folder: Path, dataset_name: str, entries: list[dict]) -> Iterator[tuple[dict, dict]]:
    names = prediction_names(entries)
    paths = [folder / f"{names[entry['file_name']]}.txt" for entry in entries]
    _require(paths, entries)
    for entry, path in zip(entries, paths, strict=True):
        yield entry, _as_output(*load_instances(path), str(path), dataset_name)


def _coco_instances(path: Path, dataset_name: str, entries: list[dict]) -> Iterator[tuple[dict, dict]]:
    by_image = load_coco_results(path, [entry["image_id"] for entry in entries])
    for entry in entries:
        found = by_image.get(entry["image_id"], [])
        class_ids, scores = ([one[key] for one in found] for key in ("category_id", "score"))
        where = f"{path}: image {entry['image_id']!r}"
        masks = decode_entries(found, path)
        output = _as_output(masks, class_ids, scores, where, dataset_name)
        boxes = entry_boxes(found, masks)
        if boxes is not None:
            output["instances"].set(FILE_BOXES, boxes)
        yield entry, output


def _as_output(
    masks: np.ndarray | LazyMasks, class_ids: list, scores: list, where: str, dataset_name: str
) -> dict:
    """Return instances, whose classes have the ids of the dataset's files, as a model's output."""
    indices = _class_indices(dataset_name)
    ids = Ids(indices)
    found = [ids.find(one) for one in class_ids]
    if None in found:
        unknown = class_ids[found.index(None)]
        raise InputError(f"{where} has the class id {shown(unknown)}, expected the ids of {dataset_name}")
    instances = Instances(masks.shape[1:], pred_masks=masks, scores=np.asarray(scores, np.float64))
    instances.pred_classes = np.array([indices[one] for one in found], np.int64)
    return {"instances": instances}


def _class_indices(dataset_name: str) -> dict[int, int]:
    """Return {class id in the dataset's files: class index}."""
    numbers = MetadataCatalog.get(dataset_name).contiguous_id_to_dataset_id
    return {number: index for index, number in enumerate(numbers)}


def _load_annotations(json_path: Path, entries: list[dict]) -> list[dict]:
    """Return the annotation of each image, in the order of `entries`."""
    try:
        content = json.loads(json_path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{json_path}: not found; expected it beside the folder {json_path.stem}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{json_path}: not a JSON file ({error}); save the predictions again") from None
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        raise InputError(f"{json_path}: lacks the list 'annotations' of COCO's panoptic format")
    ids = Ids(entry["image_id"] for entry in entries)
    by_image: dict[Any, Any] = {}
    types = {"image_id": str | int | float, "file_name": str, "segments_info": list}
    for number, annotation in enumerate(annotations, 1):
        for key, expected in types.items():
            if not isinstance(annotation, dict) or not isinstance(annotation.get(key), expected):
                found = shown(annotation.get(key) if isinstance(annotation, dict) else annotation)
                raise InputError(
                    f"{json_path}: annotation {number} of the list has the {key} {found}; expected that of "
                    "COCO's panoptic format"
                )
        image_id = ids.find(annotation["image_id"])
        if image_id is not None and by_image.setdefault(image_id, annotation) is not annotation:
            raise InputError(f"{json_path}: image {shown(image_id)} has two annotations; keep one of them")
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
    """Return the results.json that belongs to a folder of predictions, or None; see `load_results`."""
    folder = Path(folder).resolve()
    for candidate in (folder, folder.parent):  # each of several datasets has a folder below the results
        if (candidate / RESULTS_FILE).is_file():
            return load_results(candidate)
    return None


def _stored_protocol(folder: Path) -> dict:
    stored = stored_results(folder)
    if stored is not None:
        return stored["protocol"]
    unknown = Protocol(datasets={}, input_size=_FROM_FILES, weights=_FROM_FILES)
    return {name: getattr(unknown, name) for name in Protocol.__dataclass_fields__}
