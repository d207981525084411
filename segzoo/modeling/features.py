"""Checks of the feature maps that a head takes from a backbone or a neck."""

import re
from collections.abc import Mapping, Sequence

from detectron2.layers import ShapeSpec

from segzoo.utils.errors import InputError


def check_in_features(names: Sequence[str], input_shape: Mapping[str, ShapeSpec]) -> None:
    """Raise InputError unless `names` has at least one name and `input_shape` has all of them."""
    problem = _problem(names, input_shape)
    if problem:
        raise InputError(f"in_features {problem}")


def build_in_features(
    names: Sequence[str], input_shape: Mapping[str, ShapeSpec], key: str = "MODEL.SEM_SEG_HEAD.IN_FEATURES"
) -> tuple[str, ...]:
    """Return the names in a configuration; raise InputError, with the key, like `check_in_features`."""
    problem = _problem(names, input_shape)
    if problem:
        remedy = "MODEL.BACKBONE.OUT_FEATURES, or, with a ResNet of Detectron2, MODEL.RESNETS.OUT_FEATURES"
        if any(re.fullmatch(r"p\d+", name) for name in input_shape):  # the levels of an FPN
            remedy = "MODEL.FPN.OUT_FEATURES and MODEL.FPN.TOP_BLOCK"
        raise InputError(f"{key} {problem}; see {remedy}")
    return tuple(names)


def _problem(names: Sequence[str], input_shape: Mapping[str, ShapeSpec]) -> str:
    if not names:
        return f"is empty; expected some of {', '.join(input_shape)}"
    missing = [name for name in names if name not in input_shape]
    return f"has {missing[0]!r}, but there are {', '.join(input_shape)}" if missing else ""
