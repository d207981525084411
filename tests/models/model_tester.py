"""Tests that every model has to pass, inherited by a class for each model.

A class sets `architecture`, the name of a registered meta-architecture, and overrides `config` if there is
no configuration of it on Shapes. Everything runs on four images of 64 x 64 pixels, on a CPU.
"""

import copy
import json
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from PIL import Image
from torch import nn
from torch.nn import functional as F

from segzoo.config.files import config_root
from segzoo.data import build_train_loader
from segzoo.engine import Predictor, Trainer, evaluate
from segzoo.engine.analysis import analyze
from segzoo.engine.evaluation_loop import evaluation_mode
from segzoo.engine.tensorboard_images import prediction_visualizations
from segzoo.export.torch_export import Network, describe_program, export_program
from segzoo.model_zoo import load_config
from segzoo.modeling import as_segmentor
from segzoo.modeling.protocols import build_protocol_model
from segzoo.utils.errors import InputError
from segzoo.visualization.draw import draw_result

SIDE = 64
# Names of the predictions and of the evaluation results, by task.
RESULTS = {"semantic": "sem_seg", "panoptic": "panoptic_seg", "instance": "instances", "entity": "entity_seg"}
SCORES = {"semantic": "sem_seg", "panoptic": "panoptic_seg", "instance": "segm", "entity": "entity_seg"}
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.MASK_FORMER.DEC_LAYERS": "1",
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": "12",
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": "64",
    "INPUT.CROP_SIZE": f"({SIDE}, {SIDE})",
    "INPUT.MIN_SIZE_TRAIN": f"[{SIDE}]",
    "SOLVER.IMS_PER_BATCH": "2",
    "SOLVER.MAX_ITER": "2",
    "SOLVER.LOG_PERIOD": "1",
    "TEST.IMS_PER_BATCH": "2",
    "TEST.NUM_PICTURES": "1",
    "DATALOADER.NUM_WORKERS": "0",
    "SEED": "1",
}


def config_of(architecture: str) -> Path | None:
    """Return the first configuration, by name, of a meta-architecture on Shapes."""
    for file in sorted(config_root().glob("*/shapes/*.yaml")):
        if architecture == load_config(file).MODEL.META_ARCHITECTURE:
            return file
    return None


class Job(NamedTuple):
    """A trained model."""

    cfg: CfgNode
    model: nn.Module
    checkpoint: Path
    image: Path


def plain_attributes(model: nn.Module) -> dict[str, Any]:
    """Return the attributes of a model and its modules except parameters, buffers and modules."""
    return {
        f"{name}.{key}": copy.copy(value)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, str | int | float | bool | tuple | type(None))
    }


def need_semantic(job: Job) -> None:
    """Skip the test for a model without semantic scores."""
    if "semantic" not in as_segmentor(job.model).supported_tasks:
        pytest.skip("the model predicts no semantic scores")


def main_tensor(task: str, result: Any) -> torch.Tensor:
    """Return the scores of instances, or the map of any other result."""
    if task == "instance":
        return result.scores
    return result if task == "semantic" else result[0]


