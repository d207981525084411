"""Configuration files as users of MaskFormer and Mask2Former have them: their keys, written by the tests."""

from pathlib import Path
from typing import Any

import yaml

COMPUTED = "!!python/object/apply:eval"


def nested(values: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *path, leaf = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value
    return tree


def short_edges(size: int, stop: int = 21) -> str:
    """What stands in the place of MIN_SIZE_TRAIN; `write_their_file` makes YAML of it."""
    return f'{COMPUTED} ["[int(x * 0.1 * {size}) for x in range(5, {stop})]"]'


def write_their_file(file: Path, *parts: dict[str, Any], base: str = "") -> Path:
    values: dict[str, Any] = {"_BASE_": base} if base else {}
    for part in parts:
        values |= part
    text = yaml.safe_dump(nested(values), width=1000)
    lines = []
    for line in text.splitlines():
        key, _, value = line.partition(": ")
        lines.append(f"{key}: {value[1:-1]}" if COMPUTED in value else line)
    file.write_text("\n".join(lines) + "\n")
    return file


RESNET = {
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/torchvision/R-50.pkl",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.STEM_TYPE": "basic",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.RESNETS.RES5_MULTI_GRID": [1, 1, 1],
    "INPUT.FORMAT": "RGB",
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": True,
    "VERSION": 2,
}
R101 = {"MODEL.WEIGHTS": "R-101.pkl", "MODEL.RESNETS.DEPTH": 101}
R101C = {
    "MODEL.BACKBONE.NAME": "build_resnet_deeplab_backbone",
    "MODEL.WEIGHTS": "detectron2://DeepLab/R-103.pkl",
    "MODEL.RESNETS.DEPTH": 101,
    "MODEL.RESNETS.STEM_TYPE": "deeplab",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 128,
    "MODEL.RESNETS.RES5_MULTI_GRID": [1, 2, 4],
}
SWIN_TINY = {
    "MODEL.BACKBONE.NAME": "D2SwinTransformer",
    "MODEL.SWIN.EMBED_DIM": 96,
    "MODEL.SWIN.DEPTHS": [2, 2, 6, 2],
    "MODEL.SWIN.NUM_HEADS": [3, 6, 12, 24],
    "MODEL.SWIN.WINDOW_SIZE": 7,
    "MODEL.SWIN.APE": False,
    "MODEL.SWIN.DROP_PATH_RATE": 0.3,
    "MODEL.SWIN.PATCH_NORM": True,
    "MODEL.WEIGHTS": "swin_tiny_patch4_window7_224.pkl",
}
SWIN_LARGE = {
    **SWIN_TINY,
    "MODEL.SWIN.EMBED_DIM": 192,
    "MODEL.SWIN.DEPTHS": [2, 2, 18, 2],
    "MODEL.SWIN.NUM_HEADS": [6, 12, 24, 48],
    "MODEL.SWIN.WINDOW_SIZE": 12,
    "MODEL.SWIN.PRETRAIN_IMG_SIZE": 384,
    "MODEL.WEIGHTS": "swin_large_patch4_window12_384_22k.pkl",
}

ADAMW = {
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 0.0001,
    "SOLVER.WARMUP_FACTOR": 1.0,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.WEIGHT_DECAY": 0.0001,
    "SOLVER.OPTIMIZER": "ADAMW",
    "SOLVER.BACKBONE_MULTIPLIER": 0.1,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 0.01,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": 2.0,
}
POLY = {**ADAMW, "SOLVER.LR_SCHEDULER_NAME": "WarmupPolyLR"}
ADAMW_SWIN = {
    "SOLVER.BASE_LR": 0.00006,
    "SOLVER.WARMUP_FACTOR": "1e-6",
    "SOLVER.WARMUP_ITERS": 1500,
    "SOLVER.WEIGHT_DECAY": 0.01,
    "SOLVER.WEIGHT_DECAY_NORM": 0.0,
    "SOLVER.WEIGHT_DECAY_EMBED": 0.0,
    "SOLVER.BACKBONE_MULTIPLIER": 1.0,
}
DECAY_AND_AMP = {"SOLVER.WEIGHT_DECAY": 0.05, "SOLVER.AMP.ENABLED": True}


def crops(size: int, crop: tuple[int, int], padding: int, longest: int, longest_test: int) -> dict[str, Any]:
    """The training images of their mappers `mask_former_...`, and the sizes of tests."""
    return {
        "INPUT.MIN_SIZE_TRAIN": short_edges(size),
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
        "INPUT.MIN_SIZE_TEST": size,
        "INPUT.MAX_SIZE_TRAIN": longest,
        "INPUT.MAX_SIZE_TEST": longest_test,
        "INPUT.CROP.ENABLED": True,
        "INPUT.CROP.TYPE": "absolute",
        "INPUT.CROP.SIZE": str(crop),
        "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": 1.0,
        "INPUT.COLOR_AUG_SSD": True,
        "INPUT.SIZE_DIVISIBILITY": padding,
        "TEST.EVAL_PERIOD": 5000,
        "TEST.AUG.ENABLED": False,
        "TEST.AUG.MIN_SIZES": [int(size * factor) for factor in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)],
        "TEST.AUG.MAX_SIZE": int(7 * size) if longest == 4 * size == longest_test else longest,
        "TEST.AUG.FLIP": True,
    }


