"""One training step: micro-batches, mixed precision, clipping, and stopping before a non-finite update."""

import copy

import pytest
import torch
import yaml
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from segzoo.config.files import config_root
from segzoo.engine.train_step import TrainStep, amp_dtype
from segzoo.model_zoo import load_config
from segzoo.solver import build_gradient_clipper, build_optimizer, load_optimizer_state
from segzoo.solver import optimizer as solver_optimizer
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


def test_a_model_that_takes_the_option_trains_in_bfloat16_near_single_precision(tmp_path):
    losses = []
    for options in ([], [str(config_root() / "_base_/recipes/segzoo/amp_bf16.yaml")]):
        file = tmp_path / "own.yaml"
        leaf = config_root() / "semantic/shapes/pspnet_r18_quarter.yaml"
        file.write_text(yaml.safe_dump({"_BASE_": [str(leaf), *options]}))
        cfg = load_config(file)
        torch.manual_seed(0)
        model = build_model(cfg).train()
        types = []
        model.sem_seg_head.register_forward_hook(
            lambda module, inputs, output, types=types: types.append(output["logits"].dtype)
        )
        step = TrainStep.from_config(cfg, model, build_optimizer(cfg, model))
        generator = torch.Generator().manual_seed(0)
        images = [
            {
                "image": torch.randint(0, 256, (3, 64, 64), generator=generator, dtype=torch.uint8),
                "sem_seg": torch.randint(0, 3, (8, 8), generator=generator).repeat(8, 8),
            }
            for _ in range(4)
        ]
        with EventStorage():
            losses.append([sum(step([images]).values()) for _ in range(10)])
        assert types == 10 * [torch.bfloat16 if options else torch.float32]
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    single, half = losses
    assert single[-1] < 0.8 * single[0]
    assert half == pytest.approx(single, rel=0.05)


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


@pytest.mark.parametrize("steps_after", [0, 1])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_a_fused_optimizer_skips_a_non_finite_gradient_which_is_reported_one_step_later(
    model, batch, tmp_path, optimizer, steps_after
):
    cfg = toy_cfg(tmp_path, SOLVER__CLIP_GRADIENTS__ENABLED=True)
    factor, reports = [1.0], []
    model.head.weight.register_hook(lambda gradient: gradient * factor[0])
    step = TrainStep(
        model.train(),
        optimizer(model.parameters(), lr=0.1, fused=True),
        clip_gradients=build_gradient_clipper(cfg),
        on_nonfinite=lambda *report: reports.append(report[:3]),
    )
    first = copy.deepcopy(model.state_dict())
    step([batch[:2]])
    before = copy.deepcopy(model.state_dict())
    assert not torch.equal(first["head.weight"], before["head.weight"])
    factor[0] = float("inf")
    losses = step([batch[2:4]])
    factor[0] = 1.0
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0)
    assert reports == []
    late = " in the iteration before" if steps_after else ""
    with pytest.raises(FloatingPointError, match=f"the gradient's norm{late} is (nan|inf)"):
        step([batch[4:]]) if steps_after else step.finish()
    [(_, reported, images)] = reports
    assert reported == losses
    assert [image["file_name"] for image in images] == ["toy_2.png", "toy_3.png"]
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0)


def test_finite_gradients_train_a_fused_optimizer_like_another(model, batch, tmp_path):
    cfg = toy_cfg(tmp_path, SOLVER__CLIP_GRADIENTS__ENABLED=True)
    weights = []
    for fused in (False, True):
        trained = copy.deepcopy(model).train()
        optimizer = torch.optim.AdamW(trained.parameters(), lr=0.1, fused=fused)
        step = TrainStep(trained, optimizer, clip_gradients=build_gradient_clipper(cfg))
        for start in range(0, 6, 2):
            step([batch[start : start + 2]])
        step.finish()
        weights.append(trained.state_dict())
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("foreach", [True, False])
def test_an_optimizer_that_chooses_its_loop_is_not_fused(tmp_path, monkeypatch, foreach):
    monkeypatch.setattr(solver_optimizer, "FUSED_ON", "cpu")
    monkeypatch.setitem(
        solver_optimizer.OPTIMIZER_REGISTRY._obj_map,
        "Looped",
        lambda cfg: (torch.optim.AdamW, {"foreach": foreach}),
    )
    made = build_optimizer(toy_cfg(tmp_path, SOLVER__OPTIMIZER="Looped"), torch.nn.Linear(2, 2))
    assert [group["foreach"] for group in made.param_groups] == [foreach] * len(made.param_groups)
    assert not any(group["fused"] for group in made.param_groups)


@pytest.mark.parametrize(("fused_on", "expected"), [("cpu", True), ("cuda", None)])
@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_optimizers_are_fused_on_a_gpu_also_after_resuming(
    tmp_path, fused_on, expected, optimizer, monkeypatch
):
    """Here the CPU plays the GPU."""
    cfg = toy_cfg(tmp_path, SOLVER__OPTIMIZER=optimizer)
    # A checkpoint of another device.
    saved = build_optimizer(cfg, torch.nn.Linear(2, 2))
    monkeypatch.setattr(solver_optimizer, "FUSED_ON", fused_on)
    made = build_optimizer(cfg, torch.nn.Linear(2, 2))
    assert [group["fused"] for group in made.param_groups] == [expected] * len(made.param_groups)
    for state in (saved.state_dict(), _without_names(saved.state_dict())):
        load_optimizer_state(made, state)
        assert [group["fused"] for group in made.param_groups] == [expected] * len(made.param_groups)
    if expected:
        # Without kernels for them.
        on_meta = build_optimizer(cfg, torch.nn.Linear(2, 2, device="meta"))
        assert not any(group["fused"] for group in on_meta.param_groups)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fused_sgd_trains_as_usual_after_a_first_update_that_was_skipped(tmp_path, momentum, monkeypatch):
    monkeypatch.setattr(solver_optimizer, "FUSED_ON", "cpu")
    cfg = toy_cfg(tmp_path, SOLVER__OPTIMIZER="SGD", SOLVER__MOMENTUM=momentum)
    model, usual = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    usual.load_state_dict(model.state_dict())
    fused = build_optimizer(cfg, model)
    monkeypatch.undo()
    plain = build_optimizer(cfg, usual)
    before = copy.deepcopy(model.state_dict())
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("inf"))
    # As GradScaler does.
    fused.found_inf = torch.ones(())
    fused.step()
    del fused.found_inf
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])
    for _ in range(3):
        for one in (*model.parameters(), *usual.parameters()):
            one.grad = torch.ones_like(one)
        fused.step()
        plain.step()
    for name, weight in usual.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight)


def _without_names(state):
    groups = [{key: value for key, value in one.items() if key != "names"} for one in state["param_groups"]]
    return {**state, "param_groups": groups}


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
