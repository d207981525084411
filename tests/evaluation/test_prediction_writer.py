"""Predictions of splits without labels: in the values of the dataset's own files, and never scored."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image

from segzoo.data import register_builtin
from segzoo.evaluation import build_evaluator
from segzoo.evaluation.rescore import rescore
from segzoo.utils.errors import InputError

SPLIT = "cityscapes_sem_seg_test"
NAME = "berlin/berlin_000000_000019_leftImg8bit"
# The ids of cityscapesScripts that are evaluated, in the order of the 19 classes.
IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


@pytest.fixture
def records(tmp_path, monkeypatch):
    """Two images of the test split, of two cities."""
    register_builtin()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for name in (NAME, "bonn/bonn_000000_000019_leftImg8bit"):
        file = tmp_path / f"cityscapes/leftImg8bit/test/{name}.png"
        file.parent.mkdir(parents=True)
        Image.new("RGB", (19, 2)).save(file)
    return DatasetCatalog.get(SPLIT)


def test_a_submission_holds_the_ids_of_the_datasets_files(records, tmp_path):
    labels = np.stack([np.arange(19), np.arange(19)[::-1]])
    scores = torch.eye(19)[torch.from_numpy(labels.copy())].permute(2, 0, 1)
    evaluator = build_evaluator(SPLIT, ["semantic"], tmp_path / "out")
    evaluator.process(records[:1], [{"sem_seg": scores}])
    evaluator.process(records[1:], [{"sem_seg_labels": torch.full((2, 19), 13)}])
    assert evaluator.evaluate() == {"predictions": {"images": 2}}
    with Image.open(tmp_path / f"out/submission/{NAME}.png") as image:
        assert np.asarray(image).tolist() == [IDS, IDS[::-1]]
        assert np.asarray(image.convert("RGB"))[0, 0].tolist() == [128, 64, 128]  # the color of road
    with Image.open(tmp_path / f"out/sem_seg/{NAME}.png") as image:
        assert np.asarray(image).tolist() == labels.tolist()
    assert (
        np.asarray(Image.open(tmp_path / "out/submission/bonn/bonn_000000_000019_leftImg8bit.png")) == 26
    ).all()


def test_what_cannot_be_scored_is_not(records, tmp_path):
    with pytest.raises(InputError, match="no ground truth, only images; there is nothing to score"):
        rescore(SPLIT, tmp_path)
    with pytest.raises(InputError, match="cannot score 'panoptic'; expected some of instance, semantic"):
        build_evaluator(SPLIT, ["panoptic"])


def test_a_part_of_an_image_is_no_submission(records, tmp_path):
    with pytest.raises(InputError, match="PROTOCOL that predicts all of it"):
        build_evaluator(SPLIT, ["semantic"], tmp_path, transform_labels=lambda labels: labels[:1])


def test_evaluators_that_are_checked_and_built_warn_once(records, tmp_path, caplog):
    for folder in (None, "out", "out", "other"):
        build_evaluator(SPLIT, ["semantic", "instance"], folder and tmp_path / folder)
    said = [one for one in caplog.messages if "has no ground truth" in one]
    assert len(said) == len(set(said)) == 4
