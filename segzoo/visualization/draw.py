"""Drawing results on images: colored segments with outlines and names.

Images and drawings are RGB arrays (H, W, 3) uint8; a drawing has the size of its image, and pixel (y, x) of
the drawing shows pixel (y, x) of the label map. H W: size of an image; K: number of classes.
"""

import colorsys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from segzoo.utils.lazy_masks import LazyMasks, planes, stored_masks

OPACITY = 0.6
# Images with a shorter side below this get no names, which would hide the segments.
MIN_SIDE_FOR_NAMES = 200
# A segment smaller than this share of the image is drawn without its name.
MIN_SHARE_FOR_NAME = 0.003


# Colors -------------------------------------------------------------------------------------------------


def distinct_color(index: int) -> tuple[int, int, int]:
    """Return color `index` of an endless sequence in which neighbors differ."""
    hue = (0.08 + index * 0.61803398875) % 1.0  # steps of the golden ratio never come close to repeating
    saturation = (0.85, 0.6, 0.75)[index % 3]
    value = (0.95, 0.8, 1.0, 0.7)[index % 4]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def shade(color: Sequence[int], number: int) -> tuple[int, int, int]:
    """Return a lighter or darker shade of a class's color for instance `number`; 0 is the color itself."""
    towards, share = ((0, 0.0), (255, 0.35), (0, 0.3), (255, 0.6), (0, 0.5), (255, 0.2))[number % 6]
    return tuple(round(value + (towards - value) * share) for value in color)


class Tracks:
    """Numbers that follow segments from one video frame to the next, so that their colors stay.

    A segment takes the number of the segment of the same class that it overlaps most in the frame before;
    every number is used once per frame, and a segment without overlap gets a new one.
    """

    def __init__(self) -> None:
        self._ids: np.ndarray | None = None
        self._known: dict[int, tuple[int, int]] = {}  # id in the last frame -> (class, number)
        self._next = 0

    def update(self, ids: np.ndarray, segments_info: Sequence[Mapping]) -> dict[int, int]:
        """Return {segment id: number} for a frame's id map (H, W) int, 0 is void."""
        classes = {info["id"]: info["category_id"] for info in segments_info}
        numbers: dict[int, int] = {}
        if self._ids is not None and self._ids.shape == ids.shape:
            taken = set()
            for now, before in _pairs_by_overlap(ids, self._ids):
                known_class, number = self._known.get(before, (None, -1))
                if (
                    now in classes
                    and now not in numbers
                    and number not in taken
                    and known_class == classes[now]
                ):
                    numbers[now] = number
                    taken.add(number)
        for segment_id in classes:
            if segment_id not in numbers:
                numbers[segment_id] = self._next
                self._next += 1
        self._ids = ids.copy()
        self._known = {segment_id: (classes[segment_id], number) for segment_id, number in numbers.items()}
        return numbers


