"""Compiled and exported models compute the outputs of the original models."""

import json
import os
import shutil

import pytest
import torch

from segzoo import model_zoo
from segzoo.checkpoint import save_checkpoint
from segzoo.cli import export
from segzoo.engine import Trainer
from segzoo.engine.compiled_parts import compile_parts
from segzoo.export.torch_export import Network, export_program, save_program
from segzoo.modeling import Segmentor
from segzoo.modeling.mask_classification import postprocess
from segzoo.utils.errors import InputError
from tests.modeling.modeling_helpers import (
    MASKED_ATTENTION,
    SMALL,
    TRANSFORMER_PIXEL_DECODER,
    make_model,
    random_image,
    relative_difference,
    shake,
)

DEFORMABLE = [
    *MASKED_ATTENTION,
    *("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "MSDeformAttnPixelDecoder"),
    *("MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 1, "MODEL.MASK_FORMER.DEC_LAYERS", 2),
]
FEWER = ("MODEL.BACKBONE.VARIANT", "r18_quarter", "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 1)


MODELS = {
    "fpn": [*SMALL, *FEWER],
    "transformer_fpn": [*SMALL, *TRANSFORMER_PIXEL_DECODER, *FEWER],
    "mask2former": [*SMALL, *DEFORMABLE, *FEWER],
    "mask2former_mit": [
        *(*SMALL, *DEFORMABLE, *FEWER),
        *("MODEL.BACKBONE.NAME", "MixTransformer", "MODEL.BACKBONE.VARIANT", "b0"),
    ],
}
slow = pytest.mark.skipif(
    "SEGZOO_SLOW_TESTS" not in os.environ, reason="compiling takes long; SEGZOO_SLOW_TESTS=1 runs it"
)
PANOPTIC, SEMANTIC = "panoptic/shapes/mask2former_r18_quarter", "semantic/shapes/pspnet_r18_quarter"


def small(name: str) -> torch.nn.Module:
    return shake(make_model(3, *MODELS[name])).eval()


def pixels(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) * 255


def assert_equal_outputs(actual: dict, expected: dict) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert relative_difference(actual[name], tensor) < 1e-5, name


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "mask2former" else slow) for name in MODELS]
)
def test_the_network_compiles_without_a_graph_break(name):
    network = Network(small(name))
    images = pixels(2, 3, 50, 70)
    torch.compiler.reset()
    with torch.no_grad():
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        assert_equal_outputs(compiled(images), network(images))


@slow
def test_a_compiled_backbone_and_head_give_the_original_gradients():
    torch.compiler.reset()
    gradients = []
    for compiled in (False, True):
        model = shake(make_model(3, *MODELS["mask2former"]))
        if compiled:
            names = list(model.state_dict())
            compile_parts(model, ["backbone", "sem_seg_head"], backend="aot_eager")
            assert list(model.state_dict()) == names
        stripes = (torch.arange(64) // 32).to(torch.int16).expand(64, 64).contiguous()
        inputs = {
            "image": random_image(64, 64),
            "segment_map": stripes,
            "segment_classes": torch.tensor([0, 2]),
        }
        torch.manual_seed(0)
        sum(model([inputs, inputs]).values()).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-3, atol=1e-4, msg=name)


def test_an_unknown_part_to_compile_is_named():
    model = small("mask2former")
    with pytest.raises(InputError, match=r"^MODEL\.COMPILE\.PARTS: MaskFormer has no part 'backbones'; did"):
        compile_parts(model, ["backbones"])
    with pytest.raises(InputError, match="its parts are backbone, sem_seg_head, criterion"):
        compile_parts(model, [""])


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs g++")
@slow
def test_the_default_compiler_gives_the_same_outputs():
    network = Network(small("mask2former"))
    images = pixels(1, 3, 64, 64)
    torch.compiler.reset()
    with torch.no_grad():
        assert_equal_outputs(torch.compile(network, fullgraph=True)(images), network(images))


@pytest.fixture(scope="module", params=[PANOPTIC, SEMANTIC])
def job(request, tmp_path_factory):
    """Make a zoo model with fewer layers, its checkpoint, and the tool's options for both."""
    folder = tmp_path_factory.mktemp("export")
    torch.manual_seed(0)
    layers = ["MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", "1", "MODEL.MASK_FORMER.DEC_LAYERS", "2"]
    overrides = ["MODEL.DEVICE", "cpu", *(layers if request.param == PANOPTIC else [])]
    cfg = model_zoo.load_config(request.param, overrides)
    model = shake(Trainer.build_model(cfg)).eval()
    save_checkpoint(folder / "model.pth", {"model": model.state_dict()})
    overrides = ["--opts", *overrides, "MODEL.WEIGHTS", str(folder / "model.pth")]
    return cfg, model, request.param, overrides


