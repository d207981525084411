"""MXNet's `.params` files: read to the last byte, or refused in one line."""

import contextlib
import hashlib
import re
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
import torchvision

from segzoo.checkpoint import load_checkpoint, local_file, read_checkpoint, read_description
from segzoo.checkpoint.key_maps import key_maps
from segzoo.checkpoint.params_reader import published_sha1
from segzoo.modeling.backbones.resnet import ResNetBackbone, ResNetVariant
from segzoo.utils.errors import InputError

from .mxnet_files import HEADER, array_bytes, gluon_names, params_bytes

# Written by MXNet 1.9.1: name "x", values in the comment.
RECORDED = {
    "version 2": (  # [1, 1]
        "120100000000000000000000000000000100000000000000c9fa93f900000000010000000200000000000000"
        "0100000000000000000000000000803f0000803f0100000000000000010000000000000078",
        torch.ones(2),
    ),
    "scalar": (
        "120100000000000000000000000000000100000000000000cafa93f900000000000000000100000000000000"
        "0000000000006040010000000000000001000000000000" + "0078",
        torch.tensor(3.5),
    ),
    "bool": (
        "120100000000000000000000000000000100000000000000cafa93f900000000010000000200000000000000"
        "0100000000000000070000000100" + "01000000000000000100000000000000" + "78",
        torch.tensor([True, False]),
    ),
    "int8": (
        "120100000000000000000000000000000100000000000000cafa93f900000000010000000200000000000000"
        "010000000000000005000000" + "0100" + "01000000000000000100000000000000" + "78",
        torch.tensor([1, 0], dtype=torch.int8),
    ),
    "float16": (
        "120100000000000000000000000000000100000000000000cafa93f900000000010000000200000000000000"
        "010000000000000002000000" + "003c0000" + "01000000000000000100000000000000" + "78",
        torch.tensor([1, 0], dtype=torch.float16),
    ),
    "float64": (
        "120100000000000000000000000000000100000000000000cafa93f900000000010000000200000000000000"
        "010000000000000001000000"
        + "000000000000f03f0000000000000000"
        + "01000000000000000100000000000000"
        + "78",
        torch.tensor([1, 0], dtype=torch.float64),
    ),
}


def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    values = random.integers(0, 2, (2, 3, 1, 2))
    return {
        f"layer.{dtype}": values.astype(dtype) for dtype in ("float32", "float64", "float16", "uint8")
    } | {
        f"bn.{dtype}": (values - (dtype != "bool")).astype(dtype)
        for dtype in ("int32", "int8", "int64", "bool")
    }


def write(folder, content: bytes, name="net.params"):
    path = folder / name
    path.write_bytes(content)
    return path


def write_zip(folder, content: bytes, name="net.zip", member="net.params"):
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
    return folder / name


@pytest.mark.parametrize("name", RECORDED)
def test_files_of_mxnet_are_read(tmp_path, name):
    content, expected = RECORDED[name]
    (found,) = read_checkpoint(write(tmp_path, bytes.fromhex(content))).weights.values()
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("writer", [write, write_zip])
def test_all_types_and_shapes_are_read(tmp_path, version, writer):
    expected = arrays()
    file = read_checkpoint(writer(tmp_path, params_bytes(expected, version)))
    assert list(file.weights) == list(expected)
    for name, array in expected.items():
        found = file.weights[name]
        assert found.dtype == torch.from_numpy(array).dtype
        np.testing.assert_array_equal(found.numpy(), array)
    assert read_description(file.path) is None


def test_absent_and_empty_arrays_take_no_values(tmp_path):
    content = params_bytes({"a": np.float32(1), "b": np.ones(3, np.float32)}, version=2)
    assert read_checkpoint(write(tmp_path, content)).weights["a"].numel() == 0
    content = params_bytes({"a": np.ones((0, 3), np.float32), "b": np.ones(3, np.float32)}, version=3)
    weights = read_checkpoint(write(tmp_path, content)).weights
    assert weights["a"].shape == (0, 3)
    assert torch.equal(weights["b"], torch.ones(3))


