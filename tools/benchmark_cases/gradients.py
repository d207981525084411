"""Comparison of results and gradients of the same layers."""

from collections.abc import Sequence

from torch import Tensor


def compare(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> str:
    """Return the largest difference relative to the peer's norm; errors differ by far more than rounding."""
    pairs = zip(ours, theirs, strict=True)
    worst = max(((our - their).norm() / their.norm()).item() for our, their in pairs)
    verdict = f"gradients {worst:.1e}"
    return verdict if worst < 1e-4 else f"DIFFERENT: {verdict}"
