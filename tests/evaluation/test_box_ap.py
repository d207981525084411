"""Box AP of InstanceEvaluator against pycocotools on the same files, to the last bit."""

import contextlib
import io
import json
import pickle

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segzoo.data import register_dataset_file
from segzoo.evaluation import InstanceEvaluator, build_evaluator, registry
from segzoo.evaluation.boundary import BoundaryInstanceEvaluator
from segzoo.evaluation.rescore import rescore
from segzoo.utils.errors import InputError
from tests.evaluation.evaluation_data import PanopticData

pytestmark = pytest.mark.usefixtures("forget_datasets")

SIZE = (160, 200)
CATEGORIES = [{"id": 9, "name": "a"}, {"id": 2, "name": "b"}, {"id": 40, "name": "never"}]
CLASSES = ["b", "a", "never"]
COCO_ID = {one["name"]: one["id"] for one in CATEGORIES}
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def encode(mask):
    code = rle.encode(np.asfortranarray(mask, np.uint8))
    return {"size": code["size"], "counts": code["counts"].decode()}


def filled(x0, y0, x1, y1):
    mask = np.zeros(SIZE, bool)
    mask[max(round(y0), 0) : max(round(y1), 0), max(round(x0), 0) : max(round(x1), 0)] = True
    return mask


class BoxData:
    """A registered COCO dataset whose JSON boxes differ from its masks, and predicted boxes near them.

    It has crowds, objects of all sizes, equal scores, images without objects or without predictions, more
    than 100 predictions of a class in one image, and boxes outside of the image and of no area.
    """

    def __init__(self, folder, seed=0, num_images=8):
        generator = np.random.default_rng(seed)
        images, annotations, outputs = [], [], {}
        (folder / "images").mkdir(parents=True)
        for number in range(num_images):
            image_id, name = 70 - 3 * number, f"{number}.png"  # descending: COCOeval sorts
            Image.new("RGB", SIZE[::-1]).save(folder / "images" / name)
            images.append({"id": image_id, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
            found = []
            for index in range(0 if number == 2 else generator.integers(1, 9)):
                center = generator.uniform((10, 10), (190, 150))
                sides = np.exp(generator.uniform(1.5, 5)) * generator.uniform(0.6, 1.5, 2)
                box = np.concatenate([center - sides / 2, center + sides / 2])
                category = ("a", "b")[generator.integers(2)]
                mask = filled(*box)
                exact = [*box[:2].tolist(), *sides.tolist()]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": COCO_ID[category],
                        "iscrowd": int(generator.random() < 0.25),
                        "segmentation": encode(mask),
                        "bbox": exact,
                        "area": float(sides.prod() * generator.uniform(0.5, 1)),
                    }
                )
                copies = 130 if (number, index) == (1, 0) else generator.integers(0, 4)
                for _ in range(0 if number == 3 else copies):
                    near = box + generator.normal(0, 0.04, 4) * sides.mean()
                    shift = (0, 0, 0, 0) if generator.random() > 0.1 else (150, 90, 150, 90)
                    near = np.add(near, shift)  # some are partly outside
                    near[2] = near[2] if generator.random() > 0.1 else near[0]  # no area
                    category_index = CLASSES.index(category) if generator.random() < 0.9 else 2
                    found.append((near, generator.integers(1, 9) / 8, category_index))
            outputs[name] = {"instances": instances(found)}
        self.json = folder / "instances.json"
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        self.json.write_text(json.dumps(content))
        self.name = f"boxes_{folder.parent.name}_{folder.name}"
        content = {"splits": {self.name: "x"}, "images": "images", "instances": "instances.json"}
        (folder / "boxes.yaml").write_text(yaml.safe_dump({**content, "classes": CLASSES}))
        register_dataset_file(folder / "boxes.yaml")
        self.dataset_dicts = DatasetCatalog.get(self.name)
        self.outputs = [outputs[one["file_name"].rsplit("/", 1)[1]] for one in self.dataset_dicts]

    def results(self):
        """The predictions in COCO's results format: sides are float32 differences, as in Detectron2."""
        results = []
        for record, output in zip(self.dataset_dicts, self.outputs, strict=True):
            found = output["instances"]
            corners = found.pred_boxes.tensor.numpy()
            boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).tolist()
            rows = zip(
                boxes, found.pred_masks, found.scores.tolist(), found.pred_classes.tolist(), strict=True
            )
            for box, mask, score, index in rows:
                one = {"image_id": record["image_id"], "category_id": COCO_ID[CLASSES[index]], "bbox": box}
                results.append({**one, "score": score, "segmentation": encode(mask)})
        return results


