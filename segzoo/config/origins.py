"""Where each value of a configuration comes from: defaults, files with their lines, overrides."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from detectron2.config import CfgNode, get_cfg

from .bases import Layer, read_layers
from .defaults import add_segzoo_config
from .extensions import registered_extensions
from .files import config_root, find_config
from .keys import decoded, equal, flatten
from .load import parse_config, read_config

DERIVED = "follows from the dataset"


class Origin(NamedTuple):
    """One source of a value.

    Attributes:
        source: "Detectron2's default", a file with its line, ...
        value: what it says.
    """

    source: str
    value: Any


def find_origins(
    path: str | Path, overrides: Sequence[str] = (), completed: CfgNode | None = None, held: str = ""
) -> dict[str, list[Origin]]:
    """Return what sets each key, in the order in which it is applied: the last one is the value.

    Args:
        path: a YAML file or a name below `configs/`, as for `read_config`.
        overrides: alternating keys and values.
        completed: the configuration with what follows from its dataset; None for that of the files alone.
        held: the text of the configuration that `path`, a checkpoint, holds; "" where `path` is none.

    Raises:
        InputError: as `read_config`.
    """
    # Finds what is wrong, and imports what brings keys.
    cfg = parse_config(held, str(path), overrides) if held else read_config(path, overrides)
    read = dict(flatten(cfg))
    found: dict[str, list[Origin]] = {key: [] for key in read}
    for source, keys in _defaults():
        _add(found, source, keys)
    layers = [Layer(str(path), yaml.safe_load(held))] if held else read_layers(find_config(path))
    for layer in layers:
        lines = _lines(layer.text)
        name = _shown(layer.source)
        for key, value in flatten(CfgNode(layer.keys)):
            _add(found, f"{name}:{lines[key]}" if key in lines else name, {key: value})
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        _add(found, "override", {key: value})
    for key, value in read.items():
        # Written under another name, or in another form.
        if not found[key] or not equal(found[key][-1].value, value):
            found[key].append(Origin("translated", value))
    for key, value in flatten(completed) if completed is not None else ():
        sources = found.setdefault(key, [])
        if not sources or not equal(sources[-1].value, value):
            sources.append(Origin(DERIVED, value))
    return found


def _defaults() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The defaults that each source adds or changes."""
    cfg = get_cfg()
    before = dict(flatten(cfg))
    yield "Detectron2's default", before
    steps: list[tuple[str, Callable[[CfgNode], object]]] = [("segzoo's default", add_segzoo_config)]
    steps += [(f"{extension.add.__module__}", extension.add) for extension in registered_extensions()]
    for source, add in steps:
        add(cfg)
        after = dict(flatten(cfg))
        yield (
            source,
            {
                key: value
                for key, value in after.items()
                if key not in before or not equal(before[key], value)
            },
        )
        before = after


def _add(found: dict[str, list[Origin]], source: str, keys: Mapping[str, Any]) -> None:
    for key, value in keys.items():
        if key in found:
            found[key].append(Origin(source, decoded(value)))


def _lines(text: str) -> dict[str, int]:
    """The line, from 1, of each key in the text of a YAML file."""
    return dict(_lines_of(yaml.compose(text, Loader=yaml.SafeLoader), "")) if text else {}


def _lines_of(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, int]]:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name = f"{prefix}{key.value}"
        yield name, key.start_mark.line + 1
        yield from _lines_of(value, f"{name}.")


def _shown(source: str) -> str:
    """A file of the zoo relative to `configs/`."""
    root = str(config_root().resolve())
    resolved = str(Path(source).resolve())
    return resolved[len(root) + 1 :] if resolved.startswith(f"{root}/") else source
