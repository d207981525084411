"""The configuration keys of JPU."""

from detectron2.config import CfgNode

from segzoo.config import COUNT, register_config


@register_config(rules={"MODEL.JPU.CONVS_DIM": COUNT})
def add_jpu_config(cfg: CfgNode) -> None:
    """Add MODEL.JPU, in place. Norm and resizing are those of MODEL.SEM_SEG_HEAD."""
    cfg.MODEL.JPU = CfgNode()
    cfg.MODEL.JPU.CONVS_DIM = 512
    # Order in which res3, res4 and res5 are joined: coarsest first in FastFCN and pytorch-cv, finest first in
    # mmsegmentation. It only matters for published weights.
    cfg.MODEL.JPU.COARSEST_FIRST = True