def head(classes: int) -> dict[str, Any]:
    return {
        "MODEL.META_ARCHITECTURE": "MaskFormer",
        "MODEL.SEM_SEG_HEAD.NAME": "MaskFormerHead",
        "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": 255,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": classes,
        "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 4,
        "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": 1.0,
        "MODEL.SEM_SEG_HEAD.CONVS_DIM": 256,
        "MODEL.SEM_SEG_HEAD.MASK_DIM": 256,
        "MODEL.SEM_SEG_HEAD.NORM": "GN",
    }


MASK2FORMER = {
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder",
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 6,
    "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": "MultiScaleMaskedTransformerDecoder",
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": "multi_scale_pixel_decoder",
    "MODEL.MASK_FORMER.DEEP_SUPERVISION": True,
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": 0.1,
    "MODEL.MASK_FORMER.CLASS_WEIGHT": 2.0,
    "MODEL.MASK_FORMER.MASK_WEIGHT": 5.0,
    "MODEL.MASK_FORMER.DICE_WEIGHT": 5.0,
    "MODEL.MASK_FORMER.HIDDEN_DIM": 256,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 100,
    "MODEL.MASK_FORMER.NHEADS": 8,
    "MODEL.MASK_FORMER.DROPOUT": 0.0,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 2048,
    "MODEL.MASK_FORMER.ENC_LAYERS": 0,
    "MODEL.MASK_FORMER.PRE_NORM": False,
    "MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ": False,
    "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": 32,
    "MODEL.MASK_FORMER.DEC_LAYERS": 10,
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 12544,
    "MODEL.MASK_FORMER.OVERSAMPLE_RATIO": 3.0,
    "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO": 0.75,
    "MODEL.MASK_FORMER.TEST.SEMANTIC_ON": True,
    "MODEL.MASK_FORMER.TEST.INSTANCE_ON": False,
    "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": False,
    "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": 0.8,
    "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": 0.8,
}
PANOPTIC_TEST = {"MODEL.MASK_FORMER.TEST.PANOPTIC_ON": True}
INSTANCE_TEST = {
    "MODEL.MASK_FORMER.TEST.INSTANCE_ON": True,
    "MODEL.MASK_FORMER.TEST.SEMANTIC_ON": False,
}
MASKFORMER = {
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": "res5",
    "MODEL.MASK_FORMER.DEEP_SUPERVISION": True,
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": 0.1,
    "MODEL.MASK_FORMER.DICE_WEIGHT": 1.0,
    "MODEL.MASK_FORMER.MASK_WEIGHT": 20.0,
    "MODEL.MASK_FORMER.HIDDEN_DIM": 256,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 100,
    "MODEL.MASK_FORMER.NHEADS": 8,
    "MODEL.MASK_FORMER.DROPOUT": 0.1,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 2048,
    "MODEL.MASK_FORMER.ENC_LAYERS": 0,
    "MODEL.MASK_FORMER.DEC_LAYERS": 6,
    "MODEL.MASK_FORMER.PRE_NORM": False,
    "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": 0.8,
    "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": 0.8,
}
TRANSFORMER_ENCODER = {
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "TransformerEncoderPixelDecoder",
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 6,
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": "transformer_encoder",
}


