"""A JSON of instances as semantic labels: `background` in a dataset file, against pycocotools' masks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from pycocotools import mask as rle
from pycocotools.coco import COCO

from segzoo.cli.check_data.inspection import inspect_image
from segzoo.data import SegmentationMapper, label_reader
from segzoo.evaluation import build_evaluator
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError
from tests.data.data_trees import load, random_image, save, write_yaml

REPOSITORY = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH = 48, 64
PETS = {
    "splits": {"pets_x": "x"},
    "images": "images",
    "instances": "pets.json",
    "classes": ["dog", "rest", "cat"],
    "background": "rest",
}
VOID = 255


def polygon(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


def write_pets(folder, categories=("cat", "dog"), **keys):
    """Three images: a crowd listed before the instances on it, overlapping instances, and none at all."""
    numbers = {name: number for number, name in enumerate(categories)}  # from 0, as some programs count
    crowd = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    crowd[20:] = 1
    code = rle.encode(crowd)
    listed = [
        (1, "dog", {"size": code["size"], "counts": code["counts"].decode()}, 1),
        (1, "cat", polygon(4, 10, 30, 40), 0),
        (1, "dog", polygon(20, 4, 50, 30), 0),
        (2, "dog", polygon(0, 0, 20, 20), 0),
        (2, "cat", polygon(0, 0, 40, 40), 0),
        *((2, name, polygon(10 + 9 * k, 10, 45 + 9 * k, 44), 0) for k, name in enumerate(categories[2:])),
    ]
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": numbers[name],
            "segmentation": shape,
            "iscrowd": crowd,
        }
        for number, (image, name, shape, crowd) in enumerate(listed, 1)
    ]
    images = [
        {"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH} for number in (1, 2, 3)
    ]
    for image in images:
        save(folder / "images" / image["file_name"], random_image(HEIGHT, WIDTH, image["id"]))
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
    }
    (folder / "pets.json").write_text(json.dumps(document))
    merged = {**PETS, **keys}
    return write_yaml(folder, {key: one for key, one in merged.items() if one is not None}, "pets.yaml")


def painted(folder, index_of, void=()):
    """{image id: (H, W)} painted by pycocotools: void lowest, then crowds, the first instance on top."""
    coco, maps = COCO(str(folder / "pets.json")), {}
    for number in coco.getImgIds():
        labels = np.full((HEIGHT, WIDTH), index_of[None])
        listed = coco.loadAnns(coco.getAnnIds(imgIds=[number]))
        name_of = {one["id"]: coco.cats[one["category_id"]]["name"] for one in listed}
        below = [one for one in listed if name_of[one["id"]] in void]
        crowds = [one for one in listed if one["iscrowd"]]
        others = [one for one in listed if one not in below and one not in crowds]
        for one in (*below, *crowds, *others[::-1]):
            labels[coco.annToMask(one) == 1] = index_of[name_of[one["id"]]]
        maps[number] = labels
    return maps


def test_labels_are_those_that_pycocotools_paints_over_the_background(tmp_path):
    records, metadata = load(write_pets(tmp_path))
    expected = painted(tmp_path, {"dog": 0, None: 1, "cat": 2})
    mapper = SegmentationMapper(
        True, task="semantic", augmentations=[], readers={"pets_x": label_reader("pets_x")}
    )
    for record in records:
        labels = expected[record["image_id"]]
        assert np.array_equal(metadata.load_sem_seg(record), labels)
        sample = mapper(record)
        assert torch.equal(sample["sem_seg"], torch.from_numpy(labels))
        # The masks of a mask classifier are those of the classes.
        classes = sample["segment_classes"].numpy()
        assert classes.tolist() == np.unique(labels).tolist()
        assert np.array_equal(classes[sample["segment_map"].numpy()], labels)
        report = inspect_image(record, metadata.label_reader)
        assert report.problems == ()
        assert report.pixels.tolist() == [*(int((labels == one).sum()) for one in range(3)), 0]
    assert (expected[3] == 1).all()


def test_void_categories_are_void_and_those_mapped_to_the_background_are_background(tmp_path):
    names = ("cat", "dog", "smear", "rug")
    path = write_pets(tmp_path, names, label_map={"smear": "void", "rug": "rest"})
    records, metadata = load(path)
    # The rug is an annotation of the class rest, under the instances that the JSON has before it.
    expected = painted(tmp_path, {"dog": 0, None: 1, "cat": 2, "smear": VOID, "rug": 1}, void=("smear",))
    assert set(np.unique(expected[2])) == {0, 1, 2, VOID}
    for record in records:
        assert np.array_equal(metadata.load_sem_seg(record), expected[record["image_id"]])


def test_the_same_file_serves_instances(tmp_path):
    records, metadata = load(write_pets(tmp_path))
    assert metadata.thing_classes == ["dog", "cat"]
    # The JSON's ids are 0 and 1; the background, which it lacks, has another one.
    ids = metadata.contiguous_id_to_dataset_id
    assert (ids[0], ids[2]) == (1, 0)
    assert len(set(ids)) == 3
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 0: 2}
    mapper = SegmentationMapper(
        True, task="instance", augmentations=[], readers={"pets_x": label_reader("pets_x")}
    )
    by_id = {record["image_id"]: mapper(record) for record in records}
    assert by_id[1]["segment_classes"].tolist() == [1, 0]
    assert by_id[3]["segment_masks"].shape == (0, HEIGHT, WIDTH)


def test_perfect_and_imperfect_predictions_are_scored(tmp_path):
    records, _ = load(write_pets(tmp_path))
    expected = painted(tmp_path, {"dog": 0, None: 1, "cat": 2})
    evaluator = build_evaluator("pets_x", ("semantic",), scoring_threads=0)
    matrix = np.zeros((3, 3), int)
    for record in records:
        labels = expected[record["image_id"]]
        guess = np.roll(labels, 3, axis=1).astype(np.uint8)
        np.add.at(matrix, (guess.ravel(), labels.ravel()), 1)
        evaluator.process([record], [{"sem_seg_labels": torch.from_numpy(guess)}])
    correct = matrix.diagonal()
    iou = correct / (matrix.sum(0) + matrix.sum(1) - correct)
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == pytest.approx(100 * iou.mean())


CONFIG = "semantic/shapes/pspnet_r18_quarter.yaml"


def overrides(path):
    return ["DATASETS.FILES", f'["{path}"]', "DATASETS.TRAIN", '("pets_x",)', "DATASETS.TEST", '("pets_x",)']


def test_the_remedy_for_the_missing_key_works(tmp_path):
    path = write_pets(tmp_path, classes=["cat", "dog"], background=None)
    with pytest.raises(InputError) as error:
        load_config(CONFIG, overrides(path))
    remedy = (
        "add a class for pixels without an instance to classes in pets.yaml and name it there: background:"
    )
    assert remedy in str(error.value)
    with pytest.raises(
        InputError, match="cannot score 'semantic'; expected some of instance, or add a background class"
    ):
        build_evaluator("pets_x", ("semantic",))
    # As it says.
    write_yaml(tmp_path, {**PETS, "classes": ["NAME", "cat", "dog"], "background": "NAME"}, "pets.yaml")
    cfg = load_config(CONFIG, overrides(path))
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 3
    assert len(build_evaluator("pets_x", cfg.TEST.TASKS)._evaluators) == 1


def test_a_training_and_its_evaluation_run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "tools"))
    import train_net

    path = write_pets(tmp_path)
    small = ["SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0"]
    small += ["INPUT.CROP_SIZE", "(64,64)", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "out")]
    assert train_net.main(["--config-file", CONFIG, *overrides(path), *small]) == 0
    results = json.loads((tmp_path / "out/inference/results.json").read_text())
    assert set(results["results"]["pets_x"]) == {"sem_seg"}
    assert results["protocol"]["semantic_resizing"] == "scores"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"background": "floor"}, "background is 'floor', which is not among the classes"),
        ({"background": "dogs"}, "did you mean dog?"),
        ({"background": 3}, "background is 3, which is not among the classes"),
        ({"classes": ["rest"]}, "the background 'rest' is the only class"),
        (
            {"classes": ["dog", "cat", {"name": "rest", "isthing": True}]},
            "class 'rest' has isthing True, but it is the background",
        ),
        (
            {"instances": None, "labels": "{stem}.png", "images": "{stem}.jpg"},
            "background is only for datasets with the key instances",
        ),
        ({"evaluator": "panoptic"}, "evaluator 'panoptic' needs the keys panoptic"),
    ],
)
def test_a_wrong_background_is_one_line(tmp_path, keys, message):
    with pytest.raises(InputError) as error:
        load(write_pets(tmp_path, **keys))
    assert message in str(error.value)


def test_it_can_be_evaluated_by_class_alone(tmp_path):
    load(write_pets(tmp_path, evaluator="sem_seg"))
    assert MetadataCatalog.get("pets_x").evaluator_type == "sem_seg"
