"""The tables of the convolutional methods hold what their sources publish.

Every number and link here is typed from the sources' own tables (fractions as fractions), not from ours.
"""

import pytest

from segzoo import model_zoo
from segzoo.checkpoint.params_reader import published_sha1
from segzoo.engine.analysis import analyze
from segzoo.model_zoo.registry import known_models, sections

METHODS = {"FCN", "PSPNet", "PSANet", "DeepLabV3", "DeepLabV3+", "DANet", "CCNet", "OCNet", "BiSeNet"}

# semseg: mIoU / mAcc / aAcc of its "single scale", which averages the flipped image, and of six scales.
SEMSEG_EPOCHS = {"ade20k": 100, "voc_2012": 50, "cityscapes": 200}
SEMSEG = {
    ("ade20k", "pspnet_r50"): "0.4189/0.5227/0.8039 0.4284/0.5266/0.8106",
    ("ade20k", "psanet_r50"): "0.4229/0.5307/0.8032 0.4305/0.5312/0.8101",
    ("ade20k", "pspnet_r101"): "0.4310/0.5375/0.8107 0.4415/0.5426/0.8172",
    ("ade20k", "psanet_r101"): "0.4337/0.5385/0.8102 0.4414/0.5392/0.8170",
    ("voc_2012", "pspnet_r50"): "0.7705/0.8513/0.9489 0.7802/0.8580/0.9513",
    ("voc_2012", "psanet_r50"): "0.7725/0.8569/0.9491 0.7787/0.8606/0.9508",
    ("voc_2012", "pspnet_r101"): "0.7907/0.8636/0.9534 0.7963/0.8677/0.9550",
    ("voc_2012", "psanet_r101"): "0.7870/0.8642/0.9528 0.7966/0.8696/0.9549",
    ("cityscapes", "pspnet_r50"): "0.7730/0.8431/0.9597 0.7838/0.8486/0.9617",
    ("cityscapes", "psanet_r50"): "0.7745/0.8461/0.9600 0.7818/0.8487/0.9622",
    ("cityscapes", "pspnet_r101"): "0.7863/0.8577/0.9614 0.7929/0.8591/0.9638",
    ("cityscapes", "psanet_r101"): "0.7842/0.8599/0.9621 0.7940/0.8631/0.9644",
}
SEMSEG_FOLDER = "https://drive.google.com/open?id=15wx9vOM0euyizq-M1uINgN0_wjVRf9J3"

# pytorch-cv: pixAcc/mIoU of `val (crop)` and of `val`, the file's page on Google Drive.
PYTORCH_CV = {
    "voc_2012/fcn_jpu_r101_v1s": ("94.54/78.31 94.50/76.89", "1-FF5BUSB9hNCyldC1nV35LeWLSQFa9Jl"),
    "voc_2012/pspnet_r101_v1s": ("94.87/80.13 94.88/78.57", "1g40cVTJRCHLBKwVqjev4yQA5YflQwhrv"),
    "voc_2012/deeplabv3_jpu_r101_v1s": ("95.17/81.00 94.81/78.75", "1R0C6qwCxOLztps4odVWLiZpe57n5TuDX"),
    "voc_2012/bisenet_r18_v1b": ("92.58/71.89 91.86/67.11", ""),
    "voc_2012/ocnet_base_jpu_r101_v1s": ("94.91/80.33 94.86/79.07", "15gs_gzgAT_hciPgwm12G_MRMi0VZg9Gb"),
    "cityscapes/fcn_jpu_r101_v1s": ("96.29/73.60 96.18/78.61", "119bPxJwL6zAtEyvEJiHljK6US9f-d5Xr"),
    "cityscapes/pspnet_jpu_r101_v1s": ("96.21/73.64 96.09/78.62", "1qJVXevkErgVvsa4x8mCvAdMlCIuVMJ1C"),
    "cityscapes/deeplabv3_jpu_r101_v1s": ("96.25/73.44 96.23/79.03", "1_XIIeIKEMbg4M2SO49Vq756d20zjeXxk"),
}
# What pytorch-cv quotes from others.
QUOTED = {
    "voc_2012/deeplabv3_jpu_r101_v1s": 77.02,
    "cityscapes/fcn_jpu_r101_v1s": 75.96,
    "cityscapes/pspnet_jpu_r101_v1s": 78.56,
    "cityscapes/deeplabv3_jpu_r101_v1s": 78.90,
    "cityscapes/danet_jpu_r101_v1s": 78.83,
}
# Rows that pytorch-cv lists without a number of its own.
LISTED = (
    "voc_2012/danet_jpu_r101_v1s",
    "voc_2012/ccnet_jpu_r101_v1s",
    "cityscapes/danet_jpu_r101_v1s",
    "cityscapes/ocnet_base_jpu_r101_v1s",
    "cityscapes/bisenet_r18_v1b",
)

