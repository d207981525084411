"""What the tools of this folder share with the commands of segzoo; to be imported before torch."""

from segzoo.cli.errors import report_errors as explained
from segzoo.cli.interrupts import end, report_early_interrupts
from segzoo.cli.parser import (
    EXIT_STATUS,
    CommandLine,
    path_value,
    whole_number,
)
from segzoo.utils.commands import is_started_by_script
from segzoo.utils.threads import let_threads_rest

__all__ = [
    "EXIT_STATUS",
    "CommandLine",
    "end",
    "explained",
    "path_value",
    "whole_number",
]

let_threads_rest()
# Not where a tool is a module of another program.
if is_started_by_script():
    report_early_interrupts()
