"""Weights with the names of wrappers or of an outer module, and several sets in one file.

The wrappers are PyTorch's own; layouts of files are those of the training scripts that are named.
"""

import logging

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from segzoo.checkpoint import SegzooCheckpointer, load_checkpoint
from segzoo.utils.errors import InputError


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Sequential(*(nn.Linear(4, 4) for _ in range(9)))
        self.predictor = nn.Linear(4, 2)


class Task(nn.Module):
    """As a LightningModule is written: the model, a loss with weights, a metric with counts."""

    def __init__(self, name: str, model: nn.Module):
        super().__init__()
        self.add_module(name, model)
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(2))
        self.metric = nn.Module()
        self.metric.register_buffer("confusion", torch.zeros(2, 2))


@pytest.fixture
def source() -> Network:
    torch.manual_seed(0)
    return Network()


def shifted(weights: dict[str, Tensor], by: float = 1.0) -> dict[str, Tensor]:
    return {key: value + by if value.is_floating_point() else value for key, value in weights.items()}


def assert_loads(tmp_path, content, expected: dict[str, Tensor], choice: str = ""):
    torch.save(content, tmp_path / "x.pth")
    model = Network()
    report = load_checkpoint(model, f"{tmp_path / 'x.pth'}{choice}")
    assert report.complete
    for key, value in expected.items():
        assert torch.equal(model.state_dict()[key], value), key
    return report


