"""Run the authors' Panoptic SegFormer on seeded weights, images and scenes."""

from typing import Any

import numpy as np
import torch
from torch import nn

from tests.peers.seeded import Scene

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
NUM_THINGS, NUM_STUFF = 80, 53


def _normalized(image: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    mean, std = (torch.tensor(values, dtype=dtype).view(3, 1, 1) for values in (MEAN, STD))
    return ((torch.from_numpy(image).to(dtype) - mean) / std)[None]


def _information(size: tuple[int, int], output: tuple[int, int]) -> dict[str, Any]:
    factors = np.array([size[1] / output[1], size[0] / output[0]] * 2, np.float32)
    return {
        "img_shape": (*size, 3),
        "ori_shape": (*output, 3),
        "batch_input_shape": size,
        "scale_factor": factors,
        "filename": "a/000000000001.jpg",
    }


@torch.no_grad()
def infer(model: nn.Module, image: np.ndarray, output: tuple[int, int]) -> dict[str, np.ndarray]:
    """Run an image.

    Args:
        model: in eval mode.
        image: (3, H, W) uint8 RGB.
        output: (height, width) of the results.

    Returns:
        cls (300, 80): logits of the last layer of the location decoder;
        boxes (6, 300, 4), last_boxes (300, 4): of all its layers and the last;
        thing_masks (100, h, w), stuff_masks (53, h, w): final masks, things in descending class score;
        thing_queries (100,), thing_classes (100,); stuff_scores (53,);
        category, instance (height, width): the panoptic map;
        instance_scores (100,), instance_labels (100,), instance_boxes (100, 4), instance_areas (100,).
    """
    head = model.bbox_head
    information = [_information(image.shape[1:], output)]
    features = model.extract_feat(_normalized(image, torch.float32))
    outputs = head(features, information)
    masks: dict[str, torch.Tensor] = {}
    for name in ("things_mask_head", "stuff_mask_head"):
        getattr(head, name).register_forward_hook(
            lambda module, args, out, name=name: masks.update({name: out[0]})
        )
    captured = {}
    single = head._get_bboxes_single

    def capture(*args: Any) -> Any:
        captured["index"], captured["box"], captured["label"] = result = single(*args)
        return result

    head._get_bboxes_single = capture
    results = head.get_bboxes(*outputs, information, rescale=True)
    head._get_bboxes_single = single
    panoptic = results["panoptic"][0][0]
    grid = features[0].shape[-2:]
    stuff_scores = head.cls_stuff_branches[-1](_last_stuff_query(head, outputs)).sigmoid().reshape(-1)
    arrays = {
        "cls": outputs[0][-1][0],
        "boxes": outputs[1][:, 0],
        "last_boxes": outputs[1][-1, 0],
        "thing_masks": masks["things_mask_head"].reshape(-1, *grid),
        "stuff_masks": masks["stuff_mask_head"].reshape(-1, *grid),
        "thing_queries": captured["index"],
        "thing_classes": captured["label"],
        "stuff_scores": stuff_scores,
        "instance_scores": results["bbox"][0][:, 4],
        "instance_boxes": results["bbox"][0][:, :4],
        "instance_labels": results["labels"][0],
        "instance_masks": results["segm"][0],
    }
    found = {name: value.numpy() for name, value in arrays.items()}
    return {**found, "category": panoptic[..., 0], "instance": panoptic[..., 1]}


def _last_stuff_query(head: nn.Module, outputs: tuple) -> torch.Tensor:
    memory, memory_mask, *_, levels = outputs[4]
    stuff = head.stuff_query.weight[None]
    _, _, queries = head.stuff_mask_head(
        memory,
        memory_mask,
        None,
        stuff[..., : head.embed_dims],
        None,
        stuff[..., head.embed_dims :],
        hw_lvl=levels,
    )
    return queries[-1]


def losses(
    model: nn.Module, image: np.ndarray, scene: Scene, size: tuple[int, int] | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]:
    """Compute the training losses of one image.

    Args:
        model: in training mode.
        image: (3, H, W) uint8 RGB.
        scene: its segments; classes below 80 are things.
        size: the canvas that image and masks are padded to, on the right and below; None: none.

    Returns:
        The losses by the authors' names, with their graph, and the assignments: `filter` and `mask` give the
        index of the segment among the things, or -1, of every query, and of every kept query.
    """
    dtype = next(model.parameters()).dtype
    valid = image.shape[1:]
    size = size or valid
    pixels = _normalized(image, dtype)
    pixels = nn.functional.pad(pixels, (0, size[1] - valid[1], 0, size[0] - valid[0]))
    information = [{**_information(valid, valid), "batch_input_shape": size}]
    assigned: dict[str, np.ndarray] = {}
    head = model.bbox_head
    originals = {name: getattr(head, name).assign for name in ("assigner_filter", "assigner_with_mask")}

    def capture(name: str) -> Any:
        def assign(*args: Any) -> Any:
            result = originals[name](*args)
            if isinstance(result, tuple):
                assigned["kept"] = result[0].numpy()
                assigned["filter"] = result[2].gt_inds.numpy() - 1
            else:
                assigned["mask"] = result.gt_inds.numpy() - 1
            return result

        return assign

    for name in originals:
        getattr(head, name).assign = capture(name)
    masks = torch.from_numpy(scene.masks.astype(np.uint8))
    masks = nn.functional.pad(masks, (0, size[1] - valid[1], 0, size[0] - valid[0]))
    boxes = torch.from_numpy(scene.boxes()).to(dtype)
    terms = head.forward_train(
        model.extract_feat(pixels), information, [boxes], [torch.from_numpy(scene.classes)], [masks]
    )
    for name, original in originals.items():
        getattr(head, name).assign = original
    return terms, assigned
