"""Prepare a dataset: make the files that its download lacks, and count its images.

    segzoo prepare --list                      # list the datasets
    segzoo prepare ade20k_panoptic --help      # where to get it, its folders, and what is written
    segzoo prepare ade20k_panoptic
    segzoo prepare shapes                      # generate a small dataset: nothing to download

Datasets are in the folder that the environment variable DETECTRON2_DATASETS names, by default ./datasets.
A preparation can be interrupted and started again; incomplete files are never read.
Your own dataset needs none: `segzoo check-data --keys` shows the YAML file that describes it.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from segzoo.cli import dataset_guide
from segzoo.cli.command import command
from segzoo.cli.parser import CommandLine
from segzoo.utils.commands import command_line
from segzoo.utils.errors import InputError
from segzoo.utils.text import did_you_mean

from . import table
from .table import EXIT_STATUS, PREPARATIONS, SYNONYMS


def build_parser() -> CommandLine:
    """Return the command line without a dataset."""
    parser = CommandLine("prepare", description=__doc__, epilog=f"{_listed()}\n\n{EXIT_STATUS}")
    parser.add_argument("dataset", nargs="?", help="one of those below, followed by its options")
    parser.add_argument("--list", action="store_true", help="list the datasets, and exit")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """List the datasets.

    Raises:
        InputError: another name, or none.
    """
    if arguments.list:
        print(_listed())
        return 0
    see = f"`{command_line('prepare', '--list')}` lists all"
    if arguments.dataset is None:
        raise InputError(f"the dataset is missing; {see}")
    name = arguments.dataset
    if name.endswith((".yaml", ".yml")):
        read = command_line("check-data", name)
        raise InputError(f"{name}: a dataset of your own needs no preparation; `{read}` checks it")
    dataset = table.dataset_of(name)
    if dataset:
        raise InputError(f"{name} is a split; run `{command_line('prepare', dataset)}`")
    close = did_you_mean(name, [*PREPARATIONS, *SYNONYMS])
    raise InputError(f"there is no dataset {name} to prepare{close or ';'} {see}")


def build_dataset_parser(name: str) -> CommandLine:
    """Return the command line of a dataset."""
    entry = PREPARATIONS[name]
    text = f"{entry.section}\n\n{dataset_guide.section(entry.section)}\n\n{EXIT_STATUS}"
    parser = CommandLine(f"prepare {name}", description=table.description(name), epilog=text)
    entry.add_options(parser)
    parser.set_defaults(dataset=name)
    return parser


def run_dataset(arguments: argparse.Namespace) -> int:
    """Prepare a dataset.

    Raises:
        InputError: nothing can be done.
    """
    name = arguments.dataset
    if not table.load(name)(arguments):
        print(
            f"{name} is not complete; what is there can be used. `{command_line('prepare', name, '--help')}` "
            "shows the expected folders",
            file=sys.stderr,
        )
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `segzoo prepare`; return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = SYNONYMS.get(words[0], words[0]) if words else ""
    if name not in PREPARATIONS:
        return command(build_parser, run)(words)
    return command(partial(build_dataset_parser, name), run_dataset)(words[1:])


def _listed() -> str:
    """Return a table of the datasets and of the files made for each."""
    rows = [(name, entry.about, entry.makes or "-") for name, entry in PREPARATIONS.items()]
    rows = [("NAME", "DATASET", "WHAT IS MADE"), *rows]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = [f"{name:<{first}}  {about:<{second}}  {makes}" for name, about, makes in rows]
    return "\n".join([*lines, "", "-: nothing to make; images are counted."])
