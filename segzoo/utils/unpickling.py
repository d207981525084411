"""Read pickles of plain data without executing code."""

import io
import pickle
import sys
from collections.abc import Collection
from dataclasses import is_dataclass
from typing import Any

# Constructors of numpy's arrays and numbers; numpy 2 has `_core` where numpy 1 has `core`.
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
# Types without an opcode, and default factories of a defaultdict.
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
        if module == "__builtin__":  # its name in Python 2 and protocol 2
            module = "builtins"
        if (module, name) == ("_codecs", "encode"):
            return encode_latin1
        if (module, name) in _PLAIN:
            return super().find_class(module, name)
        # Modules are not imported, since that would execute them. Dotted names are not resolved, since they
        # lead from a module through its imports to any other.
        if module.partition(".")[0] in self._packages and module in sys.modules:
            found: Any = vars(sys.modules[module]).get(name)
            if _is_record(found) and (found.__module__, found.__qualname__) == (module, name):
                return found
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which is not plain data")


def encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """Return the bytes that a pickle of protocol 2 or lower stores as text, always in Latin-1.

    Used for such pickles instead of `_codecs.encode`, which accepts any encoding.
    """
    return text.encode("latin1")


def unpickle_data(data: bytes, modules: Collection[str]) -> Any:
    """Return the content of a pickle: plain values and containers, numpy's arrays, and records.

    Records are instances of NamedTuples or dataclasses defined in imported modules of the packages of
    `modules`.

    Raises:
        pickle.UnpicklingError: the pickle holds other objects, or is damaged.
    """
    return _DataUnpickler(data, modules).load()


def _is_record(found: Any) -> bool:
    if not isinstance(found, type):
        return False
    return is_dataclass(found) or (issubclass(found, tuple) and hasattr(found, "_fields"))
