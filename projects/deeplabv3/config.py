"""The configuration keys of DeepLabV3."""

from detectron2.config import CfgNode

from segzoo.config import BELOW_1, COUNTS, ODD, register_config


@register_config(
    rules={
        "MODEL.DEEPLABV3.DILATIONS": COUNTS,
        "MODEL.DEEPLABV3.PROJECTION_KERNEL": ODD,
        "MODEL.DEEPLABV3.PROJECTION_DROPOUT": BELOW_1,
    }
)
def add_deeplabv3_config(cfg: CfgNode) -> None:
    """Add MODEL.DEEPLABV3, in place."""
    cfg.MODEL.DEEPLABV3 = CfgNode()
    node = cfg.MODEL.DEEPLABV3
    # Dilations of the 3 x 3 convolutions of the pyramid; (6, 12, 18) at output stride 16.
    node.DILATIONS = (12, 24, 36)
    # What follows the pyramid: a convolution of this kernel size, dropout of single values, and
    # SEM_SEG_HEAD.NUM_CONVS 3 x 3 convolutions. The paper's, GluonCV's and torchvision's is 1, 0.5 and 1;
    # mmsegmentation's 3, 0.0 and 0.
    node.PROJECTION_KERNEL = 1
    node.PROJECTION_DROPOUT = 0.5
    # The image pooling comes before the other branches (mmsegmentation) instead of after them.
    node.POOLING_FIRST = False
