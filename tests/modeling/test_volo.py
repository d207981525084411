"""VOLO against timm's classifier, with the same weights, and its outputs for dense prediction by hand."""

import pytest
import torch

from segzoo.checkpoint import load_checkpoint
from segzoo.modeling.backbones.volo import VARIANTS, VOLO, VOLOVariant
from tests.modeling.modeling_helpers import relative_difference, shake

timm = pytest.importorskip("timm")

SMALL = VOLOVariant((1, 2, 2, 1), (32, 64), (2, 4), stem_dim=8)


class Model(torch.nn.Module):
    """A model with the weight names of a complete one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.backbone = VOLO(variant=SMALL)


def small_classifier(image_size: tuple[int, int]):
    torch.manual_seed(0)
    (first, later), (first_heads, later_heads) = SMALL.channels, SMALL.num_heads
    peer = timm.models.volo.VOLO(
        layers=SMALL.depths,
        img_size=image_size,
        num_classes=10,
        stem_hidden_dim=SMALL.stem_dim,
        embed_dims=(first, later, later, later),
        num_heads=(first_heads, later_heads, later_heads, later_heads),
    )
    return shake(peer).eval()


def twice(feature: torch.Tensor, upsample: torch.nn.ConvTranspose2d) -> torch.Tensor:
    """Compute the 2 x 2 transposed convolution of stride 2: each pixel becomes a block of four."""
    batch, _, height, width = feature.shape
    blocks = torch.einsum("nchw,cdij->ndhiwj", feature, upsample.weight)
    return blocks.reshape(batch, -1, 2 * height, 2 * width) + upsample.bias[:, None, None]


def test_features_equal_those_of_timm_loaded_from_its_own_file(tmp_path):
    peer = small_classifier((224, 224))
    path = tmp_path / "volo.pth.tar"
    torch.save({"state_dict": peer.state_dict()}, path)
    model = Model().eval()
    report = load_checkpoint(model, path)
    assert report.source == "VOLO ImageNet"
    dropped = {key.split(".")[0] for key in report.extras}
    assert dropped == {"head", "aux_head", "norm", "post_network", "cls_token"}
    assert report.missing == report.unexpected == report.resized == []
    assert sorted({key.rsplit(".", 1)[0] for key in report.reinitialized}) == [
        "backbone.upsample_res2",
        "backbone.upsample_res3",
    ]
    image = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        features = model.backbone(image)
        stages = peer.forward_intermediates(image, intermediates_only=True, output_fmt="NCHW")
        expected = {
            "res2": twice(stages[0], model.backbone.upsample_res2),
            "res3": twice(stages[1], model.backbone.upsample_res3),
            "res4": stages[2],
            "res5": stages[3].unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).amax(dim=4),
        }
    assert list(features) == list(expected)
    for name, feature in features.items():
        assert relative_difference(feature, expected[name]) < 1e-5


def resized_bicubically(grid: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize (1, h, w, C) to (1, *size, C) with Keys' kernel, a = -0.75, repeating the border."""

    def kernel(distance: float) -> float:
        a, x = -0.75, abs(distance)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    def weights(before: int, after: int) -> torch.Tensor:
        matrix = torch.zeros(after, before)
        for index in range(after):
            center = (index + 0.5) * before / after - 0.5
            for neighbor in range(int(center // 1) - 1, int(center // 1) + 3):
                matrix[index, min(max(neighbor, 0), before - 1)] += kernel(center - neighbor)
        return matrix

    rows, columns = weights(grid.shape[1], size[0]), weights(grid.shape[2], size[1])
    return torch.einsum("ia,jb,nabc->nijc", rows, columns, grid)


def test_position_embedding_of_a_file_for_another_image_size_is_interpolated(tmp_path):
    peer = small_classifier((384, 384))
    path = tmp_path / "volo.pth.tar"
    torch.save(peer.state_dict(), path)
    model = Model()
    report = load_checkpoint(model, path)
    assert report.resized == ["backbone.pos_embed"]
    expected = resized_bicubically(peer.pos_embed.detach(), (14, 14))
    torch.testing.assert_close(model.backbone.pos_embed.detach(), expected, atol=1e-5, rtol=1e-4)


def test_features_of_another_image_size_equal_those_of_timm_with_interpolated_positions():
    peer = small_classifier((96, 320))
    backbone = shake(Model().backbone).eval()
    state = {key: value for key, value in peer.state_dict().items() if key in backbone.state_dict()}
    state["pos_embed"] = torch.randn(1, 14, 14, 64)
    backbone.load_state_dict(state, strict=False)
    image = torch.randn(1, 3, 96, 320)
    with torch.no_grad():
        peer.pos_embed.copy_(resized_bicubically(state["pos_embed"], (6, 20)))
        features = backbone(image)
        stages = peer.forward_intermediates(image, intermediates_only=True, output_fmt="NCHW")
    assert relative_difference(features["res4"], stages[2]) < 1e-5


def test_pixels_beyond_the_last_whole_token_have_no_effect():
    # The stem reduces 55 x 83 pixels to 28 x 42, that is 7 x 10 whole patches, or 3 x 5 whole pairs.
    backbone = Model().backbone.eval()
    image = torch.randn(1, 3, 55, 83, requires_grad=True)
    features = backbone(image)
    assert {name: tuple(feature.shape[-2:]) for name, feature in features.items()} == {
        "res2": (14, 20),
        "res3": (6, 10),
        "res4": (3, 5),
        "res5": (2, 3),
    }
    (gradient,) = torch.autograd.grad(features["res3"].square().sum(), image)
    # The last used token ends at pixel 48 of the height; the stem's kernels extend 3 + 2 + 2 pixels further.
    assert not gradient[..., 48 + 7 :, :].any()
    assert gradient[..., 40:48, :].any()


@pytest.mark.parametrize("name", list(VARIANTS))
def test_backbones_have_exactly_the_parameters_of_timm_without_the_classifier(name):
    with torch.device("meta"):
        backbone = VOLO(variant=VARIANTS[name])
        peer = timm.create_model(f"volo_{name}_224", pretrained=False)
    state = backbone.state_dict()
    shapes = {key: value.shape for key, value in state.items() if not key.startswith("upsample")}
    classifier = ("head.", "aux_head.", "norm.", "post_network.", "cls_token")
    assert shapes == {
        key: value.shape for key, value in peer.state_dict().items() if not key.startswith(classifier)
    }


def test_drop_path_is_only_in_attention_blocks_and_grows_linearly():
    backbone = VOLO(variant=SMALL, drop_path_rate=0.5)
    assert all(isinstance(block.drop_path1, torch.nn.Identity) for block in backbone.network[0])
    rates = [block.drop_path1.drop_prob for index in (2, 3, 4) for block in backbone.network[index]]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
