"""Evaluation in shards gives the metrics of one run, however often interrupted; protocols in evaluation."""

import json
import pickle
import runpy
import zlib
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import train_net
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Instances
from PIL import Image
from scipy import ndimage
from torch import nn

from segzoo.cli.prepare.shapes import make_shapes
from segzoo.cli.train import build_parser
from segzoo.engine import Trainer, evaluate
from segzoo.engine.evaluation_loop import check_evaluation, describe_protocol
from segzoo.engine.shard_files import Part, ShardFiles
from segzoo.engine.shards import Shard, evaluate_shard
from segzoo.evaluation import compare_results, load_results
from segzoo.evaluation.semantic import semantic_metrics
from segzoo.model_zoo import load_config
from segzoo.modeling import Segmentor
from segzoo.utils.errors import InputError

IMAGES = 11
CONFIG = """
TASK: semantic
DATASETS:
  TEST: ("shapes_val",)
MODEL:
  META_ARCHITECTURE: ShadesSegmentor
  DEVICE: cpu
INPUT:
  MIN_SIZE_TEST: 0
DATALOADER:
  NUM_WORKERS: 0
TEST:
  SHARD_PERIOD: 2
"""


@META_ARCH_REGISTRY.register()
class ShadesSegmentor(Segmentor):
    """A model that scores by the color of a pixel and its neighbors, and stops before image `fail_at`."""

    def __init__(self, cfg):
        classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        super().__init__(backbone=None, num_classes=classes, pixel_mean=(128.0,) * 3, pixel_std=(64.0,) * 3)
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(self.num_classes, 3, 3, 3, generator=generator))
        self.seen, self.fail_at = 0, None

    def network(self, batch):
        if self.seen == self.fail_at:
            raise KeyboardInterrupt
        self.seen += 1
        return {"logits": nn.functional.conv2d(batch.images, self.weight, padding=1)}

    def postprocess(self, outputs, sizes, *, tasks, semantic):
        scores = outputs["logits"]
        if semantic == "scores":
            return [{"sem_seg": one} for one in scores]
        return [{"sem_seg_labels": one} for one in scores.argmax(1)]


@pytest.fixture(scope="module", autouse=True)
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    patch = pytest.MonkeyPatch()
    patch.setenv("DETECTRON2_DATASETS", str(folder))
    make_shapes(folder / "shapes", train=1, val=IMAGES, size=48, workers=0)
    (folder / "test.yaml").write_text(CONFIG)
    yield folder / "test.yaml"
    patch.undo()


def job(config, folder, *overrides):
    cfg = load_config(config, ["OUTPUT_DIR", str(folder), *overrides])
    return cfg, ShadesSegmentor(cfg).eval()


def outcome(folder):
    """Return results.json without timings."""
    document = load_results(folder / "inference")
    return document["results"], {
        key: value
        for key, value in document["protocol"].items()
        if key not in ("seconds_per_image", "wall_time_percent")
    }


@pytest.mark.parametrize("count", [1, 3, 4, 11, 13])
def test_the_parts_hold_every_image_once(count):
    parts = [Shard(index, count).part(list(range(11))) for index in range(1, count + 1)]
    assert [one for part in parts for one in part] == list(range(11))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_merged_shards_are_one_run(shapes, tmp_path):
    cfg, model = job(shapes, tmp_path / "whole")
    metrics = evaluate(cfg, model)
    for index in (2, 3, 1):
        cfg, model = job(shapes, tmp_path / "sharded")
        found = evaluate_shard(cfg, model, Shard(index, 3))
        assert (found != {}) == (index == 1)
        assert (tmp_path / "sharded/inference/results.json").exists() == (index == 1)
    assert found == metrics
    assert outcome(tmp_path / "sharded") == outcome(tmp_path / "whole")
    tables = [tmp_path / name / "inference/sem_seg_confusion.csv" for name in ("whole", "sharded")]
    assert tables[0].read_text() == tables[1].read_text()


