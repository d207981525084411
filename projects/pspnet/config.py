"""The configuration keys of PSPNet."""

from detectron2.config import CfgNode

from segzoo.config import COUNTS, register_config


@register_config(rules={"MODEL.PSPNET.BINS": COUNTS})
def add_pspnet_config(cfg: CfgNode) -> None:
    """Add MODEL.PSPNET, in place."""
    cfg.MODEL.PSPNET = CfgNode()
    # Cells per side of the pooling grids.
    cfg.MODEL.PSPNET.BINS = (1, 2, 3, 6)
    # Accept only inputs of 8 k + 1 pixels per side, as semseg does: its weights expect aligned corners.
    cfg.MODEL.PSPNET.ALIGNED_CROPS_ONLY = False
