"""The key map of Panoptic SegFormer's published files.

They have one of two sets of names for the mask decoders: `things_mask_head` and `stuff_mask_head`, or
`mask_head` and `mask_head2`.
"""

from segzoo.checkpoint import KeyMap, register_key_map
from segzoo.checkpoint.rules_cnn import TORCHVISION_RESNET

_NECK = (
    (r"^neck\.convs\.(\d+)\.", r"neck.levels.\1."),
    # The level after the three maps of the backbone.
    (r"^neck\.extra_convs\.0\.", "neck.levels.3."),
    (r"^(neck\.levels\.\d+)\.conv\.", r"\1."),
    (r"^(neck\.levels\.\d+)\.gn\.", r"\1.norm."),
)
_LAYERS = (
    (
        r"^bbox_head\.transformer\.encoder\.(layers\.\d+)\.attentions\.0\.",
        r"transformer.encoder.\1.self_attn.",
    ),
    (r"^bbox_head\.transformer\.encoder\.", "transformer.encoder."),
    (r"^bbox_head\.transformer\.decoder\.", "location_decoder."),
    (r"^(location_decoder\.layers\.\d+)\.attentions\.0\.attn\.", r"\1.self_attn."),
    (r"^(location_decoder\.layers\.\d+)\.attentions\.1\.", r"\1.cross_attn."),
    (r"\.ffns\.0\.layers\.0\.0\.", ".linear1."),
    (r"\.ffns\.0\.layers\.1\.", ".linear2."),
    *((rf"(\.layers\.\d+)\.norms\.{index}\.", rf"\1.norm{index + 1}.") for index in range(3)),
)
_LOCATIONS = (
    (r"^bbox_head\.transformer\.level_embeds$", "transformer.level_embed"),
    (r"^bbox_head\.transformer\.reference_points\.", "location_decoder.reference_points."),
    (r"^bbox_head\.query_embedding\.", "location_decoder.query_embed."),
    (r"^bbox_head\.cls_branches\.", "location_decoder.class_heads."),
    *(
        (rf"^bbox_head\.reg_branches\.(\d+)\.{theirs}\.", rf"location_decoder.box_heads.\1.layers.{ours}.")
        for ours, theirs in enumerate((0, 2, 4))
    ),
)
_MASKS = (
    (r"^bbox_head\.(things_mask_head|mask_head)\.", "thing_decoder."),
    (r"^bbox_head\.(stuff_mask_head|mask_head2)\.", "stuff_decoder."),
    (r"^bbox_head\.stuff_query\.", "stuff_decoder.query_embed."),
    (r"^bbox_head\.cls_stuff_branches\.", "stuff_decoder.class_heads."),
    (r"^((?:thing|stuff)_decoder)\.blocks\.", r"\1.layers."),
    (r"^((?:thing|stuff)_decoder)\.attnen\.", r"\1.tail."),
    *(
        (rf"^((?:thing|stuff)_decoder\..*)\.linear_l{level + 1}\.0\.", rf"\1.masks.levels.{level}.")
        for level in range(3)
    ),
    (r"^((?:thing|stuff)_decoder\..*)\.linear\.0\.", r"\1.masks.join."),
    (r"\.head_norm([12])\.", r".norm\1."),
    (r"^(stuff_decoder\.layers\.\d+)\.norm3\.", r"\1.norm_self."),
    (r"\.self_attention\.qkv\.", ".self_attn.in_proj_"),
    (r"\.self_attention\.proj\.", ".self_attn.out_proj."),
)

PANOPTIC_SEGFORMER = KeyMap(
    name="Panoptic SegFormer",
    recognize=(r"^bbox_head\.transformer\.level_embeds$", r"^bbox_head\.(stuff_mask_head|mask_head2)\."),
    rules=(*TORCHVISION_RESNET, *_NECK, *_LAYERS, *_LOCATIONS, *_MASKS),
    # Classes and boxes of the mask decoders, which nothing reads; their losses have weight 0.
    extras=(r"^bbox_head\.(reg_branches2|cls_thing_branches|cls_branches2)\.",),
    classifier=(r"^location_decoder\.class_heads\.", r"^stuff_decoder\.query_embed\."),
    queries=(r"^location_decoder\.query_embed\.",),
)

register_key_map(PANOPTIC_SEGFORMER)
