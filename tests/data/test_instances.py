"""Instances of a COCO JSON: reading, overlaps under augmentation, errors; against pycocotools and planes."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.data.datasets.coco import load_coco_json
from pycocotools import mask as rle
from pycocotools.coco import COCO

from segzoo.cli.check_data.inspection import inspect_image
from segzoo.data import SegmentationMapper, label_reader
from segzoo.data.augmentation.build import ColorJitter, FixedCrop, PadTo, ResizeScale
from segzoo.data.augmentation.transforms import RotateInPlaceTransform
from segzoo.data.build import _has_annotation
from segzoo.data.coco_instances import split_overlaps
from segzoo.utils.coco_masks import decode_rle
from segzoo.utils.errors import InputError
from tests.data.data_trees import load, random_image, save, write_panoptic, write_yaml

HEIGHT, WIDTH = 40, 50
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 9, "name": "left ear"}]
PETS = {
    "splits": {"pets_train": "train"},
    "images": "images",
    "instances": "instances_{split}.json",
    "classes": [{"name": "dog", "id": 7}, {"name": "cat", "id": 3}, "left ear"],
}


def run_lengths(mask, compressed):
    code = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    if compressed:
        return {"size": code["size"], "counts": code["counts"].decode()}
    flat = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def rectangle(left, top, right, bottom):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def annotations():
    """Two overlapping polygons, one instance of two parts, both forms of RLE, and a crowd."""
    crowd = rectangle(0, 30, 50, 40)
    segmentations = [
        (7, [[5.0, 5.0, 30.5, 6.0, 28.0, 27.5, 6.0, 25.0]], 0),
        (3, [[15.0, 15.0, 45.0, 15.0, 45.0, 35.0, 15.0, 35.0]], 0),
        (3, [[1.0, 1.0, 4.0, 1.0, 4.0, 4.0], [40.0, 2.0, 48.0, 2.0, 48.0, 9.0, 40.0, 9.0]], 0),
        (9, run_lengths(rectangle(20, 10, 26, 20), compressed=False), 0),
        (7, run_lengths(rectangle(0, 0, 20, 12), compressed=True), 0),
        (3, run_lengths(crowd, compressed=False), 1),
    ]
    return [
        {"id": number, "image_id": 12, "category_id": category, "segmentation": shape, "iscrowd": crowd}
        for number, (category, shape, crowd) in enumerate(segmentations, 1)
    ]


def write_pets(folder, listed=None, **keys):
    """The dataset pets_train of two images; the second has no instance."""
    save(folder / "images/a.jpg", random_image(HEIGHT, WIDTH))
    save(folder / "images/b.jpg", random_image(HEIGHT, WIDTH))
    images = [
        {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH}
        for number, name in ((30, "b.jpg"), (12, "a.jpg"))
    ]
    listed = annotations() if listed is None else listed
    document = {"images": images, "annotations": listed, "categories": CATEGORIES}
    folder.mkdir(exist_ok=True)
    (folder / "instances_train.json").write_text(json.dumps(document))
    return write_yaml(folder, {**PETS, **keys}, "pets.yaml")


def pycocotools_masks(folder):
    """(S, H, W) bool masks, category ids and crowd flags of image 12, read by pycocotools."""
    coco = COCO(str(folder / "instances_train.json"))
    listed = coco.loadAnns(coco.getAnnIds(imgIds=[12]))
    masks = np.stack([coco.annToMask(one) for one in listed]).astype(bool)
    return masks, [one["category_id"] for one in listed], [bool(one["iscrowd"]) for one in listed]


def mapper_of(task="instance", augmentations=()):
    readers = {"pets_train": label_reader("pets_train")}
    return SegmentationMapper(True, task=task, augmentations=augmentations, readers=readers)


def test_records_are_those_of_detectron2s_reader(tmp_path):
    (first, second), metadata = load(write_pets(tmp_path))
    peer = load_coco_json(str(tmp_path / "instances_train.json"), str(tmp_path / "images"))
    for ours, theirs in zip((first, second), peer, strict=True):
        for key in ("file_name", "image_id", "height", "width"):
            assert ours[key] == theirs[key]
        assert len(ours["annotations"]) == len(theirs["annotations"])
    assert [metadata.contiguous_id_to_dataset_id[one["category_id"]] for one in first["annotations"]] == [
        one["category_id"] for one in annotations()
    ]
    assert metadata.thing_classes == ["dog", "cat", "left ear"]
    assert metadata.evaluator_type == "coco_instances"
    assert metadata.json_file == str(tmp_path / "instances_train.json")
    assert (_has_annotation(first), _has_annotation(second)) == (True, False)


def test_every_form_of_a_mask_is_decoded_as_pycocotools_does_and_crowds_are_left_out(tmp_path):
    (record, empty), _ = load(write_pets(tmp_path))
    masks, categories, crowds = pycocotools_masks(tmp_path)
    sample = mapper_of()(record)
    kept = ~np.array(crowds)
    assert np.array_equal(sample["segment_masks"].numpy(), masks[kept])
    assert (masks[0] & masks[1]).any()  # they do overlap
    index = {7: 0, 3: 1, 9: 2}
    assert sample["segment_classes"].tolist() == [index[one] for one in np.array(categories)[kept]]
    assert "segment_map" not in sample
    assert "annotations" not in sample
    nothing = mapper_of()(empty)
    assert nothing["segment_masks"].shape == (0, HEIGHT, WIDTH)
    assert nothing["segment_classes"].shape == (0,)
    truth = MetadataCatalog.get("pets_train").load_instances(record)
    assert np.array_equal(np.stack([rle.decode(one["segmentation"]) for one in truth]), masks)
    assert [one["area"] for one in truth] == [mask.sum() for mask in masks]


AUGMENTATIONS = {
    "lsj": [T.RandomFlip(0.5), ResizeScale(0.1, 2.0, 64, 64), FixedCrop((64, 64)), ColorJitter("RGB")],
    "pad": [PadTo((60, 70))],
    "shrink": [T.ResizeTransform(HEIGHT, WIDTH, 17, 23)],
    "rotate": [RotateInPlaceTransform(HEIGHT, WIDTH, 17.0, (0, 0, 0))],
    "crop": [T.CropTransform(30, 22, 12, 10)],
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmenting_overlaps_equals_augmenting_every_mask_separately(tmp_path, name):
    (record, _), _ = load(write_pets(tmp_path))
    masks, _, crowds = pycocotools_masks(tmp_path)
    for seed in range(4):
        np.random.seed(seed)
        sample = mapper_of(augmentations=AUGMENTATIONS[name])(record)
        np.random.seed(seed)
        seen = T.AugInput(random_image(HEIGHT, WIDTH))
        transforms = T.AugmentationList(AUGMENTATIONS[name])(seen)
        planes = [transforms.apply_segmentation(mask.astype(np.uint8)) for mask in masks[~np.array(crowds)]]
        expected = np.stack([plane.astype(bool) for plane in planes if plane.any()])
        assert np.array_equal(sample["segment_masks"].numpy(), expected)
        assert sample["segment_masks"].shape[1:] == sample["image"].shape[1:]
        if name == "crop":
            assert len(expected) < 5  # some were cropped away


def test_flips_swap_the_classes_of_instances(tmp_path):
    (record, _), _ = load(write_pets(tmp_path, flip_pairs=[["dog", "left ear"]]))
    plain, flipped = mapper_of()(record), mapper_of(augmentations=[T.RandomFlip(1.0)])(record)
    assert torch.equal(flipped["segment_masks"].flip(2), plain["segment_masks"])
    assert flipped["segment_classes"].tolist() == [
        {0: 2, 2: 0}.get(one, one) for one in plain["segment_classes"].tolist()
    ]


def test_hundreds_of_overlaps_are_exact_and_hold_one_map():
    generator = np.random.default_rng(0)
    masks = []
    for _ in range(120):
        top, left = generator.integers(0, 60, 2)
        mask = np.zeros((90, 80), dtype=bool)
        mask[top : top + generator.integers(1, 40), left : left + generator.integers(1, 40)] = True
        masks.append(mask)
    codes = [rle.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks]
    indices, members = split_overlaps(codes, (90, 80), "a.jpg")
    assert indices.dtype == np.uint16
    assert indices.shape == (90, 80)
    assert np.array_equal(members[indices].transpose(2, 0, 1), np.stack(masks))
    few, rows = split_overlaps(codes[:3], (90, 80), "a.jpg")
    assert few.dtype == np.uint8
    assert len(rows) == len(np.unique(few)) + (0 not in few)


def test_the_first_of_overlapping_instances_gives_a_pixel_its_class(tmp_path):
    (record, _), metadata = load(write_pets(tmp_path))
    masks, categories, _ = pycocotools_masks(tmp_path)
    expected = np.full((HEIGHT, WIDTH), 255)
    for mask, category in zip(masks[::-1], categories[::-1], strict=True):
        expected[mask] = {7: 0, 3: 1, 9: 2}[category]
    assert np.array_equal(metadata.load_sem_seg(record), expected)
    report = inspect_image(record, label_reader("pets_train"))
    assert not report.problems
    assert report.segments.tolist() == [2, 3, 1]
    assert report.pixels.tolist() == [
        *(int((expected == one).sum()) for one in range(3)),
        int((expected == 255).sum()),
    ]


def test_label_map_merges_and_drops_categories(tmp_path):
    keys = {"classes": ["pet"], "label_map": {"cat": "pet", "dog": "pet", "left ear": "void"}}
    (record, _), _ = load(write_pets(tmp_path, **keys))
    assert [one["category_id"] for one in record["annotations"]] == [0] * 5


def test_degenerate_polygons_are_left_out_and_counted(tmp_path, caplog):
    listed = annotations()
    listed[0]["segmentation"] = [[1.0, 1.0, 5.0, 5.0]]  # pycocotools would take it for a box
    listed[1]["segmentation"].append([2.0, 2.0])
    (record, _), _ = load(write_pets(tmp_path, listed))
    assert len(record["annotations"]) == 5
    assert len(record["annotations"][0]["segmentation"]) == 1
    assert "1 annotations without a polygon of three points left out" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 4}, r"instances_train.json: annotation 1 has the category 4, which is not among"),
        ({"image_id": 5}, r"annotation 1 is of image 5, which is not in images"),
        ({"segmentation": None}, r"annotation 1 has no segmentation; instance segmentation needs a mask"),
        (
            {"segmentation": [["a", 1, 2, 3, 4, 5]]},
            r"annotation 1 has the segmentation .*\[x, y, x, y, ...\], or of points",
        ),
        ({"segmentation": [[None, 1, 2, 3, 4, 5]]}, r"annotation 1 has the segmentation \[\[null, 1"),
        ({"segmentation": [[1, 2, 3]]}, r"annotation 1 has a polygon of 3 coordinates, an odd number"),
        (
            {"segmentation": [5, 5, 9, 9, "a", 5]},
            r"annotation 1 has the segmentation \[5, 5, 9, 9, \"a\", 5\]",
        ),
    ],
)
def test_a_wrong_annotation_stops_with_one_line(tmp_path, change, message):
    listed = annotations()
    listed[0] |= change
    with pytest.raises(InputError, match=message) as error:
        load(write_pets(tmp_path, listed))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (
            {"size": [9, 9], "counts": [81]},
            r"a.jpg: annotation 1 has an RLE of 9x9, but its image is 50x40",
        ),
        (
            {"size": [40, 50], "counts": [7]},
            r"annotation 1 has an RLE of 7 pixels, but its image has 2000",
        ),
        ({"size": [40, 50]}, r"annotation 1: its segmentation cannot be read \(it lacks 'counts'\)"),
        ([[0, "a", 2, 3, 4, 5]], r"a.jpg: annotation 1: its segmentation cannot be read"),
        # With these pycocotools crashes, ...
        ([[0, None, 2, 3, 4, 5]], r"annotation 1 has a polygon with the coordinate nan; expected pixels"),
        ([[1e9, 1, 2, 3, 4, 5]], r"annotation 1 has a polygon with the coordinate 1e\+09; expected pixels"),
        # ... or finds another mask, or its IoU never ends.
        ({"size": [40, 50], "counts": [-5, 2005]}, r"annotation 1: its segmentation .*a run of -5 pixels"),
        (
            {"size": [40, 50], "counts": None},
            r"annotation 1: its segmentation cannot be read \('NoneType' object is not",
        ),
        ({"size": [40, 50], "counts": "abc"}, r"annotation 1: its segmentation .*not a compressed RLE"),
        (
            {"size": [40, 50], "counts": "5T3"},
            r"annotation 1 has an RLE of 105 pixels, but its image has",
        ),
    ],
)
def test_a_mask_that_cannot_be_decoded_stops_with_one_line(tmp_path, segmentation, message):
    listed = annotations()
    listed[0]["segmentation"] = segmentation
    (record, _), metadata = load(write_pets(tmp_path, listed))
    for read in (mapper_of(), metadata.load_instances):
        with pytest.raises(InputError, match=message) as error:
            read(record)
        assert str(error.value).count("a.jpg") == 1


def test_compressed_rle_is_that_of_pycocotools():
    generator = np.random.default_rng(0)
    for _ in range(50):
        size = generator.integers(1, 90, 2)
        mask = generator.random(size) < generator.choice([0, 0.001, 0.1, 0.5, 1])
        mask[size[0] // 3 : size[0] // 2, size[1] // 4 :] = True
        text = rle.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
        assert decode_rle(text) == run_lengths(mask, compressed=False)["counts"]


@pytest.mark.parametrize(
    "sides", [(40.0, 50.0), ("40", 50), (40, None), (0, 0), (-1, 50), (float("nan"), True), (10**12, [50])]
)
def test_invalid_sizes_are_read_from_the_image(tmp_path, sides, caplog):
    path = write_pets(tmp_path)
    file = tmp_path / "instances_train.json"
    content = json.loads(file.read_text())
    content["images"][1] |= {"height": sides[0], "width": sides[1]}
    file.write_text(json.dumps(content))
    (record, _), _ = load(path)
    assert mapper_of()(record)["segment_masks"].shape[1:] == (record["height"], record["width"]) == (40, 50)
    said = [
        line for line in caplog.messages if "1 of 2 images have no usable size (first: image 12, " in line
    ]
    assert len(said) == (sides != (40.0, 50.0))


def test_two_images_with_the_same_file_are_rejected(tmp_path):
    """Evaluators would take the second for a repetition of the first."""
    path = write_pets(tmp_path)
    file = tmp_path / "instances_train.json"
    file.write_text(file.read_text().replace("b.jpg", "a.jpg"))
    with pytest.raises(InputError, match=r"two images have the file_name a\.jpg; it must be unique"):
        load(path)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"labels": "{stem}.png"}, "labels cannot be combined with instances"),
        ({"panoptic": "p", "annotations": "p.json"}, "panoptic cannot be combined with instances"),
        ({"evaluator": "panoptic"}, "needs the keys panoptic and annotations"),
        ({"evaluator": "sem_seg"}, "needs the key labels"),
        (
            {"classes": [{"name": "dog", "isthing": False}]},
            "class 'dog' has isthing false, but the key instances",
        ),
        (
            {"classes": ["dog", "cat"]},
            "category 9 'left ear' is neither a class of pets.yaml nor in its label_map",
        ),
        ({"instances": "train.json"}, "train.json does not exist"),
    ],
)
def test_a_wrong_dataset_file_stops_with_one_line(tmp_path, keys, message):
    with pytest.raises(InputError, match=message):
        load(write_pets(tmp_path, **keys))


def test_panoptic_and_instance_files_are_not_confused(tmp_path):
    write_panoptic(tmp_path, {"a": np.ones((4, 4))}, {"a": [{"id": 1, "category_id": 3}]}, CATEGORIES)
    (tmp_path / "panoptic.json").rename(tmp_path / "instances_train.json")
    with pytest.raises(InputError, match="annotations have segments_info, so it is a panoptic file"):
        load(write_yaml(tmp_path, PETS, "pets.yaml"))
    save(tmp_path / "other/images/a.jpg", random_image(4, 4))
    semantic = {**PETS, "labels": "images/{stem}.jpg", "images": "images/{stem}.jpg"}
    del semantic["instances"]
    with pytest.raises(InputError, match=r"evaluator 'coco_instances' needs the key instances"):
        load(write_yaml(tmp_path / "other", {**semantic, "evaluator": "coco_instances"}))


def test_a_split_without_labels_has_images_only(tmp_path):
    splits = {"pets_train": "train", "pets_test": "test"}
    write_pets(tmp_path)
    path = write_yaml(tmp_path, {**PETS, "splits": splits, "without_labels": ["pets_test"]}, "pets.yaml")
    load(path)
    from detectron2.data import DatasetCatalog

    assert [record["image_id"] for record in DatasetCatalog.get("pets_test")] == ["a", "b"]


def test_coco_instances_has_detectron2s_thing_classes_under_its_own_names(datasets_folder):
    metadata = MetadataCatalog.get("coco_2017_val_instances")
    things = [one for one in COCO_CATEGORIES if one["isthing"]]
    assert metadata.thing_classes == metadata.classes == [one["name"] for one in things]
    assert metadata.contiguous_id_to_dataset_id == [one["id"] for one in things]
    assert metadata.thing_colors == [tuple(one["color"]) for one in things]
    assert MetadataCatalog.get("coco_2017_val").evaluator_type == "coco"  # still Detectron2's
    save(datasets_folder / "coco/val2017/1.jpg", random_image(8, 8))
    document = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 8, "width": 8}],
        "annotations": [{"id": 0, "image_id": 1, "category_id": 90, "segmentation": [[0, 0, 4, 0, 4, 4]]}],
        "categories": [{"id": one["id"], "name": one["name"]} for one in things],
    }
    (datasets_folder / "coco/annotations").mkdir()
    (datasets_folder / "coco/annotations/instances_val2017.json").write_text(json.dumps(document))
    from detectron2.data import DatasetCatalog

    (record,) = DatasetCatalog.get("coco_2017_val_instances")
    assert record["annotations"][0]["category_id"] == 79
