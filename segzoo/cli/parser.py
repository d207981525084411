"""The grammar that all commands share: options, and KEY VALUE overrides at the end."""

import argparse
import contextlib
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from segzoo.utils.commands import SCRIPTS, is_started_by_script, program
from segzoo.utils.errors import InputError
from segzoo.utils.paths import expand_home
from segzoo.utils.text import did_you_mean
from segzoo.utils.threads import free_processors

from .weights_option import weights_in, with_weights

A_DATASET = "a dataset YAML, its folder, or the name of a built-in dataset or split"
EXIT_STATUS = "exit status: 0 done, 2 wrong input"
EXIT_STATUS_OF_CHECKS = "exit status: 0 done, 1 problems were found, 2 wrong input"

# Sections of a configuration, and its keys outside of sections. Listed here, because importing the
# configuration takes time.
SECTIONS = {"MODEL", "INPUT", "DATASETS", "DATALOADER", "SOLVER", "TEST", "GLOBAL"}
KEYS = {
    *("VERSION", "OUTPUT_DIR", "SEED", "CUDNN_BENCHMARK", "FLOAT32_PRECISION", "VIS_PERIOD"),
    *("TASK", "IMPORTS", "TRAINER"),
}
FILE_SUFFIXES = {
    *("JPG", "JPEG", "PNG", "BMP", "TIF", "TIFF", "WEBP", "PPM", "GIF"),
    *("MP4", "AVI", "MOV", "MKV", "WEBM", "M4V", "MPG", "MPEG"),
    *("YAML", "YML", "JSON", "TXT", "CSV", "PY", "ZIP", "TAR", "GZ"),
    *("PTH", "PT", "PT2", "PKL", "BIN", "SAFETENSORS", "ONNX", "PARAMS", "NPZ", "CKPT"),
}
# SOLVER.MAX_ITER, SEED; also SOLVER.MAX_ITER=10, a common mistake.
_KEY = re.compile(r"([A-Z][A-Z0-9_]*)(\.[A-Z0-9_]+)*(=.*)?", re.DOTALL)


def name_or_path(text: str) -> str:
    """Convert an argument that is a path or a name: not empty, and with `~` expanded."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; give a path")
    return expand_home(text)


def path_value(text: str) -> Path:
    """Convert an argument that is a path."""
    return Path(name_or_path(text))


def whole_number(least: int) -> Callable[[str], int]:
    """Return a type for arguments that are whole numbers, at least `least`."""

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"invalid int value: {text!r}") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"{number}: expected at least {least}")
        return number

    return convert


def share(text: str) -> float:
    """Convert an argument that is a number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 0 to 1")
    return number


class _StoreOnce(argparse._StoreAction):
    """An action that stores a value, and refuses a second one for the flag, which would silently win."""

    def __call__(self, parser, namespace, values, option_string=None):
        given = vars(namespace).setdefault("_given", {})
        if option_string and given.setdefault(self.dest, values) != values:
            parser.error(
                f"{option_string} is given twice, with {given[self.dest]} and {values}; give it once"
            )
        super().__call__(parser, namespace, values, option_string)


