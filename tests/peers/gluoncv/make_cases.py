"""Build networks of GluonCV with seeded weights, save them, and run them.

This script runs in an environment of its own (Python 3.11; MXNet needs an old NumPy):

    python3.11 -m venv gluoncv && gluoncv/bin/pip install mxnet==1.9.1 numpy==1.23.5 pandas==1.5.3 \
        'opencv-python-headless<4.9' autocfg portalocker yacs matplotlib tensorboardx tqdm requests scipy \
        pillow
    gluoncv/bin/pip install --no-deps gluoncv==0.10.5.post0
    export SEGZOO_GLUONCV_PYTHON=$PWD/gluoncv/bin/python    # the tests then run it

It writes two files for each network:

    NAME.zip    the weights, as GluonCV publishes them: one `.params` file, written by `save_parameters`
    NAME.npz    image: (3, H, W) uint8 RGB; out0, out1, ...: the network's outputs,
                (K, H, W)[:, ::step, ::step]; or the logits (K,) of a classifier; or the classes (D, 1),
                scores (D, 1), boxes (D, 4) and masks (D, m, m)[:, ::step, ::step] of a detector; structural,
                blocks, exported: the spellings of the names, as UTF-8 text of one name a line

and `losses.npz`: a loss of each kind on small logits, with its gradients.

    python -m tests.peers.gluoncv.make_cases FOLDER --toy      the cases in cases/: networks of few channels
    python -m tests.peers.gluoncv.make_cases FOLDER NAME ...   networks as published, of hundreds of megabytes

To add a network, add a line to TOYS or NETWORKS: a function that returns (network, image, outputs).
"""

import argparse
import os
import sys
import tempfile
import zipfile

os.environ.setdefault("MXNET_ENGINE_TYPE", "NaiveEngine")

import mxnet as mx
import numpy as np
from gluoncv.loss import MixSoftmaxCrossEntropyLoss, SegmentationMultiLosses
from gluoncv.model_zoo import danet, deeplabv3, deeplabv3b_plus, fcn, get_model, pspnet, segbase
from gluoncv.model_zoo.rcnn.faster_rcnn.faster_rcnn import FasterRCNN
from gluoncv.model_zoo.rcnn.mask_rcnn import predefined_models
from gluoncv.model_zoo.resnetv1b import BasicBlockV1b, BottleneckV1b, ResNetV1b
from mxnet import autograd

from tests.peers.gluoncv.inputs import make_image

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
TOY_SIZE, TOY_CLASSES, TOY_FACTOR = (40, 56), 5, 64
SIZE = (160, 160)
DETECTION_SIZE, TOY_DETECTION_SIZE = (224, 320), (128, 160)
# Number of proposals and of detections of a published detector, and of a toy.
PROPOSALS = {False: 100, True: 20}
TOY_DETECTORS = ("mask_rcnn_resnet18_v1b", "mask_rcnn_fpn_resnet18_v1b", "mask_rcnn_fpn_resnet50_v1b")


def normalized(image):
    scaled = (image.astype(np.float64) / 255 - MEAN[:, None, None]) / STD[:, None, None]
    return mx.nd.array(scaled[None].astype(np.float32))


# Parameters that a network makes by itself.
CONSTANTS = ("anchors", "means", "stds")
LEAVES = ("weight", "bias", "gamma", "beta", "running_mean", "running_var")


def fill(network, seed, levels=0):
    """Draw all weights; with `levels`, from that many values for each weight, so that files compress well."""
    random = np.random.RandomState(seed)
    for name, parameter in sorted(network._collect_params_with_prefix().items()):
        shape, last = parameter.shape, name.rsplit(".", 1)[-1]
        if last in CONSTANTS:
            continue
        leaf = next(leaf for leaf in LEAVES if last.endswith(leaf))  # conv0_weight in a symbol block
        if leaf == "weight":
            values = random.randn(*shape) * np.sqrt(2.0 / np.prod(shape[1:]))
        elif leaf in ("gamma", "running_var") and shape != (1,):
            values = random.uniform(0.5, 1.0, shape)
        elif leaf == "gamma":
            values = np.array([0.7])
        else:
            values = random.uniform(-0.3, 0.3, shape)
        if levels:
            unit = max(np.abs(values).max(), 1e-6) * 2 / levels
            unit = 2.0 ** np.floor(np.log2(unit))
            values = np.round(values / unit) * unit
            if leaf in ("gamma", "running_var"):
                values = np.maximum(values, unit)
        parameter.set_data(mx.nd.array(values.astype(np.float32)))


