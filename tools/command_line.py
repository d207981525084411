"""What the tools' command lines share: flags, overrides at the end, and errors of one line."""

import argparse
import errno
import functools
import sys
from collections.abc import Callable, Mapping, Sequence

from segzoo.errors import InputError

Main = Callable[[Sequence[str]], int]

# Of files and folders that the system does not let the tool use; what is to be done about it.
REMEDIES = {
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some space, or choose another folder",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "change its permissions, or choose another one",
    errno.EPERM: "change its permissions, or choose another one",
    errno.ENOTDIR: "a folder is needed in that place",
    errno.EISDIR: "a file is needed in that place",
    errno.EEXIST: "choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
}


class CommandLine(argparse.ArgumentParser):
    """A parser with --debug, whose own complaints are a line too. They end the tool with status 2."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.add_argument("--debug", action="store_true", help="show where an error was raised")

    def add_trust(self) -> None:
        """For tools that read weights."""
        self.add_argument(
            "--trust-checkpoint", action="store_true", help="execute code that a checkpoint file contains"
        )

    def add_overrides(self, flag: str) -> None:
        """All that follows `flag`, "opts" for none, are pairs of keys and values."""
        default = {"default": []} if flag.startswith("-") else {}
        self.add_argument(
            flag, nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides, come last", **default
        )

    def parse_args(self, args=None, namespace=None):
        parsed = super().parse_args(args, namespace)
        flags = [word for word in getattr(parsed, "opts", None) or () if word.startswith("--")]
        if flags:
            raise InputError(f"Move {flags[0]} before KEY VALUE overrides.")
        return parsed

    def error(self, message: str) -> None:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def explained(
    main: Main | None = None, *, status: int = 2, also: Mapping[type[Exception], int] | None = None
) -> Callable:
    """Makes a tool's `main(arguments) -> status` print a wrong input in one line, and nothing else of it.

    What the system refuses (a full disk, a folder that cannot be written) is such a line, too. With --debug
    among the arguments errors are raised.

    Args:
        main: to be decorated. It is called with the arguments of the command line where there are none.
        status: what it returns for a wrong input.
        also: {exceptions of no wrong input whose message is the whole explanation: status}.
    """
    if main is None:
        return functools.partial(explained, status=status, also=also)
    statuses = {InputError: status, **(also or {})}

    @functools.wraps(main)
    def wrapped(arguments: Sequence[str] | None = None) -> int:
        arguments = list(sys.argv[1:] if arguments is None else arguments)
        try:
            return main(arguments)
        except (*statuses, OSError) as error:
            if "--debug" in arguments:
                raise
            found = next((one for kind, one in statuses.items() if isinstance(error, kind)), None)
            if found is None:
                message = of_the_system(error)
                if message is None:
                    raise
                found = status
            else:
                message = str(error)
            print(f"error: {' '.join(message.split())}", file=sys.stderr)
            return found

    return wrapped


def of_the_system(error: OSError) -> str | None:
    """What is wrong with a file or folder; None for an error of another kind."""
    if error.errno not in REMEDIES:
        return None
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror}; {REMEDIES[error.errno]}"
