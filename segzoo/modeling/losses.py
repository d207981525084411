"""Losses by name, as every model returns them in training."""

from collections.abc import Iterable, Mapping

from torch import Tensor


def joined(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Join losses by name.

    Raises:
        ValueError: two parts have a loss of one name.
    """
    losses: dict[str, Tensor] = {}
    for part in parts:
        twice = sorted(losses.keys() & part.keys())
        if twice:
            raise ValueError(f"two losses are named {', '.join(twice)}; give one of them another name")
        losses.update(part)
    return losses
