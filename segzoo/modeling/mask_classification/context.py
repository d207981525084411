"""What a transformer decoder may ask for beside feature maps, and losses that a head computes itself.

A decoder that needs more than feature maps names it in its attribute `wants`, and its `forward` receives it
by keyword, as it is in `segzoo.modeling.segmentor.Batch`:

    class TaskConditionedDecoder(nn.Module):
        wants = ("images", "tasks")

        def forward(self, x, mask_features, images, tasks): ...

Nothing is computed for a decoder that wants nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# What `wants` may name.
OFFERED = ("images", "image_sizes", "tasks", "inputs", "targets")


def wanted(module: torch.nn.Module) -> tuple[str, ...]:
    """Return what a decoder names in `wants`; () without that attribute.

    Raises:
        ValueError: it names what `Batch` does not offer.
    """
    names: Iterable[str] = getattr(module, "wants", ())
    for name in names:
        if name not in OFFERED:
            raise ValueError(
                f"{type(module).__name__}.wants names {name!r}; expected some of {', '.join(OFFERED)}"
            )
    return tuple(names)


def with_head_losses(losses: dict[str, Tensor], outputs: dict) -> dict[str, Tensor]:
    """Join the criterion's losses and those that the head returned in `outputs["losses"]`.

    Raises:
        ValueError: both have a loss of one name.
    """
    own = outputs.get("losses", {})
    twice = sorted(losses.keys() & own.keys())
    if twice:
        raise ValueError(
            f"the head returned {', '.join(twice)}, a loss that the criterion computes; give it another name"
        )
    return {**losses, **own}
