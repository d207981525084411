"""Read a configuration file with its `_BASE_` files."""

import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from detectron2.utils.file_io import PathManager

from segzoo.utils.errors import InputError
from segzoo.utils.paths import is_below
from segzoo.utils.text_files import decode_text

from .arithmetic import expand_expressions
from .files import config_root
from .former_bases import Base, is_former, present_bases

logger = logging.getLogger(__name__)


class Layer(NamedTuple):
    """The keys that one source sets: a file without its bases, or keys that are in no file.

    Attributes:
        source: path of the file.
        keys: nested keys and values.
        text: text of the file; "" if there is none.
        note: warning about its bases; "" for none.
    """

    source: str
    keys: dict[str, Any]
    text: str = ""
    note: str = ""


def read_with_bases(file: Path) -> dict[str, Any]:
    """Return the unchecked keys and values of a configuration file and its `_BASE_` files, and log notes.

    Raises:
        FileNotFoundError, InputError, TypeError, yaml.YAMLError: as `read_layers`.
    """
    merged: dict[str, Any] = {}
    for layer in read_layers(file):
        if layer.note:
            logger.warning("%s", layer.note)
        _merge(layer.keys, merged, layer.source)
    return merged


def read_layers(file: str | Path, above: tuple[str, ...] = ()) -> list[Layer]:
    """Return the layers of a file and its `_BASE_` files; later ones override earlier ones.

    Args:
        file: a path, or a URL that Detectron2's `PathManager` opens.
        above: the files that it is a base of.

    Raises:
        FileNotFoundError: a base does not exist.
        InputError: a file is among its own bases, or its bases are not paths.
        TypeError: a file is not a mapping of keys to values.
        yaml.YAMLError: a file is not valid YAML.
    """
    name = str(file)
    place = os.path.realpath(name)
    if place in above:
        raise InputError(f"{above[0]}: {place} is among its own _BASE_ files; remove it there")
    try:
        return _file_layers(name, (*above, place))
    except FileNotFoundError:
        # Bases are relative to the symbolic link, else to its target.
        if not os.path.islink(name):
            raise
        return _file_layers(place, (*above, place))


def is_based_on_zoo(file: Path) -> bool:
    """Return whether a configuration file or one of its bases is below `configs/`."""
    return any(_is_of_zoo(layer) for layer in read_layers(file))


def read_without_zoo(file: Path) -> dict[str, Any]:
    """Return what `read_with_bases` does, from the files only that are not below `configs/`."""
    merged: dict[str, Any] = {}
    for layer in read_layers(file):
        if not _is_of_zoo(layer):
            _merge(layer.keys, merged, layer.source)
    return merged


def _is_of_zoo(layer: Layer) -> bool:
    return is_below(Path(layer.source).resolve(), config_root())


def _file_layers(name: str, above: tuple[str, ...]) -> list[Layer]:
    with PathManager.open(name, "rb") as stream:
        text = expand_expressions(decode_text(stream.read()))
    keys = yaml.safe_load(text)
    if not isinstance(keys, dict):
        raise TypeError(f"{name} is not a mapping of keys to values")
    listed = keys.pop("_BASE_", [])
    if not isinstance(listed, str | list) or not all(isinstance(base, str) for base in listed):
        raise InputError(f"{name}: _BASE_ {listed!r}: expected a path, or a list of paths")
    bases: list[Base] = [listed] if isinstance(listed, str) else list(listed)
    note = ""
    if is_former(bases):
        bases, changes = present_bases(bases)
        note = f"{name}: its _BASE_ files are from version 0.1: {'; '.join(changes)}"
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


def _merge(keys: dict[str, Any], merged: dict[str, Any], source: str, prefix: str = "") -> None:
    for key, value in keys.items():
        if isinstance(value, dict):
            section = merged.setdefault(key, {})
            if not isinstance(section, dict):
                raise InputError(f"{source}: {prefix}{key} has keys, and a value in one of its _BASE_ files")
            _merge(value, section, source, f"{prefix}{key}.")
        else:
            merged[key] = value
