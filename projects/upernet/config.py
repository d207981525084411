"""The configuration keys of UPerNet."""

from detectron2.config import CfgNode

from segzoo.config import COUNTS, register_config


@register_config(rules={"MODEL.UPERNET.BINS": COUNTS})
def add_upernet_config(cfg: CfgNode) -> None:
    """Add MODEL.UPERNET, in place."""
    cfg.MODEL.UPERNET = CfgNode()
    # Cells per side of the pooling grids on the coarsest level.
    cfg.MODEL.UPERNET.BINS = (1, 2, 3, 6)
