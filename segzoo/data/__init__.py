"""Datasets described by YAML files, and loading them as a model's input."""

from typing import TYPE_CHECKING

from segzoo.utils.import_hooks import after_import
from segzoo.utils.lazy_exports import lazy_exports

# Not lazily: `label_reader` is also the name of a module.
from .register import label_reader, register_builtin, register_dataset_file

if TYPE_CHECKING:
    from .augmentation.build import build_test_augmentations, build_train_augmentations
    from .build import build_test_loader, build_train_loader
    from .class_metadata import register_described
    from .dataset_file import DatasetFile, read_dataset_file
    from .dataset_range import training_range
    from .images import describe_reading, load_image, read_image, rgb_pixels
    from .label_reader import LabelReader
    from .mapper import SegmentationMapper
    from .pixel_range import PixelRange
    from .targets import register_task
    from .training_targets import TARGETS_REGISTRY, AugmentedLabels
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__all__ = [
    "TARGETS_REGISTRY",
    "AugmentedLabels",
    "DatasetFile",
    "LabelReader",
    "PixelRange",
    "SegmentationMapper",
    "build_test_augmentations",
    "build_test_loader",
    "build_train_augmentations",
    "build_train_loader",
    "describe_reading",
    "label_reader",
    "load_image",
    "read_dataset_file",
    "read_image",
    "register_builtin",
    "register_dataset_file",
    "register_described",
    "register_task",
    "rgb_pixels",
    "training_range",
]

after_import("detectron2.data", register_builtin)
