"""Weights, images and scenes that two programs can make from a seed, without exchanging files.

The scripts `make_cases.py` fill the authors' models with `seeded_weights`, and the tests write the same
weights under the same names into a file, which segzoo loads. A recorded case therefore holds results only.
Everything is drawn with NumPy's RandomState, whose streams never change (NEP 19).
"""

import lzma
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# (regex on the name, factor, addend): applied in turn to the values of the rule for the tensor's shape.
Adjustments = Sequence[tuple[str, float, float]]
NUM_SAMPLES = 16
Size = tuple[int, int]


@dataclass(frozen=True)
class InferenceCase:
    """An image through a model in eval mode.

    Attributes:
        config: name of the authors' configuration.
        seed: of the weights.
        image_seed: of the image.
        image, output: sizes of the network's input and of the results.
    """

    config: str
    seed: int
    image_seed: int
    image: Size
    output: Size


def random_state(seed: int, name: str) -> np.random.RandomState:
    """Return a generator that depends on `seed` and `name` only."""
    return np.random.RandomState(zlib.crc32(f"{seed} {name}".encode()))


def seeded_tensor(name: str, shape: Sequence[int], seed: int, adjustments: Adjustments = ()) -> np.ndarray:
    """Return float32 values that give every layer outputs of about its inputs' size.

    Args:
        name: name of the tensor in the authors' checkpoints.
        shape: its shape.
        seed: number of the model.
        adjustments: factors and addends for names for which the rule gives useless outputs.
    """
    values = random_state(seed, name).random_sample(tuple(shape)) * 2 - 1
    if name.endswith("running_var"):
        values = 1 + values / 2
    elif len(shape) >= 2:
        values *= np.sqrt(3 / np.prod(shape[1:]))
    elif name.endswith(("weight", "scale")):
        values = 1 + values / 4
    else:
        values *= 0.1
    for pattern, factor, addend in adjustments:
        if re.search(pattern, name):
            values = values * factor + addend
    return values.astype(np.float32)


def seeded_weights(
    shapes: Mapping[str, Sequence[int]], seed: int, adjustments: Adjustments = ()
) -> dict[str, np.ndarray]:
    """Return `seeded_tensor` for every name, without integer buffers (`shapes` must not hold them)."""
    return {name: seeded_tensor(name, shape, seed, adjustments) for name, shape in shapes.items()}


def seeded_image(seed: int, height: int, width: int) -> np.ndarray:
    """Return (3, H, W) uint8: gradients, rectangles and noise."""
    state = random_state(seed, "image")
    rows, columns = np.mgrid[:height, :width]
    image = np.zeros((3, height, width))
    for channel in image:
        frequency, phase = state.uniform(0.02, 0.15, 2), state.uniform(0, 6.28)
        channel += 127 + 60 * np.sin(frequency[0] * rows + frequency[1] * columns + phase)
    for _ in range(6):
        top, left = state.randint(0, height), state.randint(0, width)
        bottom, right = top + state.randint(4, height), left + state.randint(4, width)
        image[:, top:bottom, left:right] += state.uniform(-90, 90, (3, 1, 1))
    return np.clip(image + state.uniform(-12, 12, image.shape), 0, 255).astype(np.uint8)


@dataclass
class Scene:
    """A panoptic segmentation.

    Attributes:
        ids: (H, W) int32: 0 for none, else 1 + index of the segment.
        classes: (S,) int.
    """

    ids: np.ndarray
    classes: np.ndarray

    @property
    def masks(self) -> np.ndarray:
        """(S, H, W) bool."""
        return self.ids[None] == np.arange(1, len(self.classes) + 1)[:, None, None]

    def boxes(self, *, inclusive: bool = False) -> np.ndarray:
        """(S, 4) int: x1, y1, x2, y2 of the masks, which must not be empty.

        Args:
            inclusive: x2 and y2 are the last column and row; False: one more.
        """
        boxes = []
        for mask in self.masks:
            rows, columns = np.nonzero(mask)
            last = 0 if inclusive else 1
            boxes.append([columns.min(), rows.min(), columns.max() + last, rows.max() + last])
        return np.array(boxes, int).reshape(-1, 4)


