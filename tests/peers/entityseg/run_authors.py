"""Run the authors' EntitySeg on seeded weights, images and scenes."""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from tests.peers.seeded import Scene


@torch.no_grad()
def infer(
    model: nn.Module, image: np.ndarray, output: tuple[int, int], *, rescore: bool = False
) -> dict[str, np.ndarray]:
    """Run an image.

    Args:
        model: in eval mode.
        image: (3, H, W) uint8 BGR.
        output: (height, width) of the results.
        rescore: multiply scores by the mean probability of the visible pixels.

    Returns:
        cls (L, 1), reg (L, 4), ctr (L, 1), kernel (L, 169): outputs of all L locations, finest level first;
        mask_features (8, h, w); entity_map (height, width): 0 for none, else 1 + index of the entity;
        scores, ori_scores (E,), boxes (E, 4).
    """
    raw: dict[str, Tensor] = {}
    hooks = [
        model.det_head.fcos_head.register_forward_hook(lambda module, args, out: raw.update(_levels(out))),
        model.mask_branch.register_forward_hook(lambda module, args, out: raw.update(mask_features=out[0])),
    ]
    model.use_mask_rescore_infer = rescore
    inputs = {"image": torch.from_numpy(image), "height": output[0], "width": output[1]}
    entities = model([inputs])[0]["instances"]
    for hook in hooks:
        hook.remove()
    entity_map = torch.zeros(output, dtype=torch.long)
    for index, mask in enumerate(entities.pred_masks):
        assert not (entity_map[mask > 0] > 0).any()
        entity_map[mask > 0] = index + 1
    found = {
        **raw,
        "entity_map": entity_map,
        "scores": entities.scores,
        "ori_scores": entities.ori_scores,
        "boxes": entities.pred_boxes.tensor,
    }
    return {name: value.numpy() for name, value in found.items()}


def _levels(outputs: tuple) -> dict[str, Tensor]:
    cls, reg, ctr, _, kernel = outputs
    kinds = {"cls": cls, "reg": reg, "ctr": ctr, "kernel": kernel}
    return {
        name: torch.cat([level[0].flatten(1).T for level in levels]).contiguous()
        for name, levels in kinds.items()
    }


def training_inputs(images: Sequence[np.ndarray], scenes: Sequence[Scene]) -> list[dict]:
    """Return the authors' mapper's output for images and scenes, boxes with inclusive maxima."""
    inputs = []
    for image, scene in zip(images, scenes, strict=True):
        instances = Instances(image.shape[1:])
        instances.gt_boxes = Boxes(torch.from_numpy(scene.boxes(inclusive=True)).float())
        instances.gt_classes = torch.zeros(len(scene.classes), dtype=torch.long)
        instances.instanceid = torch.arange(1, len(scene.classes) + 1)
        inputs.append(
            {
                "image": torch.from_numpy(image),
                "instances": instances,
                "instance_map": torch.from_numpy(scene.ids.astype(np.uint8)),
            }
        )
    return inputs


def losses(
    model: nn.Module, images: Sequence[np.ndarray], scenes: Sequence[Scene]
) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """Compute the training losses of a batch.

    Returns:
        The losses by name, with their graph, and the positives before the cap: `image`, `level`, `segment`
        (over the batch) and `location` (x, y) of each.
    """
    positives: dict[str, np.ndarray] = {}
    head = model.det_head.fcos_outputs
    original = head.fcos_losses

    def capture(instances: Instances) -> tuple:
        extras, terms = original(instances)
        found = extras["instances"]
        positives.update(
            image=found.im_inds.numpy(),
            level=found.fpn_levels.numpy(),
            segment=found.gt_inds.numpy(),
            location=found.locations.numpy(),
        )
        return extras, terms

    head.fcos_losses = capture
    inputs = training_inputs(images, scenes)
    for one in inputs:
        one["image"] = one["image"].to(next(model.parameters()).dtype)
    terms = model(inputs)
    head.fcos_losses = original
    return terms, positives
