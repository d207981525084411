"""Labels of many classes, most of which are not scored, are those of all classes' scores in float64."""

import pytest
import torch
import torch.nn.functional as F

from segzoo.modeling.mask_classification import postprocess
from segzoo.modeling.mask_classification.postprocess.candidate_classes import CandidateClasses

SIZES = [
    ((64, 96), (64, 96), (64, 96)),
    ((64, 96), (57, 83), (57, 83)),
    ((64, 96), (57, 83), (101, 147)),
    ((64, 96), (57, 83), (31, 20)),
    ((64, 96), (57, 83), (57, 120)),
    ((64, 96), (57, 83), (90, 83)),
    ((64, 96), (1, 83), (1, 83)),
    ((64, 96), (64, 96), (1, 1)),
]


def prediction(num_classes, confidence, num_queries=20, seed=0):
    """Return class logits (Q, K + 1) in which each query prefers a few classes by `confidence`, and masks."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_queries, num_classes + 1, generator=generator)
    for row in logits:
        preferred = torch.randint(0, num_classes + 1, (4,), generator=generator)
        row[preferred] += confidence * torch.rand(4, generator=generator)
    masks = torch.randn(1, num_queries, 5, 7, generator=generator) * 6
    return logits, F.interpolate(masks, size=(16, 24), mode="bicubic")[0]


def resized(planes, size):
    return F.interpolate(planes[None], size=size, mode="bilinear", align_corners=False)[0]


def exact_scores(logits, masks, padded, image, output, resize_scores):
    """Return (K, H, W) float64 scores, all classes at full size."""
    weights = logits.double().softmax(-1)[:, :-1]
    planes = resized(masks.double(), padded)[:, : image[0], : image[1]]
    if not resize_scores:
        planes = resized(planes, output)
    scores = torch.einsum("qk,qhw->khw", weights, planes.sigmoid())
    return resized(scores, output) if resize_scores else scores


@pytest.mark.parametrize("resize_scores", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("num_classes", "confidence"), [(100, 9.0), (300, 9.0), (300, 3.0), (300, 0.0)])
def test_labels_are_those_of_all_classes(sizes, num_classes, confidence, resize_scores):
    logits, masks = prediction(num_classes, confidence)
    best = exact_scores(logits, masks, *sizes, resize_scores).topk(2, dim=0)
    decided = best.values[0] - best.values[1] > 1e-5 * best.values[0]
    labels = postprocess.semantic_labels(logits, masks, *sizes, resize_scores)
    assert labels.dtype == (torch.uint8 if num_classes <= 255 else torch.int16)
    assert decided.float().mean() > 0.95
    assert torch.equal(labels.long()[decided], best.indices[0][decided])


def test_few_of_many_confident_classes_are_scored(monkeypatch):
    scored = []
    best = CandidateClasses._best

    def counted(self, classes, probabilities, resize):
        scored.append(len(classes) * probabilities[0].numel())
        return best(self, classes, probabilities, resize)

    monkeypatch.setattr(CandidateClasses, "_best", counted)
    for num_classes in (150, 1500):
        logits, masks = prediction(num_classes, 0.0)
        logits[range(20), torch.arange(20) * 7] += 15
        postprocess.semantic_labels(logits, masks, *SIZES[0])
        assert sum(scored) < 60 * 64 * 96
        scored.clear()


@pytest.mark.parametrize("resize_scores", [False, True])
def test_equal_scores_take_the_first_class(resize_scores):
    logits, masks = prediction(200, 9.0)
    logits[:, 120] = logits.max(-1).values + 5
    logits[:, [30, 90, 199]] = logits[:, [120]]
    labels = postprocess.semantic_labels(logits, masks, *SIZES[2], resize_scores)
    assert (labels == 30).all()


def test_a_mask_of_nan_gives_the_first_class():
    logits, masks = prediction(200, 9.0)
    masks[3] = torch.nan
    assert not postprocess.semantic_labels(logits, masks, *SIZES[2]).any()