def test_every_truncation_is_refused(tmp_path):
    content = params_bytes(arrays())
    for length in (*range(8, len(content), 5), len(content) - 1):  # with less it is not recognized
        with pytest.raises(
            InputError, match=r"net\.params is truncated or damaged .*; copy or download it again$"
        ):
            read_checkpoint(write(tmp_path, content[:length]))


def test_damaged_bytes_never_raise_anything_else(tmp_path):
    content = params_bytes(arrays())
    random = np.random.default_rng(1)
    for _ in range(300):
        damaged = bytearray(content)
        for place in random.integers(8, len(content), 3):
            damaged[place] = random.choice([0, 1, 127, 128, 255])
        with contextlib.suppress(InputError):
            read_checkpoint(write(tmp_path, bytes(damaged)))


def listed(*parts: bytes, count: int = 1) -> bytes:
    return HEADER + struct.pack("<Q", count) + b"".join(parts)


NAMED = struct.pack("<QQ", 1, 1) + b"x"
ONE = array_bytes(np.ones(1, np.float32))


def header(storage=0, ndim=1, shape=(1,), flag=0, version=0xF993FAC9) -> bytes:
    return struct.pack(f"<Iii{len(shape)}q3i", version, storage, ndim, *shape, 1, 0, flag)


REFUSED = {
    "trailing bytes": (listed(ONE, NAMED, b"\0"), "1 bytes follow its last name"),
    "no names": (listed(ONE, struct.pack("<Q", 0)), "net.params: it has no names of its 1 array;"),
    "fewer names": (listed(ONE, ONE, NAMED, count=2), "it holds 2 arrays and 1 name"),
    "twice": (
        listed(ONE, ONE, struct.pack("<QQ", 2, 1) + b"x" + struct.pack("<Q", 1) + b"x", count=2),
        "it holds x twice",
    ),
    "row-sparse": (listed(header(storage=1)), "net.params: array 1 of 1 is row-sparse; only dense arrays"),
    "CSR": (listed(header(storage=2)), "net.params: array 1 of 1 is sparse (CSR); only dense arrays"),
    "storage": (listed(header(storage=-1)), "is of storage type -1; only dense arrays"),
    "type": (listed(header(flag=12), ONE), "net.params: array 1 of 1 has the unknown type flag 12"),
    "negative type": (listed(header(flag=-1), ONE), "has the unknown type flag -1"),
    "version": (
        listed(header(version=0xF993FACB), ONE),
        "array 1 of 1 starts with 0xf993facb; expected 0xf993fac9",
    ),
    "version 1": (
        listed(header(version=0xF993FAC8), ONE),
        "the format of MXNet before 1.0; load the file in MXNet",
    ),
    "oldest": (
        listed(struct.pack("<III", 2, 3, 4), ONE),
        "the format of MXNet before 1.0; load the file in MXNet",
    ),
    "number of arrays": (
        listed(ONE, NAMED, count=1 << 63),
        "its header says 9223372036854775808 arrays, more than",
    ),
    "dimensions": (
        listed(struct.pack("<Iii", 0xF993FAC9, 0, 1 << 30), ONE),
        "has 1073741824 dimensions; expected",
    ),
    "negative side": (listed(header(shape=(-5,)), ONE), "array 1 of 1 has the shape (-5,)"),
    "huge array": (listed(header(shape=(1 << 40,)), ONE), "it ends within array 1 of 1: "),
    "overflow": (listed(header(ndim=2, shape=(1 << 62, 4)), ONE), "has the shape (4611686018427387904, 4)"),
    "empty overflow": (
        listed(header(ndim=2, shape=(0, 1 << 62)), ONE),
        "has the shape (0, 4611686018427387904)",
    ),
    "long name": (
        listed(ONE, struct.pack("<QQ", 1, 1 << 62)),
        "it ends within name 1 of 1: 0 bytes are left of",
    ),
    "text": (listed(ONE, struct.pack("<QQ", 1, 2) + b"\xff\xff"), "name 1 of 1 is not UTF-8 text"),
    "nothing": (listed(struct.pack("<Q", 0), count=0), "net.params holds no weights"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_content_is_refused_in_one_line(tmp_path, name):
    content, expected = REFUSED[name]
    path = write(tmp_path, content)
    with pytest.raises(InputError, match=re.escape(expected)) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_zip_archives_of_something_else_are_refused(tmp_path):
    content = params_bytes(arrays())
    path = write_zip(tmp_path, content)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other.params", content)
    with pytest.raises(InputError, match=r"net\.zip: it holds 2 \.params files; unpack it and give one"):
        read_checkpoint(path)
    path = write_zip(tmp_path, params_bytes({"x": np.zeros(1 << 23, np.float32)}))
    with pytest.raises(
        InputError, match=r"net\.params has 335545\d\d bytes from \d+ compressed ones; if it is genuine"
    ):
        read_checkpoint(path)
    path = write_zip(tmp_path, content)
    damaged = bytearray(path.read_bytes())
    damaged[60:70] = bytes(10)
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"net\.zip is truncated or damaged"):
        read_checkpoint(path)


def test_the_sha1_in_a_published_name_is_checked(tmp_path):
    content = params_bytes(arrays())
    digits = hashlib.sha1(content).hexdigest()[:8]
    name = f"fcn_resnet50_ade-{digits}"
    assert local_file(write(tmp_path, content, f"{name}.params")).exists()
    assert local_file(write_zip(tmp_path, content, f"{name}.zip", f"{name}.params")).exists()
    other = "deeplab_v3b_plus_wideresnet_citys-ef2bb40a"
    expected = f"sha1 starts with {digits}, expected ef2bb40a; the file is damaged or not the published one"
    with pytest.raises(InputError, match=expected):
        local_file(write(tmp_path, content, f"{other}.params"))
    with pytest.raises(InputError, match=expected):
        local_file(write_zip(tmp_path, content, f"{other}.zip", f"{other}.params"))
    with pytest.raises(InputError, match=r"sha1 starts with .*, expected ef2bb40a"):
        local_file(write(tmp_path, b"<html>", f"{other}.zip"))
    # A date, in the name of a user's own file.
    assert local_file(write(tmp_path, content, "street-20261130.params")).exists()


# Detectors and ImageNet networks; the others are in test_zoo_cnn.py.
PUBLISHED = """mask_rcnn_resnet18_v1b_coco e071cf15 mask_rcnn_fpn_resnet18_v1b_coco 14a922c3
mask_rcnn_resnet50_v1b_coco a3527fdc mask_rcnn_fpn_resnet50_v1b_coco 1364d0af
mask_rcnn_resnet101_v1d_coco 4a3249c5 mask_rcnn_fpn_resnet101_v1d_coco 89c7d866
resnet18_v1b 2d9d980c resnet34_v1b 8e16b848 resnet50_v1b 0ecdba34 resnet50_v1c 2a4e0708 resnet50_v1d 117a384e
resnet50_v1s 25a187fa resnet101_v1b a455932a resnet101_v1c 064858f2 resnet101_v1d 1b2b825f
resnet101_v1s bd93a83c resnet152_v1b a5a61ee1 resnet152_v1c 75babab6 resnet152_v1d cddbc86f
resnet152_v1s cf74621d"""


def test_the_sha1_of_every_published_name_is_found():
    words = PUBLISHED.split()
    assert len(words) == 2 * (6 + 14)
    for name, digits in zip(words[::2], words[1::2], strict=True):
        for suffix in ("params", "zip"):
            assert published_sha1(f"{name}-{digits}.{suffix}") == digits
        for other in (
            f"{name}.params",
            f"{name}-{digits}.pth",
            f"my_{name}-{digits}.params",
            f"{name}-0119.params",
        ):
            assert published_sha1(other) == ""


def imagenet_file(folder, depth, name="imagenet.params"):
    """Write a file in GluonCV's structural names of v1b, which are torchvision's apart from the norms'."""
    torch.manual_seed(depth)
    network = getattr(torchvision.models, f"resnet{depth}")(weights=None)
    for value in network.state_dict().values():
        if value.dim() == 1 and value.is_floating_point():
            value.uniform_(0.5, 1.5)
    weights = {key: value.numpy() for key, value in network.state_dict().items()}
    return network, write(folder, params_bytes(gluon_names(weights)), name)


@pytest.mark.parametrize("depth", [18, 50])
def test_an_imagenet_file_loads_as_a_backbone(tmp_path, depth):
    network, path = imagenet_file(tmp_path, depth)
    block, depths = ("basic", (2, 2, 2, 2)) if depth == 18 else ("bottleneck", (3, 4, 6, 3))
    backbone = ResNetBackbone(variant=ResNetVariant(block, depths), norm="BN").eval()
    report = load_checkpoint(backbone, path)
    assert report.complete
    assert report.source == "GluonCV ImageNet ResNet v1b"
    assert report.extras == ["fc.weight", "fc.bias"]
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    network.double().eval()
    with torch.no_grad():
        features = network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(image)))))
        features = network.layer4(network.layer3(network.layer2(features)))
        torch.testing.assert_close(backbone.double()(image)["res5"], features)


