"""Memory of the kernels that oneDNN compiles, one for each operator and shape, and keeps.

Sizes are averages of what a process holds more after a new shape, on a CPU with AVX-512, PyTorch 2.13.
"""

from typing import Any

import torch

_CONVOLUTION = 100 << 10
#: Number of bytes by operator; PyTorch's other operators are compiled already.
KERNELS: dict[Any, int] = {
    torch.ops.aten.convolution.default: _CONVOLUTION,
    torch.ops.aten.mkldnn_convolution.default: _CONVOLUTION,
    torch.ops.aten.convolution_backward.default: 2 * _CONVOLUTION,  # of the input and of the weight
}
# Only in PyTorch with oneDNN.
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    KERNELS[torch.ops.mkldnn._linear_pointwise.default] = 560 << 10
