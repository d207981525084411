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
    # Dilations of the pyramid's 3 x 3 convolutions; (6, 12, 18) at output stride 16.
    node.DILATIONS = (12, 24, 36)
    # The pyramid is followed by a convolution of this kernel size, dropout of single values, and
    # SEM_SEG_HEAD.NUM_CONVS 3 x 3 convolutions. The paper, GluonCV and torchvision use 1, 0.5 and 1;
    # mmsegmentation 3, 0.0 and 0.
    node.PROJECTION_KERNEL = 1
    node.PROJECTION_DROPOUT = 0.5
    # Put the image pooling before the other branches (mmsegmentation) instead of after them.
    node.POOLING_FIRST = False
