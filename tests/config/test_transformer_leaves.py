"""Recipes of the transformer models, typed from papers and released settings, against the leaves."""

from dataclasses import dataclass, replace

import pytest
import torch
from detectron2.modeling import build_model

from segzoo.config.files import config_root
from segzoo.model_zoo import load_config
from segzoo.modeling.protocols import build_inference_protocol
from segzoo.solver import build_optimizer
from tests.config.test_dataset_leaves import OTHERS

METHODS = ("segformer", "upernet", "per_pixel_baseline", "maskformer")


@dataclass(frozen=True)
class Recipe:
    """What decides a training and a test. Sizes are (height, width), test sizes (short, long side)."""

    batch: int
    iterations: int
    crop: tuple[int, int]
    test: tuple[int, int]
    drop_path: float = 0.0
    protocol: str = ""
    tta: tuple[int, ...] = ()
    lr: float = 6e-5
    weight_decay: float = 0.01
    warmup: tuple[int, float] = (1500, 1e-6)
    power: float = 1.0
    head_multiplier: float = 1.0
    backbone_multiplier: float = 1.0
    clip: float = 0.0
    largest_category: float = 1.0


def segformer(batch: int, iterations: int, crop: int, test: tuple[int, int], protocol: str) -> Recipe:
    """local_configs/segformer/*: AdamW 6e-5, heads tenfold, 1500 iterations of warm-up, poly 1.0."""
    return Recipe(
        batch,
        iterations,
        (crop, crop),
        test,
        drop_path=0.1,
        protocol=protocol,
        head_multiplier=10.0,
        largest_category=0.75,
    )


def upernet(drop_path: float) -> Recipe:
    """Swin and CSWin: as SegFormer, but the heads learn as fast as the backbone."""
    return Recipe(
        16, 160_000, (512, 512), (512, 2048), drop_path, protocol="mmseg_whole", largest_category=0.75
    )


def maskformer(
    batch: int, iterations: int, crop: tuple[int, int], test: tuple[int, int], *tta: int
) -> Recipe:
    """ResNets: AdamW 1e-4, a tenth of it for the backbone, clipped gradients, poly 0.9, no warm-up."""
    return Recipe(
        batch,
        iterations,
        crop,
        test,
        tta=tta,
        lr=1e-4,
        weight_decay=1e-4,
        warmup=(0, 1.0),
        power=0.9,
        backbone_multiplier=0.1,
        clip=0.01,
    )


SEGFORMER_ADE = segformer(16, 160_000, 512, (512, 2048), "segformer")
SEGFORMER_CITYSCAPES = segformer(8, 160_000, 1024, (1024, 2048), "segformer_cityscapes")
SEGFORMER_COCO_STUFF = segformer(16, 80_000, 512, (512, 2048), "segformer")
VOLO_CITYSCAPES = replace(upernet(0.0), batch=8, crop=(1024, 1024), test=(1024, 2048), protocol="mmseg_slide")
ADE = maskformer(16, 160_000, (512, 512), (512, 2048), 256, 384, 512, 640, 768, 896)
ADE_SWIN = replace(
    ADE, drop_path=0.3, lr=6e-5, weight_decay=0.01, warmup=(1500, 1e-6), backbone_multiplier=1.0
)
ADE_SWIN_640 = replace(ADE_SWIN, crop=(640, 640), test=(640, 2560), tta=(320, 480, 640, 800, 960, 1120))
ADE_FULL = maskformer(16, 200_000, (512, 512), (512, 2048))
COCO_STUFF_10K = maskformer(32, 60_000, (640, 640), (640, 2560), 320, 480, 640, 800, 960, 1120)
CITYSCAPES = maskformer(16, 90_000, (512, 1024), (1024, 2048), 512, 768, 1024, 1280, 1536, 1792)
MAPILLARY = maskformer(16, 300_000, (1280, 1280), (2048, 2048))

