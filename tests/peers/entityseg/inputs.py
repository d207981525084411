"""The inputs of EntitySeg in training, for images and scenes."""

from collections.abc import Sequence

import numpy as np
import torch

from tests.peers.seeded import Scene


def training_inputs(images: Sequence[np.ndarray], scenes: Sequence[Scene]) -> list[dict]:
    """Return what the mapper returns for images (3, H, W) uint8 and scenes."""
    inputs = []
    for image, scene in zip(images, scenes, strict=True):
        rows, columns = np.mgrid[: image.shape[1], : image.shape[2]]
        centers = [[columns[mask].mean(), rows[mask].mean()] for mask in scene.masks]
        inputs.append(
            {
                "image": torch.from_numpy(image),
                "segment_map": torch.from_numpy(scene.ids - 1).to(torch.int16),
                "segment_classes": torch.zeros(len(scene.classes), dtype=torch.int64),
                "segment_entity_boxes": torch.from_numpy(scene.boxes(inclusive=True)).float(),
                "segment_entity_centers": torch.tensor(np.array(centers).reshape(-1, 2)).float(),
            }
        )
    return inputs
