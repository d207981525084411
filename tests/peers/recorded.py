"""What the tests against recorded outputs of authors' code share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from torch import Tensor, nn


class Loaded(NamedTuple):
    """A model with the authors' weights, from a file in their layout.

    `names`: the authors' name of each parameter; `parameters`: theirs in the order of their names; `buffers`:
    a copy, since training changes the statistics of batch norms.
    """

    model: nn.Module
    cfg: Any
    names: dict[str, str]
    parameters: list[str]
    buffers: dict[str, Tensor]


def read_case(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Return the recorded arrays of a case."""
    return dict(np.load(folder / f"{name}.npz"))


def with_case(names: Sequence[str], same_weights: Mapping[str, str]) -> pytest.MarkDecorator:
    """Parametrize by case; the fixture `model_of` is shared by successive tests of a case.

    Args:
        names: of the cases.
        same_weights: cases whose weights are those of another case.
    """
    pairs = [(same_weights.get(name, name), name) for name in names]
    return pytest.mark.parametrize(("model_of", "name"), pairs, indirect=["model_of"], scope="module")
