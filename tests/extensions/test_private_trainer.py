"""A Trainer named by the configuration: each of its build methods takes effect, in every command."""

import json

import pytest
import torch
from detectron2.solver import LRMultiplier
from fvcore.common.param_scheduler import MultiStepParamScheduler

from segzoo.cli.train import main as train_command
from segzoo.engine import Predictor, Trainer, evaluate, find_trainer
from segzoo.model_zoo import load_config
from segzoo.solver import load_optimizer_state, restore_scheduled
from segzoo.utils.errors import InputError

CONFIG = "TRAINER: Mine\nMODEL: {META_ARCHITECTURE: PerPixelSegmentor}\nSOLVER: {MAX_ITER: 2}"
TRAINER = """
import torch
from detectron2.evaluation import DatasetEvaluator
from segzoo.engine import TRAINER_REGISTRY, Trainer

calls = []


class Counting(DatasetEvaluator):
    def reset(self):
        self.images = 0

    def process(self, inputs, outputs):
        self.images += len(inputs)

    def evaluate(self):
        return {"counted": {"images": float(self.images)}}


@TRAINER_REGISTRY.register()
class Mine(Trainer):
    @classmethod
    def build_model(cls, cfg):
        model = super().build_model(cfg)
        model.is_mine = True
        return model

    @classmethod
    def build_optimizer(cls, cfg, model):
        return torch.optim.Adagrad(model.parameters(), lr=0.5)

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)

    @classmethod
    def build_mapper(cls, cfg, is_train):
        mapper = super().build_mapper(cfg, is_train)

        def black(record):
            calls.append(is_train)
            mapped = mapper(record)
            mapped["image"] = torch.zeros_like(mapped["image"])
            return mapped

        return black

    @classmethod
    def build_test_loader(cls, cfg, dataset_name, dataset=None):
        calls.append(dataset_name)
        return super().build_test_loader(cfg, dataset_name, dataset)

    @classmethod
    def build_evaluators(cls, cfg, dataset_name):
        return [*super().build_evaluators(cfg, dataset_name), Counting()]
"""


def calls_of(package):
    return __import__(package.name).calls


def test_training_takes_optimizer_schedule_mapper_and_evaluators_from_it(package, train):
    package.write(TRAINER)
    # It may use names that the standard methods do not know.
    output = train(package.config(CONFIG), "SOLVER.OPTIMIZER", "Whatever", "SOLVER.LR_SCHEDULER_NAME", "Mine")
    records = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert [record["lr"] for record in records] == pytest.approx([0.5, 0.05])
    assert records[-1]["counted/images"] == 2.0
    assert "sem_seg/mIoU" in records[-1]
    calls = calls_of(package)
    assert calls.count(True) == 4  # two iterations of two images
    assert calls.count(False) == 2
    assert calls.count("shapes_val") == 1
    state = torch.load(output / "model_final.pth", weights_only=True)["trainer"]
    assert state["optimizer_name"] == "Adagrad"


@pytest.mark.parametrize("command", ["train --eval-only", "evaluate"])
def test_evaluation_takes_loader_and_evaluators_from_it(package, train, command):
    from segzoo.cli import evaluate as command_of_evaluation

    package.write(TRAINER)
    config = package.config(CONFIG)
    weights = str(train(config, "DATASETS.TEST", "()") / "model_final.pth")
    output = package.folder / "evaluated"
    calls_of(package).clear()
    words = ["MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(output)]
    if command == "evaluate":
        assert command_of_evaluation.main(["--config-file", str(config), *words]) == 0
    else:
        from segzoo.cli import train as command_of_training

        assert command_of_training.main(["--config-file", str(config), "--eval-only", *words]) == 0
    results = json.loads((output / "inference" / "results.json").read_text())["results"]["shapes_val"]
    assert results["counted"] == {"images": 2.0}
    assert calls_of(package) == ["shapes_val", False, False]


def test_python_takes_it_from_the_configuration(package, shapes, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes))
    package.write(TRAINER)
    cfg = load_config(package.config(CONFIG))
    cfg.OUTPUT_DIR = str(package.folder)
    assert find_trainer(cfg).__name__ == "Mine"
    predictor = Predictor(cfg)
    assert predictor.model.is_mine
    assert evaluate(cfg, predictor.model)["counted"] == {"images": 2.0}
    # A subclass that is not registered also uses its own methods.
    cfg.TRAINER = "Trainer"

    class Unregistered(Trainer):
        @classmethod
        def build_evaluator(cls, cfg, dataset_name):
            """Detectron2's name and signature."""
            return __import__(package.name).Counting()

    cfg.SOLVER.MAX_ITER, cfg.OUTPUT_DIR = 1, str(package.folder / "run")
    trainer = Unregistered(cfg)
    trainer.train()
    assert json.loads((package.folder / "run/inference/results.json").read_text())["results"] == {
        "shapes_val": {"counted": {"images": 2.0}}
    }


