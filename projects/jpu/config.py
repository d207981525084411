"""The neck's own keys."""

from detectron2.config import CfgNode

from segzoo.config import COUNT, register_config


@register_config(rules={"MODEL.JPU.CONVS_DIM": COUNT})
def add_jpu_config(cfg: CfgNode) -> None:
    """Add MODEL.JPU, in place. Norm and resizing are those of MODEL.SEM_SEG_HEAD."""
    cfg.MODEL.JPU = CfgNode()
    cfg.MODEL.JPU.CONVS_DIM = 512
    # How res3, res4 and res5 are joined: coarsest first in FastFCN and pytorch-cv, finest first in
    # mmsegmentation. It matters for published weights only.
    cfg.MODEL.JPU.COARSEST_FIRST = True
