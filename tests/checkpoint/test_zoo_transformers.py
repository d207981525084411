"""Published numbers of SegFormer, UPerNet, per-pixel baselines and MaskFormer, typed from their sources."""

import pytest
import torch
from detectron2.modeling import build_model
from zoo_maintenance.documents import documents

from segzoo import model_zoo
from segzoo.model_zoo.registry import known_models, sections
from segzoo.utils.errors import InputError

# mIoU at one scale and at several with flip (None: not published), by dataset and leaf.
MIOU = {
    "ade20k": {
        "segformer_mit_b0": (37.4, 38.0),
        "segformer_mit_b1": (42.2, 43.1),
        "segformer_mit_b2": (46.5, 47.5),
        "segformer_mit_b3": (49.4, 50.0),
        "segformer_mit_b4": (50.3, 51.1),
        "segformer_mit_b5": (51.0, 51.8),
        "upernet_swin_tiny": (44.51, 45.81),
        "upernet_swin_small": (47.64, 49.47),
        "upernet_swin_base": (48.13, 49.72),
        "upernet_cswin_tiny": (49.3, 50.7),
        "upernet_cswin_small": (50.4, 51.5),
        "upernet_cswin_base": (51.1, 52.2),
        "upernet_volo_d1": (None, 50.5),
        "upernet_volo_d3": (None, 52.9),
        "upernet_volo_d5": (None, 54.3),
        "per_pixel_baseline_r50": (39.2, 40.9),
        "per_pixel_baseline_plus_r50": (41.9, 42.9),
    },
    "cityscapes": {
        "segformer_mit_b0": (76.2, 78.1),
        "segformer_mit_b1": (78.5, 80.0),
        "segformer_mit_b2": (81.0, 82.2),
        "segformer_mit_b3": (81.7, 83.3),
        "segformer_mit_b4": (82.3, 83.9),
        "segformer_mit_b5": (82.4, 84.0),
        "upernet_volo_d1": (None, 83.1),
        "upernet_volo_d4": (None, 84.3),
        "maskformer_r101": (78.5, 80.3),
        "maskformer_r101c": (79.7, 81.4),
    },
    "coco_stuff": {
        "segformer_mit_b0": (35.6, None),
        "segformer_mit_b1": (40.2, None),
        "segformer_mit_b2": (44.6, None),
        "segformer_mit_b3": (45.5, None),
        "segformer_mit_b4": (46.5, None),
        "segformer_mit_b5": (46.7, None),
    },
    "coco_stuff_10k": {
        "per_pixel_baseline_r50": (32.4, 34.4),
        "per_pixel_baseline_plus_r50": (34.2, 35.8),
        "maskformer_r50": (37.1, 38.9),
        "maskformer_r101": (38.1, 39.8),
        "maskformer_r101c": (38.0, 39.3),
    },
    "ade20k_full": {
        "per_pixel_baseline_r50": (12.4, None),
        "per_pixel_baseline_plus_r50": (13.9, None),
        "maskformer_r50": (16.0, None),
        "maskformer_r101": (16.8, None),
        "maskformer_r101c": (17.4, None),
    },
    "mapillary_vistas": {"maskformer_r50": (53.1, 55.4)},
}
TYPED = {
    f"semantic/{dataset}/{leaf}": values for dataset, rows in MIOU.items() for leaf, values in rows.items()
}

MASKFORMER = "https://dl.fbaipublicfiles.com/maskformer/"
CSWIN = "https://github.com/microsoft/CSWin-Transformer/releases/download/v0.2.0/"
SWIN = "https://github.com/SwinTransformer/storage/releases/download/v1.0.1/"
SIZES = ("tiny", "small", "base")
# Folder, training run, first digits of the md5.
FILES = {
    "ade20k/per_pixel_baseline_r50": ("ade20k", "per_pixel_baseline_R50_bs16_160k", "1043f3"),
    "ade20k/per_pixel_baseline_plus_r50": ("ade20k", "per_pixel_baseline_plus_R50_bs16_160k", "833630"),
    "coco_stuff_10k/per_pixel_baseline_r50": ("coco-stuff-10k", "per_pixel_baseline_R50_bs32_60k", "275ab0"),
    "coco_stuff_10k/per_pixel_baseline_plus_r50": (
        "coco-stuff-10k",
        "per_pixel_baseline_plus_R50_bs32_60k",
        "1fa920",
    ),
    "coco_stuff_10k/maskformer_r50": ("coco-stuff-10k", "maskformer_R50_bs32_60k", "cb03eb"),
    "coco_stuff_10k/maskformer_r101": ("coco-stuff-10k", "maskformer_R101_bs32_60k", "eb19bb"),
    "coco_stuff_10k/maskformer_r101c": ("coco-stuff-10k", "maskformer_R101c_bs32_60k", "bffd25"),
    "ade20k_full/per_pixel_baseline_r50": ("ade20k-full", "per_pixel_baseline_R50_bs16_200k", "9f66a9"),
    "ade20k_full/per_pixel_baseline_plus_r50": (
        "ade20k-full",
        "per_pixel_baseline_plus_R50_bs16_200k",
        "4d31f2",
    ),
    "ade20k_full/maskformer_r50": ("ade20k-full", "maskformer_R50_bs16_200k", "f4e3f6"),
    "ade20k_full/maskformer_r101": ("ade20k-full", "maskformer_R101_bs16_200k", "88df33"),
    "ade20k_full/maskformer_r101c": ("ade20k-full", "maskformer_R101c_bs16_200k", "75d34e"),
    "cityscapes/maskformer_r101": ("cityscapes", "maskformer_R101_bs16_90k", "38c00c"),
    "cityscapes/maskformer_r101c": ("cityscapes", "maskformer_R101c_bs16_90k", "4f8ff9"),
    "mapillary_vistas/maskformer_r50": ("mapillary-vistas", "maskformer_R50_bs16_300k", "f3fc73"),
}
LINKS = {
    **{f"ade20k/upernet_cswin_{size}": f"{CSWIN}upernet_cswin_{size}.pth" for size in SIZES},
    **{
        f"ade20k/upernet_swin_{size}": f"{SWIN}upernet_swin_{size}_patch4_window7_512x512.pth"
        for size in SIZES
    },
    **{
        leaf: f"{MASKFORMER}semantic-{folder}/{run}/model_final_{md5}.pkl"
        for leaf, (folder, run, md5) in FILES.items()
    },
}