WRAPPED = {
    "torch.compile": lambda model: torch.compile(model).state_dict(),
    "DataParallel": lambda model: nn.DataParallel(model).state_dict(),
    "compiled in parallel": lambda model: nn.DataParallel(torch.compile(model)).state_dict(),
    "parallel, compiled": lambda model: torch.compile(nn.DataParallel(model)).state_dict(),
    "Lightning": lambda model: {"state_dict": Task("net", model).state_dict(), "epoch": 3},
    "Lightning, compiled": lambda model: {"state_dict": Task("model", torch.compile(model)).state_dict()},
    "Lightning in Lightning": lambda model: {"state_dict": Task("model", Task("net", model)).state_dict()},
    "AveragedModel": lambda model: AveragedModel(model).state_dict(),
    "AveragedModel, compiled": lambda model: AveragedModel(torch.compile(model)).state_dict(),
    "DeepSpeed": lambda model: {"module": model.state_dict(), "optimizer": {"a": torch.zeros(2)}},
    "a prefix of three parts": lambda model: {
        f"wrapper.model.net.{key}": value for key, value in model.state_dict().items()
    },
    "a name for the set": lambda model: {"my_weights": model.state_dict(), "epoch": 3},
    "module inside": lambda model: {"ema": {"module": model.state_dict(), "decay": 0.99}},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_weights_of_a_wrapped_model_are_loaded(tmp_path, source, name):
    assert_loads(tmp_path, WRAPPED[name](source), source.state_dict())


def test_a_compiled_part_of_the_model_has_its_own_names(tmp_path, source):
    expected = source.state_dict()
    source.body = torch.compile(source.body)
    assert any("body._orig_mod." in key for key in source.state_dict())
    assert_loads(tmp_path, source.state_dict(), expected)


def test_weights_beside_the_model_are_named(tmp_path, source, caplog):
    caplog.set_level(logging.INFO, logger="segzoo")
    report = assert_loads(tmp_path, {"state_dict": Task("net", source).state_dict()}, source.state_dict())
    assert sorted(report.extras) == ["criterion.weight", "metric.confusion"]
    lines = [record.getMessage() for record in caplog.records]
    assert any(
        "removed 'net.' from the names of its weights; left out 2 weights (criterion.weight" in line
        for line in lines
    )


def with_teacher(model: nn.Module) -> dict[str, Tensor]:
    """As of a module that trains `net` beside a larger network."""
    weights = {f"net.{key}": value for key, value in model.state_dict().items()}
    return weights | {f"teacher.blocks.{index}.weight": torch.zeros(2, 2) for index in range(60)}


def test_another_network_beside_the_model_is_left_out_and_named(tmp_path, source, caplog):
    caplog.set_level(logging.INFO, logger="segzoo")
    report = assert_loads(tmp_path, {"state_dict": with_teacher(source)}, source.state_dict())
    assert len(report.extras) == 60
    assert "left out 60 weights (teacher.blocks.0.weight, " in caplog.text


def test_another_network_beside_a_part_of_the_model_does_not_fit(tmp_path, source):
    weights = {key: value for key, value in with_teacher(source).items() if "predictor" not in key}
    with pytest.raises(
        InputError, match=r"the file lacks 2 weights \(predictor.*no place for 60 weights \(teacher.blocks"
    ):
        assert_loads(tmp_path, weights, {})


# Content of the file; the set that is taken; how to select the other one.
SETS = {
    "timm": (("state_dict", "state_dict_ema"), "#state_dict_ema"),
    "torchvision": (("model", "model_ema"), "#model_ema"),
    "mmengine": (("state_dict", "ema_state_dict"), "#ema_state_dict"),
    "others": (("net", "ema"), "#ema"),
    "average first": (("model", "ema"), "#ema"),
}


@pytest.mark.parametrize("name", SETS)
def test_the_usual_one_of_several_sets_is_taken_and_logged(tmp_path, source, name, caplog):
    caplog.set_level(logging.INFO, logger="segzoo")
    (usual, other), choice = SETS[name]
    weights = source.state_dict()
    content = {usual: weights, other: shifted(weights), "epoch": 3}
    if name == "average first":
        content = dict(reversed(content.items()))
    report = assert_loads(tmp_path, content, weights)
    path = tmp_path / "x.pth"
    assert report.notes == [
        f"took the weights in {usual!r}; the file also holds {other} (to take them: MODEL.WEIGHTS "
        f"{path}{choice})"
    ]
    assert any(report.notes[0] in record.getMessage() for record in caplog.records)
    assert_loads(tmp_path, content, shifted(weights), choice)


@pytest.mark.parametrize(
    ("usual", "other", "key"),
    [
        ("model", "ema", "module"),
        ("model", "ema", "state_dict"),
        ("state_dict", "average", "model"),
        ("student", "teacher", "module"),
    ],
)
def test_a_set_one_level_deeper_is_selected_by_its_first_name(tmp_path, source, usual, other, key):
    weights = source.state_dict()
    content = {other: {key: shifted(weights), "decay": 0.9}, usual: weights}
    if usual == "student":
        content[usual] = {key: weights}
    for choice in (f"#{other}", f"#{other}.{key}"):
        assert_loads(tmp_path, content, shifted(weights), choice)
    assert_loads(tmp_path, content, weights, f"#{usual}")


def test_two_models_in_one_state_dict_are_distinguished_by_prefix(tmp_path, source):
    """As of a module that trains `model` and keeps `ema_model`, whatever their order."""
    weights = source.state_dict()
    both = {f"ema_model.module.{key}": value for key, value in shifted(weights).items()}
    both |= {f"model.{key}": value for key, value in weights.items()}
    report = assert_loads(tmp_path, {"state_dict": both}, weights)
    assert "removed 'model.' from" in report.notes[0]
    assert "#ema_model.module)" in report.notes[0]
    assert_loads(tmp_path, {"state_dict": both}, shifted(weights), "#ema_model.module")
    assert_loads(tmp_path, {"state_dict": both}, shifted(weights), "#ema_model")


def test_sets_without_a_usual_name_must_be_chosen(tmp_path, source):
    weights = source.state_dict()
    content = {"teacher": shifted(weights), "student": weights}
    with pytest.raises(InputError, match=r"x.pth holds several sets of weights \(teacher, student\).*#teach"):
        assert_loads(tmp_path, content, weights)
    assert_loads(tmp_path, content, weights, "#student")


def test_an_unknown_set_lists_the_known_ones(tmp_path, source):
    content = {"model": source.state_dict(), "model_ema": source.state_dict()}
    with pytest.raises(InputError, match=r"x.pth#model_emma: .*did you mean model_ema\?; expected one of"):
        assert_loads(tmp_path, content, {}, "#model_emma")


def test_another_model_does_not_fit_with_any_prefix(tmp_path):
    weights = {f"model.encoder.{index}.weight": torch.zeros(2) for index in range(9)}
    with pytest.raises(
        InputError, match=r"none of its 9 weights .*; give the configuration it was trained with"
    ):
        assert_loads(tmp_path, {"state_dict": weights}, {})


def test_half_a_model_under_a_prefix_does_not_fit(tmp_path, source):
    weights = {f"net.{key}": value for key, value in source.state_dict().items() if "body" not in key}
    with pytest.raises(InputError, match="the file lacks 18 weights"):
        assert_loads(tmp_path, weights, {})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_weight_is_refused(tmp_path, source, value):
    weights = source.state_dict()
    weights["body.3.weight"][1, 2] = value
    weights["predictor.bias"][:] = value
    torch.save(weights, tmp_path / "x.pth")
    model = Network()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    what = "NaN" if value != value else "infinite"
    with pytest.raises(
        InputError, match=rf"x.pth: 2 of 27 weights are not finite, first body.3.weight \(1 {what} of 16 val"
    ):
        load_checkpoint(model, tmp_path / "x.pth")
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in before.items())


