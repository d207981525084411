"""What a transformer decoder may ask for beside feature maps.

Shape shorthand: N images, H W size of the padded images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from .criterion import SegmentTargets, targets_from_inputs


class BatchContext:
    """The batch that a head works on.

    A decoder that needs more than feature maps names it in its attribute `wants`, and its `forward` receives
    it by keyword:

        class TaskConditionedDecoder(nn.Module):
            wants = ("images", "tasks")

            def forward(self, x, mask_features, images, tasks): ...

    Nothing is computed for a decoder that wants nothing.

    Attributes:
        images: (N, 3, H, W) float, normalized and padded: what the backbone receives.
        image_sizes: N pairs (height, width) of the images without padding; those of `images` where none were
            given.
        tasks: the results asked for, of "semantic", "panoptic", "instance", "entity".
        inputs: the mapper's dict of each image, with whatever a mapper adds to it; () where images come
            without (export).
        training: whether there are targets.
    """

    def __init__(
        self,
        images: Tensor,
        image_sizes: Sequence[tuple[int, int]] = (),
        tasks: Sequence[str] = (),
        inputs: Sequence[dict] = (),
        training: bool = False,
    ):
        self.images = images
        self._image_sizes = image_sizes
        self.tasks = tuple(tasks)
        self.inputs = inputs
        self.training = training

    @property
    def image_sizes(self) -> list[tuple[int, int]]:
        return list(self._image_sizes) or [(self.images.shape[-2], self.images.shape[-1])] * len(self.images)

    @cached_property
    def targets(self) -> list[SegmentTargets] | None:
        """The ground truth of each image, on the device of the images; None outside of training."""
        if not self.training:
            return None
        size = (self.images.shape[-2], self.images.shape[-1])
        return targets_from_inputs(self.inputs, size, self.images.device)


# What `wants` may name.
OFFERED = ("images", "image_sizes", "tasks", "inputs", "targets")


def wanted(module: torch.nn.Module) -> tuple[str, ...]:
    """Return what a decoder names in `wants`; () without that attribute.

    Raises:
        ValueError: it names what `BatchContext` does not offer.
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
