"""Layouts of published files of the pyramid transformers (MiT, PVTv2), CSWin and VOLO.

The models have the names of the official files, so only other code bases need rules. A map of a whole model
concatenates the rules for its parts: `rules=(*MMSEG_MIT, ...), splits=MMSEG_MIT_SPLITS,
resize=MMSEG_MIT_RESIZE`. Rules keep the prefix `backbone.` of a name that has it; those for Hugging Face
files add it.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .key_maps import KeyMap, Resize, register_key_map

Rules = tuple[tuple[str, str], ...]


def drop_unit_kernel(weight: Tensor, shape: torch.Size) -> Tensor | None:
    """Return the weight of a 1 x 1 convolution, (C', C, 1, 1), as that of a linear layer, (C', C)."""
    return weight.flatten(1) if weight.shape == (*shape, 1, 1) else None


def resize_position_grid(grid: Tensor, shape: torch.Size) -> Tensor | None:
    """Interpolate a position embedding (1, h, w, C) bicubically to another h and w."""
    if grid.dim() != 4 or len(shape) != 4 or grid.shape[3] != shape[3]:
        return None
    resized = F.interpolate(
        grid.float().permute(0, 3, 1, 2), size=shape[1:3], mode="bicubic", align_corners=False
    )
    return resized.permute(0, 2, 3, 1).contiguous()


# mmsegmentation's MixVisionTransformer: a stage is `layers.<i>` with embedding 0, blocks 1 and norm 2;
# queries, keys and values are projected together; the MLP consists of convolutions.
MMSEG_MIT: Rules = (
    *((rf"^((?:backbone\.)?)layers\.{index}\.(?=[012]\.)", rf"\1stage{index + 1}.") for index in range(4)),
    (r"^((?:backbone\.)?)stage(\d)\.0\.projection\.", r"\1patch_embed\2.proj."),
    (r"^((?:backbone\.)?)stage(\d)\.0\.norm\.", r"\1patch_embed\2.norm."),
    (r"^((?:backbone\.)?)stage(\d)\.1\.", r"\1block\2."),
    (r"^((?:backbone\.)?)stage(\d)\.2\.", r"\1norm\2."),
    (r"^((?:backbone\.)?block.*)\.attn\.attn\.out_proj\.", r"\1.attn.proj."),
    (r"^((?:backbone\.)?block.*)\.ffn\.layers\.0\.", r"\1.mlp.fc1."),
    (r"^((?:backbone\.)?block.*)\.ffn\.layers\.1\.", r"\1.mlp.dwconv.dwconv."),
    (r"^((?:backbone\.)?block.*)\.ffn\.layers\.4\.", r"\1.mlp.fc2."),
)
MMSEG_MIT_SPLITS = (
    (r"\.attn\.attn\.in_proj_(weight|bias)$", (r".attn.q.\1", r".attn.kv.\1", r".attn.kv.\1")),
)
MMSEG_MIT_RESIZE: tuple[tuple[str, Resize], ...] = ((r"\.mlp\.fc[12]\.weight$", drop_unit_kernel),)

# Hugging Face's SegFormer: the layer type first, then the stage; keys and values are projected separately.
HF_MIT: Rules = (
    (r"^(?:segformer\.)?encoder\.", "backbone."),
    *(
        (rf"^backbone\.{layer}\.{index}\.", rf"backbone.{name}{index + 1}.")
        for layer, name in (("patch_embeddings", "patch_embed"), ("block", "block"), ("layer_norm", "norm"))
        for index in range(4)
    ),
    (r"^(backbone\.patch_embed\d)\.layer_norm\.", r"\1.norm."),
    (r"^(backbone\.block.*)\.layer_norm_([12])\.", r"\1.norm\2."),
    (r"^(backbone\.block.*)\.attention\.self\.query\.", r"\1.attn.q."),
    (r"^(backbone\.block.*)\.attention\.self\.layer_norm\.", r"\1.attn.norm."),
    (r"^(backbone\.block.*)\.attention\.self\.", r"\1.attn."),
    (r"^(backbone\.block.*)\.attention\.output\.dense\.", r"\1.attn.proj."),
    (r"^(backbone\.block.*)\.mlp\.dense([12])\.", r"\1.mlp.fc\2."),
)
HF_MIT_JOINS = (((r"\.attention\.self\.key\.", r"\.attention\.self\.value\."), ".attention.self.kv."),)

# The Swin backbone of Hugging Face transformers, in a file of a whole model.
HF_SWIN: Rules = (
    (r"^backbone\.embeddings\.patch_embeddings\.projection\.", "backbone.patch_embed.proj."),
    (r"^backbone\.embeddings\.norm\.", "backbone.patch_embed.norm."),
    (r"^backbone\.encoder\.", "backbone."),
    *(
        (rf"^backbone\.hidden_states_norms\.stage{index + 1}\.", f"backbone.norm{index}.")
        for index in range(4)
    ),
    (r"^(backbone\..*)\.layernorm_before\.", r"\1.norm1."),
    (r"^(backbone\..*)\.layernorm_after\.", r"\1.norm2."),
    (r"^(backbone\..*)\.attention\.self\.", r"\1.attn."),
    (r"^(backbone\..*)\.attention\.output\.dense\.", r"\1.attn.proj."),
    (r"^(backbone\..*)\.intermediate\.dense\.", r"\1.mlp.fc1."),
    (r"^(backbone\..*)\.output\.dense\.", r"\1.mlp.fc2."),
)
HF_SWIN_JOINS = (
    (tuple(rf"\.attention\.self\.{role}\." for role in ("query", "key", "value")), ".attention.self.qkv."),
)

# timm's PVTv2: the first embedding is separate, the others are the first layer of their stage.
TIMM_PVT_V2: Rules = (
    (r"^patch_embed\.", "patch_embed1."),
    *((rf"^stages\.{index}\.downsample\.", rf"patch_embed{index + 1}.") for index in range(1, 4)),
    *((rf"^stages\.{index}\.blocks\.", rf"block{index + 1}.") for index in range(4)),
    *((rf"^stages\.{index}\.norm\.", rf"norm{index + 1}.") for index in range(4)),
    (r"\.mlp\.dwconv\.(weight|bias)$", r".mlp.dwconv.dwconv.\1"),
)

_CLASSIFIER = (r"^head\.", r"^classifier\.")

LAYOUTS = (
    # mit_b*.pth and pvt_v2_b*.pth; files of the first PVT have position embeddings.
    KeyMap(
        name="MiT or PVTv2 ImageNet",
        recognize=(r"^patch_embed1\.proj\.weight$", r"^block1\.0\.attn\.kv\.weight$", r"!^pos_embed"),
        extras=_CLASSIFIER,
        prefix="backbone.",
    ),
    KeyMap(
        name="mmsegmentation MiT ImageNet",
        recognize=(r"^layers\.0\.0\.projection\.weight$", r"^layers\.0\.1\.0\.attn\.attn\.in_proj_weight$"),
        rules=MMSEG_MIT,
        extras=_CLASSIFIER,
        prefix="backbone.",
        resize=MMSEG_MIT_RESIZE,
        splits=MMSEG_MIT_SPLITS,
    ),
    KeyMap(
        name="Hugging Face MiT ImageNet",
        recognize=(
            r"^(segformer\.)?encoder\.block\.0\.0\.attention\.self\.query\.weight$",
            r"!^decode_head\.",
        ),
        rules=(*HF_MIT, (r"^backbone\.", "")),
        extras=_CLASSIFIER,
        prefix="backbone.",
        joins=HF_MIT_JOINS,
    ),
    KeyMap(
        name="timm PVTv2 ImageNet",
        recognize=(r"^patch_embed\.proj\.weight$", r"^stages\.0\.blocks\.0\.attn\.kv\.weight$"),
        rules=TIMM_PVT_V2,
        extras=_CLASSIFIER,
        prefix="backbone.",
    ),
    # cswin_*.pth. Dense prediction norms each output: norm1 to norm4.
    KeyMap(
        name="CSWin ImageNet",
        recognize=(r"^stage1_conv_embed\.0\.weight$", r"^stage1\.0\.attns\.0\.get_v\.weight$"),
        extras=(*_CLASSIFIER, r"^norm\."),
        absent=(r"^(backbone\.)?norm[1-4]\.(weight|bias)$",),
        prefix="backbone.",
    ),
    # d*_*.pth.tar, and timm's. Dense prediction drops the class token and upsamples two of its outputs.
    KeyMap(
        name="VOLO ImageNet",
        recognize=(r"^network\.0\.0\.attn\.v\.weight$", r"^pos_embed$"),
        extras=(*_CLASSIFIER, r"^aux_head\.", r"^norm\.", r"^post_network\.", r"^cls_token$"),
        absent=(r"^(backbone\.)?upsample_res[23]\.(weight|bias)$",),
        prefix="backbone.",
        resize=((r"(^|\.)pos_embed$", resize_position_grid),),
    ),
)


def register_transformer_layouts() -> None:
    """Register the layouts of backbone files for `load_checkpoint`."""
    for layout in LAYOUTS:
        register_key_map(layout)