def pooled_by_level(
    self,
    F,  # noqa: N803
    features,
    rois,
    size,
    strides,
    roi_mode="align",
    canonical=224.0,
    samples=2,
    eps=1e-6,
):
    """Pool every RoI from its level of the pyramid, on a CPU.

    GluonCV's own function gives the RoIs of other levels the batch index -1, for which MXNet's RoIAlign
    leaves the result uninitialized on a CPU. Here every RoI is pooled from every level, and counts in one.
    """
    last = min(self._max_stage, 5)
    _, x1, y1, x2, y2 = F.split(rois, axis=-1, num_outputs=5)
    level = F.floor(4 + F.log2(F.sqrt((x2 - x1 + 1) * (y2 - y1 + 1)) / canonical + eps))
    level = F.reshape(F.clip(level, self._min_stage, last), (-1, 1, 1, 1))
    total = 0
    for index, stage in enumerate(range(self._min_stage, last + 1)):
        pooled = F.contrib.ROIAlign(features[index], rois, size, 1.0 / strides[index], sample_ratio=samples)
        total = total + F.broadcast_mul(pooled, level == stage)
    return total


FasterRCNN._pyramid_roi_feats = pooled_by_level


def run(network, image):
    outputs = network(normalized(image))
    return [output.asnumpy()[0] for output in (outputs if isinstance(outputs, (tuple, list)) else [outputs])]


# Networks as published.


def published(name, **options):
    if options:
        options["pretrained_base"] = False
    network = get_model(name, pretrained=False, **options)
    network.initialize()
    image = make_image(*SIZE)
    network(normalized(image))  # determines the shapes
    fill(network, seed=len(name))
    return network, image, run(network, image)


def detector(name, small=False):
    """Return a Mask R-CNN with fewer proposals than published."""
    network = get_model(name, pretrained=False, pretrained_base=False)
    network.rpn._test_post_nms = network._rpn_test_post_nms = network._rcnn_max_dets = PROPOSALS[small]
    return network, make_image(*(TOY_DETECTION_SIZE if small else DETECTION_SIZE))


def calibrate(network, image):
    """Scale layers of a detector by powers of 2, so that scores differ and boxes are moderate.

    With saturated scores the order of ties decides which proposals remain.
    """
    head = network.rpn.rpn_head if hasattr(network.rpn, "rpn_head") else network.rpn
    dense = [layer for layer in network.box_features or () if isinstance(layer, mx.gluon.nn.Dense)]
    inside = getattr(network.mask.deconv, "_children", None)
    masks = (
        [layer for layer in inside.values() if hasattr(layer, "weight")] if inside else [network.mask.deconv]
    )
    layers = [(head.conv1[0], 1), (head.score, 1.5), (head.loc, 0.1)]
    layers += [(layer, 1) for layer in dense]
    layers += [(network.class_predictor, 2), (network.box_predictor, 1)]
    layers += [(layer, 1) for layer in masks] + [(network.mask.mask, 2)]
    for layer, target in layers:
        found = []

        def observe(block, inputs, output, found=found):
            found.append(output.asnumpy().std())

        hook = layer.register_forward_hook(observe)
        network(normalized(image))
        hook.detach()
        factor = 2.0 ** np.round(np.log2(target / np.mean(found)))
        for parameter in (layer.weight, layer.bias):
            parameter.set_data(parameter.data() * factor)


def published_detector(name):
    network, image = detector(name)
    network.initialize()
    network(normalized(image))
    fill(network, seed=len(name))
    calibrate(network, image)
    return network, image, run(network, image)


# Networks with a 64th of the channels, on a ResNet of six blocks. They are GluonCV's own classes, whose
# layers are made with fewer channels.


# Of the RPN's outputs, 15 or 3 boxes a position, and of the masks.
DETECTION_CHANNELS = (15, 3, 60, 12, 80)


