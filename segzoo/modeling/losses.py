"""Losses by name, as every model returns them in training."""

from collections.abc import Iterable, Mapping

from torch import Tensor


def joined(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Join losses by name.

    Raises:
        ValueError: two parts have a loss of the same name.
    """
    losses: dict[str, Tensor] = {}
    for part in parts:
        duplicates = sorted(losses.keys() & part.keys())
        if duplicates:
            raise ValueError(f"two losses are named {', '.join(duplicates)}; rename one of them")
        losses.update(part)
    return losses
