"""Convert meta-architectures, heads, pixel decoders, transformer decoders and their losses."""

from collections.abc import Mapping
from typing import Any

from .row import Context, Convert, Row, fixed, ignore, refuse, same

_ARCHITECTURE, _HEAD = "MODEL.META_ARCHITECTURE", "MODEL.SEM_SEG_HEAD.NAME"
# Detectron2's meta-architecture, which can be built as it is, and its counterpart.
DETECTOR, MASK_RCNN = "GeneralizedRCNN", "MaskRCNN"
DETECTORS = (DETECTOR, MASK_RCNN)
# EntitySeg's, and its counterpart.
ENTITY_FPN, ENTITYSEG = "EntityFPN", "EntitySeg"
OUR_ARCHITECTURES = (ENTITYSEG, "MaskFormer", MASK_RCNN, "PanopticSegFormer", "PerPixelSegmentor")
# Those with a neck, MODEL.NECK.
NECK_ARCHITECTURES = (ENTITYSEG, "PerPixelSegmentor", MASK_RCNN)
# Meta-architectures that identify a file of another code base.
OTHER_ARCHITECTURES = (
    DETECTOR,
    ENTITY_FPN,
    "PanopticDeepLab",
    "PanopticFPN",
    "ProposalNetwork",
    "RetinaNet",
    "SemanticSegmentor",
    "TensorMask",
    "VideoMaskFormer",
)
# Those with a counterpart.
_CONVERTED = (ENTITY_FPN, DETECTOR, "MaskFormer", "SemanticSegmentor")
_PER_PIXEL_HEADS = ("PerPixelBaselineHead", "PerPixelBaselinePlusHead")

_PIXEL_DECODER = "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME"
_PIXEL_DECODERS = ("FPNPixelDecoder", "TransformerFPNPixelDecoder", "MSDeformAttnPixelDecoder")
DECODER = "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME"
MASKED_DECODER = "MultiScaleMaskedTransformerDecoder"
_DECODERS = ("MaskFormerTransformerDecoder", MASKED_DECODER)
DEC_LAYERS = "MODEL.MASK_FORMER.DEC_LAYERS"

# Meta-architectures without a counterpart, in words.
_ELSEWHERE = {
    "ProposalNetwork": "a region proposal network",
    "RetinaNet": "a box detector",
    "PanopticDeepLab": "Panoptic-DeepLab",
    "PanopticFPN": "Panoptic FPN",
    "TensorMask": "TensorMask",
    "VideoMaskFormer": "a video model",
}
_AUTHORS = "train it with its authors' train_net.py"
_PER_PIXEL = f"known: {', '.join(_PER_PIXEL_HEADS)}"
_NEAREST = {
    "DeepLabV3Head": "nearest is configs/_base_/methods/deeplabv3.yaml",
    "DeepLabV3PlusHead": "nearest is configs/_base_/methods/deeplabv3plus.yaml",
}


