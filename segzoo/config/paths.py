"""The keys of a configuration that hold paths, and what is done to all of them alike."""

from collections.abc import Callable

from detectron2.config import CfgNode

from segzoo.utils.paths import expand_home

# A text or a list of texts each. MODEL.WEIGHTS may also be a URL, an entry of DATASETS.FILES the name of a
# built-in dataset.
PATH_KEYS = ("OUTPUT_DIR", "MODEL.WEIGHTS", "DATASETS.FILES")


def map_paths(cfg: CfgNode, change: Callable[[str], str]) -> None:
    """Replaces every path that is not empty by what `change` makes of it, in place."""
    for key in PATH_KEYS:
        section, _, leaf = key.rpartition(".")
        node = cfg
        for part in filter(None, section.split(".")):
            node = node[part]
        value = node[leaf]
        if isinstance(value, str):
            node[leaf] = change(value) if value else value
        else:
            node[leaf] = type(value)(change(path) if isinstance(path, str) else path for path in value)


def expand_homes(cfg: CfgNode) -> None:
    """Replaces a leading `~` of every path by the home folder, in place."""
    map_paths(cfg, expand_home)
