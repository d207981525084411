"""FCN, fully convolutional networks (Long et al., CVPR 2015). The head is the shared `FCNHead`."""

from typing import TYPE_CHECKING

from segzoo.utils.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from . import key_map
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__all__ = ["key_map"]
