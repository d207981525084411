"""Generate Shapes, a small panoptic dataset that needs no download, in COCO's panoptic format.

    segzoo prepare shapes
    segzoo prepare shapes --train 300 --val 40
    segzoo prepare shapes --root /data/shapes

A scene is two to four curved regions, each filled with one of five textures (stuff), under up to six
overlapping shapes (things). Sizes, angles, lighting, saturation and brightness are random in every image; a
class tends to a hue that it shares with other classes, so that color is a hint and texture or outline
decides. A few images hold an unlabeled glare (void) or a swarm of specks annotated as one crowd segment, so
that the rules for both are exercised.

Writes into the dataset's folder:

    images/{train,val}/000001.jpg                 RGB images
    panoptic/{train,val}/000001.png               segment ids as R + 256 G + 65536 B, 0 is void
    semantic/{train,val}/000001.png               class indices in the order of CATEGORIES, 255 is void
    annotations/panoptic_{train,val}.json         COCO panoptic annotations
    shapes.json                                   arguments and version of the generator; written last

An image depends only on the seed, the split and its number: the files are the same with any number of
processes.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from segzoo.utils.commands import command_line
from segzoo.utils.errors import InputError
from segzoo.utils.paths import datasets_folder, is_same_file

# (id in the JSON, name, is it a thing). Ids have gaps, as COCO's have: a class index is not an id.
CATEGORIES = (
    (1, "disk", True),
    (2, "square", True),
    (4, "triangle", True),
    (5, "star", True),
    (7, "ring", True),
    (8, "cross", True),
    (11, "stripes", False),
    (12, "checks", False),
    (14, "dots", False),
    (17, "waves", False),
    (20, "clouds", False),
)
THINGS = tuple(name for _, name, is_thing in CATEGORIES if is_thing)
TEXTURES = tuple(name for _, name, is_thing in CATEGORIES if not is_thing)
CLASS_OF = {name: index for index, (_, name, _) in enumerate(CATEGORIES)}
VOID_CLASS = 255
SPLITS = ("train", "val")
STAMP = "shapes.json"

# A class tends to a hue and a direction, as grass is mostly green and trees are upright; but things and stuff
# share the color circle.
HUE_SPREAD = 0.03  # standard deviation in turns
TEXTURE_ANGLE = 0.6  # radians
ANGLE_SPREAD = 0.35
VOID_SHARE = 0.10  # images with a glare
CROWD_SHARE = 0.04  # images with a swarm annotated as one crowd
MIN_VISIBLE_SHARE = 0.4  # a shape is never hidden further than this share of itself ...
MIN_VISIBLE_PIXELS = 40  # ... nor below this many pixels of a 128-pixel scene


class Segment(NamedTuple):
    class_index: int
    is_crowd: bool


class Scene(NamedTuple):
    """`image` (H, W, 3) uint8 RGB; `index_map` (H, W) int32, position in `segments` or -1 for void."""

    image: np.ndarray
    index_map: np.ndarray
    segments: list[Segment]


# Outlines ------------------------------------------------------------------------------------------------


def _regular_polygon(corners: int) -> np.ndarray:
    angles = 2 * np.pi * np.arange(corners) / corners
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star_polygon() -> np.ndarray:
    radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.45)
    return _regular_polygon(10) * radii[:, None]


def _cross_polygon(arm: float = 0.3) -> np.ndarray:
    quarter = np.array([[1.0, -arm], [1.0, arm], [arm, arm]])
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, step) for step in range(4)])


OUTLINES = {
    "square": _regular_polygon(4) @ np.array([[0.7071, 0.7071], [-0.7071, 0.7071]]),
    "triangle": _regular_polygon(3) * 1.15,
    "star": _star_polygon() * 1.15,
    "cross": _cross_polygon(),
}


def _polygon_distance(x: np.ndarray, y: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Return the signed distance of a grid of points to a closed polygon; negative inside.

    Args:
        x: (w,) columns. y: (h, 1) rows. corners: (M, 2) as (x, y).
    Returns:
        (h, w) float.
    """
    nearest = np.full(np.broadcast_shapes(x.shape, y.shape), np.inf)
    inside = np.zeros(nearest.shape, dtype=bool)
    for (start_x, start_y), (end_x, end_y) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        edge_x, edge_y = end_x - start_x, end_y - start_y
        to_x, to_y = x - start_x, y - start_y
        along = np.clip((to_x * edge_x + to_y * edge_y) / (edge_x**2 + edge_y**2), 0, 1)
        np.minimum(nearest, (to_x - along * edge_x) ** 2 + (to_y - along * edge_y) ** 2, out=nearest)
        # A point is inside when a ray from it crosses an odd number of edges.
        straddles = (start_y > y) != (end_y > y)
        if edge_y:
            inside ^= straddles & (to_x < to_y * (edge_x / edge_y))
    return np.where(inside, -1, 1) * np.sqrt(nearest)


