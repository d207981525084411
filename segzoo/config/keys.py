"""Access the keys of a configuration by their full name, such as "MODEL.BACKBONE.NAME"."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode


def flatten(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each full key, with `prefix` in front, and its value; an empty section counts as a value."""
    for key, value in node.items():
        if isinstance(value, CfgNode) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def nest(values: Mapping[str, Any]) -> CfgNode:
    """Return the configuration with these values by full key, the inverse of `flatten`."""
    cfg = CfgNode()
    for key, value in values.items():
        *path, leaf = key.split(".")
        node = cfg
        for part in path:
            node = node.setdefault(part, CfgNode())
        node[leaf] = value
    return cfg


def find_section(cfg: CfgNode, path: Sequence[str]) -> CfgNode | None:
    """Return the section at a path of names; None if there is none."""
    for part in path:
        cfg = cfg.get(part) if isinstance(cfg, dict) else None
    return cfg if isinstance(cfg, dict) else None


def existing_section(cfg: CfgNode, path: Sequence[str]) -> CfgNode:
    """Return the section at a path of names, which must exist."""
    section = find_section(cfg, path)
    assert section is not None, ".".join(path)
    return section


def drop_key(cfg: CfgNode, key: str) -> None:
    """Remove an existing key and the sections that it leaves empty, in place."""
    *path, leaf = key.split(".")
    del existing_section(cfg, path)[leaf]
    for depth in range(len(path), 0, -1):
        if find_section(cfg, path[:depth]):
            return
        del existing_section(cfg, path[: depth - 1])[path[depth - 1]]


def decode(value: Any) -> Any:
    """Return a value of a file or command line as yacs decodes it: the string "(1, 2)" is a tuple."""
    return CfgNode._decode_cfg_value(value)


def equal(value: Any, other: Any) -> bool:
    """Return whether two values are equal; lists and tuples compare equal, True and 1 do not."""
    if isinstance(value, list | tuple) and isinstance(other, list | tuple):
        return len(value) == len(other) and all(map(equal, value, other))
    return value == other and isinstance(value, bool) == isinstance(other, bool)