# GluonCV: its name, pixAcc, mIoU.
GLUON = {
    "ade20k/fcn_r50_v1s_120ep": ("fcn_resnet50_ade", 79.0, 39.5),
    "ade20k/fcn_r101_v1s_120ep": ("fcn_resnet101_ade", 80.6, 41.6),
    "ade20k/pspnet_r50_v1s_120ep": ("psp_resnet50_ade", 80.1, 41.5),
    "ade20k/pspnet_r101_v1s_120ep": ("psp_resnet101_ade", 80.8, 43.3),
    "ade20k/deeplabv3_r50_v1s_120ep": ("deeplab_resnet50_ade", 80.5, 42.5),
    "ade20k/deeplabv3_r101_v1s_120ep": ("deeplab_resnet101_ade", 81.1, 44.1),
    "coco_21/fcn_r101_v1s_30ep": ("fcn_resnet101_coco", 92.2, 66.2),
    "coco_21/pspnet_r101_v1s_30ep": ("psp_resnet101_coco", 92.4, 70.4),
    "coco_21/deeplabv3_r101_v1s_30ep": ("deeplab_resnet101_coco", 92.5, 70.4),
    "cityscapes/pspnet_r101_v1s_240ep": ("psp_resnet101_citys", 96.4, 79.9),
    "cityscapes/deeplabv3_r50_v1s_240ep": ("deeplab_resnet50_citys", 96.3, 78.7),
    "cityscapes/deeplabv3_r101_v1s_240ep": ("deeplab_resnet101_citys", 96.4, 79.4),
    "cityscapes/danet_r50_v1s_240ep": ("danet_resnet50_citys", 96.3, 78.5),
    "cityscapes/danet_r101_v1s_240ep": ("danet_resnet101_citys", 96.5, 80.1),
}
GLUON_VOC_TEST = {
    "fcn_r101": ("fcn_resnet101_voc", 83.6),
    "pspnet_r101": ("psp_resnet101_voc", 85.1),
    "deeplabv3_r101": ("deeplab_resnet101_voc", 86.2),
    "deeplabv3_r152": ("deeplab_resnet152_voc", 86.7),
}

# The first digits of the sha1 of its .params files, by its name.
GLUON_SHA1 = dict(
    line.split()
    for line in """fcn_resnet50_ade 3479525a
fcn_resnet101_ade d544440a
fcn_resnet101_coco 766cdf9c
fcn_resnet101_voc 12c2b9b3
psp_resnet50_ade 3f220f53
psp_resnet101_ade 240a4758
psp_resnet101_coco 09f89cad
psp_resnet101_voc 2c2f4e1c
psp_resnet101_citys d0e86031
deeplab_resnet50_ade c7789b23
deeplab_resnet101_ade bf1584df
deeplab_resnet101_coco ed817f76
deeplab_resnet101_voc 311ed22c
deeplab_resnet152_coco 83247aae
deeplab_resnet152_voc d35bea88
deeplab_resnet50_citys cf6a7bb3
deeplab_resnet101_citys eb8477a9
deeplab_v3b_plus_wideresnet_citys ef2bb40a
danet_resnet50_citys 143e1f1c
danet_resnet101_citys 6ead3d09""".splitlines()
)
WIDE = "cityscapes/deeplabv3plus_wrn38_240ep"
GLUON_LEAVES = {
    **{gluons_name: f"semantic/{name}" for name, (gluons_name, *_) in GLUON.items()},
    **{
        gluons_name: f"semantic/voc_2012/{model}_v1s_coco_trainval"
        for model, (gluons_name, _) in GLUON_VOC_TEST.items()
    },
    "deeplab_resnet152_coco": "semantic/coco_21/deeplabv3_r152_v1s_30ep",
    "deeplab_v3b_plus_wideresnet_citys": f"semantic/{WIDE}",
}

