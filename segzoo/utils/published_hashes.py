"""Look up the published hashes of files by their URL.

The modules that know the hashes are in a higher layer than the readers of files, so they are registered by
name and imported when a URL is opened.
"""

import importlib

_sources: list[str] = []


def register_hashes(module: str) -> None:
    """Register a module whose `published_hashes(url)` is called for every file opened by its URL.

    It returns the first hex digits of the md5 and of the sha256, "" for an unknown one.
    """
    _sources.append(module)


def find_hashes(url: str) -> tuple[str, str]:
    """Return the first hex digits of the md5 and of the sha256 of a file, "" for an unknown one."""
    found = (importlib.import_module(module).published_hashes(url) for module in _sources)
    return next((hashes for hashes in found if any(hashes)), ("", ""))