class Stamp(NamedTuple):
    """A shape to be painted: `distance` (h, w) in pixels, negative inside, over a window of the image."""

    rows: slice
    columns: slice
    distance: np.ndarray

    @property
    def window(self) -> tuple[slice, slice]:
        return self.rows, self.columns


def make_stamp(name: str, center: tuple[float, float], radius: float, angle: float, size: int) -> Stamp:
    """Return the outline of a thing on a square image.

    Args:
        name: one of THINGS. center: (x, y) in pixels. radius: of the circle around it. angle: radians.
        size: side of the image.
    """
    reach = radius * 1.2 + 2
    left, right = (int(np.clip(center[0] + sign * reach, 0, size)) for sign in (-1, 1))
    top, bottom = (int(np.clip(center[1] + sign * reach, 0, size)) for sign in (-1, 1))
    x = np.arange(left, right) - center[0]
    y = (np.arange(top, bottom) - center[1])[:, None]
    if name == "disk":
        distance = np.hypot(x, y) - 0.9 * radius
    elif name == "ring":
        distance = np.abs(np.hypot(x, y) - 0.72 * radius) - 0.24 * radius
    else:
        cosine, sine = np.cos(angle), np.sin(angle)
        corners = OUTLINES[name] * radius @ np.array([[cosine, sine], [-sine, cosine]])
        distance = _polygon_distance(x, y, corners)
    return Stamp(slice(top, bottom), slice(left, right), distance)


# Colors and textures ------------------------------------------------------------------------------------


def _color(rng: np.random.Generator, hue: float | None = None) -> np.ndarray:
    """Return (3,) RGB in [0, 255]: any color, or one whose hue (a turn is 1) is near `hue`."""
    if hue is None:
        return rng.uniform(25, 230, size=3)
    hue += rng.normal(0, HUE_SPREAD)
    saturation, value = rng.uniform(0.45, 1.0), rng.uniform(90, 235)
    # HSV to RGB: a channel falls from `value` with its distance on the color circle.
    ramp = np.abs((hue + np.array([0, 2 / 3, 1 / 3])) % 1.0 * 6 - 3) - 1
    return value * (1 - saturation * (1 - np.clip(ramp, 0, 1)))


def _distinct_color(
    rng: np.random.Generator, others: list[np.ndarray], gap: float, hue: float | None = None
) -> np.ndarray:
    """Return a color at least `gap` away (Euclidean, RGB) from all `others`, or the farthest of 20 tries."""
    best, best_gap = np.zeros(3), -1.0
    for _ in range(20):
        color = _color(rng, hue)
        found = min((float(((color - other) ** 2).sum()) ** 0.5 for other in others), default=gap)
        if found > best_gap:
            best, best_gap = color, found
        if best_gap >= gap:
            break
    return best


def _smooth_noise(rng: np.random.Generator, size: int, cell: float) -> np.ndarray:
    """Return (size, size) float32, smooth noise with features of about `cell` pixels and unit deviation."""
    coarse = max(round(size / cell) + 2, 3)
    noise = rng.standard_normal((coarse, coarse), dtype=np.float32)
    noise = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    return (noise - noise.mean()) / (noise.std() + 1e-6)


