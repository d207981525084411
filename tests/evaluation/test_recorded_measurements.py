"""What evaluations record and report: areas, how scores were resized, missing labels."""

import copy
import importlib
import itertools
import json
import math
import re
import shlex
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.structures import Instances

from segzoo.config.load import new_config
from segzoo.engine.evaluation_loop import describe_resizing, report
from segzoo.evaluation import (
    EntityEvaluator,
    InstanceEvaluator,
    PanopticEvaluator,
    Protocol,
    SemanticEvaluator,
    compare_results,
    load_results,
    prediction_io,
    printed_metrics,
    write_results,
)
from segzoo.evaluation.rescore import rescore
from segzoo.evaluation.semantic import semantic_metrics
from segzoo.modeling import Segmentor
from segzoo.utils.errors import InputError
from tests.evaluation.evaluation_data import PanopticData
from tests.evaluation.test_panoptic_evaluator import panopticapi_result

REPOSITORY = Path(__file__).resolve().parents[2]
AREAS = [0, -3, float("nan"), float("inf"), None, "300", True, [1], 4, 10**400]


def scored(evaluator_class, data, outputs):
    evaluator = evaluator_class(data.name, scoring_threads=0)
    evaluator.process(data.dataset_dicts, outputs)
    return evaluator.evaluate()[evaluator.task_key]


@pytest.mark.parametrize("area", AREAS, ids=lambda area: repr(area)[:8])
def test_panoptic_quality_uses_pixels_and_not_stated_areas(tmp_path, caplog, area):
    data = PanopticData(tmp_path / "data", num_images=12, seed=0)
    sums, averages = panopticapi_result(data, tmp_path / "predictions")
    assert sum(sums[number].tp for number in data.dataset_ids) > 0
    outputs = copy.deepcopy(data.outputs("panoptic_seg"))
    true_pixels = [(ids == one["id"]).sum() for ids, segments in data.ground_truths for one in segments]
    guessed = [(ids == one["id"]).sum() for ids, segments in data.predictions for one in segments]
    counts = [sum(int(pixels) != area for pixels in listed) for listed in (true_pixels, guessed)]
    for record, output in zip(data.dataset_dicts, outputs, strict=True):
        for segment in (*record["segments_info"], *output["panoptic_seg"][1]):
            segment["area"] = area
    metrics = scored(PanopticEvaluator, data, outputs)
    for suffix, average in averages.items():
        for measure in ("PQ", "SQ", "RQ"):
            assert metrics[f"{measure}{suffix}"] == 100 * average[measure.lower()]
    line, of_predictions = (line for line in caplog.messages if "differ from the PNGs" in line)
    first = next(record for record in data.dataset_dicts if record["segments_info"])
    segment = first["segments_info"][0]
    ids = data.ground_truths[data.dataset_dicts.index(first)][0]
    measured = int((ids == segment["id"]).sum())
    assert line.startswith(f"{data.gt_json}: the areas of {counts[0]} segments differ from the PNGs")
    assert f"predictions: the areas of {counts[1]} segments differ" in of_predictions
    shown = json.dumps(area)[:60]
    assert f"first {first['file_name']}, segment {segment['id']}: area {shown}" in line
    assert f", measured {measured}; the pixels of the PNGs are used" in line


def test_consistent_areas_are_not_reported(tmp_path, caplog):
    data = PanopticData(tmp_path / "data", num_images=3)
    scored(PanopticEvaluator, data, data.outputs("panoptic_seg"))
    assert not any("areas" in line for line in caplog.messages)


PROTOCOL = Protocol(datasets={"roads_val": 12}, input_size="original")
RESULTS = {"roads_val": {"sem_seg": {"mIoU": 61.5}, "panoptic_seg": {"PQ": 40.25}}}


def result(folder, tasks, resizing, results=RESULTS):
    protocol = {**asdict(replace(PROTOCOL, semantic_resizing=resizing)), "tasks": list(tasks)}
    return load_results(write_results(folder, results, protocol))


