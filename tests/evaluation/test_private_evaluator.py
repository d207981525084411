"""Evaluators of a package outside the tree, found through IMPORTS, beside the standard ones."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from torch import nn

from segzoo.data import register
from segzoo.engine import Trainer, evaluate
from segzoo.engine.evaluation_loop import check_best_metric, check_evaluation
from segzoo.engine.shards import Shard, evaluate_shard
from segzoo.evaluation import compare_results, find_evaluators, load_results, register_evaluator, registry
from segzoo.evaluation.semantic import SemanticEvaluator
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError
from tests.registrations import forgotten

REPOSITORY = Path(__file__).resolve().parents[2]
GUIDE = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
# An evaluator of a new ground-truth type with its own key, and one that is selected by name.
PACKAGE = """
from segzoo.config import register_config
from segzoo.evaluation import BackgroundEvaluator, SemanticEvaluator, register_evaluator

register_evaluator("lanes", "semantic", SemanticEvaluator)


@register_config
def add_lane_config(cfg):
    cfg.TEST.LANE_CLASS = 1


@register_evaluator("lanes", "semantic", name="lane_recall")
class LaneRecall(BackgroundEvaluator):
    task_key = "lane"

    def __init__(self, *args, lane=1, **options):
        super().__init__(*args, **options)
        self.lane = lane

    @classmethod
    def from_options(cls, options):
        lane = 1 if options.config is None else options.config.TEST.LANE_CLASS
        return {**super().from_options(options), "lane": lane}

    def protocol(self):
        return {"lane_class": self.lane}

    def take(self, output, file_name):
        return output["sem_seg_labels"].cpu().numpy()

    def score(self, dataset_dict, prediction):
        truth = self.metadata.load_sem_seg(dataset_dict) == self.lane
        return int((prediction == self.lane)[truth].sum()), int(truth.sum())

    def summarize(self, merged):
        found, there = map(sum, zip(*merged))
        return {"recall": 100 * found / there}
"""
CONFIG = """
TASK: semantic
IMPORTS: {imports}
DATASETS:
  FILES: ("{folder}/roads.yaml",)
  TRAIN: ()
  TEST: ("roads_of_evaluators",)
