"""The one exception for a user's mistake: its message is the whole explanation, in one line."""


class InputError(ValueError):
    """A wrong file, key or flag. The message names it, what was found, what was expected and the remedy.

    Commands print the message without a traceback and exit with status 2.
    """


class ArgumentError(InputError):
    """A wrong argument of a function or constructor.

    Attributes:
        argument: its name, with which the message begins.
        problem: the rest of the message: what was found and what was expected.
    """

    def __init__(self, argument: str, problem: str):
        super().__init__(f"{argument}{problem}")
        self.argument = argument
        self.problem = problem

    def __reduce__(self):
        return type(self), (self.argument, self.problem)
