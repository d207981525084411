"""What heads ask of the feature maps that a backbone or a neck gives."""

from collections.abc import Mapping, Sequence

from detectron2.layers import ShapeSpec

from segzoo.utils.errors import InputError


def check_in_features(names: Sequence[str], input_shape: Mapping[str, ShapeSpec]) -> None:
    """Raise InputError for no feature map, or one that is not there."""
    problem = _problem(names, input_shape)
    if problem:
        raise InputError(f"in_features {problem}")


def build_in_features(
    names: Sequence[str], input_shape: Mapping[str, ShapeSpec], key: str = "MODEL.SEM_SEG_HEAD.IN_FEATURES"
) -> tuple[str, ...]:
    """Return the names that a configuration gives; raise InputError, with the key, as `check_in_features`."""
    problem = _problem(names, input_shape)
    if problem:
        raise InputError(
            f"{key} {problem}; see MODEL.BACKBONE.OUT_FEATURES, or, with a ResNet of Detectron2, "
            "MODEL.RESNETS.OUT_FEATURES"
        )
    return tuple(names)


def _problem(names: Sequence[str], input_shape: Mapping[str, ShapeSpec]) -> str:
    if not names:
        return f"is empty; expected some of {', '.join(input_shape)}"
    missing = [name for name in names if name not in input_shape]
    return f"has {missing[0]!r}, but there are {', '.join(input_shape)}" if missing else ""
