"""What a training in bfloat16 keeps in single precision: weights, evaluations and checkpoints."""

import pytest
import torch
from torch import nn

from tests.engine.toy_training import ToyTrainer, metrics, run_toy, toy_cfg


def dtypes(value: object) -> set[torch.dtype]:
    """Return the types of the floating-point tensors in a structure."""
    if isinstance(value, torch.Tensor):
        return {value.dtype} if value.is_floating_point() else set()
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return {dtype for part in parts for dtype in dtypes(part)}


class Watched(ToyTrainer):
    """A trainer that evaluates two images, and remembers the types of what convolutions return."""

    @classmethod
    def build_model(cls, cfg):
        model = super().build_model(cfg)
        cls.seen = {True: set(), False: set()}
        for part in model.modules():
            if isinstance(part, nn.Conv2d):
                part.register_forward_hook(lambda one, _, output: cls.seen[one.training].add(output.dtype))
        return model

    @classmethod
    def test(cls, cfg, model):
        model.eval()
        with torch.no_grad():
            model([{"image": torch.full((3, 8, 8), 90, dtype=torch.uint8)}])
        model.train()
        return {"sem_seg": {"mIoU": 1.0}}


def trained(folder, **keys):
    changes = {"DATASETS__TEST": ("toy_val",), "TEST__EVAL_PERIOD": 3, "SOLVER__MAX_ITER": 30, **keys}
    run_toy(toy_cfg(folder, **changes), trainer_class=Watched)
    losses = [line["total_loss"] for line in metrics(folder) if "total_loss" in line]
    return losses, dict(Watched.seen), torch.load(folder / "model_final.pth", weights_only=True)


def test_only_the_training_step_is_in_bfloat16_and_its_losses_are_near(tmp_path):
    expected, seen, _ = trained(tmp_path / "single")
    assert seen == {True: {torch.float32}, False: {torch.float32}}
    losses, seen, checkpoint = trained(
        tmp_path / "half", SOLVER__AMP__ENABLED=True, SOLVER__AMP__DTYPE="bfloat16"
    )
    assert seen == {True: {torch.bfloat16}, False: {torch.float32}}
    # Weights, and the optimizer's state.
    assert dtypes(checkpoint) == {torch.float32}
    assert losses == pytest.approx(expected, rel=0.02)
    assert losses[-1] < 0.9 * losses[0]