# The block names of a parameter (spelling 2, then exported), and its structural name: as GluonCV prints them.
BLOCKS = {
    "GluonCV FCN": [
        ("resnetv1s_conv1_weight", "arg:fcn3_resnetv1s_conv1_weight", "conv1.3.weight"),
        ("resnetv1s_batchnorm2_gamma", "arg:fcn0_resnetv1s_batchnorm2_gamma", "bn1.gamma"),
        (
            "resnetv1s_layers3_batchnorm16_running_var",
            "aux:fcn0_resnetv1s_layers3_batchnorm16_running_var",
            "layer3.5.bn2.running_var",
        ),
        (
            "resnetv1s_layers3_conv102_weight",
            "arg:fcn0_resnetv1s_layers3_conv102_weight",
            "layer3.34.conv1.weight",
        ),
        (
            "resnetv1s_down4_batchnorm0_beta",
            "arg:fcn0_resnetv1s_down4_batchnorm0_beta",
            "layer4.0.downsample.1.beta",
        ),
        (
            "_fcnhead0_hybridsequential0_conv1_bias",
            "arg:fcn0__fcnhead0_hybridsequential0_conv1_bias",
            "head.block.4.bias",
        ),
        (
            "_fcnhead1_hybridsequential0_batchnorm0_running_mean",
            "aux:fcn12__fcnhead1_hybridsequential0_batchnorm0_running_mean",
            "auxlayer.block.1.running_mean",
        ),
    ],
    "GluonCV PSPNet": [
        (
            "_pyramidpooling0_hybridsequential2_batchnorm0_gamma",
            "arg:pspnet0__pyramidpooling0_hybridsequential2_batchnorm0_gamma",
            "head.psp.conv3.1.gamma",
        ),
        ("_psphead0_batchnorm0_beta", "arg:pspnet0__psphead0_batchnorm0_beta", "head.block.1.beta"),
        (
            "_fcnhead0_hybridsequential0_conv0_weight",
            "arg:pspnet0__fcnhead0_hybridsequential0_conv0_weight",
            "auxlayer.block.0.weight",
        ),
    ],
    "GluonCV DeepLabV3": [
        (
            "_deeplabhead0_hybridsequential4_batchnorm0_gamma",
            "arg:deeplabv30__deeplabhead0_hybridsequential4_batchnorm0_gamma",
            "head.aspp.concurent.4.gap.2.gamma",
        ),
        (
            "_deeplabhead0_hybridsequential2_conv0_weight",
            "arg:deeplabv30__deeplabhead0_hybridsequential2_conv0_weight",
            "head.aspp.concurent.2.0.weight",
        ),
        (
            "_deeplabhead0_hybridsequential5_conv0_weight",
            "arg:deeplabv30__deeplabhead0_hybridsequential5_conv0_weight",
            "head.aspp.project.0.weight",
        ),
        ("_deeplabhead0_conv0_weight", "arg:deeplabv31__deeplabhead0_conv0_weight", "head.block.0.weight"),
    ],
    "GluonCV DANet": [
        ("pam_module0_gamma", "arg:danet0_pam_module0_gamma", "head.sa.gamma"),
        ("conv4_bias", "arg:danet0_conv4_bias", "head.sa.value_conv.bias"),
        ("conv6_weight", "arg:danet0_conv6_weight", "head.conv52.0.weight"),
        ("conv9_bias", "arg:danet0_conv9_bias", "head.conv8.0.bias"),
        ("batchnorm1_running_var", "aux:danet0_batchnorm1_running_var", "head.conv5c.1.running_var"),
        ("resnetv1s_conv2_weight", "arg:danet0_resnetv1s_conv2_weight", "conv1.6.weight"),
    ],
    "GluonCV DeepLabV3+ WideResNet38": [
        ("conv0_weight", "arg:deeplabwv3plus0_conv0_weight", "mod1.0.weight"),
        ("batchnorm3_beta", "arg:deeplabwv3plus0_batchnorm3_beta", "mod2.1.convs.1.0.beta"),
        ("conv10_weight", "arg:deeplabwv3plus0_conv10_weight", "mod3.0.proj_conv.weight"),
        ("batchnorm32_gamma", "arg:deeplabwv3plus0_batchnorm32_gamma", "mod6.0.convs.3.0.gamma"),
        ("conv41_weight", "arg:deeplabwv3plus0_conv41_weight", "mod7.0.convs.5.weight"),
        (
            "_deeplabhead0_conv2_weight",
            "arg:deeplabwv3plus0__deeplabhead0_conv2_weight",
            "head.c1_block.0.weight",
        ),
        (
            "_deeplabhead0_conv5_weight",
            "arg:deeplabwv3plus0__deeplabhead0_conv5_weight",
            "head.block.6.weight",
        ),
        (
            "_deeplabhead0_hybridsequential3_conv0_weight",
            "arg:deeplabwv3plus0__deeplabhead0_hybridsequential3_conv0_weight",
            "head.aspp.b3.0.weight",
        ),
    ],
    "GluonCV ImageNet ResNet v1c, v1d or v1s": [
        ("conv2_weight", "arg:resnetv1d_conv2_weight", "conv1.6.weight"),
        ("batchnorm2_gamma", "arg:resnetv1d_batchnorm2_gamma", "bn1.gamma"),
        ("down2_conv0_weight", "arg:resnetv1d_down2_conv0_weight", "layer2.0.downsample.1.weight"),
        ("down2_batchnorm0_gamma", "arg:resnetv1d_down2_batchnorm0_gamma", "layer2.0.downsample.2.gamma"),
        ("layers2_conv7_weight", "arg:resnetv1s_layers2_conv7_weight", "layer2.2.conv2.weight"),
    ],
    "GluonCV ImageNet ResNet v1b of basic blocks, block names": [
        ("conv0_weight", "arg:resnetv1b_conv0_weight", "conv1.weight"),
        ("batchnorm0_running_mean", "aux:resnetv1b_batchnorm0_running_mean", "bn1.running_mean"),
        ("layers3_batchnorm7_gamma", "arg:resnetv1b_layers3_batchnorm7_gamma", "layer3.3.bn2.gamma"),
    ],
}


@pytest.mark.parametrize("layout", BLOCKS)
def test_all_spellings_of_a_name_have_the_same_place(layout):
    key_map = next(key_map for key_map in key_maps() if key_map.name == layout)
    for block, exported, structural in BLOCKS[layout]:
        place = key_map.rename(structural)
        assert key_map.rename(block) == key_map.rename(exported) == place
        assert re.match(r"backbone\.|sem_seg_head\.|auxiliary_head\.|stem\.|res\d\.", place), place


def test_a_large_file_is_read_in_little_more_than_its_own_memory(tmp_path):
    content = params_bytes(
        {f"layer{index}.weight": np.ones((256, 256, 3, 3), np.float32) for index in range(4)}
    )
    path = write(tmp_path, content)
    tracemalloc.start()
    weights = read_checkpoint(path).weights
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(weights) == 4
    assert len(content) <= peak < 1.1 * len(content)
