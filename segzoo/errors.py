"""The one exception for a user's mistake: its message is the whole explanation, in one line."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A wrong file, key or flag. The message names it, what was found, what was expected and the remedy.

    The command-line tools print the message without a traceback and exit with status 2.
    """


def did_you_mean(word: object, choices: Iterable[object]) -> str:
    """'; did you mean sky?' when one of `choices` is close to `word`, in whatever case, else ''."""
    spelled: dict[str, str] = {}
    for choice in map(str, choices):
        spelled.setdefault(choice.lower(), choice)
    close = difflib.get_close_matches(str(word).lower(), spelled, n=1, cutoff=0.6)
    return f"; did you mean {spelled[close[0]]}?" if close else ""
