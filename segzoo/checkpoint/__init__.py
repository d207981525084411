"""Checkpoints: reading any official file, mapping its keys, saving segzoo's own."""

from .checkpointer import SegzooCheckpointer, last_checkpoint
from .description import compare_description
from .files import local_file
from .key_maps import KeyMap, key_maps, register_key_map
from .load import LoadReport, load_checkpoint, load_state, open_checkpoint
from .reading import CheckpointFile, DamagedFileError, read_checkpoint, read_description, read_rest
from .transformer_layouts import register_transformer_layouts
from .writing import save_checkpoint

register_transformer_layouts()

__all__ = [
    "CheckpointFile",
    "DamagedFileError",
    "KeyMap",
    "LoadReport",
    "SegzooCheckpointer",
    "compare_description",
    "key_maps",
    "last_checkpoint",
    "load_checkpoint",
    "load_state",
    "local_file",
    "open_checkpoint",
    "read_checkpoint",
    "read_description",
    "read_rest",
    "register_key_map",
    "save_checkpoint",
]
