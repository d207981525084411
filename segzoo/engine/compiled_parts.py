"""Compile parts of a model for training, as MODEL.COMPILE asks."""

from collections.abc import Sequence

from torch import nn

from segzoo.utils.errors import InputError
from segzoo.utils.text import did_you_mean

MODES = ("default", "reduce-overhead", "max-autotune")


def compile_parts(
    model: nn.Module, parts: Sequence[str], mode: str = "default", backend: str = "inductor"
) -> None:
    """Compile parts of a model in place by `torch.compile`; names of parameters and results stay.

    Args:
        model: not yet wrapped in DistributedDataParallel.
        parts: names of submodules, such as "backbone" or "sem_seg_head.predictor".
        mode: one of MODES, see `torch.compile`.
        backend: see `torch.compile`.

    Raises:
        InputError: the model has no such part.
    """
    named = dict(model.named_modules())
    missing = [part for part in parts if part not in named or not part]
    if missing:
        known = [name for name in named if name and name.count(".") < 2]
        first = [name for name in known if "." not in name]
        raise InputError(
            f"MODEL.COMPILE.PARTS: {type(model).__name__} has no part {missing[0]!r}"
            f"{did_you_mean(missing[0], known)}; its parts are {', '.join(first)}, and parts of these"
        )
    for part in parts:
        named[part].compile(mode=mode, backend=backend)