def data(name: str, mapper: str, tested: str = "") -> dict[str, Any]:
    """Names of datasets as YAML has them there: a Python tuple in a text."""
    return {
        "DATASETS.TRAIN": f'("{name.format("train")}",)',
        "DATASETS.TEST": f'("{(tested or name).format("val")}",)',
        "INPUT.DATASET_MAPPER_NAME": mapper,
    }


COCO_50EP = {
    "SOLVER.STEPS": "(327778, 355092)",
    "SOLVER.MAX_ITER": 368750,
    "INPUT.IMAGE_SIZE": 1024,
    "INPUT.MIN_SCALE": 0.1,
    "INPUT.MAX_SCALE": 2.0,
    "TEST.EVAL_PERIOD": 5000,
}
COCO_100EP = {**COCO_50EP, "SOLVER.STEPS": "(655556, 710184)", "SOLVER.MAX_ITER": 737500}

# Detectron2's detectors. What is not here has its default in both.
DETECTOR = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.MASK_ON": True,
    "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    "MODEL.RESNETS.DEPTH": 50,
    "DATASETS.TRAIN": '("coco_2017_train",)',
    "DATASETS.TEST": '("coco_2017_val",)',
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 0.02,
    "SOLVER.STEPS": "(60000, 80000)",
    "SOLVER.MAX_ITER": 90000,
    "INPUT.MIN_SIZE_TRAIN": "(640, 672, 704, 736, 768, 800)",
    "VERSION": 2,
}
THREE_TIMES = {"SOLVER.STEPS": "(210000, 250000)", "SOLVER.MAX_ITER": 270000}
MSRA_R101 = {"MODEL.WEIGHTS": "detectron2://ImageNetPretrained/MSRA/R-101.pkl", "MODEL.RESNETS.DEPTH": 101}
C4 = {
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.ROI_HEADS.NAME": "Res5ROIHeads",
}
TWO_HEADS = {
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
}
DC5 = {
    **TWO_HEADS,
    "MODEL.RESNETS.OUT_FEATURES": ["res5"],
    "MODEL.RESNETS.RES5_DILATION": 2,
    "MODEL.RPN.IN_FEATURES": ["res5"],
    "MODEL.ROI_HEADS.IN_FEATURES": ["res5"],
}
FPN = {
    **TWO_HEADS,
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
}


def normalized(norm: str) -> dict[str, Any]:
    """Return a normalization of all parts, and the box head of four convolutions that goes with it."""
    keys = dict.fromkeys(
        [f"MODEL.{part}.NORM" for part in ("RESNETS", "FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD")], norm
    )
    return {**keys, "MODEL.ROI_BOX_HEAD.NUM_CONV": 4, "MODEL.ROI_BOX_HEAD.NUM_FC": 1}


