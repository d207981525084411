"""Find and build the neck that a configuration names."""

from collections.abc import Callable, Mapping

from detectron2.layers import ShapeSpec
from torch import nn

from .registry import NECK_REGISTRY, registered


def find_neck(cfg) -> Callable[..., nn.Module] | None:
    """Return the neck class that MODEL.NECK.NAME names, or None if it is empty.

    Raises:
        InputError: nothing is registered under that name.
    """
    name = cfg.MODEL.NECK.NAME
    return registered(NECK_REGISTRY, "MODEL.NECK.NAME", name) if name else None


def build_neck(cfg, input_shape: Mapping[str, ShapeSpec]) -> tuple[nn.Module | None, Mapping[str, ShapeSpec]]:
    """Build the neck of MODEL.NECK, and return it with the shapes of the maps that the heads get.

    Args:
        input_shape: channels and stride of the backbone's maps.

    Returns:
        The neck, or None if MODEL.NECK.NAME is empty; then the shapes are `input_shape`.
    """
    neck_type = find_neck(cfg)
    if neck_type is None:
        return None, input_shape
    neck = neck_type(cfg, input_shape)
    return neck, neck.output_shape()
