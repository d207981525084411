"""Rows of the tables of converted keys."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from segzoo.utils.errors import InputError

from ..keys import equal


class Context(NamedTuple):
    """Context of a conversion.

    Attributes:
        ours: segzoo's configuration as converted so far, by full key.
        whole: whether a whole file of another code base is converted, with all keys given, some at their
            defaults; else single keys change an existing configuration.
        detector: what GeneralizedRCNN becomes: `MaskRCNN`, or itself if its network has no counterpart.
    """

    ours: Mapping[str, Any]
    whole: bool
    detector: str = "MaskRCNN"


Convert = Callable[[Mapping[str, Any], Context], Mapping[str, Any]]


class Row(NamedTuple):
    """Related keys of another code base, and their conversion.

    Attributes:
        there: the full keys, separated by spaces.
        here: segzoo's keys, as shown in COMING_FROM.md; "" for none.
        note: explanation for COMING_FROM.md; "" for none.
        convert: maps the given ones of the keys, with their values, to segzoo's keys and values; raises
            InputError for values without a counterpart.
    """

    there: str
    here: str
    note: str
    convert: Convert

    @property
    def keys(self) -> list[str]:
        """The other code base's keys."""
        return self.there.split()


def refuse(key: str, value: Any, remedy: str) -> NoReturn:
    """Raise InputError for a key that cannot be converted, with the remedy."""
    raise InputError(f"{key} {value!r} {remedy}")


def same(here: str) -> Convert:
    """Return the conversion of a key to another name with the same meaning."""

    def convert(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
        (value,) = given.values()
        return {here: value}

    return convert


def fixed(expected: Any, remedy: str) -> Convert:
    """Return the conversion of keys with a single supported value, which segzoo's code has as well."""

    def convert(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
        for key, value in given.items():
            if not equal(value, expected):
                refuse(key, value, remedy)
        return {}

    return convert


def ignore(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    """Return no keys, for values without effect."""
    return {}
