"""Palette images whose colors contradict their indices.

Programs that reduce an RGB mask to a palette (pngquant, GIMP, Pillow's quantize) renumber its colors in each
file. Then the indices are not labels, and only the colors identify the classes.

Shape shorthand: N entries of a palette.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from detectron2.utils.logger import log_first_n
from PIL import Image

from segzoo.utils.errors import InputError
from segzoo.utils.text import some

Color = tuple[int, int, int]

REMEDY = (
    "if the colors are right, as in an RGB mask that was saved with a palette, set encoding: rgb; if the "
    "indices are right, set encoding: palette"
)


class PaletteError(InputError):
    """A palette that gives a class the color of another one."""


def viewing_palette(number: int) -> np.ndarray:
    """Return (number, 3) uint8, the VOC palette, which many programs write into index PNGs for viewing."""
    indices = np.arange(number)
    colors = np.zeros((number, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((indices >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colors


_VIEWING = [tuple(color) for color in viewing_palette(256).tolist()]


def palette_colors(image: Image.Image) -> list[Color]:
    """Return the N colors of a palette image, N at most 256."""
    palette = np.asarray(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    return [tuple(color) for color in palette.tolist()]


@dataclass(frozen=True)
class PaletteCheck:
    """Compares a palette with the colors that a dataset's YAML gives to its classes.

    Attributes:
        names: class names.
        colors: {class index: its color in the YAML}; classes without one are left out.
        source: the YAML, for messages.
        stops: whether a contradiction is an error, or only a warning.
    """

    names: tuple[str, ...]
    colors: Mapping[int, Color]
    source: str
    stops: bool = True

    def contradictions(
        self, palette: Mapping[int, Color], class_of: Mapping[int, int]
    ) -> dict[int, tuple[int, int]]:
        """Return {index: (its class, class whose color it has)} for the indices where the two differ.

        Ignores palettes for viewing, whose colors are those of VOC or of no class, and colors that several
        indices share.

        Args:
            palette: {index in a file: its color}.
            class_of: {index: class}; indices without a class are left out.
        """
        if not self.colors or all(_VIEWING[index] == color for index, color in palette.items()):
            return {}
        owner = {color: index for index, color in self.colors.items()}
        shown = list(palette.values())
        found = {}
        for index, color in palette.items():
            other = owner.get(color)
            is_own = index in class_of and self.colors.get(class_of[index]) == color
            if index in class_of and other is not None and not is_own and shown.count(color) == 1:
                found[index] = (class_of[index], other)
        return found

    def __call__(
        self, image: Image.Image, class_of: Mapping[int, int], file_name: str, remedy: str = REMEDY
    ) -> None:
        """Check the palette of an image of mode P.

        Args:
            class_of: {index that occurs: class, or -1 for none}.

        Raises:
            PaletteError: a contradiction, if `stops`; otherwise it is logged.
        """
        if not self.colors:
            return
        palette = palette_colors(image)
        used = {index: palette[index] for index in class_of if index < len(palette)}
        classes = {index: one for index, one in class_of.items() if 0 <= one < len(self.names)}
        found = self.contradictions(used, classes)
        if not found:
            return
        message = f"{file_name}: {describe(found, self.names, self.source)}; {remedy}"
        if self.stops:
            raise PaletteError(message)
        log_first_n(logging.WARNING, message, n=1)


def describe(contradictions: Mapping[int, tuple[int, int]], names: Iterable[str], source: str) -> str:
    """Return the contradictions as text."""
    names = tuple(names)
    found = some(
        (f"{index} the color of {names[other]!r}" for index, (_, other) in contradictions.items()), 3
    )
    expected = some((f"{index} is {names[own]!r}" for index, (own, _) in contradictions.items()), 3)
    return f"its palette gives {found}, but in {source} {expected}"
