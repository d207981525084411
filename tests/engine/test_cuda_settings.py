"""TF32, cuDNN's benchmark and compiled parts in a training; not where results have to be exact."""

import pytest
import torch
from torch import nn

from segzoo.config.defaults import default_config
from segzoo.engine import Predictor, Trainer
from segzoo.engine.cuda_settings import exact_settings, training_settings
from segzoo.layers import conv
from tests.engine import warm
from tests.engine.toy_training import ToyTrainer, toy_cfg


def found():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark


@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize(
    ("crop", "benchmark", "measures"),
    [((), False, False), ((8, 8), False, True), ((), True, True)],
)
def test_a_training_has_the_settings_of_its_keys_and_an_evaluation_inside_is_exact(
    tf32, crop, benchmark, measures
):
    cfg = default_config()
    cfg.SOLVER.TF32, cfg.INPUT.CROP_SIZE, cfg.CUDNN_BENCHMARK = tf32, crop, benchmark
    before = found()
    with training_settings(cfg):
        assert found() == (tf32, tf32, measures)
        with exact_settings(cfg.CUDNN_BENCHMARK):
            assert found() == (False, False, benchmark)
        assert found() == (tf32, tf32, measures)
    assert found() == before


def test_an_error_leaves_the_settings_as_they_were():
    before = found()
    with pytest.raises(RuntimeError, match="interrupted"), training_settings(default_config()):
        raise RuntimeError("interrupted")
    assert found() == before


def program_that_sets_the_precision(setting):
    """For `warm.start`: a program that has used one of the newer names."""

    def found_by_newer_names():
        cudnn = torch.backends.cudnn
        parts = torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn
        return [part.fp32_precision for part in parts], conv._convolves_in_tf32()

    exec(setting)
    before = found_by_newer_names()
    with training_settings(default_config()):
        assert found_by_newer_names() == (["tf32"] * 3, True)
        with exact_settings():
            assert found_by_newer_names() == (["ieee"] * 3, False)
        assert found_by_newer_names() == (["tf32"] * 3, True)
    assert found_by_newer_names() == before


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="needs PyTorch's newer settings")
@pytest.mark.parametrize(
    "setting",
    [
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
        "torch.backends.fp32_precision = 'ieee'",
        "torch.backends.cudnn.fp32_precision = 'ieee'",
    ],
)
def test_a_program_may_set_the_precision_by_the_newer_names(tmp_path, setting):
    """In a process of its own: PyTorch remembers which names were used."""
    process = warm.start(tmp_path / "output", program_that_sets_the_precision, setting)
    assert process.status() == 0, process.output


def test_the_trainer_compiles_the_parts_that_its_keys_name(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(nn.Module, "compile", lambda part, **options: seen.append((part, options)))
    ToyTrainer(toy_cfg(tmp_path))
    assert seen == []
    keys = {"MODEL__COMPILE__PARTS": ("head",), "MODEL__COMPILE__MODE": "max-autotune"}
    trainer = ToyTrainer(toy_cfg(tmp_path, **keys))
    assert seen == [(trainer.model.head, {"mode": "max-autotune", "backend": "inductor"})]


def test_the_trainer_trains_inside_and_the_predictor_is_exact(tmp_path, monkeypatch):
    seen = []

    class Watched(ToyTrainer):
        def run_step(self):
            seen.append(found())
            super().run_step()

    before = found()
    Watched(toy_cfg(tmp_path, SOLVER__MAX_ITER=1, SOLVER__TF32=True)).train()
    assert seen == [(True, True, False)]
    assert found() == before

    class Model(nn.Module):
        def forward(self, batched_inputs):
            seen.append(found())
            return [{"sem_seg": torch.zeros(2, 4, 4)} for _ in batched_inputs]

    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        Predictor(model=Model())(torch.zeros(3, 4, 4, dtype=torch.uint8))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before[0]
    assert seen[1] == (False, False, False)
    assert issubclass(Watched, Trainer)