class ModelTester:
    """Tests of one model; see the module's docstring."""

    architecture: str

    @pytest.fixture(scope="class")
    @classmethod
    def architecture_name(cls) -> str:
        return cls.architecture

    @classmethod
    def config(cls, architecture: str, overrides: list[str]) -> CfgNode:
        """Load the configuration of the model on Shapes."""
        file = config_of(architecture)
        assert file is not None, (
            f"{architecture} has no configuration in configs/*/shapes/; write one, as small as those of the "
            "quickstart: users try the method with it, and this suite tests it"
        )
        return load_config(file, overrides)

    @pytest.fixture(scope="class")
    @classmethod
    def job(cls, architecture_name, shapes_folder, tmp_path_factory) -> Job:
        output = tmp_path_factory.mktemp(architecture_name)
        words = [word for pair in SMALL.items() for word in pair]
        cfg = cls.config(architecture_name, [*words, "OUTPUT_DIR", str(output)])
        supported = as_segmentor(Trainer.build_model(cfg)).supported_tasks
        if cfg.TASK != "semantic":
            cfg.TEST.TASKS = tuple(supported)
        torch.manual_seed(0)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
        image = output / "image.png"
        pixels = np.random.default_rng(0).integers(0, 256, (SIDE, 80, 3), np.uint8)
        Image.fromarray(pixels).save(image)
        return Job(cfg, trainer.model, output / "model_final.pth", image)

    def inputs(self, *sizes: tuple[int, int]) -> list[dict]:
        generator = torch.Generator().manual_seed(0)
        return [
            {"image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)}
            for size in sizes
        ]

    # Training.

    def test_training_writes_losses_results_and_a_checkpoint(self, job):
        lines = [
            json.loads(line) for line in (job.checkpoint.parent / "metrics.json").read_text().splitlines()
        ]
        losses = [line["total_loss"] for line in lines if "total_loss" in line]
        assert len(losses) >= 2
        assert np.isfinite(losses).all()
        document = json.loads((job.checkpoint.parent / "inference" / "results.json").read_text())
        assert set(document["results"]["shapes_val"]) >= {SCORES[task] for task in job.cfg.TEST.TASKS}

    def test_losses_are_scalars_with_gradients(self, job):
        batch = next(iter(build_train_loader(job.cfg, start_iteration=0)))
        model = job.model
        model.train()
        losses = model(batch)
        assert all(loss.shape == () and loss.requires_grad for loss in losses.values())
        model.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
        model.zero_grad(set_to_none=True)
        model.eval()

    # Evaluation and prediction.

    @torch.no_grad()
    def test_each_task_is_predicted_alone_at_the_requested_size(self, job):
        segmentor = as_segmentor(job.model.eval())
        inputs = [{**one, "height": 50, "width": 90} for one in self.inputs((SIDE, 80))]
        for task in job.cfg.TEST.TASKS:
            (result,) = segmentor(inputs, tasks=(task,))
            assert set(result) == {RESULTS[task]}
            found = result[RESULTS[task]]
            size = (
                found.image_size
                if task == "instance"
                else (found if task == "semantic" else found[0]).shape[-2:]
            )
            assert tuple(size) == (50, 90)

    @torch.no_grad()
    def test_labels_are_the_classes_of_the_largest_scores(self, job):
        need_semantic(job)
        segmentor, inputs = as_segmentor(job.model.eval()), self.with_sizes((SIDE, 80))
        (scores,), (labels,) = (
            segmentor(inputs, tasks=("semantic",), semantic=result) for result in ("scores", "labels")
        )
        assert "sem_seg" not in labels
        assert torch.equal(labels["sem_seg_labels"].long(), scores["sem_seg"].argmax(0))

    def with_sizes(self, *sizes: tuple[int, int]) -> list[dict]:
        """Return inputs as the mapper makes them."""
        return [
            {**one, "height": one["image"].shape[-2], "width": one["image"].shape[-1]}
            for one in self.inputs(*sizes)
        ]

    def test_evaluation_sets_nothing_on_the_model(self, job):
        with evaluation_mode(job.model):
            before = plain_attributes(job.model)
            weights = {name: value.clone() for name, value in job.model.state_dict().items()}
            evaluate(job.cfg, job.model)
            list(prediction_visualizations(job.cfg, job.model))
            assert plain_attributes(job.model) == before
        assert all(torch.equal(weights[name], value) for name, value in job.model.state_dict().items())

    def test_the_predictor_needs_only_the_checkpoint_and_results_are_drawn(self, job):
        predictor = Predictor(str(job.checkpoint))
        pixels = np.asarray(Image.open(job.image))
        for task in job.cfg.TEST.TASKS:
            result = predictor(str(job.image), tasks=(task,), semantic="labels")
            drawn = draw_result(
                pixels,
                result,
                task,
                predictor.metadata.classes,
                predictor.metadata.colors,
                confidence_threshold=0.0,
            )
            assert drawn.shape == pixels.shape
            assert drawn.dtype == np.uint8
            if task == "semantic":
                assert (drawn != pixels).any()
        # Arrays in either channel order are the same image.
        bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        by_array = [predictor(array, color=color) for array, color in ((pixels, "RGB"), (bgr, "BGR"))]
        task = next(task for task in RESULTS if RESULTS[task] in by_array[0])
        assert torch.equal(*(main_tensor(task, result[RESULTS[task]]) for result in by_array))

    # Protocols.

    @torch.no_grad()
    def test_one_pass_at_native_size_is_the_softmax_of_the_model_s_own_scores(self, job):
        need_semantic(job)
        cfg = job.cfg.clone()
        cfg.TEST.TASKS, cfg.TEST.PROTOCOL = ("semantic",), "gluon_testval"
        tested, inputs = build_protocol_model(cfg, job.model.eval()), self.with_sizes((SIDE, 96))
        own = as_segmentor(job.model)(inputs, tasks=("semantic",))[0]["sem_seg"]
        expected = own.softmax(0) if as_segmentor(job.model).score_kind == "logits" else own
        torch.testing.assert_close(tested(inputs)[0]["sem_seg"], expected, atol=1e-5, rtol=1e-4)

    @torch.no_grad()
    def test_windows_are_averaged_where_they_overlap(self, job):
        need_semantic(job)
        cfg = job.cfg.clone()
        cfg.TEST.TASKS, cfg.TEST.PROTOCOL = ("semantic",), "mmseg_slide"
        cfg.TEST.INFERENCE.RESIZE, cfg.TEST.INFERENCE.SOFTMAX = "none", "never"
        cfg.TEST.INFERENCE.CROP_SIZE, cfg.TEST.INFERENCE.STRIDE = (SIDE, SIDE), (SIDE, 32)
        tested, inputs = build_protocol_model(cfg, job.model.eval()), self.with_sizes((SIDE, 96))
        image, own = inputs[0]["image"], as_segmentor(job.model)
        total, count = 0, 0
        for left in (0, 32):
            window = {"image": image[..., left : left + SIDE], "height": SIDE, "width": SIDE}
            scores = own([window], tasks=("semantic",))[0]["sem_seg"]
            padding = (left, 96 - SIDE - left)
            total, count = total + F.pad(scores, padding), count + F.pad(torch.ones_like(scores), padding)
        torch.testing.assert_close(tested(inputs)[0]["sem_seg"], total / count, atol=1e-5, rtol=1e-4)

    # Analysis and export.

    def test_the_analysis_counts_every_parameter_and_multiply_adds(self, job):
        small, large = (analyze(job.model, (side, side)) for side in (SIDE, 2 * SIDE))
        assert small.total_params == sum(parameter.numel() for parameter in job.model.parameters())
        assert 0 < small.total_flops < large.total_flops

    @torch.no_grad()
    def test_the_exported_program_computes_the_raw_outputs(self, job):
        model, size = job.model.eval(), (SIDE, 80)
        if not as_segmentor(model).fixed_shapes:
            with pytest.raises(InputError, match=r"cannot be exported: .* depends on the image"):
                export_program(model, size)
            return
        program = export_program(model, size)
        (inputs,) = self.inputs(size)
        outputs = program.module()(inputs["image"][None].float())
        expected = as_segmentor(model).raw_outputs([inputs])
        assert set(outputs) == {name for name, value in expected.items() if isinstance(value, torch.Tensor)}
        for name, output in outputs.items():
            torch.testing.assert_close(output, expected[name], atol=1e-4, rtol=1e-3)
        described = describe_program(job.cfg, model, size)
        assert described["outputs"] == {name: list(output.shape) for name, output in outputs.items()}
        assert described["input"]["channels"] == job.cfg.INPUT.FORMAT
        assert Network(model)(inputs["image"][None].float()).keys() == outputs.keys()
