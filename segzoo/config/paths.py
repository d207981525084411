"""Change all paths in a configuration."""

from collections.abc import Callable

from detectron2.config import CfgNode

from segzoo.utils.paths import expand_home

from .keys import existing_section

# Each is a string or a list of strings. MODEL.WEIGHTS may also be a URL, an entry of DATASETS.FILES the name
# of a built-in dataset.
PATH_KEYS = ("OUTPUT_DIR", "MODEL.WEIGHTS", "DATASETS.FILES")


def map_paths(cfg: CfgNode, change: Callable[[str], str]) -> None:
    """Replace every non-empty path by `change(path)`, in place."""
    for key in PATH_KEYS:
        *path, leaf = key.split(".")
        node = existing_section(cfg, path)
        value = node[leaf]
        if isinstance(value, str):
            node[leaf] = change(value) if value else value
        else:
            node[leaf] = type(value)(change(path) if isinstance(path, str) else path for path in value)


def expand_homes(cfg: CfgNode) -> None:
    """Replace a leading `~` of every path by the home folder, in place."""
    map_paths(cfg, expand_home)
