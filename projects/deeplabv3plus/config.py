"""The configuration keys of DeepLabV3+ and VPLR's loss."""

from detectron2.config import CfgNode

from segzoo.config import AMOUNT, COUNT, COUNTS, register_config


@register_config(
    rules={
        "MODEL.DEEPLABV3PLUS.DILATIONS": COUNTS,
        "MODEL.DEEPLABV3PLUS.FINE_CHANNELS": COUNT,
        "MODEL.BOUNDARY_RELAXED.CLASS_WEIGHT_BOUND": AMOUNT,
    }
)
def add_deeplabv3plus_config(cfg: CfgNode) -> None:
    """Add MODEL.DEEPLABV3PLUS and MODEL.BOUNDARY_RELAXED, in place."""
    cfg.MODEL.DEEPLABV3PLUS = CfgNode()
    # Dilations of the pyramid's 3 x 3 convolutions; (6, 12, 18) at output stride 16.
    cfg.MODEL.DEEPLABV3PLUS.DILATIONS = (12, 24, 36)
    # Channels to which the fine map, the first of SEM_SEG_HEAD.IN_FEATURES, is reduced.
    cfg.MODEL.DEEPLABV3PLUS.FINE_CHANNELS = 48

    # Options of SEM_SEG_HEAD.LOSS.NAME BoundaryRelaxedCrossEntropy.
    cfg.MODEL.BOUNDARY_RELAXED = CfgNode()
    node = cfg.MODEL.BOUNDARY_RELAXED
    # Indices of the classes whose own pixels are never relaxed. VPLR uses (5, 6, 7, 11, 12, 17, 18) of
    # Cityscapes: pole, traffic light, traffic sign, person, rider, motorcycle, bicycle.
    node.STRICT_CLASSES = ()
    # The weight of a class is 1 + this x (1 - its fraction of the image).
    node.CLASS_WEIGHT_BOUND = 1.0
    # From this iteration on nothing is relaxed and pixels at boundaries count twice; -1: never.
    node.END_ITERATION = -1