# Parameters (M) and GFLOPs that fvcore counts on the authors' code, and the size (height, width).
OFFICIAL_CODE = {
    "segformer_mit_b0": (3.77, 8.6, (512, 512)),
    "segformer_mit_b1": (13.74, 16.2, (512, 512)),
    "segformer_mit_b2": (27.48, 62.8, (512, 512)),
    "segformer_mit_b3": (47.36, 79.4, (512, 512)),
    "segformer_mit_b4": (64.13, 96.1, (512, 512)),
    "segformer_mit_b5": (84.73, 184.0, (640, 640)),
    "upernet_cswin_tiny": (52.12, 962.4, (512, 2048)),
    "upernet_cswin_small": (64.44, 1031.5, (512, 2048)),
    "upernet_cswin_base": (109.04, 1227.8, (512, 2048)),
}
# The authors' SegFormer head inherits a second classifier (128 channels, 150 classes) that nothing runs.
UNUSED_CLASSIFIER = (128 * 150 + 150) / 1e6
# Parameters (M) and GFLOPs as published.
PUBLISHED_SIZES = {
    "ade20k/segformer_mit_b0": (3.8, 8.4),
    "ade20k/segformer_mit_b1": (13.7, 15.9),
    "ade20k/segformer_mit_b2": (27.5, 62.4),
    "ade20k/segformer_mit_b3": (47.3, 79.0),
    "ade20k/segformer_mit_b4": (64.1, 95.7),
    "ade20k/segformer_mit_b5": (84.7, 183.3),
    "cityscapes/segformer_mit_b0": (3.8, 125.5),
    "cityscapes/segformer_mit_b1": (13.7, 243.7),
    "cityscapes/segformer_mit_b2": (27.5, 717.1),
    "cityscapes/segformer_mit_b3": (47.3, 962.9),
    "cityscapes/segformer_mit_b4": (64.1, 1240.6),
    "cityscapes/segformer_mit_b5": (84.7, 1460.4),
    "coco_stuff/segformer_mit_b5": (84.7, 111.6),
    "ade20k/upernet_swin_tiny": (60, 945),
    "ade20k/upernet_swin_small": (81, 1038),
    "ade20k/upernet_swin_base": (121, 1188),
    "ade20k/upernet_cswin_tiny": (60, 959),
    "ade20k/upernet_cswin_small": (65, 1027),
    "ade20k/upernet_cswin_base": (109, 1222),
}
# Millions of parameters of SegFormer with 150 classes, computed by hand from the paper's layer sizes.
SEGFORMER_PARAMS = (3.75, 13.72, 27.46, 47.34, 64.11, 84.71)


@pytest.mark.parametrize("name", TYPED)
def test_published_miou_and_its_protocol(name):
    info = known_models()[name]
    single, several = TYPED[name]
    assert (info.value("mIoU"), info.value("mIoU ms")) == (single, several)
    for entry in info.published:
        flipped = "flip" in entry.protocol or "several scales" in entry.protocol
        assert flipped == (entry.metric == "mIoU ms"), entry
        assert ("single scale" in entry.protocol) == (entry.metric == "mIoU"), entry


def test_the_other_rows_of_these_methods_publish_nothing_but_what_is_typed():
    prefixes = ("segformer_", "upernet_", "per_pixel_baseline_")
    rows = {name for name in known_models() if name.split("/")[2].startswith(prefixes)}
    others = rows - set(TYPED)
    assert "semantic/camvid/segformer_mit_b0" in others
    assert [name for name in sorted(others) if known_models()[name].published != ()] == []


