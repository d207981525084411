"""One training step: forward and backward passes over micro-batches, clipping, update."""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segzoo.layers.runtime import PendingCopy
from segzoo.solver import build_gradient_clipper
from segzoo.solver.clipping import GradientClipper
from segzoo.utils.errors import InputError

from .metrics_log import mean_losses
from .rng_state import capture_random_state

Batch = list[dict[str, Any]]
# Called when a loss or the gradient is not finite, with the reason, the losses (empty where the model itself
# raised), the micro-batch (the whole batch for the gradient) and the random state before its forward pass;
# has to raise.
NonFiniteHandler = Callable[[str, dict[str, float], Batch, dict], None]


class TrainStep:
    """Update of a model with one batch, in one or several passes.

    Losses are checked before the update, so that the weights are still good when one is not finite. On a GPU
    they are copied while the backward pass runs: the device never waits for the check. With clipping the
    gradient's norm is checked too, after the backward pass; a GradScaler checks the gradient itself. A fused
    optimizer skips the update on the device if the norm is not finite, and the host looks at the norm one
    step later, or in `finish`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        clip_gradients: GradientClipper | None = None,
        amp_dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        on_nonfinite: NonFiniteHandler | None = None,
    ):
        """
        Args:
            model: returns a dict of scalar losses in training, or one scalar; may be wrapped in
                DistributedDataParallel.
            clip_gradients: see `segzoo.solver.build_gradient_clipper`.
            amp_dtype: float16 (with loss scaling, GPU only), bfloat16, or None for float32.
            device: device of the model.
            on_nonfinite: called when a loss or the clipped gradient is not finite; without it only
                FloatingPointError is raised.
        """
        self.model = model
        self.optimizer = optimizer
        self.clip_gradients = clip_gradients
        self.amp_dtype = amp_dtype
        self.device_type = torch.device(device).type
        self.on_nonfinite = on_nonfinite
        scaled = amp_dtype == torch.float16 and self.device_type == "cuda"
        self.grad_scaler = torch.amp.GradScaler(self.device_type, enabled=scaled)
        self._unchecked: UncheckedNorm | None = None

    @classmethod
    def from_config(
        cls, cfg: CfgNode, model, optimizer, on_nonfinite: NonFiniteHandler | None = None
    ) -> "TrainStep":
        """Create a step from SOLVER.CLIP_GRADIENTS, SOLVER.AMP and MODEL.DEVICE."""
        return cls(
            model,
            optimizer,
            clip_gradients=build_gradient_clipper(cfg),
            amp_dtype=amp_dtype(cfg),
            device=cfg.MODEL.DEVICE,
            on_nonfinite=on_nonfinite,
        )

    def __call__(self, micro_batches: Sequence[Batch]) -> dict[str, float]:
        """Update the weights once, with the mean of the micro-batches' losses.

        This equals the loss of the whole batch if the micro-batches have the same size and each loss is a
        mean over images.

        Args:
            micro_batches: inputs of successive passes, whose gradients add up.

        Returns:
            This process's losses by name, each the mean over the micro-batches; see `mean_losses`.

        Raises:
            FloatingPointError: a loss or the gradient is not finite; the weights are those before this step.
                With a fused optimizer also for the gradient of the step before, which has changed no weight.
        """
        self.optimizer.zero_grad(set_to_none=True)
        passes = []
        for number, micro_batch in enumerate(micro_batches, start=1):
            random_state = capture_random_state()
            # Gradients are synchronized once, with the last micro-batch.
            waits = number < len(micro_batches) and isinstance(self.model, DistributedDataParallel)
            with self.model.no_sync() if waits else contextlib.nullcontext():
                losses = self._forward(micro_batch, random_state)
                passes.append((PendingLosses(losses), micro_batch, random_state))
                total = sum(losses.values()) / len(micro_batches)
                self.grad_scaler.scale(total).backward()
        # Here the device has work to do while the host waits for what it computed before.
        self._check_norm(" in the iteration before")
        values = [self._finite(*one_pass) for one_pass in passes]
        losses = mean_losses(values)
        norm = self._clip()
        if norm is not None and not self.grad_scaler.is_enabled():
            batch = [image for micro_batch in micro_batches for image in micro_batch]
            self._unchecked = UncheckedNorm(PendingLosses({"norm": norm}), losses, batch, passes[0][2])
            if not getattr(self.optimizer, "_step_supports_amp_scaling", False):
                self._check_norm()
            else:
                # As GradScaler passes it: a fused optimizer changes nothing where it is 1.
                self.optimizer.found_inf = (~torch.isfinite(norm)).float()
        self.grad_scaler.step(self.optimizer)
        if self._unchecked is not None:
            del self.optimizer.found_inf
        self.grad_scaler.update()
        return losses

    def finish(self) -> None:
        """Check what the last step left to the next one.

        Raises:
            FloatingPointError: the gradient of the last step is not finite; it has changed no weight.
        """
        self._check_norm()

    def state_dict(self) -> dict:
        return {"grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        # A disabled scaler saves nothing; an enabled one then starts as in a new run.
        if state["grad_scaler"]:
            self.grad_scaler.load_state_dict(state["grad_scaler"])

    def _forward(self, micro_batch: Batch, random_state: dict) -> dict[str, Tensor]:
        try:
            with torch.autocast(self.device_type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None):
                losses = self.model(micro_batch)
        except FloatingPointError as error:
            if self.on_nonfinite is not None:
                self.on_nonfinite(str(error), {}, micro_batch, random_state)
            raise
        return {"total_loss": losses} if isinstance(losses, Tensor) else losses

    def _finite(self, losses: "PendingLosses", micro_batch: Batch, random_state: dict) -> dict[str, float]:
        values = losses.values()
        broken = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        if broken:
            self._stop(", ".join(broken), values, micro_batch, random_state)
        return values

    def _check_norm(self, when: str = "") -> None:
        unchecked, self._unchecked = self._unchecked, None
        if unchecked is None:
            return
        norm = unchecked.norm.values()["norm"]
        if not math.isfinite(norm):
            self._stop(f"the gradient's norm{when} is {norm}", *unchecked[1:])

    def _stop(self, reason: str, losses: dict[str, float], batch: Batch, random_state: dict) -> NoReturn:
        if self.on_nonfinite is not None:
            self.on_nonfinite(reason, losses, batch, random_state)
        raise FloatingPointError(f"non-finite loss or gradient: {reason}")

    def _clip(self) -> Tensor | None:
        """Clip the unscaled gradient; return the clipper's norm, None without clipper."""
        if self.clip_gradients is None:
            return None
        self.grad_scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        return self.clip_gradients([p for p in parameters if p.grad is not None])


