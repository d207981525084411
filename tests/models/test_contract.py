"""The contract of `Segmentor` for families: targets inside the network, the iteration, custom padding."""

import numpy as np
import pytest
import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn
from torch.nn import functional as F

from segzoo.engine import Predictor, Trainer
from segzoo.export.torch_export import export_program
from segzoo.model_zoo import load_config
from segzoo.modeling import Batch, Segmentor, as_segmentation_model, as_segmentor
from segzoo.modeling.protocols import build_protocol_model
from segzoo.utils.errors import InputError

SHARED = {"backbone": None, "num_classes": 3, "pixel_mean": (10.0, 20.0, 30.0), "pixel_std": (2.0, 4.0, 5.0)}
ITERATIONS = 4


class Recorder(Segmentor):
    """Records the batches of its network; the first channel is the score of every class."""

    supported_tasks = ("semantic", "panoptic")

    def __init__(self, **options):
        super().__init__(**{**SHARED, **options})
        self.batches: list[Batch] = []

    def network(self, batch):
        self.batches.append(batch)
        return {"scores": batch.images[:, :1].expand(-1, 3, -1, -1), "proposals": ["kept inside"]}

    def postprocess(self, outputs, sizes, *, tasks, semantic):
        results = []
        for scores, image_sizes in zip(outputs["scores"], sizes, strict=True):
            results.append({"sizes": image_sizes, "tasks": tasks, "semantic": semantic, "sem_seg": scores})
        return results


def image(height, width, value=0):
    return {"image": torch.full((3, height, width), value, dtype=torch.uint8)}


@torch.no_grad()
def test_images_are_normalized_padded_with_zeros_and_grouped_by_padded_size():
    model = Recorder(size_divisibility=8).eval()
    results = model([image(9, 16, 50), {**image(30, 5), "height": 60, "width": 10}, image(16, 10, 90)])
    assert [tuple(batch.images.shape) for batch in model.batches] == [(2, 3, 16, 16), (1, 3, 32, 8)]
    first = model.batches[0]
    assert first.image_sizes == [(9, 16), (16, 10)]
    assert [len(batch.inputs) for batch in model.batches] == [2, 1]
    expected = torch.tensor([(50 - 10) / 2, (50 - 20) / 4, (50 - 30) / 5])
    torch.testing.assert_close(first.images[0, :, :9], expected.view(3, 1, 1).expand(3, 9, 16))
    assert first.images[0, :, 9:].eq(0).all()
    assert first.images[1, :, :, 10:].eq(0).all()
    # Results come back in the order of the inputs.
    assert [result["sizes"] for result in results] == [
        ((16, 16), (9, 16), (9, 16)),
        ((32, 8), (30, 5), (60, 10)),
        ((16, 16), (16, 10), (16, 10)),
    ]


@torch.no_grad()
def test_requested_results_reach_the_network_and_the_post_processing():
    model = Recorder(tasks=("panoptic",)).eval()
    (default,) = model([image(8, 8)])
    (requested,) = model([image(8, 8)], tasks=["semantic", "panoptic"], semantic="labels")
    assert (default["tasks"], default["semantic"]) == (("panoptic",), "scores")
    assert (requested["tasks"], requested["semantic"]) == (("semantic", "panoptic"), "labels")
    assert [batch.tasks for batch in model.batches] == [("panoptic",), ("semantic", "panoptic")]
    assert Recorder().eval()([image(8, 8)])[0]["tasks"] == ("semantic",)
    model.raw_outputs([image(8, 8)])
    assert model.batches.pop().tasks == ("panoptic",)
    # Test protocols average semantic scores, whatever the model's own tasks are.
    assert model.dense_scores(torch.zeros(1, 3, 8, 8)).scores.shape == (1, 3, 8, 8)
    assert model.batches.pop().tasks == ("semantic",)
    assert all(batch.targets is None for batch in model.batches)
    with pytest.raises(InputError, match="'instance': Recorder supports semantic, panoptic only"):
        model([image(8, 8)], tasks=("instance",))
    with pytest.raises(InputError, match="'instance': Recorder supports semantic, panoptic only"):
        Recorder(tasks=("instance",))


