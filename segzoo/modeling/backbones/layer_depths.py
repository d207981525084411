"""How deep the parameters of a backbone are, for layer-wise decay of the learning rate (SOLVER.LAYER_DECAY).

A backbone says it by a method `layer_depths()`. The rule is that of BEiT (Bao et al. 2022) and, for stages,
of SimMIM's Swin (Xie et al. 2022): what embeds the image is at depth 0, the blocks follow one by one through
all stages, what leads to the next stage is as deep as the block before it.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn


class LayerDepths(NamedTuple):
    """Depths of the parameters of a module.

    Attributes:
        depths: {name of a parameter: its depth}, 0 for what sees the image first, up to `total`.
        total: depth of what comes after the last layer; its learning rate is not reduced.
    """

    depths: dict[str, int]
    total: int


def number_layers(module: nn.Module, place: Callable[[str], tuple[int, ...] | None]) -> LayerDepths:
    """Return the depths of a module's parameters from their places.

    Args:
        module: the backbone.
        place: of the name of a parameter: where its layer stands among the others, which are numbered in the
            order of these tuples; None for what belongs to no layer, such as a norm on an output.
    """
    places = {name: place(name) for name, _ in module.named_parameters()}
    layers = sorted({one for one in places.values() if one is not None})
    number = {layer: index for index, layer in enumerate(layers)}
    return LayerDepths(
        {name: len(layers) if one is None else number[one] for name, one in places.items()}, len(layers)
    )
