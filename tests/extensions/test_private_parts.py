"""Every part of a model, its targets and its training may come from a package outside the tree."""

import json
import math
import re

import pytest
import torch
from detectron2.modeling import build_model

from segzoo.cli import config as config_command
from segzoo.cli.train import main
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError

BACKBONE = """
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone


@BACKBONE_REGISTRY.register()
class Strided(Backbone):
    def __init__(self, cfg, input_shape):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 4, 4)
        self.res3 = torch.nn.Conv2d(8, 8, 2, 2)

    def forward(self, image):
        res2 = self.stem(image).relu()
        return {"res2": res2, "res3": self.res3(res2).relu()}

    def output_shape(self):
        return {"res2": ShapeSpec(channels=8, stride=4), "res3": ShapeSpec(channels=8, stride=8)}
"""
NECK = """
import torch
from segzoo.modeling.registry import NECK_REGISTRY


@NECK_REGISTRY.register()
class Scaled(torch.nn.Module):
    def __init__(self, cfg, input_shape):
        super().__init__()
        self.shapes = input_shape
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, features):
        return {name: self.scale * feature for name, feature in features.items()}

    def output_shape(self):
        return self.shapes
"""
HEAD = """
from detectron2.config import configurable
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from segzoo.modeling.per_pixel.head import PixelHead


@SEM_SEG_HEADS_REGISTRY.register()
class Linear(PixelHead):
    @configurable
    def __init__(self, **shared):
        super().__init__(**shared)
        self.predictor = self.classifier(self.in_channels(self.in_features[-1]))

    def forward(self, features):
        return {"logits": self.predictor(features[self.in_features[-1]])}
"""
DECODERS = """
import torch
from segzoo.modeling.mask_classification.fpn_pixel_decoder import FPNPixelDecoder
from segzoo.modeling.registry import PIXEL_DECODER_REGISTRY, TRANSFORMER_DECODER_REGISTRY


@PIXEL_DECODER_REGISTRY.register()
class Gated(FPNPixelDecoder):
    def forward(self, features):
        return super().forward({name: feature.tanh() for name, feature in features.items()})


@TRANSFORMER_DECODER_REGISTRY.register()
class Pooled(torch.nn.Module):
    '''Queries that see the mean of the feature map.'''

    def __init__(self, cfg, in_channels):
        super().__init__()
        node = cfg.MODEL.MASK_FORMER
        self.queries = torch.nn.Embedding(node.NUM_OBJECT_QUERIES, in_channels)
        self.classes = torch.nn.Linear(in_channels, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES + 1)
        self.masks = torch.nn.Linear(in_channels, cfg.MODEL.SEM_SEG_HEAD.MASK_DIM)

    def forward(self, x, mask_features):
        queries = self.queries.weight + x.mean((2, 3))[:, None]
        masks = torch.einsum("nqc,nchw->nqhw", self.masks(queries), mask_features)
        return {"pred_logits": self.classes(queries), "pred_masks": masks}
"""
PER_PIXEL = """
MODEL:
  BACKBONE: {NAME: Strided, OUT_FEATURES: ["res2", "res3"]}
  NECK: {NAME: Scaled}
  SEM_SEG_HEAD: {NAME: Linear, IN_FEATURES: ["res3"]}
"""
MASKS = """
TASK: panoptic
MODEL:
  META_ARCHITECTURE: MaskFormer
  SEM_SEG_HEAD:
    NAME: MaskFormerHead
    PIXEL_DECODER_NAME: Gated
    IN_FEATURES: ["res2", "res3", "res4", "res5"]
    MASK_DIM: 8
  MASK_FORMER:
    {TRANSFORMER_DECODER_NAME: Pooled, NUM_OBJECT_QUERIES: 6, DEEP_SUPERVISION: False, TRAIN_NUM_POINTS: 32}
"""


def records(output):
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


def final_weights(output):
    return torch.load(output / "model_final.pth", weights_only=True)["model"]


def test_backbone_neck_and_head(package, train):
    package.write(BACKBONE + NECK + HEAD)
    output = train(package.config(PER_PIXEL))
    weights = final_weights(output)
    assert {"backbone.stem.weight", "sem_seg_head.predictor.weight"} <= weights.keys()
    assert weights["neck.scale"] != 1.0  # it learned
    assert "mIoU" in (output / "inference" / "results.json").read_text()


def test_pixel_decoder_and_transformer_decoder(package, train):
    package.write(DECODERS)
    output = train(package.config(MASKS))
    assert {"loss_ce", "loss_mask", "loss_dice"} <= records(output)[0].keys()
    assert "sem_seg_head.predictor.queries.weight" in final_weights(output)
    assert "PQ" in (output / "inference" / "results.json").read_text()