def test_tasks_of_the_configuration_are_the_defaults_of_a_call():
    overrides = ["MODEL.DEVICE", "cpu", "TEST.TASKS", "('semantic', 'panoptic')"]
    cfg = load_config("panoptic/shapes/mask2former_r18_quarter", overrides)
    assert Trainer.build_model(cfg).tasks == ("semantic", "panoptic")


@torch.no_grad()
def test_raw_outputs_are_the_networks_and_batch_outputs_its_tensors():
    model = Recorder(size_divisibility=8).eval()
    inputs = [image(9, 16), image(16, 10)]
    raw = model.raw_outputs(inputs)
    assert model.batches[-1].inputs == inputs
    assert raw["scores"].shape == (2, 3, 16, 16)
    assert raw["proposals"] == ["kept inside"]
    outputs = model.batch_outputs(torch.zeros(2, 3, 9, 10))
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {"scores": (2, 3, 16, 16)}
    assert model.batches[-1].image_sizes == [(9, 10)] * 2
    # Mean and deviation are the configuration's.
    assert not model.state_dict()


class TwoStage(Segmentor):
    """Samples the second stage's training examples inside its network."""

    def __init__(self):
        super().__init__(**SHARED)
        self.weight = nn.Parameter(torch.ones(()))
        self.prepared = 0
        self.trained_for: list[tuple[str, ...]] = []

    def network(self, batch):
        self.trained_for.append(batch.tasks)
        boxes = batch.images.mean((1, 2, 3)) * self.weight
        if batch.targets is not None:
            boxes = boxes[batch.targets]
        return {"boxes": boxes}

    def prepare_targets(self, batch):
        self.prepared += 1
        return torch.tensor([index for index, inputs in enumerate(batch.inputs) if inputs["positive"]])

    def losses(self, outputs, targets):
        assert len(outputs["boxes"]) == len(targets)
        return {"loss_box": outputs["boxes"].sum()}


def test_a_network_finds_targets_in_the_batch_prepared_once():
    model = TwoStage().train()
    inputs = [{**image(8, 8, value), "positive": value > 50} for value in (0, 60, 100)]
    losses = model(inputs)
    normalized = [
        sum((value - mean) / std for mean, std in ((10, 2), (20, 4), (30, 5))) / 3 for value in (60, 100)
    ]
    assert losses["loss_box"].item() == pytest.approx(sum(normalized))
    assert model.prepared == 1
    assert model.trained_for == [("semantic",)]
    losses["loss_box"].backward()
    assert model.weight.grad is not None


class Canvas(Recorder):
    """A method with one input size, padded with black before normalization."""

    def padded_size(self, size):
        return (24, 24)

    def pad(self, images, value=0):
        black = (-self.pixel_mean / self.pixel_std).expand(3, 24, 24)
        batch = black.expand(len(images), 3, 24, 24).clone()
        for row, one in zip(batch, images, strict=True):
            row[:, : one.shape[-2], : one.shape[-1]] = one
        return batch


@torch.no_grad()
def test_a_family_may_pad_differently():
    model = Canvas().eval()
    results = model([image(8, 20, 255), image(24, 3, 255)])
    (batch,) = model.batches
    restored = batch.images * model.pixel_std + model.pixel_mean
    torch.testing.assert_close(restored[0, :, 8:], torch.zeros(3, 16, 24), atol=1e-5, rtol=0)
    torch.testing.assert_close(restored[0, :, :8, :20], torch.full((3, 8, 20), 255.0))
    assert [result["sizes"].padded for result in results] == [(24, 24)] * 2
    assert model.batch_outputs(torch.zeros(1, 3, 5, 6))["scores"].shape == (1, 3, 24, 24)


