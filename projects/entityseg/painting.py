"""From ranked masks that may overlap to entities that do not (section 3.4 of the paper).

Shape shorthand: K masks, h w size of the masks, H W size of the output.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segzoo.modeling import Sizes
from segzoo.modeling.detection import aligned_weights, paint_ranked

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
    column are dropped, and their pixels belong to no entity.

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
    factor = sizes.padded[0] // masks.shape[1]
    rows, columns = (
        aligned_weights(side, factor, sizes.image[axis], sizes.output[axis])
        for axis, side in enumerate(masks.shape[1:])
    )
    painting = paint_ranked(masks, rows, columns, lambda mask: resized(mask, sizes))
    info: list[dict[str, Any]] = []
    numbers = [0]  # the id of each label
    for score, mean, box in zip(scores.tolist(), painting.means, painting.boxes, strict=True):
        final = score * mean if rescore else score
        numbers.append(0)
        if box is None or box[0] == box[2] or box[1] == box[3] or final < score_threshold:
            continue
        numbers[-1] = len(info) + 1
        info.append({"id": numbers[-1], "score": final, "category_id": 0, "ori_score": score, "box": box})
    if numbers == list(range(len(numbers))):
        return painting.labels, info
    return torch.tensor(numbers, dtype=torch.int32, device=masks.device)[painting.labels], info


def resized(mask: Tensor, sizes: Sizes) -> Tensor:
    """Resize a mask of probabilities, (h, w), to the output, (H, W)."""
    factor = sizes.padded[0] // mask.shape[0]
    plane = aligned_upsample(mask[None, None], factor)[..., : sizes.image[0], : sizes.image[1]]
    return F.interpolate(plane, size=sizes.output, mode="bilinear", align_corners=False)[0, 0]
