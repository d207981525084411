"""DANet's own keys."""

from detectron2.config import CfgNode


def add_danet_config(cfg: CfgNode) -> CfgNode:
    """Adds MODEL.DANET, in place, and returns `cfg`."""
    cfg.MODEL.DANET = CfgNode()
    # What the softmax of the position attention runs over: "keys" in the paper, "queries" in pytorch-cv.
    cfg.MODEL.DANET.POSITION_SOFTMAX = "keys"
    # Of the outputs of the two attentions, beside the fused one.
    cfg.MODEL.DANET.BRANCH_LOSS_WEIGHT = 1.0
    return cfg
