"""Downloading the official weights of a model, and checking that they are those."""

from pathlib import Path

from segzoo.checkpoint import local_file

from .registry import official_weights


def download_weights(name: str) -> Path:
    """Return the official file of a model, downloaded once, its published hash checked.

    Raises:
        InputError: no such model, no file that a program can download, no download, or another hash.
    """
    info = official_weights(name)
    return local_file(info.url, info.md5_prefix, info.sha256_prefix)