def test_results_of_scores_that_were_resized_in_two_ways_are_not_compared(tmp_path):
    first = result(tmp_path / "a", ["semantic"], "scores")
    second = result(tmp_path / "b", ["semantic", "panoptic"], "masks")
    with pytest.raises(InputError, match='semantic_resizing is "scores" in the first result and "masks"'):
        compare_results(first, second)
    assert compare_results(first, first)["roads_val"]["sem_seg/mIoU"] == (61.5, 61.5)


def test_results_of_no_semantic_labels_do_not_depend_on_it(tmp_path, caplog):
    only_panoptic = {"roads_val": {"panoptic_seg": {"PQ": 41.0}}}
    first = result(tmp_path / "a", ["panoptic"], None, only_panoptic)
    second = result(tmp_path / "b", ["semantic", "panoptic"], "masks")
    assert compare_results(first, second)["roads_val"] == {"panoptic_seg/PQ": (41.0, 40.25)}
    other = result(tmp_path / "c", ["semantic", "panoptic"], "scores", only_panoptic)
    assert compare_results(other, second)["roads_val"] == {"panoptic_seg/PQ": (41.0, 40.25)}
    assert not caplog.text


def old(document, *keys):
    document = copy.deepcopy(document)
    for key in keys:
        del document["protocol"][key]
    return document


def test_resizing_of_older_results_follows_from_their_tasks_or_is_unknown(tmp_path, caplog):
    """What was resized followed from the tasks then, as it does now."""
    first = old(result(tmp_path / "a", ["semantic"], "scores"), "semantic_resizing")
    second = result(tmp_path / "b", ["semantic", "panoptic"], "masks")
    with pytest.raises(InputError, match="semantic_resizing"):
        compare_results(first, second)
    assert compare_results(first, result(tmp_path / "c", ["semantic"], "scores"))
    assert not caplog.messages
    unknown = old(second, "semantic_resizing", "tasks")
    assert compare_results(first, unknown)["roads_val"]["sem_seg/mIoU"] == (61.5, 61.5)
    assert "semantic_resizing is unknown for the second result" in caplog.text
    # Predictions that were saved then are scored again.
    protocol = old(second, "semantic_resizing")["protocol"]
    assert (
        load_results(write_results(tmp_path / "d", RESULTS, protocol))["protocol"]["semantic_resizing"]
        == "masks"
    )


def segmentor_that_resizes(what):
    model = Segmentor(backbone=None, num_classes=3, pixel_mean=(0.0,) * 3, pixel_std=(1.0,) * 3)
    model.semantic_resizing = what
    return model


@pytest.mark.parametrize("resizing", ["scores", "masks"])
def test_results_say_what_was_resized_for_semantic_labels(resizing):
    model = segmentor_that_resizes(resizing)
    cfg = new_config()
    for tasks, expected in (
        (("semantic",), resizing),
        (("semantic", "panoptic"), resizing),
        (("panoptic",), None),
    ):
        cfg.TEST.TASKS = tasks
        assert describe_resizing(cfg, model) == {"semantic_resizing": expected}
    cfg.TEST.TASKS = ("semantic",)
    # Finished maps are averaged; the other protocols resize scores themselves.
    cfg.TEST.PROTOCOL = "maskformer_tta"
    assert describe_resizing(cfg, model) == {"semantic_resizing": resizing}
    cfg.TEST.PROTOCOL = "gluon_testval"
    assert describe_resizing(cfg, model) == {"semantic_resizing": "scores"}
    cfg.TEST.PROTOCOL = ""
    assert describe_resizing(cfg, torch.nn.Linear(1, 1)) == {"semantic_resizing": None}


