"""Handle paths as users write them, with `~` and symbolic links."""

import os
from pathlib import Path


def expand_home(path: str) -> str:
    """Return the path with a leading `~` or `~user` replaced by that home folder.

    URLs, and a `~name` that is not a user's, stay as they are.
    """
    return os.path.expanduser(path)


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a user's path as a Path, with `~` expanded."""
    return Path(expand_home(os.fspath(path)))


def datasets_folder() -> Path:
    """Return the folder of the built-in datasets: $DETECTRON2_DATASETS, by default ./datasets."""
    return user_path(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def is_same_file(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Return whether two paths lead to the same file or folder; False if one does not exist."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def is_below(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Return whether a path, which need not exist, is below a folder after resolving symbolic links."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
