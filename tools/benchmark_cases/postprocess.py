"""From network outputs to results, against all masks formed at full size (`straightforward_postprocess`).

Shape shorthand: Q queries, K classes, h w pixels of a mask.
"""

import numpy as np
import torch

from segzoo.modeling.mask_classification import postprocess

from . import Case, Pair, scenes, straightforward_postprocess

NUM_QUERIES = 100
IS_THING = [True] * scenes.THINGS + [False] * scenes.STUFF


def prediction(kept: int, num_classes: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (Q, K+1) with `kept` confident ones, and masks (Q, h, w) like regions with soft edges."""
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(NUM_QUERIES, num_classes + 1, generator=generator)
    logits[:, -1] += 20
    chosen = torch.randperm(NUM_QUERIES, generator=generator)[:kept]
    classes = torch.randint(0, num_classes, (kept,), generator=generator)
    logits[chosen, classes] += 40
    region = torch.from_numpy(scenes.regions(rng, height, width, kept))
    masks = torch.full((NUM_QUERIES, height, width), -8.0)
    masks[chosen] = (region == torch.arange(kept)[:, None, None]) * 14.0 - 7
    masks = torch.nn.functional.avg_pool2d(masks[None], 5, 1, 2, count_include_pad=False)[0]
    return logits, masks + torch.randn(masks.shape, generator=generator) * 0.5


def panoptic(kept: int) -> Pair:
    logits, masks = prediction(kept, len(IS_THING), 200, 334)
    arguments = (logits, masks, (800, 1333), (800, 1333), (800, 1333), IS_THING, 0.8, 0.8)

    def compare(ours: tuple, theirs: tuple) -> bool:
        segments = [(segment["id"], segment["category_id"]) for segment in ours[1]]
        return torch.equal(ours[0], theirs[0]) and segments == theirs[1] and len(segments) > 1

    return Pair(
        lambda: postprocess.panoptic(*arguments),
        lambda: straightforward_postprocess.panoptic(*arguments),
        compare,
    )


def semantic(num_classes: int, padded: tuple[int, int], image: tuple[int, int], resize_scores: bool) -> Pair:
    logits, masks = prediction(NUM_QUERIES, num_classes, padded[0] // 4, padded[1] // 4)
    logits /= 8  # uncertain, so that neighboring classes are close to each other
    arguments = (logits, masks, padded, image, image, resize_scores)
    return Pair(
        lambda: postprocess.semantic_labels(*arguments),
        lambda: straightforward_postprocess.semantic_scores(*arguments).argmax(0),
        lambda ours, theirs: int((ours != theirs).sum()) == 0 or f"{int((ours != theirs).sum())} px differ",
    )


def instances(kept: int) -> Pair:
    """Compare COCO's 80 classes; `kept` of the 100 queries are confident of a class."""
    logits, masks = prediction(kept, scenes.THINGS, 200, 334)
    arguments = (logits, masks, (800, 1333), (800, 1333), (800, 1333), 100)

    def compare(ours, theirs: tuple) -> bool:
        order = theirs[1].argsort(descending=True, stable=True)
        return torch.equal(ours.pred_masks, theirs[0][order]) and torch.allclose(
            ours.scores, theirs[1][order]
        )

    return Pair(
        lambda: postprocess.instances(*arguments),
        lambda: straightforward_postprocess.instances(*arguments),
        compare,
    )


CASES = [
    Case(
        "panoptic-15-kept",
        "panoptic map at 800x1333, 100 queries of which 15 are kept; peer: all masks at full size",
        lambda: panoptic(15),
        goal=8.0,
        memory_goal=0.1,
        repeat=5,
    ),
    Case(
        "panoptic-100-kept",
        "panoptic map at 800x1333, all 100 queries kept; peer: all masks at full size",
        lambda: panoptic(100),
        goal=8.0,
        memory_goal=0.1,
        repeat=3,
        recorded=False,
    ),
    Case(
        "instances-15-sure",
        "the top 100 instances at 800x1333, 15 of 100 queries confident; peer: all masks at full size",
        lambda: instances(15),
        goal=8.0,
        memory_goal=0.1,
        repeat=3,
        recorded=False,
    ),
    Case(
        "instances-100-sure",
        "the top 100 instances at 800x1333, 100 confident queries; peer: all masks at full size",
        lambda: instances(100),
        goal=8.0,
        memory_goal=0.1,
        repeat=3,
    ),
    Case(
        "semantic-labels-150",
        "label map of 512x683, 150 classes, 100 queries; peer: all masks at full size",
        lambda: semantic(150, (512, 704), (512, 683), False),
        repeat=5,
        recorded=False,
    ),
    Case(
        "semantic-labels-19",
        "label map of 1024x2048, 19 classes, 100 queries; peer: all masks at full size",
        lambda: semantic(19, (1024, 2048), (1024, 2048), False),
        repeat=3,
    ),
]