def seeded_scene(seed: int, height: int, width: int, classes: Sequence[int], *, void: bool = False) -> Scene:
    """Return a scene with one segment per class, each at least 3 x 3 pixels in extent and partly visible.

    Args:
        seed: number of the scene.
        height, width: size.
        classes: class of every segment, in order.
        void: leave pixels that belong to no segment; False: the first segment fills the background.
    """
    state = random_state(seed, "scene")
    rows, columns = np.mgrid[:height, :width]
    while True:
        ids = np.zeros((height, width), np.int32)
        for segment in range(1, len(classes) + 1):
            center = state.uniform(0.1, 0.9, 2) * (height, width)
            radius = state.uniform(0.12, 0.4, 2) * (height, width)
            y, x = (rows - center[0]) / radius[0], (columns - center[1]) / radius[1]
            inside = (abs(y) < 1) & (abs(x) < 1) if segment % 2 else y**2 + x**2 < 1
            ids[inside] = segment
        if len(classes) and not void:
            ids[ids == 0] = 1
        scene = Scene(ids, np.array(classes, int))
        if all(mask.sum() > 8 for mask in scene.masks):
            extents = scene.boxes()[:, 2:] - scene.boxes()[:, :2]
            if (extents >= 3).all():
                return scene


def sample(values: np.ndarray, name: str, number: int = NUM_SAMPLES) -> np.ndarray:
    """Return `number` values at seeded places, then the mean and the standard deviation: float32."""
    flat = np.asarray(values, np.float64).reshape(-1)
    picked = flat[random_state(0, name).randint(0, len(flat), number)]
    return np.concatenate([picked, [flat.mean(), flat.std()]]).astype(np.float32)


def difference(values: np.ndarray, name: str, recorded: np.ndarray) -> float:
    """Return the largest difference of `sample` from the recorded one, in recorded standard deviations."""
    return float(abs(sample(values, name, len(recorded) - 2) - recorded).max() / max(recorded[-1], 1e-12))


def spread_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of two arrays, relative to the range of the expected values."""
    expected = expected.reshape(-1)
    return float(abs(found.reshape(-1) - expected).max() / (expected.max() - expected.min()))


def fingerprint(values: np.ndarray) -> tuple[int, int, int]:
    """Return the number of float32 values and two sums of their bits.

    It does not depend on the order of the values, and so survives a transposed or reshaped layout.
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return bits.size, int(bits.sum()), int((bits * bits).sum())


def official_names(
    weights: Mapping[str, np.ndarray], parameters: Iterable[tuple[str, np.ndarray]]
) -> dict[str, str]:
    """Find which of the loaded weights each parameter holds.

    Args:
        weights: the file's, by the authors' names.
        parameters: (name, values) of the model that loaded them.

    Returns:
        The authors' name of each parameter, by its name. A parameter that holds no single weight of the file
        is left out.
    """
    names = {fingerprint(values): name for name, values in weights.items()}
    found = ((name, names.get(fingerprint(values))) for name, values in parameters)
    return {name: official for name, official in found if official is not None}


def gradient_summary(weight: np.ndarray, gradient: np.ndarray) -> tuple[float, float]:
    """Return the norm of a gradient and its product with |weight|; neither depends on the memory layout."""
    gradient = np.asarray(gradient, np.float64).reshape(-1)
    return float(np.sqrt(gradient @ gradient)), float(
        gradient @ abs(np.asarray(weight, np.float64)).reshape(-1)
    )


def pack_text(text: str) -> np.ndarray:
    """Return compressed text as bytes in an array."""
    return np.frombuffer(lzma.compress(text.encode(), preset=9), np.uint8)


def unpack_text(packed: np.ndarray) -> str:
    """Undo `pack_text`."""
    return lzma.decompress(packed.tobytes()).decode()


def pack_shapes(shapes: Mapping[str, Sequence[int]]) -> np.ndarray:
    """Return the names and shapes of a checkpoint as a compressed array."""
    return pack_text("\n".join(f"{name} {','.join(map(str, shape))}" for name, shape in shapes.items()))


def unpack_shapes(packed: np.ndarray) -> dict[str, tuple[int, ...]]:
    """Undo `pack_shapes`."""
    lines = (line.split(" ") for line in unpack_text(packed).split("\n") if line)
    return {name: tuple(int(side) for side in shape.split(",") if side) for name, shape in lines}
