"""A training step, from a batch on the host to updated weights: segzoo's `TrainStep`, and peers.

The peers' step is their own loss, its gradient and an update by AdamW or SGD; sizes, batches and labels are
those of segzoo, weights are random on both sides.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from benchmark_cases.mask_rcnn import their_config
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from segzoo.engine.train_step import TrainStep
from segzoo.model_zoo import get_config
from segzoo.solver import build_optimizer

from . import Rows, Settings
from .measuring import (
    HALF,
    computing,
    device_work,
    failures_in_rows,
    is_installed,
    milliseconds,
    peak_memory,
    precisions,
)
from .scenes_of_training import batch


class Case(NamedTuple):
    """A model, its input, and the peer: a function of the device and number of classes, or None.

    classes: of the labels in the batch.
    """

    name: str
    size: tuple[int, int]
    images: int
    classes: int
    peer: str = ""


CASES = [
    Case("panoptic/coco/mask2former_r50", (1024, 1024), 2, 133, "transformers"),
    Case("semantic/ade20k/segformer_mit_b0", (512, 512), 8, 150, "transformers"),
    Case("semantic/ade20k/pspnet_r50_v1s_100ep", (473, 473), 4, 150),
    Case("instance/coco/mask_rcnn_fpn_r50", (800, 1088), 2, 80, "detectron2"),
    Case("semantic/ade20k/upernet_swin_tiny", (512, 512), 4, 150),
]
SMALL_CASES = [
    Case("panoptic/shapes/mask2former_r18_quarter", (64, 64), 2, 4),
    Case("semantic/shapes/pspnet_r18_quarter", (64, 64), 2, 4),
]


def run(settings: Settings, rows: Rows) -> None:
    for case in SMALL_CASES if settings.small else CASES:
        for precision in precisions(settings):
            with failures_in_rows(rows, model=case.name, by="segzoo", precision=precision):
                _measure(case, "segzoo", precision, own_step(case, precision, settings), settings, rows)
        if case.peer and not is_installed(case.peer):
            rows.add(model=case.name, by=case.peer, error="not installed")
        elif case.peer:
            for precision in precisions(settings):
                with failures_in_rows(rows, model=case.name, by=case.peer, precision=precision):
                    step = their_step(case, settings, precision)
                    _measure(case, case.peer, precision, step, settings, rows)


def _measure(
    case: Case, by: str, precision: str, step: Callable[[], Any], settings: Settings, rows: Rows
) -> None:
    with EventStorage(), computing("tf32" if precision == "tf32" else "fp32", settings):
        time = milliseconds(step, settings, 1.5)
        work = device_work(step, settings)
        memory = peak_memory(step, settings)
    rows.add(
        model=case.name,
        by=by,
        precision=precision,
        size="x".join(map(str, case.size)),
        images=case.images,
        ms=time,
        **{"images/s": 1000 * case.images / time, **work, "MiB": memory},
    )


def own_step(case: Case, precision: str, settings: Settings) -> Callable[[], Any]:
    cfg = get_config(case.name)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = settings.device, ""
    cfg.SOLVER.AMP.ENABLED = precision in HALF
    cfg.SOLVER.AMP.DTYPE = str(HALF.get(precision, torch.float16)).removeprefix("torch.")
    torch.manual_seed(0)
    model = single_process(build_model(cfg)).train()
    step = TrainStep.from_config(cfg, model, build_optimizer(cfg, model))
    images = batch(case.images, case.size, case.classes, settings.on_gpu)
    return lambda: step([images])


def single_process(model: nn.Module) -> nn.Module:
    """Return the model for one process: its synchronized batch norms compute alone there."""
    from segzoo.engine.distributed.data_parallel import sync_batch_norm_on_cpu

    return sync_batch_norm_on_cpu(model, 1)


def their_step(case: Case, settings: Settings, precision: str) -> Callable[[], Any]:
    images = batch(case.images, case.size, case.classes, settings.on_gpu)
    make = transformers_loss if case.peer == "transformers" else detectron2_loss
    torch.manual_seed(0)
    model, loss = make(case, images, settings.device)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    kind, half = torch.device(settings.device).type, HALF.get(precision)
    scaler = torch.amp.GradScaler(kind, enabled=half is torch.float16)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(kind, dtype=half, enabled=half is not None):
            total = loss()
        scaler.scale(total).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        scaler.step(optimizer)
        scaler.update()

    return step


def transformers_loss(case: Case, images: list[dict], device: str) -> tuple[nn.Module, Callable]:
    import transformers

    def pixels() -> torch.Tensor:
        return torch.stack([one["image"] for one in images]).to(device, non_blocking=True) / 255

    if "mask2former" in case.name:
        backbone = transformers.ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
        config = transformers.Mask2FormerConfig(backbone_config=backbone, num_labels=case.classes)
        network = transformers.Mask2FormerForUniversalSegmentation(config).to(device)
        masks = [one["instances"].gt_masks.tensor.float() for one in images]
        classes = [one["instances"].gt_classes for one in images]

        def loss() -> torch.Tensor:
            labels = [one.to(device) for one in masks], [one.to(device) for one in classes]
            return network(pixels(), mask_labels=labels[0], class_labels=labels[1]).loss

        return network, loss
    config = transformers.SegformerConfig(num_labels=case.classes)
    network = transformers.SegformerForSemanticSegmentation(config).to(device)
    labels = torch.stack([one["sem_seg"] for one in images]).long()
    return network, lambda: network(pixels(), labels=labels.to(device)).loss


def detectron2_loss(case: Case, images: list[dict], device: str) -> tuple[nn.Module, Callable]:
    cfg = their_config("fpn")
    cfg.MODEL.DEVICE = device
    cfg.INPUT.MASK_FORMAT = "bitmask"
    model = build_model(cfg)
    return model, lambda: sum(model(images).values())
