"""Labels of mask classification with few and many classes, against scores of all classes in bands of rows.

Shape shorthand: Q queries, K classes, h w pixels of a mask, H W pixels of the labels.
"""

from functools import partial

import torch
from torch import Tensor

from segzoo.modeling.mask_classification import postprocess

from . import Case, Pair
from .postprocess import NUM_QUERIES
from .postprocess import prediction as regions_of_queries
from .straightforward_postprocess import full_size_masks

# ADE20K: about 20 regions of 10 classes an image.
REGIONS, CLASSES = 20, 10
BAND_ROWS = 8


def trained(num_classes: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return logits (Q, K + 1) and masks (Q, h, w) as of a trained model.

    A query of each region prefers its class and, less, five others; the other queries have most of their
    probability on "no object", the rest on four classes, and weaker masks of the same regions.
    """
    generator = torch.Generator().manual_seed(0)
    _, masks = regions_of_queries(REGIONS, num_classes, height, width)
    logits = 1.5 * torch.randn(NUM_QUERIES, num_classes + 1, generator=generator)
    present = torch.randperm(num_classes, generator=generator)[:CLASSES]
    owners = (masks.amax((1, 2)) > 0).nonzero()[:, 0].tolist()
    for index, query in enumerate(owners):
        others = torch.randperm(num_classes, generator=generator)[:5]
        logits[query, others] += torch.tensor([7.0, 6, 5, 5, 4])
        logits[query, present[index % CLASSES]] += 9
    for index, query in enumerate(sorted(set(range(NUM_QUERIES)) - set(owners))):
        logits[query, -1] += 11
        preferred = torch.randperm(num_classes, generator=generator)[:4]
        logits[query, preferred] += torch.tensor([8.0, 7, 6, 5])
        masks[query] = 0.8 * masks[owners[index % len(owners)]] - 1
    return logits, masks


def without_preference(num_classes: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return such tensors of random class scores and smooth random masks, as of an untrained model."""
    generator = torch.Generator().manual_seed(0)
    masks = 4 * torch.randn(1, NUM_QUERIES, height // 8, width // 8, generator=generator)
    logits = torch.randn(NUM_QUERIES, num_classes + 1, generator=generator)
    return logits, torch.nn.functional.interpolate(masks, (height, width), mode="bilinear")[0]


def all_classes(logits: Tensor, masks: Tensor, padded, image, output) -> Tensor:
    """Return (H, W) labels from the scores of all classes, a few rows at a time."""
    weights = logits.softmax(-1)[:, :-1].t().contiguous()
    bands = full_size_masks(masks, padded, image, output).sigmoid().split(BAND_ROWS, dim=1)
    return torch.cat([(weights @ band.flatten(1)).max(0).indices.view(band.shape[1:]) for band in bands])


def labels(make, num_classes: int, padded: tuple[int, int], image: tuple[int, int]) -> Pair:
    logits, masks = make(num_classes, padded[0] // 4, padded[1] // 4)
    arguments = (logits, masks, padded, image, image)

    def compare(ours: Tensor, theirs: Tensor) -> str:
        differing = int((ours != theirs).sum())
        return f"{'DIFFERENT, ' if differing else ''}{differing} px differ"

    return Pair(lambda: postprocess.semantic_labels(*arguments), lambda: all_classes(*arguments), compare)


PEER = "all classes multiplied, 8 rows at a time"


def _cases() -> list[Case]:
    kinds = (
        ("trained", trained, "class scores as of a trained model"),
        ("flat", without_preference, "random class scores"),
    )
    cases = []
    for name, make, text in kinds:
        for num_classes in (19, 150, 847):
            cases.append(
                Case(
                    f"{name}-512x683x{num_classes}",
                    f"label map of 512 x 683, {num_classes} classes, {NUM_QUERIES} queries, {text}",
                    partial(labels, make, num_classes, (512, 704), (512, 683)),
                    repeat=5,
                    peer=PEER,
                    recorded=make is trained,
                )
            )
    cases.append(
        Case(
            "trained-1024x1366x847",
            "label map of 1024 x 1366, 847 classes, 100 queries, class scores as of a trained model",
            partial(labels, trained, 847, (1024, 1376), (1024, 1366)),
            repeat=3,
            peer=PEER,
            recorded=False,
        )
    )
    return cases


CASES = _cases()
