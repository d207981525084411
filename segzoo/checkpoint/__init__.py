"""Read published checkpoints, map their keys, and save segzoo's own."""

from .atomic_save import save_checkpoint
from .checkpointer import SegzooCheckpointer, last_checkpoint
from .compatibility import compare_description
from .download import local_file
from .key_maps import KeyMap, key_maps, register_key_map
from .load import load_checkpoint, load_state, open_checkpoint
from .reader import CheckpointFile, DamagedFileError, read_checkpoint, read_description, read_rest
from .report import CheckpointMismatchError, LoadReport
from .rules_gluon import register_gluon_layouts
from .rules_transformer import register_transformer_layouts
from .untrained import require_loaded

register_gluon_layouts()
register_transformer_layouts()

__all__ = [
    "CheckpointFile",
    "CheckpointMismatchError",
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
    "require_loaded",
    "save_checkpoint",
]