def instances(found, size=SIZE):
    """Instances from (box x0 y0 x1 y1, score, class); the mask is the part of the box in the image."""
    corners, scores, classes = zip(*found, strict=True) if found else ((), (), ())
    masks = np.array([filled(*box) for box in corners], bool).reshape(-1, *size)
    result = Instances(size, pred_masks=torch.from_numpy(masks))
    result.pred_boxes = Boxes(torch.tensor(np.array(corners).reshape(-1, 4), dtype=torch.float32))
    result.scores = torch.tensor(scores, dtype=torch.float32)
    result.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return result


def of_masks(output):
    """The output with the boxes of its masks, x1 and y1 exclusive."""
    found = output["instances"]
    corners = []
    for mask in found.pred_masks.numpy():
        rows, columns = np.nonzero(mask)
        corners.append(
            [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0] * 4
        )
    changed = Instances(found.image_size, **found.get_fields())
    changed.pred_boxes = Boxes(torch.tensor(corners, dtype=torch.float32).reshape(-1, 4))
    return {"instances": changed}


def peer(truth, results, iou_type="bbox"):
    """COCOeval after `summarize`; `truth` is a JSON file or a COCO."""
    if iou_type == "segm":  # else sizes are those of boxes
        results = [{key: value for key, value in one.items() if key != "bbox"} for one in results]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = truth if isinstance(truth, COCO) else COCO(str(truth))
        evaluation = COCOeval(truth, truth.loadRes(results), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def evaluate(data, **options):
    evaluator = InstanceEvaluator(data.name, **options)
    evaluator.process(data.dataset_dicts, data.outputs)
    return evaluator.evaluate(), evaluator


@pytest.mark.parametrize("seed", range(4))
def test_both_are_those_of_pycocotools_to_the_last_bit(tmp_path, seed):
    data = BoxData(tmp_path / "data", seed)
    results, evaluator = evaluate(data, engine="pycocotools")
    assert list(results) == ["segm", "bbox"]
    order = np.argsort([COCO_ID[name] for name in CLASSES])  # COCOeval has ascending ids
    computed = {"bbox": (evaluator.box_precision, evaluator.box_recall)}
    computed["segm"] = evaluator.precision, evaluator.recall
    for key, (precision, recall) in computed.items():
        expected = peer(data.json, data.results(), key)
        np.testing.assert_array_equal(precision[:, :, order], expected.eval["precision"])
        np.testing.assert_array_equal(recall[:, order], expected.eval["recall"])
        # Means over arrays in another order of classes differ by roundings.
        assert [results[key][name] for name in NAMES] == pytest.approx(100 * expected.stats, abs=1e-12)
        for index, name in enumerate(("b", "a")):
            of_class = expected.eval["precision"][:, :, index, 0, -1]
            assert results[key][f"AP-{name}"] == pytest.approx(100 * of_class.mean(), abs=1e-12)
        assert np.isnan(results[key]["AP-never"])
    assert 5 < results["bbox"]["AP"] < 95
    assert results["bbox"]["AP"] != results["segm"]["AP"]
    assert all(results["bbox"][name] > 0 for name in ("APs", "APm", "APl"))


def test_equal_scores_are_ordered_by_image_id_in_any_order_of_the_dataset(tmp_path):
    data = BoxData(tmp_path / "data", seed=1)
    data.dataset_dicts, data.outputs = data.dataset_dicts[::-1], data.outputs[::-1]
    DatasetCatalog.pop(data.name)
    DatasetCatalog.register(data.name, lambda: data.dataset_dicts)
    results, evaluator = evaluate(data, engine="pycocotools")
    expected = peer(data.json, data.results())
    order = np.argsort([COCO_ID[name] for name in CLASSES])
    np.testing.assert_array_equal(evaluator.box_precision[:, :, order], expected.eval["precision"])
    assert results["bbox"]["AP"] == pytest.approx(100 * expected.stats[0], abs=1e-12)


def test_faster_coco_eval_gives_equal_box_numbers(tmp_path):
    pytest.importorskip("faster_coco_eval")
    data = BoxData(tmp_path / "data", seed=1)
    _, plain = evaluate(data, engine="pycocotools")
    _, faster = evaluate(data, engine="faster_coco_eval")
    np.testing.assert_allclose(faster.box_precision, plain.box_precision, rtol=1e-14)
    np.testing.assert_allclose(faster.box_recall, plain.box_recall, rtol=1e-14)


def test_both_are_those_of_detectron2s_evaluator(tmp_path):
    """Detectron2 asks for the tasks "bbox" and "segm" by itself if there are boxes and masks."""
    data = BoxData(tmp_path / "data", seed=2)
    results, _ = evaluate(data, engine="pycocotools")
    metadata = MetadataCatalog.get(f"{data.name}_detectron2")
    classes = [one["name"] for one in sorted(CATEGORIES, key=lambda one: one["id"])]
    ids = {one["id"]: classes.index(one["name"]) for one in CATEGORIES}
    metadata.set(json_file=str(data.json), thing_classes=classes, thing_dataset_id_to_contiguous_id=ids)
    theirs = COCOEvaluator(metadata.name, distributed=False, use_fast_impl=False)
    theirs.reset()
    for output in data.outputs:
        found = output["instances"]
        names = [CLASSES[index] for index in found.pred_classes.tolist()]
        found.pred_classes = torch.tensor([classes.index(name) for name in names], dtype=torch.int64)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs.process(data.dataset_dicts, data.outputs)
        expected = theirs.evaluate()
    MetadataCatalog.pop(metadata.name)
    assert set(expected) == set(results)
    for key, metrics in expected.items():
        found = {name: results[key][name] for name in metrics}
        assert found == pytest.approx(metrics, abs=1e-12, nan_ok=True)


def test_true_boxes_of_no_area_are_matched_as_in_pycocotools(tmp_path):
    """Such a box in a JSON is measured from the mask; a dataset that brings its own reader keeps it."""
    data = BoxData(tmp_path / "data", seed=3)
    content = json.loads(data.json.read_text())
    for one in content["annotations"][::3]:
        one["bbox"][2] = 0.0
    data.json.write_text(json.dumps(content))
    metadata = MetadataCatalog.get(data.name)
    index = {one["id"]: CLASSES.index(one["name"]) for one in CATEGORIES}

    def load(record):
        found = [one for one in content["annotations"] if one["image_id"] == record["image_id"]]
        return [{**one, "category_id": index[one["category_id"]]} for one in found]

    metadata.__dict__["load_instances"] = load
    results, _ = evaluate(data, engine="pycocotools")
    expected = peer(data.json, data.results()).stats
    assert [results["bbox"][name] for name in NAMES] == pytest.approx(100 * expected, abs=1e-12)


@pytest.mark.parametrize("boxes", ["the JSON's", "of the masks"])
def test_a_json_without_boxes_has_those_of_its_masks(tmp_path, boxes):
    data = BoxData(tmp_path / "data", seed=1)
    content = json.loads(data.json.read_text())
    for one in content["annotations"]:
        del one["bbox"]
    without = json.dumps(content)
    for one in content["annotations"]:
        one["bbox"] = rle.toBbox(one["segmentation"]).tolist()
    if boxes == "of the masks":
        data.json.write_text(without)
        data.dataset_dicts = DatasetCatalog.get(data.name)
    results, _ = evaluate(data, engine="pycocotools")
    if boxes == "of the masks":
        data.json.write_text(json.dumps(content))
    expected = peer(data.json, data.results()).stats
    assert [results["bbox"][name] for name in NAMES] == pytest.approx(100 * expected, abs=1e-12)


def test_panoptic_ground_truth_has_the_boxes_of_its_segments(tmp_path):
    data = PanopticData(tmp_path / "data", num_images=5, seed=3)
    things = [index for index, thing in enumerate(data.isthing) if thing]
    images, annotations, results, outputs = [], [], [], []
    generator = np.random.default_rng(0)
    for record, (ids, segments) in zip(data.dataset_dicts, data.ground_truths, strict=True):
        images.append({"id": record["image_id"], "height": ids.shape[0], "width": ids.shape[1]})
        masks, corners, classes = [], [], []
        for one in segments:
            if one["category_id"] not in things:
                continue
            mask = ids == one["id"]
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            fields = {"image_id": record["image_id"], "category_id": one["category_id"]}
            fields |= {"id": len(annotations) + 1, "iscrowd": one["iscrowd"], "area": int(mask.sum())}
            annotations.append({**fields, "bbox": [float(side) for side in box]})
            near = np.float32([box[0], box[1], box[0] + box[2], box[1] + box[3]])
            near += np.float32(generator.normal(0, 0.1, 4) * max(box[2:]))
            masks.append(mask)
            corners.append(near)
            classes.append(things.index(one["category_id"]))
            side = (near[2:] - near[:2]).tolist()
            fields = {"image_id": record["image_id"], "category_id": one["category_id"], "score": 0.5}
            results.append({**fields, "bbox": [*near[:2].tolist(), *side]})
        found = Instances(ids.shape, pred_masks=np.array(masks, bool).reshape(-1, *ids.shape))
        found.pred_boxes = Boxes(torch.from_numpy(np.array(corners, np.float32).reshape(-1, 4)))
        found.scores, found.pred_classes = np.full(len(masks), 0.5), np.array(classes, np.int64)
        outputs.append({"instances": found})
    truth = COCO()
    categories = [{"id": one} for one in things]
    truth.dataset = {"images": images, "annotations": annotations, "categories": categories}
    truth.createIndex()
    evaluators = build_evaluator(data.name, ["instance"])
    evaluators.process(data.dataset_dicts, outputs)
    metrics = evaluators.evaluate()["bbox"]
    stats = peer(truth, results).stats
    expected = np.where(stats < 0, np.nan, 100 * stats)
    assert [metrics[name] for name in NAMES] == pytest.approx(list(expected), nan_ok=True, abs=1e-12)
    assert 5 < metrics["AP"] < 95


# Which models have box AP.


def test_boxes_of_masks_are_scored_if_asked_for(tmp_path):
    data = BoxData(tmp_path / "data")
    predicted = data.outputs
    data.outputs = [of_masks(output) for output in predicted]
    expected = peer(data.json, data.results()).stats
    default, evaluator = evaluate(data, engine="pycocotools")
    assert list(default) == ["segm"]
    assert all(record.boxes is None for _, record in evaluator.records)  # nothing more is gathered
    assert evaluate(data, box_ap="never")[0].keys() == {"segm"}
    always = evaluate(data, box_ap="always", engine="pycocotools")[0]
    assert [always["bbox"][name] for name in NAMES] == pytest.approx(100 * expected, abs=1e-12)
    for output in data.outputs:
        output["instances"].remove("pred_boxes")
    assert list(evaluate(data)[0]) == ["segm"]
    assert repr(evaluate(data, box_ap="always", engine="pycocotools")[0]) == repr(always)
    data.outputs = predicted
    assert evaluate(data, box_ap="never")[0].keys() == {"segm"}


def test_zeros_are_no_boxes_unless_another_is_predicted(tmp_path):
    """Mask2Former's own code fills its boxes with zeros."""
    data = BoxData(tmp_path / "data", seed=1)
    for output in data.outputs[1:]:
        found = output["instances"]
        found.pred_boxes = Boxes(torch.zeros(len(found), 4))
    results = evaluate(data, engine="pycocotools")[0]
    expected = peer(data.json, data.results()).stats
    assert [results["bbox"][name] for name in NAMES] == pytest.approx(100 * expected, abs=1e-12)
    found = data.outputs[0]["instances"]
    found.pred_boxes = Boxes(torch.zeros(len(found), 4))
    assert list(evaluate(data)[0]) == ["segm"]


def test_boundary_ap_has_no_boxes(tmp_path):
    data = BoxData(tmp_path / "data")
    evaluator = BoundaryInstanceEvaluator(data.name)
    evaluator.process(data.dataset_dicts, data.outputs)
    assert list(evaluator.evaluate()) == ["boundary_segm"]
    evaluators = build_evaluator(data.name, ["instance"], names=["boundary"])
    evaluators.process(data.dataset_dicts, data.outputs)
    assert list(evaluators.evaluate()) == ["segm", "bbox", "boundary_segm"]


def test_another_evaluator_of_the_key_bbox_is_refused(tmp_path, monkeypatch):
    data = BoxData(tmp_path / "data", num_images=1)
    evaluators = {pair: list(registered) for pair, registered in registry._EVALUATORS.items()}
    monkeypatch.setattr(registry, "_EVALUATORS", evaluators)

    class Own(InstanceEvaluator):
        task_key = "bbox"
        box_key, other_keys = None, ()

    registry.register_evaluator("coco_instances", "instance", Own)
    with pytest.raises(InputError, match="InstanceEvaluator and Own both report 'bbox' on boxes_"):
        build_evaluator(data.name, ["instance"])


# Ranks, files, wrong input.


def test_ranks_give_bitwise_the_boxes_of_one_process(tmp_path, monkeypatch):
    data = BoxData(tmp_path / "data", seed=4)
    alone, _ = evaluate(data, scoring_threads=0)
    ranks = []
    for shard in ([7, 1, 4], [], [0, 5, 3, 2, 6]):
        evaluator = InstanceEvaluator(data.name)
        for index in shard:
            evaluator.process([data.dataset_dicts[index]], [data.outputs[index]])
        evaluator.flush()
        ranks.append(evaluator)
    sent = [pickle.loads(pickle.dumps(evaluator.partial())) for evaluator in ranks]
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    monkeypatch.setattr(comm, "synchronize", lambda: None)
    monkeypatch.setattr(comm, "gather", lambda part: sent)
    assert repr(ranks[0].evaluate()) == repr(alone)


def test_saved_boxes_are_the_predicted_ones_and_scored_again_alike(tmp_path):
    data = BoxData(tmp_path / "data", seed=2)
    results, _ = evaluate(data, output_dir=tmp_path / "out", save_predictions=True)
    file = tmp_path / "out/coco_instances_results.json"
    key = json.dumps
    assert sorted(json.loads(file.read_text()), key=key) == sorted(data.results(), key=key)
    again, path = rescore(data.name, tmp_path / "out")
    assert repr(again) == repr(dict(results))
    assert set(json.loads(path.read_text())["results"][data.name]) == {"segm", "bbox"}
    assert list(rescore(data.name, tmp_path / "out", box_ap="never")[0]) == ["segm"]
    # "never" does not change the file.
    evaluate(data, output_dir=tmp_path / "never", save_predictions=True, box_ap="never")
    assert (tmp_path / "never/coco_instances_results.json").read_text() == file.read_text()


def test_saved_boxes_of_masks_are_scored_again_alike(tmp_path):
    data = BoxData(tmp_path / "data", seed=2)
    data.outputs = [of_masks(output) for output in data.outputs]
    results, _ = evaluate(data, output_dir=tmp_path / "out", save_predictions=True)
    assert repr(rescore(data.name, tmp_path / "out")[0]) == repr(dict(results))
    assert list(results) == ["segm"]
    always, _ = evaluate(data, box_ap="always")
    assert repr(rescore(data.name, tmp_path / "out", box_ap="always")[0]) == repr(dict(always))


def test_entries_without_a_box_have_that_of_their_mask(tmp_path):
    data = BoxData(tmp_path / "data", seed=2)
    evaluate(data, output_dir=tmp_path / "out", save_predictions=True)
    file = tmp_path / "out/coco_instances_results.json"
    entries = json.loads(file.read_text())
    for one in entries[::2]:
        one["bbox"] = rle.toBbox(one["segmentation"]).tolist()
    file.write_text(json.dumps(entries))
    expected = rescore(data.name, tmp_path / "out")[0]
    for number, one in enumerate(entries[::2]):
        one["bbox"] = ([], None)[number % 2]
        if number % 3 == 0:
            del one["bbox"]
    file.write_text(json.dumps(entries))
    assert repr(rescore(data.name, tmp_path / "out")[0]) == repr(expected)


@pytest.mark.parametrize("box", [[1, 2, 3], "x", [1, 2, 3, None], [1, 2, 3, True], [1, 2, 3, float("inf")]])
def test_a_wrong_box_in_a_file_is_refused_in_one_line(tmp_path, box):
    data = BoxData(tmp_path / "data", seed=2)
    evaluate(data, output_dir=tmp_path / "out", save_predictions=True)
    file = tmp_path / "out/coco_instances_results.json"
    entries = json.loads(file.read_text())
    entries[1]["bbox"] = box
    file.write_text(json.dumps(entries))
    with pytest.raises(
        InputError, match=r"entry 1 has the bbox .*; expected \[x, y, width, height\]"
    ) as error:
        rescore(data.name, tmp_path / "out")
    assert "\n" not in str(error.value)


def test_wrong_boxes_and_options_are_refused_in_one_line(tmp_path):
    data = BoxData(tmp_path / "data", num_images=1)
    found = instances([([1, 2, 3, 4], 0.5, 0)])
    data.outputs = [{"instances": found}]
    found.set("pred_boxes", torch.zeros(1, 5))
    with pytest.raises(InputError, match=r"0.png: pred_boxes has the shape \(1, 5\), expected \(1, 4\)"):
        evaluate(data)
    found.set("pred_boxes", torch.tensor([[0.0, 1.0, float("nan"), 3.0]]))
    with pytest.raises(InputError, match=r"0.png: an instance has the box \[0.0, 1.0, nan, 3.0\]"):
        evaluate(data)
    with pytest.raises(InputError, match="box_ap 'yes': expected one of predicted, always, never"):
        InstanceEvaluator(data.name, box_ap="yes")
    found.set("pred_boxes", torch.tensor([[0.0, 1.0, 2.0, 3.0]], dtype=torch.bfloat16))
    assert "bbox" in evaluate(data)[0]
