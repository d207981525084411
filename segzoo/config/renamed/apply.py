"""Where a configuration is loaded: files and overrides with keys of another code base become ones of this."""

from collections.abc import Callable, Sequence
from typing import Any

from detectron2.config import CfgNode

from segzoo.config.keys import drop_key, existing_section, flatten, nest
from segzoo.utils.errors import InputError

from .table import CONVERTED
from .translate import find_origin, is_theirs, spelled_here, translate_file, translate_keys


def is_saved(loaded: CfgNode) -> bool:
    """Whether it is what a run of this package saves: every key that there is, all in its own language."""
    return all(key in loaded for key in ("TASK", "IMPORTS", "GLOBAL"))


def from_whole_file(
    loaded: CfgNode, overrides: Sequence[str], known: CfgNode, source: str, on_zoo: Callable[[], bool]
) -> tuple[CfgNode, Sequence[str]]:
    """Return a file and its overrides as ones of this package, whatever code base they are written for.

    Overrides speak the language of their file: those of keys that are converted are converted with it.

    Args:
        loaded: the values of the file and its bases.
        overrides: alternating keys and values.
        known: a new configuration here.
        source: the file, for errors.
        on_zoo: whether a configuration of the zoo is among the file's bases.

    Raises:
        InputError: something in a file of theirs has no counterpart.
    """
    values, defaults = dict(flatten(loaded)), dict(flatten(known))
    try:
        origin = find_origin(values, defaults, on_zoo)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    if origin is None:
        return loaded, overrides
    rest: list[str] = []
    for index in range(0, len(overrides), 2):
        pair = overrides[index : index + 2]
        if len(pair) == 2 and pair[0] in CONVERTED:
            values[pair[0]] = pair[1]
        else:
            rest += pair
    return nest(translate_file(values, origin, defaults, source)), rest


def take_single_keys(loaded: CfgNode, known: CfgNode) -> dict[str, Any]:
    """Remove the single keys of theirs from a file of this package, in place, and return their values."""
    defaults = dict(flatten(known))
    values = dict(flatten(loaded))
    backbone = values.get("MODEL.BACKBONE.NAME", known.MODEL.BACKBONE.NAME)
    taken = {key: value for key, value in values.items() if is_theirs(key, defaults, backbone)}
    for key in taken:
        drop_key(loaded, key)
    for key, value in values.items():
        if key not in taken and value != (spelled := spelled_here(key, value)):
            *path, leaf = key.split(".")
            existing_section(loaded, path)[leaf] = spelled
    return taken


def converted(given: dict[str, Any], cfg: CfgNode, source: str) -> CfgNode:
    """Return what single keys of theirs change in a configuration, which has all other keys by now.

    Args:
        source: where they stand, for errors; "" for a command line.

    Raises:
        InputError: one of them has no counterpart, or none alone.
    """
    try:
        return nest(translate_keys(given, dict(flatten(cfg))))
    except InputError as error:
        raise InputError(f"{source}: {error}" if source else str(error)) from None
