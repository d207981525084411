"""Whole models from files in the published form, against an independent implementation."""

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from segzoo.checkpoint import SegzooCheckpointer, load_checkpoint
from segzoo.projects.maskformer.key_map import MASKFORMER
from tests.modeling.modeling_helpers import (
    SMALL,
    TRANSFORMER_PIXEL_DECODER,
    make_model,
    published_names,
    random_image,
    relative_difference,
    shake,
)

NUM_CLASSES = 12
SWIN = ["MODEL.BACKBONE.NAME", "SwinTransformer", "MODEL.BACKBONE.VARIANT", "tiny"]
SMALL_DECODER = [
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "MODEL.SEM_SEG_HEAD.MASK_DIM", 32),
    *("MODEL.MASK_FORMER.HIDDEN_DIM", 32, "MODEL.MASK_FORMER.DIM_FEEDFORWARD", 64),
    *("MODEL.MASK_FORMER.DEC_LAYERS", 2, "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 9),
    *("MODEL.MASK_FORMER.NHEADS", 4),
]


def publish(folder: Path, weights: dict[str, Tensor]) -> str:
    """Writes a pickle of arrays as MaskFormer's authors do, hash in its name, buffers among the weights."""
    arrays = {key: value.numpy() for key, value in weights.items()}
    arrays["criterion.empty_weight"] = torch.ones(NUM_CLASSES + 1).numpy()
    for key in list(arrays):
        if key.endswith("relative_position_bias_table"):
            arrays[key.replace("bias_table", "index")] = torch.zeros(49, 49).long().numpy()
    content = pickle.dumps({"model": arrays, "__author__": "third_party"}, protocol=4)
    file = folder / f"model_final_{hashlib.md5(content).hexdigest()[:6]}.pkl"
    file.write_bytes(content)
    return str(file)


def old_layout(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.replace("sem_seg_head.pixel_decoder.", "sem_seg_head."): value for key, value in weights.items()
    }


@pytest.fixture(scope="module")
def peer() -> nn.Module:
    """transformers' MaskFormer on Swin-T with a small decoder."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    backbone = transformers.MaskFormerSwinConfig(
        embed_dim=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    decoder = transformers.DetrConfig(
        d_model=32, decoder_ffn_dim=64, decoder_layers=2, decoder_attention_heads=4, num_queries=9
    )
    config = transformers.MaskFormerConfig(
        fpn_feature_size=32,
        mask_feature_size=32,
        num_labels=NUM_CLASSES,
        backbone_config=backbone,
        decoder_config=decoder,
    )
    return shake(transformers.MaskFormerForInstanceSegmentation(config).eval())


@pytest.mark.parametrize("layout", [dict, old_layout])
def test_published_file_loaded_through_the_checkpointer_gives_the_outputs_of_transformers(
    tmp_path, peer, layout
):
    file = publish(tmp_path, layout(published_names(peer.state_dict())))
    model = make_model(NUM_CLASSES, *SWIN, *SMALL_DECODER).eval()
    checkpointer = SegzooCheckpointer(model)
    checkpointer.resume_or_load(file, resume=False)
    checkpointer.report.require_complete()
    image = random_image(64, 96)
    with torch.no_grad():
        outputs = model.raw_outputs([{"image": image}])
        expected = peer(((image - model.pixel_mean) / model.pixel_std)[None])
    assert relative_difference(outputs["pred_logits"], expected.class_queries_logits) < 1e-5
    assert relative_difference(outputs["pred_masks"], expected.masks_queries_logits) < 1e-5


@pytest.mark.parametrize("layout", [dict, old_layout])
def test_panoptic_resnet_file_with_encoder_loads_in_both_layouts(tmp_path, layout):
    source, model = (
        make_model(NUM_CLASSES, *SMALL, *TRANSFORMER_PIXEL_DECODER, seed=seed) for seed in (0, 1)
    )
    weights = {key: value for key, value in source.state_dict().items() if "num_batches_tracked" not in key}
    assert any(".pixel_decoder.transformer." in key for key in weights)
    report = load_checkpoint(model, publish(tmp_path, layout(weights)))
    assert report.complete
    assert all(torch.equal(model.state_dict()[key], value) for key, value in weights.items())


def test_fine_tune_of_a_published_file_keeps_all_but_the_classifier(tmp_path):
    source = make_model(NUM_CLASSES, *SMALL)
    model = make_model(3, *SMALL, seed=1)
    report = load_checkpoint(model, publish(tmp_path, old_layout(source.state_dict())))
    assert report.reinitialized == [
        f"sem_seg_head.predictor.class_embed.{kind}" for kind in ("weight", "bias")
    ]


def test_swin_imagenet_file_gives_a_real_model_the_backbone(tmp_path):
    model = make_model(NUM_CLASSES, *SWIN, *SMALL_DECODER)
    prefixes = ("norm0", "norm1", "norm2", "norm3")
    backbone = {
        key: torch.full_like(value, index)
        for index, (key, value) in enumerate(model.backbone.state_dict().items())
        if not key.startswith(prefixes)
    }
    published = {**backbone, "head.weight": torch.zeros(1000, 768), "head.bias": torch.zeros(1000)}
    published |= {"norm.weight": torch.ones(768), "norm.bias": torch.zeros(768)}
    published["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    torch.save({"model": published}, tmp_path / "swin_tiny_patch4_window7_224.pth")
    report = load_checkpoint(model, tmp_path / "swin_tiny_patch4_window7_224.pth")
    loaded = model.backbone.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in backbone.items())
    assert {key for key in report.reinitialized if key.startswith("backbone.")} == {
        f"backbone.{norm}.{kind}" for norm in prefixes for kind in ("weight", "bias")
    }


def test_importing_the_projects_registers_their_key_maps():
    from segzoo.checkpoint import key_maps

    assert MASKFORMER in key_maps()
    assert "Mask2Former" in {key_map.name for key_map in key_maps()}
