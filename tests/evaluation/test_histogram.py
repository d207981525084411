"""The joint histograms against bincount, torch and loops written out here; compiled and numpy paths alike."""

import re
from collections import Counter

import numpy as np
import pytest
import torch

from segzoo.evaluation import histogram


@pytest.fixture(params=["compiled", "numpy"], autouse=True)
def path(request, monkeypatch):
    """Runs every test on both paths; without numba the compiled one is the same as numpy's."""
    if request.param == "numpy":
        monkeypatch.setattr(histogram, "compiled_kernels", lambda: None)
    else:
        pytest.importorskip("numba")
        assert histogram.compiled_kernels() is not None
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("num_classes", [1, 5, 300])
def test_argmax_is_that_of_torch_with_ties_nan_and_infinities(num_classes, dtype):
    generator = torch.Generator().manual_seed(num_classes)
    scores = torch.randint(-3, 4, (num_classes, 67, 71), generator=generator).to(dtype)  # mostly ties
    draw = torch.rand(scores.shape, generator=generator)
    scores[draw < 0.05] = float("nan")
    scores[draw > 0.97] = float("inf")
    scores[(draw > 0.5) & (draw < 0.55)] = -float("inf")
    labels = histogram.argmax_labels(scores)
    assert labels.dtype == (np.uint8 if num_classes <= 256 else np.uint16)
    np.testing.assert_array_equal(labels, scores.argmax(dim=0).numpy())


def test_argmax_of_a_view_that_is_not_contiguous():
    scores = torch.randn(40, 30, 6, generator=torch.Generator().manual_seed(0)).permute(2, 0, 1)[:, 3:, :-2]
    np.testing.assert_array_equal(histogram.argmax_labels(scores), scores.argmax(dim=0).numpy())


@pytest.mark.parametrize(("num_classes", "ignore"), [(6, 255), (255, 255), (256, 65535), (847, 65535)])
@pytest.mark.parametrize("run", [1, 23])
def test_label_histogram_counts_every_pair_once(num_classes, ignore, run):
    rng = np.random.default_rng(num_classes)
    prediction = rng.integers(0, num_classes, (23, 37)).astype(histogram.label_dtype(num_classes))
    truth = rng.integers(0, num_classes, (23, 37)).astype(np.uint8 if ignore == 255 else np.uint16)
    truth[rng.random(truth.shape) < 0.2] = ignore
    if run > 1:  # runs of equal pixels, with single ones between them
        prediction, truth = np.repeat(prediction, run, axis=1), np.repeat(truth, run - 1, axis=1)
        truth = np.hstack([truth, truth[:, :37]])
        prediction[:, 1::100] = 0
    table = histogram.label_histogram(prediction, truth, num_classes, ignore)
    expected = Counter(
        (p, num_classes if t == ignore else t)
        for p, t in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True)
    )
    assert table.sum() == truth.size
    assert {pair: table[pair] for pair in expected} == dict(expected)


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        ([[0, 7, 9]], [[0, 0, 0]], r"predicted label 7 is outside \[0, 5\)"),
        (
            [[0, 1, 1]],
            [[0, 5, 4]],
            r"ground-truth label 5 is outside \[0, 5\) and is not the ignore label 255",
        ),
    ],
)
def test_a_label_out_of_range_is_named(prediction, truth, message):
    with pytest.raises(ValueError, match=message):
        histogram.label_histogram(np.array(prediction, np.uint8), np.array(truth, np.uint8), 5, 255)


@pytest.mark.parametrize("size", [(4, 6), (6, 4), (4, 5), (0, 6), (24,)])
def test_maps_of_different_sizes_are_refused(size):
    labels, others = np.zeros((4, 7), np.uint8), np.zeros(size, np.uint8)
    for first, second in ((labels, others), (others, labels)):
        found, expected = re.escape(str(first.shape)), re.escape(str(second.shape))
        with pytest.raises(
            ValueError, match=f"prediction has shape {found}, but the ground truth {expected}"
        ):
            histogram.label_histogram(first, second, 5, 255)
        with pytest.raises(ValueError, match=f"first map has shape {found}, but the second map {expected}"):
            histogram.pair_histogram(first, second, np.array([0]), np.array([0]))


@pytest.mark.parametrize("run", [1, 23])
def test_pair_histogram_counts_pairs_of_sparse_ids_and_those_not_listed(run):
    rng = np.random.default_rng(3)
    true_ids, predicted_ids = np.unique(rng.integers(0, 1 << 24, 300)), np.array([0, 4, 9, 1 << 23])
    first = true_ids[rng.integers(0, len(true_ids), (31, 45))].astype(np.int64)
    second = rng.choice([*predicted_ids, 5, 1 << 20], (31, 45)).astype(np.int32)
    first, second = np.repeat(first, run, axis=1), np.repeat(second, run, axis=0).reshape(31, -1)
    listed = true_ids[10:]
    table = histogram.pair_histogram(first, second, listed, predicted_ids)
    position = {value: index for index, value in enumerate(listed.tolist())}
    column = {value: index for index, value in enumerate(predicted_ids.tolist())}
    expected = np.zeros((len(listed) + 1, len(predicted_ids) + 1), int)
    for one, two in zip(first.ravel().tolist(), second.ravel().tolist(), strict=True):
        expected[position.get(one, -1), column.get(two, -1)] += 1
    np.testing.assert_array_equal(table, expected)


def test_pair_histogram_with_nothing_listed_or_no_pixels():
    ids = np.array([[1, 2], [2, 2]])
    nothing = np.array([], np.int64)
    assert histogram.pair_histogram(ids, ids, nothing, nothing).tolist() == [[4]]
    assert histogram.pair_histogram(ids[:0], ids[:0], np.array([1]), nothing).tolist() == [[0], [0]]


def test_ids_of_a_panoptic_png_use_all_three_channels():
    rgb = np.array([[[1, 2, 3], [255, 255, 255]]], np.uint8)
    assert histogram.ids_from_rgb(rgb).tolist() == [[1 + 2 * 256 + 3 * 65536, 2**24 - 1]]
