"""Losses on pixels against loops over the pixels, in float64."""

import math

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from segzoo.modeling.per_pixel.losses import CrossEntropy, OHEMCrossEntropy
from segzoo.projects.deeplabv3plus.boundary_loss import BoundaryRelaxedCrossEntropy
from segzoo.utils.errors import InputError

IGNORE = 255
K = 4


def random_pixels(images=2, height=7, width=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, K, height, width, generator=generator)
    # Patches, so that neighborhoods have one, two or three classes; some are void.
    coarse = torch.randint(0, K + 1, (images, 1, -(-height // 3), -(-width // 3)), generator=generator)
    labels = F.interpolate(coarse.float(), scale_factor=3)[:, 0, :height, :width].long()
    return logits, labels.masked_fill(labels == K, IGNORE)


def probabilities(logits):
    """Return the softmax of the scores of one pixel."""
    exponentials = [math.exp(score) for score in logits.tolist()]
    return [exponential / sum(exponentials) for exponential in exponentials]


@pytest.mark.parametrize("weights", [(), (1.0, 0.5, 2.0, 0.0)])
def test_cross_entropy_is_the_weighted_mean_over_counted_pixels(weights):
    logits, labels = random_pixels()
    total = divisor = 0.0
    for image, row, column in labels.ne(IGNORE).nonzero().tolist():
        label = labels[image, row, column].item()
        weight = weights[label] if weights else 1.0
        total -= weight * math.log(probabilities(logits[image, :, row, column])[label])
        divisor += weight
    actual = CrossEntropy(class_weights=weights)(logits, labels)
    assert actual.item() == pytest.approx(total / divisor, rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        CrossEntropy(),
        CrossEntropy(class_weights=(1.0,) * K),
        OHEMCrossEntropy(),
        BoundaryRelaxedCrossEntropy(),
    ],
)
def test_without_counted_pixels_the_loss_and_its_gradients_are_zero(loss):
    logits = random_pixels()[0].requires_grad_()
    value = loss(logits, torch.full((2, 7, 9), IGNORE))
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def hard_pixels(logits, labels, threshold, at_least):
    """Return the mean loss of pixels below the probability threshold, or of the `at_least` hardest."""
    places = labels.ne(IGNORE).nonzero().tolist()
    true = [
        probabilities(logits[image, :, row, column])[labels[image, row, column]]
        for image, row, column in places
    ]
    cut = max(threshold, sorted(true)[min(at_least, len(true)) - 1])
    kept = [-math.log(probability) for probability in true if probability <= cut * (1 + 1e-6)]
    return sum(kept) / len(kept)


@pytest.mark.parametrize(("threshold", "fraction"), [(0.7, 16), (0.1, 16), (0.01, 2), (0.05, 1.2)])
def test_hard_example_mining_keeps_the_improbable_pixels_and_enough_of_them(threshold, fraction):
    logits, labels = random_pixels()
    expected = hard_pixels(logits, labels, threshold, int(labels.numel() / fraction))
    actual = OHEMCrossEntropy(threshold=threshold, keep_fraction=fraction)(logits, labels)
    assert actual.item() == pytest.approx(expected, rel=1e-5)


def test_hard_example_mining_that_keeps_all_pixels_is_cross_entropy():
    logits, labels = random_pixels()
    plain = F.cross_entropy(logits, labels, ignore_index=IGNORE)
    for loss in (OHEMCrossEntropy(keep_fraction=1), OHEMCrossEntropy(threshold=1.0)):
        assert loss(logits, labels).item() == pytest.approx(plain.item(), rel=1e-6)
    weights = (1.0, 0.5, 2.0, 3.0)
    plain = F.cross_entropy(logits, labels, torch.tensor(weights), ignore_index=IGNORE)
    weighted = OHEMCrossEntropy(keep_fraction=1, class_weights=weights)(logits, labels)
    assert weighted.item() == pytest.approx(plain.item(), rel=1e-6)


@pytest.mark.parametrize("zoom_factor", [1, 2, 4])
def test_a_smaller_comparison_takes_the_labels_under_the_corner_aligned_logits(zoom_factor):
    logits = torch.randn(1, K, 5, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, K, (1, 33, 25), generator=torch.Generator().manual_seed(1))
    labels[0, :9, :8] = IGNORE
    height, width = 4 * zoom_factor + 1, 3 * zoom_factor + 1
    # Bilinear resizing of the labels themselves hits them exactly at these sizes.
    small = F.interpolate(labels[None].float(), (height, width), mode="bilinear", align_corners=True)
    resized = F.interpolate(logits, (height, width), mode="bilinear", align_corners=True)
    expected = F.cross_entropy(resized, small[0].long(), ignore_index=IGNORE)
    actual = CrossEntropy(zoom_factor=zoom_factor, align_corners=True)(logits, labels)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-6)


def test_sizes_that_do_not_fit_the_zoom_factor_are_named():
    with pytest.raises(InputError, match=r"^zoom_factor 4 needs inputs of 8 k \+ 1.*found 32 x 25"):
        CrossEntropy(zoom_factor=4)(torch.zeros(1, K, 5, 4), torch.zeros(1, 32, 25, dtype=torch.int64))
    with pytest.raises(InputError, match="expected 1, 2, 4 or 8"):
        CrossEntropy(zoom_factor=3)


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        # Without the check the loss would be 0, silently.
        (OHEMCrossEntropy, {"threshold": -0.3}, "^threshold -0.3: expected a probability"),
        (OHEMCrossEntropy, {"threshold": 70}, "^threshold 70: expected a probability"),
        (OHEMCrossEntropy, {"keep_fraction": 0}, "^keep_fraction 0: expected 1 or more"),
        (BoundaryRelaxedCrossEntropy, {"radius": -1}, "^radius -1: expected 0 or more"),
    ],
)
def test_invalid_options_are_named(loss, options, message):
    with pytest.raises(InputError, match=message):
        loss(**options)


