"""Files that GluonCV wrote, loaded as they are: segzoo's outputs are GluonCV's.

`gluoncv/make_cases.py` made the recorded cases in `gluoncv/cases/`, of networks with a 64th of the channels,
and makes files of the networks as published where SEGZOO_GLUONCV_PYTHON is the Python of an environment with
GluonCV.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model

from segzoo.checkpoint import KeyMap, load_checkpoint, read_checkpoint
from segzoo.checkpoint.rules_gluon import GLUON_RESNET, block_names, resnet_block_names
from segzoo.cli import convert_checkpoint
from segzoo.engine.model_config import model_config
from segzoo.model_zoo.configs import load_config
from segzoo.modeling.backbones import resnet, wide_resnet
from segzoo.utils.errors import InputError
from tests.checkpoint.mxnet_files import params_bytes

HERE = Path(__file__).parent / "gluoncv"
CASES = HERE / "cases"
# The leaf of a toy network, and its channels.
TOYS = {
    "fcn": ("semantic/ade20k/fcn_r50_v1s_120ep", {"MODEL.SEM_SEG_HEAD.CONVS_DIM": 8}),
    "psp": ("semantic/ade20k/pspnet_r50_v1s_120ep", {"MODEL.SEM_SEG_HEAD.CONVS_DIM": 8}),
    "deeplab": ("semantic/ade20k/deeplabv3_r50_v1s_120ep", {"MODEL.SEM_SEG_HEAD.CONVS_DIM": 4}),
    "danet": ("semantic/cityscapes/danet_r50_v1s_240ep", {"MODEL.SEM_SEG_HEAD.CONVS_DIM": 8}),
    "deeplab_v3b_plus": (
        "semantic/cityscapes/deeplabv3plus_wrn38_240ep",
        {"MODEL.SEM_SEG_HEAD.CONVS_DIM": 4, "MODEL.DEEPLABV3PLUS.FINE_CHANNELS": 1},
    ),
}
# Largest difference, in standard deviations of the output. The channel affinities of DANet are sums of large
# squares, which MXNet's float32 gets to 2e-4.
NETWORKS = {
    "fcn_resnet50_ade": 1e-4,
    "psp_resnet50_ade": 1e-4,
    "deeplab_resnet50_ade": 1e-4,
    "danet_resnet50_citys": 2e-3,
    "deeplab_v3b_plus_wideresnet_citys": 1e-4,
}
# Variants of ResNetBackbone.
IMAGENET = {
    "resnet18_v1b": "r18_v1b",
    "resnet50_v1b": "r50_v1b",
    "resnet50_v1c": "r50_v1c",
    "resnet50_v1d": "r50_v1d",
    "resnet50_v1s": "r50_v1s",
    "resnet101_v1d": "r101_v1d",
}
_BLOCKS = {"depths": (2, 1, 2, 1), "width": 1}
TOY_IMAGENET = {
    "basic_v1b": resnet.ResNetVariant("basic", **_BLOCKS),
    "bottleneck_v1b": resnet.ResNetVariant("bottleneck", **_BLOCKS),
    "bottleneck_v1c": resnet.ResNetVariant("bottleneck", **_BLOCKS, deep_stem=(1, 1, 1)),
    "bottleneck_v1d": resnet.ResNetVariant(
        "bottleneck", **_BLOCKS, deep_stem=(1, 1, 1), pooled_shortcut=True
    ),
    "bottleneck_v1s": resnet.ResNetVariant("bottleneck", **_BLOCKS, deep_stem=(1, 1, 2)),
}
GLUONCV = os.environ.get("SEGZOO_GLUONCV_PYTHON", "")


@pytest.fixture
def toy_variants(monkeypatch):
    toy = resnet.ResNetVariant("bottleneck", (2, 1, 2, 1), width=1, deep_stem=(1, 1, 2))
    monkeypatch.setitem(resnet.VARIANTS, "r50_v1s", toy)
    wide = wide_resnet.WideResNetVariant((3, 3, 6, 3, 1, 1), width=1)
    monkeypatch.setitem(wide_resnet.VARIANTS, "wrn38", wide)


def toy_config(name):
    leaf, channels = TOYS[name]
    cfg = load_config(leaf, [str(item) for pair in channels.items() for item in pair])
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 5
    cfg.MODEL.AUX_HEAD.CONVS_DIM = 4
    cfg.MODEL.BACKBONE.NORM = cfg.MODEL.SEM_SEG_HEAD.NORM = "BN"
    return cfg


def make_toy(name):
    cfg = toy_config(name)
    torch.manual_seed(1)
    return build_model(cfg).eval()


def outputs_of(model, image):
    """All outputs at the image's size in GluonCV's order: main, auxiliary; or sum, position, channel."""
    head = model.sem_seg_head
    head.training = True  # of this module alone: dropout and norms stay in eval mode
    with torch.no_grad():
        scores = model([{"image": image}])[0]["sem_seg"]
        features = model.backbone(((image - model.pixel_mean) / model.pixel_std)[None])
        others = head(features)
        maps = [others[key] for key in ("position", "channel") if key in others]
        if model.auxiliary_head is not None:
            maps.append(model.auxiliary_head(features)["logits"])
    size = image.shape[-2:]
    return [scores, *(F.interpolate(one, size, mode="bilinear", align_corners=True)[0] for one in maps)]


def compare(model, case, tolerance):
    found = outputs_of(model, torch.from_numpy(case["image"]))
    expected = [case[f"out{index}"] for index in range(len(found))]
    assert f"out{len(found)}" not in case
    step = int(case["step"])
    for one, other in zip(found, expected, strict=True):
        difference = np.abs(one[:, ::step, ::step].numpy() - other).max()
        assert difference < tolerance * other.std()


@pytest.mark.parametrize("name", TOYS)
def test_recorded_files_give_recorded_outputs(name, toy_variants):
    model = make_toy(name)
    report = load_checkpoint(model, CASES / f"{name}.zip")
    assert report.complete
    assert report.source.startswith("GluonCV")
    assert report.unexpected == report.extras == report.training_only == []
    with np.load(CASES / f"{name}.npz") as case:
        compare(model, case, 1e-5)


def compare_backbone(variant, file, case, tolerance):
    backbone = resnet.ResNetBackbone(variant=variant, norm="BN").eval()
    report = load_checkpoint(backbone, file)
    assert report.complete
    assert report.source.startswith("GluonCV")
    weights = read_checkpoint(file).weights
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    with torch.no_grad():
        features = backbone(((torch.from_numpy(case["image"]) / 255 - mean) / std)[None])["res5"]
    logits = F.linear(features.mean(dim=(2, 3)), weights["fc.weight"], weights["fc.bias"])
    expected = torch.from_numpy(case["out0"]).flatten()
    assert (logits[0] - expected).abs().max() < tolerance * expected.std()


@pytest.mark.parametrize("name", TOY_IMAGENET)
def test_recorded_imagenet_files_give_recorded_logits(name):
    with np.load(CASES / f"{name}.npz") as case:
        compare_backbone(TOY_IMAGENET[name], CASES / f"{name}.zip", case, 1e-5)


@pytest.mark.parametrize(("backbone", "block"), [("resnet18_v1b", "basic"), ("resnet50_v1b", "bottleneck")])
def test_the_backbone_of_an_fpn_detector_has_block_names(backbone, block):
    """Below `features.`, where the other parts of the file have structural names."""
    weights = read_checkpoint(CASES / f"mask_rcnn_fpn_{backbone}.zip").weights
    depths, convs = ((2, 2, 2, 2), 2) if block == "basic" else ((3, 4, 6, 3), 3)
    rules = (*block_names(), *resnet_block_names(r"features\.resnetv1b_", convs, False), *GLUON_RESNET)
    key_map = KeyMap(name="backbone", recognize=(), rules=rules)
    found = {
        key_map.rename(key): value for key, value in weights.items() if key.startswith("features.resnet")
    }
    own = resnet.ResNetBackbone(variant=resnet.ResNetVariant(block, depths, width=1), norm="BN").state_dict()
    own = {key: value for key, value in own.items() if not key.endswith("num_batches_tracked")}
    assert {key: value.shape for key, value in found.items()} == {
        key: value.shape for key, value in own.items()
    }
    left = {key_map.rename(key) for key in weights if not key.startswith("features.resnet")}
    assert {"features.P2_conv_lat:weight", "features.P6_conv1:bias", "mask.mask.weight"} < left
    assert not any(key.startswith(("stem.", "res")) for key in left)


def toy_model(name):
    if name in TOYS:
        return make_toy(name)
    return resnet.ResNetBackbone(variant=TOY_IMAGENET[name], norm="BN")


def respelled(name, spelling, path):
    """Write the weights of a recorded file under other names."""
    with np.load(CASES / f"{name}.npz") as case:
        structural, renamed = (case[key].tobytes().decode().split("\n") for key in ("structural", spelling))
    weights = read_checkpoint(CASES / f"{name}.zip").weights
    assert set(weights) == set(structural)
    arrays = {new: weights[old].numpy() for old, new in zip(structural, renamed, strict=True)}
    assert len(arrays) == len(weights)
    path.write_bytes(params_bytes(arrays))
    return path


def assert_equal_weights(model, reference):
    for key, value in reference.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize("spelling", ["blocks", "exported"])
@pytest.mark.parametrize("name", [*TOYS, *TOY_IMAGENET])
def test_other_spellings_of_the_names_are_read_alike(name, spelling, toy_variants, tmp_path):
    reference, model = toy_model(name), toy_model(name)
    load_checkpoint(reference, CASES / f"{name}.zip")
    assert load_checkpoint(model, respelled(name, spelling, tmp_path / "renamed.params")).complete
    assert_equal_weights(model, reference)


@pytest.mark.parametrize(
    ("name", "recorded", "outputs"),
    [("fcn", "mix_0.5", ["", "auxiliary"]), ("danet", "multi", ["", "position", "channel"])],
)
def test_gradients_of_the_losses_are_gluoncvs(name, recorded, outputs, toy_variants):
    """The auxiliary output has weight 1 in the gradient whatever --aux-weight is, but not in the value."""
    model = make_toy(name)
    with np.load(CASES / "losses.npz") as case:
        logits = [torch.tensor(one, requires_grad=True) for one in case["logits"][: len(outputs)]]
        labels, value = torch.tensor(case["labels"]), case[f"{recorded}_value"]
        expected = torch.tensor(case[f"{recorded}_gradients"])
        assert np.array_equal(case["mix_0.5_gradients"], case["mix_0.2_gradients"])
    by_name = dict(zip(outputs, logits, strict=True))
    arranged = {"sem_seg_logits": by_name.pop(""), "losses": {}, "supervised": by_name}
    if "auxiliary" in by_name:
        arranged |= {"auxiliary_logits": by_name.pop("auxiliary")}
    losses = model.losses(arranged, torch.where(labels < 0, model.ignore_label, labels))
    sum(losses.values()).backward()
    for one, gradient in zip(logits, expected, strict=True):
        torch.testing.assert_close(one.grad, gradient, rtol=1e-5, atol=1e-7)
    if recorded == "mix_0.5":  # one value for an image, each divided by its 6 pixels
        main, auxiliary = losses.values()
        valid = (labels >= 0).sum()
        torch.testing.assert_close(main + 0.5 * auxiliary, torch.tensor(value.sum()) * 6 / valid)


def write_ade(path):
    """Write the toy FCN with 150 classes, in block names."""
    with np.load(CASES / "fcn.npz") as case:
        names = [case[key].tobytes().decode().split("\n") for key in ("structural", "blocks")]
    weights = read_checkpoint(CASES / "fcn.zip").weights
    arrays = {new: weights[old].numpy() for old, new in zip(*names, strict=True)}
    classifiers = {
        name: value for name, value in arrays.items() if name.endswith(("0_conv1_weight", "0_conv1_bias"))
    }
    assert len(classifiers) == 4
    arrays |= {name: np.resize(value, (150, *value.shape[1:])) for name, value in classifiers.items()}
    path.write_bytes(params_bytes(arrays))


def test_a_params_file_is_converted(toy_variants, tmp_path, capsys):
    source, output = tmp_path / "epoch_0119.params", tmp_path / "fcn.safetensors"
    write_ade(source)
    overrides = [
        *("MODEL.SEM_SEG_HEAD.CONVS_DIM", "8", "MODEL.AUX_HEAD.CONVS_DIM", "4"),
        *("MODEL.DEVICE", "cpu"),
    ]
    words = ["--config-file", "fcn_resnet50_ade", "--input", str(source), "--output", str(output), *overrides]
    assert convert_checkpoint.main(words) == 0
    assert f"{source}, read as GluonCV FCN" in capsys.readouterr().out
    first, second = (build_model(load_config("fcn_resnet50_ade", overrides)) for _ in range(2))
    for model, file in ((first, source), (second, output)):
        assert load_checkpoint(model, file).complete
    for key, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[key], value), key


def test_a_published_file_without_configuration_names_it(tmp_path):
    (tmp_path / "psp_resnet101_citys-d0e86031.params").write_bytes(
        params_bytes({"x": np.ones(1, np.float32)})
    )
    with pytest.raises(InputError, match=r"sha1 starts with .*, expected d0e86031"):
        model_config(None, ["MODEL.WEIGHTS", str(tmp_path / "psp_resnet101_citys-d0e86031.params")])
    (tmp_path / "psp_resnet101_citys-mine.params").write_bytes(params_bytes({"x": np.ones(1, np.float32)}))
    expected = "holds no configuration .* --config-file semantic/cityscapes/pspnet_r101_v1s_240ep"
    with pytest.raises(InputError, match=expected):
        model_config(None, ["MODEL.WEIGHTS", str(tmp_path / "psp_resnet101_citys-mine.params")])


def make_cases(folder, *words, script="make_cases"):
    command = [GLUONCV, "-m", f"tests.peers.gluoncv.{script}", str(folder), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    subprocess.run(command, check=True, env=environment, cwd=HERE.parents[2])


def compare_files(recorded, made):
    """Compare two folders of cases."""
    assert {file.name for file in recorded.iterdir()} == {file.name for file in made.iterdir()}
    for file in recorded.glob("*.npz"):
        with np.load(file) as one, np.load(made / file.name) as other:
            assert set(one) == set(other)
            for key in one:
                np.testing.assert_allclose(one[key], other[key], rtol=1e-4, atol=1e-5)


needs_gluoncv = pytest.mark.skipif(
    not GLUONCV, reason="SEGZOO_GLUONCV_PYTHON names no Python with GluonCV (make_cases.py says how)"
)


@needs_gluoncv
def test_the_recorded_cases_are_what_the_script_makes(tmp_path):
    make_cases(tmp_path, "--toy")
    compare_files(CASES, tmp_path)


@needs_gluoncv
@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_networks_of_gluoncv_give_its_logits(name, tmp_path):
    make_cases(tmp_path, name)
    with np.load(tmp_path / f"{name}.npz") as case:
        compare_backbone(resnet.VARIANTS[IMAGENET[name]], tmp_path / f"{name}.zip", case, 1e-4)


@needs_gluoncv
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_gluoncv_give_its_outputs(name, tmp_path):
    make_cases(tmp_path, name)
    cfg = load_config(
        name, ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.NORM", "BN", "MODEL.SEM_SEG_HEAD.NORM", "BN"]
    )
    model = build_model(cfg).eval()
    report = load_checkpoint(model, tmp_path / f"{name}.zip")
    assert report.complete
    assert report.unexpected == report.extras == report.training_only == []
    with np.load(tmp_path / f"{name}.npz") as case:
        compare(model, case, NETWORKS[name])
