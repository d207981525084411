"""Handle keys that earlier versions of segzoo had and that no published model needs.

A saved configuration may hold them; at their former default, which is now fixed, they are left out.
"""

from typing import Any, NamedTuple

from detectron2.config import CfgNode

from segzoo.utils.errors import InputError

from .keys import decode, drop_key, equal, find_section


class RetiredKey(NamedTuple):
    """A key that was removed.

    Attributes:
        default: its former default, which is now fixed.
        remedy: what to do for another value, for the message.
    """

    default: Any
    remedy: str


RETIRED_KEYS = {
    "MODEL.BOUNDARY_RELAXED.RADIUS": RetiredKey(
        1, "register a subclass of BoundaryRelaxedCrossEntropy with another `radius`"
    ),
    "MODEL.JPU.DILATIONS": RetiredKey((1, 2, 4, 8), "register a subclass of JPU with other `dilations`"),
}


def drop_retired_keys(cfg: CfgNode, source: str) -> None:
    """Remove retired keys that are at their former default, in place.

    Args:
        cfg: as read from a file: sections may be missing.
        source: the file, for the message.

    Raises:
        InputError: a key has another value.
    """
    for key, retired in RETIRED_KEYS.items():
        *path, leaf = key.split(".")
        node = find_section(cfg, path)
        if node is None or leaf not in node:
            continue
        value = decode(node[leaf])
        if not equal(value, retired.default):
            raise InputError(f"{source}: {key} {value!r} cannot be set{explain_retired_key(key)}")
        drop_key(cfg, key)


def explain_retired_key(key: str) -> str:
    """Return the end of a message about a retired key: its fixed value and the remedy; "" for other keys."""
    if key not in RETIRED_KEYS:
        return ""
    return f"; it is always {RETIRED_KEYS[key].default!r} now: {RETIRED_KEYS[key].remedy}"