RECIPES = {
    **{f"ade20k/segformer_mit_b{size}": SEGFORMER_ADE for size in range(5)},
    "ade20k/segformer_mit_b5": replace(SEGFORMER_ADE, crop=(640, 640), test=(640, 2048)),
    **{f"cityscapes/segformer_mit_b{size}": SEGFORMER_CITYSCAPES for size in range(6)},
    **{f"coco_stuff/segformer_mit_b{size}": SEGFORMER_COCO_STUFF for size in range(6)},
    "camvid/segformer_mit_b0": segformer(8, 10_000, 352, (360, 1440), "segformer"),
    **{f"ade20k/upernet_swin_{size}": upernet(0.3) for size in ("tiny", "small", "base")},
    "ade20k/upernet_cswin_tiny": upernet(0.3),
    "ade20k/upernet_cswin_small": upernet(0.4),
    "ade20k/upernet_cswin_base": upernet(0.6),
    "ade20k/upernet_volo_d1": upernet(0.1),
    "ade20k/upernet_volo_d3": upernet(0.5),
    "ade20k/upernet_volo_d5": upernet(0.5),
    "cityscapes/upernet_volo_d1": replace(VOLO_CITYSCAPES, drop_path=0.1),
    "cityscapes/upernet_volo_d4": replace(VOLO_CITYSCAPES, drop_path=0.5),
    **{f"ade20k/maskformer_{backbone}": ADE for backbone in ("r50", "r101", "r101c")},
    **{f"ade20k/maskformer_swin_{size}": ADE_SWIN for size in ("tiny", "small")},
    **{f"ade20k/maskformer_swin_{size}_in21k": ADE_SWIN_640 for size in ("base", "large")},
    **{f"ade20k_full/maskformer_{backbone}": ADE_FULL for backbone in ("r50", "r101", "r101c")},
    **{f"coco_stuff_10k/maskformer_{backbone}": COCO_STUFF_10K for backbone in ("r50", "r101", "r101c")},
    **{f"cityscapes/maskformer_{backbone}": CITYSCAPES for backbone in ("r101", "r101c")},
    "mapillary_vistas/maskformer_r50": MAPILLARY,
    **{
        f"{dataset}/per_pixel_baseline{kind}_r50": recipe
        for dataset, recipe in (
            ("ade20k", ADE),
            ("ade20k_full", ADE_FULL),
            ("coco_stuff_10k", COCO_STUFF_10K),
        )
        for kind in ("", "_plus")
    },
}

# Scales of the released multi-scale tests; those of MMSegmentation in the others.
SCALES = {
    "segformer": (0.75, 0.875, 1.0, 1.125, 1.25),
    "segformer_cityscapes": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
    "mmseg_whole": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75),
    "mmseg_slide": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75),
}
CLASSES = {
    "ade20k": 150,
    "ade20k_full": 847,
    "camvid": 11,
    "cityscapes": 19,
    "coco_stuff": 171,
    "coco_stuff_10k": 171,
    "mapillary_vistas": 65,
}


def leaf(name: str, *overrides):
    return load_config(f"semantic/{name}", ["MODEL.DEVICE", "meta", *overrides])


