"""Convert files and overrides with keys of another code base while a configuration is loaded."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode

from segzoo.config.keys import drop_key, existing_section, flatten, nest
from segzoo.utils.errors import InputError

from .table import CONVERTED
from .translate import find_code_base, local_spelling, needs_conversion, translate_file, translate_keys


def is_saved(loaded: CfgNode) -> bool:
    """Return whether a configuration was saved by a run of segzoo, with all keys in segzoo's form."""
    return all(key in loaded for key in ("TASK", "IMPORTS", "GLOBAL"))


def translate_whole_file(
    loaded: CfgNode, overrides: Sequence[str], known: CfgNode, source: str, on_zoo: Callable[[], bool]
) -> tuple[CfgNode, Sequence[str]]:
    """Return a file and its overrides in segzoo's keys, for whatever code base they are written.

    Overrides are in the form of their file: keys that are converted in the file are also converted there.

    Args:
        loaded: the values of the file and its bases.
        overrides: alternating keys and values.
        known: a new configuration of segzoo.
        source: the file, for errors.
        on_zoo: returns whether a configuration of the zoo is among the file's bases.

    Raises:
        InputError: a key of another code base has no counterpart.
    """
    values, defaults = dict(flatten(loaded)), dict(flatten(known))
    try:
        code_base = find_code_base(values, defaults, on_zoo)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    if code_base is None:
        return loaded, overrides
    rest: list[str] = []
    for index in range(0, len(overrides), 2):
        pair = overrides[index : index + 2]
        if len(pair) == 2 and pair[0] in CONVERTED:
            values[pair[0]] = pair[1]
        else:
            rest += pair
    return nest(translate_file(values, code_base, defaults, source)), rest


def pop_foreign_keys(loaded: CfgNode, known: CfgNode) -> dict[str, Any]:
    """Remove other code bases' keys from a file of segzoo, in place, and return their values."""
    defaults = dict(flatten(known))
    values = dict(flatten(loaded))
    backbone = values.get("MODEL.BACKBONE.NAME", known.MODEL.BACKBONE.NAME)
    taken = {key: value for key, value in values.items() if needs_conversion(key, defaults, backbone)}
    for key in taken:
        drop_key(loaded, key)
    for key, value in values.items():
        if key not in taken and value != (spelling := local_spelling(key, value)):
            *path, leaf = key.split(".")
            existing_section(loaded, path)[leaf] = spelling
    return taken


def convert_foreign_keys(
    given: Mapping[str, Any], cfg: CfgNode, beside: Mapping[str, Any], source: str
) -> CfgNode:
    """Return the changes that single keys of another code base make in a configuration.

    Args:
        given: their values.
        cfg: the configuration with all other keys applied.
        beside: values that the user gives beside them, by full key.
        source: the file, for errors; "" for a command line.

    Raises:
        InputError: a key has no counterpart, or none without other keys; or `beside` has another value.
    """
    try:
        return nest(translate_keys(given, dict(flatten(cfg)), beside))
    except InputError as error:
        raise InputError(f"{source}: {error}" if source else str(error)) from None
