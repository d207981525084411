"""The sides of every backbone's maps are those of the published code, at odd, prime and tiny sizes.

The published arithmetic is written out as the kernels, strides and paddings of the official layers, in
their order, and never read from the code under test. Most networks run on the meta device, which gives
only sizes.
"""

import dataclasses

import pytest
import torch
from detectron2.modeling import build_model

from segzoo.modeling.backbones import cswin, mit, resnet, swin, volo, wide_resnet
from segzoo.modeling.backbones.timm_backbone import TimmBackbone
from tests.modeling.modeling_helpers import relative_difference, shake

FEATURES = ("res2", "res3", "res4", "res5")
SIZES = [(250, 342), (97, 101), (64, 96), (33, 47), (31, 61)]
TINY = [(1, 1), (2, 3), (5, 14), (1, 100)]

HALF = (3, 2, 1)  # kernel, stride, padding of the convolution or the pool
# Layers up to res2, to res3, to res4 and to res5.
RESNET = [[(7, 2, 3), HALF], [HALF], [HALF], [HALF]]
DEEP_STEM = [[HALF, HALF], [HALF], [HALF], [HALF]]
MIT = [[(7, 4, 3)], [HALF], [HALF], [HALF]]
CSWIN = [[(7, 4, 2)], [HALF], [HALF], [HALF]]
CONVNEXT = [[(4, 4, 0)], [(2, 2, 0)], [(2, 2, 0)], [(2, 2, 0)]]
# Without the upsampling, which is not in the published code: tokens of outlook attention, then of attention.
VOLO_TOKENS = [[(7, 2, 3), (4, 4, 0)], [(2, 2, 0)]]
# From mod2 to mod5: two pools and one strided convolution.
WIDE_RESNET = [[HALF], [HALF], [HALF]]


def through(layers: list[list[tuple[int, int, int]]], side: int) -> list[int]:
    """Return the side after each group: floor((side + 2 padding - kernel) / stride) + 1 per layer."""
    sides = []
    for group in layers:
        for kernel, stride, padding in group:
            side = (side + 2 * padding - kernel) // stride + 1
        sides.append(side)
    return sides


