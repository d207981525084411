"""The configuration keys of PSANet."""

from detectron2.config import CfgNode

from segzoo.config import COUNT, COUNTS, Rule, at_least, register_config


@register_config(
    rules={
        "MODEL.PSANET.MASK_SIZE": Rule(
            "expected (height, width) of at least 1, or () where it follows from others",
            lambda value: len(value) in (0, 2) and all(COUNTS.allows([side]) for side in value),
        ),
        "MODEL.PSANET.SHRINK_FACTOR": COUNT,
        "MODEL.PSANET.PROJECTION_PADDING": at_least(0),
    }
)
def add_psanet_config(cfg: CfgNode) -> None:
    """Add MODEL.PSANET, in place."""
    cfg.MODEL.PSANET = CfgNode()
    # Size of the map of offsets or, if compact, of the downsampled feature map. (): derived from
    # INPUT.CROP_SIZE, and no other input size is accepted.
    cfg.MODEL.PSANET.MASK_SIZE = ()
    # Weight locations instead of offsets: fewer parameters, only one input size.
    cfg.MODEL.PSANET.COMPACT = False
    # Factor by which the map is downsampled before the attention.
    cfg.MODEL.PSANET.SHRINK_FACTOR = 2
    # 1 for files of mmsegmentation, whose 1 x 1 convolution after the attention is padded.
    cfg.MODEL.PSANET.PROJECTION_PADDING = 0
