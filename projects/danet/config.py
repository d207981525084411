"""The configuration keys of DANet."""

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
    # Dimension of the position attention's softmax: "keys" in the paper, "queries" in pytorch-cv.
    cfg.MODEL.DANET.POSITION_SOFTMAX = "keys"
    # Loss weight of each attention branch's own logits, in addition to the fused ones.
    cfg.MODEL.DANET.BRANCH_LOSS_WEIGHT = 1.0
