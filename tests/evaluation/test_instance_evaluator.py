"""InstanceEvaluator against pycocotools used directly on the files, and hand-made cases."""

import contextlib
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from detectron2.utils import comm
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segzoo.data import register_dataset_file
from segzoo.evaluation import InstanceEvaluator, build_evaluator
from segzoo.evaluation.rescore import rescore
from segzoo.utils.errors import InputError
from tests.evaluation.evaluation_data import PanopticData, blobs

pytestmark = pytest.mark.usefixtures("forget_datasets")

SIZE = (120, 150)
# Ids with a gap, in another order than the classes.
CATEGORIES = [
    {"id": 9, "name": "a"},
    {"id": 2, "name": "b"},
    {"id": 40, "name": "never"},
    {"id": 5, "name": "c"},
]
CLASSES = ["b", "a", "never", "c"]
COCO_ID = {one["name"]: one["id"] for one in CATEGORIES}


def encode(mask):
    code = rle.encode(np.asfortranarray(mask, np.uint8))
    return {"size": code["size"], "counts": code["counts"].decode()}


def ellipse(row, column, height, width):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return ((rows - row) / height) ** 2 + ((columns - column) / width) ** 2 <= 1


class InstanceData:
    """A registered COCO dataset of overlapping ellipses, and predictions that are near some of them."""

    def __init__(self, folder: Path, num_images=7, seed=0):
        self.folder = folder
        generator = np.random.default_rng(seed)
        images, annotations, self.outputs = [], [], []
        (folder / "images").mkdir(parents=True)
        for number in range(num_images):
            image_id = 50 - 3 * number  # descending: COCOeval sorts
            Image.new("RGB", SIZE[::-1]).save(folder / f"images/{number}.png")
            entry = {"id": image_id, "file_name": f"{number}.png", "height": SIZE[0], "width": SIZE[1]}
            images.append(entry)
            masks, scores, classes = [], [], []
            for _ in range(generator.integers(0, 9)):
                radius = np.exp(generator.uniform(1, 4.5))  # areas of all three ranges
                sides = radius * generator.uniform(0.7, 1.4, 2)
                shape = np.array([*generator.integers(10, 110, 2), *sides])
                mask, name = ellipse(*shape), ("a", "b", "c")[generator.integers(3)]
                crowd = int(generator.random() < 0.2)
                fields = {"id": len(annotations) + 100, "image_id": image_id, "category_id": COCO_ID[name]}
                area = float(mask.sum()) * generator.choice([1, 0.98])  # as published, not recounted
                annotations.append({**fields, "segmentation": encode(mask), "iscrowd": crowd, "area": area})
                for _ in range(generator.integers(0, 3)):
                    masks.append(ellipse(*(shape + generator.normal(0, 1.2, 4))))
                    scores.append(generator.integers(1, 8) / 8)  # ties
                    other = generator.random() < 0.15
                    classes.append(int(generator.integers(4)) if other else CLASSES.index(name))
            self.outputs.append({"instances": instances(masks, scores, classes)})
        self.json = folder / "instances.json"
        self.json.write_text(
            json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES})
        )
        self.name = f"ellipses_{folder.name}"
        content = {"splits": {self.name: "x"}, "images": "images", "instances": "instances.json"}
        (folder / "ellipses.yaml").write_text(yaml.safe_dump({**content, "classes": CLASSES}))
        register_dataset_file(folder / "ellipses.yaml")
        order = {f"{number}.png": output for number, output in enumerate(self.outputs)}
        self.dataset_dicts = DatasetCatalog.get(self.name)
        self.outputs = [order[Path(one["file_name"]).name] for one in self.dataset_dicts]

    def peer(self, results=None):
        """The COCOeval of pycocotools on the JSON and the given results, or those of the outputs."""
        if results is None:
            results = []
            for record, output in zip(self.dataset_dicts, self.outputs, strict=True):
                found = output["instances"]
                rows = zip(found.pred_masks, found.scores.tolist(), found.pred_classes.tolist(), strict=True)
                for mask, score, index in rows:
                    fields = {"image_id": record["image_id"], "category_id": COCO_ID[CLASSES[index]]}
                    results.append({**fields, "score": score, "segmentation": encode(mask)})
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(self.json))
            evaluation = COCOeval(truth, truth.loadRes(results), "segm")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return evaluation


