"""The one exception for a user's mistake: its message is the whole explanation, in one line."""


class InputError(ValueError):
    """A wrong file, key or flag. The message names it, what was found, what was expected and the remedy.

    Commands print the message without a traceback and exit with status 2.
    """
