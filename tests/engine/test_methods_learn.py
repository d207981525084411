"""Every method learns: on generated data its loss falls, gradients reach all of it, and it can be evaluated.

A method is a file of configs/_base_/methods/; new files are found automatically. A file that only changes
methods, such as jpu.yaml, is tested on top of one. Networks are made small; nothing else is changed.
"""

import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import EventStorage

from segzoo.cli.prepare.shapes import make_shapes
from segzoo.config.files import config_root
from segzoo.data import build_train_loader
from segzoo.engine import Trainer, evaluate
from segzoo.model_zoo import load_config
from segzoo.modeling import as_segmentor
from segzoo.modeling.backbones import mit, swin, wide_resnet
from segzoo.modeling.per_pixel import PerPixelSegmentor, meta_arch
from segzoo.solver import build_optimizer
from segzoo.utils.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]
BASES = config_root() / "_base_"
METHODS = sorted(file.stem for file in (BASES / "methods").glob("*.yaml"))
# The method that a file without META_ARCHITECTURE is tested on.
CHANGED_METHOD = "pspnet"

STEPS = 20
# Of a model whose heads learn from boxes that it has to find first.
STEPS_OF_DETECTORS = 40
IMAGES = 4
# Input sizes to choose from: some methods need 8 k + 1.
SIDES = (64, 65)
CHANNELS = 32
BASE_LR = 0.002
HEAD_MULTIPLIER = 2.0

# Backbones for methods that name none, by the beginning of their names.
CONVOLUTIONAL = ("ResNetBackbone", "r18_quarter")
NATURAL_BACKBONES = {
    "segformer": ("MixTransformer", "small"),
    "upernet": ("SwinTransformer", "small"),
    "deeplabv3plus_vplr": ("WideResNetBackbone", "wrn38"),
    "deeplabv3plus_gluon": ("WideResNetBackbone", "wrn38"),
}
# Further keys, by the beginning of methods' names. Inputs of SIDES pixels have no location on p6 and p7, and
# contain no anchor of the usual sizes above p2.
CHANGES = {
    "mask_rcnn_gluon_fpn": {"MODEL.ANCHOR_GENERATOR.SIZES": "[[8], [12], [16], [24], [32]]"},
    "entityseg": {
        "MODEL.FPN.TOP_BLOCK": "",
        "MODEL.FPN.OUT_FEATURES": "('p3', 'p4', 'p5')",
        "MODEL.ENTITYSEG.SIZE_RANGES": "(16, 32)",
    },
}
# Seeds of initial weights. With seed 0 the final masks of things are negative everywhere, and the ReLU that
# they end with passes no gradient.
SEEDS = {"panoptic_segformer": 1}
# Small variants under names that methods or NATURAL_BACKBONES use.
SMALL_VARIANTS = (
    (mit.MIT_VARIANTS, "small", mit.PyramidVariant((16, 32, 48, 64), (1, 1, 1, 1), (1, 2, 3, 4))),
    (swin.VARIANTS, "small", swin.SwinVariant(24, (2, 1, 1, 1), (1, 2, 4, 8), 4)),
    (wide_resnet.VARIANTS, "wrn38", wide_resnet.WideResNetVariant((1, 1, 1, 1, 1, 1), width=8)),
)

# Sections of Detectron2's own networks.
DETECTRON2_SECTIONS = {key for key, value in get_cfg().MODEL.items() if isinstance(value, dict)} - {
    "BACKBONE",
    "SEM_SEG_HEAD",
}

# Gradients of weights are larger than this. A bias may have less: a softmax or a norm after it removes
# constants, and rounding errors remain.
ROUNDING = 1e-7


