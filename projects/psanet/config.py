"""The configuration keys of PSANet."""

from detectron2.config import CfgNode as CN

from segzoo.config import register_config


@register_config
def add_psanet_config(cfg: CN) -> None:
    """Adds MODEL.PSANET to `cfg`, in place."""
    cfg.MODEL.PSANET = CN()
    # Size of the map of offsets, or of the shrunk feature map where compact. (): as INPUT.CROP_SIZE needs it,
    # and no other input size is accepted then.
    cfg.MODEL.PSANET.MASK_SIZE = ()
    # Weigh places instead of offsets: fewer parameters, one input size only.
    cfg.MODEL.PSANET.COMPACT = False
    # The attention works on a map smaller by this factor.
    cfg.MODEL.PSANET.SHRINK_FACTOR = 2
    # 1 for files of mmsegmentation, whose 1 x 1 convolution after the attention is padded.
    cfg.MODEL.PSANET.PROJECTION_PADDING = 0
