"""Loops compiled by numba, in modules of their own, which are imported on first use."""

import functools
import importlib
import logging
from collections.abc import Callable
from types import ModuleType

logger = logging.getLogger(__name__)


def compiled(function: Callable) -> Callable:
    """Compile `function` on its first call, cached on disk if numba finds a writable folder.

    It releases the interpreter lock while it runs.
    """
    import numba

    try:
        return numba.njit(function, nogil=True, cache=True)
    except RuntimeError:  # neither the package's folder nor the user's cache is writable
        return numba.njit(function, nogil=True)


@functools.cache
def load_loops(module: str) -> ModuleType | None:
    """Import a module of compiled loops; return None if numba is missing or does not support numpy's version.

    Args:
        module: its full name.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        logger.info(f"{module} needs numba; computing without it, which is several times slower ({error})")
        return None
