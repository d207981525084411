"""The configuration keys of Panoptic SegFormer."""

from detectron2.config import CfgNode

from segzoo.config import AMOUNT, BELOW_1, COUNT, SHARE, one_of, register_config

_SECTION = "MODEL.PANOPTIC_SEGFORMER"
_RULES = {
    COUNT: "HIDDEN_DIM NHEADS NUM_POINTS DIM_FEEDFORWARD ENC_LAYERS DEC_LAYERS NUM_OBJECT_QUERIES "
    "THING_LAYERS STUFF_LAYERS FILTER_ROUNDS",
    BELOW_1: "DROPOUT",
    AMOUNT: "CLASS_WEIGHT BOX_WEIGHT IOU_WEIGHT MASK_WEIGHT TEST.THING_THRESHOLD TEST.STUFF_THRESHOLD",
    SHARE: "TEST.THING_OVERLAP TEST.STUFF_OVERLAP",
    one_of("all", "with_things"): "STUFF_CLASS_LOSS",
}


@register_config(rules={f"{_SECTION}.{key}": rule for rule, keys in _RULES.items() for key in keys.split()})
def add_panoptic_segformer_config(cfg: CfgNode) -> None:
    """Add MODEL.PANOPTIC_SEGFORMER, in place."""
    node = cfg.MODEL.PANOPTIC_SEGFORMER = CfgNode()
    # Channels of all parts, a multiple of 32; attention heads; width of the feed-forward networks.
    node.HIDDEN_DIM = 256
    node.NHEADS = 8
    node.DIM_FEEDFORWARD = 1024
    # Points that a head samples in each level, in the encoder and in the location decoder, and their dropout.
    node.NUM_POINTS = 4
    node.DROPOUT = 0.1
    # Layers of the encoder and of the location decoder, and the decoder's number of queries.
    node.ENC_LAYERS = 6
    node.DEC_LAYERS = 6
    node.NUM_OBJECT_QUERIES = 300
    # Layers of the mask decoders, without the tail that forms the final masks.
    node.THING_LAYERS = 4
    node.STUFF_LAYERS = 6
    # Rounds of matching that select the queries whose masks are trained. 1: one query for each thing, as in
    # the released code; 3: up to three, as the paper describes.
    node.FILTER_ROUNDS = 1
    # Images whose stuff classes are trained: with_things (at least one thing, as in the released code) | all.
    # A dataset without thing classes always trains them.
    node.STUFF_CLASS_LOSS = "with_things"
    # Weights of the losses: classes, box distance, GIoU, dice of the masks; the matching costs have the same,
    # and twice the weight of classes where masks are matched.
    node.CLASS_WEIGHT = 2.0
    node.BOX_WEIGHT = 5.0
    node.IOU_WEIGHT = 2.0
    node.MASK_WEIGHT = 2.0
    node.TEST = CfgNode()
    # Panoptic: segments of a lower score (class probability times the square of the mean mask value) are
    # dropped, and those with a larger share of their mask on segments of higher scores.
    node.TEST.THING_THRESHOLD = 0.25
    node.TEST.STUFF_THRESHOLD = 0.25
    node.TEST.THING_OVERLAP = 0.4
    node.TEST.STUFF_OVERLAP = 0.2
