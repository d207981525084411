"""Parts of segzoo's command lines that the tools of this folder use; to be imported before torch."""

from segzoo.cli.errors import report_errors
from segzoo.cli.interrupts import end, report_early_interrupts
from segzoo.cli.parser import (
    EXIT_STATUS,
    CommandLine,
    path_value,
    whole_number,
)
from segzoo.utils.commands import is_started_by_script
from segzoo.utils.threads import configure_openmp

__all__ = [
    "EXIT_STATUS",
    "CommandLine",
    "end",
    "path_value",
    "report_errors",
    "whole_number",
]

configure_openmp()
# Not if a tool is imported by another program.
if is_started_by_script():
    report_early_interrupts()
