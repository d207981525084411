"""The complete names of EntitySeg's published files, written from the architecture, and where they go."""

import shlex

import pytest
import torch
from detectron2.modeling import build_model

from segzoo.checkpoint import SegzooCheckpointer
from segzoo.checkpoint.key_maps import DERIVED, matches
from segzoo.cli.prepare.shapes import make_shapes
from segzoo.engine import Trainer
from segzoo.engine.model_description import classes_metadata, describe_checkpoint
from segzoo.model_zoo import load_config
from segzoo.projects.entityseg.key_map import ENTITYSEG
from segzoo.utils.errors import InputError

NORM = ("weight", "bias", "running_mean", "running_var")


def pair(name, *shape, rows=None):
    """weight and bias"""
    return {f"{name}.weight": shape, f"{name}.bias": (rows or shape[0],)}


def resnet(depths, deformable=()):
    shapes = {"stem.conv1.weight": (64, 3, 7, 7), **{f"stem.conv1.norm.{part}": (64,) for part in NORM}}
    before = 64
    for stage, depth in enumerate(depths):
        inner, outer = 64 * 2**stage, 256 * 2**stage
        for block in range(depth):
            prefix = f"res{stage + 2}.{block}"
            layers = {
                "conv1": (inner, before, 1, 1),
                "conv2": (inner, inner, 3, 3),
                "conv3": (outer, inner, 1, 1),
            }
            if block == 0:
                layers["shortcut"] = (outer, before, 1, 1)
            for layer, shape in layers.items():
                shapes[f"{prefix}.{layer}.weight"] = shape
                shapes |= {f"{prefix}.{layer}.norm.{part}": shape[:1] for part in NORM}
            if stage + 2 in deformable:
                shapes |= pair(f"{prefix}.conv2_offset", 27, inner, 3, 3)
            before = outer
    return shapes, (256, 512, 1024, 2048)


def swin(width, depths, heads, window):
    shapes = {**pair("patch_embed.proj", width, 3, 4, 4), **pair("patch_embed.norm", width)}
    for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        size = width * 2**stage
        for block in range(depth):
            prefix = f"layers.{stage}.blocks.{block}"
            shapes |= pair(f"{prefix}.norm1", size) | pair(f"{prefix}.norm2", size)
            shapes |= pair(f"{prefix}.attn.qkv", 3 * size, size) | pair(f"{prefix}.attn.proj", size, size)
            shapes |= pair(f"{prefix}.mlp.fc1", 4 * size, size) | pair(f"{prefix}.mlp.fc2", size, 4 * size)
            shapes[f"{prefix}.attn.relative_position_bias_table"] = ((2 * window - 1) ** 2, count)
            shapes[f"{prefix}.attn.relative_position_index"] = (window**2, window**2)
        if stage < 3:
            shapes |= pair(f"layers.{stage}.downsample.norm", 4 * size)
            shapes[f"layers.{stage}.downsample.reduction.weight"] = (2 * size, 4 * size)
        shapes |= pair(f"norm{stage}", size)
    return shapes, tuple(width * 2**stage for stage in range(4))


def mit(widths, depths):
    shapes, before = {}, 3
    for index, (size, depth, reduction) in enumerate(zip(widths, depths, (8, 4, 2, 1), strict=True)):
        kernel = 3 if index else 7
        shapes |= pair(f"patch_embed{index + 1}.proj", size, before, kernel, kernel)
        shapes |= pair(f"patch_embed{index + 1}.norm", size) | pair(f"norm{index + 1}", size)
        for block in range(depth):
            prefix = f"block{index + 1}.{block}"
            shapes |= pair(f"{prefix}.norm1", size) | pair(f"{prefix}.norm2", size)
            shapes |= pair(f"{prefix}.attn.q", size, size) | pair(f"{prefix}.attn.kv", 2 * size, size)
            shapes |= pair(f"{prefix}.attn.proj", size, size)
            if reduction > 1:
                shapes |= pair(f"{prefix}.attn.sr", size, size, reduction, reduction)
                shapes |= pair(f"{prefix}.attn.norm", size)
            shapes |= pair(f"{prefix}.mlp.fc1", 4 * size, size) | pair(f"{prefix}.mlp.fc2", size, 4 * size)
            shapes |= pair(f"{prefix}.mlp.dwconv.dwconv", 4 * size, 1, 3, 3)
        before = size
    return shapes, tuple(widths)


