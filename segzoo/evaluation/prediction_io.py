"""Read and write predictions: index, color, id and mask PNGs, written atomically.

Shape shorthand: H W pixels.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from segzoo.utils.errors import InputError
from segzoo.utils.files import atomic_path
from segzoo.utils.label_png import label_array, label_pixels, read_plain_labels
from segzoo.utils.png import decoded_png, png_pixels

from .histogram import ids_from_rgb

# Folders and files below the evaluator's output_dir. The panoptic pair has Detectron2's name for the JSON and
# panopticapi's for the folder: predictions.json and predictions/.
LABEL_FOLDER = "sem_seg"
COLOR_FOLDER = "sem_seg_color"
SUBMISSION_FOLDER = "submission"
PANOPTIC_NAME = "predictions"
ENTITY_NAME = "entity_predictions"
INSTANCE_NAME = "coco_instances_results"
STUFF_NAME = "coco_stuff_results"
CITYSCAPES_FOLDER = "cityscapes_instances"
# Raised by Pillow for files that are not images or are damaged.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
_FAST = 1  # zlib level: label maps compress well at any


def save_labels(path: Path, labels: np.ndarray) -> None:
    """Write an (H, W) uint8 or uint16 map as an index PNG with 8 or 16 bits."""
    _save_png(path, Image.fromarray(labels))


def load_labels(path: Path, check_palette: Callable[..., None] | None = None) -> np.ndarray:
    """Read an index PNG, with or without a palette, as (H, W) uint8 or uint16.

    Args:
        path: the file; its values are class indices.
        check_palette: function of the dataset's metadata that raises InputError if a palette shows classes
            in the colors of others.
    """
    plain = _plain(path, "L")
    if plain is not None:
        return plain
    with _opened(path) as opened:
        image = opened if opened.mode != "P" else _decoded(opened)
        labels = label_array(image)
    if image.mode == "P" and check_palette is not None:
        present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist()
        remedy = "save the indices of the classes, without a palette or with their own colors"
        check_palette(image, dict(zip(present, present, strict=True)), str(path), remedy)
    if labels.ndim != 2:
        raise InputError(f"{path}: found {labels.shape[2]} channels, expected an index PNG with one")
    return labels if labels.dtype == np.uint8 else labels.astype(np.uint16)


def save_colors(path: Path, labels: np.ndarray, colors: list[tuple[int, int, int]]) -> None:
    """Write an (H, W) label map in the classes' colors, as a palette PNG if 256 colors suffice."""
    table = np.asarray(colors, np.uint8)
    if len(table) <= 256:
        image = Image.fromarray(labels.astype(np.uint8))
        image.putpalette(table.tobytes())
    else:
        image = Image.fromarray(table[labels])
    _save_png(path, image)


def save_file_labels(
    path: Path, labels: np.ndarray, values: Sequence[int] | None, colors: Sequence[Sequence[int]]
) -> None:
    """Write an (H, W) map of class indices as an index PNG with the values of the dataset's label files.

    Args:
        path: the file.
        labels: class indices.
        values: (K,) value of each class, below 2**16; None for the class indices.
        colors: (K,) (r, g, b) of the classes, for the palette if values have 8 bits.
    """
    table = np.arange(len(colors)) if values is None else np.asarray(values)
    if table.max() > 255:
        return save_labels(path, table.astype(np.uint16)[labels])
    image = Image.fromarray(table.astype(np.uint8)[labels])
    palette = np.zeros((256, 3), np.uint8)
    palette[table] = colors
    image.putpalette(palette.tobytes())
    return _save_png(path, image)


def save_ids(path: Path, ids: np.ndarray) -> None:
    """Write an (H, W) map of ids below 2**24 as a COCO panoptic PNG: R + 256 G + 65536 B."""
    if ids.size and (ids.min() < 0 or ids.max() >= 1 << 24):
        raise InputError(
            f"{path}: segment ids {ids.min()} .. {ids.max()} do not fit a panoptic PNG, [0, 2**24)"
        )
    rgb = np.ascontiguousarray(ids, "<i4").view(np.uint8).reshape(*ids.shape, 4)[..., :3]
    _save_png(path, Image.fromarray(np.ascontiguousarray(rgb)))


def load_ids(path: Path) -> np.ndarray:
    """Read a COCO panoptic PNG as (H, W) int32 ids."""
    plain = _plain(path, "RGB")
    if plain is not None:
        return plain
    with _opened(path) as image:
        codes = label_pixels(image) if image.mode == "RGB" else None
        if codes is not None:
            return codes
        pixels = png_pixels(image)
        rgb = np.asarray(image) if pixels is None else pixels
    if rgb.ndim != 3 or rgb.shape[2] < 3 or rgb.dtype != np.uint8:
        raise InputError(f"{path}: found a {image.mode} image, expected an RGB panoptic PNG")
    return ids_from_rgb(rgb[..., :3])


def save_mask(path: Path, mask: np.ndarray) -> None:
    """Write an (H, W) mask as a PNG with one bit per pixel."""
    _save_png(path, Image.fromarray(np.ascontiguousarray(mask, dtype=bool)))


def load_mask(path: Path) -> np.ndarray:
    """Read a mask, where all values but 0 (black) are inside, as (H, W) bool."""
    return np.asarray(_open(path).convert("L")) != 0


def _save_png(path: Path, image: Image.Image) -> None:
    with atomic_path(path, durable=False) as temporary:
        image.save(temporary, format="PNG", compress_level=_FAST)


def _plain(path: Path, mode: str) -> np.ndarray | None:
    """Return the labels of a plain PNG, or None: then opening it tells what it is, or what is wrong."""
    try:
        with path.open("rb") as file:
            labels = read_plain_labels(file)
    except OSError:
        return None
    return labels.values if labels is not None and labels.mode == mode else None


def _open(path: Path) -> Image.Image:
    """Open and decode an image, so that a truncated file raises here."""
    with _opened(path) as image:
        return _decoded(image)


def _decoded(image: Image.Image) -> Image.Image:
    decoded = decoded_png(image)
    if decoded is None:
        image.load()
    return image if decoded is None else decoded


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a PNG without decoding it; errors in the body name the file, too."""
    try:
        with Image.open(path) as image:
            yield image
        # Lossy formats change values; the file's extension is not checked.
        if image.format != "PNG":
            raise InputError(f"{path}: is a {image.format} file, expected PNG; save the predictions as PNG")
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: not found; was the prediction of this image saved?") from None
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: cannot be read as an image ({reason}); save it again") from None
