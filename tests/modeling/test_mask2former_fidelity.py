"""Mask2Former gives what an independent implementation gives with the same weights and input."""

import pytest
import torch

from segzoo.checkpoint import load_checkpoint
from tests.modeling.modeling_helpers import make_model, random_image, relative_difference, shake

transformers = pytest.importorskip("transformers")

SWIN_TINY = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Return a model loaded from a peer's own file, the peer, and the load report."""
    model = make_model(
        11,
        *("MODEL.BACKBONE.NAME", "SwinTransformer", "MODEL.BACKBONE.VARIANT", "tiny"),
        *("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "MSDeformAttnPixelDecoder"),
        *("MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 6),
        *("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "MultiScaleMaskedTransformerDecoder"),
        *("MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "multi_scale_pixel_decoder"),
        *("MODEL.MASK_FORMER.DEC_LAYERS", 9, "MODEL.MASK_FORMER.DROPOUT", 0.0),
        *("MODEL.MASK_FORMER.MASK_LOSS", "bce", "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", 12544),
    ).eval()
    torch.manual_seed(1)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = transformers.SwinConfig(**SWIN_TINY, out_features=stages)
    config = transformers.Mask2FormerConfig(backbone_config=backbone, num_labels=11)
    peer = shake(transformers.Mask2FormerForUniversalSegmentation(config).eval())
    folder = tmp_path_factory.mktemp("published")
    peer.save_pretrained(folder)
    return model, peer, load_checkpoint(model, folder / "model.safetensors")


def test_the_peers_file_loads_completely(pair):
    _, _, report = pair
    assert report.source == "Hugging Face Mask2Former"
    assert report.complete
    assert not report.unexpected


# At 64 x 160 every level's width and height differ; in the first size they are equal.
@pytest.mark.parametrize("size", [(128, 128), (64, 160)])
def test_raw_outputs_equal_those_of_transformers(pair, size):
    model, peer, _ = pair
    image = random_image(*size)
    with torch.no_grad():
        outputs = model.raw_outputs([{"image": image}])
        expected = peer(((image - model.pixel_mean) / model.pixel_std)[None])

    assert relative_difference(outputs["pred_logits"], expected.class_queries_logits) < 2e-5
    assert relative_difference(outputs["pred_masks"], expected.masks_queries_logits) < 2e-5