META_ARCHITECTURE = """
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from segzoo.data import TARGETS_REGISTRY


@TARGETS_REGISTRY.register(name="centers")
def add_centers(labels):
    left, top, right, bottom = labels.boxes.T
    return {"centers": torch.from_numpy((left + right) / 2)}


@META_ARCH_REGISTRY.register()
class Counter(torch.nn.Module):
    '''Predicts how many targets an image has, and where the mean of their centers is.'''

    mapper_targets = ("boxes", "centers")

    def __init__(self, cfg):
        super().__init__()
        self.backbone = torch.nn.Conv2d(3, 2, 1)

    def forward(self, inputs):
        if not self.training:
            raise AssertionError
        images = torch.stack([one["image"].float() / 255 for one in inputs])
        count, center = self.backbone(images).mean((2, 3)).unbind(1)
        counts = count.new_tensor([len(one["segment_boxes"]) for one in inputs])
        centers = torch.stack([one["centers"].mean() if len(one["centers"]) else center[0] for one in inputs])
        return {"loss_count": (count - counts).abs().mean(), "loss_center": (center - centers).abs().mean()}
"""


def test_meta_architecture_with_its_own_targets(package, train):
    package.write(META_ARCHITECTURE)
    text = "TASK: instance\nDATASETS: {TEST: []}\nMODEL: {META_ARCHITECTURE: Counter}\nSOLVER: {MAX_ITER: 3}"
    output = train(package.config(text))
    assert all(record["loss_count"] > 0 and record["loss_center"] > 0 for record in records(output))


TASK_OF_ITS_OWN = """
import numpy as np
from segzoo.data import register_task
from segzoo.data.targets import Groups


def largest(segments, is_thing):
    '''The first thing of the image only.'''
    groups = np.full(len(segments.classes), -1)
    things = np.flatnonzero(is_thing[segments.classes] & ~segments.is_crowd)[:1]
    groups[things] = 0
    return Groups(groups, segments.classes[things])


register_task("first_thing", largest, classes="all", target="thing")
"""


SEGMENTS = "DATASETS: {TEST: []}\nINPUT: {TARGETS: [segments]}"


def test_its_own_task(package, shapes, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes))
    package.write(TASK_OF_ITS_OWN)
    from segzoo.data import build_train_loader

    cfg = load_config(package.config(f"TASK: first_thing\n{SEGMENTS}"))
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 11
    for sample in next(iter(build_train_loader(cfg))):
        assert len(sample["segment_classes"]) <= 1
        assert set(sample["segment_map"].unique().tolist()) <= {-1, 0}
    with pytest.raises(InputError, match="TASK 'first_thin' is unknown; did you mean first_thing"):
        load_config(package.config("TASK: first_thin\nDATASETS: {TEST: []}"))


def test_a_model_is_trained_for_the_package_s_own_task(package, shapes, train):
    package.write(TASK_OF_ITS_OWN + DECODERS)
    text = MASKS.replace("TASK: panoptic", "TASK: first_thing\nDATASETS: {TEST: []}")
    with pytest.raises(InputError, match="TASK first_thing: MaskFormer is trained for it") as refused:
        build_model(load_config(package.config(text)))
    key, value = re.search(r'(TEST\.TASKS) "(.*)"$', str(refused.value)).groups()
    output = train(package.config(text), key, value)
    assert {"loss_ce", "loss_mask", "loss_dice"} <= records(output)[0].keys()


def test_a_per_pixel_model_learns_from_labels_of_another_task(package, shapes, train):
    file = package.config("TASK: panoptic\nDATASETS: {TEST: []}", imports=False)
    output = train(file, "TEST.TASKS", "('semantic',)")
    assert records(output)[0]["loss_sem_seg"] > 0


MASK_RCNN = """
TASK: instance
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  MASK_ON: True
  BACKBONE: {NAME: build_resnet_fpn_backbone, OUT_FEATURES: ["res2", "res3"]}
  RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64, OUT_FEATURES: ["res2", "res3", "res4", "res5"], NORM: BN}
  FPN: {IN_FEATURES: ["res2", "res3", "res4", "res5"], OUT_CHANNELS: 16}
  ANCHOR_GENERATOR: {SIZES: [[8], [16], [32], [64], [96]], ASPECT_RATIOS: [[1.0]]}
  RPN: {IN_FEATURES: ["p2", "p3", "p4", "p5", "p6"], POST_NMS_TOPK_TRAIN: 20, POST_NMS_TOPK_TEST: 20}
  ROI_HEADS: {NAME: StandardROIHeads, IN_FEATURES: ["p2", "p3", "p4", "p5"], BATCH_SIZE_PER_IMAGE: 8}
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 1, FC_DIM: 16, POOLER_RESOLUTION: 3}
  ROI_MASK_HEAD: {NAME: MaskRCNNConvUpsampleHead, NUM_CONV: 1, CONV_DIM: 16, POOLER_RESOLUTION: 4}
"""


def test_detectron2s_mask_r_cnn_trains_on_the_same_labels(package, train):
    """Only the data is segzoo's: boxes, classes and masks come from its mapper."""
    file = package.config(MASK_RCNN, imports=False)
    output = train(file, "SOLVER.MAX_ITER", "3")
    for record in records(output)[:3]:
        for name in ("loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"):
            assert math.isfinite(record[name]), name
    # Six thing classes and the background; Detectron2's default are COCO's 80.
    assert final_weights(output)["roi_heads.box_predictor.cls_score.weight"].shape[0] == 7
    results = json.loads((output / "inference" / "results.json").read_text())
    assert "AP" in results["results"]["shapes_val"]["segm"]
    with pytest.raises(InputError, match=r"MODEL\.ROI_HEADS\.NUM_CLASSES 8 but shapes_train has 6"):
        load_config(file, ["MODEL.ROI_HEADS.NUM_CLASSES", "8"])


