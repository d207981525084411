"""Losses, gradients and steps of networks that GluonCV trained: segzoo's leaves do the same.

`gluoncv/make_training_cases.py` made the cases in `gluoncv/cases_training/`.
"""

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn

from segzoo.checkpoint import load_checkpoint, read_checkpoint
from segzoo.model_zoo.configs import load_config
from segzoo.solver import build_optimizer, learning_rate_factor
from tests.peers.gluoncv.inputs import labeled_images, objects_of
from tests.peers.gluoncv.training import OBJECTS, PROPOSALS, SAMPLES, SAMPLING, SCHEDULE, SEGMENTATION
from tests.peers.loaded import without_noise
from tests.peers.recorded import read_case
from tests.peers.seeded import gradient_summary, seeded_image, unpack_text
from tests.peers.test_gluoncv import (
    CASES,
    HERE,
    compare_files,
    make_cases,
    make_toy,
    needs_gluoncv,
    toy_config,
    toy_variants,  # noqa: F401
)
from tests.peers.test_gluoncv_mask_rcnn import LEAVES, recorded_model
from tests.peers.test_gluoncv_mask_rcnn import TOYS as DETECTORS

# Float noise beside the largest gradients of segmentation networks, which have norms of 3 to 15.
NOISE = (1e-3, 1e-5)
TRAINING = HERE / "cases_training"
# Detectron2's names of the losses, in the order of GluonCV's.
LOSSES = ("loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask")


def summaries(values, before):
    return np.array([gradient_summary(before[name], value.numpy()) for name, value in values.items()])


def compare_training(model, optimizer, renamed, case, losses, tolerance):
    """Train on what `losses` returns, and compare all that a case holds of it.

    Args:
        renamed: our names by those of the file.
        losses: returns the losses by name, and their values in the order and scale of the case.
        tolerance: see `compare_norms`; the first is also that of the losses.
    """
    trained = [renamed.get(name, name) for name in unpack_text(case["trained"]).split("\n")]
    parameters = dict(model.named_parameters())
    before = {name: parameters[name].detach().clone() for name in trained}
    rates = {
        name: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for one in group["params"]
        for name in parameters
        if parameters[name] is one
    }
    assert rates.keys() == before.keys()
    np.testing.assert_allclose([rates[name] for name in trained], case["rates"], rtol=1e-6)
    for expected in case["losses"]:
        optimizer.zero_grad()
        by_name, values = losses()
        np.testing.assert_allclose([value.item() for value in values], expected, rtol=tolerance[0])
        sum(by_name.values()).backward()
        if optimizer.state == {}:
            found = summaries({name: parameters[name].grad for name in trained}, before)
            compare_norms(found, case["gradients"], tolerance)
        optimizer.step()
    changes = {name: parameters[name].detach().double() - before[name] for name in trained}
    compare_norms(summaries(changes, before), case["changes"], tolerance)


def compare_norms(found, expected, tolerance):
    """Compare norms, and products to the same share of the norms.

    Args:
        tolerance: relative, and absolute.
    """
    allowed = tolerance[0] * np.abs(expected).max(1, keepdims=True) + tolerance[1]
    assert (np.abs(found - expected) < allowed).all()


@pytest.mark.parametrize("name", SEGMENTATION)
def test_segmentation_networks_learn_as_in_gluoncv(name, toy_variants):  # noqa: F811
    """The rates are for a step that is divided by the batch once more: 4 of 16 images, or 2 of 4."""
    cfg, model, case = toy_config(name), make_toy(name).train(), read_case(TRAINING, name)
    kinds = [module for module in model.modules() if isinstance(module, nn.modules.dropout._DropoutNd)]
    assert {type(module) for module in kinds if module.p} <= {nn.Dropout}
    dropouts = [module.p for module in kinds if module.p]
    assert sorted(dropouts) == pytest.approx(sorted(case["dropouts"]))
    report = load_checkpoint(without_noise(model), CASES / f"{name}.zip")
    batch, seed, _ = SEGMENTATION[name]
    case["rates"] = case["rates"] * (1 / batch, batch)
    images, labels = map(torch.from_numpy, labeled_images(batch, seed, 40, 56, 5))
    labels[labels < 0] = model.ignore_label
    inputs = [{"image": one, "sem_seg": other} for one, other in zip(images, labels, strict=True)]
    share = (labels != model.ignore_label).double().mean()

    def losses():
        """GluonCV's value is a sum over images of means over all pixels, with half of the auxiliary loss."""
        by_name = model(inputs)
        factors = [0.5 if "aux" in key else 1.0 for key in by_name]
        value = sum(factor * loss for factor, loss in zip(factors, by_name.values(), strict=True))
        return by_name, [value * share * (batch if name != "danet" else 56)]

    file_names = sorted(read_checkpoint(CASES / f"{name}.zip").weights)
    buffers = [report.renamed.get(key, key) for key in file_names if key.endswith("running_mean")]
    before = {key: model.get_buffer(key).clone() for key in buffers}
    compare_training(model, build_optimizer(cfg, model), report.renamed, case, losses, NOISE)
    changes = {key: model.get_buffer(key).double() - before[key] for key in buffers}
    compare_norms(summaries(changes, before), case["means"], NOISE)


