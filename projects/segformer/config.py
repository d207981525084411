"""The keys that only SegFormer has."""

from detectron2.config import CfgNode

from segzoo.config import one_of, register_config


@register_config(rules={"MODEL.SEGFORMER.PROJECTION": one_of("linear", "conv")})
def add_segformer_config(cfg: CfgNode) -> None:
    """Add MODEL.SEGFORMER, in place."""
    cfg.MODEL.SEGFORMER = CfgNode()
    # How a level is brought to the head's channels, and the order in which levels are joined:
    #   linear: a linear layer, coarsest level first (NVlabs, transformers)
    #   conv:   1 x 1 convolution, norm and ReLU, finest level first (mmsegmentation)
    cfg.MODEL.SEGFORMER.PROJECTION = "linear"
    # Fuse the levels before they are resized, which is the same sum for a fraction of the operations. False
    # computes in the published order: for counting operations as the paper does.
    cfg.MODEL.SEGFORMER.FUSE_AT_LEVEL = True