class ToyChannels:
    """While it is entered, convolutions have fewer channels, and all layers infer those of their input."""

    def __enter__(self):
        nn = mx.gluon.nn
        self.before = [
            (place, name, getattr(place, name))
            for place, name in (
                *(
                    (getattr(nn, layer), "__init__")
                    for layer in ("Conv2D", "Conv2DTranspose", "BatchNorm", "Dense")
                ),
                (segbase, "get_backbone"),
                (predefined_models, "FPNFeatureExpander"),
            )
        ]
        convolution, transposed, norm, dense, _, fpn = (function for _, _, function in self.before)

        def fewer(self, channels, *args, in_channels=0, **kwargs):
            kept = channels in (TOY_CLASSES, *DETECTION_CHANNELS)
            convolution(self, channels if kept else max(channels // TOY_FACTOR, 1), *args, **kwargs)

        def fewer_transposed(self, channels, *args, in_channels=0, **kwargs):
            transposed(self, channels // TOY_FACTOR, *args, **kwargs)

        def narrow_fpn(*args, num_filters, **kwargs):
            return fpn(*args, num_filters=[filters // TOY_FACTOR for filters in num_filters], **kwargs)

        def of_input(self, *args, in_channels=0, **kwargs):
            norm(self, *args, **kwargs)

        def classifier(self, units, *args, in_units=0, **kwargs):
            dense(self, units // TOY_FACTOR if units == 1024 else units, *args, **kwargs)

        def backbone(name, pretrained=False, **kwargs):
            blocks = [2, 1, 2, 1]
            return ResNetV1b(
                BottleneckV1b, blocks, deep_stem=True, stem_width=64, name_prefix="resnetv1s_", **kwargs
            )

        for (place, name, _), function in zip(
            self.before, (fewer, fewer_transposed, of_input, classifier, backbone, narrow_fpn), strict=True
        ):
            setattr(place, name, function)

    def __exit__(self, *error):
        for place, name, function in self.before:
            setattr(place, name, function)


def segmentation(make):
    height, width = TOY_SIZE
    return make(TOY_CLASSES, height=height, width=width, pretrained_base=False), make_image(height, width)


def imagenet(block, letter, **options):
    network = ResNetV1b(block, [2, 1, 2, 1], TOY_CLASSES, name_prefix=f"resnetv1{letter}_", **options)
    return network, make_image(45, 59)


def toy(make, *arguments, **options):
    with ToyChannels():
        network, image = make(*arguments, **options)
    network.initialize()
    network(normalized(image))
    fill(network, seed=3, levels=6)
    if make is detector:
        calibrate(network, image)
    return network, image, run(network, image)


TOYS = {
    "fcn": lambda: toy(segmentation, fcn.FCN),
    "psp": lambda: toy(segmentation, pspnet.PSPNet),
    "deeplab": lambda: toy(segmentation, deeplabv3.DeepLabV3),
    "danet": lambda: toy(segmentation, danet.DANet),
    "deeplab_v3b_plus": lambda: toy(segmentation, deeplabv3b_plus.DeepLabWV3Plus),
    "basic_v1b": lambda: toy(imagenet, BasicBlockV1b, "b"),
    "bottleneck_v1b": lambda: toy(imagenet, BottleneckV1b, "b"),
    "bottleneck_v1c": lambda: toy(imagenet, BottleneckV1b, "c", deep_stem=True, stem_width=32),
    "bottleneck_v1d": lambda: toy(imagenet, BottleneckV1b, "d", deep_stem=True, avg_down=True, stem_width=32),
    "bottleneck_v1s": lambda: toy(imagenet, BottleneckV1b, "s", deep_stem=True, stem_width=64),
    **{name: lambda name=name: toy(detector, f"{name}_coco", True) for name in TOY_DETECTORS},
}
SEGMENTATION = (
    "fcn_resnet50_ade",
    "psp_resnet50_ade",
    "deeplab_resnet50_ade",
    "danet_resnet50_citys",
    "deeplab_v3b_plus_wideresnet_citys",
)
IMAGENET = ("resnet18_v1b", "resnet50_v1b", "resnet50_v1c", "resnet50_v1d", "resnet50_v1s", "resnet101_v1d")
NETWORKS = {name: lambda name=name: published(name, crop_size=SIZE[0]) for name in SEGMENTATION}
NETWORKS |= {name: lambda name=name: published(name) for name in IMAGENET}
DETECTORS = tuple(
    f"mask_rcnn_{kind}{backbone}_coco"
    for kind in ("", "fpn_")
    for backbone in ("resnet18_v1b", "resnet50_v1b", "resnet101_v1d")
)
NETWORKS |= {name: lambda name=name: published_detector(name) for name in DETECTORS}


def one_text(lines):
    """Return lines as bytes, which NumPy compresses far better than strings."""
    return np.frombuffer("\n".join(lines).encode(), np.uint8)


def save(folder, name, network, image, outputs, step):
    path = os.path.join(folder, f"{name}.params")
    network.save_parameters(path)
    if step > 1:  # one anchor of the 16384 that a file of a detector holds
        arrays = mx.nd.load(path)
        cut = {
            key: array[:, :, :1, :1] if key.endswith("anchors") else array for key, array in arrays.items()
        }
        mx.nd.save(path, cut)
    with zipfile.ZipFile(os.path.join(folder, f"{name}.zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, f"{name}.params")
    os.remove(path)
    parts = [output[:, ::step, ::step] if output.ndim == 3 else output for output in outputs]
    names = list(network._collect_params_with_prefix().items())
    exported = [("aux:" if "running" in block.name else "arg:") + block.name for _, block in names]
    np.savez_compressed(
        os.path.join(folder, f"{name}.npz"),
        image=image,
        step=step,
        structural=one_text(structural for structural, _ in names),
        blocks=one_text(block_names(network)[0]),
        exported=one_text(exported),
        **{f"out{index}": part for index, part in enumerate(parts)},
    )


def block_names(network):
    """Return the names that `collect_params().save` writes, without the network's prefix if all have it.

    Those of detectors do not: MXNet refuses to remove it.
    """
    names = [block.name for block in network._collect_params_with_prefix().values()]
    prefix = network.prefix if all(name.startswith(network.prefix) for name in names) else ""
    return [name[len(prefix) :] for name in names], prefix


def write_spellings(folder, name, network, image):
    """Write the other spellings of a network's weights, and return the paths."""
    blocks = os.path.join(folder, f"{name}-blocks.params")
    network.collect_params().save(blocks, strip_prefix=block_names(network)[1])
    network.hybridize()
    network(normalized(image))
    network.export(os.path.join(folder, name))
    exported = os.path.join(folder, f"{name}-exported.params")
    network.hybridize(False)
    os.rename(os.path.join(folder, f"{name}-0000.params"), exported)
    return blocks, exported


def check_spellings(network, image, outputs):
    """Check that MXNet itself reads and writes the spellings that the case lists."""
    with tempfile.TemporaryDirectory() as folder:
        blocks, exported = write_spellings(folder, "network", network, image)
        names, prefix = block_names(network)
        assert set(mx.nd.load(blocks)) == set(names)
        network.collect_params().load(blocks, restore_prefix=prefix)
        if prefix:
            network.load_parameters(blocks)
        for before, after in zip(outputs, run(network, image), strict=True):
            assert np.array_equal(before, after)
        found = set(mx.nd.load(exported))
        expected = {("aux:" if "running" in name else "arg:") + name for name in network.collect_params()}
        assert found == expected, (sorted(found - expected)[:4], sorted(expected - found)[:4])


def losses():
    """Return logits, labels, values and gradients of GluonCV's two segmentation losses."""
    random = np.random.RandomState(7)
    labels = np.array([[[0, 2, -1], [1, 1, -1]], [[-1, -1, -1], [0, 2, 2]]])
    logits = random.uniform(-2, 2, (3, 2, 3, 2, 3)).astype(np.float32)
    found = {"labels": labels, "logits": logits}
    criteria = {
        f"mix_{weight}": (MixSoftmaxCrossEntropyLoss(True, aux_weight=weight), 2) for weight in (0.5, 0.2)
    }
    criteria["multi"] = (SegmentationMultiLosses(), 3)
    for name, (criterion, count) in criteria.items():
        inputs = [mx.nd.array(logits[index]) for index in range(count)]
        for one in inputs:
            one.attach_grad()
        with autograd.record():
            target = mx.nd.array(labels)
            value = criterion(*inputs, target)
        value.backward()
        found[f"{name}_value"] = value.asnumpy()
        found[f"{name}_gradients"] = np.stack([one.grad.asnumpy() for one in inputs])
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NETWORKS))
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--spellings", action="store_true", help="files of toy detectors by all writers")
    arguments = parser.parse_args()
    os.makedirs(arguments.folder, exist_ok=True)
    if arguments.toy:
        for name, make in TOYS.items():
            network, image, outputs = make()
            save(arguments.folder, name, network, image, outputs, step=8)
            check_spellings(network, image, outputs)
            print(name, [output.std() for output in outputs])
        np.savez_compressed(os.path.join(arguments.folder, "losses.npz"), **losses())
    if arguments.spellings:
        for name in (*TOY_DETECTORS, "mask_rcnn_resnet101_v1d", "mask_rcnn_fpn_resnet101_v1d"):
            network, image, _ = toy(detector, f"{name}_coco", True)
            network.save_parameters(os.path.join(arguments.folder, f"{name}-structural.params"))
            write_spellings(arguments.folder, name, network, image)
    for name in arguments.names:
        network, image, outputs = NETWORKS[name]()
        save(arguments.folder, name, network, image, outputs, step=1)
        print(name, [output.std() for output in outputs])
    return 0


if __name__ == "__main__":
    sys.exit(main())
