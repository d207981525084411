"""Figures: panels side by side with titles, legends, loss curves.

Panels are RGB arrays (H, W, 3) uint8.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from segzoo.utils.errors import InputError
from segzoo.utils.loss_names import loss_terms

from .draw import font, text_size


def legend(
    classes: Sequence[str], colors: Sequence[Sequence[int]], width: int, font_size: int = 16
) -> np.ndarray:
    """Draw color boxes with class names, wrapped at `width` pixels: (H, width, 3) uint8 RGB."""
    face, row_height, box = font(font_size), round(1.6 * font_size), font_size
    places, x, y = [], font_size // 2, 0
    for name in classes:
        needed = box + font_size // 2 + text_size(name, face)[0]
        if x + needed > width and x > font_size // 2:
            x, y = font_size // 2, y + row_height
        places.append((x, y))
        x += needed + font_size
    canvas = Image.new("RGB", (width, y + row_height + font_size // 2), "white")
    pen = ImageDraw.Draw(canvas)
    for name, color, (left, top) in zip(classes, colors, places, strict=True):
        top += font_size // 2
        pen.rectangle((left, top, left + box, top + box), fill=tuple(color), outline=(60, 60, 60))
        pen.text((left + box + font_size // 2, top - font_size // 6), name, font=face, fill=(20, 20, 20))
    return np.array(canvas)


def strip(
    images: Sequence[np.ndarray], titles: Sequence[str], height: int | None = None, gap: int = 8
) -> np.ndarray:
    """Place panels side by side on white, a title above each.

    Args:
        images: RGB panels; resized to `height` (default: the first one's), keeping the aspect ratio.
        titles: one per panel.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    height = height or images[0].shape[0]
    face = font(max(11, height // 20))
    title_height = round(1.5 * text_size("Ag", face)[1])
    columns = []
    for image, title in zip(images, titles, strict=True):
        width = max(1, round(image.shape[1] * height / image.shape[0]))
        column = np.full((height + title_height, width, 3), 255, dtype=np.uint8)
        column[title_height:] = resize(image, (height, width))
        canvas = Image.fromarray(column)
        left = max(0, (width - text_size(title, face)[0]) // 2)
        ImageDraw.Draw(canvas).text((left, title_height // 6), title, font=face, fill=(20, 20, 20))
        columns += [np.array(canvas), np.full((height + title_height, gap, 3), 255, dtype=np.uint8)]
    return np.concatenate(columns[:-1], axis=1)


def resize(image: np.ndarray, size: tuple[int, int], labels: bool = False) -> np.ndarray:
    """Resize an image (or an id map, `labels`) to (height, width)."""
    if image.shape[:2] == tuple(size):
        return image
    if labels:
        rows = np.arange(size[0]) * image.shape[0] // size[0]
        columns = np.arange(size[1]) * image.shape[1] // size[1]
        return image[rows[:, None], columns]
    shrinking = size[0] < image.shape[0]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC)


def stack(rows: Sequence[np.ndarray], gap: int = 8) -> np.ndarray:
    """Place panels below each other on white; narrower ones are aligned left."""
    width = max(row.shape[1] for row in rows)
    padded = []
    for row in rows:
        padded.append(np.pad(row, ((0, gap), (0, width - row.shape[1]), (0, 0)), constant_values=255))
    return np.concatenate(padded)[:-gap]


def draw_loss_curve(records: Iterable[Mapping], output: str | Path) -> None:
    """Plot the losses over iterations into a PNG, from the lines of a `metrics.json`.

    Plots `total_loss` and its terms, named as in the progress line: "loss_ce (10 layers)" is the sum over the
    decoder layers.

    Raises:
        InputError: the lines hold no losses.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    curves = _losses(records)
    figure = Figure(figsize=(7, 4), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, points in curves.items():
        iterations, values = zip(*points, strict=True)
        emphasis = {"linewidth": 2.0, "color": "black"} if name == "total_loss" else {"linewidth": 1.2}
        axes.plot(iterations, values, label=name, **emphasis)
    axes.set_xlabel("iteration")
    axes.set_ylabel("loss")
    axes.set_yscale("log")
    for axis_format in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        axis_format(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(frameon=False, loc="upper right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(output)


def _losses(records: Iterable[Mapping]) -> dict[str, list[tuple[int, float]]]:
    """Return {term: [(iteration, value), ...]}, terms as `loss_terms` names them."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        sums = {term: sum(record[name] for name in names) for term, names in loss_terms(record).items()}
        if "total_loss" in record:
            sums["total_loss"] = record["total_loss"]
        for term, value in sums.items():
            curves.setdefault(term, []).append((record["iteration"], value))
    if not curves:
        raise InputError("the metrics hold no losses; train for at least 20 iterations first")
    # A single loss equals the total.
    if len(curves) == 2:
        curves.pop(next(name for name in curves if name != "total_loss"))
    return curves