def test_one_column_is_printed_for_averages_that_are_equal(tmp_path, monkeypatch):
    matrix = np.zeros((4, 4), int)
    matrix[:3, :3] = [[5, 1, 0], [0, 4, 2], [1, 0, 3]]
    everywhere = semantic_metrics(matrix)[0]
    assert {"mIoU_valid", "mIoU_ground_truth", "mIoU_all"} <= set(everywhere)
    assert set(printed_metrics(everywhere)) == {"mIoU", "fwIoU", "mAcc", "aAcc"}
    matrix[:, 2] = 0  # class 2 is predicted and never true
    differing = printed_metrics(semantic_metrics(matrix)[0])
    assert set(differing) == {"mIoU", "fwIoU", "mAcc", "aAcc", "mIoU_ground_truth"}
    cfg = SimpleNamespace(OUTPUT_DIR=str(tmp_path))
    printed = []
    # By its module: the package has a function of this name.
    monkeypatch.setitem(report.__globals__, "print_csv_format", printed.append)
    report(cfg, {"roads_val": {"sem_seg": everywhere}}, asdict(PROTOCOL))
    assert [list(one["sem_seg"]) for one in printed] == [["mIoU", "fwIoU", "mAcc", "aAcc"]]
    assert set(load_results(tmp_path / "inference")["results"]["roads_val"]["sem_seg"]) == set(everywhere)


def unlabeled(tmp_path, crowd):
    """A dataset whose segments are all crowds, or not there; its semantic labels are void."""
    data = PanopticData(tmp_path / "data", num_images=3, seed=2)
    for record in data.dataset_dicts:
        record["segments_info"] = [{**one, "iscrowd": 1} for one in record["segments_info"]] if crowd else []
        labels = np.full((record["height"], record["width"]), 255, np.uint8)
        prediction_io.save_labels(Path(record["sem_seg_file_name"]), labels)
    return data


@pytest.mark.parametrize("crowd", [True, False])
def test_unlabeled_data_is_reported_and_gives_nan(tmp_path, caplog, crowd):
    data = unlabeled(tmp_path, crowd)
    semantic = scored(SemanticEvaluator, data, data.outputs("sem_seg_labels"))
    assert all(math.isnan(value) for value in semantic.values())
    assert "none of its 3 images has a labeled pixel, so there is no mIoU" in caplog.text
    entity = scored(EntityEvaluator, data, data.outputs("entity_seg"))
    assert math.isnan(entity["AP"])
    assert "none of its 3 images has a non-crowd segment, so there is no entity AP" in caplog.text
    scored(PanopticEvaluator, data, data.outputs("panoptic_seg"))
    assert "has a non-crowd segment, so there is no panoptic quality" in caplog.text
    path = write_results(
        tmp_path, {data.name: {"sem_seg": semantic}}, replace(PROTOCOL, datasets={data.name: 3})
    )
    numbers = load_results(path)["results"][data.name]["sem_seg"]
    assert set(numbers.values()) == {None}
    evaluator = InstanceEvaluator(data.name, scoring_threads=0)
    for record in data.dataset_dicts:
        instances = Instances((record["height"], record["width"]))
        instances.pred_masks = torch.zeros(0, record["height"], record["width"], dtype=torch.bool)
        instances.scores, instances.pred_classes = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
        evaluator.process([record], [{"instances": instances}])
    assert math.isnan(evaluator.evaluate()["segm"]["AP"])
    things = sum(
        data.isthing[one["category_id"]] for record in data.dataset_dicts for one in record["segments_info"]
    )
    said = f"all of its {things} instances are crowds" if crowd else "it has no instance"
    assert f"{said}, so there is no AP" in caplog.text


@pytest.fixture
def roads_predictions(tmp_path):
    """Saved semantic predictions of a dataset, and the file of the first image."""
    data = PanopticData(tmp_path / "data", num_images=3, seed=3)
    evaluator = SemanticEvaluator(data.name, tmp_path / "p", save_predictions=True, scoring_threads=0)
    evaluator.process(data.dataset_dicts, data.outputs("sem_seg_labels"))
    return data, tmp_path / "p", evaluator.evaluate()["sem_seg"]


