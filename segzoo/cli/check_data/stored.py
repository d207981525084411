"""The contents of label files as stored, regardless of the encoding in the dataset's YAML.

They tell which encoding the files have where the YAML names another one.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image

from segzoo.data.encodings import GRAY_16_BIT, Encoding
from segzoo.data.label_ops import count_values, rgb_codes
from segzoo.data.palettes import Color, palette_colors

# Files with more different colors are photos, or were compressed lossily.
MOST_COLORS = 256


class StoredLabels(NamedTuple):
    """The contents of one label file.

    Attributes:
        mode: Pillow's mode.
        values: values that occur in gray and palette images, and in RGB ones with three equal channels.
        palette: {value that occurs: its color} of a palette image.
        colors: {color: pixels} of RGB images that the encoding cannot read; empty if there are too many.
        transparent: number of transparent pixels, 0 if all are.
    """

    mode: str
    values: tuple[int, ...] = ()
    palette: tuple[tuple[int, Color], ...] = ()
    colors: tuple[tuple[Color, int], ...] = ()
    transparent: int = 0


@dataclass
class StoredSummary:
    """The contents of all label files of a split.

    Attributes:
        files: number of files.
        modes: {mode: files}.
        values: {value: files with it}.
        palettes: {palette, as in `StoredLabels`: files}.
        colors: {color: pixels}.
        photos: number of RGB files with more colors than are counted.
        transparent: as in `StoredLabels`, summed over all files.
    """

    files: int = 0
    modes: Counter = field(default_factory=Counter)
    values: Counter = field(default_factory=Counter)
    palettes: Counter = field(default_factory=Counter)
    colors: Counter = field(default_factory=Counter)
    photos: int = 0
    transparent: int = 0

    def add(self, one: StoredLabels) -> None:
        self.files += 1
        self.transparent += one.transparent
        self.modes[one.mode] += 1
        self.values.update(one.values)
        if one.palette:
            self.palettes[one.palette] += 1
        self.colors.update(dict(one.colors))
        self.photos += not one.values and not one.colors and one.mode in ("RGB", "RGBA")


def observer(encoding: Encoding | None, found: list[StoredLabels]) -> Callable[[Image.Image], None]:
    """Return a function for `LabelReader.observe` that appends the contents of label files to `found`."""
    reads_colors = encoding is not None and "RGB" in encoding.modes

    def observe(image: Image.Image) -> None:
        found.append(_contents(image, reads_colors)._replace(transparent=_transparent(image)))

    return observe


def _contents(image: Image.Image, reads_colors: bool) -> StoredLabels:
    mode, pixels = image.mode, np.asarray(image)
    if mode in ("RGB", "RGBA"):
        bands = pixels[:, :, :3]
        if (bands == bands[:, :, :1]).all():
            return StoredLabels(mode, _values(np.ascontiguousarray(bands[:, :, 0])))
        return StoredLabels(mode, colors=() if reads_colors else _colors(image))
    if mode == "P":
        values, colors = _values(pixels), palette_colors(image)
        return StoredLabels(
            mode, values, tuple((value, colors[value]) for value in values if value < len(colors))
        )
    if mode == "LA":
        pixels = np.ascontiguousarray(pixels[:, :, 0])
    return (
        StoredLabels(mode, _values(pixels))
        if mode in ("L", "1", "LA", "F", *GRAY_16_BIT)
        else StoredLabels(mode)
    )


def _transparent(image: Image.Image) -> int:
    """Return the number of pixels with an alpha of 0; 0 if all have it, which then marks none of them."""
    if image.mode in ("LA", "RGBA"):
        alpha = np.asarray(image)[:, :, -1]
    elif image.mode in ("L", "P") and "transparency" in image.info:
        alpha = np.asarray(image.convert("RGBA"))[:, :, 3]
    else:
        return 0
    count = int(np.count_nonzero(alpha == 0))
    return count if count < alpha.size else 0


def _values(pixels: np.ndarray) -> tuple[int, ...]:
    """Return the values that occur; () if they are no labels."""
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    if pixels.dtype == np.uint8:
        return tuple(np.flatnonzero(count_values(pixels)).tolist())
    found = np.unique(pixels)
    is_whole = len(found) <= 1 << 16 and np.isfinite(found).all() and (found == np.floor(found)).all()
    return tuple(int(value) for value in found) if is_whole else ()


def _colors(image: Image.Image) -> tuple[tuple[Color, int], ...]:
    codes, counts = np.unique(rgb_codes(image), return_counts=True)
    if len(codes) > MOST_COLORS:
        return ()
    colors = [(code & 255, code >> 8 & 255, code >> 16) for code in codes.tolist()]
    return tuple(zip(colors, counts.tolist(), strict=True))