def test_an_interrupted_shard_resumes_and_scores_no_image_twice(shapes, tmp_path):
    cfg, model = job(shapes, tmp_path / "whole")
    evaluate(cfg, model)
    counts = []
    for fail_at in (5, 3, None, None):
        cfg, model = job(shapes, tmp_path / "shard")
        model.fail_at = fail_at
        if fail_at is None:
            results = evaluate_shard(cfg, model, Shard(1, 1))
        else:
            with pytest.raises(KeyboardInterrupt):
                evaluate_shard(cfg, model, Shard(1, 1))
        counts.append(model.seen)
    # Saved every two images: 4 of 5 images were kept, then 2 of 3 more; the last run finds all done.
    assert counts == [5, 3, IMAGES - 6, 0]
    assert outcome(tmp_path / "shard") == outcome(tmp_path / "whole")
    assert results["sem_seg"]["mIoU"] == outcome(tmp_path / "whole")[0]["shapes_val"]["sem_seg"]["mIoU"]


def test_more_shards_than_images_merge_too(shapes, tmp_path):
    for index in range(1, 14):
        cfg, model = job(shapes, tmp_path / "many")
        evaluate_shard(cfg, model, Shard(index, 13))
    cfg, model = job(shapes, tmp_path / "whole")
    evaluate(cfg, model)
    assert outcome(tmp_path / "many") == outcome(tmp_path / "whole")


def test_shards_of_another_evaluation_are_refused(shapes, tmp_path):
    cfg, model = job(shapes, tmp_path)
    evaluate_shard(cfg, model, Shard(1, 2))
    cfg, model = job(shapes, tmp_path, "TEST.PROTOCOL", "gluon_testval")
    for index in (1, 2):
        with pytest.raises(InputError, match=r"\.part: was made with preset \"\", now it is"):
            evaluate_shard(cfg, model, Shard(index, 2))


def call(module, name, *arguments):
    """Return a pickle that calls a module's function by its name, dotted or not, with text."""
    texts = [pickle.SHORT_BINUNICODE + bytes([len(one)]) + one.encode() for one in (module, name, *arguments)]
    head, rest = texts[:2], texts[2:]
    words = [*head, pickle.STACK_GLOBAL, pickle.MARK, *rest, pickle.TUPLE, pickle.REDUCE, pickle.STOP]
    return b"\x80\x04" + b"".join(words)


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        zlib.compress(b"\x80"),
        # No data: a function, also of segzoo itself, or a class of another package.
        zlib.compress(pickle.dumps(runpy.run_path)),
        zlib.compress(pickle.dumps(evaluate)),
        zlib.compress(pickle.dumps(Path)),
        # An import of a segzoo module: by a dotted name, and by its own.
        zlib.compress(call("segzoo.cli.submission.slurm", "subprocess.Popen", "true")),
        zlib.compress(call("segzoo.engine.shard_files", "Path", "elsewhere")),
        # A class of segzoo that is no record, and a call of array reconstruction under another name.
        zlib.compress(call("segzoo.utils.errors", "InputError", "text")),
        zlib.compress(call("numpy.core.multiarray", "scalar.__class__", "text")),
        zlib.compress(call("builtins", "eval", "1")),
    ],
)
def test_a_damaged_part_is_named_and_its_images_are_scored_again_without_it(shapes, tmp_path, data):
    cfg, model = job(shapes, tmp_path)
    whole = evaluate_shard(cfg, model, Shard(1, 1))
    path = min((tmp_path / "inference/shards/shapes_val/1_of_1").glob("*.part"))
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"1_of_1/{path.name}: not a part of a shard .*; delete it"):
        evaluate_shard(cfg, model, Shard(1, 1))
    path.unlink()
    model.seen = 0
    assert evaluate_shard(cfg, model, Shard(1, 1)) == whole
    assert model.seen in (1, 2)  # the last part has one image


