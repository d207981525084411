"""Downloading the official weights of a model, and checking that they are those."""

from pathlib import Path

from segzoo.checkpoint.download import file_hash, local_file
from segzoo.utils.errors import InputError

from .registry import official_weights


def download_weights(name: str) -> Path:
    """Return the official file of a model, downloaded once, its published hash checked.

    Raises:
        InputError: no such model, no file that a program can download, no download, or another hash.
    """
    info = official_weights(name)
    file = local_file(info.url, info.md5_prefix)
    if info.sha256_prefix:
        found = file_hash(file, "sha256")
        if not found.startswith(info.sha256_prefix):
            raise InputError(
                f"{info.url}: sha256 starts with {found[: len(info.sha256_prefix)]}, expected "
                f"{info.sha256_prefix}; the file is damaged or not the published one: delete {file} and try "
                "again"
            )
    return file