def instances(masks, scores, classes, size=SIZE):
    found = Instances(size)
    found.pred_masks = torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *size))
    found.scores = torch.tensor(scores, dtype=torch.float32)
    found.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return found


def evaluate(data, **options):
    evaluator = InstanceEvaluator(data.name, **options)
    evaluator.process(data.dataset_dicts, data.outputs)
    return evaluator.evaluate()["segm"]


NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@pytest.mark.parametrize("seed", range(3))
def test_all_numbers_are_those_of_pycocotools(tmp_path, seed):
    data = InstanceData(tmp_path / "data", seed=seed)
    peer = data.peer()
    metrics = evaluate(data, engine="pycocotools")
    assert [metrics[name] for name in NAMES] == pytest.approx(100 * peer.stats, abs=1e-12)
    assert 5 < metrics["AP"] < 95
    order = sorted(COCO_ID.values())
    for name in ("a", "b", "c"):
        precision = peer.eval["precision"][:, :, order.index(COCO_ID[name]), 0, -1]
        assert metrics[f"AP-{name}"] == pytest.approx(100 * precision.mean(), abs=1e-12)
    assert np.isnan(metrics["AP-never"])


@pytest.mark.parametrize("seed", range(3))
def test_faster_coco_eval_gives_equal_numbers(tmp_path, seed):
    pytest.importorskip("faster_coco_eval")
    data = InstanceData(tmp_path / "data", seed=seed, num_images=12)
    plain, faster = (InstanceEvaluator(data.name, engine=one) for one in ("pycocotools", "faster_coco_eval"))
    for evaluator in (plain, faster):
        evaluator.process(data.dataset_dicts, data.outputs)
    expected, found = plain.evaluate()["segm"], faster.evaluate()["segm"]
    assert found == pytest.approx(expected, rel=1e-13, nan_ok=True)  # one rounding apart
    np.testing.assert_allclose(faster.precision, plain.precision, rtol=1e-14)
    np.testing.assert_allclose(faster.recall, plain.recall, rtol=1e-14)


def truth_as_prediction(data, skip=lambda number: False):
    """The true masks that are no crowd, as outputs; `skip` leaves out the n-th of all."""
    coco, number, outputs = COCO(str(data.json)), 0, []
    for record in data.dataset_dicts:
        masks, classes = [], []
        for one in coco.loadAnns(coco.getAnnIds(imgIds=[record["image_id"]], iscrowd=False)):
            if not skip(number):
                masks.append(coco.annToMask(one))
                classes.append(CLASSES.index(coco.cats[one["category_id"]]["name"]))
            number += 1
        outputs.append({"instances": instances(masks, [0.5] * len(masks), classes)})
    return outputs


@pytest.mark.parametrize("engine", ["pycocotools", "faster_coco_eval", "hotcoco"])
def test_perfect_predictions_give_100_and_one_miss_less(tmp_path, engine):
    pytest.importorskip(engine)
    data = InstanceData(tmp_path / "data")
    data.outputs = truth_as_prediction(data)
    metrics = evaluate(data, engine=engine)
    names = ("AP", "AP50", "APs", "APm", "APl", "AP-a", "AP-b", "AP-c")
    assert [metrics[name] for name in names] == pytest.approx([100] * len(names))
    data.outputs = truth_as_prediction(data, skip=lambda number: number == 0)
    assert evaluate(data, engine=engine)["AP"] < 100


def test_one_of_two_found_is_half_of_the_recall_thresholds(tmp_path):
    """Recall 1/2 at precision 1: 51 of the 101 recall thresholds; of one class alone."""
    data = one_image(tmp_path, [(ellipse(40, 40, 20, 20), 0), (ellipse(40, 110, 20, 20), 0)])
    data.outputs = [{"instances": instances([ellipse(40, 40, 20, 20)], [0.9], [0])}]
    assert evaluate(data)["AP"] == pytest.approx(100 * 51 / 101)
    data.outputs = [{"instances": instances([], [], [])}]
    assert evaluate(data)["AP"] == 0