@dataclass
class Scored:
    first: int


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (torch.ones(1), r"it holds torch\._utils\._rebuild_tensor_v2, which is not plain data"),
        (Fraction(1, 2), r"it holds fractions\.Fraction, which is not plain data"),
        (lambda: 0, "Can't pickle"),
        (Counter("aab"), ""),
        (Scored(2), ""),
    ],
    ids=["tensor", "Fraction", "function", "Counter", "dataclass"],
)
def test_records_that_cannot_be_read_back_are_refused_before_they_are_kept(tmp_path, record, found):
    files = ShardFiles(tmp_path / "shards", {}, {Part.__module__, __name__})
    shard, part = Shard(1, 1), Part({}, ["a"], {}, {}, {"sem_seg": [], "mine": [("a", record)]})
    if found:
        message = rf"--shard: the records of the evaluator mine cannot be saved \({found}"
        with pytest.raises(InputError, match=message):
            files.write(shard, 0, part)
        assert not files.folder.exists()
        return
    files.write(shard, 0, part)
    assert list(files.read(shard)) == [part]


def test_a_shard_of_an_earlier_version_is_reported_and_starts_again(shapes, tmp_path, caplog):
    cfg, model = job(shapes, tmp_path)
    folder = tmp_path / "inference/shards/shapes_val"
    folder.mkdir(parents=True)
    (folder / "1_of_1.json").write_text('{"facts": {}, "total": 11}')
    assert evaluate_shard(cfg, model, Shard(1, 1))
    assert "1_of_1.json is of an earlier version and is not read" in caplog.text
    assert model.seen == IMAGES


class Components(nn.Module):
    """A model that predicts connected regions of similar brightness for all tasks; stops before `fail_at`."""

    def __init__(self):
        super().__init__()
        self.seen, self.fail_at = 0, None

    def forward(self, batched_inputs):
        return [self.answer(inputs) for inputs in batched_inputs]

    def answer(self, inputs):
        if self.seen == self.fail_at:
            raise KeyboardInterrupt
        self.seen += 1
        gray = inputs["image"].float().mean(0).numpy()
        shades = (gray // 52).astype(np.int64)
        ids = np.zeros(gray.shape, np.int32)
        for shade in np.unique(shades):
            parts, _ = ndimage.label(shades == shade)
            ids += np.where(parts > 0, parts + ids.max(), 0).astype(np.int32)
        kept = [number for number, count in enumerate(np.bincount(ids.ravel())) if count > 20]
        ids[~np.isin(ids, kept)] = 0
        segments = [
            {"id": number, "category_id": number % 11, "isthing": True, "score": (number % 7 + 1) / 7}
            for number in kept
            if number
        ]
        masks = np.stack([ids == one["id"] for one in segments])
        instances = Instances(gray.shape, pred_masks=torch.from_numpy(masks))
        instances.scores = torch.tensor([one["score"] for one in segments])
        instances.pred_classes = torch.tensor([one["category_id"] % 6 for one in segments])
        return {
            "sem_seg_labels": torch.from_numpy(ids.astype(np.uint8) % 11),
            "panoptic_seg": (torch.from_numpy(ids), segments),
            "entity_seg": (torch.from_numpy(ids), segments),
            "instances": instances,
        }


@pytest.mark.parametrize("saves", [False, True])
def test_all_tasks_merge_bitwise_equal(shapes, tmp_path, saves):
    tasks = ["TEST.TASKS", '("semantic", "panoptic", "entity", "instance")']
    tasks += ["TASK", "panoptic", "TEST.SAVE_PREDICTIONS", str(saves), "TEST.EVALUATORS", "('boundary',)"]
    cfg, _ = job(shapes, tmp_path / "whole", *tasks)
    whole = evaluate(cfg, Components())
    standard = ("sem_seg", "panoptic_seg", "entity_seg", "segm")
    assert set(whole) == {*standard, *(f"boundary_{key}" for key in standard)}
    assert min(whole["panoptic_seg"]["PQ"], whole["entity_seg"]["AP"], whole["segm"]["AP50"]) > 0
    for index, fail_at in ((3, None), (1, 2), (2, None), (1, None)):
        cfg, _ = job(shapes, tmp_path / "sharded", *tasks)
        model = Components()
        model.fail_at = fail_at
        if fail_at is None:
            found = evaluate_shard(cfg, model, Shard(index, 3))
        else:
            with pytest.raises(KeyboardInterrupt):
                evaluate_shard(cfg, model, Shard(index, 3))
    assert model.seen == 1  # two of three images were kept
    assert repr(found) == repr(dict(whole))  # repr: NaN equals NaN, floats bitwise
    assert outcome(tmp_path / "sharded") == outcome(tmp_path / "whole")
    written = [
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file() and path.suffix != ".part" and path.name not in ("results.json", "log.txt")
        }
        for name in ("whole", "sharded")
    ]
    assert written[0] == written[1]
    assert (Path("inference/predictions.json") in written[0]) == saves


