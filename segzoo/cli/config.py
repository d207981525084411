"""`segzoo config`: print a configuration, where its values come from, or how it differs from another."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from segzoo.utils.errors import InputError
from segzoo.utils.text import did_you_mean

from .command import command
from .parser import EXIT_STATUS, CommandLine, name_or_path
from .weights_option import weights_in

if TYPE_CHECKING:
    from detectron2.config import CfgNode

EXAMPLES = f"""
examples:
  the whole configuration, as YAML that can be trained with:
    %(prog)s panoptic/coco/mask2former_r50
  only what differs from the defaults:
    %(prog)s panoptic/coco/mask2former_r50 --changed
  where each value comes from: file and line, override, dataset:
    %(prog)s semantic/ade20k/segformer_mit_b0 --origin SOLVER.BASE_LR 1e-4
  everything that sets one key or section, in order:
    %(prog)s semantic/ade20k/segformer_mit_b0 --origin SOLVER.BASE_LR
  what a checkpoint was trained with:
    %(prog)s output/street/model_best.pth --changed
  how two configurations differ:
    %(prog)s semantic/ade20k/pspnet_r50_v1s_100ep --diff semantic/ade20k/psanet_r50_v1s_100ep

NAME is one that `segzoo zoo` lists, a YAML file, or a checkpoint of segzoo, which holds the configuration of
its training. KEY VALUE pairs come last.

{EXIT_STATUS}
"""


def build_parser() -> CommandLine:
    """Return the parser of the command."""
    parser = CommandLine(
        "config",
        description="Print a complete configuration, with what follows from its dataset.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "name", type=name_or_path, nargs="?", metavar="NAME", help="the same as --config-file"
    )
    parser.add_config(weights=True)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--changed", action="store_true", help="only values that differ from the defaults")
    what.add_argument(
        "--origin",
        nargs="?",
        const="",
        metavar="KEY",
        help="where each value comes from; with KEY, all that set this key or section, the last one wins",
    )
    what.add_argument("--diff", type=name_or_path, metavar="OTHER", help="the values in which OTHER differs")
    parser.add_data()
    parser.add_overrides(data_is_overrides=True)
    parser.add_check(_check)
    return parser


def _check(parsed: argparse.Namespace) -> None:
    if parsed.name and parsed.config_file and parsed.name != parsed.config_file:
        raise InputError(
            f"{parsed.name} and --config-file {parsed.config_file} are two configurations; give one"
        )
    parsed.name = parsed.name or parsed.config_file or weights_in(parsed.opts)
    if not parsed.name:
        raise InputError(
            "NAME is missing; give one that `segzoo zoo` lists, a YAML file, or a checkpoint of segzoo"
        )


def run(arguments: argparse.Namespace) -> int:
    """Print the configuration, its origins or its differences; return the exit status."""
    from segzoo.config.keys import equal, flatten
    from segzoo.config.load import new_config
    from segzoo.config.origins import find_origins

    from .configuration import held_text, load_any

    def load(name: str) -> "CfgNode":
        return load_any(name, arguments.opts, trust=arguments.trust_checkpoint, needs_datasets=False)

    cfg = load(arguments.name)
    if _may_have_unknown_names(arguments):
        # Their import takes longer than the rest.
        from segzoo.engine import find_trainer
        from segzoo.engine.names import check_names

        check_names(cfg, find_trainer(cfg))
    if arguments.diff:
        other = load(arguments.diff)
        for line in _differences(dict(flatten(cfg)), dict(flatten(other)), arguments.name, arguments.diff):
            print(line)
    elif arguments.origin is not None:
        held = held_text(arguments.name, trust=arguments.trust_checkpoint)
        for line in _origins(find_origins(arguments.name, arguments.opts, cfg, held), arguments.origin):
            print(line)
    elif arguments.changed:
        defaults = dict(flatten(new_config()))
        for key, value in sorted(flatten(cfg)):
            if key not in defaults or not equal(defaults[key], value):
                print(f"{key}: {value!r}")
    else:
        print(cfg.dump(), end="")
    return 0


def _may_have_unknown_names(arguments: argparse.Namespace) -> bool:
    """Return whether the configuration may have a name that neither the zoo nor a training has used."""
    from segzoo.config.files import is_config_name, names_checkpoint, zoo_name
    from segzoo.config.rules import NAMES

    was_used = names_checkpoint(arguments.name) or is_config_name(zoo_name(arguments.name))
    return not was_used or not set(NAMES).isdisjoint(arguments.opts[::2])


def _differences(one: Mapping[str, Any], other: Mapping[str, Any], *names: str) -> Iterator[str]:
    from segzoo.config.keys import equal

    keys = sorted(key for key in one.keys() | other.keys() if not equal(one.get(key), other.get(key)))
    if not keys:
        yield f"{names[0]} and {names[1]} have the same values"
        return
    rows = [("", *names), *((key, _shown(one, key), _shown(other, key)) for key in keys)]
    yield from _aligned(rows)


def _shown(keys: Mapping[str, Any], key: str) -> str:
    return repr(keys[key]) if key in keys else "(no such key)"


def _origins(origins: Mapping[str, Sequence[Any]], section: str) -> Iterator[str]:
    if not section:
        yield from _aligned(
            [(key, repr(found[-1].value), found[-1].source) for key, found in sorted(origins.items())]
        )
        return
    keys = sorted(key for key in origins if key == section or key.startswith(f"{section}."))
    if not keys:
        raise InputError(f"unknown key {section}{did_you_mean(section, origins)}")
    rows = []
    for key in keys:
        # The value first, then what it replaced.
        for index, origin in enumerate(reversed(origins[key])):
            rows.append((key if index == 0 else "", repr(origin.value), origin.source))
    yield from _aligned(rows)


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield rows with columns as wide as their cells, up to a limit; longer cells shift the next one."""
    limit = 44
    widths = [min(limit, max(len(row[column]) for row in rows)) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        yield "  ".join([*cells, row[-1]]).rstrip()


main = command(build_parser, run)