class CommandLine(argparse.ArgumentParser):
    """A parser with --debug, which reports its own errors in one line and ends with status 2.

    Flags cannot be abbreviated. The parsed arguments have all words of the command line as `words`.
    """

    def __init__(self, command: str = "", **options) -> None:
        """
        Args:
            command: the sub-command of `segzoo` whose words are parsed; "" for a separate script.
            options: those of argparse; description and epilog are shown as written.
        """
        if command and not (is_started_by_script() and command in SCRIPTS):
            options["prog"] = f"{program()} {command}"
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        # Commands look for flags in their words, to pass them on or to take them out.
        super().__init__(allow_abbrev=False, **options)
        self.register("action", None, _StoreOnce)
        self.register("action", "store", _StoreOnce)
        self.has_dataset = self.has_overrides = self.data_is_overrides = self.has_rest = False
        self.trains = False
        self._words: Sequence[str] = ()
        self.checks: list[Callable[[argparse.Namespace], None]] = []
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def add_check(self, check: Callable[[argparse.Namespace], None]) -> None:
        """Call `check` with the parsed arguments, in the order of the calls; it raises InputError."""
        self.checks.append(check)

    def group(self, title: str) -> argparse._ArgumentGroup:
        """Return the group of options with that title, creating it on first use."""
        for group in self._action_groups:
            if group.title == title:
                return group
        return self.add_argument_group(title)

    def add_trust(self) -> None:
        """Add --trust-checkpoint, for commands that read weights."""
        self.group("model").add_argument(
            "--trust-checkpoint", action="store_true", help="execute code that a checkpoint file contains"
        )

    def add_config(self, *, repeated: bool = False, weights: bool = False) -> None:
        """Add a configuration, of a file or a checkpoint, for commands that run no model.

        Args:
            repeated: whether it may be given several times; the result is a list.
            weights: whether the command uses MODEL.WEIGHTS too.
        """
        about = "a YAML file, a name that `segzoo zoo` lists, or a checkpoint of segzoo, which holds one"
        self.add_config_file("--model", about=about, repeated=repeated)
        if weights:
            self._add_weights()
        self.add_trust()

    def add_config_file(
        self,
        *flags: str,
        about: str = "a YAML file, or a name that `segzoo zoo` lists",
        default: str | None = None,
        repeated: bool = False,
    ) -> None:
        """Add --config-file, for commands that read the configuration of a file, not of a checkpoint."""
        if repeated:
            about += "; may be repeated"
        self.group("model").add_argument(
            "--config-file",
            *flags,
            type=name_or_path,
            action="append" if repeated else "store",
            default=[] if repeated else default,
            metavar="NAME|FILE",
            help=about + (f" (default {default})" if default else ""),
        )

    def _add_weights(self, about: str = "; one of segzoo's needs no --config-file") -> None:
        self.group("model").add_argument(
            "--weights",
            type=name_or_path,
            metavar="FILE",
            help=f"MODEL.WEIGHTS: path or URL of a checkpoint{about}",
        )

    def add_model(self, *, trains: bool = False) -> None:
        """Add the configuration and weights of a model, for commands that run one.

        Args:
            trains: whether --model names a configuration only, without weights.
        """
        self.trains = trains
        zoo = "a name of the zoo, with its authors' weights where they are linked, or a checkpoint"
        self.group("model").add_argument(
            "--model",
            type=name_or_path,
            metavar="NAME" if trains else "NAME|CHECKPOINT",
            help="the same as --config-file" if trains else zoo,
        )
        self.add_config_file()
        if trains:
            self._add_weights(" to start from")
        else:
            self._add_weights()
        self.add_trust()

    def add_data(self) -> None:
        """Add --data, for commands that read a dataset."""
        self.group("data").add_argument(
            "--data",
            type=name_or_path,
            metavar="FILE|FOLDER",
            help=A_DATASET,
        )

    def add_dataset(self) -> None:
        """Add the dataset of commands about data only: a name, --data, or those of a configuration."""
        self.has_dataset = True
        self.add_argument("dataset", type=name_or_path, nargs="?", metavar="DATASET", help=A_DATASET)
        about = "the same as DATASET"
        self.group("data").add_argument("--data", type=name_or_path, metavar="FILE", help=about)
        self.add_config()

    def add_split(self, about: str, *former: str, choices: Sequence[str] | None = None) -> None:
        """Add --split, a list of names of splits.

        Args:
            about: help.
            former: earlier flags with the same meaning, which help does not list.
            choices: the allowed names, which are the default; None for any name, with the default ().
        """
        for flag in ("--split", *former):
            self.group("data").add_argument(
                flag,
                dest="split",
                nargs="+",
                default=choices or (),
                choices=choices,
                metavar="NAME",
                help=about if flag == "--split" else argparse.SUPPRESS,
            )

    def add_workers(self) -> None:
        """Add --workers, for commands that work in several processes."""
        self.add_argument(
            "--workers",
            type=whole_number(0),
            default=free_processors(),
            metavar="NUMBER",
            help="number of processes (one per core); 0 or 1: only this one",
        )

    def add_overrides(self, *, data_is_overrides: bool = False) -> None:
        """Add KEY VALUE overrides of the configuration, which come last. To be called last.

        They are recognized by their form, so that they may follow flags and names that take any number of
        words; other remaining words are taken as overrides if a command has no names.

        Args:
            data_is_overrides: whether --data becomes overrides too: of DATASETS.FILES, TRAIN and TEST.
        """
        self.has_overrides, self.data_is_overrides = True, data_is_overrides
        about = "overrides of the configuration, come last; an --opts before them is ignored"
        shown = self.format_usage().removeprefix("usage: ").rstrip().replace("%", "%%")
        self.usage = f"{shown} [KEY VALUE ...]"
        if any(not action.option_strings for action in self._actions):
            self.add_argument_group("KEY VALUE ...", about)
        else:
            self.add_argument("opts", nargs="*", metavar="KEY VALUE", help=about)

    def add_rest(self) -> None:
        """Take the words after `--`, those of another command, as `rest`; None without `--`."""
        self.has_rest = True

    def parse_args(self, args=None, namespace=None):
        given = list(sys.argv[1:] if args is None else args)
        end = given.index("--") if self.has_rest and "--" in given else len(given)
        words = given[:end]
        start = self._start_of_overrides(words) if self.has_overrides else len(words)
        self._words = words[:start]
        parsed = super().parse_args(words[:start], namespace)
        if self.has_dataset:
            self._check_dataset(parsed, is_configured=start < len(words))
        vars(parsed).pop("_given", None)
        if self.has_overrides:
            stray = getattr(parsed, "opts", None) or []
            if stray:
                from .stray_words import check_stray

                check_stray(stray, self._option_string_actions)
            found = [*stray, *words[start:]]
            parsed.opts = [word for word in found if word != "--opts"]
            flags = [word for word in parsed.opts if word.startswith("--")]
            if flags:
                raise InputError(f"Move {flags[0]} before KEY VALUE overrides.")
            if getattr(parsed, "model", None):
                from .model_option import take_model

                take_model(parsed, self.trains)
            if self.data_is_overrides:
                take_data(parsed)
            if getattr(parsed, "weights", None):
                parsed.opts = with_weights(parsed.opts, parsed.weights)
        parsed.words = given
        if self.has_rest:
            parsed.rest = given[end + 1 :] if end < len(given) else None
        for check in self.checks:
            check(parsed)
        return parsed

    def _check_dataset(self, parsed: argparse.Namespace, is_configured: bool) -> None:
        if parsed.dataset and parsed.data not in (None, parsed.dataset):
            self.error(f"--data {parsed.data} and {parsed.dataset} are two datasets; give one")
        parsed.dataset = parsed.dataset or parsed.data
        if not (parsed.dataset or parsed.config_file or is_configured):
            self.error("the dataset is missing; give a dataset YAML, or the name of a built-in dataset")

    def print_help(self, file=None) -> None:
        # argparse's own method hides failed writes; a closed pipe is no error.
        with contextlib.suppress(BrokenPipeError):
            (file or sys.stdout).write(self.format_help())

    def _unknown_flags(self) -> list[str]:
        flags = [word for word in self._words if word.startswith("--")]
        return [flag for flag in flags if flag.partition("=")[0] not in self._option_string_actions]

    def _start_of_overrides(self, words: Sequence[str]) -> int:
        for index, word in enumerate(words):
            if word == "--opts":
                return index
            action = self._option_string_actions.get(words[index - 1]) if index else None
            # A flag with an optional value has one if the rest would not be pairs otherwise.
            is_value = action is not None and (
                action.nargs is None or (action.nargs == "?" and (len(words) - index) % 2 == 1)
            )
            if not is_value and _is_override(word):
                return index
        return len(words)

    def error(self, message: str) -> None:
        if " required" in message and (wrong := self._unknown_flags()):
            # argparse reports unknown flags last, but a misspelled flag may be the missing one.
            message = f"unrecognized arguments: {' '.join(wrong)}"
        _, unknown, words = message.partition("unrecognized arguments: ")
        first = words.split(" ")[0]
        if unknown and self.has_overrides and first.upper() in KEYS:
            message += f"; did you mean {first.upper()}?"
        elif unknown and first.startswith("--"):
            # --help is similar to any short flag.
            flags = [
                flag
                for flag, action in self._option_string_actions.items()
                if action.help != argparse.SUPPRESS and (flag != "--help" or first[2:3] == "h")
            ]
            message += did_you_mean(first.partition("=")[0], flags)
        elif unknown and _KEY.fullmatch(first):
            message += f"; {self.prog} reads no configuration that KEY VALUE could override"
        self.exit(2, f"error: {' '.join(message.split())}; see {self.prog} --help\n")


