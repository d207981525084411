"""Predicted peak memory, beside what PyTorch's allocator and the operating system report for real runs."""

import os
import sys

import pytest
import torch

from segzoo.cli.analyze import main
from segzoo.engine.memory import Job, measure, on_cpu, predict
from segzoo.engine.memory.heap import Heap
from segzoo.engine.memory.measurement import in_new_process, peak_of_tensors
from segzoo.engine.memory.untouched import UntouchedMemory
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError

CONVOLUTIONAL = "semantic/shapes/pspnet_r18_quarter"
MODELS = (
    CONVOLUTIONAL,
    "panoptic/shapes/mask2former_r18_quarter",
    "semantic/ade20k/segformer_mit_b0",
    "semantic/ade20k/upernet_swin_tiny",
)
# A single value for BatchNorm.
TOO_SMALL = ("--size", "1", "1", "--batch", "1")


def job(name, size=(96, 128), batch=2):
    return Job(on_cpu(load_config(name)), size, batch)


@pytest.mark.parametrize("kind", ["training", "inference"])
@pytest.mark.parametrize("name", MODELS)
def test_prediction_is_within_15_percent_of_what_pytorch_allocates(name, kind):
    predicted = predict(kind, job(name)).tensors
    assert predicted == pytest.approx(peak_of_tensors(kind, job(name)), rel=0.15)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process its peak")
def test_prediction_is_within_15_percent_of_the_growth_of_a_process():
    # A training: of the small peak of a prediction, what differs between runs is a larger part.
    work = job("semantic/ade20k/segformer_mit_b0", (384, 384))
    assert predict("training", work).process == pytest.approx(measure("training", work).process, rel=0.15)


def test_a_killed_measurement_is_an_error_and_not_a_wait():
    with pytest.raises(InputError, match="was killed, perhaps because memory was short"):
        in_new_process(os.abort)


def test_freed_blocks_of_the_heap_are_reused_if_they_fit():
    heap, size = Heap(), 1 << 20
    for name in "abcd":
        heap.allocate(name, size)
    assert heap.peak == pytest.approx(4 * size, rel=1e-3)
    heap.free("a")
    heap.free("c")
    heap.allocate("e", 2 * size)  # no gap is large enough
    assert heap.peak == pytest.approx(6 * size, rel=1e-3)
    heap.allocate("f", size)
    heap.allocate("g", size // 2)
    heap.allocate("h", size // 4)
    assert heap.peak == pytest.approx(6 * size, rel=1e-3)
    for name in "fbg":  # neighbors
        heap.free(name)
    heap.allocate("i", 2 * size)
    assert heap.peak == pytest.approx(6 * size, rel=1e-3)


def test_large_blocks_and_a_long_free_end_of_the_heap_are_returned():
    heap, size = Heap(), 20 << 20
    for number in range(5):
        heap.allocate(number, size)
    for number in range(1, 5):
        heap.free(number)
    heap.allocate("mapped", 3 * size)
    heap.free("mapped")
    heap.allocate("mapped", 3 * size)
    # Neither the freed end of the heap nor the first mapping is held any more.
    assert heap.peak == pytest.approx(5 * size, rel=1e-3)


def test_a_large_product_takes_no_memory_and_is_counted_until_it_is_released():
    with UntouchedMemory() as memory:
        # 10 GiB each.
        left = torch.zeros(51200, 51200)
        product = left @ left
        assert product.shape == (51200, 51200)
        assert memory.live == 2 * 4 * 51200**2
        del left
        assert memory.live == 4 * 51200**2
        product.relu_()
        assert float(product[5, 5]) == 0
    assert memory.peak == 2 * 4 * 51200**2


def test_small_tensors_are_computed_and_random_numbers_are_not_used_up():
    with UntouchedMemory():
        assert (torch.arange(4) * 2).tolist() == [0, 2, 4, 6]
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    predict("inference", job(CONVOLUTIONAL))
    assert torch.equal(torch.rand(2), expected)


def test_gradients_and_state_of_the_optimizer_are_counted():
    work = job(CONVOLUTIONAL)
    training, inference = predict("training", work).tensors, predict("inference", work).tensors
    larger = predict("training", work._replace(batch=4)).tensors
    assert inference < training < larger < 2 * training


def test_command_prints_each_kind_of_work_and_who_measures_a_gpu(capsys):
    assert main([CONVOLUTIONAL, "--memory", "--size", "64", "96", "--batch", "3"]) == 0
    output = capsys.readouterr().out
    assert "batch 3 of 64 x 96" in output
    assert "training" in output
    assert "inference" in output
    assert "tools/gpu_check.py" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["semantic/ade20k/segformer_mit_b9", "--memory"], "segformer_mit_b9"),
        ([CONVOLUTIONAL, "--memory", "--size", "512x512"], "--size"),
        ([CONVOLUTIONAL, "--memory", "--size", "0", "64"], "expected at least 1"),
        (
            ["semantic/ade20k/segformer_mit_b0", "--memory", *TOO_SMALL],
            "training does not run on 1 images of 1 x 1",
        ),
        (["instance/coco/mask_rcnn_fpn_r50", "--memory"], "MaskRCNN cannot be predicted"),
        ([CONVOLUTIONAL, "--batch", "2"], "--batch and --measure are options of --memory"),
    ],
)
def test_wrong_input_is_one_line(arguments, message, capsys):
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
