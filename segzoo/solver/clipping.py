"""Gradient clipping, applied by the training step after unscaling and before the update."""

from collections.abc import Callable, Iterable

import torch
from detectron2.config import CfgNode

from segzoo.utils.errors import InputError

GradientClipper = Callable[[Iterable[torch.nn.Parameter]], torch.Tensor]


def build_gradient_clipper(cfg: CfgNode) -> GradientClipper | None:
    """Build the function that clips gradients in place according to SOLVER.CLIP_GRADIENTS; None if disabled.

    `full_model` scales all gradients by one factor so that their joint norm (order NORM_TYPE) is at most
    CLIP_VALUE, `norm` does so for each parameter separately, `value` clamps each element (both as in
    Detectron2). It returns, as a () float tensor and without synchronizing with the device, the value before
    clipping that it compared with CLIP_VALUE: the norm, the largest norm, or the largest absolute value; it
    is not finite if a gradient is not.

    Raises:
        InputError: the CLIP_TYPE is unknown.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return None
    limit, norm_type = float(clip.CLIP_VALUE), float(clip.NORM_TYPE)

    def clip_full_model(parameters: Iterable[torch.nn.Parameter]) -> torch.Tensor:
        return torch.nn.utils.clip_grad_norm_(list(parameters), limit, norm_type)

    def clip_each_norm(parameters: Iterable[torch.nn.Parameter]) -> torch.Tensor:
        norms = [
            torch.nn.utils.clip_grad_norm_(parameter, limit, norm_type)
            for parameter in parameters
            if parameter.grad is not None
        ]
        return torch.stack(norms).max()

    def clip_each_value(parameters: Iterable[torch.nn.Parameter]) -> torch.Tensor:
        parameters = list(parameters)
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        largest = torch.stack([grad.abs().max() for grad in grads]).max()
        torch.nn.utils.clip_grad_value_(parameters, limit)
        return largest

    clippers = {"full_model": clip_full_model, "norm": clip_each_norm, "value": clip_each_value}
    if clip.CLIP_TYPE not in clippers:
        raise InputError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE: {clip.CLIP_TYPE!r} is not known; choose {', '.join(clippers)}"
        )
    return clippers[clip.CLIP_TYPE]
