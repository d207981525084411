"""A saved folder, scored again without a model, gives the numbers that were scored in memory."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segzoo.cli.evaluate import build_parser
from segzoo.evaluation import (
    CLASS_AVERAGING,
    Protocol,
    build_evaluator,
    load_results,
    prediction_io,
    write_results,
)
from segzoo.evaluation.rescore import rescore
from segzoo.utils import files
from segzoo.utils.errors import InputError
from tests.evaluation.evaluation_data import PanopticData

TASKS = {"semantic": "sem_seg_labels", "panoptic": "panoptic_seg", "entity": "entity_seg"}


@pytest.fixture
def saved(tmp_path):
    """(data, folder, results): a dataset scored in memory, its predictions and results.json in `folder`."""
    data = PanopticData(tmp_path / "data", num_images=7, seed=3)
    folder = tmp_path / "inference"
    evaluators = build_evaluator(data.name, list(TASKS), folder, save_predictions=True)
    outputs = zip(*(data.outputs(key) for key in TASKS.values()), strict=True)
    for entry, (one, two, three) in zip(data.dataset_dicts, outputs, strict=True):
        evaluators.process([entry], [one | two | three])
    results = dict(evaluators.evaluate())
    protocol = Protocol(datasets={data.name: 7}, input_size={"short_edge": 32}, weights="model_final.pth")
    write_results(folder, {data.name: results}, protocol)
    return data, folder, results


def test_rescored_numbers_equal_those_in_memory_and_keep_the_protocol(saved):
    data, folder, results = saved
    again, path = rescore(data.name, folder)
    assert repr(again) == repr(results)  # repr: to the bit, NaN included
    assert path == folder / "rescored" / "results.json"
    assert load_results(path)["protocol"] == load_results(folder)["protocol"]
    assert load_results(path)["results"] == load_results(folder)["results"]


def test_one_task_can_be_rescored_alone_with_another_class_averaging(saved, tmp_path):
    data, folder, results = saved
    again, path = rescore(data.name, folder, ["semantic"], tmp_path / "other", class_averaging="all")
    assert again["sem_seg"]["mIoU"] == results["sem_seg"]["mIoU_all"]
    assert load_results(path)["protocol"]["class_averaging"] == "all"


def test_predictions_of_another_program_have_an_unknown_protocol(saved):
    data, folder, results = saved
    (folder / "results.json").unlink()
    again, path = rescore(data.name, folder, ["panoptic"])
    assert again["panoptic_seg"]["PQ"] == results["panoptic_seg"]["PQ"]
    assert "unknown" in load_results(path)["protocol"]["input_size"]


def test_missing_and_broken_predictions_are_named(saved):
    data, folder, _ = saved
    with pytest.raises(InputError, match="nowhere: not a folder"):
        rescore(data.name, folder / "nowhere")
    with pytest.raises(InputError, match="no predictions found, expected one of sem_seg, predictions"):
        rescore(data.name, folder / "sem_seg")

    (folder / "sem_seg/0002.png").unlink()
    (folder / "sem_seg/0004.png").unlink()
    with pytest.raises(InputError, match=r"0002.png: not found, .*0002.jpg \(2 of 7 are missing\)"):
        rescore(data.name, folder, ["semantic"])

    (folder / "entity_predictions/0000.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"0000.png: cannot be read as an image"):
        rescore(data.name, folder, ["entity"])

    document = json.loads((folder / "predictions.json").read_text())
    segments = next(entry["segments_info"] for entry in document["annotations"] if entry["segments_info"])
    segments[0]["category_id"] = 1
    (folder / "predictions.json").write_text(json.dumps(document))
    with pytest.raises(
        InputError, match=r"predictions.json: \d+.png has category_id 1, expected the category"
    ):
        rescore(data.name, folder, ["panoptic"])
    twice = {**document, "annotations": [*document["annotations"], document["annotations"][0]]}
    (folder / "predictions.json").write_text(json.dumps(twice))
    with pytest.raises(InputError, match=r"image \d+ has two annotations; keep one of them"):
        rescore(data.name, folder, ["panoptic"])
    del document["annotations"][3]
    (folder / "predictions.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="1 of 7 images are missing, first image_id 103"):
        rescore(data.name, folder, ["panoptic"])


@pytest.fixture
def tool(monkeypatch):
    """tools/evaluate_predictions.py as a module; the dataset of the test is registered already."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "tools"))
    import evaluate_predictions

    return evaluate_predictions


def test_the_tool_reports_agreement_and_prints_one_line_for_a_mistake(saved, tool, capsys):
    data, folder, results = saved
    assert tool.main(["--split", data.name, "--predictions", str(folder)]) == 0
    numbers = sum(len(metrics) for metrics in results.values())
    assert f"{numbers} of {numbers} numbers equal those stored" in capsys.readouterr().out

    assert tool.main(["--split", "no_such_set", "--predictions", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --split no_such_set: not registered; expected one of")
    assert data.name in error
    assert error.count("\n") == 1


def test_the_tool_finds_the_results_of_several_datasets_in_the_folder_above(saved, tool, capsys):
    data, folder, results = saved
    (folder / "results.json").rename(folder.parent / "results.json")
    assert tool.main(["--split", data.name, "--predictions", str(folder)]) == 0
    numbers = sum(len(metrics) for metrics in results.values())
    assert f"{numbers} of {numbers} numbers equal those stored" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "task"), [("sem_seg", "semantic"), ("entity_predictions", "entity")])
def test_a_truncated_prediction_is_named(saved, name, task):
    data, folder, _ = saved
    file = folder / name / "0000.png"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"0000.png: cannot be read as an image") as caught:
        rescore(data.name, folder, [task])
    assert "\n" not in str(caught.value)


def test_an_interrupted_write_leaves_the_old_prediction_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "a.png"
    prediction_io.save_labels(file, np.ones((2, 3), np.uint8))

    def stop(*paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        prediction_io.save_labels(file, np.zeros((2, 3), np.uint8))
    assert prediction_io.load_labels(file).all()
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF"])
def test_predictions_in_other_formats_are_refused_with_any_extension(tmp_path, kind):
    file = tmp_path / "0000.png"
    Image.new("L", (8, 6), 3).save(file, format=kind)
    with pytest.raises(InputError, match=f"0000.png: is a {kind} file, expected PNG"):
        prediction_io.load_labels(file)


def test_the_command_offers_every_way_to_average():
    """Its parser names them itself, since it imports no evaluator."""
    for averaging in CLASS_AVERAGING:
        words = ["--predictions", "inference", "--class-averaging", averaging]
        assert build_parser().parse_args(words).class_averaging == averaging
    choices = {action.dest: action.choices for action in build_parser()._actions}
    assert set(choices["class_averaging"]) == set(CLASS_AVERAGING)
