"""Gradients are clipped as the config says, to hand-computed values."""

import pytest
import torch

from segzoo.config.defaults import default_config
from segzoo.solver import build_gradient_clipper
from segzoo.utils.errors import InputError


def clipped(kind, limit, *gradients):
    cfg = default_config()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = kind
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = limit
    parameters = []
    for gradient in gradients:
        parameters.append(torch.nn.Parameter(torch.zeros(len(gradient))))
        parameters[-1].grad = torch.tensor(gradient)
    norm = build_gradient_clipper(cfg)(parameters)
    return norm, [parameter.grad.tolist() for parameter in parameters]


def test_full_model_scales_all_gradients_by_one_factor():
    norm, gradients = clipped("full_model", 1.0, [3.0, 0.0], [0.0, 4.0])
    assert norm == pytest.approx(5.0)
    assert gradients == [pytest.approx([0.6, 0.0], abs=1e-5), pytest.approx([0.0, 0.8], abs=1e-5)]


def test_full_model_leaves_a_small_norm_alone():
    assert clipped("full_model", 6.0, [3.0, 0.0], [0.0, 4.0])[1] == [[3.0, 0.0], [0.0, 4.0]]


def test_norm_clips_each_parameter_by_itself():
    gradients = clipped("norm", 1.0, [3.0, 4.0], [0.5])[1]
    assert gradients == [pytest.approx([0.6, 0.8], abs=1e-5), [0.5]]


def test_value_clamps_each_element():
    assert clipped("value", 1.0, [3.0, -4.0], [0.5])[1] == [[1.0, -1.0], [0.5]]


@pytest.mark.parametrize("kind", ["full_model", "norm", "value"])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_makes_the_returned_norm_non_finite(kind, broken):
    assert not torch.isfinite(clipped(kind, 1.0, [1.0, broken], [0.5])[0])
    assert clipped(kind, 1.0, [3.0, 0.0], [0.5])[0] == pytest.approx(3.0, abs=0.1)


def test_disabled_means_no_clipper_and_an_unknown_type_is_an_input_error():
    assert build_gradient_clipper(default_config()) is None
    with pytest.raises(InputError, match="CLIP_TYPE: 'total' is not known; choose full_model, norm, value"):
        clipped("total", 1.0, [1.0])
