"""The option --weights, which stands for MODEL.WEIGHTS among the KEY VALUE overrides."""

import itertools
from collections.abc import Sequence

from segzoo.utils.errors import InputError


def weights_in(overrides: Sequence[str]) -> str:
    """Return the last MODEL.WEIGHTS among KEY VALUE overrides; "" for none."""
    given = [value for key, value in itertools.pairwise(overrides) if key == "MODEL.WEIGHTS"]
    return given[-1] if given else ""


def with_weights(overrides: Sequence[str], weights: str) -> list[str]:
    """Return the overrides with --weights before them; raise InputError if they name another file."""
    other = weights_in(overrides)
    if other not in ("", weights):
        raise InputError(f"--weights {weights} and MODEL.WEIGHTS {other} are two checkpoints; give one")
    return ["MODEL.WEIGHTS", weights, *overrides]
