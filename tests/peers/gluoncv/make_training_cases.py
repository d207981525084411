"""Train networks of GluonCV for a few iterations, as its scripts do, and record losses and steps.

    python -m tests.peers.gluoncv.make_training_cases FOLDER

The environment is that of `make_cases.py`, and the initial weights are those of its toy networks. The files
in cases_training/ hold results only:

    NAME.npz        of a network: losses, by iteration; trained, the names of the P parameters that the
                    optimizer changes; rates (P, 2), their learning rate and weight decay; gradients (P, 2) of
                    the first iteration and changes (P, 2) after the last, each as norm and product with the
                    absolute initial values; of a segmentation network also dropouts, the probabilities, and
                    means (S, 2), the changes of running means; of a detector the order in which its second
                    stage draws
    sampling.npz    the samples of the second stage of detectors
    schedule.npz    factors of the learning rate

Of GluonCV's CPU code, two things are replaced: see `pooled_by_level`, and `stable_argsort`.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import mxnet as mx
import numpy as np
from gluoncv.loss import MixSoftmaxCrossEntropyLoss, SegmentationMultiLosses
from gluoncv.model_zoo.rcnn.faster_rcnn.rcnn_target import RCNNTargetGenerator, RCNNTargetSampler
from gluoncv.model_zoo.rcnn.mask_rcnn.data_parallel import ForwardBackwardTask
from gluoncv.model_zoo.rcnn.rpn.rpn_target import RPNTargetGenerator
from gluoncv.utils import LRScheduler
from mxnet import autograd, gluon

from tests.peers.gluoncv.inputs import labeled_images, objects_of
from tests.peers.gluoncv.make_cases import (
    TOY_CLASSES,
    TOY_DETECTION_SIZE,
    TOY_DETECTORS,
    TOY_SIZE,
    TOYS,
    normalized,
)
from tests.peers.gluoncv.training import OBJECTS, PROPOSALS, SAMPLES, SAMPLING, SCHEDULE, SEGMENTATION
from tests.peers.seeded import gradient_summary, pack_text, random_state, seeded_image


def stable_argsort(values, axis=-1, is_ascend=True, **options):
    """Sort so that equal values keep their order, as MXNet does on a GPU but not on a CPU."""
    found = values.asnumpy()
    order = np.argsort(found if is_ascend else -found, axis=axis, kind="stable")
    return mx.nd.array(order.astype(np.float32))


mx.nd.argsort = stable_argsort

LR, WEIGHT_DECAY = 0.01, 1e-4
SGD = {"learning_rate": LR, "wd": WEIGHT_DECAY, "momentum": 0.9}


def recorded(network, parameters, iterate: Callable[[int], list[float]], iterations: int) -> dict:
    """Call `iterate` and return what a case of a network holds.

    Args:
        network: the network.
        parameters: those that the optimizer has, by block name.
        iterate: runs an iteration, given its number, and returns its losses.
        iterations: their number.
    """
    names = {parameter.name: name for name, parameter in network._collect_params_with_prefix().items()}
    trained = {names[name]: one for name, one in sorted(parameters.items()) if one.grad_req != "null"}
    before = {name: one.data().asnumpy() for name, one in trained.items()}
    losses, gradients = [], []
    for iteration in range(iterations):
        losses.append(iterate(iteration))
        if not gradients:
            gradients = [
                gradient_summary(before[name], one.grad().asnumpy()) for name, one in trained.items()
            ]
    return {
        "losses": np.array(losses, np.float32),
        "trained": pack_text("\n".join(trained)),
        "rates": np.array([(one.lr_mult, one.wd_mult) for one in trained.values()]) * (LR, WEIGHT_DECAY),
        "gradients": np.array(gradients, np.float32),
        "changes": np.array(changes_of(network, before), np.float32),
    }


def changes_of(network, before: dict) -> list[tuple[float, float]]:
    """Return the summaries of the changes of parameters from their values before, by name."""
    now = network._collect_params_with_prefix()
    return [
        gradient_summary(value, now[name].data().asnumpy().astype(np.float64) - value)
        for name, value in before.items()
    ]


def segmentation_case(name: str, batch: int, seed: int, iterations: int) -> dict:
    """Train a segmentation network with the settings of scripts/segmentation/train.py on one device."""
    network, *_ = TOYS[name]()
    dropouts = []

    def without_noise(block):
        if isinstance(block, gluon.nn.Dropout):
            dropouts.append(block._rate)
            block._rate = 0

    network.apply(without_noise)
    images, labels = labeled_images(batch, seed, *TOY_SIZE, TOY_CLASSES)
    data = mx.nd.concat(*[normalized(image) for image in images], dim=0)
    target = mx.nd.array(labels)
    several = len(network(data)) > 1
    mix = MixSoftmaxCrossEntropyLoss(several, aux_weight=0.5)
    criterion = SegmentationMultiLosses() if name == "danet" else mix
    parameters = network.collect_params()
    trainer = gluon.Trainer(parameters, "sgd", SGD)

    def iterate(iteration: int) -> list[float]:
        with autograd.record(True):
            losses = criterion(*network(data), target)
            autograd.backward(losses)
        trainer.step(batch)
        return [float(losses.asnumpy().sum())]

    means = {
        name: one.data().asnumpy()
        for name, one in sorted(network._collect_params_with_prefix().items())
        if name.endswith("running_mean")
    }
    found = recorded(network, parameters, iterate, iterations)
    return {
        **found,
        "dropouts": np.array(dropouts),
        "means": np.array(changes_of(network, means), np.float32),
    }


def detector_case(name: str) -> dict:
    """Train a detector with the settings of scripts/instance/mask_rcnn/train_mask_rcnn.py on one device."""
    network, *_ = TOYS[name]()
    network.rpn._train_post_nms = network.sampler._num_proposal = PROPOSALS
    network._num_sample = network.sampler._num_sample = SAMPLES
    network.sampler._max_pos = SAMPLES // 4
    network._target_generator = lambda: RCNNTargetGenerator(network.num_class, SAMPLES // 4, 1)
    height, width = TOY_DETECTION_SIZE
    data = normalized(seeded_image(1, height, width))
    objects = objects_of(1, height, width, OBJECTS)
    boxes = mx.nd.array(objects.boxes)
    features = network.features(data)
    generators = network.rpn.anchor_generator
    if not isinstance(features, (list, tuple)):
        generators, features = [generators], [features]
    anchors = [generator(one).reshape((-1, 4)) for generator, one in zip(generators, features, strict=True)]
    anchors = mx.nd.concat(*anchors, dim=0)
    # All anchors are samples.
    targets = RPNTargetGenerator(num_sample=2 * len(anchors))(boxes, anchors, width, height)
    labels = np.concatenate([objects.boxes, objects.classes[:, None]], 1)
    batch = [data, mx.nd.array(labels[None]), mx.nd.array(objects.masks[None])]
    batch += [mx.nd.array(one)[None] for one in targets]

    network.collect_params().setattr("grad_req", "null")
    network.collect_train_params().setattr("grad_req", "write")
    for parameter in network.collect_params(".*bias").values():
        parameter.wd_mult = 0.0
    parameters = network.collect_train_params()
    trainer = gluon.Trainer(parameters, "sgd", SGD)
    entropy, huber = gluon.loss.SigmoidBinaryCrossEntropyLoss, gluon.loss.HuberLoss
    criteria = (entropy(), huber(rho=1 / 9), gluon.loss.SoftmaxCrossEntropyLoss(), huber(rho=1.0), entropy())
    task = ForwardBackwardTask(network, trainer, *criteria, False)
    draws = Draws(0, PROPOSALS + len(OBJECTS))

    def iterate(iteration: int) -> list[float]:
        with draws:
            losses = task.forward_backward(batch)[:5]
        trainer.step(1)
        return [float(one.asnumpy().sum()) for one in losses]

    return {**recorded(network, parameters, iterate, 1), "order": draws.order}


class Draws:
    """While it is entered, the random numbers of the second stage are those of a permutation, `order`."""

    def __init__(self, seed: int, count: int):
        self.values = random_state(seed, "draws").permutation(count) / count
        self.order = np.argsort(self.values).astype(np.uint8)

    def __enter__(self):
        self.before = mx.nd.random.uniform
        mx.nd.random.uniform = lambda low, high, shape: mx.nd.array(np.resize(self.values, shape))

    def __exit__(self, *error):
        mx.nd.random.uniform = self.before


def sampling_case() -> dict:
    """Return the samples of each of SAMPLING: boxes, classes, and which have boxes to learn."""
    found = {}
    for name, (regions, true, count) in SAMPLING.items():
        regions, true = np.array(regions, np.float32), np.array(true, np.float32)
        sampler = RCNNTargetSampler(1, len(regions), count, 0.5, 0.25, len(true))
        classes = mx.nd.arange(len(true))[None, :, None]
        scores = mx.nd.ones((1, len(regions), 1)) * 0.5
        draws = Draws(len(regions), len(regions) + len(true))
        with draws:
            boxes, samples, matches = sampler(mx.nd.array(regions[None]), scores, mx.nd.array(true[None]))
        generator = RCNNTargetGenerator(80, sampler._max_pos, 1)
        generator.initialize()
        labels, _, weights, chosen = generator(boxes, samples, matches, classes, mx.nd.array(true[None]))
        used = samples.asnumpy()[0] != 0
        learned = weights.asnumpy()[0].any((1, 2))
        found[f"{name}_order"] = draws.order
        found[f"{name}_boxes"] = boxes.asnumpy()[0][used]
        found[f"{name}_classes"] = labels.asnumpy()[0][used]
        found[f"{name}_learned"] = boxes.asnumpy()[0][chosen.asnumpy()[0].astype(int)[learned]]
    return found


def schedule_case() -> dict:
    """Return the learning rate at SCHEDULE's iterations."""
    last, iterations = SCHEDULE
    schedule = LRScheduler("poly", base_lr=1.0, nepochs=1, iters_per_epoch=last, power=0.9)
    return {"factors": np.array([schedule(iteration) for iteration in iterations])}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(exist_ok=True)
    cases = {name: lambda n=name: segmentation_case(n, *SEGMENTATION[n]) for name in SEGMENTATION}
    cases |= {name: lambda n=name: detector_case(n) for name in TOY_DETECTORS}
    for name, make in {**cases, "sampling": sampling_case, "schedule": schedule_case}.items():
        path = folder / f"{name}.npz"
        np.savez_compressed(path, **make())
        print(f"{path.name}: {path.stat().st_size} bytes", flush=True)


if __name__ == "__main__":
    main()