def relaxed_by_loops(logits, labels, strict=(), bound=1.0, radius=1, relaxed=True):
    """Compute the published loss, pixel by pixel and image by image."""
    result = 0.0
    _, height, width = labels.shape

    def label_at(image, row, column):
        inside = 0 <= row < height and 0 <= column < width
        label = labels[image, row, column].item() if inside else IGNORE
        return K if label == IGNORE else label

    for image in range(len(labels)):
        sets, boundary, counts = {}, {}, [0.0] * (K + 1)
        for row in range(height):
            for column in range(width):
                own = label_at(image, row, column)
                reach = 0 if own in strict or not relaxed else radius
                around = range(-reach, reach + 1)
                sets[row, column] = {label_at(image, row + y, column + x) for y in around for x in around}
                neighbors = [(row + y, column + x) for y, x in ((0, 1), (1, 0), (0, -1), (-1, 0))]
                boundary[row, column] = any(
                    label_at(image, y, x) != own for y, x in neighbors if 0 <= y < height and 0 <= x < width
                )
                for label in sets[row, column]:
                    counts[label] += 2 if boundary[row, column] and not relaxed else 1
        weights = [1 + bound * (1 - count / sum(counts)) for count in counts]
        total = valid = 0.0
        for (row, column), present in sets.items():
            classes = present - {K}
            if not classes:
                continue
            valid += 1
            share = probabilities(logits[image, :, row, column])
            together = sum(share[label] for label in classes)
            terms = [weights[label] * -math.log(max(share[label], together)) for label in classes]
            factor = 2 if boundary[row, column] and not relaxed else 1
            total += factor * sum(terms) / len(classes)
        result += total / (valid + 1)
    return result


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strict": (1, 3)},
        {"bound": 0.0},
        {"bound": 6.0, "strict": (0,)},
        {"radius": 2},
        {"relaxed": False, "strict": (2,)},
    ],
)
def test_relaxed_cross_entropy_is_the_sum_of_the_published_losses_of_the_images(options):
    logits, labels = random_pixels()
    loss = BoundaryRelaxedCrossEntropy(
        radius=options.get("radius", 1),
        strict_classes=options.get("strict", ()),
        class_weight_bound=options.get("bound", 1.0),
        end_iteration=-1 if options.get("relaxed", True) else 0,
    )
    actual = loss.compare(logits.double(), labels).item()
    assert actual == pytest.approx(relaxed_by_loops(logits.double(), labels, **options), rel=1e-9)
    # Another image in the batch adds its own loss and changes nothing else.
    alone = sum(loss.compare(logits[[image]].double(), labels[[image]]).item() for image in (0, 1))
    assert actual == pytest.approx(alone, rel=1e-9)


