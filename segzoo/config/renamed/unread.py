"""Detectron2's keys that have no effect in segzoo, each with its replacement."""

from collections.abc import Mapping
from typing import Any

from .backbones import OUR_BACKBONES
from .heads import MASK_RCNN, NECK_ARCHITECTURES, OUR_ARCHITECTURES

# Not read by any model.
UNREAD = {
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": "no model here takes proposals from files",
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": "no model here takes proposals from files",
    "DATASETS.PROPOSAL_FILES_TEST": "no model here takes proposals from files",
    "DATASETS.PROPOSAL_FILES_TRAIN": "no model here takes proposals from files",
    "INPUT.RANDOM_FLIP": "INPUT.FLIP_PROB is the probability of a flip, 0 for none",
    "INPUT.CROP.ENABLED": "INPUT.CROP_SIZE crops, or INPUT.DETR_CROP_SIZE with INPUT.AUGMENTATION detr",
    "INPUT.CROP.TYPE": "INPUT.CROP_SIZE is absolute, INPUT.DETR_CROP_SIZE an absolute range",
    "INPUT.CROP.SIZE": "INPUT.CROP_SIZE is (height, width) in pixels, INPUT.DETR_CROP_SIZE a range of pixels",
    "MODEL.LOAD_PROPOSALS": "no model here takes proposals from files",
    "SOLVER.BASE_LR_END": "SOLVER.POLY_LR_CONSTANT_ENDING is the lowest factor of the learning rate",
    "TEST.EXPECTED_RESULTS": "the metrics are in OUTPUT_DIR/inference/results.json",
    "TEST.KEYPOINT_OKS_SIGMAS": "no model here predicts keypoints",
    "VIS_PERIOD": (
        "TEST.NUM_PICTURES draws predictions into TensorBoard at every evaluation; "
        "`segzoo visualize-data` shows training inputs"
    ),
}

# Not read either, but published with models that are right without: reported, not refused.
IGNORED = {
    "TEST.PRECISE_BN.ENABLED": "PreciseBN is not run, and running statistics are evaluated as trained",
}

_DETECTOR = "it belongs to Detectron2's detectors, and MODEL.META_ARCHITECTURE is {architecture}"
_CLASSES = "the classes follow from the dataset, DATASETS.TRAIN"
# Read only by Detectron2's models: sections, which end in a dot, and keys.
_DETECTOR_KEYS = {
    "MODEL.ROI_HEADS.NUM_CLASSES": _CLASSES,
    "MODEL.RETINANET.NUM_CLASSES": _CLASSES,
    "MODEL.MASK_ON": "TEST.TASKS says what is predicted",
    "MODEL.KEYPOINT_ON": "no model here predicts keypoints",
    "INPUT.MASK_FORMAT": "masks are label maps from the file to the loss",
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": "masks are predicted at a quarter of the image's size",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD drops queries",
    "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH": "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD replaces it",
    "MODEL.PROPOSAL_GENERATOR.": _DETECTOR,
    "MODEL.ANCHOR_GENERATOR.": _DETECTOR,
    "MODEL.RPN.": _DETECTOR,
    "MODEL.ROI_HEADS.": _DETECTOR,
    "MODEL.ROI_BOX_HEAD.": _DETECTOR,
    "MODEL.ROI_BOX_CASCADE_HEAD.": _DETECTOR,
    "MODEL.ROI_MASK_HEAD.": _DETECTOR,
    "MODEL.ROI_KEYPOINT_HEAD.": _DETECTOR,
    "MODEL.PANOPTIC_FPN.": _DETECTOR,
    "MODEL.RETINANET.": _DETECTOR,
}
# Those of them that MaskRCNN reads, too.
_MASK_RCNN_SECTIONS = tuple(
    f"MODEL.{section}"
    for section in (
        *("ANCHOR_GENERATOR.", "PROPOSAL_GENERATOR.", "RPN.", "ROI_HEADS.", "ROI_BOX_HEAD."),
        *("ROI_BOX_CASCADE_HEAD.", "ROI_MASK_HEAD.", "MASK_ON"),
    )
)
_MASK_RCNN_KEYS = {
    key: remedy
    for key, remedy in _DETECTOR_KEYS.items()
    if not key.startswith((*_MASK_RCNN_SECTIONS, "INPUT.MASK_FORMAT"))
}
_BACKBONE_KEYS = {
    "MODEL.RESNETS.DEPTH": "set MODEL.BACKBONE.VARIANT, such as r101",
    "MODEL.RESNETS.NORM": "set MODEL.BACKBONE.NORM",
    "MODEL.RESNETS.": "{backbone} has MODEL.BACKBONE.VARIANT, NORM and OUTPUT_STRIDE",
}
# Read by a neck of that name only.
_NECK_KEYS = {
    "MODEL.FPN.": "{backbone} has no FPN; set MODEL.NECK.NAME FPN, or, for a MaskFormer, "
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME",
}


def why_unread(key: str, cfg: Mapping[str, Any]) -> str:
    """Return what to set instead of a key without effect; "" if it may have an effect.

    Args:
        key: the full key.
        cfg: the values of the configuration, by full key.
    """
    if key in UNREAD:
        return UNREAD[key]
    if cfg["IMPORTS"]:  # imported modules may read any key
        return ""
    architecture, backbone = cfg["MODEL.META_ARCHITECTURE"], cfg["MODEL.BACKBONE.NAME"]
    tables = [_DETECTOR_KEYS] if architecture in OUR_ARCHITECTURES else []
    tables = [_MASK_RCNN_KEYS] if architecture == MASK_RCNN else tables
    tables += [_BACKBONE_KEYS] if backbone in OUR_BACKBONES else []
    has_pyramid = cfg["MODEL.NECK.NAME"] == "FPN" and architecture in NECK_ARCHITECTURES
    tables += [_NECK_KEYS] if backbone in OUR_BACKBONES and not has_pyramid else []
    for table in tables:
        for name, remedy in table.items():
            if key == name or (name.endswith(".") and key.startswith(name)):
                return remedy.format(architecture=architecture, backbone=backbone)
    return ""