BACKBONES = {
    "r50": (resnet, ((3, 4, 6, 3),), 388),
    "r50_baseline": (resnet, ((3, 4, 6, 3),), 388),
    "r101": (resnet, ((3, 4, 23, 3),), 643),
    "r101_dcnv2_3x": (resnet, ((3, 4, 23, 3), (3, 4, 5)), 703),
    "swin_tiny": (swin, (96, (2, 2, 6, 2), (3, 6, 12, 24), 7), 312),
    "swin_large_224_in21k": (swin, (192, (2, 2, 18, 2), (6, 12, 24, 48), 7), 480),
    "swin_large_in21k_3x": (swin, (192, (2, 2, 18, 2), (6, 12, 24, 48), 12), 480),
    "mit_b0": (mit, ((32, 64, 160, 256), (2, 2, 2, 2)), 299),
    "mit_b5": (mit, ((64, 128, 320, 512), (3, 6, 40, 3)), 1175),
}


def published(name):
    """Return {name: shape} of a published file."""
    build, arguments, _ = BACKBONES[name]
    network, widths = build(*arguments)
    shapes = {f"backbone.bottom_up.{key}": shape for key, shape in network.items()}
    for level, width in zip((2, 3, 4, 5), widths, strict=True):
        shapes |= pair(f"backbone.fpn_lateral{level}", 256, width, 1, 1)
        shapes |= pair(f"backbone.fpn_output{level}", 256, 256, 3, 3)
    shapes |= pair("backbone.top_block.p6", 256, 2048 if build is resnet else 256, 3, 3)
    shapes |= pair("backbone.top_block.p7", 256, 256, 3, 3)
    head = "det_head.fcos_head."
    for tower in ("cls_tower", "bbox_tower"):
        for index in (0, 3, 6, 9):
            shapes |= pair(f"{head}{tower}.{index}", 256, 256, 3, 3)
            shapes |= pair(f"{head}{tower}.{index + 1}", 256)
    shapes |= pair(f"{head}cls_logits", 1, 256, 3, 3)
    shapes |= {f"{head}bbox_pred.weight": (4, 256, 3, 3), f"{head}ctrness.weight": (1, 256, 3, 3)}
    shapes |= {f"{head}scales.{level}.scale": (1,) for level in range(5)}
    for index, width in ((1, 258), (2, 256), (3, 256)):
        layer = f"controller.kernel_head.kernel_head_head_{index}"
        shapes |= {f"{layer}.weight": (256, width, 3, 3), **pair(f"{layer}.norm", 256)}
    shapes |= pair("controller.out_conv", 169, 256, 3, 3)
    for part, index, width in (
        *(("refine", index, 256) for index in range(3)),
        *(("tower", index, 128) for index in range(4)),
    ):
        shapes[f"mask_branch.{part}.{index}.0.weight"] = (128, width, 3, 3)
        shapes |= {f"mask_branch.{part}.{index}.1.{one}": (128,) for one in NORM}
        shapes[f"mask_branch.{part}.{index}.1.num_batches_tracked"] = ()
    shapes |= pair("mask_branch.tower.4", 8, 128, 1, 1)
    shapes |= pair("mask_head.stable.0.0", 8, 10, 3, 3) | pair("mask_head.stable.1.0", 8, 8, 3, 3)
    shapes |= pair("mask_head.stable.2", 1, 8, 3, 3)
    shapes["mask_head.sizes_of_interest"] = (5,)
    return shapes


def config(name, *overrides):
    return load_config(f"entity/coco/entityseg_{name}", [*overrides])


@pytest.mark.parametrize("name", BACKBONES)
def test_every_name_of_a_published_file_has_a_place_or_is_known_not_to_be_needed(name):
    shapes = published(name)
    assert len(shapes) == BACKBONES[name][2]
    assert ENTITYSEG.fits(shapes)
    with torch.device("meta"):
        own = build_model(config(name, "MODEL.DEVICE", "meta")).state_dict()
    placed = {ENTITYSEG.rename(key): key for key in shapes if ENTITYSEG.rename(key) in own}
    left = {key for key in shapes if key not in placed.values()}
    assert {key for key in left if not matches(key, (*ENTITYSEG.extras, *DERIVED))} == set()
    assert {key for key in own if key not in placed} == set()
    assert {key: tuple(own[key].shape) for key in own} == {key: shapes[placed[key]] for key in own}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file of EntitySeg with MiT-B0, as Detectron2's trainer saves it."""
    generator = torch.Generator().manual_seed(0)
    weights = {key: torch.rand(shape, generator=generator) for key, shape in published("mit_b0").items()}
    path = tmp_path_factory.mktemp("published") / "model_final.pth"
    torch.save({"model": weights, "optimizer": {"state": {}}, "scheduler": {}, "iteration": 89999}, path)
    return str(path), weights


