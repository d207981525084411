"""segzoo's own registries, besides Detectron2's META_ARCH, BACKBONE and SEM_SEG_HEADS."""

from typing import Any

from segzoo.utils.filled_registry import FilledRegistry as Registry
from segzoo.utils.registries import registered

__all__ = [
    "CRITERION_REGISTRY",
    "LOSS_TERM_REGISTRY",
    "MATCHING_COST_REGISTRY",
    "NECK_REGISTRY",
    "PIXEL_DECODER_REGISTRY",
    "PIXEL_LOSS_REGISTRY",
    "TRANSFORMER_DECODER_REGISTRY",
    "check_names",
    "registered",
]

NECK_REGISTRY = Registry("NECK")
NECK_REGISTRY.__doc__ = """
Modules between the backbone and the heads, which replace or add feature maps; named by MODEL.NECK.NAME.

Called with `(cfg, input_shape)`, where input_shape is the `dict[str, ShapeSpec]` of the backbone.
`forward` takes and returns feature maps by name; `output_shape()` is the `dict[str, ShapeSpec]` of what it
returns. A meta-architecture builds it with `build_neck`. See detection/fpn.py.
"""

PIXEL_LOSS_REGISTRY = Registry("PIXEL_LOSS")
PIXEL_LOSS_REGISTRY.__doc__ = """
Losses on per-pixel class scores, named by MODEL.SEM_SEG_HEAD.LOSS.NAME.

Called with `cfg`. `forward(logits, labels)` takes (N, K, h, w) float logits and (N, H, W) int64 labels, H W
the size of the input, and returns a scalar; the loss resizes both to the size at which it compares them. See
per_pixel/losses.py.
"""

PIXEL_DECODER_REGISTRY = Registry("PIXEL_DECODER")
PIXEL_DECODER_REGISTRY.__doc__ = """
Modules that turn the backbone's feature maps into per-pixel embeddings.

Called with `(cfg, input_shape)`, where input_shape is the `dict[str, ShapeSpec]` of the backbone.
`forward` takes `dict[str, Tensor]` and returns a `PixelDecoderOutput`. The attribute `output_channels` lists
the fields that a transformer decoder may attend to. See mask_classification/fpn_pixel_decoder.py.
"""

TRANSFORMER_DECODER_REGISTRY = Registry("TRANSFORMER_DECODER")
TRANSFORMER_DECODER_REGISTRY.__doc__ = """
Modules that turn queries and feature maps into a class and a mask embedding per query.

Called with `(cfg, in_channels)`: the channels of the feature map that the queries attend to, or a list with
one entry per level if they attend to several. `forward(x, mask_features)` returns the outputs that
`MaskFormerHead` describes. A decoder that needs images, targets or tasks lists them in its attribute `wants`,
see mask_classification/context.py.
"""

CRITERION_REGISTRY = Registry("CRITERION")
CRITERION_REGISTRY.__doc__ = """
Losses of mask classification, named by MODEL.MASK_FORMER.CRITERION_NAME.

Called with `cfg`. `forward(outputs, targets)` takes the outputs that `MaskFormerHead` describes and one
`SegmentTargets` for each image, and returns weighted scalar losses by name. See
mask_classification/criterion.
"""

LOSS_TERM_REGISTRY = Registry("LOSS_TERM")
LOSS_TERM_REGISTRY.__doc__ = """
Loss terms of mask classification, named in MODEL.MASK_FORMER.LOSS_TERMS.

Called with `cfg`; a `LossTerm`. See mask_classification/criterion/terms.py.
"""

MATCHING_COST_REGISTRY = Registry("MATCHING_COST")
MATCHING_COST_REGISTRY.__doc__ = """
Costs for matching queries with segments, named in MODEL.MASK_FORMER.MATCHING_COSTS.

Called with `cfg`; a `QueryCost` or a `PixelCost`. See mask_classification/criterion/costs.py.
"""


def check_names(part: Any, cfg: Any) -> None:
    """Check the names in `cfg` of the parts that a registered part builds, if it has `check_names`.

    Args:
        part: a class or function of a registry; its `check_names(cfg)` is called if there is one.

    Raises:
        InputError: nothing is registered under one of the names.
    """
    check = getattr(part, "check_names", None)
    if check is not None:
        check(cfg)
