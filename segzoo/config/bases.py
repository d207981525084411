"""Reading a configuration file with its `_BASE_` files."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from segzoo.utils.paths import is_below, user_path
from segzoo.utils.text_files import decode_text

from .arithmetic import write_out
from .files import config_root


def _text(data: bytes) -> str:
    return write_out(decode_text(data))


class _FileReader(CfgNode):
    """Reads files in any encoding that they may have, and those that a link leads to with their own bases."""

    @classmethod
    def _open_cfg(cls, filename: str) -> Any:
        with PathManager.open(filename, "rb") as file:
            return io.StringIO(_text(file.read()))

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        try:
            return super().load_yaml_with_base(filename, allow_unsafe)
        except FileNotFoundError:
            # Bases are relative to the link, else to the file that it leads to.
            if not os.path.islink(filename):
                raise
            return cls.load_yaml_with_base(os.path.realpath(filename), allow_unsafe)


def read_with_bases(file: Path) -> dict[str, Any]:
    """The keys and values of a configuration file and its `_BASE_` files, not yet checked."""
    return _FileReader.load_yaml_with_base(str(file))


def in_circle(file: Path, above: tuple[Path, ...] = ()) -> Path | None:
    """A file that is among its own bases."""
    if file in above:
        return file
    circles = (in_circle(base, (*above, file)) for base in _bases(file))
    return next(filter(None, circles), None)


def is_on_zoo(file: Path) -> bool:
    """Whether a configuration file lies below `configs/`, or one of its bases does."""
    return is_below(file, config_root()) or any(map(is_on_zoo, _bases(file)))


def _bases(file: Path) -> Iterator[Path]:
    bases = yaml.safe_load(_text(file.read_bytes())).get("_BASE_", [])
    for base in [bases] if isinstance(bases, str) else bases:
        yield (file.parent / user_path(base)).resolve()