def _pairs_by_overlap(first: np.ndarray, second: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs of ids of two (H, W) int maps that overlap, largest overlap first, without void."""
    both = (first > 0) & (second > 0)
    pairs, counts = np.unique(
        np.stack([first[both].astype(np.int64), second[both].astype(np.int64)]), axis=1, return_counts=True
    )
    order = np.argsort(-counts, kind="stable")
    return [(int(pairs[0, index]), int(pairs[1, index])) for index in order]


# Results on an image --------------------------------------------------------------------------------------

RESULT_KEYS = {
    "semantic": ("sem_seg_labels", "sem_seg"),
    "panoptic": ("panoptic_seg",),
    "entity": ("entity_seg",),
    "instance": ("instances",),
}


def default_threshold(task: str) -> float:
    """Return the lowest score that is drawn where none is chosen.

    Panoptic segments are those that the model's own thresholds have kept, and all are drawn.
    """
    return 0.0 if task == "panoptic" else 0.5


def draw_result(
    image: np.ndarray,
    result: Mapping,
    task: str,
    classes: Sequence[str],
    colors: Sequence[Sequence[int]],
    confidence_threshold: float = 0.0,
    tracks: Tracks | None = None,
) -> np.ndarray:
    """Draw a model's result for one image.

    Args:
        image: (H, W, 3) uint8 RGB.
        result: the model's dict for it, with the key of `task` (RESULT_KEYS).
        task: "semantic", "panoptic", "entity" or "instance".
        classes, colors: the model's class names and colors.
        confidence_threshold: segments and instances with a lower score are left out.
        tracks: keeps colors stable through a video; pass the same object with every frame.

    Raises:
        KeyError: `result` has nothing for the task.
    """
    if task == "semantic":
        return draw_semantic(image, semantic_labels(result), classes, colors)
    if task == "instance":
        found = result["instances"]
        found = found[found.scores >= confidence_threshold].to("cpu")
        indices, scores = found.pred_classes.tolist(), found.scores.tolist()
        return draw_instances(image, stored_masks(found), indices, scores, classes)
    ids, segments_info = segments(result, task, confidence_threshold)
    numbers = None if tracks is None else tracks.update(ids, segments_info)
    if task == "panoptic":
        return draw_panoptic(image, ids, segments_info, classes, colors, tracks=numbers)
    return draw_entity(image, ids, segments_info, tracks=numbers)


def semantic_labels(result: Mapping) -> np.ndarray:
    """Return the (H, W) integer label map of a result that holds labels or scores."""
    if "sem_seg_labels" in result:
        return result["sem_seg_labels"].cpu().numpy()
    return result["sem_seg"].argmax(dim=0).cpu().numpy()


def segments(result: Mapping, task: str, confidence_threshold: float = 0.0) -> tuple[np.ndarray, list[dict]]:
    """Return the id map (H, W) int32 and segment dicts of a result, without segments of a low score."""
    ids, segments_info = result[RESULT_KEYS[task][0]]
    ids = ids.cpu().numpy()
    kept = [info for info in segments_info if info.get("score", 1.0) >= confidence_threshold]
    if len(kept) < len(segments_info):
        ids = np.where(np.isin(ids, [info["id"] for info in kept]), ids, 0).astype(np.int32)
    return ids, kept


def draw_semantic(
    image: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    colors: Sequence[Sequence[int]],
    names: bool = True,
) -> np.ndarray:
    """Color every pixel by its class.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) integer in [0, K); other values (ignore) stay uncolored.
        classes, colors: K names and RGB colors.
        names: write the class name on each region.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    known = (labels >= 0) & (labels < len(classes))
    ids = np.where(known, labels.astype(np.int64) + 1, 0)
    table = np.concatenate([np.zeros((1, 3)), np.asarray(colors, dtype=np.float64).reshape(-1, 3)])
    present = np.flatnonzero(np.bincount(ids.ravel())[1:])
    texts = {int(index) + 1: classes[index] for index in present} if names else {}
    return _paint(image, ids, table, texts)


def draw_panoptic(
    image: np.ndarray,
    ids: np.ndarray,
    segments_info: Sequence[Mapping],
    classes: Sequence[str],
    colors: Sequence[Sequence[int]],
    names: bool = True,
    tracks: Mapping[int, int] | None = None,
) -> np.ndarray:
    """Color every segment by its class, instances of a thing class in shades of its color.

    Args:
        image: (H, W, 3) uint8 RGB.
        ids: (H, W) integer segment ids, 0 is void.
        segments_info: dicts with id, category_id (contiguous), isthing and, optionally, score.
        tracks: {id: number} from `Tracks`, to choose the shade; without it, instances are counted.
    """
    counted: dict[int, int] = {}
    segment_colors, texts = {}, {}
    for info in segments_info:
        class_index = info["category_id"]
        number = 0
        if info.get("isthing", True):
            number = counted.get(class_index, 0)
            counted[class_index] = number + 1
            if tracks is not None:
                number = tracks[info["id"]] % 12
        segment_colors[info["id"]] = shade(colors[class_index], number)
        texts[info["id"]] = _with_score(classes[class_index], info)
    return _paint_segments(image, ids, segment_colors, texts if names else {})


def draw_entity(
    image: np.ndarray,
    ids: np.ndarray,
    segments_info: Sequence[Mapping],
    names: bool = False,
    tracks: Mapping[int, int] | None = None,
) -> np.ndarray:
    """Draw every entity in a different color; `names` writes scores. Arguments as `draw_panoptic`."""
    segment_colors, texts = {}, {}
    for index, info in enumerate(segments_info):
        number = index if tracks is None else tracks[info["id"]]
        segment_colors[info["id"]] = distinct_color(number)
        texts[info["id"]] = _with_score("", info)
    return _paint_segments(image, ids, segment_colors, texts if names else {})


def draw_instances(
    image: np.ndarray,
    masks: np.ndarray | Tensor | LazyMasks,
    class_indices: Sequence[int],
    scores: Sequence[float],
    classes: Sequence[str],
    names: bool = True,
) -> np.ndarray:
    """Draw instance masks, the highest score on top.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: (M, H, W) bool on the CPU, visited one after the other.
        class_indices, scores: M each.
    """
    ids = np.zeros(image.shape[:2], dtype=np.int32)
    segment_colors, texts = {}, {}
    order = np.argsort(np.asarray(scores), kind="stable")
    for number, (index, mask) in enumerate(zip(order, planes(masks, order), strict=True)):
        ids[mask] = number + 1
        segment_colors[number + 1] = distinct_color(int(index))
        texts[number + 1] = f"{classes[int(class_indices[index])]} {100 * float(scores[index]):.0f}%"
    return _paint_segments(image, ids, segment_colors, texts if names else {})


