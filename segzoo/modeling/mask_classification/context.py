"""Inputs that a transformer decoder may request besides feature maps.

A decoder that needs more than feature maps lists the names in its attribute `wants`, and its `forward`
receives these fields of `segzoo.modeling.segmentor.Batch` by keyword:

    class TaskConditionedDecoder(nn.Module):
        wants = ("images", "tasks")

        def forward(self, x, mask_features, images, tasks): ...

Nothing is computed for a decoder without `wants`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

# Names allowed in `wants`.
ALLOWED = ("images", "image_sizes", "tasks", "inputs", "targets")


def decoder_inputs(module: torch.nn.Module) -> tuple[str, ...]:
    """Return the names that a decoder lists in `wants`; () without that attribute.

    Raises:
        ValueError: a name is not one that `Batch` offers.
    """
    names: Iterable[str] = getattr(module, "wants", ())
    for name in names:
        if name not in ALLOWED:
            raise ValueError(
                f"{type(module).__name__}.wants names {name!r}; expected some of {', '.join(ALLOWED)}"
            )
    return tuple(names)
