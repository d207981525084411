"""Mask classification on any backbone, set by one line of configuration.

The methods are the published ones, made narrow; only the backbone differs between the cases.
"""

import pytest
import torch
import yaml

from segzoo.config.files import config_root
from segzoo.engine import Trainer
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError
from tests.modeling.modeling_helpers import random_image

NUM_CLASSES = 3
NARROW = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.BACKBONE.DROP_PATH_RATE": 0.0,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": NUM_CLASSES,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 16,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 1,
    "MODEL.MASK_FORMER.HIDDEN_DIM": 32,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 6,
    "MODEL.MASK_FORMER.NHEADS": 4,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 32,
    "MODEL.MASK_FORMER.DEFORMABLE_FEEDFORWARD": 32,
    "MODEL.MASK_FORMER.DEC_LAYERS": 3,
    "MODEL.MASK_FORMER.DROPOUT": 0.0,
}
METHODS = ("maskformer", "maskformer_transformer_encoder", "mask2former")
# A file of configs/_base_/backbones, or the keys of MODEL.BACKBONE.
LARGE = {name: name for name in ("r50", "r101", "swin_tiny", "cswin_tiny", "convnext_tiny")}
SMALL = {
    "r18_v1c": "r18_v1c",
    "mit_b0": "mit_b0",
    "pvtv2_b0": "pvtv2_b0",
    "r18_half_stride_16": {"NAME": "ResNetBackbone", "VARIANT": "r18_half", "OUTPUT_STRIDE": 16},
    "resnet18d": {"NAME": "TimmBackbone", "VARIANT": "resnet18d"},
    "convnext_atto": {"NAME": "TimmBackbone", "VARIANT": "convnext_atto"},
    "efficientnet_b0": {"NAME": "TimmBackbone", "VARIANT": "efficientnet_b0"},
    "mobilenetv3": {"NAME": "TimmBackbone", "VARIANT": "mobilenetv3_small_050"},
    "regnetx": {"NAME": "TimmBackbone", "VARIANT": "regnetx_002"},
}
# For a head a large backbone only differs in its wider maps.
CASES = [(method, name) for name in SMALL for method in METHODS] + [("mask2former", name) for name in LARGE]
# By their published initial values: the first layer's queries are zero, and deformable attention looks at
# fixed points with equal weights whatever it is asked.
ZERO_AT_FIRST = {
    "maskformer": (
        "decoder.layers.0.self_attn.in_proj_weight",
        "decoder.layers.0.self_attn.out_proj.weight",
        "decoder.layers.0.norm1.weight",
    ),
    "mask2former": ("pixel_decoder.transformer.level_embed",),
}
ZERO_AT_FIRST["maskformer_transformer_encoder"] = ZERO_AT_FIRST["maskformer"]


def load(folder, method: str, backbone: str | dict, **changes):
    """Load a configuration file with these bases and keys."""
    base = config_root() / "_base_"
    content = {"_BASE_": [str(base / f"methods/{method}.yaml")]}
    if isinstance(backbone, str):
        content["_BASE_"].insert(0, str(base / f"backbones/{backbone}.yaml"))
    else:
        content["MODEL"] = {"BACKBONE": backbone}
    (folder / "model.yaml").write_text(yaml.safe_dump(content))
    points = {"MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 64} if method == "mask2former" else {}
    overrides = [str(part) for pair in (NARROW | points | changes).items() for part in pair]
    return load_config(folder / "model.yaml", overrides)


def training_input(height: int, width: int, num_segments: int) -> dict:
    """Return an image whose segments are vertical stripes."""
    stripes = (torch.arange(width) * num_segments // width).to(torch.int16)
    return {
        "image": random_image(height, width),
        "segment_map": stripes.expand(height, width).contiguous(),
        "segment_classes": torch.arange(num_segments) % NUM_CLASSES,
    }


def check(model, method: str) -> None:
    """Run a training step, and predict images of two odd sizes."""
    losses = model.train()([training_input(37, 70, 2), training_input(50, 33, 1)])
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, gradient in trained.items() if gradient is None] == []
    assert [name for name, gradient in trained.items() if not gradient.isfinite().all()] == []
    zero = [name for name, gradient in trained.items() if not gradient.any()]
    assert [name for name in zero if not name.endswith(ZERO_AT_FIRST[method])] == []
    sizes = [(37, 70), (64, 33)]
    with torch.no_grad():
        results = model.eval()([{"image": random_image(*size)} for size in sizes])
    for result, size in zip(results, sizes, strict=True):
        assert result["sem_seg"].shape == (NUM_CLASSES, *size)
        assert result["sem_seg"].isfinite().all()


@pytest.mark.parametrize(("method", "backbone"), CASES)
def test_every_weight_of_any_backbone_is_trained_and_any_image_is_predicted(tmp_path, method, backbone):
    torch.manual_seed(0)
    check(Trainer.build_model(load(tmp_path, method, (SMALL | LARGE)[backbone])), method)


@pytest.mark.parametrize("method", METHODS)
def test_a_plain_transformer_names_its_features_and_works_with_them(tmp_path, method):
    plain = {"NAME": "TimmBackbone", "VARIANT": "test_vit"}
    with pytest.raises(InputError, match=r"test_vit has no res2, res3, res5; it has res4 \(stride 16\)"):
        Trainer.build_model(load(tmp_path, method, plain))
    only = '("res4",)'
    changes = {
        "MODEL.BACKBONE.OUT_FEATURES": only,
        "MODEL.SEM_SEG_HEAD.IN_FEATURES": only,
        "MODEL.MASK_FORMER.DEFORMABLE_FEATURES": only,
    }
    if method == "maskformer":
        changes["MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE"] = "res4"
    torch.manual_seed(0)
    model = Trainer.build_model(load(tmp_path, method, plain, **changes))
    check(model, method)
    with torch.no_grad():
        masks = model.raw_outputs([{"image": random_image(64, 96)}])["pred_masks"]
    assert masks.shape[-2:] == (4, 6)


def test_a_backbone_without_the_feature_maps_is_refused_by_key(tmp_path):
    few = {"MODEL.BACKBONE.OUT_FEATURES": ["res1", "res5"]}
    with pytest.raises(InputError, match=r"MODEL\.SEM_SEG_HEAD\.IN_FEATURES has 'res2', but there are"):
        Trainer.build_model(load(tmp_path, "mask2former", "wrn38", **few))
