"""The inputs of Panoptic SegFormer in training, for an image and a scene."""

import numpy as np
import torch

from tests.peers.seeded import Scene

#: Outputs of the authors' code, and of segzoo's model.
OUTPUTS = {
    "cls": "pred_logits",
    "last_boxes": "pred_boxes",
    "thing_masks": "thing_masks",
    "stuff_masks": "stuff_masks",
    "stuff_scores": "stuff_scores",
}


def training_input(image: np.ndarray, scene: Scene) -> dict:
    """Return what the mapper returns for an image (3, H, W) uint8 and a scene."""
    return {
        "image": torch.from_numpy(image),
        "segment_map": torch.from_numpy(scene.ids - 1).to(torch.int16),
        "segment_classes": torch.from_numpy(scene.classes),
        "segment_boxes": torch.from_numpy(scene.boxes()).float(),
    }