def test_every_leaf_of_these_methods_is_typed_here():
    root = config_root() / "semantic"
    files = {
        str(file.relative_to(root).with_suffix(""))
        for method in METHODS
        for file in root.glob(f"*/{method}_*.yaml")
    }
    own = {name for name in files if name.startswith("camvid/maskformer")}
    # Typed in test_dataset_leaves.py.
    own |= {f"{name}/segformer_mit_b2" for name in ("lip", "cihp", "atr", "mhp_v1", "mhp_v2")} | set(OTHERS)
    assert files - own == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_the_leaf_trains_by_its_published_recipe(name):
    cfg, recipe = leaf(name), RECIPES[name]
    solver = cfg.SOLVER
    assert solver.OPTIMIZER == "AdamW"
    assert (recipe.lr, recipe.weight_decay) == (solver.BASE_LR, solver.WEIGHT_DECAY)
    assert (solver.WEIGHT_DECAY_NORM, solver.WEIGHT_DECAY_EMBED) == (0.0, 0.0)
    assert (
        recipe.head_multiplier,
        recipe.backbone_multiplier,
    ) == (solver.HEAD_MULTIPLIER, solver.BACKBONE_MULTIPLIER)
    assert ("WarmupPolyLR", recipe.power) == (solver.LR_SCHEDULER_NAME, solver.POLY_LR_POWER)
    assert recipe.warmup == (solver.WARMUP_ITERS, solver.WARMUP_FACTOR)
    assert (recipe.batch, recipe.iterations) == (solver.IMS_PER_BATCH, solver.MAX_ITER)
    assert bool(recipe.clip) == solver.CLIP_GRADIENTS.ENABLED
    if recipe.clip:
        clip = (solver.CLIP_GRADIENTS.CLIP_TYPE, solver.CLIP_GRADIENTS.CLIP_VALUE)
        assert clip == ("full_model", recipe.clip)
    assert recipe.drop_path == cfg.MODEL.BACKBONE.DROP_PATH_RATE
    assert tuple(cfg.INPUT.CROP_SIZE) == recipe.crop
    assert recipe.largest_category == cfg.INPUT.CROP_SINGLE_CATEGORY_MAX
    assert cfg.INPUT.COLOR_AUG
    assert cfg.INPUT.FLIP_PROB == 0.5
    assert CLASSES[name.split("/")[0]] == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.protocol])
