"""Reading a configuration file with its `_BASE_` files."""

import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from detectron2.utils.file_io import PathManager

from segzoo.utils.errors import InputError
from segzoo.utils.paths import is_below
from segzoo.utils.text_files import decode_text

from .arithmetic import write_out
from .files import config_root
from .former_bases import Base, is_former, present_bases

logger = logging.getLogger(__name__)


class Layer(NamedTuple):
    """What one source says itself: a file without its bases, or keys that stand in no file.

    Attributes:
        source: path of the file.
        keys: nested keys and values.
        text: of the file; "" if there is none.
        note: what its user should know of its bases; "" for nothing.
    """

    source: str
    keys: dict[str, Any]
    text: str = ""
    note: str = ""


def read_with_bases(file: Path) -> dict[str, Any]:
    """Return the keys and values of a configuration file and its `_BASE_` files, not yet checked; log notes.

    Raises:
        FileNotFoundError, InputError, TypeError, yaml.YAMLError: as `read_layers`.
    """
    merged: dict[str, Any] = {}
    for layer in read_layers(file):
        if layer.note:
            logger.warning("%s", layer.note)
        _merge(layer.keys, merged)
    return merged


def read_layers(file: str | Path, above: tuple[str, ...] = ()) -> list[Layer]:
    """Return what a file and its `_BASE_` files say, those that win last.

    Args:
        file: a path, or an address that Detectron2's `PathManager` opens.
        above: the files that have it among their bases.

    Raises:
        FileNotFoundError: a base does not exist.
        InputError: a file is among its own bases.
        TypeError: a file holds no keys with values.
        yaml.YAMLError: a file is no YAML.
    """
    name = str(file)
    place = os.path.realpath(name)
    if place in above:
        raise InputError(f"{above[0]}: {place} is among its own _BASE_ files; take it out there")
    try:
        return _layers_of(name, (*above, place))
    except FileNotFoundError:
        # Bases are relative to the link, else to the file that it leads to.
        if not os.path.islink(name):
            raise
        return _layers_of(place, (*above, place))


def is_on_zoo(file: Path) -> bool:
    """Tell whether a configuration file lies below `configs/`, or one of its bases does."""
    return any(is_below(Path(layer.source).resolve(), config_root()) for layer in read_layers(file))


def _layers_of(name: str, above: tuple[str, ...]) -> list[Layer]:
    with PathManager.open(name, "rb") as stream:
        text = write_out(decode_text(stream.read()))
    keys = yaml.safe_load(text)
    if not isinstance(keys, dict):
        raise TypeError(f"{name} holds no keys with values")
    listed = keys.pop("_BASE_", [])
    bases: list[Base] = [listed] if isinstance(listed, str) else list(listed)
    note = ""
    if is_former(bases):
        bases, changes = present_bases(bases)
        note = f"{name}: its _BASE_ files are those of version 0.1: {'; '.join(changes)}"
    layers = []
    for base in bases:
        if isinstance(base, dict):
            layers.append(Layer(f"{name}, base files of version 0.1", base))
        else:
            layers += read_layers(_beside(name, base), above)
    return [*layers, Layer(name, keys, text, note)]


def _beside(name: str, base: str) -> str:
    base = os.path.expanduser(base)
    return base if "://" in base else os.path.join(os.path.dirname(name), base)


def _merge(keys: dict[str, Any], merged: dict[str, Any]) -> None:
    for key, value in keys.items():
        if isinstance(value, dict):
            section = merged.setdefault(key, {})
            if not isinstance(section, dict):
                raise TypeError(f"{key} is a value in one file and has keys in another")
            _merge(value, section)
        else:
            merged[key] = value