SOLVER = """
import torch
from segzoo.solver import LR_SCHEDULER_REGISTRY, OPTIMIZER_REGISTRY


class Lion(torch.optim.Optimizer):
    def __init__(self, groups, lr, weight_decay, beta):
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "beta": beta})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    moment = self.state[parameter].setdefault("moment", torch.zeros_like(parameter))
                    moment.lerp_(parameter.grad, 1 - group["beta"])
                    parameter.sub_(moment.sign(), alpha=group["lr"])


@OPTIMIZER_REGISTRY.register(name="Lion")
def lion(cfg):
    return Lion, {"beta": 0.9}


@LR_SCHEDULER_REGISTRY.register(name="Halving")
def halving(cfg):
    return lambda iteration: 0.5**iteration


@LR_SCHEDULER_REGISTRY.register(name="BackboneLater")
def backbone_later(cfg):
    return {"backbone": lambda iteration: float(iteration > 0), "": lambda iteration: 0.5**iteration}
"""


@pytest.mark.parametrize("schedule", ["Halving", "BackboneLater"])
def test_optimizer_and_schedule(package, train, schedule):
    package.write(SOLVER)
    text = f"DATASETS: {{TEST: []}}\nSOLVER: {{OPTIMIZER: LION, LR_SCHEDULER_NAME: {schedule}, MAX_ITER: 3}}"
    output = train(package.config(text))
    rates = [record["lr"] for record in records(output)]
    groups = torch.load(output / "model_final.pth", weights_only=True)["trainer"]["optimizer"]["param_groups"]
    assert all(group["beta"] == 0.9 for group in groups)
    if schedule == "Halving":
        assert rates == pytest.approx([0.01, 0.005, 0.0025])
        return
    first = records(output)[0]
    assert (first["lr_backbone_x1"], first["lr_x1"]) == (0.0, 0.01)
    of_part = {group.get("schedule", ""): group["lr"] for group in groups}
    assert of_part == pytest.approx({"backbone": 0.01, "": 0.01 / 8})
    for group in groups:
        inside = {name.startswith("backbone.") for name in group["names"]}
        assert inside == {group.get("schedule") == "backbone"}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SOLVER.OPTIMIZER", "Lio", "SOLVER.OPTIMIZER 'Lio' is unknown; did you mean Lion?"),
        (
            "SOLVER.LR_SCHEDULER_NAME",
            "Halfing",
            "SOLVER.LR_SCHEDULER_NAME 'Halfing' is unknown; did you mean",
        ),
        ("TRAINER", "Trainr", "TRAINER 'Trainr' is unknown; did you mean Trainer?"),
        ("INPUT.TARGETS", '("boxs",)', "INPUT.TARGETS 'boxs' is unknown; did you mean boxes?"),
    ],
)
def test_a_misspelt_name_is_one_line_before_anything_is_built(
    package, shapes, monkeypatch, capsys, key, value, message
):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes))
    package.write(SOLVER)
    output = package.folder / "out"
    arguments = ["--config-file", str(package.config()), key, value, "OUTPUT_DIR", str(output)]
    monkeypatch.setattr("segzoo.engine.trainer.build_model", None)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()
    assert config_command.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_names_of_the_package_are_known_where_a_configuration_is_printed(package, capsys):
    package.write(SOLVER)
    given = ["SOLVER.OPTIMIZER", "LION", "SOLVER.LR_SCHEDULER_NAME", "Halving"]
    assert config_command.main(["--config-file", str(package.config()), *given]) == 0
    assert "OPTIMIZER: LION" in capsys.readouterr().out


def test_mask2formers_spelling_of_adamw_is_the_same_optimizer(package, train):
    output = train(package.config("DATASETS: {TEST: []}\nSOLVER: {OPTIMIZER: ADAMW}", imports=False))
    state = torch.load(output / "model_final.pth", weights_only=True)["trainer"]
    assert state["optimizer_name"] == "AdamW"


def test_the_batch_of_a_mask_r_cnn_whose_loss_is_not_finite_can_be_replayed(package, train):
    """Its targets are objects of Detectron2, which files of weights may not hold."""
    from segzoo.cli.nonfinite_replay import read_capsule
    from segzoo.engine import NonFiniteLossError

    with pytest.raises(NonFiniteLossError):
        train(package.config(MASK_RCNN, imports=False), "SOLVER.BASE_LR", "1e30", "SOLVER.MAX_ITER", "9")
    (file,) = (package.folder / "output").glob("nonfinite_*.pth")
    instances = read_capsule(str(file))["batch"][0]["instances"]
    assert instances.gt_masks.tensor.shape[1:] == instances.image_size
    assert len(instances.gt_boxes) == len(instances.gt_classes)
