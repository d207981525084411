"""From an image on the host to results, one image at a time as in an evaluation, with peers."""

from collections.abc import Callable
from typing import Any

import torch
from benchmark_cases.mask_rcnn import their_config
from detectron2.modeling import build_model
from torch import nn

from segzoo import model_zoo

from . import Rows, Settings
from .measuring import (
    computing,
    device_work,
    failures_in_rows,
    is_installed,
    milliseconds,
    peak_memory,
    precisions,
)

# Name, size of the image, task, peer.
CASES = [
    ("panoptic/coco/mask2former_r50", (800, 1088), "panoptic", "transformers"),
    ("semantic/ade20k/segformer_mit_b0", (512, 683), "semantic", "transformers"),
    ("instance/coco/mask_rcnn_fpn_r50", (800, 1088), "instance", "detectron2"),
    ("panoptic/coco/mask2former_swin_tiny", (800, 1088), "panoptic", ""),
]
SMALL_CASES = [
    ("panoptic/shapes/mask2former_r18_quarter", (64, 96), "panoptic", ""),
    ("semantic/shapes/pspnet_r18_quarter", (64, 96), "semantic", ""),
]
# Scales class logits, so that queries of random weights are as confident as trained ones.
CERTAINTY = 8.0


def run(settings: Settings, rows: Rows) -> None:
    for name, size, task, peer in SMALL_CASES if settings.small else CASES:
        torch.manual_seed(0)
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
        if settings.on_gpu:
            image = image.pin_memory()
        sides = [("segzoo", own)]
        if peer and not is_installed(peer):
            rows.add(model=name, by=peer, error="not installed")
        elif peer:
            sides.append((peer, {"transformers": transformers_run, "detectron2": detectron2_run}[peer]))
        for by, make in sides:
            with failures_in_rows(rows, model=name, by=by):
                predict = make(name, image, task, settings)
                for precision in precisions(settings):
                    with failures_in_rows(rows, model=name, by=by, precision=precision):
                        _measure(name, by, precision, size, predict, settings, rows)


def _measure(
    name: str,
    by: str,
    precision: str,
    size: tuple[int, int],
    predict: Callable[[], Any],
    settings: Settings,
    rows: Rows,
) -> None:
    with torch.inference_mode(), computing(precision, settings):
        time = milliseconds(predict, settings, 1.0)
        work = device_work(predict, settings)
        memory = peak_memory(predict, settings)
    rows.add(
        model=name,
        by=by,
        precision=precision,
        size="x".join(map(str, size)),
        ms=time,
        **{"images/s": 1000 / time, **work, "MiB": memory},
    )


def own(name: str, image: torch.Tensor, task: str, settings: Settings) -> Callable[[], Any]:
    model = model_zoo.get(name, weights=None, device=settings.device)
    predictor = getattr(getattr(model, "sem_seg_head", None), "predictor", None)
    if hasattr(predictor, "class_embed"):
        with torch.no_grad():
            predictor.class_embed.weight.mul_(CERTAINTY)
    inputs = [{"image": image, "height": image.shape[1], "width": image.shape[2]}]
    return lambda: model(inputs, tasks=(task,), semantic="labels")


def transformers_run(name: str, image: torch.Tensor, task: str, settings: Settings) -> Callable[[], Any]:
    import transformers

    device, size = settings.device, tuple(image.shape[1:])

    def pixels() -> torch.Tensor:
        return image.to(device, non_blocking=True)[None] / 255

    if task == "semantic":
        network: nn.Module = transformers.SegformerForSemanticSegmentation(
            transformers.SegformerConfig(num_labels=150)
        )
        network.to(device).eval()

        def labels() -> torch.Tensor:
            logits = network(pixels()).logits
            return nn.functional.interpolate(logits, size, mode="bilinear").argmax(1).cpu()

        return labels
    backbone = transformers.ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    config = transformers.Mask2FormerConfig(backbone_config=backbone, num_labels=133)
    network = transformers.Mask2FormerForUniversalSegmentation(config).to(device).eval()
    with torch.no_grad():
        network.class_predictor.weight.mul_(CERTAINTY)
    processor = transformers.Mask2FormerImageProcessor()
    return lambda: processor.post_process_panoptic_segmentation(
        network(pixels()), threshold=0.8, label_ids_to_fuse=set(), target_sizes=[size]
    )


def detectron2_run(name: str, image: torch.Tensor, task: str, settings: Settings) -> Callable[[], Any]:
    cfg = their_config("fpn")
    cfg.MODEL.DEVICE = settings.device
    model = build_model(cfg).eval()
    inputs = [{"image": image, "height": image.shape[1], "width": image.shape[2]}]
    return lambda: model(inputs)
