"""The neck's own keys."""

from detectron2.config import CfgNode

from segzoo.config import COUNT, COUNTS, register_config


@register_config(rules={"MODEL.JPU.CONVS_DIM": COUNT, "MODEL.JPU.DILATIONS": COUNTS})
def add_jpu_config(cfg: CfgNode) -> None:
    """Add MODEL.JPU, in place. Norm and resizing are those of MODEL.SEM_SEG_HEAD."""
    cfg.MODEL.JPU = CfgNode()
    cfg.MODEL.JPU.CONVS_DIM = 512
    # One separable 3 x 3 convolution for each; their outputs together replace res5.
    cfg.MODEL.JPU.DILATIONS = (1, 2, 4, 8)
    # How res3, res4 and res5 are joined: coarsest first in FastFCN and pytorch-cv, finest first in
    # mmsegmentation. It matters for published weights only.
    cfg.MODEL.JPU.COARSEST_FIRST = True
