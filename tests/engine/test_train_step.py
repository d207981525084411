"""One training step: micro-batches, mixed precision, clipping, and stopping before a non-finite update."""

import copy

import pytest
import torch

from segzoo.engine.train_step import TrainStep, amp_dtype
from segzoo.solver import build_gradient_clipper
from tests.engine.toy_training import ToyPixelClassifier, toy_cfg, toy_image


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ToyPixelClassifier(dropout=0.0)


@pytest.fixture
def batch():
    return [toy_image(index) for index in range(6)]


def one_step(model, batch, parts=1, **options):
    model = copy.deepcopy(model).train()
    step = TrainStep(model, torch.optim.SGD(model.parameters(), lr=1.0), **options)
    losses = step([batch[i : i + len(batch) // parts] for i in range(0, len(batch), len(batch) // parts)])
    return losses, dict(model.named_parameters())


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_accumulated_micro_batches_equal_the_whole_batch(model, batch, parts):
    losses, weights = one_step(model, batch)
    accumulated_losses, accumulated_weights = one_step(model, batch, parts=parts)
    assert accumulated_losses == pytest.approx(losses, rel=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(accumulated_weights[name], weight, rtol=1e-5, atol=1e-6)


def test_the_update_has_the_norm_that_clipping_allows(model, batch, tmp_path):
    cfg = toy_cfg(tmp_path, SOLVER__CLIP_GRADIENTS__ENABLED=True, SOLVER__CLIP_GRADIENTS__CLIP_VALUE=0.01)
    _, weights = one_step(model, batch, clip_gradients=build_gradient_clipper(cfg), parts=2)
    update = torch.cat([(weights[name] - old).flatten() for name, old in model.named_parameters()])
    assert float(update.norm()) == pytest.approx(0.01, rel=1e-3)


def test_bfloat16_on_a_cpu_computes_in_bfloat16_and_keeps_float32_weights(model, batch):
    seen = []
    model.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    losses, weights = one_step(model, batch, amp_dtype=torch.bfloat16)
    assert seen == [torch.bfloat16]
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert losses == pytest.approx(one_step(model, batch)[0], rel=0.05)


@pytest.mark.parametrize(
    ("enabled", "dtype", "device", "expected"),
    [
        (False, "float16", "cuda", None),
        (True, "float16", "cuda", torch.float16),
        (True, "bfloat16", "cuda:1", torch.bfloat16),
        (True, "float16", "cpu", torch.bfloat16),
    ],
)
def test_the_dtype_follows_the_config_and_the_device(tmp_path, enabled, dtype, device, expected):
    cfg = toy_cfg(tmp_path, SOLVER__AMP__ENABLED=enabled, SOLVER__AMP__DTYPE=dtype, MODEL__DEVICE=device)
    assert amp_dtype(cfg) is expected


def test_a_non_finite_loss_stops_before_the_weights_change(model, batch):
    batch[4]["image"] = batch[4]["image"].float() * float("nan")
    model.train()
    before = copy.deepcopy(model.state_dict())
    reports = []

    def handler(reason, losses, micro_batch, random_state):
        reports.append((reason, [image["file_name"] for image in micro_batch]))

    step = TrainStep(model, torch.optim.SGD(model.parameters(), lr=1.0), on_nonfinite=handler)
    with pytest.raises(FloatingPointError, match="non-finite loss"):
        step([batch[:2], batch[2:4], batch[4:]])
    assert reports == [("loss_ce is nan, loss_size is nan", ["toy_4.png", "toy_5.png"])]
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0)


class SometimesTwoLosses(torch.nn.Linear):
    """A model with a loss that only some images have."""

    def forward(self, batched_inputs):
        value = batched_inputs[0]["value"] * self.weight.sum()
        return {"loss_all": value} | ({"loss_some": 3 * value} if batched_inputs[0]["some"] else {})


@pytest.mark.parametrize("some", [(True, False), (False, True)])
def test_a_loss_that_one_micro_batch_lacks_is_zero_there(some):
    model = SometimesTwoLosses(1, 1)
    torch.nn.init.ones_(model.weight)
    step = TrainStep(model, torch.optim.SGD(model.parameters(), lr=1.0))
    values = (2.0, 5.0)
    losses = step([[{"value": value, "some": has}] for value, has in zip(values, some, strict=True)])
    only = values[some.index(True)]
    assert losses == pytest.approx({"loss_all": 3.5, "loss_some": 3 * only / 2})
    # The recorded loss matches the gradient, 1 - weight after the step.
    assert 1 - model.weight.item() == pytest.approx(sum(losses.values()))


@pytest.mark.parametrize("kind", ["full_model", "norm", "value"])
def test_a_non_finite_gradient_of_a_finite_loss_stops_before_the_weights_change(model, batch, tmp_path, kind):
    cfg = toy_cfg(tmp_path, SOLVER__CLIP_GRADIENTS__ENABLED=True, SOLVER__CLIP_GRADIENTS__CLIP_TYPE=kind)
    model.head.weight.register_hook(lambda gradient: gradient * float("nan"))
    before = copy.deepcopy(model.state_dict())
    reports = []
    step = TrainStep(
        model.train(),
        torch.optim.AdamW(model.parameters()),
        clip_gradients=build_gradient_clipper(cfg),
        on_nonfinite=lambda *report: reports.append(report[:3]),
    )
    with pytest.raises(FloatingPointError, match="the gradient's norm is nan"):
        step([batch[:2], batch[2:]])
    [(reason, losses, images)] = reports
    assert reason == "the gradient's norm is nan"
    assert all(value == value for value in losses.values())
    assert [image["file_name"] for image in images] == [image["file_name"] for image in batch]
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0)


def test_a_model_that_raises_itself_is_reported_alike(batch):
    class Unmatchable(torch.nn.Linear):
        def forward(self, batched_inputs):
            raise FloatingPointError("non-finite matching cost for image 1")

    model, reports = Unmatchable(1, 1), []
    step = TrainStep(
        model,
        torch.optim.SGD(model.parameters(), lr=1.0),
        on_nonfinite=lambda *report: reports.append(report[:3]),
    )
    with pytest.raises(FloatingPointError):
        step([batch])
    assert reports == [("non-finite matching cost for image 1", {}, batch)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="loss scaling needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_gpu_step_in_half_precision_is_that_of_float32_to_rounding(model, batch, dtype):
    model = model.cuda()
    losses, weights = one_step(model, batch, device="cuda")
    half_losses, half_weights = one_step(model, batch, device="cuda", amp_dtype=dtype, parts=2)
    assert half_losses == pytest.approx(losses, rel=0.02)
    for name, weight in weights.items():
        torch.testing.assert_close(half_weights[name], weight, rtol=0.05, atol=0.01)
