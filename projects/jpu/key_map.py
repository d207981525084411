"""Key maps of mmsegmentation's FastFCN files: this neck under PSPNet's or DeepLabV3's head."""

from segzoo.checkpoint import KeyMap, register_key_map
from segzoo.checkpoint.rules_cnn import MMSEG_CLASSIFIER, MMSEG_FCN_AUXILIARY, MMSEG_RESNET

_RULES = (
    *MMSEG_RESNET,
    *MMSEG_FCN_AUXILIARY,
    *MMSEG_CLASSIFIER,
    (r"^neck\.conv_layers\.0\.0\.", "neck.reduce.res3."),
    (r"^neck\.conv_layers\.1\.0\.", "neck.reduce.res4."),
    (r"^neck\.conv_layers\.2\.0\.", "neck.reduce.res5."),
    (r"^neck\.dilation_layers\.(\d)\.0\.depthwise_conv\.", r"neck.dilated.\1.0."),
    (r"^neck\.dilation_layers\.(\d)\.0\.pointwise_conv\.", r"neck.dilated.\1.1."),
    (r"^decode_head\.psp_modules\.(\d)\.1\.", r"sem_seg_head.pooling.projections.\1."),
    (r"^decode_head\.image_pool\.1\.", "sem_seg_head.aspp.pooling."),
    (r"^decode_head\.aspp_modules\.", "sem_seg_head.aspp.convs."),
)
_BLOCKS = (
    (r"^((?:neck|sem_seg_head)\..+)\.conv\.weight$", r"\1.weight"),
    (r"^((?:neck|sem_seg_head)\..+)\.bn\.", r"\1.norm."),
)
_NECK = r"^neck\.dilation_layers\.0\.0\.depthwise_conv\."
_SHARED = {
    "extras": (r"^auxiliary_head\.",),
    "classifier": (r"^(sem_seg_head|auxiliary_head)\.predictor\.(weight|bias)$",),
}

MMSEG_FASTFCN_PSPNET = KeyMap(
    name="mmsegmentation FastFCN with PSPNet",
    recognize=(_NECK, r"^decode_head\.psp_modules\."),
    rules=(*_RULES, (r"^decode_head\.bottleneck\.", "sem_seg_head.bottleneck."), *_BLOCKS),
    **_SHARED,
)

MMSEG_FASTFCN_DEEPLABV3 = KeyMap(
    name="mmsegmentation FastFCN with DeepLabV3",
    recognize=(_NECK, r"^decode_head\.image_pool\."),
    rules=(*_RULES, (r"^decode_head\.bottleneck\.", "sem_seg_head.projection."), *_BLOCKS),
    **_SHARED,
)

register_key_map(MMSEG_FASTFCN_PSPNET)
register_key_map(MMSEG_FASTFCN_DEEPLABV3)
