"""MaskFormer gives what an independent implementation gives with the same weights and input."""

import pytest
import torch

from tests.modeling.modeling_helpers import (
    make_model,
    published_names,
    random_image,
    relative_difference,
    shake,
)

transformers = pytest.importorskip("transformers")

NUM_CLASSES = 150
BACKBONES = {
    "swin_tiny": (
        ("MODEL.BACKBONE.NAME", "SwinTransformer", "MODEL.BACKBONE.VARIANT", "tiny"),
        lambda **stages: transformers.MaskFormerSwinConfig(
            embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7, **stages
        ),
    ),
    "r50": (
        ("MODEL.BACKBONE.NAME", "ResNetBackbone", "MODEL.BACKBONE.VARIANT", "r50"),
        lambda **stages: transformers.ResNetConfig(depths=[3, 4, 6, 3], **stages),
    ),
}


# 96 x 128 is not a multiple of Swin's windows at any stage; 70 x 37 not even of its patches.
@pytest.mark.parametrize(
    ("backbone", "size"), [("swin_tiny", (96, 128)), ("swin_tiny", (70, 37)), ("r50", (96, 128))]
)
def test_raw_outputs_equal_those_of_transformers(backbone, size):
    overrides, backbone_config = BACKBONES[backbone]
    model = make_model(NUM_CLASSES, *overrides, "MODEL.MASK_FORMER.SIZE_DIVISIBILITY", 0).eval()
    torch.manual_seed(1)
    config = transformers.MaskFormerConfig(
        backbone_config=backbone_config(out_features=["stage1", "stage2", "stage3", "stage4"]),
        decoder_config=transformers.DetrConfig(),
        num_labels=NUM_CLASSES,
    )
    peer = shake(transformers.MaskFormerForInstanceSegmentation(config).eval())
    model.load_state_dict(published_names(peer.state_dict()), strict=True)

    image = random_image(*size)
    with torch.no_grad():
        outputs = model.raw_outputs([{"image": image}])
        expected = peer(((image - model.pixel_mean) / model.pixel_std)[None])

    assert relative_difference(outputs["pred_logits"], expected.class_queries_logits) < 1e-5
    assert relative_difference(outputs["pred_masks"], expected.masks_queries_logits) < 1e-5
