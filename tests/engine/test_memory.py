"""Predicted peak memory, beside what PyTorch's allocator and the operating system report for real runs."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from segzoo.cli.analyze import main
from segzoo.cli.memory import as_table
from segzoo.engine.memory import Job, Measured, measure, measurement, on_cpu, predict
from segzoo.engine.memory.heap import Heap
from segzoo.engine.memory.measurement import growth_of_process, in_new_process, peak_of_tensors
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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process its peak")
def test_prediction_of_a_small_model_and_small_images_is_within_10_mib():
    work = job(CONVOLUTIONAL, (64, 64))
    assert predict("inference", work).process == pytest.approx(
        measure("inference", work).process, abs=10 << 20
    )


def _resident_peak():
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmHWM", "VmRSS"))}
    return int(values["VmHWM"]) << 10, int(values["VmRSS"]) << 10


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process its peak")
def test_without_permission_to_reset_the_peak_it_is_known_only_if_exceeded(monkeypatch, tmp_path):
    obstacle = tmp_path / "missing" / "clear_refs"
    monkeypatch.setattr(measurement, "_RESET", obstacle)
    growth_of_process(torch.ones, 1)  # it returns free memory first, which then counts for less
    peak, resident = _resident_peak()
    size = peak - resident + (256 << 20)
    assert growth_of_process(torch.ones, size // 4)[0] == pytest.approx(size, rel=0.2)
    process, reason = growth_of_process(torch.ones, 1)
    assert process is None
    assert f"{obstacle} is not writable (No such file or directory)" in reason
    assert "--size" in reason


def test_other_systems_measure_tensors_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    process, reason = growth_of_process(torch.ones, 1)
    assert process is None
    assert "Linux" in reason


def test_a_peak_that_was_not_measured_is_a_dash_with_the_reason(monkeypatch, capsys):
    unknown = Measured(3 << 20, None, "no permission")
    monkeypatch.setattr("segzoo.engine.memory.measure", lambda kind, work: unknown)
    arguments = [CONVOLUTIONAL, "--memory", "--measure", "--size", "64", "64"]
    assert main([*arguments, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results[0]["training"]["measured"] == {"tensors": 3.0, "process": None, "reason": "no permission"}
    table = as_table(results)
    assert table.count("no permission") == 1
    assert "| - " in table


def test_measurement_prints_nothing(capfd):
    peak_of_tensors("inference", job(CONVOLUTIONAL, (64, 64)))
    sys.stderr.write("later output is kept")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "later output is kept")


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


def test_product_of_a_batch_is_counted_once_though_pytorch_reshapes_it():
    with UntouchedMemory() as memory:
        left, right = torch.zeros(8, 512, 512), torch.zeros(512, 512)
        product = left @ right
        assert product.shape == (8, 512, 512)
    assert memory.peak == 4 * (8 + 1 + 8) * 512**2


@pytest.mark.parametrize("channels_last", ["image", "weight", None])
def test_memory_format_of_a_convolution_is_that_of_a_cpu(channels_last):
    def result():
        tensors = {"image": torch.zeros(2, 3, 128, 128), "weight": torch.zeros(64, 3, 7, 7)}
        if channels_last:
            tensors[channels_last] = tensors[channels_last].contiguous(memory_format=torch.channels_last)
        return torch.nn.functional.conv2d(*tensors.values(), stride=2)

    computed = result()
    with UntouchedMemory():
        predicted = result()
    assert predicted.stride() == computed.stride()


def test_kernels_are_compiled_once_for_a_shape():
    with UntouchedMemory() as memory:
        weight = torch.zeros(64, 64, 3, 3)
        kernels = []
        for size in (64, 64, 128):
            torch.nn.functional.conv2d(torch.zeros(1, 64, size, size), weight)
            kernels.append(memory.kernels)
    assert 0 < kernels[0] == kernels[1]
    assert kernels[2] == 2 * kernels[0]


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
        *(
            (
                [CONVOLUTIONAL, *options, "MODEL.META_ARCHITECTURE", "PerPixelSegmento"],
                "MODEL.META_ARCHITECTURE 'PerPixelSegmento' is unknown; did you mean PerPixelSegmentor?; ",
            )
            for options in ([], ["--memory"])
        ),
        *(
            ([CONVOLUTIONAL, *options, f"MODEL.{part}.NAME", "Foo"], f"MODEL.{part}.NAME 'Foo' is unknown")
            for options in ([], ["--memory"])
            for part in ("BACKBONE", "SEM_SEG_HEAD")
        ),
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
