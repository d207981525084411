"""DANet's own keys."""

from detectron2.config import CfgNode

from segzoo.config import AMOUNT, one_of, register_config


@register_config(
    rules={
        "MODEL.DANET.POSITION_SOFTMAX": one_of("keys", "queries"),
        "MODEL.DANET.BRANCH_LOSS_WEIGHT": AMOUNT,
    }
)
def add_danet_config(cfg: CfgNode) -> None:
    """Add MODEL.DANET, in place."""
    cfg.MODEL.DANET = CfgNode()
    # What the softmax of the position attention runs over: "keys" in the paper, "queries" in pytorch-cv.
    cfg.MODEL.DANET.POSITION_SOFTMAX = "keys"
    # Of the outputs of the two attentions, beside the fused one.
    cfg.MODEL.DANET.BRANCH_LOSS_WEIGHT = 1.0