@META_ARCH_REGISTRY.register()
class AnnealedClassifier(Segmentor):
    """Masks its scores less and less during training, like a method with annealed attention."""

    @configurable
    def __init__(self, **shared):
        super().__init__(**shared)
        self.classifier = nn.Conv2d(3, self.num_classes, 1)
        self.register_buffer("mask_probability", torch.ones(()), persistent=False)
        self.seen: list[tuple[int, int, float]] = []

    @classmethod
    def from_config(cls, cfg):
        shared = super().from_config(cfg)
        return {**shared, "backbone": None, "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES}

    def set_progress(self, iteration, max_iter):
        super().set_progress(iteration, max_iter)
        self.mask_probability.fill_(1 - iteration / max_iter)
        self.seen.append((iteration, max_iter, self.mask_probability.item()))

    def network(self, batch):
        logits = self.classifier(batch.images)
        return {"logits": logits * (1 - self.mask_probability) if self.training else logits}

    def prepare_targets(self, batch):
        return self.pad([inputs["sem_seg"].to(self.device) for inputs in batch.inputs], 255)

    def losses(self, outputs, targets):
        return {"loss_ce": F.cross_entropy(outputs["logits"], targets, ignore_index=255)}

    def postprocess(self, outputs, sizes, *, tasks, semantic):
        return [{"sem_seg": logits} for logits in outputs["logits"]]


def annealed(folder, *overrides):
    keys = {
        "MODEL.META_ARCHITECTURE": "AnnealedClassifier",
        "MODEL.AUX_HEAD.NAME": "",
        "MODEL.DEVICE": "cpu",
        "INPUT.CROP_SIZE": "(64, 64)",
        "SOLVER.IMS_PER_BATCH": "2",
        "SOLVER.MAX_ITER": str(ITERATIONS),
        "SOLVER.CHECKPOINT_PERIOD": "2",
        "DATALOADER.NUM_WORKERS": "0",
        "DATASETS.TEST": "()",
        "OUTPUT_DIR": str(folder),
    }
    words = [word for pair in keys.items() for word in pair]
    return load_config("semantic/shapes/pspnet_r18_quarter", [*words, *overrides])


def test_a_model_gets_its_iteration_before_each_step_also_in_a_resumed_run(shapes_folder, tmp_path):
    class Interrupted(Trainer):
        stop_at = None

        def after_step(self):
            super().after_step()
            if self.iter + 1 == self.stop_at:
                raise KeyboardInterrupt

    first = Interrupted(annealed(tmp_path))
    first.stop_at = 3
    first.resume_or_load(resume=False)
    with pytest.raises(KeyboardInterrupt):
        first.train()
    second = Trainer(annealed(tmp_path))
    second.resume_or_load(resume=True)
    assert second.start_iter == 2
    second.train()
    assert [one[:2] for one in first.model.seen] == [(index, ITERATIONS) for index in range(3)]
    # Neither saved nor loaded, but set again.
    assert second.model.seen == [(2, ITERATIONS, 0.5), (3, ITERATIONS, 0.25)]
    assert "mask_probability" not in torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]


@torch.no_grad()
def test_an_exported_program_does_not_depend_on_the_iteration(tmp_path):
    torch.manual_seed(0)
    cfg = annealed(tmp_path)
    model = Trainer.build_model(cfg).eval()
    program = export_program(model, (8, 12)).module()
    pixels = 255 * torch.rand(1, 3, 8, 12)
    for iteration in (0, 3):
        model.set_progress(iteration, ITERATIONS)
        torch.testing.assert_close(program(pixels)["logits"], model.batch_outputs(pixels)["logits"])


class Detector(nn.Module):
    """A model with Detectron2's interface."""

    input_format = "BGR"

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, batched_inputs):
        if self.training:
            return {"loss": self.weight}
        return [
            {"instances": one["image"].shape, "sem_seg": torch.eye(4)[:3, None]} for one in batched_inputs
        ]


