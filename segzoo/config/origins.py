"""Find where each value of a configuration comes from: defaults, lines of files, overrides."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from detectron2.config import CfgNode, get_cfg

from .bases import Layer, read_layers
from .defaults import add_segzoo_config
from .extensions import registered_extensions
from .files import config_root, find_config
from .keys import decode, equal, flatten
from .load import parse_config, read_config

DERIVED = "follows from the dataset"


class Origin(NamedTuple):
    """One source of a value.

    Attributes:
        source: "Detectron2's default", a file with its line, ...
        value: the value it sets.
    """

    source: str
    value: Any


def find_origins(
    path: str | Path, overrides: Sequence[str] = (), completed: CfgNode | None = None, held: str = ""
) -> dict[str, list[Origin]]:
    """Return the sources that set each key, in the order of application; the last one gives the value.

    Args:
        path: a YAML file or a name below `configs/`, as for `read_config`.
        overrides: alternating keys and values.
        completed: the configuration with the values that follow from its dataset; None to omit those.
        held: text of the configuration in the checkpoint `path`; "" if `path` is not a checkpoint.

    Raises:
        InputError: as `read_config`.
    """
    # Reports errors, and imports the modules that add keys.
    cfg = parse_config(held, str(path), overrides) if held else read_config(path, overrides)
    read = dict(flatten(cfg))
    found: dict[str, list[Origin]] = {key: [] for key in read}
    for source, keys in _defaults():
        _add(found, source, keys)
    layers = [Layer(str(path), yaml.safe_load(held))] if held else read_layers(find_config(path))
    for layer in layers:
        lines = _lines(layer.text)
        name = _relative_to_zoo(layer.source)
        for key, value in flatten(CfgNode(layer.keys)):
            _add(found, f"{name}:{lines[key]}" if key in lines else name, {key: value})
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        _add(found, "override", {key: value})
    for key, value in read.items():
        # The file has the key under another name, or the value in another form.
        if not found[key] or not equal(found[key][-1].value, value):
            found[key].append(Origin("translated", value))
    for key, value in flatten(completed) if completed is not None else ():
        sources = found.setdefault(key, [])
        if not sources or not equal(sources[-1].value, value):
            sources.append(Origin(DERIVED, value))
    return found


def _defaults() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each source of defaults, and those that it adds or changes."""
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
            found[key].append(Origin(source, decode(value)))


def _lines(text: str) -> dict[str, int]:
    """Return the line, counted from 1, of each key in the text of a YAML file."""
    return dict(_key_lines(yaml.compose(text, Loader=yaml.SafeLoader), "")) if text else {}


def _key_lines(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, int]]:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name = f"{prefix}{key.value}"
        yield name, key.start_mark.line + 1
        yield from _key_lines(value, f"{name}.")


def _relative_to_zoo(source: str) -> str:
    """Return the path of a zoo file relative to `configs/`; other paths as they are."""
    root = str(config_root().resolve())
    resolved = str(Path(source).resolve())
    return resolved[len(root) + 1 :] if resolved.startswith(f"{root}/") else source