def swin_sides(side: int) -> list[int]:
    """Return Swin's sides: the image is padded to patches of 4, a map to an even side before each merge."""
    sides = [(side + 3) // 4]
    for _ in range(3):
        sides.append((sides[-1] + sides[-1] % 2) // 2)
    return sides


def volo_sides(side: int) -> list[int]:
    """Return VOLO's sides: tokens, upsampled by 2 for res2 and res3, and pooled, rounding up, for res5."""
    outlook, attention = through(VOLO_TOKENS, side)
    return [2 * outlook, 2 * attention, attention, -(-attention // 2)]


def on_meta(build, *arguments, **keywords):
    with torch.device("meta"):
        return build(*arguments, **keywords).eval()


def sides_of(backbone, size) -> dict[str, tuple[int, int]]:
    with torch.no_grad():
        features = backbone(torch.empty(1, 3, *size, device="meta"))
    return {name: tuple(feature.shape[-2:]) for name, feature in features.items()}


def expected_sides(arithmetic, size, names=FEATURES) -> dict[str, tuple[int, int]]:
    rows, columns = (arithmetic(side) for side in size)
    return dict(zip(names, zip(rows, columns, strict=True), strict=True))


def shallow(build, variant):
    """Build a backbone with one block per stage, which suffices for its sizes."""
    return lambda: build(variant=dataclasses.replace(variant, depths=(1, 1, 1, 1)))


BACKBONES = {
    **{
        f"ResNet {name}": (shallow(resnet.ResNetBackbone, resnet.VARIANTS[name]), layers)
        for names, layers in (
            (("r18", "r50", "r50_v1b"), RESNET),
            (("r50_v1c", "r50_v1d", "r50_v1s"), DEEP_STEM),
        )
        for name in names
    },
    "Swin": (shallow(swin.SwinTransformer, swin.VARIANTS["tiny"]), swin_sides),
    "Swin, windows of 12": (shallow(swin.SwinTransformer, swin.VARIANTS["base_384"]), swin_sides),
    "MiT": (shallow(mit.MixTransformer, mit.MIT_VARIANTS["b0"]), MIT),
    "PVTv2": (shallow(mit.PyramidVisionTransformerV2, mit.PVT_V2_VARIANTS["b0"]), MIT),
    "CSWin": (shallow(cswin.CSWinTransformer, cswin.VARIANTS["tiny"]), CSWIN),
    "CSWin, stripes of 12": (shallow(cswin.CSWinTransformer, cswin.VARIANTS["base_384"]), CSWIN),
    "VOLO": (shallow(volo.VOLO, volo.VARIANTS["d1"]), volo_sides),
    "timm's ConvNeXt": (lambda: TimmBackbone(variant="test_convnext"), CONVNEXT),
    "timm's ResNet": (lambda: TimmBackbone(variant="test_resnet"), DEEP_STEM),
    # It joins maps of several sizes, which have to match; the padding is cropped.
    "timm's HRNet": (
        lambda: TimmBackbone(variant="hrnet_w18_small"),
        lambda side: [-(-side // stride) for stride in (4, 8, 16, 32)],
    ),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_maps_have_the_sizes_of_the_published_layers(name):
    build, layers = BACKBONES[name]
    arithmetic = layers if callable(layers) else lambda side: through(layers, side)
    backbone = on_meta(build)
    # If the published layers leave nothing, the image is padded with zeros so that one token is left.
    least = min(side for side in range(1, 64) if min(arithmetic(side)) > 0)
    for size in SIZES + TINY:
        found = sides_of(backbone, size)
        assert min(map(min, found.values())) > 0
        if name == "timm's ConvNeXt":  # its maps are cropped to the image
            assert found == expected_sides(
                lambda side: arithmetic(side) if side >= least else [-(-side // s) for s in (4, 8, 16, 32)],
                size,
            )
            continue
        enough = tuple(max(side, least) for side in size)
        assert found == expected_sides(arithmetic, enough), size


def test_the_size_of_the_comparison_with_the_official_code():
    """250 x 342 pixels, where padding CSWin's image would give one token more per side."""
    assert through(CSWIN, 250) == [62, 31, 16, 8]
    assert through(CSWIN, 342) == [85, 43, 22, 11]
    backbone = on_meta(BACKBONES["CSWin"][0])
    assert sides_of(backbone, (250, 342))["res2"] == (62, 85)


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("style", ["uniform", "contract", "mmseg"])
def test_dilation_keeps_the_size_of_the_last_strided_map(output_stride, style):
    backbone = on_meta(
        resnet.ResNetBackbone,
        variant=dataclasses.replace(resnet.VARIANTS["r50_v1d"], depths=(1, 2, 2, 2)),
        output_stride=output_stride,
        dilation_style=style,
    )
    for size in SIZES + TINY:
        full = [through(DEEP_STEM, side) for side in size]
        last = 1 if output_stride == 8 else 2
        expected = {
            name: tuple(sides[min(index, last)] for sides in full) for index, name in enumerate(FEATURES)
        }
        assert sides_of(backbone, size) == expected


def test_the_wide_network_halves_three_times():
    small = wide_resnet.WideResNetVariant((1, 1, 1, 1, 1, 1), width=4)
    backbone = on_meta(
        wide_resnet.WideResNetBackbone,
        variant=small,
        norm="BN",
        output_stride=8,
        out_features=("res1", *FEATURES),
    )
    for size in SIZES + TINY:
        first, second, third = zip(*(through(WIDE_RESNET, side) for side in size), strict=True)
        expected = dict(zip(("res1", *FEATURES), (first, second, third, third, third), strict=True))
        assert sides_of(backbone, size) == expected


TIMM_PEERS = {
    "ResNet r18": "resnet18",
    "ResNet r50_v1b": "resnet50",
    "ResNet r50_v1c": "resnet50c",
    "ResNet r50_v1d": "resnet50d",
    "ResNet r50_v1s": "resnet50s",
    "PVTv2": "pvt_v2_b0",
}


@pytest.mark.parametrize("name", TIMM_PEERS)
def test_sizes_are_those_of_timm(name):
    timm = pytest.importorskip("timm")
    backbone = on_meta(BACKBONES[name][0])
    peer = on_meta(timm.create_model, TIMM_PEERS[name], features_only=True)
    for size in SIZES:
        with torch.no_grad():
            maps = peer(torch.empty(1, 3, *size, device="meta"))[-4:]
        assert list(sides_of(backbone, size).values()) == [tuple(feature.shape[-2:]) for feature in maps]


@pytest.mark.parametrize("name", ["MiT", "PVTv2", "Swin"])
def test_sizes_are_those_of_transformers(name):
    transformers = pytest.importorskip("transformers")
    stages = ["stage1", "stage2", "stage3", "stage4"]
    peers = {
        "MiT": lambda: transformers.SegformerModel(transformers.SegformerConfig(depths=[1] * 4)),
        "PVTv2": lambda: transformers.PvtV2Backbone(
            transformers.PvtV2Config(depths=[1] * 4, out_features=stages)
        ),
        "Swin": lambda: transformers.SwinBackbone(
            transformers.SwinConfig(depths=[1] * 4, out_features=stages)
        ),
    }
    backbone, peer = on_meta(BACKBONES[name][0]), on_meta(peers[name])
    for size in SIZES:
        image = torch.empty(1, 3, *size, device="meta")
        with torch.no_grad():
            out = peer(image, output_hidden_states=True) if name == "MiT" else peer(image)
        maps = out.hidden_states[-4:] if name == "MiT" else out.feature_maps
        assert list(sides_of(backbone, size).values()) == [tuple(feature.shape[-2:]) for feature in maps]


@pytest.mark.parametrize("size", [(250, 342), (97, 61), (37, 45)])
def test_volo_equals_timm_at_sizes_with_a_remainder(size):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    small = volo.VOLOVariant((1, 1, 1, 1), (32, 64), (2, 4), stem_dim=8)
    backbone = shake(volo.VOLO(variant=small)).eval()
    peer = timm.models.volo.VOLO(
        layers=small.depths,
        stem_hidden_dim=8,
        embed_dims=(32, 64, 64, 64),
        num_heads=(2, 4, 4, 4),
        num_classes=0,
    ).eval()
    state = {key: value for key, value in backbone.state_dict().items() if key in peer.state_dict()}
    peer.load_state_dict(state, strict=False)
    rows, columns = (through(VOLO_TOKENS, side)[1] for side in size)
    # Constant, because timm's has only one size.
    positions = torch.randn(64)
    with torch.no_grad():
        backbone.pos_embed.copy_(positions.expand(1, 14, 14, 64))
        peer.pos_embed = torch.nn.Parameter(positions.expand(1, rows, columns, 64).clone())
        image = torch.randn(1, 3, *size)
        features = backbone(image)
        stages = peer.forward_intermediates(image, intermediates_only=True, output_fmt="NCHW")
    assert relative_difference(features["res4"], stages[2]) < 1e-5


@pytest.mark.parametrize("variant", ["test_convnext", "test_resnet", "test_efficientnet"])
@pytest.mark.parametrize("size", [(70, 37), (97, 101), (66, 94)])
def test_timms_networks_get_the_unpadded_image(variant, size):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    peer = shake(timm.create_model(variant)).eval()
    backbone = TimmBackbone(variant=variant, norm="BN").eval()
    backbone.network.load_state_dict(peer.state_dict(), strict=False)
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        features = backbone(image)
        maps = peer.forward_intermediates(image, intermediates_only=True)[-4:]
    for feature, expected in zip(features.values(), maps, strict=True):
        assert relative_difference(feature, expected) < 1e-5


# Multiples that the released tests of each recipe pad an image to before the network.
PADDED_TO = {
    "semantic/ade20k/maskformer_r50": 32,
    "semantic/cityscapes/maskformer_r101": 32,
    "semantic/mapillary_vistas/maskformer_r50": 32,
    "semantic/ade20k/maskformer_swin_tiny": 32,
    "panoptic/ade20k/maskformer_r50": 32,
    "panoptic/coco/maskformer_r50": 1,
    "panoptic/coco/maskformer_swin_tiny": 1,
    "panoptic/coco/mask2former_r50": 32,
    "instance/coco/mask2former_swin_tiny": 32,
    "semantic/cityscapes/mask2former_r50": 32,
    "semantic/ade20k/per_pixel_baseline_r50": 1,
    "semantic/ade20k/per_pixel_baseline_plus_r50": 1,
    "semantic/ade20k/segformer_mit_b0": 1,
    "semantic/ade20k/upernet_swin_tiny": 1,
    "semantic/ade20k/upernet_cswin_tiny": 1,
    "semantic/ade20k/upernet_volo_d1": 1,
    "semantic/voc_2012/fcn_jpu_r101_v1s": 1,
    "semantic/ade20k/fcn_r50_v1s_120ep": 1,
    "semantic/coco_21/fcn_r50": 1,
    "semantic/cityscapes/deeplabv3plus_wrn38": 1,
}


@pytest.mark.parametrize(("name", "multiple"), PADDED_TO.items())
def test_images_are_padded_as_the_released_tests_pad_them(name, multiple):
    from segzoo.model_zoo import load_config

    cfg = load_config(name, ["MODEL.DEVICE", "meta"])
    key = "MASK_FORMER" if cfg.MODEL.META_ARCHITECTURE == "MaskFormer" else "SEM_SEG_HEAD"
    assert max(cfg.MODEL[key].SIZE_DIVISIBILITY, 1) == multiple


def test_logits_of_the_baselines_are_upsampled_by_four_and_cropped():
    """As in MaskFormer's code, 63 x 86 logits of 250 x 342 pixels become 252 x 344, not 250 x 342."""
    from segzoo.model_zoo import load_config

    cfg = load_config(
        "semantic/ade20k/per_pixel_baseline_r50",
        ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.BACKBONE.VARIANT", "r18_quarter"],
    )
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    image = torch.randint(0, 256, (3, 45, 70)).float()
    with torch.no_grad():
        logits = model.raw_outputs([{"image": image}])["sem_seg_logits"]
        assert logits.shape[-2:] == (12, 18)
        fourfold = torch.nn.functional.interpolate(
            logits, scale_factor=4, mode="bilinear", align_corners=False
        )
        expected = fourfold[..., :45, :70]
        result = model([{"image": image}])[0]["sem_seg"]
        torch.testing.assert_close(result, expected[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model.score_maps(image[None]), expected, rtol=1e-5, atol=1e-5)
        resized = torch.nn.functional.interpolate(expected, (90, 100), mode="bilinear", align_corners=False)
        result = model([{"image": image, "height": 90, "width": 100}])[0]["sem_seg"]
        torch.testing.assert_close(result, resized[0], rtol=1e-5, atol=1e-5)


def test_scores_of_the_baselines_cover_the_image_if_the_backbone_rounds_down():
    """ConvNeXt gives 11 x 17 logits for 45 x 70 pixels; upsampled by four they are 44 x 68."""
    from segzoo.model_zoo import load_config

    backbone = ["MODEL.BACKBONE.NAME", "TimmBackbone", "MODEL.BACKBONE.VARIANT", "test_convnext"]
    options = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *backbone]
    cfg = load_config("semantic/ade20k/per_pixel_baseline_r50", options)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    image = torch.randint(0, 256, (3, 45, 70)).float()
    with torch.no_grad():
        logits = model.raw_outputs([{"image": image}])["sem_seg_logits"]
        assert logits.shape[-2:] == (11, 17)
        expected = torch.nn.functional.interpolate(logits, (45, 70), mode="bilinear", align_corners=False)
        torch.testing.assert_close(model.score_maps(image[None]), expected, rtol=1e-5, atol=1e-5)
        result = model([{"image": image}])[0]["sem_seg"]
        torch.testing.assert_close(result, expected[0], rtol=1e-5, atol=1e-5)