def texture_pattern(name: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return the share of the second color, (size, size) float32 in [0, 1], for one of TEXTURES."""
    scale = size / 128
    angle = rng.normal(TEXTURE_ANGLE, ANGLE_SPREAD)
    period = rng.uniform(8, 11) * scale
    x = np.arange(size, dtype=np.float32) - np.float32(rng.uniform(0, period))
    y = (np.arange(size, dtype=np.float32) - np.float32(rng.uniform(0, period)))[:, None]
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    turn = np.float32(2 * np.pi / period)
    along, across = (x * cosine + y * sine) * turn, (y * cosine - x * sine) * turn
    if name == "stripes":
        wave, sharpness = np.sin(along), 3.0
    elif name == "checks":
        wave, sharpness = np.sin(along / 2) * np.sin(across / 2), 6.0
    elif name == "dots":
        wave, sharpness = np.cos(along) + np.cos(across) - np.float32(0.9), 3.0
    elif name == "waves":
        bend, length = rng.uniform(1.6, 2.6), rng.uniform(1.8, 2.6)
        wave, sharpness = np.sin(along + np.float32(bend) * np.sin(across / np.float32(length))), 3.0
    else:
        wave, sharpness = _smooth_noise(rng, size, rng.uniform(6, 11) * scale), 1.2
    return 1 / (1 + np.exp(np.float32(-sharpness) * wave))


# Scenes --------------------------------------------------------------------------------------------------


def _paint_regions(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, list[Segment]]:
    """Split the image by the nearest of a few warped centers and fill each part with a texture."""
    count = int(rng.integers(2, 5))
    names = [TEXTURES[index] for index in rng.integers(len(TEXTURES), size=count)]
    centers = rng.uniform(0.05, 0.95, size=(count, 2)) * size
    bend = np.float32(0.05 * size)
    x = np.arange(size, dtype=np.float32) + bend * _smooth_noise(rng, size, size / 4)
    y = np.arange(size, dtype=np.float32)[:, None] + bend * _smooth_noise(rng, size, size / 4)
    distances = np.stack([(x - left) ** 2 + (y - top) ** 2 for left, top in centers.astype(np.float32)])
    regions = distances.argmin(axis=0)

    image = np.zeros((size, size, 3), dtype=np.float32)
    index_map = np.full((size, size), -1, dtype=np.int32)
    segments: list[Segment] = []
    used: list[np.ndarray] = []
    for region, name in enumerate(names):
        first = _distinct_color(rng, used, gap=40, hue=TEXTURES.index(name) / len(TEXTURES))
        second = first * rng.uniform(0.4, 0.7)
        used += [first, second]
        inside = regions == region
        share = texture_pattern(name, size, rng)[inside][:, None]
        image[inside] = first + (second - first) * share
        segment = Segment(CLASS_OF[name], False)
        if segment not in segments:  # a class of stuff is one segment, however many parts it has
            segments.append(segment)
        index_map[inside] = segments.index(segment)
    return image, index_map, segments


def _blend(image: np.ndarray, color: np.ndarray, stamp: Stamp) -> None:
    """Paint where the distance is negative, with an edge one pixel wide. `color`: (3,) or (h, w, 3)."""
    opacity = np.clip(0.5 - stamp.distance, 0.0, 1.0)[..., None]
    image[stamp.window] += (color - image[stamp.window]) * opacity


def _paint_things(
    rng: np.random.Generator, image: np.ndarray, index_map: np.ndarray, segments: list[Segment]
) -> None:
    """Place up to six shapes, in place; a later one hides an earlier one, but never too much of it."""
    size = len(image)
    least_pixels = MIN_VISIBLE_PIXELS * (size / 128) ** 2
    first = len(segments)
    # Minimum number of visible pixels of each shape so far.
    required: list[float] = []
    centers: list[tuple[float, float]] = []
    for _ in range(int(rng.integers(1, 7))):
        for _ in range(12):
            name = THINGS[int(rng.integers(len(THINGS)))]
            radius = rng.uniform(16, 30) * size / 128
            center = _place(rng, centers, radius, size)
            stamp = make_stamp(name, center, radius, rng.normal(-np.pi / 2, ANGLE_SPREAD), size)
            covered = stamp.distance < 0
            area = np.count_nonzero(covered)
            # At least half of the shape lies inside the image, so that its outline can be recognized.
            if area < max(0.25 * np.pi * radius**2, least_pixels):
                continue
            kept = np.bincount(index_map.ravel() + 1, minlength=len(segments) + 1)
            kept -= np.bincount(index_map[stamp.window][covered] + 1, minlength=len(segments) + 1)
            if np.all(kept[first + 1 :] >= required):
                break
        else:
            continue
        below = image[stamp.window][covered].mean(axis=0)
        color = _distinct_color(rng, [below], gap=90, hue=(THINGS.index(name) + 0.5) / len(THINGS))
        tilt = rng.uniform(-0.6, 0.6, size=2) * 128 / size
        x = np.arange(stamp.columns.start, stamp.columns.stop) - center[0]
        y = (np.arange(stamp.rows.start, stamp.rows.stop) - center[1])[:, None]
        _blend(image, color + (x * tilt[0] + y * tilt[1])[..., None], stamp)
        index_map[stamp.window][covered] = len(segments)
        segments.append(Segment(CLASS_OF[name], False))
        required.append(max(MIN_VISIBLE_SHARE * area, least_pixels))
        centers.append(center)


def _place(
    rng: np.random.Generator, centers: list[tuple[float, float]], radius: float, size: int
) -> tuple[float, float]:
    """Return (x, y) anywhere in the image, or next to an earlier shape: overlaps are the interesting case."""
    if not centers or rng.random() > 0.4:
        return tuple(rng.uniform(0.06, 0.94, size=2) * size)
    x, y = centers[int(rng.integers(len(centers)))]
    away, bearing = rng.uniform(0.7, 1.4) * radius, rng.uniform(0, 2 * np.pi)
    return x + away * np.cos(bearing), y + away * np.sin(bearing)


def _paint_swarm(
    rng: np.random.Generator, image: np.ndarray, index_map: np.ndarray, segments: list[Segment]
) -> None:
    """Paint specks too small and too many to be told apart, annotated as one crowd of disks."""
    size = len(image)
    color = _color(rng)
    middle = rng.uniform(0.2, 0.8, size=2) * size
    for _ in range(14):
        center = middle + rng.normal(0, 0.06, size=2) * size
        stamp = make_stamp("disk", tuple(center), rng.uniform(2.5, 4.0) * size / 128, 0.0, size)
        _blend(image, color, stamp)
        index_map[stamp.window][stamp.distance < 0] = len(segments)
    segments.append(Segment(CLASS_OF["disk"], True))


def _paint_glare(rng: np.random.Generator, image: np.ndarray, index_map: np.ndarray) -> None:
    """Paint a soft white glare, in place; where it outshines the scene, pixels are void."""
    size = len(image)
    left, top = rng.uniform(0.1, 0.9, size=2) * size
    spread = rng.uniform(5, 9) * size / 128
    x, y = np.arange(size), np.arange(size)[:, None]
    strength = np.exp(-((x - left) ** 2 + (y - top) ** 2) / (2 * spread**2))
    image += (255 - image) * strength[..., None]
    index_map[strength > 0.6] = -1


def make_scene(seed: int, split: str, number: int, size: int = 128) -> Scene:
    """Draw one scene; the result depends on nothing but the arguments.

    Every segment that is returned has at least one visible pixel.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), number])
    image, index_map, segments = _paint_regions(rng, size)
    if rng.random() < CROWD_SHARE:
        _paint_swarm(rng, image, index_map, segments)
    _paint_things(rng, image, index_map, segments)
    if rng.random() < VOID_SHARE:
        _paint_glare(rng, image, index_map)

    # Light falls unevenly, and the sensor is noisy.
    light = 1 + np.float32(rng.uniform(0.05, 0.15)) * _smooth_noise(rng, size, size / 2)[..., None].clip(
        -1.5, 1.5
    )
    grain = np.float32(rng.uniform(3, 10)) * rng.standard_normal(image.shape, dtype=np.float32)
    image = np.clip(np.rint(image * light + grain), 0, 255).astype(np.uint8)

    visible = np.flatnonzero(np.bincount(index_map.ravel() + 1, minlength=len(segments) + 1)[1:])
    renumbered = np.full(len(segments) + 1, -1, dtype=np.int32)  # the last entry keeps -1 at -1
    renumbered[visible] = np.arange(len(visible))
    return Scene(image, renumbered[index_map], [segments[index] for index in visible])


