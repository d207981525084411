"""Record what the authors' EntitySeg computes on seeded weights.

    python -m tests.peers.entityseg.make_cases CHECKOUT

CHECKOUT is a clone of https://github.com/dvlab-research/Entity (CC BY-NC 4.0). The environment needs torch,
timm, panopticapi and Detectron2. `cases/` is written; every file holds results only, at most 10 KB.
"""

import argparse
import contextlib
import tempfile
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.solver.build import get_default_optimizer_params
from detectron2.structures import BoxMode
from PIL import Image
from torch import nn

from tests.peers import filled
from tests.peers.entityseg import authors, run_authors
from tests.peers.entityseg.settings import (
    ADJUSTMENTS,
    BATCHES,
    INFERENCE,
    MAPPED,
    SAME_NAMES,
    TRAINING_SEED,
    EntityCase,
    mapped_scene,
)
from tests.peers.seeded import gradient_summary, pack_text, sample, seeded_image, seeded_scene

CASES = Path(__file__).parent / "cases"
SAMPLED = ("cls", "reg", "ctr", "kernel", "mask_features")


def inference_case(model: nn.Module, case: EntityCase) -> dict[str, np.ndarray]:
    """Return samples of the raw outputs and the entities of an image."""
    filled.fill(model.eval(), case.seed, (*ADJUSTMENTS, *case.adjustments))
    image = seeded_image(case.image_seed, *case.image)
    found = run_authors.infer(model, image, case.output, rescore=False)
    rescored = run_authors.infer(model, image, case.output, rescore=True)
    recorded = {name: sample(found[name], name) for name in SAMPLED}
    recorded["entity_map"] = found["entity_map"].astype(np.uint8)
    recorded["scores"], recorded["boxes"] = found["scores"], found["boxes"].astype(np.int16)
    recorded["rescored"] = rescored["scores"]
    return recorded


def training_case(checkout: Path, config: str, name: str) -> tuple[nn.Module, dict[str, np.ndarray]]:
    """Return the model, with gradients, and losses of a batch in float64, without drop-path."""
    batch = BATCHES[name]
    model, _ = authors.build(checkout, config, *batch.overrides)
    filled.fill(model, TRAINING_SEED, ADJUSTMENTS)
    authors.without_drop_path(model.train()).double()
    images = [seeded_image(TRAINING_SEED + i, *size) for i, size in enumerate(batch.images)]
    scenes = [
        seeded_scene(TRAINING_SEED + i, *size, [0] * number, void=batch.void)
        for i, (size, number) in enumerate(zip(batch.images, batch.segments, strict=True))
    ]
    with filled.double_precision(), authors.first_of_sampled():
        losses, positives = run_authors.losses(model, images, scenes)
        sum(losses.values()).backward()
    names = sorted(losses)
    recorded = {f"{name}/losses": np.array([float(losses[key]) for key in names])}
    recorded["names"] = pack_text("\n".join(names))
    for key, value in positives.items():
        recorded[f"{name}/{key}"] = value.astype(np.int16)
    return model, recorded


def gradients(model: nn.Module) -> np.ndarray:
    """Return `gradient_summary` of all parameters in the order of their names; NaN: no gradient."""
    rows = []
    for _, parameter in sorted(model.named_parameters()):
        trained = parameter.requires_grad and parameter.grad is not None
        rows.append(gradient_summary(parameter.detach(), parameter.grad) if trained else (np.nan, np.nan))
    return np.array(rows, np.float32)


def optimizer_case(model: nn.Module, cfg: CfgNode) -> dict[str, np.ndarray]:
    """Return the weight decay of every parameter in the order of the names; -1: not trained.

    The rule is that of the Detectron2 commit that the authors name, 28174e9, where WEIGHT_DECAY_BIAS is 1e-4.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decays = dict.fromkeys(names.values(), -1.0)
    groups = get_default_optimizer_params(
        model, weight_decay=cfg.SOLVER.WEIGHT_DECAY, weight_decay_norm=0.0, weight_decay_bias=1e-4
    )
    for group in groups:
        for parameter in group["params"]:
            decays[names[id(parameter)]] = group["weight_decay"]
    return {"decay": np.array([decays[name] for name in sorted(decays)], np.float32)}


def mapper_case(checkout: Path) -> dict[str, np.ndarray]:
    """Return boxes, ids and id maps of the authors' mapper for the resizes and flips of MAPPED."""
    scene = mapped_scene()
    mapper = authors.import_mapper(checkout)
    recorded = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("datasets/coco/entity_train2017").mkdir(parents=True)
        numbers = np.arange(1, len(scene.classes) + 1)
        rows = np.c_[scene.boxes(inclusive=True), scene.classes, np.ones_like(numbers), numbers]
        maps = np.stack([scene.ids, scene.ids]).astype(np.uint8)
        np.savez("datasets/coco/entity_train2017/a.npz", map=maps, bounding_box=rows)
        height, width = scene.ids.shape
        Image.fromarray(seeded_image(0, height, width).transpose(1, 2, 0)).save("a.png")
        for index, (short, flip) in enumerate(MAPPED):
            augmentations = [T.ResizeShortestEdge(short, 2000), T.RandomFlip(prob=float(flip))]
            one = mapper(is_train=True, augmentations=augmentations, image_format="BGR")
            annotations = [{"bbox_mode": BoxMode.XYWH_ABS} for _ in numbers]
            entry = {"file_name": "a.png", "height": height, "width": width, "annotations": annotations}
            found = one(entry)
            recorded[f"boxes{index}"] = found["instances"].gt_boxes.tensor.numpy().astype(np.int16)
            recorded[f"ids{index}"] = found["instances"].instanceid.numpy().astype(np.int8)
            recorded[f"map{index}"] = found["instance_map"].numpy()
    return recorded


def main() -> None:
    """Write all cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    checkout = parser.parse_args().checkout
    for name, case in INFERENCE.items():
        model, cfg = authors.build(checkout, case.config, *case.overrides)
        described = {"initial": filled.initial_values(model, "bottom_up"), **optimizer_case(model, cfg)}
        filled.save_case(CASES, name, inference_case(model, case))
        if name not in SAME_NAMES:
            filled.save_case(CASES, f"{name}_names", {**filled.names_case(model), **described})
    losses: dict[str, np.ndarray] = {}
    first = next(iter(BATCHES))
    for name in BATCHES:
        model, recorded = training_case(checkout, "entity_r50_1x", name)
        losses |= recorded
        if name == first:
            filled.save_case(CASES, "r50_gradients", {"gradients": gradients(model)})
    filled.save_case(CASES, "r50_losses", losses)
    filled.save_case(CASES, "r50_baseline", training_case(checkout, "entity_baseline", first)[1])
    model, recorded = training_case(checkout, "entity_mit_b0_1x", first)
    filled.save_case(CASES, "mit_b0_training", {"gradients": gradients(model), **recorded})
    filled.save_case(CASES, "mapper", mapper_case(checkout))


if __name__ == "__main__":
    main()
