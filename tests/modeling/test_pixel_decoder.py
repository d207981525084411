"""The feature pyramid decoders on values that can be computed by hand."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn

from segzoo.layers import sine_position_encoding
from segzoo.modeling.mask_classification import FPNPixelDecoder, TransformerFPNPixelDecoder
from segzoo.utils.errors import InputError
from tests.modeling.modeling_helpers import MASKED_ATTENTION, SMALL, make_model, shake

SHAPES = {"res3": ShapeSpec(channels=1, stride=8), "res2": ShapeSpec(channels=1, stride=4)}


def pass_through(decoder: nn.Module) -> nn.Module:
    """Set every convolution to the identity."""
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.dirac_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return decoder


@pytest.mark.parametrize(
    ("upsample", "first_row"),
    # A coarse row of 0 and 4 at twice the width, plus 1 from the finer level.
    [("nearest", [1.0, 1.0, 5.0, 5.0]), ("bilinear", [1.0, 2.0, 4.0, 5.0])],
)
def test_levels_are_upsampled_and_added_from_coarse_to_fine(upsample, first_row):
    decoder = FPNPixelDecoder(input_shape=SHAPES, conv_dim=1, mask_dim=1, norm="", upsample=upsample)
    features = {"res2": torch.ones(1, 1, 2, 4), "res3": torch.tensor([[[[0.0, 4.0]]]])}
    with torch.no_grad():
        output = pass_through(decoder)(features)
    assert output.mask_features[0, 0].tolist() == [first_row, first_row]
    assert output.coarse is None
    assert [scale.shape[-2:] for scale in output.scales] == [(1, 2), (2, 4)]


def test_upsampling_matches_levels_that_are_not_exactly_twice_as_large():
    decoder = FPNPixelDecoder(input_shape=SHAPES, conv_dim=1, mask_dim=1, norm="")
    features = {"res2": torch.zeros(1, 1, 3, 5), "res3": torch.randn(1, 1, 2, 3)}
    assert decoder(features).mask_features.shape == (1, 1, 3, 5)


def test_the_three_coarsest_levels_go_to_the_transformer_coarsest_first():
    decoder = make_model(2, "MODEL.BACKBONE.NAME", "ResNetBackbone", "MODEL.BACKBONE.VARIANT", "r18_half")
    output = decoder.sem_seg_head.pixel_decoder(decoder.backbone(torch.randn(1, 3, 64, 96)))
    assert [tuple(scale.shape) for scale in output.scales] == [
        (1, 256, 2, 3),
        (1, 256, 4, 6),
        (1, 256, 8, 12),
    ]
    assert decoder.sem_seg_head.pixel_decoder.output_channels == {"scales": [256, 256, 256]}


def test_transformer_encodes_the_coarsest_level_only_and_feeds_the_pyramid_with_it():
    """PyTorch's encoder layer has no position input; with a zero value projection it is not needed."""
    torch.manual_seed(0)
    shapes = {"res2": ShapeSpec(channels=6, stride=4), "res5": ShapeSpec(channels=5, stride=32)}
    decoder = TransformerFPNPixelDecoder(
        input_shape=shapes, conv_dim=32, mask_dim=8, num_layers=2, num_heads=4, hidden_dim=16
    )
    decoder = shake(decoder).eval()
    features = {"res2": torch.randn(2, 6, 16, 24), "res5": torch.randn(2, 5, 2, 3)}
    position = sine_position_encoding(2, 3, 32).flatten(1).T
    with torch.no_grad():
        output = decoder(features)
        x = decoder.input_proj(features["res5"]).flatten(2).transpose(1, 2)
        for layer in decoder.transformer["encoder"].layers:
            attention = nn.MultiheadAttention(32, 4, batch_first=True)
            attention.load_state_dict(layer.self_attn.state_dict(), strict=True)
            attended = attention(x + position, x + position, x, need_weights=False)[0]
            x = layer.norm1(x + attended)
            x = layer.norm2(x + layer.linear2(layer.linear1(x).relu()))
        expected = x.transpose(1, 2).reshape(2, 32, 2, 3)
        torch.testing.assert_close(output.coarse, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(output.scales[0], decoder.layer_2(expected), atol=1e-5, rtol=1e-5)
    assert decoder.output_channels == {"scales": [32, 32], "coarse": 32}


def test_unknown_upsampling_is_refused():
    with pytest.raises(InputError, match=r"^upsample 'cubic': expected 'nearest' or 'bilinear'"):
        FPNPixelDecoder(input_shape=SHAPES, upsample="cubic")


@pytest.mark.parametrize("name", ["FPNPixelDecoder", "MSDeformAttnPixelDecoder"])
def test_channels_that_cannot_be_grouped_are_refused(name):
    overrides = ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", name, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 48)
    with pytest.raises(InputError, match="norm GN makes 32 groups of channels, but a map has 48;"):
        make_model(3, *SMALL, *MASKED_ATTENTION, *overrides)


def test_a_number_of_heads_that_does_not_divide_the_channels_is_refused_by_key():
    overrides = ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "MSDeformAttnPixelDecoder")
    heads = ("MODEL.MASK_FORMER.NHEADS", 3, "MODEL.MASK_FORMER.HIDDEN_DIM", 36)
    message = r"^MODEL\.MASK_FORMER\.NHEADS 3: expected a divisor of the decoder's 64 channels"
    with pytest.raises(InputError, match=message):
        make_model(3, *SMALL, *MASKED_ATTENTION, *overrides, *heads)