def test_training_and_test_images_are_resized_into_the_same_box(name):
    cfg, recipe = leaf(name), RECIPES[name]
    short, long = recipe.test
    assert cfg.INPUT.AUGMENTATION == "segformer"
    assert tuple(cfg.INPUT.SCALE_RANGE) == (0.5, 2.0)
    assert (short, long) == (cfg.INPUT.BASE_SIZE, cfg.INPUT.MAX_SIZE_TRAIN)
    protocol = build_inference_protocol(cfg)
    assert protocol.name == recipe.protocol
    assert (protocol.base_size, protocol.max_size) == (short, long)
    assert (protocol.scales, protocol.flip) == ((1.0,), False)
    assert protocol.round_to == (32 if recipe.protocol == "segformer" else 1)
    if protocol.mode == "slide":
        assert (protocol.crop_size, protocol.stride) == ((1024, 1024), (768, 768))
    else:
        assert protocol.mode == "whole"
    several = build_inference_protocol(leaf(name, "TEST.PROTOCOL", f"{recipe.protocol}_ms"))
    assert several.scales == SCALES[recipe.protocol]
    assert several.flip
    for fact in ("mode", "base_size", "max_size", "round_to", "crop_size", "stride"):
        assert getattr(several, fact) == getattr(protocol, fact)


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if not recipe.protocol])
def test_maskformer_and_its_baselines_see_short_edges_of_half_to_twice_the_test_size(name):
    cfg, recipe = leaf(name), RECIPES[name]
    short, long = recipe.test
    last = 15 if name.startswith("coco_stuff_10k") else 20
    assert cfg.TEST.PROTOCOL == ""
    assert cfg.INPUT.AUGMENTATION == "semantic"
    assert list(cfg.INPUT.MIN_SIZE_TRAIN) == [short * tenth // 10 for tenth in range(5, last + 1)]
    assert {512: 2048, 640: 2560, 1024: 4096, 2048: 8192}[short] == cfg.INPUT.MAX_SIZE_TRAIN
    assert (short, long) == (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    if recipe.tta:
        assert tuple(cfg.TEST.AUG.MIN_SIZES) == recipe.tta
        assert {512: 3584, 640: 4480, 1024: 4096}[short] == cfg.TEST.AUG.MAX_SIZE
        assert cfg.TEST.AUG.FLIP
    # Cityscapes' images are larger than any crop: nothing is padded.
    assert (not name.startswith("cityscapes")) == cfg.INPUT.PAD_TO_CROP
    divisor = cfg.MODEL.MASK_FORMER if "/maskformer" in name else cfg.MODEL.SEM_SEG_HEAD
    assert (32 if "/maskformer" in name else 0) == divisor.SIZE_DIVISIBILITY


# Name prefix of parameters -> (learning rate, weight decay) of weights, and the weight decay of norms.
RATES = {
    "ade20k/segformer_mit_b0": {"backbone": (6e-5, 0.01, 0.0), "sem_seg_head": (6e-4, 0.01, 0.01)},
    "ade20k/upernet_swin_tiny": {
        "backbone": (6e-5, 0.01, 0.0),
        "sem_seg_head": (6e-5, 0.01, 0.01),
        "auxiliary_head": (6e-5, 0.01, 0.01),
    },
    "ade20k/upernet_cswin_tiny": {"backbone": (6e-5, 0.01, 0.0), "sem_seg_head": (6e-5, 0.01, 0.01)},
    "ade20k_full/maskformer_r50": {"backbone": (1e-5, 1e-4, 0.0), "sem_seg_head": (1e-4, 1e-4, 0.0)},
    "coco_stuff_10k/per_pixel_baseline_plus_r50": {
        "backbone": (1e-5, 1e-4, 0.0),
        "sem_seg_head": (1e-4, 1e-4, 0.0),
    },
}


@pytest.mark.parametrize("name", RATES)
def test_parameters_get_the_learning_rate_and_weight_decay_of_their_part(name):
    cfg = leaf(name)
    with torch.device("meta"):
        model = build_model(cfg)
    kinds = {
        f"{owner}.{key}": type(module)
        for owner, module in model.named_modules()
        for key, _ in module.named_parameters(recurse=False)
    }
    norms = (torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.modules.batchnorm._NormBase)
    seen = set()
    for group in build_optimizer(cfg, model).param_groups:
        for parameter in group["names"]:
            part = parameter.split(".")[0]
            if part not in RATES[name]:
                continue
            lr, decay, norm_decay = RATES[name][part]
            assert group["lr"] == pytest.approx(lr), parameter
            # The released rule of UPerNet goes by names, and the norm of CSWin's embedding is not called so.
            is_norm = issubclass(kinds[parameter], norms) and "stage1_conv_embed" not in parameter
            if is_norm:
                assert group["weight_decay"] == norm_decay, parameter
                seen.add((part, "norm"))
            elif parameter.endswith(".weight") and not issubclass(kinds[parameter], torch.nn.Embedding):
                assert group["weight_decay"] == decay, parameter
                seen.add((part, "weight"))
    frozen = {("backbone", "norm")} if name.endswith("r50") else set()
    assert seen == {(part, kind) for part in RATES[name] for kind in ("norm", "weight")} - frozen


def test_swin_base_has_windows_of_7_under_upernet_and_of_12_under_maskformer():
    assert leaf("ade20k/upernet_swin_base").MODEL.BACKBONE.VARIANT == "base"
    assert leaf("ade20k/upernet_swin_base").MODEL.WEIGHTS.endswith("swin_base_patch4_window7_224.pth")
    assert leaf("ade20k/maskformer_swin_base_in21k").MODEL.BACKBONE.VARIANT == "base_384"


@pytest.mark.parametrize("size", range(6))
def test_segformer_heads_have_256_channels_up_to_b1_and_768_from_b2(size):
    for dataset in ("ade20k", "cityscapes", "coco_stuff"):
        cfg = leaf(f"{dataset}/segformer_mit_b{size}")
        assert (256 if size < 2 else 768) == cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM
        assert f"b{size}" == cfg.MODEL.BACKBONE.VARIANT
        assert f"mit_b{size}_" in cfg.MODEL.WEIGHTS
