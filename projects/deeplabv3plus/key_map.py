"""Key maps of mmsegmentation's DeepLabV3+ files and NVIDIA's VPLR files."""

from segzoo.checkpoint import KeyMap, register_key_map
from segzoo.checkpoint.rules_cnn import MMSEG_CLASSIFIER, MMSEG_FCN_AUXILIARY, MMSEG_RESNET, WIDE_RESNET38

MMSEG_DEEPLABV3PLUS = KeyMap(
    name="mmsegmentation DeepLabV3+",
    recognize=(
        r"^backbone\.layer1\.0\.conv1\.weight$",
        r"^decode_head\.image_pool\.1\.conv\.weight$",
        r"^decode_head\.sep_bottleneck\.0\.",
    ),
    rules=(
        *MMSEG_RESNET,
        *MMSEG_FCN_AUXILIARY,
        *MMSEG_CLASSIFIER,
        (r"^decode_head\.image_pool\.1\.", "sem_seg_head.aspp.pooling."),
        (r"^decode_head\.aspp_modules\.", "sem_seg_head.aspp.convs."),
        (r"^decode_head\.bottleneck\.", "sem_seg_head.projection."),
        (r"^decode_head\.c1_bottleneck\.", "sem_seg_head.fine."),
        (r"^decode_head\.sep_bottleneck\.", "sem_seg_head.decoder."),
        (r"^(sem_seg_head\..+)\.(depthwise|pointwise)_conv\.", r"\1.\2."),
        (r"^(sem_seg_head\..+)\.conv\.weight$", r"\1.weight"),
        (r"^(sem_seg_head\..+)\.bn\.", r"\1.norm."),
    ),
    extras=(r"^auxiliary_head\.",),
    classifier=(r"^(sem_seg_head|auxiliary_head)\.predictor\.(weight|bias)$",),
)

VPLR = KeyMap(
    name="NVIDIA DeepLabV3+ WideResNet38",
    recognize=(
        r"^mod7\.block1\.convs\.conv1\.weight$",
        r"^aspp\.img_conv\.0\.weight$",
        r"^bot_fine\.weight$",
    ),
    rules=(
        *WIDE_RESNET38,
        (r"^aspp\.features\.(\d)\.0\.", r"sem_seg_head.aspp.convs.\1."),
        (r"^aspp\.features\.(\d)\.1\.", r"sem_seg_head.aspp.convs.\1.norm."),
        (r"^aspp\.img_conv\.0\.", "sem_seg_head.aspp.pooling."),
        (r"^aspp\.img_conv\.1\.", "sem_seg_head.aspp.pooling.norm."),
        (r"^bot_aspp\.", "sem_seg_head.projection."),
        (r"^bot_fine\.", "sem_seg_head.fine."),
        (r"^final\.0\.", "sem_seg_head.decoder.0."),
        (r"^final\.1\.", "sem_seg_head.decoder.0.norm."),
        (r"^final\.3\.", "sem_seg_head.decoder.1."),
        (r"^final\.4\.", "sem_seg_head.decoder.1.norm."),
        (r"^final\.6\.", "sem_seg_head.predictor."),
    ),
    classifier=(r"^sem_seg_head\.predictor\.weight$",),
)

register_key_map(MMSEG_DEEPLABV3PLUS)
register_key_map(VPLR)