def test_relaxation_ends_at_its_iteration():
    logits, labels = random_pixels()
    loss = BoundaryRelaxedCrossEntropy(end_iteration=10)
    relaxed = relaxed_by_loops(logits, labels)
    sharp = relaxed_by_loops(logits, labels, relaxed=False)
    assert loss(logits, labels).item() == pytest.approx(relaxed, rel=1e-5)
    for iteration, expected in ((9, relaxed), (10, sharp)):
        with EventStorage(iteration):
            assert loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_relaxed_cross_entropy_has_finite_gradients_where_every_class_is_accepted():
    logits = torch.randn(1, 2, 4, 4).mul(50).requires_grad_()
    labels = torch.tensor([[[0, 1, 0, 1]] * 4])
    value = BoundaryRelaxedCrossEntropy()(logits, labels)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("average_over", ["valid", "all"])
@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (CrossEntropy, {}),
        (OHEMCrossEntropy, {"threshold": 0.2, "keep_fraction": 3}),
        (BoundaryRelaxedCrossEntropy, {"strict_classes": (1,)}),
    ],
)
def test_the_host_waits_for_no_value_of_a_loss(loss, options, average_over):
    """On the meta device reading a value, or a shape that depends on values, is an error."""
    weights = (1.0, 0.5, 2.0, 0.0)
    made = loss(class_weights=weights, average_over=average_over, **options).to("meta")
    logits, labels = random_pixels()
    logits = logits.to("meta").requires_grad_()
    made(logits, labels.to("meta")).backward()
    assert logits.grad.shape == logits.shape


@pytest.mark.parametrize("average_over", ["valid", "all"])
def test_fewer_labeled_pixels_than_are_to_be_kept_are_all_kept(average_over):
    logits, labels = random_pixels()
    labels[:, 2:] = IGNORE
    weights = (1.0, 0.5, 2.0, 3.0)
    loss = OHEMCrossEntropy(
        threshold=0.0, keep_fraction=1.5, class_weights=weights, average_over=average_over
    )
    assert 0 < labels.ne(IGNORE).sum() < labels.numel() / 1.5
    logits.requires_grad_()
    actual = loss(logits, labels)
    total = F.cross_entropy(logits, labels, torch.tensor(weights), ignore_index=IGNORE, reduction="sum")
    counted = [weights[label] if label != IGNORE else 1.0 for label in labels.flatten().tolist()]
    valid = sum(weights[label] for label in labels.flatten().tolist() if label != IGNORE)
    expected = total / (sum(counted) if average_over == "all" else valid)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = torch.autograd.grad(actual, logits)[0], torch.autograd.grad(expected, logits)[0]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("keep_fraction", [1.5, 1e9])
def test_hard_example_mining_reports_a_pixel_that_is_not_a_number(keep_fraction):
    """Its loss would be left out, and its gradient of NaN make all weights NaN."""
    logits, labels = random_pixels()
    labels[0, 0, 0] = 1
    logits[0, :, 0, 0] = math.nan
    assert OHEMCrossEntropy(threshold=0.2, keep_fraction=keep_fraction)(logits, labels).isnan()
