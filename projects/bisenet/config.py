"""The configuration keys of BiSeNet."""

from detectron2.config import CfgNode

from segzoo.config import AMOUNT, COUNT, COUNTS, Rule, at_least, one_of, register_config


def _four_counts(value) -> bool:
    return len(value) == 4 and COUNTS.allows(value)


@register_config(
    rules={
        "MODEL.BISENET.SPATIAL_CHANNELS": Rule("expected four numbers of at least 1", _four_counts),
        "MODEL.BISENET.CONTEXT_CHANNELS": COUNT,
        "MODEL.BISENET.FUSION_CHANNELS": COUNT,
        "MODEL.BISENET.FUSION_REDUCTION": at_least(0),
        "MODEL.BISENET.UPSAMPLE": one_of("bilinear", "nearest"),
        "MODEL.BISENET.AUX_CONVS_DIM": COUNT,
        "MODEL.BISENET.AUX_LOSS_WEIGHT": AMOUNT,
    }
)
def add_bisenet_config(cfg: CfgNode) -> None:
    """Add MODEL.BISENET, in place."""
    cfg.MODEL.BISENET = node = CfgNode()
    # Channels of the four convolutions of the spatial path, and of everything in the context path.
    node.SPATIAL_CHANNELS = (64, 64, 64, 128)
    node.CONTEXT_CHANNELS = 128
    # Channels of the fused map; 256 is the sum of both paths.
    node.FUSION_CHANNELS = 256
    # The gate of the fusion: two 1 x 1 convolutions without norm, with channels divided by this between them.
    # 0: one 1 x 1 convolution with norm, as in mmsegmentation.
    node.FUSION_REDUCTION = 4
    # Whether the refinement's gate has a ReLU before its sigmoid, as in pytorch-cv.
    node.REFINEMENT_RELU = False
    # Interpolation of the context: bilinear (see SEM_SEG_HEAD.ALIGN_CORNERS) | nearest
    node.UPSAMPLE = "bilinear"
    # Auxiliary classifiers on the two refined maps: channels before each, and weight of each loss.
    node.AUX_CONVS_DIM = 256
    node.AUX_LOSS_WEIGHT = 1.0
