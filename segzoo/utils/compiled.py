"""Compile loops with numba; imported only by modules of such loops, which are imported on first use."""

from collections.abc import Callable

import numba


def compiled(function: Callable) -> Callable:
    """Compile `function` on its first call, cached on disk if numba finds a writable folder.

    It releases the interpreter lock while it runs.
    """
    try:
        return numba.njit(function, nogil=True, cache=True)
    except RuntimeError:  # neither the package's folder nor the user's cache is writable
        return numba.njit(function, nogil=True)
