"""Format parts of messages."""

import difflib
from collections.abc import Iterable


def did_you_mean(word: object, choices: Iterable[object]) -> str:
    """Return "; did you mean sky?" if one of `choices` is similar to `word`, ignoring case, else ""."""
    spelled: dict[str, str] = {}
    for choice in map(str, choices):
        spelled.setdefault(choice.lower(), choice)
    close = difflib.get_close_matches(str(word).lower(), spelled, n=1, cutoff=0.6)
    return f"; did you mean {spelled[close[0]]}?" if close else ""


def some(items: Iterable[object], most: int = 5, separator: str = ", ") -> str:
    """Return the items joined by `separator`, truncated after `most` of them."""
    texts = [str(item) for item in items]
    return separator.join(texts[:most]) + (f"{separator}..." if len(texts) > most else "")
