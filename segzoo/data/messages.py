"""Parts of error messages."""

from collections.abc import Iterable

from segzoo.errors import did_you_mean

__all__ = ["did_you_mean", "some"]


def some(items: Iterable[object], most: int = 5) -> str:
    """The items separated by commas, cut after `most` of them."""
    items = list(items)
    return ", ".join(str(item) for item in items[:most]) + (", ..." if len(items) > most else "")