# Files ---------------------------------------------------------------------------------------------------


def _unique_ids(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return `count` different segment ids in [1, 2^24), so that all three bytes of the PNG are used."""
    ids: list[int] = []
    while len(ids) < count:
        candidate = int(rng.integers(1, 1 << 24))
        if candidate not in ids:
            ids.append(candidate)
    return np.array(ids, dtype=np.int64)


def _write_image(path: Path, image: np.ndarray, *options: int) -> None:
    if not cv2.imwrite(str(path), image, list(options)):
        raise OSError(f"{path}: could not be written")


def _write_scene(number: int, folder: Path, split: str, size: int, seed: int) -> dict:
    """Write the three files of a scene and return its annotation."""
    scene = make_scene(seed, split, number, size)
    name = f"{number:06d}"
    ids = _unique_ids(np.random.default_rng([seed, SPLITS.index(split), number, 1]), len(scene.segments))
    id_map = np.append(ids, 0)[scene.index_map]
    classes = np.array([segment.class_index for segment in scene.segments] + [VOID_CLASS], dtype=np.uint8)
    crowd = np.array([segment.is_crowd for segment in scene.segments] + [False])
    # A crowd is void for semantic training: where its members end is not known.
    semantic = np.where(crowd, VOID_CLASS, classes).astype(np.uint8)[scene.index_map]
    bgr_ids = np.stack([id_map >> 16, (id_map >> 8) & 255, id_map & 255], axis=-1).astype(np.uint8)
    _write_image(
        folder / "images" / split / f"{name}.jpg", scene.image[..., ::-1], cv2.IMWRITE_JPEG_QUALITY, 95
    )
    _write_image(folder / "panoptic" / split / f"{name}.png", bgr_ids)
    _write_image(folder / "semantic" / split / f"{name}.png", semantic)
    segments_info = []
    for index, segment in enumerate(scene.segments):
        rows, columns = np.nonzero(scene.index_map == index)
        left, top = int(columns.min()), int(rows.min())
        segments_info.append(
            {
                "id": int(ids[index]),
                "category_id": CATEGORIES[segment.class_index][0],
                "area": len(rows),
                "bbox": [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1],
                "iscrowd": int(segment.is_crowd),
            }
        )
    return {"image_id": number, "file_name": f"{name}.png", "segments_info": segments_info}


def _annotations(split: str, count: int, folder: Path, size: int, seed: int, workers: int) -> Iterator[dict]:
    write = partial(_write_scene, folder=folder, split=split, size=size, seed=seed)
    if workers <= 1:
        yield from map(write, range(1, count + 1))
        return
    with multiprocessing.Pool(workers, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        yield from pool.imap(write, range(1, count + 1), chunksize=16)


def _write_split(
    split: str, count: int, folder: Path, size: int, seed: int, workers: int, progress: bool
) -> None:
    for kind in ("images", "panoptic", "semantic"):
        (folder / kind / split).mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    annotations = []
    for annotation in _annotations(split, count, folder, size, seed, workers):
        annotations.append(annotation)
        done = len(annotations)
        if progress and (done % 50 == 0 or done == count):
            sys.stderr.write(f"\rShapes: {split} {done}/{count}" + ("\n" if done == count else ""))
            sys.stderr.flush()
    document = {
        "info": {"description": "Shapes, a generated panoptic dataset", "version": "1"},
        "categories": [
            {"id": id_, "name": name, "isthing": int(is_thing)} for id_, name, is_thing in CATEGORIES
        ],
        "images": [
            {"id": number, "file_name": f"{number:06d}.jpg", "height": size, "width": size}
            for number in range(1, count + 1)
        ],
        "annotations": annotations,
    }
    (folder / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(document), encoding="utf-8")


def _is_complete(folder: Path, recipe: dict) -> bool:
    """Return whether `folder` holds every file of a dataset made from `recipe`."""
    stamp = folder / STAMP
    if not stamp.is_file() or json.loads(stamp.read_text(encoding="utf-8")) != recipe:
        return False
    for split in SPLITS:
        if not (folder / "annotations" / f"panoptic_{split}.json").is_file():
            return False
        for kind in ("images", "panoptic", "semantic"):
            if len(os.listdir(folder / kind / split)) != recipe[split]:
                return False
    return True


def make_shapes(
    root: str | os.PathLike,
    train: int = 1600,
    val: int = 200,
    size: int = 128,
    seed: int = 0,
    workers: int = 1,
    progress: bool = False,
) -> Path:
    """Write the dataset into the folder `root`, unless it is already there, complete and up to date.

    Files are written beside `root` and moved into place when all of them are there, so an interrupted run
    leaves nothing behind that looks like a dataset. A dataset that was made with other arguments, or by
    another version of this file, is replaced; any other folder is left alone.

    Args:
        root: the dataset's folder, such as `datasets/shapes`.
        train, val: images of the two splits, at least 1. size: side of an image in pixels, at least 32.
        seed: of all images. workers: processes. progress: show a counter on stderr.
    Returns:
        The folder.
    Raises:
        InputError: a count or the size is too small, or `root` is not a Shapes dataset.
    """
    if min(train, val) < 1:
        raise InputError(f"train {train}, val {val}: a split needs at least 1 image")
    if size < 32:
        raise InputError(f"size {size}: shapes cannot be recognized below 32 pixels")
    root = Path(root)
    source = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    recipe = {"train": train, "val": val, "size": size, "seed": seed, "generator_sha256": source}
    if root.is_dir() and any(root.iterdir()):
        if not (root / STAMP).is_file():
            raise InputError(
                f"{root}: is not empty and holds no {STAMP}, so it is not a Shapes dataset; "
                "choose another folder or remove it"
            )
        if _is_complete(root, recipe):
            return root

    root.parent.mkdir(parents=True, exist_ok=True)
    partial_folder = root.parent / f".{root.name}-partial-{os.getpid()}"
    shutil.rmtree(partial_folder, ignore_errors=True)
    try:
        for split, count in (("train", train), ("val", val)):
            _write_split(split, count, partial_folder, size, seed, workers, progress)
        (partial_folder / STAMP).write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
        if root.is_dir():
            shutil.rmtree(root)
        os.replace(partial_folder, root)
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)
    return root


def prepare(arguments: argparse.Namespace) -> bool:
    """Write the dataset, and print its folder and the command to train on it.

    Raises:
        InputError: the folder holds something else.
    """
    root = arguments.root or datasets_folder() / "shapes"
    started = time.perf_counter()
    make_shapes(
        root, arguments.train, arguments.val, arguments.size, arguments.seed, arguments.workers, progress=True
    )
    folder = Path(os.path.abspath(root))
    print(f"Shapes is in {folder} ({time.perf_counter() - started:.1f} s)")
    if folder.name != "shapes":
        folder = folder.parent / "shapes"
        print(f"the built-in dataset shapes is {folder}: rename the folder to train on it")
    is_found = is_same_file(folder.parent, datasets_folder())
    if is_found and "DETECTRON2_DATASETS" not in os.environ:
        print(f"next, in {Path.cwd()}, where ./datasets is:")
    else:
        print("next:")
    if not is_found:
        print(f"  export DETECTRON2_DATASETS={shlex.quote(str(folder.parent))}")
    print(f"  {command_line('train', '--config-file', 'panoptic/shapes/mask2former_r18_quarter')}")
    return True
