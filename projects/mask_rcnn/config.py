"""The configuration keys of Mask R-CNN beside Detectron2's."""

from detectron2.config import CfgNode

from segzoo.config import one_of, register_config


@register_config(rules={"MODEL.MASK_RCNN.PASTING": one_of("detectron2", "gluoncv")})
def add_mask_rcnn_config(cfg: CfgNode) -> None:
    """Add MODEL.MASK_RCNN, in place."""
    cfg.MODEL.MASK_RCNN = node = CfgNode()
    # Whether images are padded to a multiple of the largest stride of the pyramid; GluonCV's are not.
    node.PAD_TO_STRIDE = True
    # How a mask becomes pixels: detectron2, bilinearly at pixel centers, like GluonCV's eval_mask_rcnn.py |
    # gluoncv, in a box of whole pixels, like the evaluation in its train_mask_rcnn.py.
    node.PASTING = "detectron2"
