"""Handle keys that one release of Detectron2 has and another lacks.

A configuration saved with one release is read with the other: a key that only one of them has is left out
if it is at its default.
"""

from collections.abc import Collection
from typing import Any

from detectron2 import __version__
from detectron2.config import CfgNode

from segzoo.utils.errors import InputError

from .keys import drop_key, find_section

# Keys of Detectron2's main branch in 2026 that v0.6 lacks; main has all keys of v0.6.
VERSION_KEYS: dict[str, Any] = {
    "DATALOADER.REPEAT_SQRT": True,
    "FLOAT32_PRECISION": "",
    "MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER": 0.5,
    "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES": 50,
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": False,
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": False,
    "SOLVER.BASE_LR_END": 0.0,
    "SOLVER.NUM_DECAYS": 3,
    "SOLVER.RESCALE_INTERVAL": False,
}


def drop_version_defaults(cfg: CfgNode) -> None:
    """Remove the keys above that are at their default from a complete or partial configuration, in place."""
    for key, default in VERSION_KEYS.items():
        *path, leaf = key.split(".")
        node = find_section(cfg, path)
        if node is not None and leaf in node and node[leaf] == default:
            drop_key(cfg, key)


def explain_version_key(key: str) -> str:
    """Return the end of a message about a key that only another release has; "" for other keys."""
    if key not in VERSION_KEYS:
        return ""
    return (
        f"; the installed Detectron2 ({__version__}) lacks it: leave it out, which means "
        f"{VERSION_KEYS[key]!r}, or install another Detectron2 (INSTALL.md)"
    )


def check_version_values(cfg: CfgNode, known: CfgNode, source: str, explained: Collection[str] = ()) -> None:
    """Raise InputError for a key that is not at its default and that this Detectron2 lacks.

    Args:
        cfg: the configuration to check.
        known: a new configuration.
        source: the file, for the message.
        explained: keys that are not checked, since another Detectron2 is no remedy for them.
    """
    for key in VERSION_KEYS.keys() - set(explained):
        *path, leaf = key.split(".")
        node = find_section(cfg, path)
        if node is not None and leaf in node and leaf not in (find_section(known, path) or ()):
            raise InputError(f"{source}: {key} {node[leaf]!r} cannot be set{explain_version_key(key)}")
