"""Find the prefix of a model's weights where the model was saved as part of another module.

A LightningModule holds the model under a name of its choice (`model.`, `net.`), beside the buffers of its
losses and metrics; a wrapper for weight averaging holds one or two copies of it.
"""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass

# A prefix of a smaller share of the keys is not the model's.
_LEAST_SHARE = 0.1
_DEEPEST = 5


@dataclass(frozen=True)
class Prefix:
    """The prefix of the model's weights in a file.

    Attributes:
        text: the prefix, with its dot; "" if the names are the model's own.
        same: prefixes of further copies of the model in the file.
        outside: keys without any of these prefixes.
    """

    text: str = ""
    same: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()


def find_prefix(keys: Collection[str], explained: Callable[[list[str]], int]) -> Prefix:
    """Return the prefix without which most keys have a place in the model; the file's first on a tie.

    Args:
        keys: the file's.
        explained: returns how many of the given names have a place in the model.
    """
    without = explained(list(keys))
    if without * 2 >= len(keys):
        return Prefix()
    counts = {prefix: explained(_below(keys, prefix)) for prefix in _candidates(keys)}
    # Averages come last: which weights a script evaluates is its own choice.
    ordered = sorted(counts, key=lambda prefix: (-counts[prefix], "ema" in prefix.lower()))
    best = next(iter(ordered), "")
    if not best or counts[best] <= without or counts[best] * 2 < len(_below(keys, best)):
        return Prefix()
    same = tuple(
        other for other in ordered[1:] if counts[other] == counts[best] and not other.startswith(best)
    )
    outside = tuple(key for key in keys if not key.startswith((best, *same)))
    return Prefix(best, same, outside)


def _candidates(keys: Collection[str]) -> list[str]:
    counts: Counter[str] = Counter()
    for key in keys:
        parts = key.split(".")
        counts.update(".".join(parts[:depth]) + "." for depth in range(1, min(_DEEPEST + 1, len(parts))))
    return [prefix for prefix, count in counts.items() if count >= _LEAST_SHARE * len(keys)]


def _below(keys: Collection[str], prefix: str) -> list[str]:
    return [key[len(prefix) :] for key in keys if key.startswith(prefix)]