def instances(size):
    objects = objects_of(1, *size, OBJECTS)
    found = Instances(size, gt_boxes=Boxes(torch.from_numpy(objects.boxes)))
    found.gt_classes = torch.from_numpy(objects.classes)
    found.gt_masks = BitMasks(torch.from_numpy(objects.masks))
    return found


def draw(monkeypatch, order):
    """Let permutations of that many numbers be `order`."""
    original = torch.randperm

    def permutation(count, **options):
        return torch.from_numpy(order).long() if count == len(order) else original(count, **options)

    monkeypatch.setattr(torch, "randperm", permutation)


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_learn_as_in_gluoncv(name, monkeypatch):
    """On the same draws of the second stage; all anchors are samples of the first."""
    words = ["MODEL.RPN.BATCH_SIZE_PER_IMAGE", "100000", "MODEL.RPN.POST_NMS_TOPK_TRAIN", str(PROPOSALS)]
    words += ["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", str(SAMPLES)]
    model, renamed = recorded_model(name, monkeypatch, words)
    model.train()
    case = read_case(TRAINING, name)
    draw(monkeypatch, case["order"])
    inputs = [{"image": torch.from_numpy(seeded_image(1, 128, 160)), "instances": instances((128, 160))}]

    def losses():
        by_name = model(inputs)
        return by_name, [by_name[key] for key in LOSSES]

    optimizer = build_optimizer(load_config(LEAVES[f"{name}_coco"]), model)
    compare_training(model, optimizer, renamed, case, losses, (1e-4, 1e-7))


@pytest.mark.parametrize("name", SAMPLING)
def test_samples_of_the_second_stage_are_gluoncvs(name, monkeypatch):
    """Boxes and classes of all samples, and the boxes of those with boxes and masks to learn."""
    regions, true, count = SAMPLING[name]
    case = read_case(TRAINING, "sampling")
    draw(monkeypatch, case[f"{name}_order"])
    heads = recorded_model("mask_rcnn_fpn_resnet18_v1b", monkeypatch)[0].roi_heads
    heads.batch_size_per_image = count
    target = Instances((100, 100), gt_boxes=Boxes(torch.tensor(true).float()))
    target.gt_classes = torch.arange(len(true))
    target.gt_masks = BitMasks(torch.zeros(len(true), 100, 100, dtype=torch.bool))
    proposals = Instances((100, 100), proposal_boxes=Boxes(torch.tensor(regions).float()))
    (found,) = heads.label_and_sample_proposals([proposals], [target])
    # GluonCV counts classes from background.
    classes = (found.gt_classes + 1).where(found.gt_classes < 80, 0)
    boxes = found.proposal_boxes.tensor
    pairs = torch.cat((boxes, classes[:, None]), 1).tolist()
    expected = np.concatenate((case[f"{name}_boxes"], case[f"{name}_classes"][:, None]), 1).tolist()
    assert sorted(pairs) == sorted(expected)
    assert sorted(boxes[found.has_targets].tolist()) == sorted(case[f"{name}_learned"].tolist())


def test_the_learning_rate_follows_gluoncvs_schedule():
    last, iterations = SCHEDULE
    cfg = load_config("semantic/ade20k/fcn_r50_v1s_120ep")
    assert last == cfg.SOLVER.MAX_ITER
    factor = learning_rate_factor(cfg)
    expected = read_case(TRAINING, "schedule")["factors"]
    np.testing.assert_allclose([factor(iteration) for iteration in iterations], expected, atol=1e-4)


@needs_gluoncv
def test_the_recorded_training_cases_are_what_the_script_makes(tmp_path):
    make_cases(tmp_path, script="make_training_cases")
    compare_files(TRAINING, tmp_path)