def _is_override(word: str) -> bool:
    """Return whether a word looks like a key of the configuration, misspelled or not, and is no file."""
    match = _KEY.fullmatch(word)
    if match is None and (match := _KEY.fullmatch(word.upper())):
        # model.device, which gets the answer that keys get; model.pth is a missing file.
        is_key = match[1] in SECTIONS and match[2] and match[2][1:] not in FILE_SUFFIXES
        return bool(is_key) and not os.path.exists(word)
    if match is None or os.path.exists(word):
        return False
    if not match[2]:
        return match[1] in KEYS
    # A package may add its own section; IMG.JPG is a missing file.
    return match[1] in SECTIONS or match[2][1:] not in FILE_SUFFIXES


def take_data(parsed: argparse.Namespace) -> None:
    """Turn --data into overrides."""
    if parsed.data:
        from .dataset_option import data_overrides

        # First, since the last of the others may lack its value.
        parsed.opts = [*data_overrides(parsed.data, parsed.opts), *parsed.opts]


def check_model(parsed: argparse.Namespace) -> None:
    """Raise InputError if neither a configuration nor a checkpoint, which may hold one, is given."""
    if not parsed.config_file and not weights_in(parsed.opts):
        raise InputError(
            "--config-file is missing; give a YAML file or a name that `segzoo zoo` lists, or with --model "
            "or --weights a checkpoint of segzoo, which holds its configuration"
        )