# torchvision: mIoU, pixAcc, parameters, file.
TORCHVISION = {
    "fcn_r50": (60.5, 91.4, 35322218, "fcn_resnet50_coco-1167a1af.pth"),
    "fcn_r101": (63.7, 91.9, 54314346, "fcn_resnet101_coco-7ecb50ca.pth"),
    "deeplabv3_r50": (66.4, 92.4, 42004074, "deeplabv3_resnet50_coco-cd0a2569.pth"),
    "deeplabv3_r101": (67.4, 92.4, 60996202, "deeplabv3_resnet101_coco-586e9e4e.pth"),
}


def published(name: str) -> dict[str, float]:
    """What the table has for semantic/<name>, by metric."""
    return {entry.metric: entry.value for entry in known_models()[f"semantic/{name}"].published}


def protocol(name: str, metric: str) -> str:
    entries = known_models()[f"semantic/{name}"].published
    return next(entry.protocol for entry in entries if entry.metric == metric)


@pytest.mark.parametrize(("dataset", "model"), SEMSEG)
def test_semsegs_numbers_are_under_their_real_protocols(dataset, model):
    name = f"{dataset}/{model}_v1s_{SEMSEG_EPOCHS[dataset]}ep"
    columns = zip(("flip", "ms"), SEMSEG[dataset, model].split(), strict=True)
    expected = {
        f"{metric} {column}": pytest.approx(100 * float(value))
        for column, values in columns
        for metric, value in zip(("mIoU", "mAcc", "pixAcc"), values.split("/"), strict=True)
    }
    # No column without a suffix: nothing of this source is a single forward pass.
    assert published(name) == expected
    crop = {"pspnet": (473, 713), "psanet": (465, 705)}[model.split("_")[0]][dataset == "cityscapes"]
    assert f"windows of {crop}" in protocol(name, "mIoU flip")
    assert "flip" in protocol(name, "mIoU flip")
    assert "six scales" in protocol(name, "mIoU ms")
    info = known_models()[f"semantic/{name}"]
    assert (info.folder, info.url, info.code_license, info.license) == (
        SEMSEG_FOLDER,
        "",
        "MIT",
        "not stated",
    )


@pytest.mark.parametrize("name", PYTORCH_CV)
def test_pytorch_cvs_crop_and_whole_image_are_two_columns(name):
    numbers, page = PYTORCH_CV[name]
    crop, whole = ([float(value) for value in pair.split("/")] for pair in numbers.split())
    expected = {"pixAcc crop": crop[0], "mIoU crop": crop[1], "pixAcc": whole[0], "mIoU": whole[1]}
    if name in QUOTED:
        expected["mIoU paper"] = QUOTED[name]
    assert published(name) == expected
    info = known_models()[f"semantic/{name}"]
    assert info.page == (f"https://drive.google.com/open?id={page}" if page else "")
    assert info.repository == "https://github.com/AceCoooool/pytorch-cv"


@pytest.mark.parametrize("name", LISTED)
def test_rows_without_a_number_say_so(name):
    assert published(name) == ({"mIoU paper": QUOTED[name]} if name in QUOTED else {})
    assert "pytorch-cv lists" in known_models()[f"semantic/{name}"].note


@pytest.mark.parametrize("name", GLUON)
def test_gluons_numbers_are_of_one_pass_over_the_whole_image(name):
    gluons_name, accuracy, miou = GLUON[name]
    assert published(name) == {"mIoU": miou, "pixAcc": accuracy}
    assert "whole, one scale, no flip" in protocol(name, "mIoU")
    info = known_models()[f"semantic/{name}"]
    assert info.model_id == gluons_name
    assert info.log.endswith(f"/dmlc/web-data/master/gluoncv/logs/segmentation/{gluons_name}.log")
    assert info.code_license == "Apache-2.0"


