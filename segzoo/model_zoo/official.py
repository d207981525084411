"""Download the official weights of a model and check their hash."""

from pathlib import Path

from segzoo.checkpoint import local_file

from .registry import official_weights


def download_weights(name: str) -> Path:
    """Return the local copy of a model's official file, downloaded once, and check its published hash.

    Raises:
        InputError: there is no such model or no direct link, the download failed, or the hash differs.
    """
    info = official_weights(name)
    return local_file(info.url, info.md5_prefix, info.sha256_prefix)