def test_an_exported_file_gives_the_raw_outputs_and_describes_them(job, tmp_path, capsys):
    cfg, model, name, overrides = job
    file = tmp_path / "new" / "model.pt2"
    size = (50, 70)
    arguments = ["--config-file", name, "--output", str(file), "--size", "50", "70", "--batch-size", "2"]
    assert export.main([*arguments, *overrides]) == 0
    assert "loaded again, its outputs differ" in capsys.readouterr().out
    assert [one.name for one in file.parent.iterdir()] == ["model.pt2"]
    extra = {"segzoo.json": ""}
    program = torch.export.load(file, extra_files=extra).module()
    images = [random_image(*size, seed) for seed in range(2)]
    with torch.no_grad():
        outputs = program(torch.stack(images).float())
        assert_equal_outputs(outputs, model.raw_outputs([{"image": image} for image in images]))
    metadata = json.loads(extra["segzoo.json"])
    assert metadata["input"]["shape"] == [2, 3, *size]
    assert metadata["input"]["channels"] == cfg.INPUT.FORMAT
    assert metadata["outputs"] == {key: list(tensor.shape) for key, tensor in outputs.items()}
    assert len(metadata["classes"]) == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if name == SEMANTIC:
        assert metadata["postprocess"] == {}
    else:
        assert metadata["postprocess"]["tasks"] == list(model.tasks)
        assert metadata["postprocess"]["detections_per_image"] == model.detections_per_image
        # As in the model's own forward pass, also if the configuration leaves it open.
        assert metadata["postprocess"]["semantic_resizing"] == model.semantic_resizing == "masks"
        check_panoptic(model, outputs, metadata, images, size)


def check_panoptic(model, outputs: dict, metadata: dict, images: list, size: tuple[int, int]) -> None:
    """Check that post-processing the program's outputs gives the model's own results."""
    keys = ("object_mask_threshold", "overlap_threshold", "confident_pixels_only")
    with torch.no_grad():
        expected = model([{"image": image} for image in images])
        for index, result in enumerate(expected):
            segments, infos = postprocess.panoptic(
                outputs["pred_logits"][index],
                outputs["pred_masks"][index],
                tuple(metadata["input"]["padded_size"]),
                size,
                size,
                is_thing=metadata["isthing"],
                **{key: metadata["postprocess"][key] for key in keys},
            )
            assert torch.equal(segments, result["panoptic_seg"][0])
            assert len(infos) == len(result["panoptic_seg"][1])


class Logarithm(Segmentor):
    """A stand-in for a model; the logarithm of a negative number is NaN."""

    def __init__(self, offset: float):
        super().__init__(backbone=None, num_classes=1, pixel_mean=(0.0,) * 3, pixel_std=(1.0,) * 3)
        self.offset = torch.nn.Parameter(torch.tensor(offset))

    def network(self, batch):
        mean = batch.images.mean((1, 2, 3))
        return {"pred_logits": mean, "pred_masks": (mean + self.offset).log()}


def test_a_program_with_other_outputs_or_nan_is_not_kept(tmp_path):
    description = {"input": {"shape": [1, 3, 8, 8]}}
    program = export_program(Logarithm(0.0), (8, 8))
    assert save_program(tmp_path / "good.pt2", program, Logarithm(0.0), description) < 1e-5
    for offset, found in ((900.0, r"0\.\d+"), (-1e6, "nan")):
        message = rf"bad\.pt2: pred_masks .* differs from the model's by {found} .* file not kept"
        with pytest.raises(InputError, match=message):
            save_program(tmp_path / "bad.pt2", program, Logarithm(offset), description)
    assert [one.name for one in tmp_path.iterdir()] == ["good.pt2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--output": "model.onnx"}, "the extension is '.onnx'; expected .pt2"),
        ({"MODEL.WEIGHTS": ""}, "MODEL.WEIGHTS is empty; give a checkpoint"),
    ],
)
def test_a_failed_export_is_reported_in_one_line(tmp_path, capsys, change, message):
    output = str(tmp_path / change.get("--output", "model.pt2"))
    arguments = ["--config-file", SEMANTIC, "--output", output, "--size", "64", "64"]
    assert export.main([*arguments, "--opts", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_refused_model_reads_no_weights(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("segzoo.checkpoint.load_checkpoint", lambda *_, **__: pytest.fail("weights are read"))
    name = "instance/shapes/mask_rcnn_fpn_r18_quarter"
    words = ["--config-file", name, "--output", str(tmp_path / "model.pt2"), "--size", "64", "64"]
    weights = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
    assert export.main([*words, "--opts", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", weights]) == 2
    assert "MaskRCNN cannot be exported" in capsys.readouterr().err
