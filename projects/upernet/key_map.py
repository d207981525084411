"""Key maps of UPerNet's published files, by code base and backbone."""

from torch import Tensor

from segzoo.checkpoint import KeyMap, register_key_map
from segzoo.checkpoint.rules_cnn import MMSEG_RESNET
from segzoo.checkpoint.rules_transformer import HF_SWIN, HF_SWIN_JOINS

_CLASSIFIER = (r"(^|\.)predictor\.(weight|bias)$",)

# mmsegmentation and code built on it, and transformers, which has other names for norms and classifier.
_HEADS = (
    (r"^decode_head\.psp_modules\.(\d)\.1\.", r"decode_head.pyramid_pooling.projections.\1."),
    (r"^decode_head\.lateral_convs\.", "decode_head.laterals."),
    (r"^decode_head\.fpn_convs\.", "decode_head.outputs."),
    (r"^decode_head\.fpn_bottleneck\.", "decode_head.fuse."),
    (r"^((?:decode|auxiliary)_head)\.(?:conv_seg|classifier)\.", r"\1.predictor."),
    (r"^((?:decode|auxiliary)_head\..*)\.conv\.", r"\1."),
    (r"^((?:decode|auxiliary)_head\..*)\.(?:bn|batch_norm)\.", r"\1.norm."),
    (r"^decode_head\.", "sem_seg_head."),
)
_HEAD = r"^decode_head\.fpn_bottleneck\.conv\.weight$"


def reorder_merged_patches(weight: Tensor) -> Tensor:
    """Reorder a weight over the 2 x 2 pixels that Swin merges from mmsegmentation's to the official order.

    Args:
        weight: (..., 4 C), the last dimension by channel, row, column.

    Returns:
        (..., 4 C), the last dimension by column, row, channel.
    """
    channels = weight.shape[-1] // 4
    return weight.unflatten(-1, (channels, 2, 2)).transpose(-1, -3).flatten(-3)


# The official files of Swin and CSWin, and any others whose backbones have the names used here.
OFFICIAL = KeyMap(name="UPerNet", recognize=(_HEAD,), rules=_HEADS, classifier=_CLASSIFIER)

MMSEGMENTATION_RESNET = KeyMap(
    name="mmsegmentation UPerNet ResNet",
    recognize=(_HEAD, r"^backbone\.layer1\.0\.conv1\.weight$"),
    rules=(*_HEADS, *MMSEG_RESNET),
    classifier=_CLASSIFIER,
)

MMSEGMENTATION_SWIN = KeyMap(
    name="mmsegmentation UPerNet Swin",
    recognize=(_HEAD, r"^backbone\.stages\.0\.blocks\.0\.attn\.w_msa\.qkv\.weight$"),
    rules=(
        *_HEADS,
        (r"^backbone\.patch_embed\.projection\.", "backbone.patch_embed.proj."),
        (r"^backbone\.stages\.", "backbone.layers."),
        (r"^(backbone\..*)\.attn\.w_msa\.", r"\1.attn."),
        (r"^(backbone\..*)\.ffn\.layers\.0\.0\.", r"\1.mlp.fc1."),
        (r"^(backbone\..*)\.ffn\.layers\.1\.", r"\1.mlp.fc2."),
    ),
    classifier=_CLASSIFIER,
    transforms=((r"^backbone\.layers\.\d\.downsample\.(norm|reduction)\.", reorder_merged_patches),),
)

HUGGING_FACE_SWIN = KeyMap(
    name="Hugging Face UperNet Swin",
    recognize=(_HEAD, r"^backbone\.encoder\.layers\.0\.blocks\.0\.attention\.self\.query\.weight$"),
    rules=(
        *_HEADS,
        *HF_SWIN,
    ),
    extras=(r"^backbone\.swin\.layernorm\.",),
    classifier=_CLASSIFIER,
    joins=HF_SWIN_JOINS,
)

for _key_map in (OFFICIAL, MMSEGMENTATION_RESNET, MMSEGMENTATION_SWIN, HUGGING_FACE_SWIN):
    register_key_map(_key_map)
