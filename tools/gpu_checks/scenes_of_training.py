"""Batches for training steps, on the host, and the targets that every family reads."""

import numpy as np
import torch
from benchmark_cases import scenes
from detectron2.structures import BitMasks, Boxes, Instances

SEGMENTS = 11  # of an image of COCO panoptic, on average


def batch(count: int, size: tuple[int, int], classes: int, pinned: bool) -> list[dict]:
    """Return dicts of images with all targets, in page-locked memory if asked for."""
    random = np.random.default_rng(0)
    images = []
    for _ in range(count):
        regions = scenes.regions(random, *size, SEGMENTS).astype(np.int16)
        numbers = random.integers(0, classes, SEGMENTS)
        tensors = {
            "image": torch.from_numpy(random.integers(0, 256, (3, *size), dtype=np.uint8)),
            "segment_map": torch.from_numpy(regions),
            "segment_classes": torch.from_numpy(numbers),
            "sem_seg": torch.from_numpy(numbers[regions].astype(np.uint8)),
        }
        masks = torch.from_numpy(regions == np.arange(SEGMENTS)[:, None, None])
        kept = masks.flatten(1).any(1)
        instances = Instances(size)
        instances.gt_masks = BitMasks(masks[kept])
        instances.gt_boxes = Boxes(instances.gt_masks.get_bounding_boxes().tensor)
        instances.gt_classes = torch.from_numpy(numbers)[kept]
        if pinned:
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        images.append({**tensors, "instances": instances, "height": size[0], "width": size[1]})
    return images
