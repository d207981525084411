"""Code bases whose files can be loaded, with the keys that each adds, their defaults and fixed behavior.

A file contains only differences from the defaults of its code base, so these defaults are needed as well.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from . import entityseg

# Added by Detectron2's project DeepLab, which the two others use.
_DEEPLAB = {
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": 1.0,
    "SOLVER.POLY_LR_POWER": 0.9,
    "SOLVER.POLY_LR_CONSTANT_ENDING": 0.0,
    "MODEL.RESNETS.RES4_DILATION": 1,
    "MODEL.RESNETS.RES5_MULTI_GRID": [1, 2, 4],
    "MODEL.RESNETS.STEM_TYPE": "deeplab",
    # Keys of DeepLab's own heads, which have no counterpart; a saved configuration holds their defaults.
    "MODEL.SEM_SEG_HEAD.LOSS_TYPE": "hard_pixel_mining",
    "MODEL.SEM_SEG_HEAD.PROJECT_FEATURES": ["res2"],
    "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS": [48],
    "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS": 256,
    "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS": [6, 12, 18],
    "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT": 0.1,
    "MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV": False,
}

_MASK_FORMER = {
    "INPUT.DATASET_MAPPER_NAME": "mask_former_semantic",
    "INPUT.COLOR_AUG_SSD": False,
    "INPUT.SIZE_DIVISIBILITY": -1,
    "SOLVER.OPTIMIZER": "ADAMW",
    "SOLVER.BACKBONE_MULTIPLIER": 0.1,
    "SOLVER.WEIGHT_DECAY_EMBED": 0.0,
    "MODEL.MASK_FORMER.DEEP_SUPERVISION": True,
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": 0.1,
    "MODEL.MASK_FORMER.DICE_WEIGHT": 1.0,
    "MODEL.MASK_FORMER.MASK_WEIGHT": 20.0,
    "MODEL.MASK_FORMER.NHEADS": 8,
    "MODEL.MASK_FORMER.DROPOUT": 0.1,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 2048,
    "MODEL.MASK_FORMER.ENC_LAYERS": 0,
    "MODEL.MASK_FORMER.DEC_LAYERS": 6,
    "MODEL.MASK_FORMER.PRE_NORM": False,
    "MODEL.MASK_FORMER.HIDDEN_DIM": 256,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 100,
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": "res5",
    "MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ": False,
    "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": 32,
    "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": False,
    "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": 0.0,
    "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": 0.0,
    "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": False,
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 256,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 0,
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "BasePixelDecoder",
    "MODEL.SWIN.PRETRAIN_IMG_SIZE": 224,
    "MODEL.SWIN.PATCH_SIZE": 4,
    "MODEL.SWIN.EMBED_DIM": 96,
    "MODEL.SWIN.DEPTHS": [2, 2, 6, 2],
    "MODEL.SWIN.NUM_HEADS": [3, 6, 12, 24],
    "MODEL.SWIN.WINDOW_SIZE": 7,
    "MODEL.SWIN.MLP_RATIO": 4.0,
    "MODEL.SWIN.QKV_BIAS": True,
    "MODEL.SWIN.QK_SCALE": None,
    "MODEL.SWIN.DROP_RATE": 0.0,
    "MODEL.SWIN.ATTN_DROP_RATE": 0.0,
    "MODEL.SWIN.DROP_PATH_RATE": 0.3,
    "MODEL.SWIN.APE": False,
    "MODEL.SWIN.PATCH_NORM": True,
    "MODEL.SWIN.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
}

_MASK2FORMER = {
    "INPUT.IMAGE_SIZE": 1024,
    "INPUT.MIN_SCALE": 0.1,
    "INPUT.MAX_SCALE": 2.0,
    "MODEL.MASK_FORMER.CLASS_WEIGHT": 1.0,
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 12544,
    "MODEL.MASK_FORMER.OVERSAMPLE_RATIO": 3.0,
    "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO": 0.75,
    "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": "MultiScaleMaskedTransformerDecoder",
    "MODEL.MASK_FORMER.TEST.SEMANTIC_ON": True,
    "MODEL.MASK_FORMER.TEST.INSTANCE_ON": False,
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": 4,
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": 8,
    "MODEL.SWIN.USE_CHECKPOINT": False,
}


class CodeBase(NamedTuple):
    """A code base.

    Attributes:
        name: its name.
        keys: the keys that it adds to Detectron2's, with their defaults.
        constants: behavior of its code without a key, as keys and values of segzoo.
    """

    name: str
    keys: Mapping[str, Any]
    constants: Mapping[str, Any]


DETECTRON2 = CodeBase("Detectron2", _DEEPLAB, {"SOLVER.OPTIMIZER": "SGD", "SOLVER.WEIGHT_DECAY_EMBED": None})
MASKFORMER = CodeBase(
    "MaskFormer",
    {**_DEEPLAB, **_MASK_FORMER},
    {
        "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": "MaskFormerTransformerDecoder",
        "MODEL.MASK_FORMER.MASK_LOSS": "focal",
        "MODEL.MASK_FORMER.CLASS_WEIGHT": 1.0,
        "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 0,
        "MODEL.MASK_FORMER.TEST.CONFIDENT_PIXELS_ONLY": False,
    },
)
MASK2FORMER = CodeBase(
    "Mask2Former",
    {**_DEEPLAB, **_MASK_FORMER, **_MASK2FORMER},
    {
        "MODEL.MASK_FORMER.MASK_LOSS": "bce",
        "MODEL.MASK_FORMER.DEFORMABLE_FEEDFORWARD": 1024,
        "MODEL.MASK_FORMER.TEST.CONFIDENT_PIXELS_ONLY": True,
    },
)

ENTITYSEG = CodeBase("EntitySeg", entityseg.KEYS, entityseg.CONSTANTS)

# A file with one of these keys is EntitySeg's; other code bases have the rest.
ENTITYSEG_KEYS = entityseg.KEYS.keys() - {"SOLVER.OPTIMIZER"}
# A file with one of these keys, which MaskFormer lacks, is Mask2Former's.
MASK2FORMER_KEYS = frozenset(_MASK2FORMER)
