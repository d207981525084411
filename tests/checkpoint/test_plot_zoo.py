"""tools/plot_zoo.py, and the measurements of tools/benchmark.py throughput that it draws."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from segzoo.model_zoo.plot import Cost, picture
from segzoo.model_zoo.plot.points import Point, pareto_front
from segzoo.model_zoo.registry import known_models

TOOLS = Path(__file__).resolve().parents[2] / "tools"
NAME = "semantic/camvid/segformer_mit_b0"


@pytest.fixture(scope="module")
def plot() -> ModuleType:
    return load(TOOLS / "plot_zoo.py")


@pytest.fixture(scope="module")
def throughput() -> ModuleType:
    return load(TOOLS / "benchmark_cases" / "throughput.py")


def load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{file.stem}_under_test", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def point(name: str, x: float, y: float) -> Point:
    return Point(name, "method", "R50", x, y, False)


@pytest.mark.parametrize(("cheaper_is_less", "names"), [(True, "abd"), (False, "fed")])
def test_front_has_what_no_other_beats_in_cost_and_metric(cheaper_is_less, names):
    # By hand. Less x is better: a, then b and d are each better at a higher cost; c costs more for less,
    # e and f more than d. More x is better: f is the fastest, e slower and better, d slower and better again.
    values = {"a": (1, 10), "b": (2, 20), "c": (3, 19), "d": (4, 30), "e": (5, 29), "f": (6, 1), "g": (2, 15)}
    points = [point(name, *place) for name, place in values.items()]
    assert "".join(item.name for item in pareto_front(points, cheaper_is_less)) == names


def test_plot_of_recorded_gflops_shows_every_model(plot, tmp_path, capsys, monkeypatch):
    drawn = []
    draw = picture.draw
    monkeypatch.setattr(
        picture, "draw", lambda points, *others: drawn.extend(points) or draw(points, *others)
    )
    output = tmp_path / "new" / "zoo.png"
    assert plot.main(["--dataset", "coco", "--metric", "PQ", "--output", str(output)]) == 0
    rows = {name for name, info in known_models().items() if info.value("PQ") and info.dataset == "coco"}
    assert {item.name for item in drawn} == rows
    info = known_models()["panoptic/coco/maskformer_r50"]
    (r50,) = (item for item in drawn if item.name == info.name)
    assert (r50.x, r50.y, r50.family) == (info.reproduced.gflops, 46.5, "R")
    assert f"{len(rows)} panoptic models" in capsys.readouterr().out
    with Image.open(output) as image:
        assert image.size == (1080, 720)
        assert len(image.convert("RGB").getcolors(1 << 20)) > 20


def test_labels_neither_overlap_nor_leave_the_frame():
    points = [point(str(index), 10 + index % 7, 40 + index % 5) for index in range(35)]
    figure = picture.draw(points, Cost("gflops", "gflops", "GFLOPs", "GFLOPs", {}), "mIoU", "title")
    (axes,) = figure.axes
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert len(boxes) > 10
    frame = axes.get_window_extent(renderer)
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:index])
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "ade20"], "--dataset ade20 is unknown; did you mean ade20k?"),
        (
            ["--dataset", "ade20k", "--metric", "mIoUs"],
            "--metric mIoUs: no model of ade20k has it; published: ",
        ),
        (["--dataset", "coco", "--metric", "PQ", "--methods", "Maskformer"], "did you mean MaskFormer?"),
        (["--dataset", "ade20k", "--x", "throughput"], "--x throughput and --measurements FILE go together"),
        (
            ["--dataset", "ade20k", "--output", "a.pdf"],
            "--output a.pdf: expected a name ending in .html",
        ),
    ],
)
def test_wrong_flags_are_one_line_and_status_2(plot, tmp_path, capsys, arguments, message):
    # In a flag's own case it is given once.
    output = [] if "--output" in arguments else ["--output", str(tmp_path / "a.png")]
    assert plot.main([*output, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def measurement(name: str, **changes: object) -> dict:
    record = {"name": name, "images_per_second": 10.0, "size": [512, 512], "batch": 1, "precision": "fp32"}
    record |= {"kind": "cpu", "device": "CPU", "threads": 4, "torch": "2.13", "segzoo": "0", "date": "2026"}
    return record | changes


def write(file: Path, *records: dict) -> Path:
    file.write_text(json.dumps({"measurements": records}))
    return file


def test_measured_throughput_is_drawn_with_its_conditions(plot, tmp_path, monkeypatch, capsys):
    first, second = "semantic/ade20k/maskformer_r50", "semantic/ade20k/mask2former_r50"
    file = write(tmp_path / "a.json", measurement(first), measurement(second, images_per_second=5.0))
    labels = []
    axes = picture._axes
    monkeypatch.setattr(
        picture, "_axes", lambda ax, *others: axes(ax, *others) or labels.append(ax.get_xlabel())
    )
    arguments = ["--dataset", "ade20k", "--x", "throughput", "--output", str(tmp_path / "a.png")]
    assert plot.main([*arguments, "--measurements", str(file)]) == 0
    assert labels == ["images/s, CPU, 4 threads, batch 1, fp32, torch 2.13"]
    assert "2 semantic models" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "GPU"}, "measured with device CPU and GPU"),
        ({"precision": "bf16"}, "measured with precision bf16 and fp32"),
        ({"batch": 8}, "measured with batch 1 and 8"),
        ({"threads": 1}, "measured with threads 1 and 4"),
        ({"name": "semantic/ade20k/maskformer_r50", "size": [640, 640]}, "was measured more than once"),
    ],
)
def test_measurements_that_cannot_be_compared_are_refused(plot, tmp_path, capsys, changes, message):
    one = write(tmp_path / "a.json", measurement("semantic/ade20k/maskformer_r50"))
    other = write(tmp_path / "b.json", measurement("semantic/ade20k/mask2former_r50") | changes)
    arguments = ["--dataset", "ade20k", "--x", "throughput", "--output", str(tmp_path / "a.png")]
    assert plot.main([*arguments, "--measurements", str(one), str(other)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_file_without_measurements_is_one_line(plot, tmp_path, capsys):
    (tmp_path / "a.json").write_text("[1, 2]")
    arguments = ["--dataset", "ade20k", "--x", "throughput", "--output", str(tmp_path / "a.png")]
    assert plot.main([*arguments, "--measurements", str(tmp_path / "a.json")]) == 2
    assert "a.json: no measurements" in capsys.readouterr().err


def test_throughput_is_recorded_with_its_machine_and_replaces_the_older_record(throughput, tmp_path, capsys):
    file = tmp_path / "speed.json"
    other = measurement("semantic/camvid/pspnet_r18")
    write(file, other, measurement(NAME, precision="bf16"))
    arguments = [NAME, "--size", "32", "64", "--batch", "2", "--seconds", "0", "--record", str(file)]
    for _ in range(2):
        assert throughput.main(arguments) == 0
    assert "images/s (32x64, batch 2, fp32" in capsys.readouterr().out
    first, second, new = json.loads(file.read_text())["measurements"]
    assert first == other
    assert second["precision"] == "bf16"
    assert (new["name"], new["size"], new["batch"], new["threads"]) == (NAME, [32, 64], 2, 1)
    assert new["images_per_second"] > 0
    assert new["device"]
    assert new["torch"]
    assert new["date"]


def test_throughput_of_an_unknown_model_or_into_a_foreign_file_is_one_line(throughput, tmp_path, capsys):
    assert throughput.main(["semantic/camvid/segfrmer_mit_b0"]) == 2
    assert "did you mean semantic/camvid/segformer_mit_b0" in capsys.readouterr().err
    (tmp_path / "a.json").write_text('{"mine": 1}')
    assert throughput.main([NAME, "--record", str(tmp_path / "a.json")]) == 2
    assert "exists and holds no measurements" in capsys.readouterr().err
    assert (tmp_path / "a.json").read_text() == '{"mine": 1}'
