"""Parts of error messages."""

import difflib
from collections.abc import Iterable


def did_you_mean(word: object, choices: Iterable[object]) -> str:
    """'; did you mean sky?' when one of `choices` is close to `word`, else ''."""
    close = difflib.get_close_matches(str(word), [str(choice) for choice in choices], n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def some(items: Iterable[object], most: int = 5) -> str:
    """The items separated by commas, cut after `most` of them."""
    items = list(items)
    return ", ".join(str(item) for item in items[:most]) + (", ..." if len(items) > most else "")