def _architecture(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    name, head = given[_ARCHITECTURE], given[_HEAD]
    if name == DETECTOR:
        return _mask_rcnn(given, context)
    if name in (ENTITY_FPN, ENTITYSEG):
        return {_ARCHITECTURE: ENTITYSEG}
    if name in _ELSEWHERE:
        refuse(_ARCHITECTURE, name, f"has no counterpart here: it is {_ELSEWHERE[name]}; {_AUTHORS}")
    if name in ("SemanticSegmentor", "PerPixelSegmentor"):
        if head not in _PER_PIXEL_HEADS:
            refuse(_HEAD, head, f"has no counterpart here; {_NEAREST.get(head, _PER_PIXEL)}")
        return {_ARCHITECTURE: "PerPixelSegmentor", _HEAD: head, "MODEL.SEM_SEG_HEAD.DROPOUT": 0.0}
    if name != "MaskFormer":
        refuse(_ARCHITECTURE, name, f"has no counterpart here; known: {', '.join(_CONVERTED)}")
    if head != "MaskFormerHead":
        refuse(_HEAD, head, "has no counterpart with MODEL.META_ARCHITECTURE MaskFormer; use MaskFormerHead")
    return {_ARCHITECTURE: name, _HEAD: head}


def _mask_rcnn(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    """Convert Detectron2's Mask R-CNN, whose heads have the same keys here."""
    for key, expected, behavior in (
        ("MODEL.LOAD_PROPOSALS", False, "takes proposals from files"),
        ("MODEL.KEYPOINT_ON", False, "predicts keypoints"),
        ("MODEL.MASK_ON", True, "predicts boxes only"),
    ):
        if given[key] != expected:
            refuse(key, given[key], f"has no counterpart here: the model {behavior}; {_AUTHORS}")
    return {
        _ARCHITECTURE: context.detector,
        "MODEL.MASK_ON": True,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 0,  # no such head
        "TASK": "instance",
        "TEST.TASKS": ("instance",),
        "INPUT.AUGMENTATION": "semantic",
        "INPUT.COLOR_AUG": False,
    }


def _pixel_decoder(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    name = _among(given, _PIXEL_DECODERS)
    upsampling = "bilinear" if name == "MSDeformAttnPixelDecoder" else "nearest"
    result: dict[str, Any] = {_PIXEL_DECODER: name, "MODEL.SEM_SEG_HEAD.TOP_DOWN_UPSAMPLE": upsampling}
    if name == "FPNPixelDecoder":  # no encoder, also if a base file sets one
        result["MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS"] = 0
    return result


def _decoder(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    return {DECODER: _among(given, _DECODERS)}


def _among(given: Mapping[str, Any], known: tuple[str, ...]) -> str:
    """Return the given name if it is a known one."""
    ((key, value),) = given.items()
    if value not in known:
        refuse(key, value, f"has no counterpart here; known: {', '.join(known)}")
    return value


def _num_heads(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    ((key, value),) = given.items()
    shared = context.ours["MODEL.MASK_FORMER.NHEADS"]
    if value != shared and context.ours[_PIXEL_DECODER] == "MSDeformAttnPixelDecoder":
        refuse(
            key,
            value,
            f"has no separate key: the encoder has the decoder's number of heads, {shared}; set "
            "MODEL.MASK_FORMER.NHEADS for both",
        )
    return {}


def _decoder_layers(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    ((key, value),) = given.items()
    if context.ours[DECODER] != MASKED_DECODER or context.ours[_ARCHITECTURE] != "MaskFormer":
        return {key: value}
    if value < 2:
        refuse(key, value, "includes the prediction before the first layer there; expected at least 2")
    return {key: value - 1}


def _padding(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    ((key, value),) = given.items()
    if value < 0:  # the backbone's
        value = 32 if context.ours["MODEL.BACKBONE.NAME"] == "SwinTransformer" else 0
    return {key: value}


ARCHITECTURE_ROW = Row(
    f"{_ARCHITECTURE} {_HEAD} MODEL.MASK_ON MODEL.KEYPOINT_ON MODEL.LOAD_PROPOSALS",
    "`MODEL.META_ARCHITECTURE`, `MODEL.SEM_SEG_HEAD.NAME`",
    "`SemanticSegmentor` with MaskFormer's per-pixel heads is `PerPixelSegmentor`; `GeneralizedRCNN` with "
    "`MODEL.MASK_ON` is `MaskRCNN` with `TASK instance`, or, with a backbone that is not here, Detectron2's "
    "own model; the keys of its anchors, RPN and ROI heads are the same; `EntityFPN` is `EntitySeg`; "
    "detectors of boxes or keypoints and models of videos have no counterpart",
    _architecture,
)


def _instead(remedy: str) -> Convert:
    """Return the conversion of a key that must be set in another way; in whole files no model reads it."""

    def convert(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
        if not context.whole:
            key, value = next(iter(given.items()))
            refuse(key, value, f"has no effect here; {remedy}")
        return {}

    return convert


HEAD_ROWS = (
    Row(
        _PIXEL_DECODER,
        f"`{_PIXEL_DECODER}`",
        "`BasePixelDecoder` is `FPNPixelDecoder`, `TransformerEncoderPixelDecoder` is "
        "`TransformerFPNPixelDecoder`",
        _pixel_decoder,
    ),
    Row(
        DECODER,
        f"`{DECODER}`",
        "`StandardTransformerDecoder` is `MaskFormerTransformerDecoder`",
        _decoder,
    ),
    Row(
        DEC_LAYERS,
        f"`{DEC_LAYERS} 9`",
        "one less than in Mask2Former with its own decoder, which also counts the prediction before the "
        "first layer; the same as in MaskFormer",
        _decoder_layers,
    ),
    Row(
        "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES",
        "`MODEL.MASK_FORMER.DEFORMABLE_FEATURES`",
        "",
        same("MODEL.MASK_FORMER.DEFORMABLE_FEATURES"),
    ),
    Row(
        "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS",
        "`MODEL.MASK_FORMER.DEFORMABLE_POINTS`",
        "",
        same("MODEL.MASK_FORMER.DEFORMABLE_POINTS"),
    ),
    Row(
        "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS",
        "`MODEL.MASK_FORMER.NHEADS`",
        "the same number of heads as in the transformer decoder",
        _num_heads,
    ),
    Row(
        "MODEL.MASK_FORMER.ENC_LAYERS",
        "",
        "0 only; `MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS` with `TransformerFPNPixelDecoder` encodes res5",
        fixed(
            0,
            "has no counterpart; MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME TransformerFPNPixelDecoder with "
            "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS encodes res5",
        ),
    ),
    Row(
        "MODEL.MASK_FORMER.SIZE_DIVISIBILITY",
        "`MODEL.MASK_FORMER.SIZE_DIVISIBILITY`",
        "-1 is 0 with a ResNet and 32 with Swin",
        _padding,
    ),
    Row("MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "", "follows from the dataset", ignore),
    Row("MODEL.SEM_SEG_HEAD.COMMON_STRIDE", "", "4 only", fixed(4, "has no counterpart here; 4 has")),
    Row(
        "MODEL.SEM_SEG_HEAD.LOSS_TYPE",
        "`MODEL.SEM_SEG_HEAD.LOSS.NAME`",
        "Detectron2's DeepLab; `hard_pixel_mining` is not translated: `OHEMCrossEntropy` selects other "
        "pixels",
        _instead("MODEL.SEM_SEG_HEAD.LOSS.NAME is CrossEntropy or OHEMCrossEntropy"),
    ),
    Row(
        "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS",
        "`MODEL.DEEPLABV3.DILATIONS`, `MODEL.DEEPLABV3PLUS.DILATIONS`",
        "not translated",
        _instead("set MODEL.DEEPLABV3.DILATIONS or MODEL.DEEPLABV3PLUS.DILATIONS"),
    ),
    Row(
        "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS",
        "`MODEL.SEM_SEG_HEAD.CONVS_DIM`",
        "not translated",
        _instead("set MODEL.SEM_SEG_HEAD.CONVS_DIM"),
    ),
    Row(
        "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT",
        "`MODEL.DEEPLABV3.PROJECTION_DROPOUT`",
        "not translated",
        _instead("set MODEL.DEEPLABV3.PROJECTION_DROPOUT"),
    ),
    Row(
        "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS",
        "`MODEL.DEEPLABV3PLUS.FINE_CHANNELS`",
        "not translated",
        _instead("set MODEL.DEEPLABV3PLUS.FINE_CHANNELS"),
    ),
    Row(
        "MODEL.SEM_SEG_HEAD.PROJECT_FEATURES MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV",
        "",
        "the head of `configs/_base_/methods/deeplabv3plus.yaml` takes res2 and has full convolutions",
        _instead(
            "leave it out: MODEL.SEM_SEG_HEAD.NAME ASPPDecoderHead takes res2 and has full convolutions"
        ),
    ),
)