def test_numbers_too_large_for_the_models_precision_are_refused(tmp_path, source):
    weights = source.state_dict()
    weights["predictor.bias"][0] = 1e5
    torch.save(weights, tmp_path / "x.pth")
    load_checkpoint(Network(), tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"1 of 27 weights are not finite, first predictor.bias \(1 inf"):
        load_checkpoint(Network().half(), tmp_path / "x.pth")


def test_large_numbers_whose_sum_overflows_are_finite(tmp_path, source):
    weights = source.state_dict()
    weights["predictor.bias"][:] = torch.finfo(torch.float32).max
    assert_loads(tmp_path, weights, weights)


def test_the_models_own_infinities_may_be_in_the_file(tmp_path):
    def masked() -> nn.Module:
        model = Network()
        model.register_buffer("mask", torch.tensor([0.0, -float("inf")]))
        return model

    torch.save(masked().state_dict(), tmp_path / "x.pth")
    assert load_checkpoint(masked(), tmp_path / "x.pth").complete
    torch.save({**masked().state_dict(), "mask": torch.tensor([-float("inf"), 0.0])}, tmp_path / "x.pth")
    with pytest.raises(InputError, match="first mask"):
        load_checkpoint(masked(), tmp_path / "x.pth")


def test_what_is_not_loaded_may_be_anything(tmp_path, source):
    weights = {f"net.{key}": value for key, value in source.state_dict().items()}
    weights["loss.weight"] = torch.tensor([float("nan")])
    assert_loads(tmp_path, weights, source.state_dict())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["momentum_buffer", "exp_avg_sq"])
def test_a_non_finite_optimizer_state_is_refused_on_resume(tmp_path, kind, value):
    class State:
        """A trainer."""

        def state_dict(self):
            moments = {0: {"step": 3, kind: torch.ones(4)}, 1: {"step": 3, kind: torch.ones(16)}}
            moments[1][kind][5] = value
            return {
                "optimizer": {"state": moments, "param_groups": [{"params": [0, 1], "names": ["a", "b.c"]}]}
            }

        def load_state_dict(self, state):
            raise AssertionError("was loaded")

    model = Network()
    checkpointer = SegzooCheckpointer(model, str(tmp_path), trainer=State())
    checkpointer.save("model_0000009")
    SegzooCheckpointer(model, str(tmp_path)).save("model_0000004")
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(
        InputError,
        match=rf"^--resume: .*model_0000009.pth: its optimizer's {kind} of b.c is not finite: .*; "
        r"delete model_0000009.pth and --resume does so$",
    ):
        checkpointer.resume_or_load("")
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in before.items())
    # As the weights of a fine-tune or an evaluation it is as good as any.
    assert SegzooCheckpointer(Network(), trainer=State()).load(tmp_path / "model_0000009.pth", []) is not None
    # The remedy.
    (tmp_path / "model_0000009.pth").unlink()
    checkpointer.resume_or_load("")


def test_a_number_sign_in_a_file_name_selects_no_set(tmp_path, source):
    folder = tmp_path / "run #1"
    folder.mkdir()
    torch.save({"model": source.state_dict(), "ema": Network().state_dict()}, folder / "best#2.pth")
    load_checkpoint(Network(), folder / "best#2.pth")
    load_checkpoint(Network(), f"{folder}/best#2.pth#ema")
    with pytest.raises(InputError, match=r"run #1/best#3\.pth: does not exist"):
        load_checkpoint(Network(), folder / "best#3.pth")


@pytest.mark.parametrize("state", [{"iteration": 3, "hooks": {}, "_trainer": {}}, "text", {"optimizer": []}])
def test_training_state_of_another_program_is_refused_in_one_line(tmp_path, state):
    """The first is as Detectron2's trainer saves it."""

    class State:
        def state_dict(self):
            return state

        def load_state_dict(self, state):
            return state["optimizer"]["state"]

    checkpointer = SegzooCheckpointer(Network(), str(tmp_path), trainer=State())
    checkpointer.save("model_final")
    with pytest.raises(
        InputError,
        match=r"model_final.pth: its trainer state does not fit .*; start from its weights",
    ):
        checkpointer.resume_or_load("")
    # The remedy.
    SegzooCheckpointer(Network(), str(tmp_path / "new"), trainer=State()).resume_or_load(
        str(tmp_path / "model_final.pth")
    )
