"""Paths as users write them: `~` is the home folder, and links lead to one file by several names."""

import os
from pathlib import Path


def expand_home(path: str) -> str:
    """Return the path with a leading `~` or `~name` replaced by that home folder.

    Everything else stays as it is: URLs, and a `~name` of no user, which is the name of a file.
    """
    return os.path.expanduser(path)


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return what a user wrote as a Path, with `~` expanded."""
    return Path(expand_home(os.fspath(path)))


def datasets_folder() -> Path:
    """Return the folder that built-in datasets lie in: $DETECTRON2_DATASETS, by default ./datasets."""
    return user_path(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def is_same_file(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Return whether two paths lead to one file or folder, through links or not; False if one is missing."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def is_below(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Return whether a path, which need not exist, lies in the folder, whatever links they are written by."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