def _with_score(name: str, info: Mapping) -> str:
    if not info.get("isthing", True) or info.get("score") is None:
        return name
    return f"{name} {100 * info['score']:.0f}%".strip()


def _paint_segments(
    image: np.ndarray, ids: np.ndarray, colors: Mapping[int, Sequence[int]], texts: Mapping[int, str]
) -> np.ndarray:
    """Call `_paint` with renumbered ids, so that the color table stays small."""
    present, small = np.unique(ids, return_inverse=True)
    table = np.zeros((len(present) + 1, 3))
    small = small.reshape(ids.shape) + 1
    small_texts = {}
    for position, segment_id in enumerate(present.tolist()):
        if segment_id in colors:
            table[position + 1] = colors[segment_id]
            small_texts[position + 1] = texts.get(segment_id, "")
        else:
            small[small == position + 1] = 0
    return _paint(image, small, table, small_texts)


def _paint(image: np.ndarray, ids: np.ndarray, table: np.ndarray, texts: Mapping[int, str]) -> np.ndarray:
    """Blend table[ids] over `image` where ids > 0, outline the segments and write their names."""
    if image.shape[:2] != ids.shape:
        raise ValueError(f"image is {image.shape[:2]}, labels are {ids.shape}: draw at the image's own size")
    colors = table.astype(np.uint8)[ids]
    # Over a gray image, colors look as in the legend.
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    drawn = cv2.addWeighted(gray, 1 - OPACITY, colors, OPACITY, 0)
    drawn[ids == 0] = image[ids == 0]
    edge = _outlines(ids)
    drawn[edge] = (0.35 * drawn[edge]).astype(np.uint8)
    if texts and min(ids.shape) >= MIN_SIDE_FOR_NAMES:
        drawn = _write_names(drawn, ids, texts)
    return drawn


def _outlines(ids: np.ndarray) -> np.ndarray:
    """Return (H, W) bool, a line one pixel wide between segments, never on void."""
    edge = np.zeros(ids.shape, dtype=bool)
    for axis in (0, 1):
        here, there = np.moveaxis(ids, axis, 0), np.moveaxis(edge, axis, 0)
        differs = here[1:] != here[:-1]
        there[1:] |= differs & (here[1:] > 0)
        there[:-1] |= differs & (here[1:] == 0)
    return edge


# Text ----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def font(pixels: int) -> ImageFont.FreeTypeFont:
    """Return the font of all drawings, `pixels` high."""
    # Shipped with Matplotlib: the same everywhere, and not limited to ASCII.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), pixels)


def text_size(text: str, face: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """Return the width of `text` and the height of a line, in pixels."""
    left, _, right, _ = face.getbbox(text)
    ascent, descent = face.getmetrics()
    return int(right - left), ascent + descent


def _write_names(drawn: np.ndarray, ids: np.ndarray, texts: Mapping[int, str]) -> np.ndarray:
    """Write each segment's text, white on a dark box, where the segment is thickest."""
    height, width = ids.shape
    face = font(max(10, round(min(height, width) / 32)))
    areas = np.bincount(ids.ravel())
    # Thickness is measured on a small copy: a name's place need not be exact.
    step = max(1, min(height, width) // 256)
    small = np.ascontiguousarray(ids[::step, ::step])
    canvas = Image.fromarray(drawn)
    pen = ImageDraw.Draw(canvas, "RGBA")
    for segment_id, text in texts.items():
        if not text or segment_id >= len(areas) or areas[segment_id] < MIN_SHARE_FOR_NAME * ids.size:
            continue
        mask = np.pad((small == segment_id).astype(np.uint8), 1)
        thickness = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
        y, x = np.unravel_index(thickness.argmax(), thickness.shape)
        text_width, text_height = text_size(text, face)
        left = int(np.clip((x - 1) * step - text_width / 2, 2, max(2, width - text_width - 4)))
        top = int(np.clip((y - 1) * step - text_height / 2, 2, max(2, height - text_height - 2)))
        pen.rectangle((left - 2, top, left + text_width + 2, top + text_height), fill=(0, 0, 0, 130))
        pen.text((left, top), text, font=face, fill=(255, 255, 255, 255))
    return np.array(canvas)
