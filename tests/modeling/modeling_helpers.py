"""Configurations of small and of published models, and transformers' names for the same weights."""

import re

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from segzoo.config.load import new_config

SMALL = [
    *("MODEL.BACKBONE.NAME", "ResNetBackbone", "MODEL.BACKBONE.VARIANT", "r18_half"),
    *("MODEL.BACKBONE.NORM", "BN", "MODEL.SEM_SEG_HEAD.CONVS_DIM", 64, "MODEL.SEM_SEG_HEAD.MASK_DIM", 32),
    *("MODEL.MASK_FORMER.HIDDEN_DIM", 32, "MODEL.MASK_FORMER.DIM_FEEDFORWARD", 48),
    *("MODEL.MASK_FORMER.DEC_LAYERS", 2, "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 7),
    *("MODEL.MASK_FORMER.NHEADS", 4),
]
TRANSFORMER_PIXEL_DECODER = [
    *("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "TransformerFPNPixelDecoder"),
    *("MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 6),
    *("MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "transformer_encoder"),
]
MASKED_ATTENTION = [
    *("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "MultiScaleMaskedTransformerDecoder"),
    *("MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "multi_scale_pixel_decoder"),
    *("MODEL.MASK_FORMER.MASK_LOSS", "bce", "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", 64),
]


def make_config(num_classes: int, *overrides: object) -> CfgNode:
    """Load MaskFormer on the CPU for `num_classes`, with alternating keys and values in `overrides`."""
    cfg = new_config()
    cfg.merge_from_list(
        ["MODEL.META_ARCHITECTURE", "MaskFormer", "MODEL.SEM_SEG_HEAD.NAME", "MaskFormerHead"]
    )
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", num_classes])
    cfg.merge_from_list(list(overrides))
    return cfg


def make_model(num_classes: int, *overrides: object, seed: int = 0) -> nn.Module:
    """Build a model in training mode, with weights drawn from `seed`."""
    torch.manual_seed(seed)
    return build_model(make_config(num_classes, *overrides))


def shake(module: nn.Module, seed: int = 0) -> nn.Module:
    """Change every parameter and running statistic from the neutral initial value of norms and biases."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.add_(torch.rand(tensor.shape, generator=generator))
            elif tensor.dim() <= 1 or "embed" in name or "bias_table" in name:
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return module


def random_image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Return a random image, (3, height, width) uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def relative_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest absolute difference in units of the expected values' spread."""
    assert actual.shape == expected.shape
    spread = expected.max() - expected.min()
    assert spread > 0
    return ((actual - expected).abs().max() / spread).item()


# transformers' names -> published names, applied in this order.
_SWIN = (
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"embeddings\.norm\.", "patch_embed.norm."),
    (r"encoder\.layers\.", "layers."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.self\.relative_position_bias_table", ".attn.relative_position_bias_table"),
    (r"\.attention\.self\.(query|key|value)\.", r".attn.qkv.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"hidden_states_norms\.(\d)\.", r"norm\1."),
)
_RESNET = (
    (r"embedder\.embedder\.convolution", "stem.conv1"),
    (r"embedder\.embedder\.normalization", "stem.conv1.norm"),
    (r"encoder\.stages\.(\d)\.layers\.", lambda match: f"res{int(match[1]) + 2}."),
    (r"\.layer\.(\d)\.convolution", lambda match: f".conv{int(match[1]) + 1}"),
    (r"\.layer\.(\d)\.normalization", lambda match: f".conv{int(match[1]) + 1}.norm"),
    (r"\.shortcut\.convolution", ".shortcut"),
    (r"\.shortcut\.normalization", ".shortcut.norm"),
)
_MASKFORMER = (
    (r"^model\.pixel_level_module\.encoder\.(model\.)?", "backbone."),
    (r"^model\.pixel_level_module\.decoder\.", "sem_seg_head.pixel_decoder."),
    (r"\.fpn\.stem\.0\.", ".layer_4."),
    (r"\.fpn\.stem\.1\.", ".layer_4.norm."),
    (r"\.fpn\.layers\.(\d)\.proj\.0\.", lambda match: f".adapter_{3 - int(match[1])}."),
    (r"\.fpn\.layers\.(\d)\.proj\.1\.", lambda match: f".adapter_{3 - int(match[1])}.norm."),
    (r"\.fpn\.layers\.(\d)\.block\.0\.", lambda match: f".layer_{3 - int(match[1])}."),
    (r"\.fpn\.layers\.(\d)\.block\.1\.", lambda match: f".layer_{3 - int(match[1])}.norm."),
    (r"\.mask_projection\.", ".mask_features."),
    (r"^model\.transformer_module\.queries_embedder\.", "sem_seg_head.predictor.query_embed."),
    (r"^model\.transformer_module\.input_projection\.", "sem_seg_head.predictor.input_proj."),
    (r"^model\.transformer_module\.decoder\.", "sem_seg_head.predictor.transformer.decoder."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.encoder_attn_layer_norm\.", ".norm2."),
    (r"\.final_layer_norm\.", ".norm3."),
    (r"\.encoder_attn\.", ".multihead_attn."),
    (r"\.(q|k|v)_proj\.", r".in_proj_\1."),
    (r"\.o_proj\.", ".out_proj."),
    (r"decoder\.layers\.(\d)\.mlp\.fc", r"decoder.layers.\1.linear"),
    (r"decoder\.layernorm\.", "decoder.norm."),
    (r"^class_predictor\.", "sem_seg_head.predictor.class_embed."),
    (r"^mask_embedder\.(\d)\.0\.", r"sem_seg_head.predictor.mask_embed.layers.\1."),
)
# Weights that only transformers has, or that follow from the architecture.
_EXTRA = (
    r"relative_position_index$",
    r"num_batches_tracked$",
    r"empty_weight$",
    r"encoder\.model\.layernorm\.",
)


def published_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of transformers' MaskFormer with the published names, with projections joined."""
    renamed = {}
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        if any(re.search(pattern, key) for pattern in _EXTRA):
            continue
        for pattern, replacement in (*_SWIN, *_RESNET, *_MASKFORMER):
            key = re.sub(pattern, replacement, key)
        match = re.fullmatch(r"(.*\.(?:qkv|in_proj_))\.?(q|k|v)(?:uery|ey|alue)?\.(weight|bias)", key)
        if match:
            joined = f"{match[1]}.{match[3]}" if match[1].endswith("qkv") else f"{match[1]}{match[3]}"
            parts.setdefault(joined, {})[match[2]] = value
        else:
            renamed[key] = value
    for joined, by_role in parts.items():
        renamed[joined] = torch.cat([by_role[role] for role in "qkv"])
    return renamed
