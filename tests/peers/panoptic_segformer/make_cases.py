"""Record what the authors' Panoptic SegFormer computes on seeded weights.

    python -m tests.peers.panoptic_segformer.make_cases CHECKOUT

CHECKOUT is a clone of https://github.com/zhiqi-li/Panoptic-SegFormer (Apache-2.0). The environment needs
torch, timm, einops, mmdet 2.28.2 and mmcv 1.7.2, the latter installed with MMCV_WITH_OPS=0. `cases/` is
written; every file holds results only, at most 10 KB.
"""

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.peers import filled
from tests.peers.panoptic_segformer import authors, run_authors
from tests.peers.panoptic_segformer.settings import (
    ADJUSTMENTS,
    INFERENCE,
    SAME_WEIGHTS,
    SCENES,
    TRAINING_SEED,
    PanopticCase,
)
from tests.peers.seeded import gradient_summary, pack_text, sample, seeded_image, seeded_scene

CASES = Path(__file__).parent / "cases"
SAMPLED = ("cls", "boxes", "last_boxes", "thing_masks", "stuff_masks", "stuff_scores")
NUM_INSTANCES = 20


def inference_case(model: nn.Module, case: PanopticCase) -> dict[str, np.ndarray]:
    """Return samples of the raw outputs, the map, and the best instances of an image."""
    filled.fill(model.eval(), case.seed, ADJUSTMENTS)
    found = run_authors.infer(model, seeded_image(case.image_seed, *case.image), case.output)
    recorded = {name: sample(found[name], name) for name in SAMPLED}
    for name in ("thing_queries", "thing_classes"):
        recorded[name] = found[name].astype(np.int16)
    recorded["category"] = found["category"].astype(np.uint8)
    recorded["instance"] = found["instance"].astype(np.uint8)
    for name in ("instance_scores", "instance_boxes", "instance_labels"):
        recorded[name] = found[name][:NUM_INSTANCES].astype(np.float32)
    recorded["instance_areas"] = found["instance_masks"].sum((1, 2))[:NUM_INSTANCES]
    return recorded


def training_case(model: nn.Module, name: str) -> dict[str, np.ndarray]:
    """Return losses and assignments of a scene in float64, without dropout."""
    scene = SCENES[name]
    filled.fill(model, TRAINING_SEED, ADJUSTMENTS)
    authors.without_dropout(model.train()).double()
    image = seeded_image(TRAINING_SEED, *scene.image)
    segments = seeded_scene(TRAINING_SEED, *scene.image, scene.classes, void=scene.void)
    with filled.double_precision():
        losses, assigned = run_authors.losses(model, image, segments, scene.canvas)
    model.zero_grad()
    sum(losses.values()).backward()
    names = sorted(losses)
    recorded = {f"{name}/losses": np.array([float(losses[key]) for key in names])}
    recorded["names"] = pack_text("\n".join(names))
    for key, value in assigned.items():
        recorded[f"{name}/{key}"] = value.astype(np.int16)
    return recorded


def gradients(model: nn.Module) -> np.ndarray:
    """Return `gradient_summary` of all trained parameters in the order of their names."""
    parameters = sorted(model.named_parameters())
    rows = [gradient_summary(p.detach(), p.grad) for _, p in parameters if p.requires_grad]
    return np.array(rows, np.float32)


def optimizer_case(model: nn.Module, settings: dict) -> dict[str, np.ndarray]:
    """Return learning rate and weight decay of every parameter, by sorted names; 0, 0: not trained."""
    from mmcv.runner import build_optimizer

    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = dict.fromkeys(names.values(), (0.0, 0.0))
    for group in build_optimizer(model, settings).param_groups:
        for parameter in group["params"]:
            if parameter.requires_grad:
                rates[names[id(parameter)]] = (group["lr"], group["weight_decay"])
    return {"optimizer": np.array([rates[name] for name in sorted(rates)], np.float32)}


def main() -> None:
    """Write all cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    checkout = parser.parse_args().checkout
    logging.disable(logging.INFO)
    for name, case in INFERENCE.items():
        model, _ = authors.build(checkout, case.config, backbone=case.backbone)
        filled.save_case(CASES, name, inference_case(model, case))
        if name not in SAME_WEIGHTS:
            filled.save_case(CASES, f"{name}_names", filled.names_case(model))
    model, settings = authors.build(checkout, "panformer_r50_24e_coco_panoptic")
    torch.manual_seed(0)
    model.bbox_head.init_weights()
    model.neck.init_weights()
    described = {
        "initial": filled.initial_values(model, "backbone."),
        **optimizer_case(model, settings.optimizer),
    }
    filled.save_case(CASES, "r50_optimizer", described)
    losses: dict[str, np.ndarray] = {}
    first = next(iter(SCENES))
    for name in SCENES:
        losses |= training_case(model, name)
        if name == first:
            filled.save_case(CASES, "r50_gradients", {"gradients": gradients(model)})
    filled.save_case(CASES, "r50_losses", losses)
    model, _ = authors.build(checkout, "panformer_r50_24e_coco_panoptic", filter_rounds=3)
    filled.save_case(CASES, "r50_three_rounds", training_case(model, first))


if __name__ == "__main__":
    main()
