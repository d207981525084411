"""Predictions on COCO's test-dev: the files that its server reads, for the listed images alone."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from panopticapi.utils import rgb2id
from PIL import Image
from pycocotools import mask as mask_tools
from pycocotools.coco import COCO

from segzoo.evaluation import build_evaluator
from segzoo.utils.errors import InputError
from tests.data.data_trees import datasets_folder, random_image, save  # noqa: F401  a fixture


@pytest.fixture
def test_dev(datasets_folder):  # noqa: F811
    """Three test images, of which two are in test-dev."""
    for number in (1, 16, 25):
        save(datasets_folder / f"coco/test2017/{number:012d}.jpg", random_image(3, 4, number))
    images = [{"id": one, "file_name": f"{one:012d}.jpg", "height": 3, "width": 4} for one in (16, 1)]
    file = datasets_folder / "coco/annotations/image_info_test-dev2017.json"
    file.parent.mkdir()
    # It has no annotations.
    file.write_text(json.dumps({"images": images, "categories": []}))
    return file


def test_panoptic_predictions_have_cocos_ids(test_dev, tmp_path):
    records = DatasetCatalog.get("coco_2017_test_dev_panoptic")
    assert [one["image_id"] for one in records] == [16, 1]
    evaluator = build_evaluator("coco_2017_test_dev_panoptic", ["panoptic"], tmp_path)
    ids = np.array([[1, 1, 1, 1], [1, 300, 300, 0], [0, 0, 0, 0]])
    # Contiguous classes: 79 is toothbrush (90), 132 rug-merged (200).
    segments = [
        {"id": 1, "category_id": 132, "isthing": False},
        {"id": 300, "category_id": 79, "isthing": True, "score": 0.5},
    ]
    for record in records:
        evaluator.process(
            [record], [{"panoptic_seg": (torch.from_numpy(ids), [dict(one) for one in segments])}]
        )
    assert evaluator.evaluate() == {"panoptic_predictions": {"images": 2}}
    written = json.loads((tmp_path / "predictions.json").read_text())["annotations"]
    assert [one["image_id"] for one in written] == [16, 1]
    for one in written:
        assert one["file_name"] == f"{one['image_id']:012d}.png"
        assert [(s["id"], s["category_id"]) for s in one["segments_info"]] == [(1, 200), (300, 90)]
        png = np.array(Image.open(tmp_path / "predictions" / one["file_name"]))
        assert np.array_equal(rgb2id(png), ids)


@pytest.mark.parametrize("dataset", ["coco_2017_test_dev_instances", "coco_2017_test_dev_panoptic"])
def test_instances_are_written_as_cocos_results(test_dev, tmp_path, dataset):
    records = DatasetCatalog.get(dataset)
    evaluator = build_evaluator(dataset, ["instance"], tmp_path)
    masks = np.zeros((2, 3, 4), bool)
    masks[0, 1:, 1:3] = masks[1, 0, 3] = True
    masks[0, 1, 1] = False
    found = Instances((3, 4), pred_masks=torch.from_numpy(masks), scores=torch.tensor([0.75, 0.25]))
    found.pred_classes = torch.tensor([79, 0])
    for record in records:
        evaluator.process([record], [{"instances": found}])
    assert evaluator.evaluate() == {"instance_predictions": {"images": 2}}
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert [(one["image_id"], one["category_id"], one["score"]) for one in written] == [
        (1, 90, 0.75),
        (1, 1, 0.25),
        (16, 90, 0.75),
        (16, 1, 0.25),
    ]
    for one, mask in zip(written, [*masks, *masks], strict=True):
        assert np.array_equal(mask_tools.decode(one["segmentation"]), mask)
    # As COCO's tools read them: areas are those of the masks.
    listed = COCO(str(test_dev))
    read = listed.loadRes(str(tmp_path / "coco_instances_results.json"))
    assert sorted(one["area"] for one in read.loadAnns(read.getAnnIds(imgIds=[16]))) == [1, 3]


def test_predicted_boxes_are_written_and_not_scored(test_dev, tmp_path):
    (record, _) = DatasetCatalog.get("coco_2017_test_dev_instances")
    evaluator = build_evaluator("coco_2017_test_dev_instances", ["instance"], tmp_path)
    found = Instances((3, 4), pred_masks=torch.ones(1, 3, 4, dtype=torch.bool), scores=torch.ones(1))
    found.pred_classes, found.pred_boxes = torch.tensor([0]), Boxes(torch.tensor([[0.5, 0.25, 3.5, 2.5]]))
    evaluator.process([record], [{"instances": found}])
    assert evaluator.evaluate() == {"instance_predictions": {"images": 1}}
    (written,) = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert written["bbox"] == [0.5, 0.25, 3, 2.25]


def test_an_unreadable_list_is_named(test_dev, tmp_path):
    test_dev.write_text('{"images": 3}')
    with pytest.raises(InputError, match=r"image_info_test-dev2017.json: has no list 'images'"):
        DatasetCatalog.get("coco_2017_test_dev_panoptic")
    with pytest.raises(InputError, match=r"image_info_test-dev2017.json: has no list 'images'"):
        DatasetCatalog.get("coco_2017_test_dev_stuff_sem_seg")
    test_dev.unlink()
    with pytest.raises(InputError, match=r"no list .*image_info_test-dev2017.json; "):
        DatasetCatalog.get("coco_2017_test_dev_stuff_sem_seg")
    # Without the list, all images of the folder, with the ids of their names.
    records = DatasetCatalog.get("coco_2017_test_dev_panoptic")
    evaluator = build_evaluator("coco_2017_test_dev_panoptic", ["panoptic"], tmp_path)
    ids, segments = torch.ones(3, 4, dtype=torch.int64), [{"id": 1, "category_id": 0, "isthing": True}]
    for record in records:
        evaluator.process([record], [{"panoptic_seg": (ids, [dict(one) for one in segments])}])
    evaluator.evaluate()
    written = json.loads((tmp_path / "predictions.json").read_text())["annotations"]
    assert [one["image_id"] for one in written] == [1, 16, 25]
    records = DatasetCatalog.get("coco_2017_test_dev_instances")
    evaluator = build_evaluator("coco_2017_test_dev_instances", ["instance"], tmp_path)
    found = Instances((3, 4), pred_masks=torch.ones(1, 3, 4, dtype=torch.bool), scores=torch.ones(1))
    found.pred_classes = torch.zeros(1, dtype=torch.int64)
    evaluator.process(records, [{"instances": found}] * 3)
    evaluator.evaluate()
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert [one["image_id"] for one in written] == [1, 16, 25]


def test_stuff_is_written_for_cocos_stuff_task(test_dev, tmp_path):
    name = "coco_2017_test_dev_stuff_sem_seg"
    records = DatasetCatalog.get(name)
    assert [one["file_name"].rpartition("/")[2] for one in records] == [
        "000000000016.jpg",
        "000000000001.jpg",
    ]
    evaluator = build_evaluator(name, ["semantic"], tmp_path)
    # By the authors' labels.txt: 0 person (1), 79 toothbrush (90), 80 banner (92), 170 wood (182).
    labels = torch.tensor([[0, 0, 79, 80], [0, 80, 80, 80], [170, 170, 170, 0]])
    for record in records:
        evaluator.process([record], [{"sem_seg_labels": labels}])
    assert evaluator.evaluate() == {"predictions": {"images": 2}}
    # Things are 183.
    expected = np.array([[183, 183, 183, 92], [183, 92, 92, 92], [182, 182, 182, 183]])
    written = json.loads((tmp_path / "coco_stuff_results.json").read_text())
    assert [(one["image_id"], one["category_id"]) for one in written] == [
        (image_id, category) for image_id in (1, 16) for category in (92, 182, 183)
    ]
    read = COCO(str(test_dev)).loadRes(str(tmp_path / "coco_stuff_results.json"))
    assert sorted(read.getImgIds()) == [1, 16]
    for image_id in (1, 16):
        annotations = read.loadAnns(read.getAnnIds(imgIds=[image_id]))
        masks = [read.annToMask(one).astype(int) for one in annotations]
        # Each pixel has one category.
        assert (sum(masks) == 1).all()
        found = sum(mask * one["category_id"] for mask, one in zip(masks, annotations, strict=True))
        assert np.array_equal(found, expected)
        with Image.open(tmp_path / f"submission/{image_id:012d}.png") as image:
            # As in stuffthingmaps: the ids, from 0.
            values = np.array([[0, 0, 89, 91], [0, 91, 91, 91], [181, 181, 181, 0]])
            assert np.array_equal(np.asarray(image), values)


def test_an_image_with_another_name_has_no_id_of_cocos(test_dev, tmp_path):
    save(test_dev.parents[1] / "test2017/mine.jpg", random_image(3, 4))
    test_dev.write_text(json.dumps({"images": [{"id": 1, "file_name": "mine.jpg"}]}))
    name = "coco_2017_test_dev_stuff_sem_seg"
    (record,) = DatasetCatalog.get(name)
    evaluator = build_evaluator(name, ["semantic"], tmp_path, scoring_threads=0)
    with pytest.raises(InputError, match=r"mine.jpg: has the id 'mine', but COCO's server expects numbers"):
        evaluator.process([record], [{"sem_seg_labels": torch.zeros(3, 4, dtype=torch.int64)}])