def load(name, path):
    cfg = config(name, "MODEL.DEVICE", "cpu")
    model = build_model(cfg)
    checkpointer = SegzooCheckpointer(model, description=describe_checkpoint(cfg, classes_metadata(cfg)))
    checkpointer.resume_or_load(path, resume=False)
    return model, checkpointer.report


def test_a_published_file_is_loaded_whole(file):
    path, weights = file
    model, report = load("mit_b0", path)
    report.require_complete()
    assert (report.source, report.missing, report.unexpected) == ("EntitySeg", [], [])
    own = model.state_dict()
    for ours, theirs in {
        "backbone.block1.0.attn.q.weight": "backbone.bottom_up.block1.0.attn.q.weight",
        "neck.lateral.p3.bias": "backbone.fpn_lateral3.bias",
        "neck.top_block.p6.weight": "backbone.top_block.p6.weight",
        "fcos_head.bbox_tower.9.weight": "det_head.fcos_head.bbox_tower.9.weight",
        "fcos_head.scales.4": "det_head.fcos_head.scales.4.scale",
        "kernel_head.convs.0.norm.bias": "controller.kernel_head.kernel_head_head_1.norm.bias",
        "kernel_head.predictor.bias": "controller.out_conv.bias",
        "mask_branch.refine.2.norm.running_var": "mask_branch.refine.2.1.running_var",
        "mask_branch.tower.3.weight": "mask_branch.tower.3.0.weight",
        "mask_branch.predictor.weight": "mask_branch.tower.4.weight",
        "mask_network.bank.1.weight": "mask_head.stable.1.0.weight",
        "mask_network.bank.2.bias": "mask_head.stable.2.bias",
    }.items():
        assert torch.equal(own[ours], weights[theirs]), ours


def test_a_published_file_is_not_evaluated_with_another_input(file):
    """The authors' files need BGR images minus the mean, whatever their backbones were pre-trained on."""
    path, _ = file
    cfg = config("mit_b2_rgb", "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.VARIANT", "b0", "MODEL.WEIGHTS", path)
    model = build_model(cfg)
    checkpointer = SegzooCheckpointer(model, description=describe_checkpoint(cfg, classes_metadata(cfg)))
    checkpointer.resume_or_load(path, resume=False)
    with pytest.raises(
        InputError, match=r"trained for another config than this one \(image_format: 'BGR' vs"
    ):
        checkpointer.report.require_complete()


def test_training_from_a_file_of_another_input_is_refused_with_the_overrides_for_it(
    file, tmp_path, monkeypatch
):
    path, _ = file
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    make_shapes(tmp_path / "shapes", train=2, val=1, size=64, workers=0)
    data = ["DATASETS.TRAIN", "('shapes_train',)", "DATASETS.TEST", "()", "OUTPUT_DIR", str(tmp_path / "run")]
    model = ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.VARIANT", "b0", "DATALOADER.NUM_WORKERS", "0"]
    cfg = config("mit_b2_rgb", *model, *data, "SOLVER.IMS_PER_BATCH", "1", "MODEL.WEIGHTS", path)
    trainer = Trainer(cfg)
    message = r"^training: .* another input than this config's \(image_format: 'BGR' vs 'RGB'\)"
    with pytest.raises(InputError, match=message) as error:
        trainer.resume_or_load(resume=False)
    assert "\n" not in str(error.value)
    overrides = shlex.split(str(error.value).rpartition("its input: ")[2])
    assert overrides[::2] == ["INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"]
    trainer.checkpointer.description = describe(cfg.clone(), overrides)
    trainer.resume_or_load(resume=False)
    # From segzoo's file of the other input, likewise.
    there = SegzooCheckpointer(trainer.model, str(tmp_path), description=trainer.checkpointer.description)
    there.save("own")
    trainer.checkpointer.description = describe(cfg.clone(), [])
    trainer.cfg = cfg.clone()
    trainer.cfg.defrost()
    trainer.cfg.MODEL.WEIGHTS = str(tmp_path / "own.pth")
    with pytest.raises(InputError, match=message):
        trainer.resume_or_load(resume=False)


def describe(cfg, overrides):
    cfg.defrost()
    cfg.merge_from_list(overrides)
    return describe_checkpoint(cfg, classes_metadata(cfg))