def test_a_detectron2_model_is_adapted_to_the_contract_without_changes():
    model = Detector()
    assert as_segmentor(model)([image(8, 8)]) == {"loss": model.weight}
    model.eval()
    adapted = as_segmentor(model, input_format="RGB")
    assert adapted.input_format == "BGR"
    assert as_segmentor(nn.Identity(), input_format="BGR").input_format == "BGR"
    assert as_segmentor(adapted) is adapted
    assert adapted.device == torch.device("cpu")
    (scores,), (labels,) = (adapted([image(8, 8)], semantic=semantic) for semantic in ("scores", "labels"))
    assert set(scores) == {"instances", "sem_seg"}
    assert set(labels) == {"instances", "sem_seg_labels"}
    assert labels["sem_seg_labels"].tolist() == [[0, 1, 2, 0]]
    (alone,) = adapted([image(8, 8)], tasks=("instance",))
    assert set(alone) == {"instances"}
    with pytest.raises(InputError, match="'panoptic': Detector returns only instances, sem_seg"):
        adapted([image(8, 8)], tasks=("panoptic",))
    assert set(model.state_dict()) == {"weight"}
    with pytest.raises(
        InputError, match=r"Detector has no raw_outputs.*derive it from segzoo\.modeling\.Segmentor"
    ):
        adapted.raw_outputs([image(8, 8)])


def test_protocols_only_need_the_post_processing_of_a_family(tmp_path):
    cfg = annealed(tmp_path, "TEST.PROTOCOL", "gluon_testval", "TEST.TASKS", "('semantic',)")
    model = Trainer.build_model(cfg).eval()
    inputs = [{**image(9, 11, 77), "height": 9, "width": 11}]
    with torch.no_grad():
        expected = model(inputs)[0]["sem_seg"].softmax(0)
        torch.testing.assert_close(build_protocol_model(cfg, model)(inputs)[0]["sem_seg"], expected)


def test_a_model_under_a_protocol_keeps_its_channel_order(tmp_path):
    cfg = annealed(tmp_path, "TEST.PROTOCOL", "gluon_testval", "INPUT.FORMAT", "BGR")
    model = Trainer.build_model(cfg).eval()
    tested = build_protocol_model(cfg, model)
    assert as_segmentation_model(tested) is tested
    pixels = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    bgr = torch.from_numpy(pixels[..., ::-1].transpose(2, 0, 1).copy())
    with torch.no_grad():
        expected = model([{"image": bgr}])[0]["sem_seg"].softmax(0)
    torch.testing.assert_close(Predictor(tested)(pixels, color="RGB")["sem_seg"], expected)


class Scheduled(nn.Sequential):
    """Records its calls of `set_progress`."""

    def __init__(self, *parts):
        super().__init__(*parts)
        self.calls: list[tuple[int, int]] = []

    def set_progress(self, iteration, max_iter):
        self.calls.append((iteration, max_iter))


def called_once(model: Segmentor, parts: list[Scheduled]) -> bool:
    model.set_progress(3, 8)
    return all(part.calls == [(3, 8)] for part in parts)


def test_every_part_with_a_schedule_gets_the_iteration_once():
    inner, shared = Scheduled(), Scheduled()
    outer = Scheduled(nn.Sequential(inner), shared)
    model = Canvas()
    model.decoder, model.again = nn.Sequential(outer), shared
    assert called_once(model, [inner, shared, outer])


def test_the_parts_of_a_model_within_a_model_are_called_once():
    part = Scheduled()
    teacher, model = Canvas(), Canvas()
    teacher.decoder, model.teacher, model.decoder = part, teacher, Scheduled()
    assert called_once(model, [part, model.decoder])


def test_a_part_that_two_models_share_is_called_once():
    for first in (True, False):
        shared, teacher, model = Scheduled(), Canvas(), Canvas()
        teacher.decoder = shared
        model.parts = nn.ModuleList([shared, teacher] if first else [teacher, shared])
        assert called_once(model, [shared])


def test_a_part_that_is_compiled_is_called_once():
    part = Scheduled(nn.Identity())
    model = Canvas()
    model.decoder = torch.compile(part)
    assert called_once(model, [part])


def test_a_detectron2_model_and_its_parts_get_the_iteration():
    model = Detector()
    model.roi_heads = Scheduled()
    assert called_once(as_segmentor(model), [model.roi_heads])
    whole = Scheduled(nn.Identity())
    assert called_once(as_segmentor(whole), [whole])
