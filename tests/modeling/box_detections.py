"""Detections of Mask R-CNN made by hand, and its post-processing without a network."""

from types import SimpleNamespace

import torch
from detectron2.structures import Boxes, Instances

from segzoo.modeling.batch import Sizes
from segzoo.projects.mask_rcnn import meta_arch

PASTINGS = tuple(meta_arch._PASTING)


def detections(count, size, side=14, seed=0):
    """Detections in an image of (height, width): some boxes are wide or leave it, the second has no area."""
    generator = torch.Generator().manual_seed(seed)
    limits = torch.tensor(size[::-1], dtype=torch.float32)
    first = torch.rand(count, 2, generator=generator) * limits / 2
    last = first + torch.rand(count, 2, generator=generator) * limits * 0.7
    last[1:2] = first[1:2]
    found = Instances(size, pred_boxes=Boxes(torch.cat([first, last], 1)))
    found.scores = torch.rand(count, generator=generator)
    found.pred_classes = torch.arange(count) % 3
    # Blobs with an edge inside the box.
    coarse = torch.rand(count, 1, 4, 4, generator=generator)
    found.pred_masks = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    return found


def at_output(pasting, found, output):
    """The results for detections, at (height, width)."""
    model = SimpleNamespace(at_size=meta_arch._PASTING[pasting])
    sizes = [Sizes(found.image_size, found.image_size, output)]
    (result,) = meta_arch.MaskRCNN.postprocess(
        model, {"detections": [found]}, sizes, tasks=("instance",), semantic=""
    )
    return result["instances"]
