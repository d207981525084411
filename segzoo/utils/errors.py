"""Exceptions for wrong input, whose message explains the problem in one line."""


class InputError(ValueError):
    """Error for a wrong file, key or flag; the message names it, what was found and expected, and the remedy.

    Commands print the message without a traceback and exit with status 2.
    """


class ArgumentError(InputError):
    """Error for a wrong argument of a function or constructor.

    Attributes:
        argument: name of the argument, which begins the message.
        problem: the rest of the message: what was found and what was expected.
    """

    def __init__(self, argument: str, problem: str):
        super().__init__(f"{argument}{problem}")
        self.argument = argument
        self.problem = problem

    def __reduce__(self):
        return type(self), (self.argument, self.problem)