def test_visualizations_of_the_training_use_the_trainer_s_mapper(package, train, monkeypatch):
    package.write(TRAINER)
    seen = []
    from segzoo.engine import tensorboard_images

    draw = tensorboard_images.draw_row_per_task

    def watched(cfg, name, inputs, result):
        seen.append(int(inputs["image"].max()))
        return draw(cfg, name, inputs, result)

    monkeypatch.setattr(tensorboard_images, "draw_row_per_task", watched)
    train(package.config(CONFIG), "TEST.NUM_PICTURES", "1")
    assert seen == [0]


PLAIN = """
from detectron2.data import DatasetCatalog
from segzoo.engine import TRAINER_REGISTRY, Trainer


@TRAINER_REGISTRY.register()
class Plain(Trainer):
    @classmethod
    def build_test_loader(cls, cfg, dataset_name, dataset=None):
        mapper = cls.build_mapper(cfg, False)
        return [[mapper(record)] for record in dataset or DatasetCatalog.get(dataset_name)]
"""


def test_a_loader_is_any_sequence_of_batches(package, train):
    package.write(PLAIN)
    config = package.config(CONFIG.replace("Mine", "Plain"))
    output = train(config)
    expected = json.loads((output / "inference" / "results.json").read_text())["results"]["shapes_val"]
    words = ["--eval-only", "--weights", str(output / "model_final.pth")]
    for part in ("1/2", "2/2"):
        command = ["--config-file", str(config), *words, "--shard", part, "TRAINER", "Plain"]
        assert train_command(["--debug", *command, "OUTPUT_DIR", str(package.folder / "shards")]) == 0
    found = json.loads((package.folder / "shards/inference/results.json").read_text())["results"]
    assert found["shapes_val"]["sem_seg"] == expected["sem_seg"]


EXACT = """
from segzoo.engine import TRAINER_REGISTRY, Trainer


@TRAINER_REGISTRY.register()
class Exact(Trainer):
    @classmethod
    def build_train_loader(cls, cfg, start_iteration=0):
        for batch in super().build_train_loader(cfg, start_iteration):
            yield batch[:1]
"""


def test_the_training_loader_and_a_resumed_run(package, train):
    package.write(EXACT)
    config = package.config(CONFIG.replace("Mine", "Exact"))
    output = train(config, "SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()")
    train(config, "--resume", "SOLVER.MAX_ITER", "3", "DATASETS.TEST", "()")
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [0, 1, 2]


HALVING = """
import torch
from segzoo.engine import TRAINER_REGISTRY, Trainer


@TRAINER_REGISTRY.register()
class Halving(Trainer):
    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
"""


def test_a_resumed_run_continues_with_the_rates_of_a_scheduler_of_torch(package, train):
    package.write(HALVING)
    config = package.config(CONFIG.replace("Mine", "Halving"))
    output = train(config, "SOLVER.MAX_ITER", "2", "DATASETS.TEST", "()")
    train(config, "--resume", "SOLVER.MAX_ITER", "4", "DATASETS.TEST", "()")
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert [line["lr"] for line in lines] == pytest.approx([0.01, 0.005, 0.0025, 0.00125])


def one_cycle(optimizer):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=[0.1, 0.2], total_steps=8)


def cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)


def detectron2_steps(optimizer):
    steps = MultiStepParamScheduler([1.0, 0.1, 0.01], num_updates=8, milestones=[2, 5])
    return LRMultiplier(optimizer, steps, max_iter=8)


@pytest.mark.parametrize("build", [one_cycle, cosine, detectron2_steps])
def test_rates_and_momentum_after_loading_are_those_of_one_run(build):
    def begin():
        weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
        groups = [{"params": [one], "lr": lr} for one, lr in zip(weights, (0.1, 0.2), strict=True)]
        optimizer = torch.optim.AdamW(groups)
        return optimizer, build(optimizer)

    def go(optimizer, scheduler, iterations):
        rows = []
        for _ in range(iterations):
            rows += [[(group["lr"], *group["betas"]) for group in optimizer.param_groups]]
            optimizer.step()
            scheduler.step()
        return rows

    expected = go(*begin(), 8)
    optimizer, scheduler = begin()
    found = go(optimizer, scheduler, 3)
    states = optimizer.state_dict(), scheduler.state_dict()
    optimizer, scheduler = begin()
    load_optimizer_state(optimizer, states[0], "AdamW")
    scheduler.load_state_dict(states[1])
    restore_scheduled(optimizer, states[0], scheduler)
    found += go(optimizer, scheduler, 5)
    assert torch.tensor(found).tolist() == torch.tensor(expected).tolist()


def test_rates_of_other_parameter_groups_are_refused():
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    state = torch.optim.SGD([{"params": weights}], lr=0.01).state_dict()
    now = torch.optim.SGD([{"params": [weight]} for weight in weights], lr=0.01)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(now, 0.5)
    with pytest.raises(InputError, match=r"ExponentialLR continues from .* has 1 parameter groups, now 2"):
        restore_scheduled(now, state, scheduler)
