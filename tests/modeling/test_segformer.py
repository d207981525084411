"""SegFormer against the published sizes, transformers and mmsegmentation, each with its own files."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn
from torch.nn import functional as F

from segzoo.checkpoint import load_checkpoint
from segzoo.projects.segformer import SegFormerHead
from segzoo.utils.errors import InputError
from tests.modeling.modeling_helpers import random_image, relative_difference, shake
from tests.modeling.peers import build_mmseg
from tests.modeling.pixel_model_helpers import (
    count_operations,
    count_parameters,
    load_published,
    normalized,
    pixel_model,
    unallocated_model,
)

# Change of random transformers' outputs under an input noise of one part in a million.
FLOOR = 2e-5
MIT = ["MODEL.BACKBONE.NAME", "MixTransformer", "MODEL.BACKBONE.VARIANT"]
SIZES = [(64, 96), (70, 101)]


def method(variant: str) -> str:
    return "segformer_b0_b1" if variant in ("b0", "b1") else "segformer"


def head(projection: str = "linear", **keywords) -> SegFormerHead:
    torch.manual_seed(0)
    names = ("res2", "res3", "res4", "res5")
    shapes = {
        name: ShapeSpec(channels=count, stride=stride)
        for name, count, stride in zip(names, (8, 12, 20, 24), (4, 8, 16, 32), strict=True)
    }
    shared = {"input_shape": shapes, "in_features": names, "num_classes": 5, "channels": 16, "norm": "BN"}
    return shake(SegFormerHead(projection=projection, **shared, **keywords))


def maps(dtype: torch.dtype = torch.float32, requires_grad: bool = False) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = {"res2": (8, 17, 22), "res3": (12, 9, 11), "res4": (20, 5, 6), "res5": (24, 3, 3)}
    return {
        name: torch.randn(2, *size, generator=generator, dtype=dtype).requires_grad_(requires_grad)
        for name, size in sizes.items()
    }


# Parameters, and multiply-adds at 512 x 512 (B5: 640 x 640) in the published order.
@pytest.mark.parametrize(
    ("variant", "millions", "billions"),
    [
        ("b0", 3.75, 8.6),
        ("b1", 13.72, 16.2),
        ("b2", 27.46, 62.8),
        ("b3", 47.34, 79.4),
        ("b4", 64.11, 96.1),
        ("b5", 84.71, 184.0),
    ],
)
def test_parameters_and_operations_are_the_published_ones(variant, millions, billions):
    model = unallocated_model(method(variant), 150, *MIT, variant, "MODEL.SEGFORMER.FUSE_AT_LEVEL", False)
    assert round(count_parameters(model), 2) == millions
    size = (640, 640) if variant == "b5" else (512, 512)
    assert count_operations(model, size) == pytest.approx(billions, rel=0.05)


def test_fusing_at_each_level_leaves_two_fifths_of_the_operations_of_b2():
    at_level, published = (
        count_operations(
            unallocated_model("segformer", 150, *MIT, "b2", "MODEL.SEGFORMER.FUSE_AT_LEVEL", value),
            (512, 512),
        )
        for value in (True, False)
    )
    # By hand, in billions: to project and fuse takes E (sum of C_i h_i w_i) + 4 E^2 h w = 40.215 in the
    # published order, and E (sum of C_i h_i w_i) + E^2 (sum of C_i) + 4 E^2 = 2.167 at the levels.
    assert published - at_level == pytest.approx(40.215 - 2.167, abs=0.001)
    assert at_level < 0.4 * published


@pytest.mark.parametrize("projection", ["linear", "conv"])
@pytest.mark.parametrize("training", [False, True])
def test_fusing_at_each_level_gives_the_outputs_and_gradients_of_the_published_order(projection, training):
    results = []
    for fuse_at_level in (False, True):
        module = head(projection, fuse_at_level=fuse_at_level, dropout=0.0).double().train(training)
        features = maps(torch.float64, requires_grad=True)
        logits = module(features)["logits"]
        (logits * torch.linspace(-1, 1, logits.numel(), dtype=torch.float64).view_as(logits)).sum().backward()
        gradients = [value.grad for value in (*module.parameters(), *features.values())]
        results.append([logits, *gradients, module.fuse.norm.running_mean, module.fuse.norm.running_var])
    for expected, actual in zip(*results, strict=True):
        assert torch.allclose(actual, expected, rtol=1e-9, atol=1e-10)


def test_logits_equal_the_papers_definition():
    module = head().eval()
    features = maps()
    levels = [features[name] for name in ("res5", "res4", "res3", "res2")]
    projected = [
        F.interpolate(
            torch.einsum("ec,nchw->nehw", layer.weight, level) + layer.bias[:, None, None],
            size=(17, 22),
            mode="bilinear",
            align_corners=False,
        )
        for layer, level in zip(reversed(module.projections), levels, strict=True)
    ]
    joined = F.conv2d(torch.cat(projected, dim=1), module.fuse.weight)
    norm = module.fuse.norm
    fused = F.batch_norm(joined, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-5).relu()
    expected = F.conv2d(fused, module.predictor.weight, module.predictor.bias)
    with torch.no_grad():
        assert relative_difference(module(features)["logits"], expected) < 1e-6


def test_an_unknown_projection_is_an_error_that_names_it():
    with pytest.raises(InputError, match=r"^projection 'mlp': expected linear or conv"):
        head("mlp")


def hugging_face(variant: str, num_classes: int) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {
        "b0": {},
        "b2": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 4, 6, 3], "decoder_hidden_size": 768},
    }
    torch.manual_seed(1)
    config = transformers.SegformerConfig(num_labels=num_classes, **sizes[variant])
    return shake(transformers.SegformerForSemanticSegmentation(config).eval())


def published_by_hugging_face(peer: nn.Module, folder) -> dict[str, torch.Tensor]:
    """Return the weights with the published names, which transformers keeps when saving."""
    safetensors = pytest.importorskip("safetensors.torch")
    peer.save_pretrained(folder)
    return safetensors.load_file(folder / "model.safetensors")


def nvlabs_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename weights from transformers' to NVlabs' names."""
    renamed = {"decode_head.conv_seg.weight": torch.zeros(150, 256, 1, 1)}
    for key, value in state.items():
        parts = key.split(".")
        if key.startswith("segformer.encoder.block."):
            stage, index, rest = int(parts[3]) + 1, parts[4], ".".join(parts[5:])
            if ".value." in key:
                continue
            if ".key." in key:
                value = torch.cat([value, state[key.replace(".key.", ".value.")]])
            for theirs, ours in (
                ("attention.self.query", "attn.q"),
                ("attention.self.key", "attn.kv"),
                ("attention.self.layer_norm", "attn.norm"),
                ("attention.self.sr", "attn.sr"),
                ("attention.output.dense", "attn.proj"),
                ("layer_norm_", "norm"),
                ("mlp.dense", "mlp.fc"),
            ):
                rest = rest.replace(theirs, ours)
            key = f"backbone.block{stage}.{index}.{rest}"
        elif key.startswith("segformer.encoder.patch_embeddings."):
            rest = ".".join(parts[4:]).replace("layer_norm", "norm")
            key = f"backbone.patch_embed{int(parts[3]) + 1}.{rest}"
        elif key.startswith("segformer.encoder.layer_norm."):
            key = f"backbone.norm{int(parts[3]) + 1}.{parts[4]}"
        elif key.startswith("decode_head.linear_c."):
            key = f"decode_head.linear_c{int(parts[2]) + 1}.proj.{parts[4]}"
        else:
            key = key.replace("linear_fuse", "linear_fuse.conv").replace("batch_norm", "linear_fuse.bn")
            key = key.replace("classifier", "linear_pred")
        renamed[key] = value
    return renamed


