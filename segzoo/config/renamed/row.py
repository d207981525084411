"""What a row of the tables of renamed keys is."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from segzoo.utils.errors import InputError

from ..keys import equal


class Scene(NamedTuple):
    """What a conversion sees beside the keys that it converts.

    Attributes:
        ours: the configuration here as far as it is known, by full key.
        whole: a whole file of theirs is converted, and every key is given, some at their defaults; else
            single keys, which change a configuration that is there.
    """

    ours: Mapping[str, Any]
    whole: bool


Convert = Callable[[Mapping[str, Any], Scene], Mapping[str, Any]]


class Row(NamedTuple):
    """Keys of another code base that belong together, and what they are here.

    Attributes:
        there: the keys, by full name, separated by spaces.
        here: what they are here, as COMING_FROM.md has it; "" for none.
        note: what else there is to know; "" for nothing.
        convert: from those of the keys that are given, with their values, to keys and values here. It raises
            InputError for values without a counterpart.
    """

    there: str
    here: str
    note: str
    convert: Convert

    @property
    def keys(self) -> list[str]:
        """The keys there, one by one."""
        return self.there.split()


def refuse(key: str, value: Any, remedy: str) -> NoReturn:
    """Raise InputError for a key of theirs that cannot be taken, with what to do instead."""
    raise InputError(f"{key} {value!r} {remedy}")


def same(here: str) -> Convert:
    """Return the conversion of one key with another name and the same meaning."""

    def convert(given: Mapping[str, Any], scene: Scene) -> Mapping[str, Any]:
        (value,) = given.values()
        return {here: value}

    return convert


def fixed(expected: Any, remedy: str) -> Convert:
    """Return the conversion of keys with a single value that the code here has, too."""

    def convert(given: Mapping[str, Any], scene: Scene) -> Mapping[str, Any]:
        for key, value in given.items():
            if not equal(value, expected):
                refuse(key, value, remedy)
        return {}

    return convert


def nothing(given: Mapping[str, Any], scene: Scene) -> Mapping[str, Any]:
    """Convert keys whose value says nothing that has an effect."""
    return {}
