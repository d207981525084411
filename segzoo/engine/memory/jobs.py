"""The work whose memory is predicted and measured: two training steps, or two predictions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from fvcore.transforms.transform import NoOpTransform

from segzoo.data.label_reader import IndexMap, Segments
from segzoo.data.targets import GROUPS
from segzoo.data.training_targets import AugmentedLabels, find_targets
from segzoo.data.wanted_targets import wanted_targets
from segzoo.modeling.build import build_model
from segzoo.solver import build_optimizer

from ..train_step import TrainStep

#: Number of segments of an image, a grid of 3 x 4; an image of COCO panoptic has 11 on average.
SEGMENTS = 12
_COLUMNS = 4


class Job(NamedTuple):
    """Work with a model on a batch.

    Attributes:
        cfg: configuration; the model is built with random weights, on the CPU.
        size: height and width of the images, which are not resized.
        batch: number of images of a step, or of a prediction.
    """

    cfg: CfgNode
    size: tuple[int, int]
    batch: int


def train(job: Job) -> None:
    """Run two steps: the second has the gradients and the optimizer state of the first."""
    cfg = job.cfg
    inputs = training_inputs(job)
    model = build_model(cfg).train()
    step = TrainStep.from_config(cfg, model, build_optimizer(cfg, model))
    for _ in range(2):
        step([inputs])


@torch.no_grad()
def infer(job: Job) -> None:
    """Predict the results of the configuration's tasks twice, semantic ones as labels."""
    inputs = [{"image": _image(job.size), "height": job.size[0], "width": job.size[1]}] * job.batch
    model = build_model(job.cfg).eval()
    for _ in range(2):
        model(inputs, semantic="labels")


#: Kinds of work by name.
JOBS: dict[str, Callable[[Job], None]] = {"training": train, "inference": infer}


def on_cpu(cfg: CfgNode) -> CfgNode:
    """Return the configuration for a CPU and without the weights' file."""
    cfg = cfg.clone()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    return cfg


def training_inputs(job: Job) -> list[dict[str, Any]]:
    """Return images with the targets that the mapper makes for the model."""
    height, width = job.size
    rows = np.arange(height) * (SEGMENTS // _COLUMNS) // height
    columns = np.arange(width) * _COLUMNS // width
    indices = (rows[:, None] * _COLUMNS + columns + 1).astype(np.uint8)
    classes = np.arange(SEGMENTS) % job.cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    segments = Segments(classes, np.zeros(SEGMENTS, bool))
    index_map = IndexMap(indices, segments)
    labels = AugmentedLabels(
        task=job.cfg.TASK,
        index_map=index_map,
        groups=GROUPS[job.cfg.TASK](segments, np.ones(classes.max() + 1, bool)),
        class_map_of=lambda index_map: classes.astype(np.uint8)[index_map.indices - 1],
        mask_format="bitmask",
        source=index_map,
        transform=NoOpTransform(),
    )
    functions = find_targets(wanted_targets(job.cfg))
    return [
        {
            "image": _image(job.size),
            "height": height,
            "width": width,
            **{name: value for function in functions for name, value in function(labels).items()},
        }
        for _ in range(job.batch)
    ]


def _image(size: tuple[int, int]) -> torch.Tensor:
    values = np.random.default_rng(0).integers(0, 256, (3, *size), dtype=np.uint8)
    return torch.from_numpy(values)
