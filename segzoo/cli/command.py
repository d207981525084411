"""Commands, made of a function that builds the parser and one that does the work."""

import argparse
from collections.abc import Callable, Sequence

from segzoo.utils.threads import configure_openmp

from .errors import Main, report_errors
from .interrupts import end, report_early_interrupts
from .parser import CommandLine


def command(build_parser: Callable[[], CommandLine], run: Callable[[argparse.Namespace], int]) -> Main:
    """Return `main(arguments) -> exit status`, which parses, runs, and reports errors in one line.

    For None, `main` takes the words of the command line.
    """

    @report_errors
    def main(arguments: Sequence[str]) -> int:
        parsed = build_parser().parse_args(arguments)
        # Before `run` imports torch.
        configure_openmp()
        return run(parsed)

    if run.__module__ == "__main__":  # python -m segzoo.cli.train
        report_early_interrupts()
        end(main(None))
    return main
