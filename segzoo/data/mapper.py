"""The mapper of all tasks: read an image and its index map, augment both, and build targets from the map.

Shape shorthand: H, W pixels; S target segments; K classes.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T

from segzoo.utils.errors import InputError
from segzoo.utils.tasks import TASKS
from segzoo.utils.text import did_you_mean

from .augmentation.build import AugmentationInput, build_test_augmentations, build_train_augmentations
from .augmentation.transforms import count_flips
from .images import check_annotated_size, load_image
from .label_reader import IndexMap, LabelReader
from .outlines import Outline, read_outlines, transform_outlines
from .register import label_reader
from .targets import GROUPS
from .training_targets import AugmentedLabels, find_targets
from .wanted_targets import STANDARD, wanted_targets

# Keys of a record that training replaces by targets.
_ANNOTATION_KEYS = (
    *("sem_seg_file_name", "label_classes", "pan_seg_file_name", "segments_info", "void_segments"),
    *("annotations", "void_annotations"),
)


class SegmentationMapper:
    """Maps a dataset dict to a model's input.

    Args:
        is_train: training, with targets, or evaluation.
        task: semantic, panoptic, entity, instance or a registered one; determines the targets.
        targets: names of TARGETS_REGISTRY, the targets that the mapper adds.
        mask_format: "polygon" or "bitmask", the masks of the target "instances"; see INPUT.MASK_FORMAT.
        augmentations: Detectron2 augmentations; they see `image` and `sem_seg`, the class map.
        image_format: "RGB" or "BGR".
        image_range: values of images of more than 8 bits that become 0 and 255, unless the dataset sets them;
            (): see `read_image`.
        readers: {dataset name: its label reader}, for training; see `label_reader`.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        task: str,
        augmentations: Sequence[T.Augmentation],
        image_format: str = "RGB",
        image_range: Sequence[float] = (),
        readers: Mapping[str, LabelReader] | None = None,
        targets: Sequence[str] = STANDARD,
        mask_format: str = "polygon",
    ) -> None:
        if task not in GROUPS:
            raise InputError(
                f"TASK {task!r} is unknown{did_you_mean(task, GROUPS)}; known: {', '.join(GROUPS)}"
            )
        self.add_targets = find_targets(targets)
        self.polygons_suffice = tuple(targets) == ("instances",)
        self.is_train = is_train
        self.task = task
        self.mask_format = mask_format
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.image_range = tuple(image_range)
        self.readers = dict(readers or {})
        self.void_label = _void_label(self.readers)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        readers = {name: label_reader(name) for name in cfg.DATASETS.TRAIN} if is_train else {}
        for name, reader in readers.items():
            if name in reader.dataset.without_labels:
                raise InputError(
                    f"DATASETS.TRAIN: {name} has no labels, only images; train on another split of "
                    f"{reader.dataset.path.name}"
                )
            _check_pad_label(cfg, reader)
        augmentations = (
            build_train_augmentations(cfg, _void_label(readers))
            if is_train
            else build_test_augmentations(cfg)
        )
        return {
            "is_train": is_train,
            "task": cfg.TASK,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "image_range": cfg.INPUT.IMAGE_RANGE,
            "readers": readers,
            "targets": wanted_targets(cfg) if is_train else STANDARD,
            "mask_format": cfg.INPUT.MASK_FORMAT,
        }

    def __call__(self, dataset_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Read an image and, for training, its annotation.

        Args:
            dataset_dict: record of a dataset registered from a YAML; it is not changed.

        Returns:
            The record with `image` (3, H, W) uint8 and `height`, `width` of the original. In training its
            label files and segments are replaced by the targets. The standard targets are `segment_map`
            (H, W) int16 and `segment_classes` (S,) int64 (see `Targets`), with `segment_masks` (S, H, W) bool
            in place of the map if instances may overlap (see `MaskTargets`); for the semantic task also
            `sem_seg` (H, W) int64, class index or the dataset's ignore label.

        Raises:
            InputError: a missing, broken or wrong file.
        """
        record = dict(dataset_dict)
        image = load_image(record, self.image_format, self.image_range)
        height, width = image.shape[:2]
        check_annotated_size(record, (height, width))
        record["height"], record["width"] = height, width
        if not self.is_train:
            augmented = AugmentationInput(image)
            self.augmentations(augmented)
            record["image"] = _to_tensor(augmented.image)
            return record
        self._add_targets(record, image)
        return record

    def _add_targets(self, record: dict[str, Any], image: np.ndarray) -> None:
        reader = self.readers[record["dataset"]]

        @functools.cache
        def source() -> IndexMap:
            return reader.load_index_map(record, semantic=TASKS[self.task].from_classes)

        augmented = AugmentationInput(image, source, self.void_label)
        transforms = self.augmentations(augmented)
        height, width = augmented.image.shape[:2]
        # Polygons are not drawn where nobody needs their pixels.
        alone = reader.polygons_alone(record, (height, width)) if self.polygons_suffice else None
        index_map = augmented.index_map if alone is None else alone
        assert index_map is not None
        if count_flips(transforms) % 2:
            index_map = swap_classes(index_map, reader.dataset.flip_pairs)
        record["image"] = _to_tensor(augmented.image)
        groups = GROUPS[self.task](index_map.segments, reader.is_thing)

        def outlines() -> list[Outline]:
            return transform_outlines(read_outlines(record["annotations"]), transforms)

        labels = AugmentedLabels(
            self.task,
            index_map,
            groups,
            reader.class_map,
            outlines if index_map.members is not None else None,
            self.mask_format,
            source() if alone is None else None,
            transforms,
        )
        for add in self.add_targets:
            record.update(add(labels))
        for key in _ANNOTATION_KEYS:
            record.pop(key, None)


def _check_pad_label(cfg: CfgNode, reader: LabelReader) -> None:
    """Raise InputError if padding cannot be labeled with INPUT.PAD_LABEL."""
    label, classes = cfg.INPUT.PAD_LABEL, reader.dataset.classes
    if label >= 0 and not TASKS[cfg.TASK].from_classes:
        raise InputError(
            f"INPUT.PAD_LABEL {label}: only TASK semantic trains on padding, found TASK {cfg.TASK}; use -1"
        )
    if label >= len(classes):
        raise InputError(
            f"INPUT.PAD_LABEL {label}: {reader.dataset.path.name} has {len(classes)} classes; expected a "
            "class, counted from 0, or -1 for the ignore label"
        )


def swap_classes(index_map: IndexMap, flip_pairs: Sequence[tuple[int, int]]) -> IndexMap:
    """Exchange left and right classes in the table of segments; the indices stay."""
    segments = index_map.segments
    classes = segments.classes.copy()
    for left, right in flip_pairs:
        classes[segments.classes == left] = right
        classes[segments.classes == right] = left
    return index_map._replace(segments=segments._replace(classes=classes))


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    """Convert (H, W, 3) uint8 to a contiguous tensor (3, H, W)."""
    planes = np.empty((image.shape[2], *image.shape[:2]), image.dtype)
    cv2.split(image, list(planes))
    return torch.from_numpy(planes)


def _void_label(readers: Mapping[str, LabelReader]) -> int:
    """Return the label of void in augmentations, which is above all class indices of all datasets."""
    return max((reader.ignore_label for reader in readers.values()), default=255)