DETECTORS: dict[str, tuple[dict[str, Any], ...]] = {
    "instance/coco/mask_rcnn_c4_r50": (DETECTOR, C4),
    "instance/coco/mask_rcnn_c4_r101_3x": (DETECTOR, C4, MSRA_R101, THREE_TIMES),
    "instance/coco/mask_rcnn_dc5_r50": (DETECTOR, DC5),
    "instance/coco/mask_rcnn_dc5_r101_3x": (DETECTOR, DC5, MSRA_R101, THREE_TIMES),
    "instance/coco/mask_rcnn_fpn_r50": (DETECTOR, FPN),
    "instance/coco/mask_rcnn_fpn_r101_3x": (DETECTOR, FPN, MSRA_R101, THREE_TIMES),
    "instance/coco/mask_rcnn_fpn_x101_32x8d_3x": (
        *(DETECTOR, FPN, THREE_TIMES),
        {
            "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl",
            "MODEL.PIXEL_STD": [57.375, 57.12, 58.395],
            "MODEL.RESNETS.DEPTH": 101,
            "MODEL.RESNETS.STRIDE_IN_1X1": False,
            "MODEL.RESNETS.NUM_GROUPS": 32,
            "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
        },
    ),
    "instance/coco/mask_rcnn_fpn_dconv_r50_3x": (
        *(DETECTOR, FPN, THREE_TIMES),
        {
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, True, True, True],
            "MODEL.RESNETS.DEFORM_MODULATED": False,
        },
    ),
    "instance/coco/mask_rcnn_fpn_gn_r50_3x": (
        *(DETECTOR, FPN, THREE_TIMES, normalized("GN")),
        {
            "MODEL.WEIGHTS": "catalog://ImageNetPretrained/FAIR/R-50-GN",
            "MODEL.RESNETS.STRIDE_IN_1X1": False,
        },
    ),
    "instance/coco/mask_rcnn_fpn_syncbn_r50_3x": (DETECTOR, FPN, THREE_TIMES, normalized("SyncBN")),
    "instance/cityscapes/mask_rcnn_fpn_r50": (
        *(DETECTOR, FPN),
        {
            "MODEL.WEIGHTS": "detectron2://COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/"
            "model_final_f10217.pkl",
            "MODEL.ROI_HEADS.NUM_CLASSES": 8,
            "DATASETS.TRAIN": '("cityscapes_fine_instance_seg_train",)',
            "DATASETS.TEST": '("cityscapes_fine_instance_seg_val",)',
            "INPUT.MIN_SIZE_TRAIN": "(800, 832, 864, 896, 928, 960, 992, 1024)",
            "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
            "INPUT.MIN_SIZE_TEST": 1024,
            "INPUT.MAX_SIZE_TRAIN": 2048,
            "INPUT.MAX_SIZE_TEST": 2048,
            "SOLVER.BASE_LR": 0.01,
            "SOLVER.STEPS": "(18000,)",
            "SOLVER.MAX_ITER": 24000,
            "SOLVER.IMS_PER_BATCH": 8,
            "TEST.EVAL_PERIOD": 8000,
        },
    ),
}