def test_a_prediction_on_a_crowd_is_ignored_and_elsewhere_wrong(tmp_path):
    single, crowd = ellipse(40, 40, 20, 20), ellipse(80, 100, 30, 40)
    data = one_image(tmp_path, [(single, 0), (crowd, 1)])
    masks = [ellipse(80, 90, 10, 10), ellipse(75, 110, 8, 8), single]
    data.outputs = [{"instances": instances(masks, [0.9, 0.8, 0.5], [0, 0, 0])}]
    assert evaluate(data)["AP"] == pytest.approx(100)  # both best-scoring ones lie on the crowd
    data.outputs = [{"instances": instances([ellipse(100, 10, 8, 8), single], [0.9, 0.5], [0, 0])}]
    assert evaluate(data)["AP"] == pytest.approx(50)


def one_image(folder, masks):
    """A dataset of one image with (mask, crowd flag) of class b; the ids in the file start at 0."""
    data = InstanceData(folder / "data", num_images=1)
    content = json.loads(data.json.read_text())
    content["annotations"] = [
        {"id": number, "image_id": 50, "category_id": 2, "segmentation": encode(mask), "iscrowd": crowd}
        for number, (mask, crowd) in enumerate(masks)
    ]
    data.json.write_text(json.dumps(content))
    data.dataset_dicts = DatasetCatalog.get(data.name)
    return data


def test_saved_predictions_are_cocos_results_with_the_jsons_ids(tmp_path):
    data = InstanceData(tmp_path / "data")
    metrics = evaluate(data, output_dir=tmp_path / "out", save_predictions=True)
    results = json.loads((tmp_path / "out/coco_instances_results.json").read_text())
    assert set(results[0]) == {"image_id", "category_id", "bbox", "score", "segmentation"}
    assert {one["category_id"] for one in results} <= set(COCO_ID.values())
    for one in results[:5]:
        rows, columns = np.nonzero(rle.decode(one["segmentation"]))
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert one["bbox"] == [float(side) for side in box]
    masks = [{key: value for key, value in one.items() if key != "bbox"} for one in results]
    assert metrics["AP"] == pytest.approx(100 * data.peer(masks).stats[0], abs=1e-12)


def test_saved_predictions_are_scored_again_alike(tmp_path):
    data = InstanceData(tmp_path / "data", seed=2)
    metrics = evaluate(data, output_dir=tmp_path / "out", save_predictions=True)
    again, _ = rescore(data.name, tmp_path / "out")
    assert repr(again) == repr({"segm": metrics})  # repr: to the bit, NaN included
    # Other programs write uncompressed RLEs and no boxes.
    file = tmp_path / "out/coco_instances_results.json"
    results = json.loads(file.read_text())
    for one in results:
        flat = rle.decode(one["segmentation"]).T.ravel()
        edges = np.flatnonzero(np.diff(flat)) + 1
        counts = np.diff([0, *edges, len(flat)]).tolist()
        one["segmentation"] = {"size": list(SIZE), "counts": [0, *counts] if flat[0] else counts}
        del one["bbox"]
    file.write_text(json.dumps(results))
    assert repr(rescore(data.name, tmp_path / "out", ["instance"])[0]) == repr(again)


def changed(**fields):
    """A change of the second entry; None takes a key away."""

    def change(results):
        results[1] = {key: value for key, value in (results[1] | fields).items() if value is not None}

    return change