@pytest.mark.parametrize("name", GLUON_SHA1)
def test_gluons_rows_link_to_its_downloads_and_answer_to_its_names(name):
    files = "https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com/gluon/models"
    digits, leaf = GLUON_SHA1[name], GLUON_LEAVES[name]
    info = model_zoo.official_weights(name)
    assert (info.name, info.sha1_prefix) == (leaf, digits)
    assert info.url == f"{files}/{name}-{digits}.zip"
    assert published_sha1(f"{name}-{digits}.params") == published_sha1(f"{name}-{digits}.zip") == digits
    assert set(GLUON_LEAVES) == set(GLUON_SHA1)


def test_the_number_of_gluons_wide_network_is_no_validation_number():
    assert published(WIDE) == {"mIoU table": 83.5}
    assert "not comparable" in protocol(WIDE, "mIoU table")


@pytest.mark.parametrize("model", GLUON_VOC_TEST)
def test_numbers_of_the_test_server_are_no_validation_numbers(model):
    gluons_name, miou = GLUON_VOC_TEST[model]
    name = f"voc_2012/{model}_v1s_coco_trainval"
    assert published(name) == {"mIoU test": miou}
    assert "server" in protocol(name, "mIoU test")
    assert known_models()[f"semantic/{name}"].model_id == gluons_name
    assert published(f"voc_2012/{model}_v1s_coco") == {}


def test_the_older_number_of_gluons_pspnet_is_not_lost():
    assert "77.1" in known_models()["semantic/cityscapes/pspnet_r101_v1s_240ep"].note


@pytest.mark.parametrize("model", TORCHVISION)
def test_torchvisions_files_can_be_loaded_by_name(model):
    miou, accuracy, parameters, file = TORCHVISION[model]
    name = f"semantic/coco_21/{model}"
    info = model_zoo.official_weights(name)
    assert info.url == f"https://download.pytorch.org/models/{file}"
    assert file.endswith(f"-{info.sha256_prefix}.pth")
    assert published(f"coco_21/{model}") == {"mIoU": miou, "pixAcc": accuracy}
    assert info.params == pytest.approx(parameters / 1e6, abs=0.006)
    assert analyze(model_zoo.get(name), (33, 33)).total_params == parameters


def test_vplrs_headline_is_no_target_for_one_scale():
    name = "cityscapes/deeplabv3plus_wrn38"
    assert published(name) == {"mIoU": 81.4, "mIoU paper": 83.5}
    assert "without propagated labels" in protocol(name, "mIoU")
    assert "not comparable" in protocol(name, "mIoU paper")
    assert known_models()[f"semantic/{name}"].method == "VPLR"


def test_every_number_of_these_methods_is_typed_above():
    rows = {info.name: info for section in sections() if section.method in METHODS for info in section.models}
    typed = {f"{data}/{model}_v1s_{SEMSEG_EPOCHS[data]}ep" for data, model in SEMSEG}
    typed |= {f"voc_2012/{model}_v1s_coco_trainval" for model in GLUON_VOC_TEST}
    typed |= {f"coco_21/{model}" for model in TORCHVISION}
    typed |= {*PYTORCH_CV, *QUOTED, *GLUON, "cityscapes/deeplabv3plus_wrn38", WIDE}
    assert {name for name, info in rows.items() if info.published} == {f"semantic/{name}" for name in typed}


@pytest.mark.parametrize(
    ("model", "crop", "params", "gflops"), [("pspnet", 473, 49.18, 162.3), ("psanet", 465, 53.27, 170.6)]
)
def test_sizes_are_those_of_semsegs_own_code(model, crop, params, gflops):
    name = f"semantic/ade20k/{model}_r50_v1s_100ep"
    found = analyze(model_zoo.get(name), (crop, crop))
    assert found.total_params / 1e6 == pytest.approx(params, rel=0.001)
    assert found.total_flops / 1e9 == pytest.approx(gflops, rel=0.05)
    info = known_models()[name]
    assert (info.official_code.params, info.official_code.gflops) == (params, gflops)
    assert info.official_code.size == info.reproduced.size == (crop, crop)
