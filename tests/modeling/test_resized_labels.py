"""Labels of resized scores, and of sliding windows in bounded memory, against torch's own resizing."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from segzoo.modeling import DenseScores
from segzoo.modeling.protocols import ProtocolSegmentor
from segzoo.modeling.resized_labels import resized_labels

from .test_protocols import CLASSES, Patches, protocol, random_pixels, run


def smooth_scores(num_classes, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, num_classes, height // 4 + 1, width // 4 + 1, generator=generator)
    noise = torch.randn(num_classes, height, width, generator=generator) / 10
    return F.interpolate(coarse, (height, width), mode="bicubic")[0] + noise


def expected_labels(scores, size, image_size, output_size, align_corners):
    """Resize by double precision, one after the other."""
    for target, kept in ((size, image_size), (output_size, output_size)):
        scores = F.interpolate(scores[None].double(), target, mode="bilinear", align_corners=align_corners)[0]
        scores = scores[:, : kept[0], : kept[1]]
    return scores, scores.argmax(0)


@pytest.mark.parametrize(
    ("num_classes", "source", "size", "image_size", "output_size", "align_corners"),
    [
        (150, (16, 24), (64, 96), (64, 96), (64, 96), False),
        (19, (33, 33), (257, 257), (257, 257), (257, 257), True),
        (21, (30, 41), (120, 164), (117, 160), (333, 447), False),
        (21, (30, 41), (120, 164), (117, 160), (100, 121), False),
        (1, (30, 41), (120, 164), (117, 160), (60, 70), False),
        (400, (5, 100), (20, 400), (20, 400), (20, 400), False),  # several blocks of columns
        (7, (40, 50), (40, 50), (40, 50), (40, 50), False),
        (7, (60, 70), (40, 50), (40, 50), (40, 50), False),  # shrunk
        (7, (1, 1), (8, 8), (5, 6), (9, 3), False),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_labels_are_those_of_scores_resized_in_two_steps(
    num_classes, source, size, image_size, output_size, align_corners, threads
):
    pytest.importorskip("numba")
    scores = smooth_scores(num_classes, *source)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        labels = resized_labels(scores, size, image_size, output_size, align_corners)
    finally:
        torch.set_num_threads(before)
    resized, expected = expected_labels(scores, size, image_size, output_size, align_corners)
    assert labels.dtype == torch.int16
    assert tuple(labels.shape) == output_size
    chosen = resized.gather(0, labels[None].long())[0]
    # At a tie, up to rounding, either class is right.
    assert (resized.amax(0) - chosen).max() < 1e-5
    assert (labels != expected).float().mean() < 1e-4
    if num_classes > 1 and source != (1, 1):
        assert len(labels.unique()) > 1


def test_the_first_of_equal_scores_wins_and_nan_over_all():
    pytest.importorskip("numba")
    scores = torch.zeros(4, 6, 6)
    sizes = (24, 24), (24, 24), (24, 24)
    assert resized_labels(scores, *sizes, False).eq(0).all()
    scores[2:] = 1.0
    assert resized_labels(scores, *sizes, False).eq(2).all()
    scores[3] = float("nan")
    assert resized_labels(scores, *sizes, False).eq(3).all()


def test_what_the_loop_cannot_do_is_left_to_the_caller():
    scores = smooth_scores(5, 80, 90)
    sizes = (320, 360), (320, 360), (20, 20)
    assert resized_labels(scores, (20, 20), (20, 20), (3, 3), False) is None  # depends on many rows
    assert resized_labels(scores.double(), *sizes, False) is None


class Coarse(Patches):
    """The scores of `Patches` at half the size."""

    coarse_scores = True

    def dense_scores(self, images):
        half = F.avg_pool2d(self.full_scores(images), 2, ceil_mode=True)
        return DenseScores(half, tuple(2 * side for side in half.shape[-2:]), False)


@pytest.mark.parametrize("model", [Patches, Coarse])
@pytest.mark.parametrize("name", ["mmseg_slide", "mmseg_whole", "gluon_testval", "semseg_ss", "gluon_ms"])
@pytest.mark.parametrize(("height", "width"), [(50, 83), (200, 60), (41, 41), (30, 150)])
@pytest.mark.parametrize("batch", [0, 4])
def test_labels_of_one_copy_are_the_best_of_its_scores(model, name, height, width, batch):
    """Scores are computed with the whole map in memory, and labels row by row."""
    preset = protocol(name, scales=(1.0,))
    pixels = random_pixels(height, width)
    scores = run(model(), preset, pixels, window_batch=batch)
    labels = run(model(), preset, pixels, "labels", window_batch=batch)
    chosen = scores.gather(0, labels[None].long())[0]
    assert (scores.amax(0) - chosen).max() < 1e-5
    assert (labels != scores.argmax(0)).float().mean() < 2e-3


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest storage that is made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else (result,):
            if isinstance(one, torch.Tensor):
                size = one.untyped_storage().nbytes() // one.element_size()
                self.elements = max(self.elements, size)
        return result


@pytest.mark.parametrize("output", [(2000, 100), (1000, 130), (2600, 90)])
def test_sliding_windows_hold_only_the_rows_that_windows_share(output):
    """The whole map of an image of 2000 rows would have 49 times a window's rows."""
    model, preset = Patches(), protocol("mmseg_slide", resize="none")
    pixels = random_pixels(2000, 100)
    inputs = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    segmentor = ProtocolSegmentor(model, preset)
    with LargestTensor() as largest:
        record = {"image": inputs, "height": output[0], "width": output[1]}
        labels = segmentor([record], semantic="labels")[0]["sem_seg_labels"]
    assert tuple(labels.shape) == output
    image, windows = 3 * 2000 * 100, CLASSES * 2 * 41 * max(100, output[1])
    assert largest.elements <= max(image, windows)
    assert windows < CLASSES * 2000 * 100 / 10
