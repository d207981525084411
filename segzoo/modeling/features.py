"""What heads ask of the feature maps that a backbone or a neck gives."""

from collections.abc import Mapping, Sequence

from detectron2.layers import ShapeSpec

from segzoo.utils.errors import InputError


def check_in_features(key: str, names: Sequence[str], input_shape: Mapping[str, ShapeSpec]) -> None:
    """Raises InputError, naming the configuration's key, for no feature map, or one that is not there."""
    if not names:
        raise InputError(f"{key} is empty; expected some of {', '.join(input_shape)}")
    for name in names:
        if name not in input_shape:
            raise InputError(
                f"{key} has {name!r}, but there are {', '.join(input_shape)}; see MODEL.BACKBONE.OUT_FEATURES"
            )
