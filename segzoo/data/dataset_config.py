"""Completing a configuration from its datasets: number of classes, ignore label, and checks of the tasks."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from segzoo.config.renamed.training import DATASETS as DATASETS_HERE
from segzoo.utils.dataset_names import classes_dataset
from segzoo.utils.errors import InputError
from segzoo.utils.tasks import TASKS
from segzoo.utils.text import did_you_mean

from .register import dataset_metadata, register_dataset_file
from .wanted_targets import wanted_targets

# Sections of Detectron2's heads that predict a class for each box.
_DETECTION_HEADS = {"FCOS", "RETINANET", "ROI_HEADS"}
_COCO_CLASSES = 80


def complete_config(cfg: CfgNode) -> CfgNode:
    """Register `DATASETS.FILES`, set the values that depend on the dataset in `cfg`, and return it.

    Raises:
        InputError: an unknown task or dataset, or a contradiction between the configuration and a dataset.
    """
    for dataset_file in cfg.DATASETS.FILES:
        register_dataset_file(dataset_file)
    _check_choice("TASK", cfg.TASK, TASKS)
    cfg.TEST.TASKS = tuple(cfg.TEST.TASKS) or (cfg.TASK,)
    for task in cfg.TEST.TASKS:
        _check_choice("TEST.TASKS", task, TASKS)
    for key in ("TRAIN", "TEST"):
        for name in cfg.DATASETS[key]:
            _check_dataset(f"DATASETS.{key}", name)
    name = classes_dataset(cfg)
    if name:
        _check_dataset("DATASETS.CLASSES_FROM", name)
        for dataset in dict.fromkeys((name, *cfg.DATASETS.TRAIN)):
            _check_ground_truth(cfg, dataset)
        _take_from_dataset(cfg, name)
        _check_datasets(cfg, name)
    return cfg


def _check_ground_truth(cfg: CfgNode, name: str) -> None:
    """Raise InputError unless the dataset has the ground truth that TASK is trained with."""
    metadata = _segzoo_metadata(name)
    evaluator_type = metadata["evaluator_type"]
    if not TASKS[cfg.TASK].from_classes and evaluator_type == "sem_seg":
        raise InputError(
            f"TASK {cfg.TASK} needs panoptic ground truth, but {name} has semantic labels; use TASK semantic"
        )
    is_semantic = cfg.TASK == "semantic"
    has_classes = is_semantic and metadata.get("background") is not None
    if evaluator_type == "coco_instances" and cfg.TASK != "instance" and not has_classes:
        file = Path(metadata.get("dataset_file", "its YAML file")).name
        background = f"add a class for pixels without an instance to classes in {file} and name it there: "
        remedy = (
            f"{background}background: NAME"
            if is_semantic
            else "make them with `segzoo convert-data panoptic`"
        )
        raise InputError(
            f"TASK {cfg.TASK} needs {'semantic or ' * is_semantic}panoptic ground truth, but {name} has "
            f"instances; use TASK instance, or {remedy}"
        )


def _take_from_dataset(cfg: CfgNode, name: str) -> None:
    metadata = _segzoo_metadata(name)
    classes = metadata["classes"]
    head = cfg.MODEL.SEM_SEG_HEAD
    counts = {"all": len(classes), "things": len(metadata["thing_classes"]), "one": 1}
    expected = counts[TASKS[cfg.TASK].classes]
    if head.NUM_CLASSES not in (0, expected):
        raise InputError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES={head.NUM_CLASSES} but {name} has {expected} ({cfg.TASK}); "
            "leave the key out or set it to 0, or name another dataset in DATASETS.CLASSES_FROM"
        )
    head.NUM_CLASSES = expected
    head.IGNORE_VALUE = metadata["ignore_label"]
    if "instances" in wanted_targets(cfg):
        for section in sorted(_DETECTION_HEADS & cfg.MODEL.keys()):
            _set_class_count(cfg, section, expected, name)


def _set_class_count(cfg: CfgNode, section: str, expected: int, dataset: str) -> None:
    """Set the number of classes of a Detectron2 head, whose default is COCO's."""
    node = cfg.MODEL[section]
    if node.NUM_CLASSES not in (_COCO_CLASSES, expected):
        raise InputError(
            f"MODEL.{section}.NUM_CLASSES {node.NUM_CLASSES} but {dataset} has {expected} ({cfg.TASK}); "
            "leave the key out"
        )
    node.NUM_CLASSES = expected


def _segzoo_metadata(name: str) -> Mapping[str, Any]:
    metadata = dataset_metadata(name)
    if "classes" not in metadata or "evaluator_type" not in metadata:
        remedy = "describe it in a YAML file and list that in DATASETS.FILES"
        if name in DATASETS_HERE:
            remedy = f"{DATASETS_HERE[name]} is the same dataset here"
        raise InputError(
            f"DATASETS: {name} is a Detectron2 dataset without the class metadata that segzoo needs; {remedy}"
        )
    return metadata


def _check_datasets(cfg: CfgNode, classes_from: str) -> None:
    """Raise InputError unless every dataset has the model's classes and ground truth for the tasks."""
    expected = dataset_metadata(classes_from)
    # A single class of all segments does not depend on the dataset's classes.
    train = () if TASKS[cfg.TASK].classes == "one" else cfg.DATASETS.TRAIN
    # Entities have no class: a model evaluated only on them may be tested on any segments.
    test = () if tuple(cfg.TEST.TASKS) == ("entity",) else cfg.DATASETS.TEST
    # A panoptic model may be tested on the instances of its things alone.
    tested = "thing_classes" if tuple(cfg.TEST.TASKS) == ("instance",) else "classes"
    for key, names, field in (("TRAIN", train, "classes"), ("TEST", test, tested)):
        for name in names:
            found, wanted = (list(one.get(field, ())) for one in (_segzoo_metadata(name), expected))
            if found != wanted:
                raise InputError(
                    f"DATASETS.{key}: {name} has other classes than {classes_from} "
                    f"({_first_difference(found, wanted)}); map both to the same with label_map in their "
                    f"YAML files, or choose another DATASETS.CLASSES_FROM or DATASETS.{key}"
                )
    for name in cfg.DATASETS.TEST:
        panoptic = [task for task in cfg.TEST.TASKS if task != "semantic"]
        if panoptic and _segzoo_metadata(name)["evaluator_type"] == "sem_seg":
            raise InputError(
                f"TEST.TASKS {panoptic[0]} needs panoptic ground truth, but {name} has semantic labels; "
                "choose another DATASETS.TEST, or TEST.TASKS \"('semantic',)\""
            )


def _first_difference(found: list[str], expected: list[str]) -> str:
    if len(found) != len(expected):
        return f"{len(found)} instead of {len(expected)}"
    index = next(i for i, (one, other) in enumerate(zip(found, expected, strict=True)) if one != other)
    return f"class {index} is {found[index]!r} instead of {expected[index]!r}"


def _check_dataset(key: str, name: str) -> None:
    if not dataset_metadata(name):
        from detectron2.data import DatasetCatalog  # its import takes longer than all the rest

        _check_choice(key, name, DatasetCatalog.list())


def _check_choice(key: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        listed = f"; known: {', '.join(choices)}" if len(choices) < 8 else ""
        raise InputError(f"{key} {value!r} is unknown{did_you_mean(value, choices)}{listed}")
