"""`segzoo zoo --plot`: the page and the SVG, parsed and compared with the zoo's tables."""

import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from segzoo.cli.main import main
from segzoo.model_zoo.plot import svg
from segzoo.model_zoo.plot.costs import costs_of, counted_gflops, counted_params
from segzoo.model_zoo.plot.labels import free_offsets
from segzoo.model_zoo.plot.page import page
from segzoo.model_zoo.plot.points import points_of
from segzoo.model_zoo.registry import known_models

VOID = {"meta", "link", "input", "br"}


class Page(HTMLParser):
    """The elements of a page as (tag, attributes, text, ids of the enclosing elements)."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[dict] = []
        self.elements: list[dict] = []
        self.feed(text)
        self.close()
        assert not self.open, "an element is not closed"

    def handle_starttag(self, tag: str, attributes: list) -> None:
        element = {"tag": tag, "text": "", "inside": list(self.open), **dict(attributes)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        self.elements.append({"tag": tag, "text": "", "inside": list(self.open), **dict(attributes)})

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()["tag"] == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element["text"] += data

    def all(self, tag: str, **attributes: str) -> list[dict]:
        return [
            one
            for one in self.elements
            if one["tag"] == tag
            and all(one.get(key.replace("_", "-")) == value for key, value in attributes.items())
        ]

    def inside(self, element: dict, tag: str) -> list[dict]:
        return [
            one for one in self.elements if one["tag"] == tag and any(o is element for o in one["inside"])
        ]


def measurements(file: Path, *records: dict) -> Path:
    shared = {
        "size": [512, 512],
        "batch": 16,
        "kind": "cuda",
        "device": "H200",
        "threads": None,
        "torch": "2.13",
    }
    file.write_text(json.dumps({"measurements": [{**shared, "precision": "bf16", **one} for one in records]}))
    return file


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Page, str]:
    folder = tmp_path_factory.mktemp("page")
    speeds = measurements(
        folder / "speed.json",
        {"name": "semantic/ade20k/segformer_mit_b0", "images_per_second": 1234.5},
        {"name": "semantic/ade20k/segformer_mit_b0", "images_per_second": 456.5, "precision": "fp32"},
        {"name": "panoptic/coco/mask2former_r50", "images_per_second": 67.5},
    )
    file = folder / "new" / "zoo.html"
    options = ["zoo", "--dataset", "ade20k", "--plot", str(file), "--measurements", str(speeds)]
    assert main(options) == 0
    text = file.read_text(encoding="utf-8")
    return Page(text), text


def rows_of(**attributes: str) -> dict:
    return {
        name: info
        for name, info in known_models().items()
        if all(getattr(info, key) == value for key, value in attributes.items())
    }


def test_the_tables_have_each_model_of_the_dataset_once_with_the_recorded_values(written):
    found, _ = written
    rows = [row for row in found.all("tr") if "data-model" in row]
    models = rows_of(dataset="ade20k")
    assert sorted(row["data-model"] for row in rows) == sorted(models)
    assert len({row["id"] for row in rows}) == len(rows)
    for section in found.all("section"):
        names = [head["text"] for head in found.inside(section, "th") if head.get("scope") == "col"]
        for row in found.inside(section, "tr"):
            if "data-model" not in row:
                continue
            info = models[row["data-model"]]
            cells = found.inside(row, "td")
            values = {
                name: float(cell["data-value"])
                for name, cell in zip(names[1:], cells, strict=True)
                if "data-value" in cell
            }
            assert values.pop("GFLOPs (10⁹ multiply-adds)") == info.reproduced.gflops
            assert values.pop("parameters, 10⁶") == info.reproduced.params
            for name in [name for name in values if name.startswith("images/s")]:
                assert values.pop(name) == (1234.5 if "bf16" in name else 456.5)
                assert info.name == "semantic/ade20k/segformer_mit_b0"
            assert values == {f"{one.metric}, %": one.value for one in info.published}


def test_each_chart_has_the_models_with_its_metric_and_cost(written):
    found, _ = written
    figures = found.all("figure")
    kinds = {(one["data-metric"], one["data-cost"]) for one in figures}
    assert {("mIoU", "gflops"), ("mIoU ms", "params"), ("PQ", "gflops"), ("mIoU", "throughput-0")} <= kinds
    for figure in figures:
        (section,) = [one for one in figure["inside"] if one["tag"] == "section"]
        metric, cost = figure["data-metric"], figure["data-cost"]
        models = rows_of(dataset="ade20k", task=section["data-task"])
        expected = {name for name, info in models.items() if info.value(metric) is not None}
        if cost.startswith("throughput"):
            expected &= {"semantic/ade20k/segformer_mit_b0"}
        points = [one for one in found.inside(figure, "a") if "data-model" in one]
        assert sorted(point["data-model"] for point in points) == sorted(expected)
        for point in points:
            info = models[point["data-model"]]
            (title,) = found.inside(point, "title")
            name, about, accuracy, value, command = title["text"].split("\n")
            assert name == info.name
            assert about.startswith(f"{info.method}, {info.backbone}; ")
            assert accuracy.startswith(f"{metric} {info.value(metric)} %: ".replace(".00 ", ".0 "))
            assert accuracy.endswith(next(one.protocol for one in info.published if one.metric == metric))
            if cost == "gflops":
                assert value == "{:g} GFLOPs at {}x{}".format(info.reproduced.gflops, *info.reproduced.size)
            assert command.startswith("segzoo ")
            assert info.name in command
            assert found.all("tr", id=point["href"].removeprefix("#"))


def test_one_chart_of_each_section_is_shown_without_the_script(written):
    found, _ = written
    for section in found.all("section"):
        figures = found.inside(section, "figure")
        assert [("hidden" in figure) for figure in figures] == [False] + [True] * (len(figures) - 1)
    first = found.all("section")[0]
    assert found.inside(first, "figure")[0]["data-metric"] == "mIoU"
    assert found.inside(first, "figure")[0]["data-cost"].startswith("throughput")


def test_the_page_loads_nothing(written):
    found, text = written
    assert not [
        one for one in found.elements if "src" in one or one["tag"] in ("img", "iframe", "object", "use")
    ]
    assert [one["href"] for one in found.all("link")] == ["data:,"]
    assert [one["tag"] for one in found.elements if str(one.get("href", "")).startswith("http")].count(
        "a"
    ) > 50
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", text)
    (policy,) = found.all("meta", http_equiv="Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'")
    outside = {
        one["tag"]
        for one in found.elements
        for key, value in one.items()
        if isinstance(value, str) and value.startswith("http") and key != "text"
    }
    assert outside == {"a"}  # links that a user may follow


def test_configurations_are_linked_from_where_the_page_is(written, tmp_path):
    rows = list(rows_of(dataset="camvid").values())
    folder = tmp_path / "deep" / "down"
    folder.mkdir(parents=True)
    found = Page(page(rows, costs_of(rows, []), "", folder))
    links = [one["href"] for one in found.all("a") if one["text"] == "config"]
    assert len(links) == len(rows)
    assert all((folder / link).resolve().is_file() for link in links)


def test_names_are_escaped(tmp_path):
    rows = list(rows_of(dataset="camvid").values())
    evil = '<script>alert("1")</script>&'
    bad = replace(rows[0], backbone=evil, note=evil, license=f'"{evil}', schedule=evil)
    text = page([bad, *rows[1:]], costs_of(rows, []), "", tmp_path)
    found = Page(text)
    assert len(found.all("script")) == 1
    assert evil not in text
    assert [cell for cell in found.all("td") if cell["text"] == evil]
    bad = replace(known_models()["semantic/ade20k/segformer_mit_b0"], backbone=evil)
    (point,) = points_of([bad], {bad.name: 1.0}, "mIoU")
    picture = svg.picture([point], counted_gflops([bad]), evil, evil)
    assert evil not in picture
    assert evil in "".join(ET.fromstring(picture).itertext())


def test_svg_places_points_by_their_values():
    rows = [info for info in rows_of(dataset="coco", task="panoptic").values() if info.value("PQ")]
    cost = counted_params(rows)
    points = points_of(rows, cost.values, "PQ")
    root = ET.fromstring(svg.picture(points, cost, "PQ", "title"))
    space = "{http://www.w3.org/2000/svg}"
    places = {}
    for element in root.iter():
        if "data-model" in element.attrib:
            numbers = re.findall(r"-?[\d.]+", element.attrib["transform"])
            places[element.attrib["data-model"]] = tuple(map(float, numbers))
    assert set(places) == {info.name for info in rows}
    one, two = max(points, key=lambda point: point.x), min(points, key=lambda point: point.x)
    left, right = places[two.name][0], places[one.name][0]
    top = min(points, key=lambda point: -point.y)
    low = min(points, key=lambda point: point.y)
    for point in points:
        x, y = places[point.name]
        share = math.log(point.x / two.x) / math.log(one.x / two.x)
        assert x == pytest.approx(left + share * (right - left), abs=0.2)
        share = (point.y - low.y) / (top.y - low.y)
        expected = places[low.name][1] + share * (places[top.name][1] - places[low.name][1])
        assert y == pytest.approx(expected, abs=0.2)
    # Ticks are where their values belong.
    for text in root.iter(f"{space}text"):
        if text.attrib.get("text-anchor") == "middle" and re.fullmatch(r"[\d.]+", text.text or ""):
            share = math.log(float(text.text) / two.x) / math.log(one.x / two.x)
            if "x" in text.attrib and float(text.attrib["y"]) > 480:
                assert float(text.attrib["x"]) == pytest.approx(left + share * (right - left), abs=0.2)


def test_labels_keep_apart():
    centers = {str(index): (30.0 * (index % 4), 12.0 * (index // 4)) for index in range(28)}

    def box_of(name, offset):
        x, y = centers[name]
        return x + offset[0], y + offset[1], x + offset[0] + 8, y + offset[1] + 14

    placed = free_offsets(centers, box_of, centers, (-50, -50, 120, 120), 1)
    boxes = [box_of(name, offset) for name, offset in placed.items()]
    assert len(boxes) > 5
    for index, box in enumerate(boxes):
        for other in boxes[:index]:
            assert box[2] < other[0] or other[2] < box[0] or box[3] < other[1] or other[3] < box[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plot", "a.pdf"], "--plot a.pdf: expected a name ending in .html, .png, .svg"),
        (
            ["--plot", "{}/a.html", "--dataset", "ade2k"],
            "--dataset ade2k: no model of the zoo was trained on it",
        ),
        (
            ["--plot", "{}/a.html", "--metric", "mIoUs"],
            "--metric mIoUs: no model of those has it; published: ",
        ),
        (
            ["--plot", "{}/a.svg", "--dataset", "camvid", "--metric", "PQ"],
            "--metric PQ: no model of camvid has it",
        ),
        (["--plot", "{}/a.svg", "--dataset", "ade20k"], "a picture shows one dataset and task; add one of "),
        (
            ["--plot", "{}/a.html", "--x", "params"],
            "--x and --precision are for pictures: a page has all axes",
        ),
        (["--metric", "PQ"], "--metric is for --plot FILE"),
        (["panoptic/coco/mask2former_r50", "--metric", "PQ"], "--metric is for --plot FILE"),
        (["--plot", "{}/a.html", "--json"], "--json does not go with --plot FILE"),
        (
            ["panoptic/coco/mask2former_r50", "--download", "--plot", "{}/a.html"],
            "--download does not go with --plot FILE",
        ),
        (
            ["--plot", "{}/a.svg", "--dataset", "camvid", "--x", "throughput"],
            "--x throughput and --measurements FILE go together",
        ),
        (
            ["--plot", "{}/a.html", "--measurements", "{}/none.json"],
            "none.json: no measurements (FileNotFound",
        ),
    ],
)
def test_wrong_options_are_one_line(options, message, tmp_path, capsys):
    assert main(["zoo", *(option.format(tmp_path) for option in options)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_page_of_one_model_given_by_name(tmp_path, capsys):
    file = tmp_path / "one.html"
    assert main(["zoo", "panoptic/coco/mask2former_r50", "--plot", str(file)]) == 0
    assert capsys.readouterr().out.strip().endswith("one.html: 1 model")
    assert re.findall(r'<tr id="([^"]*)"', file.read_text(encoding="utf-8")) == [
        "panoptic.coco.mask2former_r50"
    ]


def test_the_throughputs_of_a_picture_are_chosen_by_precision(tmp_path, capsys):
    names = ["semantic/ade20k/segformer_mit_b0", "semantic/ade20k/segformer_mit_b1"]
    speeds = measurements(
        tmp_path / "speed.json",
        *(
            {"name": name, "images_per_second": 100.0 * (index + 1), "precision": precision}
            for index, name in enumerate(names)
            for precision in ("bf16", "fp32")
        ),
    )
    chosen = ["zoo", "--dataset", "ade20k", "--task", "semantic", "--measurements", str(speeds)]
    output = tmp_path / "a.svg"
    assert main([*chosen, "--plot", str(output)]) == 2
    assert "was measured more than once" in capsys.readouterr().err
    assert main([*chosen, "--plot", str(output), "--precision", "tf32"]) == 2
    assert "--precision tf32: nothing was measured with it; found: bf16, fp32" in capsys.readouterr().err
    assert main([*chosen, "--plot", str(output), "--precision", "bf16"]) == 0
    assert "2 semantic models" in capsys.readouterr().out
    text = output.read_text(encoding="utf-8")
    assert "images/s, H200, batch 16, bf16, torch 2.13" in text
    assert all(name in text for name in names)


@pytest.mark.parametrize(
    "record",
    [{"name": "a", "images_per_second": 0.0}, {"name": "a"}, {"images_per_second": 1.0}, {"size": [1]}],
)
def test_a_measurement_without_what_it_needs_is_one_line(record, tmp_path, capsys):
    speeds = measurements(tmp_path / "speed.json", record)
    assert main(["zoo", "--plot", str(tmp_path / "a.html"), "--measurements", str(speeds)]) == 2
    assert "speed.json: no measurements (" in capsys.readouterr().err
