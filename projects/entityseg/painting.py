"""From ranked masks that may overlap to entities that do not (section 3.4 of the paper).

Shape shorthand: K masks, h w size of the masks, H W size of the output.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segzoo.modeling import Sizes

from .aligned import aligned_upsample


def paint_entities(
    masks: Tensor,
    scores: Tensor,
    sizes: Sizes,
    *,
    rescore: bool = False,
    score_threshold: float = 0.0,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Give each pixel to the first mask that covers it.

    Probabilities, not logits, are resized: upsampled to the padded image, cropped to the image, and resized
    to the output. A mask is where they are above 0.5. Entities whose visible pixels are in one row or in one
    column are dropped, and their pixels belong to no entity. Only one mask at a time is at full size.

    Args:
        masks: (K, h, w) float probabilities, best first; h and w divide the sides of the padded image.
        scores: (K,) float.
        sizes: of the image.
        rescore: multiply scores by the mean probability over the visible pixels.
        score_threshold: entities with a lower score are dropped after everything else.

    Returns:
        ids: (H, W) int32, 0 for none.
        info: for each entity, in the order of the masks, a dict of `id` (from 1 in this order), `score`,
            `category_id` 0, `ori_score` (before `rescore`) and `box`, the first and last visible column and
            row: [x0, y0, x1, y1].
    """
    ids = torch.zeros(sizes.output, dtype=torch.int32, device=masks.device)
    free = torch.ones(sizes.output, dtype=torch.bool, device=masks.device)
    info: list[dict[str, Any]] = []
    for mask, score in zip(masks, scores.tolist(), strict=True):
        probability = resized(mask, sizes)
        visible = (probability > 0.5) & free
        box = extremes(visible)
        if box is None:
            continue
        free &= ~visible
        if box[0] == box[2] or box[1] == box[3]:
            continue
        final = score * probability[visible].mean().item() if rescore else score
        if final < score_threshold:
            continue
        entity = {"id": len(info) + 1, "score": final, "category_id": 0, "ori_score": score, "box": box}
        info.append(entity)
        ids[visible] = entity["id"]
    return ids, info


def resized(mask: Tensor, sizes: Sizes) -> Tensor:
    """Resize a mask of probabilities, (h, w), to the output, (H, W)."""
    factor = sizes.padded[0] // mask.shape[0]
    plane = aligned_upsample(mask[None, None], factor)[..., : sizes.image[0], : sizes.image[1]]
    return F.interpolate(plane, size=sizes.output, mode="bilinear", align_corners=False)[0, 0]


def extremes(mask: Tensor) -> Sequence[int] | None:
    """Return [first column, first row, last column, last row] of an (H, W) bool mask; None if it is empty."""
    (columns,), (rows,) = (mask.any(axis).nonzero(as_tuple=True) for axis in (0, 1))
    if not len(rows):
        return None
    return [int(end) for end in (columns[0], rows[0], columns[-1], rows[-1])]
