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
    assert written[0]["bbox"] == [1, 1, 2, 2]


def test_predicted_boxes_are_written_and_not_scored(test_dev, tmp_path):
    (record, _) = DatasetCatalog.get("coco_2017_test_dev_instances")
    evaluator = build_evaluator("coco_2017_test_dev_instances", ["instance"], tmp_path)
    found = Instances((3, 4), pred_masks=torch.ones(1, 3, 4, dtype=torch.bool), scores=torch.ones(1))
    found.pred_classes, found.pred_boxes = torch.tensor([0]), Boxes(torch.tensor([[0.5, 0.25, 3.5, 2.5]]))
    evaluator.process([record], [{"instances": found}])
    assert evaluator.evaluate() == {"instance_predictions": {"images": 1}}
    (written,) = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert written["bbox"] == [0.5, 0.25, 3, 2.25]


def test_an_unreadable_list_is_named(test_dev):
    test_dev.write_text('{"images": 3}')
    with pytest.raises(InputError, match=r"image_info_test-dev2017.json: has no list 'images'"):
        DatasetCatalog.get("coco_2017_test_dev_panoptic")
    test_dev.unlink()
    # Without the list, all images of the folder.
    assert len(DatasetCatalog.get("coco_2017_test_dev_panoptic")) == 3