class UncheckedNorm(NamedTuple):
    """A gradient's norm on its way to the host, and what belongs to it: losses, images, random state."""

    norm: "PendingLosses"
    losses: dict[str, float]
    batch: Batch
    random_state: dict


class PendingLosses:
    """Loss values in a non-blocking copy from the device to the host."""

    def __init__(self, losses: dict[str, Tensor]):
        """Start the copy; losses: name to () float tensor."""
        self._names = list(losses)
        self._values = PendingCopy(torch.stack([loss.detach().float() for loss in losses.values()]))

    def values(self) -> dict[str, float]:
        """Return the values, after waiting for the forward pass only."""
        return dict(zip(self._names, self._values.value().tolist(), strict=True))


def amp_dtype(cfg: CfgNode) -> torch.dtype | None:
    """Return the dtype of automatic mixed precision, None if it is off. On a CPU it is always bfloat16.

    Raises:
        InputError: SOLVER.AMP.DTYPE is neither float16 nor bfloat16.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    dtypes = {"float16": torch.float16, "bfloat16": torch.bfloat16}
    if cfg.SOLVER.AMP.DTYPE not in dtypes:
        raise InputError(
            f"SOLVER.AMP.DTYPE: {cfg.SOLVER.AMP.DTYPE!r} is not known; choose float16 or bfloat16"
        )
    return torch.bfloat16 if torch.device(cfg.MODEL.DEVICE).type == "cpu" else dtypes[cfg.SOLVER.AMP.DTYPE]
