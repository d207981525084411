"""Pickles of plain data, read without running code that a file names."""

import io
import pickle
import sys
from collections.abc import Collection
from dataclasses import is_dataclass
from typing import Any

# What numpy's arrays and numbers are made of; numpy 2 has `_core` where numpy 1 has `core`.
_NUMPY = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *(
        (f"numpy.{core}.multiarray", name)
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}
_CONTAINERS = {("collections", name) for name in ("Counter", "OrderedDict", "defaultdict", "deque")}
# Values that have no opcode of their own, and what a defaultdict begins with.
_VALUES = {
    ("builtins", name)
    for name in (
        "bool",
        "int",
        "float",
        "complex",
        "str",
        "bytes",
        "bytearray",
        "list",
        "dict",
        "set",
        "frozenset",
    )
}
_PLAIN = _NUMPY | _CONTAINERS | _VALUES


class _DataUnpickler(pickle.Unpickler):
    def __init__(self, data: bytes, modules: Collection[str]):
        super().__init__(io.BytesIO(data))
        self._packages = {module.partition(".")[0] for module in modules}

    def find_class(self, module: str, name: str) -> Any:
        if module == "__builtin__":  # as Python 2 and protocol 2 call it
            module = "builtins"
        if (module, name) == ("_codecs", "encode"):
            return encode_latin1
        if (module, name) in _PLAIN:
            return super().find_class(module, name)
        # A module that is not imported yet stays so: importing it would run it. The name is looked up
        # without its dots, which lead through what a module imports to any other.
        if module.partition(".")[0] in self._packages and module in sys.modules:
            found: Any = vars(sys.modules[module]).get(name)
            if _is_record(found) and (found.__module__, found.__qualname__) == (module, name):
                return found
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no data")


def encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """Return the bytes that a pickle of protocol 2 or less has as text; those have no other encoding.

    For such pickles in the place of `_codecs.encode`, which takes any.
    """
    return text.encode("latin1")


def unpickled(data: bytes, modules: Collection[str]) -> Any:
    """Return what `data` holds: plain values and containers, numpy's arrays, and records.

    A record is an object of a NamedTuple or a dataclass that an imported module of the packages of `modules`
    defines.

    Raises:
        pickle.UnpicklingError: it holds something else, or is damaged.
    """
    return _DataUnpickler(data, modules).load()


def _is_record(found: Any) -> bool:
    if not isinstance(found, type):
        return False
    return is_dataclass(found) or (issubclass(found, tuple) and hasattr(found, "_fields"))