MODEL: {{DEVICE: cpu}}
INPUT: {{MIN_SIZE_TEST: 0}}
DATALOADER: {{NUM_WORKERS: 0}}
TEST: {{SHARD_PERIOD: 1}}
"""
DATASET = """
name: roads
root: {folder}
splits: {{roads_of_evaluators: x}}
images: images/{{stem}}.png
labels: labels/{{stem}}.png
classes: [road, lane, sky]
{more}
"""


class Reader(nn.Module):
    """Predicts what is in the red channel."""

    def forward(self, batched_inputs):
        return [{"sem_seg_labels": inputs["image"][0]} for inputs in batched_inputs]


class Roads:
    def __init__(self, folder):
        rng = np.random.default_rng(0)
        self.folder, self.pairs = folder, []
        for kind in ("images", "labels"):
            (folder / kind).mkdir()
        for number in range(3):
            truth = rng.integers(0, 3, (8 + number, 12)).astype(np.uint8)
            truth[0] = 255
            prediction = np.where(rng.random(truth.shape) < 0.3, 2, np.minimum(truth, 2)).astype(np.uint8)
            Image.fromarray(np.stack([prediction] * 3, -1)).save(folder / f"images/{number}.png")
            Image.fromarray(truth).save(folder / f"labels/{number}.png")
            self.pairs.append((truth, prediction))

    def config(self, imports, *overrides, more="", output="out"):
        (self.folder / "roads.yaml").write_text(DATASET.format(folder=self.folder, more=more))
        file = self.folder / "config.yaml"
        file.write_text(CONFIG.format(folder=self.folder, imports=imports))
        return load_config(file, ["OUTPUT_DIR", str(self.folder / output), *overrides])


@pytest.fixture
def roads(tmp_path, monkeypatch):
    """Images and labels; a path for packages; and registries that are as before afterwards."""
    (tmp_path / "my_metric.py").write_text(re.search(r"# file: my_metric.py\n(.*?)```", GUIDE, re.DOTALL)[1])
    (tmp_path / "lane_metrics.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    with forgotten():
        yield Roads(tmp_path)
    for name in ("my_metric", "lane_metrics"):
        sys.modules.pop(name, None)
    if register._registered.pop("roads_of_evaluators", None):
        DatasetCatalog.pop("roads_of_evaluators")
        MetadataCatalog.pop("roads_of_evaluators")


def results(folder):
    return load_results(folder / "inference")["results"]["roads_of_evaluators"]


def test_the_example_of_the_guide_runs_beside_the_standard_evaluator(roads, tmp_path):
    evaluate(roads.config("()", output="plain"), Reader())
    cfg = roads.config('("my_metric",)', "TEST.BEST_METRIC", "image_accuracy/mean")
    check_best_metric(cfg, Trainer)
    evaluate(cfg, Reader())
    found = results(tmp_path / "out")
    assert {key: value for key, value in found.items() if key != "image_accuracy"} == results(
        tmp_path / "plain"
    )
    shares = [(prediction == truth)[truth != 255].mean() for truth, prediction in roads.pairs]
    assert found["image_accuracy"]["mean"] == pytest.approx(100 * np.mean(shares))
    for index in (1, 2):
        evaluate_shard(roads.config('("my_metric",)', output="shards"), Reader(), Shard(index, 2))
    assert results(tmp_path / "shards") == found


def test_a_package_adds_a_ground_truth_type_and_an_evaluator_name(roads, tmp_path):
    given = {"imports": '("lane_metrics",)', "more": "evaluator: lanes"}
    evaluate(roads.config(**given, output="unasked"), Reader())
    assert set(results(tmp_path / "unasked")) == {"sem_seg"}
    asked = ("TEST.EVALUATORS", "('lane_recall',)", "TEST.LANE_CLASS")
    for lane in (0, 1):
        cfg = roads.config(given["imports"], *asked, str(lane), more=given["more"], output=f"lane{lane}")
        check_evaluation(cfg, Trainer)
        evaluate(cfg, Reader())
        there = np.concatenate([prediction[truth == lane] for truth, prediction in roads.pairs])
        assert results(tmp_path / f"lane{lane}")["lane"]["recall"] == pytest.approx(
            100 * np.mean(there == lane)
        )
    with pytest.raises(InputError, match="lane of roads_of_evaluators has lane_class 0 in the first"):
        compare_results(tmp_path / "lane0/inference", tmp_path / "lane1/inference")


@pytest.mark.parametrize(
    ("imports", "more", "names", "message"),
    [
        (
            "()",
            "evaluator: lanes",
            (),
            "evaluator 'lanes' is unknown; .* or one that a module in IMPORTS registers",
        ),
        ("()", "evaluator: semseg", (), r"'semseg' is unknown; .*; did you mean sem_seg\?"),
        ("()", "evaluator: panoptic", (), r"needs the keys panoptic and annotations"),
        (
            "()",
            "",
            ("boundry",),
            r"TEST.EVALUATORS: 'boundry' is not registered; .*; did you mean boundary\?",
        ),
        ("()", "", ("a", "a"), r"TEST.EVALUATORS \('a', 'a'\): expected different names"),
        ('("lane_metrics",)', "", ("lane_recall",), "'lane_recall' scores none of semantic on roads_of_eval"),
    ],
)
def test_what_is_not_there_is_one_line(roads, imports, more, names, message):
    overrides = ["TEST.EVALUATORS", str(list(names))]
    with pytest.raises(InputError, match=message):
        check_evaluation(roads.config(imports, *overrides, more=more), Trainer)


def test_two_evaluators_do_not_share_a_key_and_a_module_may_be_imported_again(roads):
    check_evaluation(roads.config("()"), Trainer)

    def again():
        class Other(SemanticEvaluator):
            pass

        return register_evaluator("sem_seg", "semantic", Other, name="other")

    again(), again()
    assert [one.name for one in registry._EVALUATORS["sem_seg", "semantic"]].count("other") == 1
    assert find_evaluators("roads_of_evaluators", ["semantic"]) == [SemanticEvaluator]
    with pytest.raises(InputError, match="SemanticEvaluator and Other both report 'sem_seg'"):
        find_evaluators("roads_of_evaluators", ["semantic"], ["other"])


def test_what_cannot_be_an_evaluator_is_refused_where_it_is_registered(roads):
    class Nameless(SemanticEvaluator):
        task_key = ""

    with pytest.raises(TypeError, match="is not a subclass of BackgroundEvaluator"):
        register_evaluator("sem_seg", "semantic", nn.Module)
    with pytest.raises(TypeError, match="Nameless has no task_key"):
        register_evaluator("sem_seg", "semantic", Nameless)
    with pytest.raises(ValueError, match="task 'depth'; expected one of semantic"):
        register_evaluator("sem_seg", "depth", SemanticEvaluator)
    with pytest.raises(ValueError, match="has no standard evaluator"):
        register_evaluator("lidar", "semantic", SemanticEvaluator, name="extra")
