"""Replay of a training that stopped: the same losses, and the module that broke them."""

import pytest
import torch

from segzoo.cli.nonfinite_replay import read_capsule, replay
from segzoo.cli.replay import main
from segzoo.engine.nonfinite_dump import save_nonfinite_capsule
from segzoo.engine.rng_state import capture_random_state
from segzoo.engine.trainer import Trainer
from segzoo.model_zoo import load_config


@pytest.fixture
def stopped(tmp_path):
    """Return a function that makes a capsule of a small PSPNet with dropout, changed by `spoil`."""

    def make(spoil=lambda model: None):
        opts = ["MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.NORM", "BN", "OUTPUT_DIR", str(tmp_path)]
        cfg = load_config("semantic/shapes/pspnet_r18_quarter", [*opts, "MODEL.SEM_SEG_HEAD.DROPOUT", 0.5])
        torch.manual_seed(0)
        model = Trainer.build_model(cfg).train()
        spoil(model)
        batch = [
            {
                "image": torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8),
                "sem_seg": torch.randint(0, 11, (64, 64)),
                "file_name": f"{name}.png",
            }
            for name in "ab"
        ]
        state = capture_random_state()
        with torch.no_grad():
            losses = {name: float(loss) for name, loss in model(batch).items()}
        message = save_nonfinite_capsule(
            str(tmp_path),
            iteration=118,
            rank=0,
            reason="a test",
            losses=losses,
            batch=batch,
            random_state=state,
            model=model,
            learning_rates=[0.01, 0.1, 0.1],
            cfg=cfg,
        )
        assert "nonfinite_118.pth" in message
        return str(tmp_path / "nonfinite_118.pth"), losses

    return make


def test_the_losses_of_the_capsule_are_reproduced_including_dropout(stopped, capsys):
    path, losses = stopped()
    lines = dict(replay(read_capsule(path)))
    assert set(losses) <= set(lines)
    for name, value in losses.items():
        again, before = lines[name].removesuffix(")").split(" (then: ")
        assert float(again) == float(before) == pytest.approx(value, rel=1e-5)
    assert lines["first non-finite output"] == lines["non-finite gradients"] == "none"
    assert main([path]) == 0
    shown = capsys.readouterr().out
    assert "a.png" in shown
    assert "0.01, 0.1" in shown


def test_the_first_module_that_breaks_is_named(stopped):
    def overflow(model):
        with torch.no_grad():
            model.backbone.res4[1].conv1.weight.fill_(torch.finfo(torch.float32).max)

    path, _ = stopped(overflow)
    lines = dict(replay(read_capsule(path)))
    # The norm is a module inside the convolution, whose product is what overflows.
    assert lines["first non-finite output"].startswith("backbone.res4.1.conv1")
    assert "its inputs are not finite either" in lines["first non-finite output"]


def test_another_file_is_refused_in_one_line(tmp_path, capsys):
    torch.save({"model": {"weight": torch.zeros(2)}}, tmp_path / "model.pth")
    assert main([str(tmp_path / "model.pth")]) == 2
    assert "lacks iteration, batch, random_state, config" in capsys.readouterr().err
    assert main([str(tmp_path / "none.pth")]) == 2
    assert "none.pth: does not exist" in capsys.readouterr().err