@pytest.mark.parametrize(("variant", "layout"), [("b0", "NVlabs"), ("b0", "transformers"), ("b2", "NVlabs")])
def test_raw_outputs_equal_those_of_transformers_from_files_of_both_layouts(variant, layout, tmp_path):
    peer = hugging_face(variant, 150)
    state = published_by_hugging_face(peer, tmp_path)
    state = nvlabs_names(state) if layout == "NVlabs" else state
    model = pixel_model(method(variant), 150, *MIT, variant).eval()
    report = load_published(model, state, tmp_path)
    assert report.source == {"NVlabs": "SegFormer", "transformers": "Hugging Face SegFormer"}[layout]
    for size in SIZES:
        image = random_image(*size)
        with torch.no_grad():
            logits = model.raw_outputs([{"image": image}])["sem_seg_logits"]
            expected = peer(normalized(model, image)).logits
        assert relative_difference(logits, expected) < FLOOR


def test_raw_outputs_equal_those_of_mmsegmentation_from_its_files(tmp_path):
    torch.manual_seed(1)
    peer = build_mmseg(
        {
            "type": "EncoderDecoder",
            "backbone": {
                "type": "MixVisionTransformer",
                "embed_dims": 32,
                "num_layers": [2, 2, 2, 2],
                "num_heads": [1, 2, 5, 8],
            },
            "decode_head": {
                "type": "SegformerHead",
                "in_channels": [32, 64, 160, 256],
                "in_index": [0, 1, 2, 3],
                "channels": 256,
                "num_classes": 19,
                "norm_cfg": {"type": "BN"},
                "align_corners": False,
            },
        }
    )
    shake(peer)
    model = pixel_model("segformer_b0_b1", 19, *MIT, "b0", "MODEL.SEGFORMER.PROJECTION", "conv").eval()
    report = load_published(model, peer.state_dict(), tmp_path)
    assert report.source == "mmsegmentation SegFormer"
    for size in SIZES:
        image = random_image(*size)
        with torch.no_grad():
            logits = model.raw_outputs([{"image": image}])["sem_seg_logits"]
            expected = peer(normalized(model, image), mode="tensor")
        assert relative_difference(logits, expected) < FLOOR


def test_a_fine_tune_on_other_classes_reinitializes_the_classifier_alone(tmp_path):
    state = nvlabs_names(published_by_hugging_face(hugging_face("b0", 150), tmp_path))
    model = pixel_model("segformer_b0_b1", 7, *MIT, "b0")
    torch.save({"state_dict": state}, tmp_path / "ade.pth")
    report = load_checkpoint(model, tmp_path / "ade.pth")
    assert sorted(report.reinitialized) == ["sem_seg_head.predictor.bias", "sem_seg_head.predictor.weight"]
    assert not report.missing
