"""Predictions on disk: index, colour and id PNGs, and text files that are never half written.

Letters: H W pixels.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import InputError
from .histogram import ids_from_rgb

# Folders and files below the evaluator's output_dir. The panoptic pair is named as Detectron2 names the
# JSON and as panopticapi looks for the folder: predictions.json and predictions/.
LABEL_FOLDER = "sem_seg"
COLOR_FOLDER = "sem_seg_color"
PANOPTIC_NAME = "predictions"
ENTITY_NAME = "entity_predictions"
_FAST = 1  # zlib level: label maps compress well at any


def save_labels(path: Path, labels: np.ndarray) -> None:
    """Writes an (H, W) uint8 or uint16 map as an index PNG of 8 or 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path, compress_level=_FAST)


def load_labels(path: Path) -> np.ndarray:
    """Reads an index PNG, with or without a palette: (H, W) uint8 or uint16."""
    with _open(path) as image:
        labels = np.asarray(image)
    if labels.ndim != 2:
        raise InputError(f"{path}: found {labels.shape[2]} channels, expected an index PNG with one")
    return labels if labels.dtype == np.uint8 else labels.astype(np.uint16)


def save_colors(path: Path, labels: np.ndarray, colors: list[tuple[int, int, int]]) -> None:
    """Writes an (H, W) label map in the classes' colours, as a palette PNG where 256 colours are enough."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = np.asarray(colors, np.uint8)
    if len(table) <= 256:
        image = Image.fromarray(labels.astype(np.uint8))
        image.putpalette(table.tobytes())
    else:
        image = Image.fromarray(table[labels])
    image.save(path, compress_level=_FAST)


def save_ids(path: Path, ids: np.ndarray) -> None:
    """Writes an (H, W) map of ids below 2**24 as a COCO panoptic PNG: R + 256 G + 65536 B."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if ids.size and (ids.min() < 0 or ids.max() >= 1 << 24):
        raise InputError(
            f"{path}: segment ids {ids.min()} .. {ids.max()} do not fit a panoptic PNG, [0, 2**24)"
        )
    rgb = np.ascontiguousarray(ids, "<i4").view(np.uint8).reshape(*ids.shape, 4)[..., :3]
    Image.fromarray(np.ascontiguousarray(rgb)).save(path, compress_level=_FAST)


def load_ids(path: Path) -> np.ndarray:
    """Reads a COCO panoptic PNG: (H, W) int32 ids."""
    with _open(path) as image:
        rgb = np.asarray(image)
    if rgb.ndim != 3 or rgb.shape[2] < 3 or rgb.dtype != np.uint8:
        raise InputError(f"{path}: found a {image.mode} image, expected an RGB panoptic PNG")
    return ids_from_rgb(rgb[..., :3])


def write_text_atomically(path: Path, text: str) -> None:
    """Writes a file so that at every moment there is either the old one or the new one, complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; give it the mode that open() would have.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise InputError(f"{path}: not found; was the prediction of this image saved?") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read as an image ({error})") from None
