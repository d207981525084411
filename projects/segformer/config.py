"""The configuration keys of SegFormer."""

from detectron2.config import CfgNode

from segzoo.config import one_of, register_config


@register_config(rules={"MODEL.SEGFORMER.PROJECTION": one_of("linear", "conv")})
def add_segformer_config(cfg: CfgNode) -> None:
    """Add MODEL.SEGFORMER, in place."""
    cfg.MODEL.SEGFORMER = CfgNode()
    # How a level is projected to the head's channels, and the order in which levels are joined:
    #   linear: a linear layer, coarsest level first (NVlabs, transformers)
    #   conv:   1 x 1 convolution, norm and ReLU, finest level first (mmsegmentation)
    cfg.MODEL.SEGFORMER.PROJECTION = "linear"
    # Fuse the levels before resizing, which gives the same sum with a fraction of the operations. False:
    # compute in the published order, to count operations as the paper does.
    cfg.MODEL.SEGFORMER.FUSE_AT_LEVEL = True
