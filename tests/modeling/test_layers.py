"""The shared layers against PyTorch's own modules and hand-computed values."""

import math

import pytest
import torch
from torch import nn

from segzoo.layers import (
    MLP,
    DropPath,
    MultiheadAttention,
    TransformerEncoder,
    TransformerEncoderLayer,
    sine_position_encoding,
)
from segzoo.projects.maskformer.transformer_decoder import DecoderLayer
from tests.modeling.modeling_helpers import shake


@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_pytorchs_module_with_the_same_weights(masked):
    torch.manual_seed(0)
    peer = shake(nn.MultiheadAttention(32, 4, batch_first=True))
    attention = MultiheadAttention(32, 4)
    attention.load_state_dict(peer.state_dict(), strict=True)
    query, key, value = torch.randn(2, 5, 32), torch.randn(2, 7, 32), torch.randn(2, 7, 32)
    allowed = (torch.rand(2, 5, 7) > 0.5) | (torch.arange(7) == 3) if masked else None
    peer_mask = (~allowed).repeat_interleave(4, dim=0) if masked else None
    expected = peer(query, key, value, attn_mask=peer_mask, need_weights=False)[0]
    torch.testing.assert_close(attention(query, key, value, allowed), expected)


def test_attention_refuses_channels_that_heads_do_not_divide():
    with pytest.raises(ValueError, match="30 channels cannot be divided among 4 heads"):
        MultiheadAttention(30, 4)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_encoder_layer_equals_pytorchs_where_position_is_zero(pre_norm):
    torch.manual_seed(0)
    peer = shake(nn.TransformerEncoderLayer(32, 4, 48, norm_first=pre_norm, batch_first=True)).eval()
    layer = TransformerEncoderLayer(32, 4, 48, dropout=0.1, pre_norm=pre_norm).eval()
    layer.load_state_dict(peer.state_dict(), strict=True)
    x = torch.randn(2, 7, 32)
    torch.testing.assert_close(layer(x, torch.zeros(7, 32)), peer(x))


@pytest.mark.parametrize("pre_norm", [False, True])
def test_decoder_layer_equals_pytorchs_where_position_is_zero(pre_norm):
    torch.manual_seed(0)
    peer = shake(nn.TransformerDecoderLayer(32, 4, 48, norm_first=pre_norm, batch_first=True)).eval()
    layer = DecoderLayer(32, 4, 48, dropout=0.1, pre_norm=pre_norm).eval()
    layer.load_state_dict(peer.state_dict(), strict=True)
    x, memory = torch.randn(2, 5, 32), torch.randn(2, 7, 32)
    torch.testing.assert_close(layer(x, torch.zeros(5, 32), memory, memory), peer(x, memory))


def test_position_moves_attention_weights_but_is_not_part_of_the_values():
    torch.manual_seed(0)
    encoder = TransformerEncoder(8, num_layers=1, num_heads=2, hidden_dim=8, dropout=0.0, pre_norm=False)
    same = torch.randn(1, 1, 8).expand(1, 6, 8)
    # All pixels have the same value, so the result does not depend on the weights.
    torch.testing.assert_close(encoder(same, torch.randn(6, 8)), encoder(same, torch.zeros(6, 8)))
    different = torch.randn(1, 6, 8)
    assert not torch.allclose(encoder(different, torch.randn(6, 8)), encoder(different, torch.zeros(6, 8)))


def test_sine_position_encoding_has_the_hand_computed_values():
    encoding = sine_position_encoding(2, 4, channels=8)
    assert encoding.shape == (8, 2, 4)
    row_angle, column_angle = 2 * math.pi * 1 / 2, 2 * math.pi * 3 / 4
    # Frequencies 1 and 1/100; sine and cosine of row 0, then of column 2.
    expected = [
        f(angle * k) for angle in (row_angle, column_angle) for k in (1, 0.01) for f in (math.sin, math.cos)
    ]
    torch.testing.assert_close(encoding[:, 0, 2], torch.tensor(expected), atol=2e-5, rtol=0)


def test_position_offset_shifts_the_coordinate():
    # With an offset of -0.5 the centers of 4 columns are the odd columns of 8 without offset.
    shifted = sine_position_encoding(1, 4, channels=8, offset=-0.5)
    fine = sine_position_encoding(1, 8, channels=8)
    torch.testing.assert_close(shifted[4:, 0], fine[4:, 0, ::2], atol=1e-5, rtol=0)


def test_position_encoding_refuses_channels_that_do_not_split_into_sines_and_cosines_of_two_axes():
    with pytest.raises(ValueError, match="6 channels, expected a multiple of 4"):
        sine_position_encoding(2, 2, channels=6)


def test_drop_path_drops_whole_images_and_keeps_the_expectation():
    torch.manual_seed(0)
    drop_path = DropPath(0.25).train()
    dropped = drop_path(torch.ones(4000, 2, 3))
    kept = dropped[:, 0, 0] > 0
    torch.testing.assert_close(dropped, (kept / 0.75)[:, None, None].expand_as(dropped))
    assert kept.float().mean() == pytest.approx(0.75, abs=0.03)
    branch = torch.randn(3, 4)
    assert torch.equal(drop_path.eval()(branch), branch)
    with pytest.raises(ValueError, match=r"rate 1.0 is outside \[0, 1\)"):
        DropPath(1.0)


def test_mlp_has_a_relu_between_its_layers_and_none_after():
    mlp = MLP(1, 2, 1, num_layers=2)
    with torch.no_grad():
        mlp.layers[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        mlp.layers[0].bias.zero_()
        mlp.layers[1].weight.copy_(torch.tensor([[1.0, -2.0]]))
        mlp.layers[1].bias.fill_(0.5)
    assert mlp(torch.tensor([[3.0], [-3.0]])).tolist() == [[3.5], [-5.5]]