WRONG_RESULTS = {
    "entry 1 is of image 3, which the dataset does not have": changed(image_id=3),
    "entry 1 lacks 'score', which COCO's results have": changed(score=None),
    'entry 1 has the score "high"; expected that of COCO': changed(score="high"),
    r"entry 1 has the image_id \[50\]; expected that of COCO's": changed(image_id=[50]),
    r"entry 1 has the category_id \{\}; expected that of COCO's": changed(category_id={}),
    'entry 1 has the segmentation "x"; expected that of COCO': changed(segmentation="x"),
    r"image \d+ has the class id 3, expected the ids of": changed(category_id=3),
    r"entry 1 has the segmentation \[\[0.*; expected that of COCO's results, an RLE": changed(
        segmentation=[[0, 0, 5, 0, 5, 5]]
    ),
    r"the predicted masks are 150 x 120 but the image is 120 x 150": lambda results: [
        one.update(segmentation={"size": [150, 120], "counts": [18000]}) for one in results
    ],
}


@pytest.mark.parametrize("message", WRONG_RESULTS)
def test_wrong_results_are_refused_in_one_line(tmp_path, message):
    data = InstanceData(tmp_path / "data", seed=2)
    evaluate(data, output_dir=tmp_path / "out", save_predictions=True)
    file = tmp_path / "out/coco_instances_results.json"
    results = json.loads(file.read_text())
    WRONG_RESULTS[message](results)
    file.write_text(json.dumps(results))
    with pytest.raises(InputError, match=message) as error:
        rescore(data.name, tmp_path / "out")
    assert "\n" not in str(error.value)
    for text, expected in (("{}", "is not a list"), ("[", "not a JSON file")):
        file.write_text(text)
        with pytest.raises(InputError, match=f"coco_instances_results.json: {expected}"):
            rescore(data.name, tmp_path / "out")
    file.unlink()
    with pytest.raises(InputError, match="no predictions found, expected one of coco_instances_results"):
        rescore(data.name, tmp_path / "out")


@pytest.mark.parametrize("shards", [[[0, 1, 2], [3, 4, 5, 6]], [[6, 1, 4], [], [0, 5, 3, 2]]])
def test_ranks_give_bitwise_the_numbers_of_one_process(tmp_path, monkeypatch, shards):
    data = InstanceData(tmp_path / "data", seed=4)
    alone = evaluate(data, scoring_threads=0)
    ranks = []
    for shard in shards:
        evaluator = InstanceEvaluator(data.name)
        for index in shard:
            evaluator.process([data.dataset_dicts[index]], [data.outputs[index]])
        evaluator.flush()
        ranks.append(evaluator)
    sent = [pickle.loads(pickle.dumps(evaluator.partial())) for evaluator in ranks]
    monkeypatch.setattr(comm, "get_world_size", lambda: len(shards))
    monkeypatch.setattr(comm, "synchronize", lambda: None)
    monkeypatch.setattr(comm, "gather", lambda part: sent)
    assert repr(ranks[0].evaluate()["segm"]) == repr(alone)


@pytest.mark.parametrize("things_only", [True, False])
def test_panoptic_ground_truth_gives_its_things(tmp_path, things_only):
    """Against pycocotools on masks cut out of the id maps; the classes that are no things come first."""
    data = PanopticData(tmp_path / "data", num_images=6, seed=3)
    metadata = MetadataCatalog.get(data.name)
    metadata.__dict__["isthing"] = [not one for one in data.isthing]
    things = [index for index, thing in enumerate(metadata.isthing) if thing]
    annotations, results, outputs, images = [], [], [], []
    generator = np.random.default_rng(1)
    for record, (ids, segments) in zip(data.dataset_dicts, data.ground_truths, strict=True):
        images.append({"id": record["image_id"], "height": ids.shape[0], "width": ids.shape[1]})
        for one in segments:
            mask = ids == one["id"]
            if one["category_id"] in things:
                fields = {"id": len(annotations) + 1, "image_id": record["image_id"], "area": int(mask.sum())}
                fields |= {"category_id": one["category_id"], "iscrowd": one["iscrowd"]}
                annotations.append({**fields, "segmentation": encode(mask)})
        regions = blobs(generator, *ids.shape, 5)
        masks = [regions == region for region in range(5)] + [ids == one["id"] for one in segments]
        chosen = generator.choice(things, len(masks))
        chosen[5:] = [one["category_id"] if one["category_id"] in things else things[0] for one in segments]
        scores = (generator.integers(1, 9, len(masks)) / 8).tolist()
        classes = [things.index(one) if things_only else int(one) for one in chosen]
        outputs.append({"instances": instances(masks, scores, classes, ids.shape)})
        for mask, score, category in zip(masks, scores, chosen, strict=True):
            fields = {"image_id": record["image_id"], "category_id": int(category), "score": score}
            results.append({**fields, "segmentation": encode(mask)})
    truth = COCO()
    truth.dataset = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": one} for one in things],
    }
    truth.createIndex()
    peer = COCOeval(truth, truth.loadRes(results), "segm")
    peer.evaluate()
    peer.accumulate()
    peer.summarize()
    model_classes = None if things_only else metadata.classes
    evaluators = build_evaluator(data.name, ["instance"], model_classes=model_classes)
    evaluators.process(data.dataset_dicts, outputs)
    metrics = evaluators.evaluate()["segm"]
    expected = np.where(peer.stats < 0, np.nan, 100 * peer.stats)
    assert [metrics[name] for name in NAMES] == pytest.approx(list(expected), nan_ok=True, abs=1e-12)
    assert metrics["AP"] > 5
    assert {name for name in metrics if "-" in name} == {f"AP-class{index}" for index in things}


