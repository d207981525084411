"""EntitySeg, COCONut, COCO-ReM, BDD100K and ADE20K's test images as published, and their preparation."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES, COCO_CATEGORIES
from panopticapi.utils import id2rgb, rgb2id
from PIL import Image
from pycocotools import mask as mask_tools

from segzoo.cli import prepare as command
from segzoo.data import read_dataset_file
from segzoo.evaluation import build_evaluator
from segzoo.utils.errors import InputError
from tests.data.data_trees import random_image, save


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def rle(mask):
    """A compressed RLE of an (H, W) mask as JSON has it."""
    code = mask_tools.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": code["size"], "counts": code["counts"].decode()}


# ------------------------------------------------------------------------------------------------ BDD100K


def test_bdd100k_has_cityscapes_classes_and_both_layouts(datasets_folder):
    metadata = MetadataCatalog.get("bdd100k_sem_seg_val")
    evaluated = sorted(
        (one for one in CITYSCAPES_CATEGORIES if one["trainId"] != 255), key=lambda one: one["trainId"]
    )
    assert metadata.classes == [one["name"] for one in evaluated]
    assert metadata.evaluator_type == "sem_seg"
    assert MetadataCatalog.get("bdd100k_sem_seg_test").evaluator_type == "no_ground_truth"
    stored = np.array([[*range(19), 255]], dtype=np.uint8)
    root = datasets_folder / "bdd100k"
    save(root / "seg/images/val/a-1.jpg", random_image(1, 20))
    save(root / "seg/labels/val/a-1_train_id.png", stored)
    (record,) = DatasetCatalog.get("bdd100k_sem_seg_val")
    assert metadata.load_sem_seg(record).tolist() == stored.tolist()
    save(root / "images/10k/val/b-2.jpg", random_image(1, 20))
    save(root / "labels/sem_seg/masks/val/b-2.png", stored[:, ::-1])
    (record,) = DatasetCatalog.get("bdd100k_sem_seg_val")
    assert record["file_name"].endswith("images/10k/val/b-2.jpg")
    assert metadata.load_sem_seg(record).tolist() == stored[:, ::-1].tolist()
    save(root / "images/10k/test/c-3.jpg", random_image(1, 20))
    (record,) = DatasetCatalog.get("bdd100k_sem_seg_test")
    assert "sem_seg_file_name" not in record


def test_bdd100k_is_counted(datasets_folder, capsys):
    root = datasets_folder / "bdd100k"
    for split in ("train", "val"):
        save(root / f"images/10k/{split}/a.jpg", random_image(2, 2))
        save(root / f"labels/sem_seg/masks/{split}/a.png", np.zeros((2, 2), np.uint8))
    assert command.main(["bdd100k"]) == 1
    assert "bdd100k_sem_seg_train: 1 images, published: 7000" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------ ADE20K, test


@pytest.mark.parametrize("root", ["release_test", "ADEChallengeData2016/release_test"])
def test_predictions_on_ade20ks_test_images_have_the_published_values(
    datasets_folder, tmp_path, capsys, root
):
    save(datasets_folder / root / "testing/ADE_test_00000001.jpg", random_image(10, 15))
    (record,) = DatasetCatalog.get("ade20k_sem_seg_test")
    assert "sem_seg_file_name" not in record
    evaluator = build_evaluator("ade20k_sem_seg_test", ("semantic",), tmp_path)
    evaluator.reset()
    labels = np.arange(150).reshape(10, 15)
    evaluator.process([record], [{"sem_seg": torch.eye(150)[labels].permute(2, 0, 1)}])
    evaluator.evaluate()
    with Image.open(tmp_path / "submission/ADE_test_00000001.png") as image:
        assert np.array_equal(np.asarray(image), labels + 1)
    assert command.main(["ade20k_test"]) == 1
    assert "ade20k_sem_seg_test: 1 images, published: 3352" in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------- COCO-ReM


@pytest.mark.parametrize("folder", ["coco_rem", "coco/annotations"])
def test_coco_rem_has_every_category_of_coco(datasets_folder, capsys, folder):
    things = [one for one in COCO_CATEGORIES if one["isthing"]]
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    content = {
        "images": [{"id": 9, "file_name": "000000000009.jpg", "height": 4, "width": 6}],
        "annotations": [
            {
                "id": number,
                "image_id": 9,
                "category_id": one["id"],
                "segmentation": rle(mask),
                "area": 6,
                "bbox": [2, 1, 3, 2],
                "iscrowd": 0,
            }
            for number, one in enumerate(things, 1)
        ],
        "categories": [{"id": one["id"], "name": one["name"]} for one in things],
    }
    write(datasets_folder / folder / "instances_valrem.json", content)
    save(datasets_folder / "coco/val2017/000000000009.jpg", random_image(4, 6))
    (record,) = DatasetCatalog.get("coco_rem_val")
    metadata = MetadataCatalog.get("coco_rem_val")
    assert metadata.thing_classes == [one["name"] for one in things]
    truths = metadata.load_instances(record)
    assert [one["category_id"] for one in truths] == list(range(80))
    assert command.main(["coco_rem"]) == 1
    assert "coco_rem_val: 1 images, published: 5000" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ COCONut

# Segments as the release has them: consecutive ids, no boxes, a wrong area; 4 has no pixel.
NUT_IDS = np.array([[1, 1, 2, 2], [1, 1, 2, 3], [0, 3, 3, 3]])
NUT_SEGMENTS = [
    {"id": 1, "category_id": 1, "isthing": 1, "iscrowd": 0, "area": 4.0},
    {"id": 2, "category_id": 200, "isthing": 0, "iscrowd": 0, "area": 999.0},
    {"id": 3, "category_id": 3, "isthing": 1, "iscrowd": 1, "area": 4.0},
    {"id": 4, "category_id": 3, "isthing": 1, "iscrowd": 0, "area": 0.0},
]
NUT_CATEGORIES = [{key: one[key] for key in ("id", "name", "isthing")} for one in COCO_CATEGORIES]


def nut_annotation(number, **keys):
    return {
        "image_id": number,
        "file_name": f"{number:012d}.png",
        "segments_info": [dict(one) for one in NUT_SEGMENTS],
        **keys,
    }


def write_nuts(datasets_folder):
    """S, B and relabeled val of one or two images, and the rest of COCONut-val of one."""
    root = datasets_folder / "coconut"
    for folder, number in (("train2017", 9), ("unlabeled2017", 8), ("val2017", 139)):
        save(datasets_folder / f"coco/{folder}/{number:012d}.jpg", random_image(3, 4, number))
    parts = {"coconut_s": [9], "coconut_b": [8, 9], "relabeled_coco_val": [139]}
    for part, numbers in parts.items():
        images = [{"id": one, "file_name": f"{one:012d}.jpg", "height": 3, "width": 4} for one in numbers]
        annotations = [nut_annotation(one) for one in numbers]
        content = {"images": images, "annotations": annotations, "categories": NUT_CATEGORIES}
        write(root / ("annotations" if part == "coconut_s" else "") / f"{part}.json", content)
        for one in numbers:
            folder = f"{part}/{part}" if part == "coconut_b" else part
            save(root / folder / f"{one:012d}.png", id2rgb(NUT_IDS.astype(np.uint32)))
    # The number of the release is not that of Objects365.
    name = "objects365_v1_00091105"
    annotation = nut_annotation(691105, file_name="691105.png", object365_file_name=name)
    content = {"images": [], "annotations": [annotation], "categories": NUT_CATEGORIES}
    write(root / "coconut_val.json", content)
    save(root / f"panoptic_o365val_v3/{name}.png", id2rgb(NUT_IDS.astype(np.uint32)))
    save(root / f"image/{name}.jpg", random_image(3, 4, 5))
    return root


def test_coconut_is_prepared_from_the_released_files(prepare, datasets_folder, capsys):
    root = write_nuts(datasets_folder)
    with pytest.raises(InputError, match="run `segzoo prepare coconut`"):
        DatasetCatalog.get("coconut_s_train_panoptic")
    assert prepare("coconut") == 1  # not the published number of images
    out = capsys.readouterr().out
    assert f"b: 6 segments of 2 images in {root}/panoptic_b.json; left out: 2 segments without pixels" in out
    assert "coconut_b_train_panoptic: 2 images\n" in out
    assert "coconut_relabeled_val_panoptic: 1 images, published: 5000" in out
    expected = {
        "coconut_s_train_panoptic": ["coco/train2017/000000000009.jpg"],
        "coconut_b_train_panoptic": [
            "coco/unlabeled2017/000000000008.jpg",
            "coco/train2017/000000000009.jpg",
        ],
        "coconut_relabeled_val_panoptic": ["coco/val2017/000000000139.jpg"],
        "coconut_val_panoptic": [
            "coco/val2017/000000000139.jpg",
            "coconut/image/objects365_v1_00091105.jpg",
        ],
    }
    for split, files in expected.items():
        records = DatasetCatalog.get(split)
        metadata = MetadataCatalog.get(split)
        assert [
            one["file_name"].split(f"{datasets_folder.name}/")[1].removeprefix("./") for one in records
        ] == files
        # The parts of val number their images independently of each other.
        if split == "coconut_val_panoptic":
            ids = [one["image_id"] for one in records]
            assert ids == ["000000000139", "objects365_v1_00091105"]
        for record in records:
            ids, segments = metadata.load_panoptic(record)
            assert np.array_equal(ids, NUT_IDS)
            assert np.array_equal(rgb2id(np.array(Image.open(record["pan_seg_file_name"]))), NUT_IDS)
            # person 0, rug-merged 132, car 2; by hand from NUT_IDS.
            found = [(one["id"], one["category_id"], one["iscrowd"], one["area"]) for one in segments]
            assert found == [(1, 0, 0, 4), (2, 132, 0, 3), (3, 2, 1, 4)]
    boxes = json.loads((root / "panoptic_s.json").read_text())["annotations"][0]["segments_info"]
    assert [one["bbox"] for one in boxes] == [[0, 0, 2, 2], [2, 0, 2, 2], [1, 1, 3, 2]]
    assert prepare("coconut") == 1
    assert "panoptic_s.json is there" in capsys.readouterr().out


def test_parts_of_coconut_that_are_missing_are_named(prepare, datasets_folder, capsys):
    root = write_nuts(datasets_folder)
    (root / "coconut_b.json").unlink()
    (datasets_folder / "coco/train2017/000000000009.jpg").unlink()
    save(root / "relabeled_coco_val/000000000139.png", id2rgb(np.full((3, 4), 77, np.uint32)))
    assert prepare("coconut") == 1
    error = capsys.readouterr().err
    assert f"b: no coconut_b.json in {root}; download it" in error
    assert "1 of 1 images are not in" in error
    assert "first 000000000009.jpg" in error
    assert "000000000139.png: its segments 77 are not in the JSON" in error
    assert not list(root.glob("panoptic_*.json"))


@pytest.mark.parametrize("segments", [None, ["person"], {"id": 1}])
def test_segments_of_another_type_are_named(prepare, datasets_folder, capsys, segments):
    root = write_nuts(datasets_folder)
    content = json.loads((root / "relabeled_coco_val.json").read_text())
    content["annotations"][0]["segments_info"] = segments
    write(root / "relabeled_coco_val.json", content)
    assert prepare("coconut") == 1
    assert "000000000139.png: its segments_info in the JSON is " in capsys.readouterr().err
    assert not (root / "panoptic_relabeled_val.json").exists()


def test_a_missing_coconut_is_explained(prepare, datasets_folder, capsys):
    assert prepare("coconut") == 2
    assert "put COCONut's JSONs and PNGs there" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- EntitySeg

ENTITY_IDS = np.array([[1, 1, 2, 2, 0], [1, 1, 2, 2, 0], [3, 3, 3, 3, 3]])


def entity_json(folder="entity_01_11580"):
    """An image of three entities; a fourth lies on the first, and the categories have equal names."""
    small = np.zeros_like(ENTITY_IDS)
    small[0, 0] = 1
    masks = [ENTITY_IDS == 1, ENTITY_IDS == 2, ENTITY_IDS == 3, small]
    return {
        "images": [
            {"id": 17, "file_name": f"{folder}/x.y.jpg", "height": 3, "width": 5, "url_image": "http://a"}
        ],
        "annotations": [
            {"id": number, "image_id": 17, "category_id": number, "segmentation": rle(mask), "iscrowd": 0}
            for number, mask in enumerate(masks)
        ],
        "categories": [{"id": 100, "name": "pipe"}, {"id": 277, "name": "pipe"}],
    }


@pytest.mark.parametrize(("suffix", "images"), [("", "images"), ("_lr", "images_lr")])
def test_entities_are_painted_from_the_masks(prepare, datasets_folder, capsys, suffix, images):
    root = datasets_folder / "entityseg"
    folder = root / "annotations/entity_segmentation"
    write(folder / f"entityv2_010203_entity_val{suffix}.json", entity_json())
    save(root / images / "entity_01_11580/x.y.jpg", random_image(3, 5))
    assert prepare("entityseg") == 1  # the other splits are missing
    assert "entityv2_010203_entity_train.json" in capsys.readouterr().err
    (record,) = DatasetCatalog.get(f"entityseg_val{suffix}")
    assert record["file_name"] == f"{root}/{images}/entity_01_11580/x.y.jpg"
    metadata = MetadataCatalog.get(f"entityseg_val{suffix}")
    assert metadata.classes == ["entity"]
    ids, segments = metadata.load_panoptic(record)
    expected = ENTITY_IDS.copy()
    expected[0, 0] = 4  # the smaller one is on top
    assert np.array_equal(ids, expected)
    assert [(one["id"], one["category_id"], one["area"]) for one in segments] == [
        (1, 0, 3),
        (2, 0, 4),
        (3, 0, 5),
        (4, 0, 1),
    ]


def test_a_crowd_of_entityseg_stays_one(prepare, datasets_folder):
    root = datasets_folder / "entityseg"
    content = entity_json()
    content["annotations"][1]["iscrowd"] = 1
    write(root / "annotations/entity_segmentation/entityv2_010203_entity_val.json", content)
    save(root / "images/entity_01_11580/x.y.jpg", random_image(3, 5))
    prepare("entityseg")
    (record,) = DatasetCatalog.get("entityseg_val")
    _, segments = MetadataCatalog.get("entityseg_val").load_panoptic(record)
    assert sorted((one["area"], one["iscrowd"]) for one in segments) == [(1, 0), (3, 0), (4, 1), (5, 0)]


def test_a_wrong_mask_of_entityseg_is_named(prepare, datasets_folder, capsys):
    root = datasets_folder / "entityseg"
    content = entity_json()
    content["annotations"][2]["segmentation"] = rle(np.ones((2, 5)))
    write(root / "annotations/entity_segmentation/entityv2_010203_entity_val.json", content)
    assert prepare("entityseg") == 1
    assert "x.y.jpg: annotation 2 has an RLE of 5x2, but its image is 5x3" in capsys.readouterr().err
    assert not (root / "annotations/entities_val").exists()


def test_entityseg_panoptic_is_prepared_and_read(prepare, datasets_folder, capsys):
    root = datasets_folder / "entityseg"
    folder = root / "annotations/panoptic_segmentation"
    categories = read_dataset_file("entityseg_panoptic").classes
    assert (len(categories), sum(one.isthing for one in categories)) == (350, 279)
    ids = np.arange(1, 351).reshape(14, 25)
    save(folder / "panoptic_maps_val/x.png", id2rgb(ids.astype(np.uint32)))
    # The PNG of x.y.jpg is x.png.
    save(root / "images/entity_01_11580/x.y.jpg", random_image(14, 25))
    segments = [
        {"id": number, "category_id": one.id, "iscrowd": 0} for number, one in enumerate(categories, 1)
    ]
    # The release's two classes of equal names.
    names = {277: "pipe", 328: "blanket"}
    content = {
        "images": [{"id": 3, "file_name": "x.y.jpg", "height": 14, "width": 25}],
        "annotations": [{"image_id": 3, "file_name": "x.y.jpg", "segments_info": segments}],
        "categories": [
            {"id": one.id, "name": names.get(one.id, one.name), "isthing": one.isthing} for one in categories
        ],
    }
    write(folder / "entityv2_01_panoptic_val.json", content)
    assert prepare("entityseg_panoptic") == 1
    assert "no " in capsys.readouterr().err  # train
    (record,) = DatasetCatalog.get("entityseg_panoptic_val")
    assert record["file_name"] == f"{root}/images/entity_01_11580/x.y.jpg"
    metadata = MetadataCatalog.get("entityseg_panoptic_val")
    assert metadata.load_sem_seg(record).ravel().tolist() == list(range(350))
    assert metadata.ignore_label == 65535
    named = dict(zip(metadata.contiguous_id_to_dataset_id, metadata.classes, strict=True))
    assert [named[number] for number in (1, 3, 100, 277, 643)] == [
        "man",
        "sky",
        "pipe",
        "pipe (water)",
        "girl",
    ]


def test_entityseg_semantic_labels_are_listed_beside_their_images(datasets_folder, caplog):
    root = datasets_folder / "entityseg"
    folder = root / "annotations/semantic_segmentation"
    values = np.array([[0, 85, 97], [111, 149, 255]], np.uint8)
    save(root / "images/entity_01_11580/x.y.jpg", random_image(2, 3))
    save(root / "images/entity_01_11580/other.jpg", random_image(2, 3))  # of the other split
    save(folder / "semantic_maps_val/x.png", values)
    (folder / "val.txt").write_text("x.y.jpg x.png\n")
    (record,) = DatasetCatalog.get("entityseg_sem_seg_val")
    assert record["file_name"] == f"{root}/images/entity_01_11580/x.y.jpg"
    # The names are relative to the folders: nothing is guessed.
    assert "ends of their paths" not in caplog.text
    metadata = MetadataCatalog.get("entityseg_sem_seg_val")
    labels = metadata.load_sem_seg(record)
    assert labels.tolist() == values.tolist()
    assert [metadata.classes[label] for label in labels.ravel()[:5]] == [
        *("sky", "medical_equipment", "blanket", "blanket_2", "pumkin"),
    ]
    assert len(metadata.classes) == 150


@pytest.mark.parametrize(
    "file",
    [
        "annotations/instance_segmentation/entityv2_01_instances_train.json",
        "annotations/entityseg_insseg_train.json",
    ],
)
def test_entityseg_instances_are_read_as_published(datasets_folder, file):
    root = datasets_folder / "entityseg"
    mask = np.ones((3, 5), bool)
    # 271 has a blank before its name in the release.
    content = {
        "images": [{"id": 1, "file_name": "x.jpg", "height": 3, "width": 5}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": category, "segmentation": rle(mask), "iscrowd": 0}
            for number, category in enumerate((1, 271, 643), 1)
        ],
        "categories": [
            {"id": 1, "name": "man", "supercategory": "person"},
            {"id": 271, "name": " medical_equipment", "supercategory": "lab_tool"},
            {"id": 643, "name": "girl", "supercategory": "person"},
        ],
    }
    write(root / file, content)
    save(root / "images/entity_01_11580/x.jpg", random_image(3, 5))
    (record,) = DatasetCatalog.get("entityseg_instance_train")
    assert record["file_name"] == f"{root}/images/entity_01_11580/x.jpg"
    metadata = MetadataCatalog.get("entityseg_instance_train")
    assert len(metadata.classes) == 206
    found = [metadata.classes[one["category_id"]] for one in record["annotations"]]
    assert found == ["man", "medical_equipment", "girl"]
