"""Parts of messages."""

import difflib
from collections.abc import Iterable


def did_you_mean(word: object, choices: Iterable[object]) -> str:
    """Return "; did you mean sky?" when one of `choices` is close to `word`, ignoring case, else ""."""
    spelled: dict[str, str] = {}
    for choice in map(str, choices):
        spelled.setdefault(choice.lower(), choice)
    close = difflib.get_close_matches(str(word).lower(), spelled, n=1, cutoff=0.6)
    return f"; did you mean {spelled[close[0]]}?" if close else ""


def some(items: Iterable[object], most: int = 5, separator: str = ", ") -> str:
    """Return the items with separators, cut after `most` of them."""
    texts = [str(item) for item in items]
    return separator.join(texts[:most]) + (f"{separator}..." if len(texts) > most else "")
