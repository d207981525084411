"""What a transformer decoder may ask for beside feature maps.

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