# The leaf of the zoo, and their file for the same training, of which later parts win.
FILES: dict[str, tuple[dict[str, Any], ...]] = {
    "panoptic/coco/mask2former_r50": (
        *(RESNET, ADAMW, DECAY_AND_AMP, head(133), MASK2FORMER, PANOPTIC_TEST, COCO_50EP),
        data("coco_2017_{}_panoptic", "coco_panoptic_lsj", "coco_2017_{}_panoptic_with_sem_seg"),
    ),
    "panoptic/coco/mask2former_swin_large_in21k_100ep": (
        *(RESNET, ADAMW, DECAY_AND_AMP, head(133), MASK2FORMER, PANOPTIC_TEST, COCO_100EP, SWIN_LARGE),
        data("coco_2017_{}_panoptic", "coco_panoptic_lsj", "coco_2017_{}_panoptic_with_sem_seg"),
        {"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 200},
    ),
    "instance/coco/mask2former_r101": (
        *(RESNET, ADAMW, DECAY_AND_AMP, head(80), MASK2FORMER, INSTANCE_TEST, COCO_50EP, R101),
        data("coco_2017_{}", "coco_instance_lsj"),
    ),
    "semantic/ade20k/mask2former_r101": (
        *(RESNET, POLY, DECAY_AND_AMP, head(150), MASK2FORMER, crops(512, (512, 512), 512, 2048, 2048), R101),
        data("ade20k_sem_seg_{}", "mask_former_semantic"),
        {"SOLVER.MAX_ITER": 160000, "MODEL.RESNETS.NORM": "SyncBN"},
    ),
    "panoptic/cityscapes/mask2former_r50": (
        *(RESNET, POLY, DECAY_AND_AMP, head(19), MASK2FORMER, PANOPTIC_TEST),
        crops(1024, (512, 1024), -1, 4096, 2048),
        data("cityscapes_fine_panoptic_{}", "mask_former_panoptic"),
        {"SOLVER.MAX_ITER": 90000, "MODEL.RESNETS.NORM": "SyncBN"},
    ),
    "semantic/cityscapes/mask2former_swin_tiny": (
        *(RESNET, POLY, DECAY_AND_AMP, head(19), MASK2FORMER, SWIN_TINY),
        crops(1024, (512, 1024), -1, 4096, 2048),
        data("cityscapes_fine_sem_seg_{}", "mask_former_semantic"),
        {"SOLVER.MAX_ITER": 90000, "MODEL.RESNETS.NORM": "SyncBN"},
    ),
    "instance/ade20k/mask2former_r50": (
        *(RESNET, POLY, DECAY_AND_AMP, head(100), MASK2FORMER, PANOPTIC_TEST),
        crops(640, (640, 640), 640, 2560, 2560),
        data("ade20k_instance_{}", "mask_former_instance"),
        {"SOLVER.MAX_ITER": 160000, "MODEL.MASK_FORMER.TEST.INSTANCE_ON": True},
    ),
    "semantic/ade20k/maskformer_r50": (
        *(RESNET, POLY, head(150), MASKFORMER, crops(512, (512, 512), 512, 2048, 2048)),
        data("ade20k_sem_seg_{}", "mask_former_semantic"),
        {"SOLVER.MAX_ITER": 160000},
    ),
    "semantic/cityscapes/maskformer_r101c": (
        *(RESNET, POLY, head(19), MASKFORMER, crops(1024, (512, 1024), -1, 4096, 2048), R101C),
        data("cityscapes_fine_sem_seg_{}", "mask_former_semantic"),
        {"SOLVER.MAX_ITER": 90000},
    ),
    "semantic/ade20k/maskformer_swin_tiny": (
        *(
            RESNET,
            POLY,
            head(150),
            MASKFORMER,
            crops(512, (512, 512), 512, 2048, 2048),
            SWIN_TINY,
            ADAMW_SWIN,
        ),
        data("ade20k_sem_seg_{}", "mask_former_semantic"),
        {"SOLVER.MAX_ITER": 160000},
    ),
    "panoptic/ade20k/maskformer_r101": (
        *(RESNET, POLY, head(150), MASKFORMER, TRANSFORMER_ENCODER, crops(640, (640, 640), 640, 2560, 2560)),
        *(PANOPTIC_TEST, R101),
        data("ade20k_panoptic_{}", "mask_former_panoptic"),
        {"SOLVER.MAX_ITER": 720000, "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": 0.7},
    ),
    "panoptic/coco/maskformer_r50": (
        *(RESNET, ADAMW, head(133), MASKFORMER, TRANSFORMER_ENCODER, PANOPTIC_TEST),
        data("coco_2017_{}_panoptic", "detr_panoptic"),
        {
            "SOLVER.IMS_PER_BATCH": 64,
            "SOLVER.STEPS": "(369600,)",
            "SOLVER.MAX_ITER": 554400,
            "INPUT.MIN_SIZE_TRAIN": "(480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)",
            "INPUT.CROP.ENABLED": True,
            "INPUT.CROP.TYPE": "absolute_range",
            "INPUT.CROP.SIZE": "(384, 600)",
            "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": 0,
            "TEST.EVAL_PERIOD": 5000,
        },
    ),
    "semantic/ade20k/per_pixel_baseline_plus_r50": (
        *(RESNET, POLY, head(150), MASKFORMER, crops(512, (512, 512), 512, 2048, 2048)),
        data("ade20k_sem_seg_{}", "mask_former_semantic"),
        {
            "SOLVER.MAX_ITER": 160000,
            "MODEL.META_ARCHITECTURE": "SemanticSegmentor",
            "MODEL.SEM_SEG_HEAD.NAME": "PerPixelBaselinePlusHead",
            "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 150,
        },
    ),
}