class Run(NamedTuple):
    """Result of some steps on one batch: losses per step, and the largest gradient by parameter."""

    cfg: CfgNode
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    losses: list[float]
    gradients: dict[str, float]
    strangers: int  # tensors that the loss depends on and that require gradients, but are no parameters
    results: dict  # results of the evaluation afterwards


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with the generated dataset, and small variants of the backbones."""
    folder = tmp_path_factory.mktemp("methods")
    patch = pytest.MonkeyPatch()
    patch.setenv("DETECTRON2_DATASETS", str(folder))
    make_shapes(folder / "shapes", train=IMAGES, val=2, size=SIDES[0], workers=0)
    for table, name, variant in SMALL_VARIANTS:
        patch.setitem(table, name, variant)
    yield folder
    patch.undo()


def smaller(section: CfgNode, prefix: str, read: Collection[str]) -> list:
    """Return overrides that make a network small: its channels, layers, queries, boxes, sampled points.

    Args:
        read: the sections of Detectron2's own networks that the method reads.
    """
    limits = {"DEC_LAYERS": 2, "TRANSFORMER_ENC_LAYERS": 1, "NUM_OBJECT_QUERIES": 15, "TRAIN_NUM_POINTS": 256}
    limits |= {"ENC_LAYERS": 1, "THING_LAYERS": 2, "STUFF_LAYERS": 2}
    limits |= {"BATCH_SIZE_PER_IMAGE": 16, "PRE_NMS_TOPK_TRAIN": 100, "POST_NMS_TOPK_TRAIN": 40}
    limits |= {"PRE_NMS_TOPK_TEST": 100, "POST_NMS_TOPK_TEST": 40}
    overrides = []
    for key, value in section.items():
        if prefix == "MODEL" and key in DETECTRON2_SECTIONS and key not in read:
            continue
        limit = CHANNELS if re.search(r"(DIM|CHANNELS|FEEDFORWARD)$", key) else limits.get(key)
        if isinstance(value, CfgNode):
            overrides += smaller(value, f"{prefix}.{key}", read)
        elif limit is not None and isinstance(value, tuple | list):
            overrides += [f"{prefix}.{key}", str(tuple(min(number, limit) for number in value))]
        elif limit is not None and value:
            overrides += [f"{prefix}.{key}", str(min(value, limit))]
    return overrides


def method_config(method: str, folder: Path, side: int) -> CfgNode:
    """Return the config of a method on its view of Shapes, for inputs of side x side pixels.

    It is the semantic one, or the one of the first task that the method supports.
    """
    model = CfgNode.load_yaml_with_base(str(BASES / f"methods/{method}.yaml"))["MODEL"]
    supported = META_ARCH_REGISTRY.get(model.get("META_ARCHITECTURE", "PerPixelSegmentor")).supported_tasks
    task = "semantic" if "semantic" in supported else next(iter(supported))
    files = [BASES / f"datasets/shapes_{task}.yaml", BASES / f"methods/{method}.yaml"]
    files.append(BASES / "recipes/segzoo/shapes.yaml")
    if "META_ARCHITECTURE" not in model:
        files.insert(1, BASES / "methods" / f"{CHANGED_METHOD}.yaml")
    file = folder / f"{method}.yaml"
    file.write_text("_BASE_:\n" + "".join(f"  - {base}\n" for base in files))
    overrides = []
    if "NAME" not in model.get("BACKBONE", {}):
        names = [pair for start, pair in NATURAL_BACKBONES.items() if method.startswith(start)]
        name, variant = next(iter(names), CONVOLUTIONAL)
        overrides += ["MODEL.BACKBONE.NAME", name, "MODEL.BACKBONE.VARIANT", variant]
        if (name, variant) == CONVOLUTIONAL:
            overrides += ["MODEL.BACKBONE.NORM", "BN"]
    overrides += smaller(load_config(file).MODEL, "MODEL", model)
    overrides += ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(folder / method), "SEED", "1"]
    overrides += ["INPUT.CROP_SIZE", f"({side}, {side})", "INPUT.MIN_SIZE_TRAIN", f"[{side}]"]
    # Evaluated on the training images: a few steps show there.
    overrides += ["DATASETS.TEST", "('shapes_train',)"]
    overrides += ["SOLVER.IMS_PER_BATCH", str(IMAGES), "DATALOADER.NUM_WORKERS", "0"]
    overrides += ["SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", str(BASE_LR)]
    overrides += ["SOLVER.HEAD_MULTIPLIER", str(HEAD_MULTIPLIER)]
    if task == "semantic":
        # Windows of the training size, which some methods require.
        overrides += ["TEST.PROTOCOL", "semseg_ss", "TEST.INFERENCE.BASE_SIZE", str(side)]
        overrides += ["TEST.INFERENCE.CROP_SIZE", f"({side}, {side})"]
    else:
        overrides += ["INPUT.MIN_SIZE_TEST", str(side)]
    changes = next((keys for start, keys in CHANGES.items() if method.startswith(start)), {})
    overrides += [word for pair in changes.items() for word in pair]
    return load_config(file, overrides)


def build(method: str, folder: Path) -> tuple[CfgNode, torch.nn.Module]:
    """Build the model with the first of SIDES that it accepts."""
    refusals = []
    for side in SIDES:
        cfg = method_config(method, folder, side)
        torch.manual_seed(SEEDS.get(method, 0))
        try:
            model = Trainer.build_model(cfg)
            check = getattr(getattr(model, "sem_seg_head", None), "check_crop", None)
            if check is not None:
                check(side, side)
        except InputError as error:
            refusals.append(str(error))
        else:
            return cfg, model
    raise AssertionError(f"{method} accepts no size of {SIDES}: {refusals}")


def leaves(loss: torch.Tensor) -> list[torch.Tensor]:
    """Return the tensors that a backward pass from the loss would give gradients to."""
    found, seen, waiting = [], set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [following for following, _ in node.next_functions]
    return found


@pytest.fixture(scope="module", params=METHODS)
def run(request, workspace) -> Run:
    """Return the results of a method after STEPS updates with the same batch, and of its evaluation."""
    cfg, model = build(request.param, workspace)
    optimizer = build_optimizer(cfg, model)
    batch = next(iter(build_train_loader(cfg)))
    losses, gradients, strangers = [], {}, 0
    model.train()
    with EventStorage():
        for _ in range(STEPS if as_segmentor(model).fixed_shapes else STEPS_OF_DETECTORS):
            loss = sum(model(batch).values())
            if not losses:
                registered = {id(parameter) for parameter in model.parameters()}
                strangers = sum(id(leaf) not in registered for leaf in leaves(loss))
            optimizer.zero_grad()
            loss.backward()
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    size = parameter.grad.abs().max().item()
                    # Keeps a non-finite gradient, which max() could drop.
                    gradients[name] = max(gradients.get(name, 0.0), size if math.isfinite(size) else math.inf)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            losses.append(loss.item())
    return Run(cfg, model, optimizer, losses, gradients, strangers, evaluate(cfg, model))


def test_the_loss_falls(run):
    assert all(math.isfinite(loss) for loss in run.losses)
    first, last = run.losses[0], sum(run.losses[-3:]) / 3
    assert last < 0.8 * first, run.losses


def test_gradients_reach_every_trainable_parameter(run):
    trainable = [name for name, parameter in run.model.named_parameters() if parameter.requires_grad]
    assert len(trainable) > 10
    assert [name for name in trainable if name not in run.gradients] == []
    assert [name for name in trainable if math.isinf(run.gradients[name])] == []
    weights = [name for name in trainable if not name.endswith("bias")]
    assert [name for name in weights if run.gradients[name] < ROUNDING] == []


def test_every_trainable_tensor_is_a_parameter_of_the_model(run):
    assert run.strangers == 0


def test_every_trainable_parameter_is_optimized_once_and_heads_with_their_multiplier(run):
    rates = {}
    for group in run.optimizer.param_groups:
        for parameter in group["params"]:
            rates.setdefault(id(parameter), []).append(group["lr"])
    for name, parameter in run.model.named_parameters():
        if parameter.requires_grad:
            factor = 1.0 if name.startswith("backbone.") else HEAD_MULTIPLIER
            assert rates.pop(id(parameter), []) == pytest.approx([BASE_LR * factor]), name
    assert rates == {}


def test_evaluation_improves_after_training(run):
    if "segm" in run.results:
        assert 0 < run.results["segm"]["AP50"] <= 100
        return
    if "entity_seg" in run.results:
        assert 0 < run.results["entity_seg"]["AP50"] <= 100
        return
    metrics = run.results["sem_seg"]
    assert 0 < metrics["mIoU"] <= 100
    chance = 100 / run.cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    assert chance < metrics["aAcc"] <= 100


def test_the_layout_of_images_changes_no_output(run, monkeypatch):
    """On a GPU's tensor cores images have their channels last, see `tensor_core_layout`."""
    if not isinstance(run.model, PerPixelSegmentor):
        pytest.skip("models of other families have channels last on AMD's CPUs")
    side = run.cfg.INPUT.CROP_SIZE[0]
    pixels = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 255
    run.model.eval()
    seen = []

    def channels_last(images):
        seen.append(images.shape)
        return images.contiguous(memory_format=torch.channels_last)

    with torch.no_grad():
        expected = run.model.batch_outputs(pixels)
        monkeypatch.setattr(meta_arch, "tensor_core_layout", channels_last)
        actual = run.model.batch_outputs(pixels)
    assert seen
    for name, output in expected.items():
        torch.testing.assert_close(actual[name], output, rtol=1e-4, atol=1e-4)


def test_a_step_in_bfloat16_has_the_losses_of_single_precision_to_rounding(run):
    if not as_segmentor(run.model).fixed_shapes:
        pytest.skip("boxes that rounding changes change the losses")
    batch = next(iter(build_train_loader(run.cfg)))
    run.model.train()
    sums = []
    for enabled in (False, True):
        torch.manual_seed(0)
        run.model.zero_grad()
        with EventStorage(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = sum(run.model(batch).values())
        loss.backward()
        sums.append(loss.item())
        gradients = [weight.grad for weight in run.model.parameters() if weight.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert {gradient.dtype for gradient in gradients} == {torch.float32}
    assert sums[1] == pytest.approx(sums[0], rel=0.1)