def test_a_prediction_without_a_class_is_named_by_its_file_and_the_remedy_works(roads_predictions):
    data, folder, right = roads_predictions
    file = folder / "sem_seg/0000.png"
    labels = prediction_io.load_labels(file)
    undecided = labels.copy()
    undecided[:2, :3] = 255
    undecided[3, 0] = 9
    prediction_io.save_labels(file, undecided)
    with pytest.raises(InputError) as error:
        rescore(data.name, folder)
    line = str(error.value)
    assert line.startswith(
        f"{file}: label 9 (1 pixels) is outside [0, 7); a prediction needs a class in every pixel"
    )
    assert "write the best class for undecided pixels" in line
    prediction_io.save_labels(file, labels)
    assert rescore(data.name, folder)[0]["sem_seg"]["mIoU"] == right["mIoU"]


def test_the_printed_example_of_getting_started_works(tmp_path, monkeypatch, capsys):
    """The evaluation that saves predictions, and their scoring, as they stand there."""
    for folder in ("tools", "datasets"):
        monkeypatch.syspath_prepend(str(REPOSITORY / folder))
    evaluate_predictions, make_shapes, train_net = map(
        importlib.import_module, ("evaluate_predictions", "make_shapes", "train_net")
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    make_shapes.make_shapes(tmp_path / "shapes", train=2, val=2, size=64, seed=0, workers=0)
    text = (REPOSITORY / "docs" / "protocols.md").read_text()
    section = text[text.index("**From files.**") :]
    block = section.split("```bash\n")[1].split("```")[0].replace("\\\n", " ")
    save, score = (shlex.split(line)[2:] for line in block.splitlines())
    config = save[save.index("--config-file") + 1]
    small = ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "INPUT.MIN_SIZE_TEST", "64"]
    training = ["SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "2", "OUTPUT_DIR", "output/psp", *small]
    assert train_net.main(["--config-file", config, "DATASETS.TEST", "()", *training]) == 0
    shutil.copy("output/psp/model_final.pth", save[save.index("MODEL.WEIGHTS") + 1])
    assert train_net.main([*save, *small]) == 0
    assert evaluate_predictions.main(score) == 0
    found = re.search(r"(\d+) of (\d+) numbers equal those stored", capsys.readouterr().out)
    assert found[1] == found[2]


def read_as(folder, reading):
    protocol = replace(PROTOCOL, image_reading=reading, semantic_resizing="scores")
    return load_results(write_results(folder, RESULTS, protocol))


def test_results_of_images_that_were_read_in_two_ways_are_not_compared(tmp_path, caplog):
    ways = [{}, {"image_range": [0, 4095]}, {"image_range": [0, 1023]}, {"exif": "ignore"}]
    results = [read_as(tmp_path / str(index), {"roads_val": way}) for index, way in enumerate(ways)]
    for first, second in itertools.product(results, repeat=2):
        if first is second:
            assert compare_results(first, second)
        else:
            with pytest.raises(InputError, match="image_reading of roads_val is "):
                compare_results(first, second)
    # What other datasets were read like does not matter.
    other = read_as(tmp_path / "other", {"roads_val": {}, "x": {"exif": "ignore"}})
    assert compare_results(results[0], other)
    assert not caplog.messages


def test_results_without_a_recorded_reading_are_compared(tmp_path, caplog):
    usual, ranged = (
        read_as(tmp_path / str(way), {"roads_val": way}) for way in ({}, {"image_range": [0, 9]})
    )
    before = old(usual, "image_reading")
    assert compare_results(before, usual)
    assert compare_results(before, before)
    assert not caplog.messages
    assert compare_results(before, ranged)
    assert "image_reading of roads_val is unknown for the first result" in caplog.text
    rewritten = load_results(write_results(tmp_path / "again", RESULTS, before["protocol"]))
    assert rewritten["protocol"]["image_reading"] is None