def test_a_model_of_more_classes_is_scored_on_those_of_the_dataset(tmp_path):
    """As a panoptic model on the instances of its things: classes are told by name, not by number."""
    data = InstanceData(tmp_path / "data", seed=1)
    expected = evaluate(data)
    known = ["sky", "c", "grass", "never", "b", "a"]
    for output in data.outputs:
        found = output["instances"]
        names = [CLASSES[index] for index in found.pred_classes.tolist()]
        found.pred_classes = torch.tensor([known.index(name) for name in names], dtype=torch.int64)
    assert repr(evaluate(data, model_classes=known)) == repr(expected)
    data.outputs[0]["instances"] = instances([ellipse(40, 40, 20, 20)], [0.5], [2])
    with pytest.raises(
        InputError, match="an instance has the class 'grass', which ellipses_data does not have"
    ):
        evaluate(data, model_classes=known)


WRONG = {
    r"an instance has the class 4, expected one of \[0, 4\)": ([1], [0.5], [4], SIZE),
    "an instance has the score nan": ([1], [float("nan")], [0], SIZE),
    r"the predicted masks are 5 x 5 but the image is 120 x 150": ([1], [0.5], [0], (5, 5)),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_prediction_is_refused_with_its_image(tmp_path, message):
    data = InstanceData(tmp_path / "data", num_images=1)
    masks, scores, classes, size = WRONG[message]
    output = {"instances": instances([np.ones(size)] * len(masks), scores, classes, size)}
    data.outputs = [output]
    with pytest.raises(InputError, match=f"0.png: .*{message}") as error:
        evaluate(data, scoring_threads=0)
    assert "\n" not in str(error.value)


def test_what_cannot_be_scored_is_refused(tmp_path):
    data = InstanceData(tmp_path / "data", num_images=1)
    with pytest.raises(InputError, match="the model returned sem_seg, expected instances"):
        InstanceEvaluator(data.name).process(data.dataset_dicts, [{"sem_seg": None}])
    found = instances([], [], [])
    found.remove("scores")
    with pytest.raises(InputError, match="the predicted instances lack scores"):
        InstanceEvaluator(data.name).process(data.dataset_dicts, [{"instances": found}])
    with pytest.raises(InputError, match="cannot score 'panoptic'; expected some of instance"):
        build_evaluator(data.name, ["panoptic"])
    stuff = PanopticData(tmp_path / "stuff", num_images=1)
    MetadataCatalog.get(stuff.name).__dict__["isthing"] = [False] * stuff.num_classes
    with pytest.raises(InputError, match="has no thing classes and so no instances"):
        build_evaluator(stuff.name, ["instance"])
    with pytest.raises(InputError, match="COCO evaluation by 'fast': expected pycocotools, faster_coco"):
        evaluate(data, engine="fast")