def test_shards_of_other_evaluators_are_refused(shapes, tmp_path):
    cfg, model = job(shapes, tmp_path)
    evaluate_shard(cfg, model, Shard(1, 2))
    cfg, model = job(shapes, tmp_path, "TEST.EVALUATORS", "('boundary',)")
    with pytest.raises(InputError, match=r'made with scores \["sem_seg"\], now it is \["sem_seg", "boundary'):
        evaluate_shard(cfg, model, Shard(2, 2))


def test_shards_with_and_without_predictions_are_refused(shapes, tmp_path):
    cfg, model = job(shapes, tmp_path)
    evaluate_shard(cfg, model, Shard(1, 2))
    cfg, model = job(shapes, tmp_path, "TEST.SAVE_PREDICTIONS", "True")
    with pytest.raises(InputError, match="was made with save_predictions false, now it is true"):
        evaluate_shard(cfg, model, Shard(2, 2))


class Twice(Trainer):
    @classmethod
    def build_evaluators(cls, cfg, dataset_name):
        return [*super().build_evaluators(cfg, dataset_name), *super().build_evaluators(cfg, dataset_name)]


def test_two_evaluators_with_one_key_are_refused_before_scoring(shapes, tmp_path):
    cfg, model = job(shapes, tmp_path)
    message = "SemanticEvaluator and SemanticEvaluator both have the task_key 'sem_seg'; give one"
    with pytest.raises(InputError, match=message):
        evaluate_shard(cfg, model, Shard(1, 2), trainer=Twice)
    assert model.seen == 0


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4"])
def test_a_shard_is_i_of_n(text):
    with pytest.raises(InputError, match="expected i/n with 1 <= i <= n"):
        Shard.parse(text)


def test_the_command_line_shards_evaluations_only(shapes):
    with pytest.raises(InputError, match="--shard splits a test, not a training; add --eval-only"):
        build_parser().parse_args(["--config-file", "a.yaml", "--shard", "1/2"])
    arguments = build_parser().parse_args(["--config-file", "a.yaml", "--eval-only", "--shard", "1/2"])
    assert Shard.parse(arguments.shard) == Shard(1, 2)


def test_the_command_line_merges_its_shards(shapes, tmp_path):
    _, model = job(shapes, tmp_path)
    weights = tmp_path / "model.pth"
    torch.save({"model": model.state_dict()}, weights)
    overrides = ["MODEL.WEIGHTS", str(weights), "OUTPUT_DIR"]
    flags = ["--config-file", str(shapes), "--eval-only"]
    assert train_net.main([*flags, *overrides, str(tmp_path / "whole")]) == 0
    for index in (1, 2):
        assert train_net.main([*flags, "--shard", f"{index}/2", *overrides, str(tmp_path / "parts")]) == 0
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