@pytest.mark.parametrize("leaf", LINKS)
def test_direct_links(leaf):
    info = model_zoo.official_weights(f"semantic/{leaf}")
    assert info.url == LINKS[leaf]
    if info.url.startswith(MASKFORMER):
        assert info.md5_prefix == info.url[-10:-4]
        assert info.license == "CC BY-NC 4.0"
    else:
        assert info.license == "MIT"
        assert info.log == info.url.removesuffix("pth") + "log.json"


def test_models_without_a_link_say_why():
    unlinked = {name for name in TYPED if not known_models()[name].url}
    assert unlinked == set(TYPED) - {f"semantic/{leaf}" for leaf in LINKS}
    for name in unlinked:
        info = known_models()[name]
        if "/segformer" in name:
            assert info.license == "NVIDIA, research or evaluation only"
        if "/segformer" in name and "coco_stuff" not in name:
            assert info.folder.startswith(
                "https://drive.google.com/drive/folders/1GAku0G0iR9DsBxCbfENWMJ27c5lYUeQA"
            )
        else:
            assert "published" in info.note
        with pytest.raises(InputError, match=r"no (direct link|official weights)"):
            model_zoo.official_weights(name)


@pytest.mark.parametrize("leaf", OFFICIAL_CODE)
def test_counts_agree_with_the_authors_code(leaf):
    params, gflops, size = OFFICIAL_CODE[leaf]
    if leaf.startswith("segformer"):
        params -= UNUSED_CLASSIFIER
    info = known_models()[f"semantic/ade20k/{leaf}"]
    official = info.official_code
    assert (official.gflops, official.size) == (gflops, size)
    assert official.params == pytest.approx(params, abs=0.006)
    assert info.reproduced.size == size
    assert info.reproduced.params == pytest.approx(params, rel=0.005)
    assert info.reproduced.gflops == pytest.approx(gflops, rel=0.05)


def test_parameters_that_only_the_official_code_has_are_named():
    """The classifier that SegFormer's head inherits: 128 channels, whatever the variant, to the classes."""
    classes = {"ade20k": 150, "cityscapes": 19, "coco_stuff": 171}
    models = {name: info for name, info in known_models().items() if info.method == "SegFormer"}
    named = {name: info.only_official for name, info in models.items() if info.only_official}
    assert named == {
        f"semantic/{dataset}/segformer_mit_b{size}": {"decode_head.conv_seg": 128 * count + count}
        for dataset, count in classes.items()
        for size in range(6)
    }
    for leaf, (params, _, _) in OFFICIAL_CODE.items():
        info = known_models()[f"semantic/ade20k/{leaf}"]
        only_there = sum(info.only_official.values()) / 1e6
        assert info.reproduced.params + only_there == pytest.approx(params, abs=0.011), leaf
    text = "\n".join(documents().values())
    assert "`decode_head.conv_seg` (19,350)" in text
    assert "`decode_head.conv_seg` (2,451)" in text


@pytest.mark.parametrize("leaf", PUBLISHED_SIZES)
def test_published_sizes(leaf):
    params, gflops = PUBLISHED_SIZES[leaf]
    info = known_models()[f"semantic/{leaf}"]
    assert (info.params, info.gflops) == (params, gflops)
    assert info.gflops_size == info.reproduced.size
    assert info.reproduced.gflops == pytest.approx(gflops, rel=0.05)
    if leaf == "ade20k/upernet_cswin_tiny":
        assert "52.12" in info.note
    else:
        # SegFormer's are those of 150 classes on every dataset.
        assert info.reproduced.params == pytest.approx(params, rel=0.025)


@pytest.mark.parametrize("name", [f"semantic/ade20k/segformer_mit_b{size}" for size in range(6)])
def test_segformer_has_the_parameters_that_follow_from_the_paper(name):
    with torch.device("meta"):
        model = build_model(model_zoo.load_config(name, ["MODEL.DEVICE", "meta"]))
    params = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert params == pytest.approx(SEGFORMER_PARAMS[int(name[-1])], abs=0.006)
    assert known_models()[name].reproduced.params == pytest.approx(params, abs=0.006)


@pytest.mark.parametrize("size", range(6))
def test_the_classifier_explains_what_cityscapes_lacks_of_the_published_operations(size):
    """The paper counts 150 classes at 1024x2048: 131 more than Cityscapes has, at stride 4."""
    info = known_models()[f"semantic/cityscapes/segformer_mit_b{size}"]
    channels = 256 if size < 2 else 768
    classifier = (150 - 19) * channels * 256 * 512 / 1e9
    assert info.reproduced.gflops + classifier == pytest.approx(info.gflops, rel=0.005)


def test_segformer_is_counted_in_the_published_order():
    for name, info in known_models().items():
        key = "MODEL.SEGFORMER.FUSE_AT_LEVEL"
        if "/segformer" in name:
            assert info.count_with == (key, False), name
        else:
            assert key not in info.count_with, name


def test_one_title_for_one_dataset_and_task():
    titles = {}
    for section in sections():
        key = section.models[0].name.rsplit("/", 1)[0]
        assert titles.setdefault(key, section.title) == section.title
