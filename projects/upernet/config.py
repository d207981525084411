"""The keys that only UPerNet has."""

from detectron2.config import CfgNode

from segzoo.config import COUNTS, register_config


@register_config(rules={"MODEL.UPERNET.BINS": COUNTS})
def add_upernet_config(cfg: CfgNode) -> None:
    """Add MODEL.UPERNET, in place."""
    cfg.MODEL.UPERNET = CfgNode()
    # Sides of the grids over which the coarsest level is averaged.
    cfg.MODEL.UPERNET.BINS = (1, 2, 3, 6)
