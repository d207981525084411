"""FCN, fully convolutional networks (Long et al., CVPR 2015). The head is the shared `FCNHead`."""

from . import key_map

__all__ = ["key_map"]