# Protocols in evaluation.


def naive_miou(model, crop):
    """Return the mIoU under pytorch-cv's two protocols, from files and Pillow; `crop` None: whole image."""
    name, totals = "shapes_val", np.zeros((model.num_classes + 1,) * 2, np.int64)
    for record in DatasetCatalog.get(name):
        image = Image.open(record["file_name"]).convert("RGB")
        labels = Image.fromarray(np.asarray(MetadataCatalog.get(name).load_sem_seg(record)))
        if crop is not None:
            scale = crop / min(image.size)
            new = tuple(crop if side == min(image.size) else int(side * scale) for side in image.size)
            box = [round((side - crop) / 2) for side in new]
            box = (*box, *(side + crop for side in box))
            image = image.resize(new, Image.BILINEAR).crop(box)
            labels = labels.resize(new, Image.NEAREST).crop(box)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
        predicted = model.score_maps(pixels)[0].argmax(0).numpy().ravel()
        truth = np.asarray(labels).ravel().astype(np.int64)
        truth[truth == 255] = model.num_classes
        np.add.at(totals, (predicted, truth), 1)
    return semantic_metrics(totals)[0]["mIoU"]


def test_val_and_testval_differ_and_are_reproducible(shapes, tmp_path):
    numbers = {}
    for name, crop in (("gluon_val", 40), ("gluon_testval", None)):
        overrides = ["TEST.PROTOCOL", name, "TEST.INFERENCE.CROP_SIZE", str(crop)]
        for attempt in range(2):
            cfg, model = job(shapes, tmp_path / f"{name}{attempt}", *overrides)
            numbers[name, attempt] = evaluate(cfg, model)["sem_seg"]["mIoU"]
        with torch.no_grad():
            assert numbers[name, 0] == pytest.approx(naive_miou(model, crop), abs=1e-9)
        assert numbers[name, 0] == numbers[name, 1]
    assert numbers["gluon_val", 0] != numbers["gluon_testval", 0]
    with pytest.raises(InputError, match="not comparable: mode is"):
        compare_results(tmp_path / "gluon_val0/inference", tmp_path / "gluon_testval0/inference")
    compare_results(tmp_path / "gluon_val0/inference", tmp_path / "gluon_val1/inference")


def test_a_center_crop_is_not_saved_as_a_prediction_of_the_image(shapes, tmp_path):
    overrides = ["TEST.PROTOCOL", "gluon_val", "TEST.INFERENCE.CROP_SIZE", "40"]
    cfg, _ = job(shapes, tmp_path, *overrides, "TEST.SAVE_PREDICTIONS", "True")
    with pytest.raises(InputError, match="SAVE_PREDICTIONS False"):
        check_evaluation(cfg, Trainer)


def test_results_say_under_which_protocol_they_were_made(shapes, tmp_path):
    overrides = ["TEST.PROTOCOL", "semseg_ms", "TEST.INFERENCE.CROP_SIZE", "(33, 33)"]
    cfg, model = job(shapes, tmp_path, *overrides, "TEST.INFERENCE.BASE_SIZE", "48")
    evaluate(cfg, model)
    protocol = load_results(tmp_path / "inference")["protocol"]
    assert protocol["preset"] == "semseg_ms"
    assert protocol["mode"] == "slide"
    assert protocol["scales"] == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    assert (protocol["flip"], protocol["crop"], protocol["stride"]) == (True, [33, 33], [22, 22])
    assert protocol["input_size"] == {"resize": "long_edge", "base_size": 48, "interpolation": "float"}
    assert protocol["averaging"] == {
        "softmax": "window",
        "align_corners": False,
        "padding": "centered",
        "pad_value": "mean",
        "last_window": "clamped",
    }
    assert json.loads(json.dumps(describe_protocol(cfg, "", None))).items() <= protocol.items()
