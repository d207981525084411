"""`segzoo convert-data panoptic`: semantic labels and instances become panoptic labels by the rules."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from panopticapi.evaluation import pq_compute_single_core
from PIL import Image
from pycocotools import mask as coco_mask

from segzoo import model_zoo
from segzoo.cli import convert_data
from segzoo.cli.prepare.shapes import make_shapes
from segzoo.data import (
    SegmentationMapper,
    build_train_loader,
    label_reader,
    read_dataset_file,
    register_dataset_file,
)
from tests.data.data_trees import forget, random_image, save, write_yaml

REPOSITORY = Path(__file__).resolve().parents[2]

CLASSES = [
    {"name": "road", "color": [128, 64, 128]},
    {"name": "car", "isthing": True, "id": 7},
    {"name": "sky"},
    {"name": "person", "isthing": True},
]
ROADS = {
    "splits": {"roads_train": "train"},
    "images": "images/{split}/{stem}.png",
    "labels": "masks/{split}/{stem}.png",
    "classes": CLASSES,
    "flip_pairs": [["road", "sky"]],
}
# Road 0, car 1, sky 2, person 3, void 255.
LABELS = np.array(
    [
        [2, 2, 2, 2, 2, 255],
        [1, 1, 1, 3, 3, 255],
        [1, 1, 1, 1, 3, 0],
        [0, 0, 0, 1, 0, 0],
    ],
    dtype=np.uint8,
)


@pytest.fixture
def tool():
    """A function that runs the command in this process and returns its exit status."""
    return lambda *arguments: convert_data.main(["panoptic", *map(str, arguments), "--workers", "0"])


def write_roads(folder, labels, **fields):
    """Write roads.yaml with images and labels from {stem: labels}; return its path."""
    for number, (stem, values) in enumerate(labels.items()):
        save(folder / f"images/train/{stem}.png", random_image(*values.shape, number))
        save(folder / f"masks/train/{stem}.png", values)
    return write_yaml(folder, {**ROADS, **fields})


def box(top, left, bottom, right, shape=LABELS.shape):
    """Return the mask of a rectangle, bottom and right exclusive."""
    mask = np.zeros(shape, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def run_length(mask):
    """Return an uncompressed COCO RLE: run lengths down the columns, zeros first."""
    flat = mask.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, len(flat)]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def write_instances(path, images, annotations, categories=(("car", 1), ("person", 2), ("sky", 3))):
    """Write a COCO JSON; annotations are (image id, category id, segmentation, iscrowd)."""
    keys = ("id", "image_id", "category_id", "segmentation", "iscrowd")
    listed = [dict(zip(keys, (10 + k, *one), strict=True)) for k, one in enumerate(annotations)]
    content = {
        "images": images,
        "annotations": listed,
        "categories": [{"id": number, "name": name} for name, number in categories],
    }
    path.write_text(json.dumps(content))
    return path


IMAGE = {"id": 55, "file_name": "a.png", "height": 4, "width": 6}


def result(folder, name="roads_train"):
    """Return (ids, {(class name, iscrowd): [mask, ...]}) of the only image, read by Pillow and json alone."""
    document = json.loads((folder / f"panoptic/{name}.json").read_text())
    (annotation,) = document["annotations"]
    rgb = np.array(Image.open(folder / f"panoptic/{name}" / annotation["file_name"])).astype(int)
    ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
    names = {one["id"]: one["name"] for one in document["categories"]}
    found = {}
    for segment in annotation["segments_info"]:
        mask = ids == segment["id"]
        rows, columns = np.nonzero(mask)
        assert segment["area"] == len(rows)
        left, top = columns.min(), rows.min()
        assert segment["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
        found.setdefault((names[segment["category_id"]], segment["iscrowd"]), []).append(mask)
    assert [one["id"] for one in annotation["segments_info"]] == list(range(1, ids.max() + 1))
    return ids, found


def assert_masks(found, expected):
    assert found.keys() == expected.keys()
    for key, masks in expected.items():
        assert len(found[key]) == len(masks)
        for one, other in zip(found[key], masks, strict=True):
            assert np.array_equal(one, other), key


# Two cars side by side, of 2 and 3 columns; the second, the larger one, overlaps the first in one column.
CARS = [box(1, 0, 3, 2), box(1, 1, 3, 4)]
TRAIN = ["--splits", "roads_train"]  # the earlier name of --split


@pytest.mark.parametrize(
    ("order", "first", "second"),
    [("area", CARS[0], CARS[1] & ~CARS[0]), ("file", CARS[0] & ~CARS[1], CARS[1])],
)
def test_the_rules_on_hand_drawn_labels(tmp_path, tool, capsys, order, first, second):
    file = write_roads(tmp_path, {"a": LABELS})
    # The larger car comes first in the file.
    annotations = [
        (55, 1, run_length(CARS[1]), 0),
        (55, 1, run_length(CARS[0]), 0),
        # A person with one pixel on void and two on sky.
        (55, 2, run_length(box(0, 3, 2, 4) | box(0, 5, 1, 6) | box(0, 4, 1, 5)), 0),
        (55, 3, run_length(box(0, 0, 1, 6)), 0),
    ]
    write_instances(tmp_path / "instances.json", [IMAGE], annotations)
    assert tool(file, "--instances", "instances.json", "--order", order) == 0
    _, found = result(tmp_path)
    person = box(0, 3, 2, 4) | box(0, 4, 1, 6)
    car = second & ~person
    if order == "file":
        # The car comes first in the file.
        person, car = person & ~second, second
    cars = np.isin(LABELS, 1) & ~first & ~car & ~person
    assert_masks(
        found,
        {
            ("road", 0): [LABELS == 0],
            ("sky", 0): [(LABELS == 2) & ~person],
            ("car", 0): [car, first],
            ("person", 0): [person],
            ("car", 1): [cars],
            ("person", 1): [(LABELS == 3) & ~person & ~car],
        },
    )
    printed = capsys.readouterr().out
    overlaps = (CARS[0] & CARS[1]).sum() + (CARS[1] & box(0, 3, 2, 4)).sum()
    assert f"{overlaps} pixels of several instances" in printed
    assert "1 pixels of instances on void" in printed
    assert "1 annotations of stuff classes, not used" in printed
    assert f"{cars.sum() + ((LABELS == 3) & ~person & ~car).sum()} pixels of thing classes without" in printed
    report = json.loads((tmp_path / "panoptic/roads_train.report.json").read_text())
    assert report["images"]["a.png"] == {key: count for key, count in report["total"].items() if count}


def test_pixels_without_an_instance_can_be_void(tmp_path, tool):
    file = write_roads(tmp_path, {"a": LABELS})
    write_instances(tmp_path / "i.json", [IMAGE], [(55, 1, run_length(CARS[0]), 0)])
    assert tool(file, "--instances", "i.json", "--uncovered", "void") == 0
    ids, found = result(tmp_path)
    assert_masks(found, {("road", 0): [LABELS == 0], ("sky", 0): [LABELS == 2], ("car", 0): [CARS[0]]})
    assert np.array_equal(ids == 0, np.isin(LABELS, (1, 3, 255)) & ~CARS[0])


def test_crowds_lie_below_and_are_one_for_each_class(tmp_path, tool):
    file = write_roads(tmp_path, {"a": LABELS})
    crowds = [box(1, 0, 3, 4), box(3, 3, 4, 5)]
    annotations = [
        (55, 1, run_length(crowds[0]), 1),
        (55, 1, run_length(CARS[0]), 0),
        (55, 1, run_length(crowds[1]), 1),
    ]
    write_instances(tmp_path / "i.json", [IMAGE], annotations)
    assert tool(file, "--instances", "i.json", "--order", "file") == 0
    _, found = result(tmp_path)
    crowd = (crowds[0] | crowds[1]) & ~CARS[0]
    left_over = np.isin(LABELS, 1) & ~crowd & ~CARS[0]
    assert_masks(
        found,
        {
            ("road", 0): [(LABELS == 0) & ~crowd],
            ("sky", 0): [LABELS == 2],
            ("car", 0): [CARS[0]],
            ("car", 1): [crowd | left_over],
            ("person", 1): [(LABELS == 3) & ~crowd],
        },
    )


def test_contradictions_and_hidden_instances_are_counted_with_the_file_names(tmp_path, tool, capsys):
    file = write_roads(tmp_path, {"a": LABELS, "b": LABELS})
    annotations = [
        (56, 2, run_length(CARS[0]), 0),  # a person on 4 pixels of cars
        (56, 1, run_length(box(3, 0, 4, 2)), 0),  # hidden below the next one
        (56, 1, run_length(box(3, 0, 4, 2)), 0),
    ]
    images = [IMAGE, {**IMAGE, "id": 56, "file_name": "b.png"}]
    write_instances(tmp_path / "i.json", images, annotations)
    assert tool(file, "--instances", "i.json") == 0
    printed = capsys.readouterr().out
    b = tmp_path / "images/train/b.png"
    for kind, count in (
        ("instances mostly on another class", 2),
        ("pixels of instances on another class", 6),
        ("instances without a visible pixel", 1),
    ):
        assert f"  {count} {kind}\n    {count} in {b}\n" in printed
    assert "a.png" not in printed


@pytest.mark.parametrize("kind", ["polygons", "runs", "compressed"])
def test_every_form_of_mask_is_read(tmp_path, tool, kind):
    file = write_roads(tmp_path, {"a": LABELS})
    mask = box(1, 0, 3, 2)
    forms = {
        "polygons": [[0, 1, 2, 1, 2, 2, 0, 2], [0, 2, 2, 2, 2, 3, 0, 3]],
        "runs": run_length(mask),
        "compressed": coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))),
    }
    if kind == "compressed":
        forms[kind]["counts"] = forms[kind]["counts"].decode()
    write_instances(tmp_path / "i.json", [IMAGE], [(55, 1, forms[kind], 0)])
    assert tool(file, "--instances", "i.json") == 0
    assert np.array_equal(result(tmp_path)[1]["car", 0][0], mask)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, "rgb"])
def test_instances_are_read_from_a_png_with_their_numbers(tmp_path, tool, dtype, capsys):
    file = write_roads(tmp_path, {"a": LABELS, "b": LABELS})
    numbers = np.zeros(LABELS.shape, dtype=np.int64)
    numbers[CARS[0]] = 4
    numbers[box(1, 3, 3, 5)] = 200  # 2 persons and a car
    numbers[3, 0] = 9  # on road: no thing class
    numbers[0, :3] = 255
    if dtype == "rgb":
        numbers = np.dstack([numbers % 256, numbers // 200, numbers * 0]).astype(np.uint8)
    stored = numbers.astype(np.uint8 if dtype == "rgb" else dtype)
    save(tmp_path / "objects/a.png", stored)
    void = [0, 255 + 256] if dtype == "rgb" else [0, 255]
    assert tool(file, "--instance-masks", "objects/{stem}.png", "--no-instance", *void) == 0
    printed = capsys.readouterr().out
    assert "1 instances on no thing class" in printed
    assert "1 images without an entry or PNG of instances, first" in printed
    document = json.loads((tmp_path / "panoptic/roads_train.json").read_text())
    assert [image["id"] for image in document["images"]] == [1, 2]
    document["annotations"].pop()
    (tmp_path / "panoptic/roads_train.json").write_text(json.dumps(document))
    _, found = result(tmp_path)
    assert np.array_equal(found["car", 0][0], CARS[0])
    assert np.array_equal(found["person", 0][0], box(1, 3, 3, 5))
    assert np.array_equal(found["road", 0][0], LABELS == 0)


@pytest.mark.parametrize("template", ["objects/{stem}_*.png", "objects/{stem}/*.png"])
def test_instances_are_read_from_a_png_for_each(tmp_path, tool, template):
    # b and b_1: the files of b_1 do not belong to b.
    file = write_roads(tmp_path, {"b": LABELS, "b_1": LABELS})
    for name, mask in (("b/1", CARS[0]), ("b_1/1", box(1, 3, 2, 5)), ("b_1/x_2", box(1, 0, 3, 3))):
        path = template.replace("*", name.split("/")[1]).replace("{stem}", name.split("/")[0])
        save(tmp_path / path, mask.astype(np.uint8) * 255)
    assert tool(file, "--instance-masks", tmp_path / template) == 0
    document = json.loads((tmp_path / "panoptic/roads_train.json").read_text())
    things = [
        [(one["category_id"], one["area"]) for one in annotation["segments_info"] if not one["iscrowd"]]
        for annotation in document["annotations"]
    ]
    # Road (id 0) has 6 pixels, sky 5; cars have the id 7 and persons 3.
    assert things == [[(0, 6), (2, 5), (7, 4)], [(0, 6), (2, 5), (3, 2), (7, 6)]]


# --------------------------------------------------------------------- The JSON that is the dataset's labels

# A cat and a dog in 4 rows of 8 pixels: every fraction of these sides is an exact number.
CAT, DOG = box(0, 1, 3, 4, (4, 8)), box(1, 5, 4, 7, (4, 8))
CAT_POLYGON, DOG_POLYGON = [1, 0, 4, 0, 4, 3, 1, 3], [5, 1, 7, 1, 7, 4, 5, 4]
PETS = {
    "splits": {"pets_train": "train"},
    "images": "images",
    "instances": "instances_{split}.json",
    "classes": ["background", "cat", "dog"],
    "background": "background",
}


def write_pets(folder, form=lambda polygon: [polygon], crowd=0, more=(), **fields):
    """Write pets.yaml and a JSON of two animals, with polygons in a form; return the path of the YAML."""
    save(folder / "images/a.png", random_image(4, 8))
    annotations = [(5, 1, form(CAT_POLYGON), crowd), (5, 2, form(DOG_POLYGON), crowd), *more]
    image = {"id": 5, "file_name": "a.png", "height": 4, "width": 8}
    write_instances(folder / "instances_train.json", [image], annotations, (("cat", 1), ("dog", 2)))
    return write_yaml(folder, {**PETS, **fields}, "pets.yaml")


def as_points(polygon):
    return [[[x, y] for x, y in zip(polygon[::2], polygon[1::2], strict=True)]]


def as_parts(polygon):
    return [[value / (8, 4)[index % 2] for index, value in enumerate(polygon)]]


@pytest.mark.parametrize(
    ("written", "dog"),
    [
        ({}, "dog"),
        ({"form": as_points}, "dog"),
        ({"form": as_parts, "coordinates": "relative"}, "dog"),
        ({"crowd": 1, "crowd_key": "instances"}, "dog"),
        ({"more": [(5, 1, [[1, 2, 3, 4]], 0)]}, "dog"),
        ({"label_map": {2: "cat"}, "classes": ["background", "cat"]}, "cat"),
        ({"label_map": {"dog": "void"}, "classes": ["background", "cat"]}, None),
    ],
)
def test_the_labels_of_a_dataset_are_read_by_all_of_its_keys(tmp_path, tool, written, dog):
    written = {**written}
    crowd_key = written.pop("crowd_key", None)
    file = write_pets(tmp_path, **written)
    if crowd_key:
        file.write_text(f"{file.read_text()}crowd: {crowd_key}\n")
    assert tool(file, "--instances", "instances_{split}.json") == 0
    expected = {("background", 0): [~CAT & ~DOG], ("cat", 0): [CAT]}
    if dog:
        expected.setdefault((dog, 0), []).append(DOG)
    # The larger one comes first in both.
    assert_masks(result(tmp_path, "pets_train")[1], expected)
    # The written dataset needs none of the keys.
    (name,) = register_dataset_file(tmp_path / "pets_panoptic.yaml")
    _, segments = MetadataCatalog.get(name).load_panoptic(DatasetCatalog.get(name)[0])
    assert [one["iscrowd"] for one in segments] == [0] * len(segments)


def test_void_annotations_of_a_dataset_are_counted_and_categories_are_mapped_in_its_yaml(
    tmp_path, tool, capsys
):
    file = write_pets(tmp_path, label_map={"dog": "void"}, classes=["background", "cat"])
    assert tool(file, "--instances", "instances_{split}.json") == 0
    assert "1 annotations of void, not used" in capsys.readouterr().out
    assert tool(file, "--instances", "instances_{split}.json", "--rename", "cat=void") == 2
    error = capsys.readouterr().err
    assert "instances_train.json holds the labels of pets.yaml; write label_map there" in error


@pytest.mark.parametrize("form", [as_points, lambda polygon: [[str(one) for one in polygon], [1, 2, 3, 4]]])
def test_polygons_of_another_json_are_read_as_those_of_datasets(tmp_path, tool, capsys, form):
    file = write_roads(tmp_path, {"a": LABELS})
    annotations = [(55, 1, form([0, 1, 2, 1, 2, 3, 0, 3]), 0), (55, 1, [[0, 0, 3, 3]], 0)]
    write_instances(tmp_path / "i.json", [IMAGE], annotations)
    assert tool(file, "--instances", "i.json") == 0
    assert "1 annotations without a polygon of three points, not used" in capsys.readouterr().out
    assert_masks({0: result(tmp_path)[1]["car", 0]}, {0: [CARS[0]]})


def test_a_split_may_be_given_as_check_data_takes_it(tmp_path, tool, capsys):
    register_dataset_file(write_pets(tmp_path))
    assert tool("pets_train", "--instances", "instances_{split}.json") == 0
    assert (tmp_path / "pets_panoptic.yaml").is_file()
    assert tool("camvid_val", "--instances", "i.json") == 2
    assert "camvid.yaml: no class has instances" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- Round trips


def take_apart(split, folder, source):
    """Write semantic PNGs and instances of a panoptic split into `folder`; return their dataset YAML."""
    records, metadata = DatasetCatalog.get(split), MetadataCatalog.get(split)
    images, annotations = [], []
    for record in records:
        ids, segments = metadata.load_panoptic(record)
        stem = Path(record["file_name"]).stem
        save(folder / f"semantic/{stem}.png", metadata.load_sem_seg(record))
        size = {"height": ids.shape[0], "width": ids.shape[1]}
        images.append({"id": record["image_id"], "file_name": Path(record["file_name"]).name, **size})
        numbers = np.zeros(ids.shape, dtype=np.uint16)
        for number, one in enumerate((one for one in segments if one["isthing"]), 1):
            mask = ids == one["id"]
            category = 1000 + one["category_id"]
            annotations.append((record["image_id"], category, run_length(mask), one["iscrowd"]))
            if not one["iscrowd"]:
                numbers[mask] = number
        save(folder / f"numbers/{stem}.png", numbers)
    (folder / "images").symlink_to(Path(records[0]["file_name"]).parent)
    categories = [(name, 1000 + index) for index, name in enumerate(metadata.classes)]
    write_instances(folder / "instances.json", images, annotations, categories)
    content = {
        "splits": {"apart": "x"},
        "images": "images/{stem}.jpg",
        "labels": "semantic/{stem}.png",
        "classes": source,
    }
    return write_yaml(folder, content, "apart.yaml")


def assert_round_trip(split, folder, source, tool, capsys):
    """Take panoptic labels apart, combine them in both ways, and compare the result with the original."""
    file = take_apart(split, folder, source)
    truth, metadata = DatasetCatalog.get(split), MetadataCatalog.get(split)
    categories = {
        one["id"]: one for one in json.loads(Path(metadata.panoptic_json).read_text())["categories"]
    }
    original = {one["image_id"]: one for one in _annotations(metadata.panoptic_json)}
    for way in (["--instances", "instances.json"], ["--instance-masks", "numbers/{stem}.png"]):
        output = folder / way[0].strip("-")
        assert tool(file, *way, "--output", output) == 0
        (name,) = register_dataset_file(output / "apart_panoptic.yaml")
        records = DatasetCatalog.get(name)
        assert len(records) == len(truth) > 0
        loader = MetadataCatalog.get(name)
        for record, other in zip(records, truth, strict=True):
            assert Path(record["file_name"]).samefile(other["file_name"])
            ids, segments = loader.load_panoptic(record)
            expected, listed = metadata.load_panoptic(other)
            # The same partition of the pixels: ids correspond one to one.
            pairs = np.unique(np.stack([ids, expected], axis=-1).reshape(-1, 2), axis=0)
            renamed = dict(pairs.tolist())
            assert len(pairs) == len(renamed) == len(set(renamed.values()))
            assert renamed.get(0, 0) == 0
            found = {renamed[one["id"]]: one for one in segments}
            assert len(found) == len(listed)
            for one in listed:
                for key in ("category_id", "iscrowd", "isthing", "area"):
                    assert found[one["id"]][key] == one[key], key
            assert np.array_equal(loader.load_sem_seg(record), metadata.load_sem_seg(other))
        made = _annotations(loader.panoptic_json)
        if way[0] == "--instances":
            assert [one["image_id"] for one in made] == [record["image_id"] for record in truth]
        ids = [record["image_id"] for record in truth]
        pairs = [(original[image_id], one) for image_id, one in zip(ids, made, strict=True)]
        roots = (metadata.panoptic_root, loader.panoptic_root)
        quality, _ = pq_compute_single_core(0, pairs, *roots, categories).pq_average(categories, None)
        assert (quality["pq"], quality["sq"], quality["rq"]) == (1, 1, 1)
        assert quality["n"] > 3
        forget([name])
    capsys.readouterr()


def _annotations(file):
    return json.loads(Path(file).read_text())["annotations"]


def test_shapes_survive_the_round_trip(tmp_path, datasets_folder, tool, capsys):
    make_shapes(datasets_folder / "shapes", train=16, val=1, size=64, seed=3, workers=0)
    infos = [one for record in DatasetCatalog.get("shapes_train") for one in record["segments_info"]]
    assert any(one["iscrowd"] for one in infos)  # otherwise less is tested
    assert_round_trip("shapes_train", tmp_path / "apart", "shapes", tool, capsys)


def test_the_real_coco_images_survive_the_round_trip(tmp_path, sample_data, tool, capsys):
    content = {
        "root": str(sample_data / "coco_panoptic_sample"),
        "splits": {"coco_sample": "examples"},
        "images": "input_images",
        "panoptic": "panoptic_{split}",
        "annotations": "panoptic_{split}.json",
        "classes": "coco_panoptic",
    }
    register_dataset_file(write_yaml(tmp_path, content, "sample.yaml"))
    assert_round_trip("coco_sample", tmp_path / "apart", "coco_panoptic", tool, capsys)


# ------------------------------------------------------------------------------------- The files it writes


def test_training_needs_the_yaml_only(tmp_path, tool):
    labels = np.repeat(np.repeat(LABELS, 12, axis=0), 10, axis=1)
    file = write_roads(tmp_path / "data", {"a": labels, "b": labels})
    car = np.repeat(np.repeat(CARS[0], 12, axis=0), 10, axis=1)
    images = [{"id": 1, "file_name": "train/a.png"}, {"id": 2, "file_name": "train/b.png"}]
    annotations = [(1, 1, run_length(car), 0), (2, 1, run_length(car), 0)]
    write_instances(tmp_path / "data/instances_train.json", images, annotations)
    assert tool(file, "--instances", "instances_{split}.json", "--output", tmp_path / "out") == 0
    made = tmp_path / "out/roads_panoptic.yaml"
    source, dataset = read_dataset_file(file), read_dataset_file(made)
    assert dataset.evaluator == "panoptic"
    for key in ("classes", "flip_pairs"):
        ours = [entry.__dict__ | {"color_is_given": 0} for entry in dataset.classes]
        theirs = [entry.__dict__ | {"color_is_given": 0} for entry in source.classes]
        assert ours == theirs if key == "classes" else dataset.flip_pairs == source.flip_pairs
    overrides = {
        "DATASETS.FILES": f'("{made}",)',
        "DATASETS.TRAIN": '("roads_train_panoptic",)',
        "DATASETS.TEST": '("roads_train_panoptic",)',
        "SOLVER.IMS_PER_BATCH": "2",
        "DATALOADER.NUM_WORKERS": "0",
        "INPUT.MIN_SIZE_TRAIN": "(48,)",
    }
    words = [word for pair in overrides.items() for word in pair]
    cfg = model_zoo.load_config("panoptic/coco/maskformer_r50", words)
    assert len(next(iter(build_train_loader(cfg)))) == 2
    reader = {"roads_train_panoptic": label_reader("roads_train_panoptic")}
    mapper = SegmentationMapper(True, task="panoptic", augmentations=[], readers=reader)
    sample = mapper(DatasetCatalog.get("roads_train_panoptic")[0])
    # Road, sky and the car; crowds are no targets.
    assert sample["segment_classes"].tolist() == [0, 2, 1]
    assert np.array_equal(sample["segment_map"].numpy() == 2, car)


def test_it_can_be_moved_and_repeated_and_splits_are_added(tmp_path, tool, capsys):
    file = write_roads(tmp_path, {"a": LABELS}, splits={"roads_train": "train", "roads_val": "val"})
    save(tmp_path / "images/val/c.png", random_image(4, 6))
    save(tmp_path / "masks/val/c.png", LABELS)
    images = [IMAGE, {**IMAGE, "id": 3, "file_name": "c.png"}]
    write_instances(tmp_path / "i.json", images, [(55, 1, run_length(CARS[0]), 0)])
    assert tool(file, "--instances", "i.json", *TRAIN) == 0
    written = [*(tmp_path / "panoptic").rglob("*.*"), tmp_path / "roads_panoptic.yaml"]
    stamps = {path: path.stat().st_mtime_ns for path in written}
    assert tool(file, "--instances", "i.json", *TRAIN) == 0
    assert {path: path.stat().st_mtime_ns for path in written} == stamps
    assert sorted(path.name for path in (tmp_path / "panoptic").iterdir()) == [
        "roads_train",
        "roads_train.json",
        "roads_train.report.json",
    ]
    assert tool(file, "--instances", "i.json", "--split", "roads_val") == 0
    target = tmp_path.parent / f"{tmp_path.name}_moved"
    tmp_path.rename(target)
    names = register_dataset_file(target / "roads_panoptic.yaml")
    assert names == ["roads_train_panoptic", "roads_val_panoptic"]
    assert [record["image_id"] for name in names for record in DatasetCatalog.get(name)] == [55, 3]


def test_check_writes_nothing(tmp_path, tool, capsys):
    file = write_roads(tmp_path, {"a": LABELS})
    write_instances(tmp_path / "i.json", [IMAGE], [(55, 1, run_length(CARS[0]), 0)])
    before = sorted(tmp_path.rglob("*"))
    assert tool(file, "--instances", "i.json", "--check") == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert "roads_train: 1 images, 5 segments, 2 of them crowds" in capsys.readouterr().out


def test_several_processes_write_the_same(tmp_path, tool):
    labels = {f"{k:02}": np.roll(LABELS, k, axis=1) for k in range(20)}
    file = write_roads(tmp_path, labels)
    for stem in labels:
        save(tmp_path / f"numbers/{stem}.png", CARS[0].astype(np.uint8))
    texts = []
    for workers in ("0", "2"):
        output = tmp_path / workers
        arguments = [str(file), "--instance-masks", "numbers/{stem}.png", "--output", str(output)]
        assert convert_data.main(["panoptic", *arguments, "--workers", workers]) == 0
        files = sorted(path for path in output.rglob("*") if path.suffix in (".png", ".json"))
        texts.append([(path.relative_to(output), path.read_bytes()) for path in files])
    assert len(texts[0]) == 22
    assert texts[0] == texts[1]


def test_a_broken_image_is_named_and_its_split_has_no_json(tmp_path, tool, capsys):
    file = write_roads(tmp_path, {"a": LABELS, "b": LABELS})
    write_instances(tmp_path / "i.json", [IMAGE], [(55, 1, run_length(CARS[0]), 0)])
    assert tool(file, "--instances", "i.json") == 0
    save(tmp_path / "masks/train/b.png", np.full((4, 6), 9, dtype=np.uint8))
    assert tool(file, "--instances", "i.json") == 1
    errors = capsys.readouterr().err
    assert "b.png: label 9 is outside [0, 4)" in errors
    assert "roads_train: 1 of 2 images are wrong, see above" in errors
    # The first JSON could contradict the PNGs of the second run.
    assert not (tmp_path / "panoptic/roads_train.json").exists()
    save(tmp_path / "masks/train/b.png", LABELS)
    assert tool(file, "--instances", "i.json") == 0
    assert (tmp_path / "panoptic/roads_train.json").exists()


SMALL = {"size": [2, 2], "counts": [0, 4]}


@pytest.mark.parametrize(
    ("annotation", "image", "status", "message"),
    [
        ((55, 9, SMALL, 0), IMAGE, 2, "annotation 10 has the category 9, which is not among its categories"),
        ((55, 4, SMALL, 0), IMAGE, 2, "category 4 'cart' is no class of roads.yaml; did you mean car?"),
        ((55, 1, SMALL, 0), IMAGE, 1, "annotation 10 has an RLE of 2x2, but its image is 6x4"),
        ((55, 1, [[0, 1, 2]], 0), IMAGE, 2, "annotation 10 has a polygon of 3 coordinates, an odd number"),
        (
            (55, 1, [[0.1, 0.1, 0.9, 0.1, 0.9, 0.8]], 0),
            IMAGE,
            2,
            "in 0..1, but its images are larger (first a.png, 6x4), expected pixels; multiply them by width",
        ),
        (
            (55, 1, {"size": [4, 6], "counts": [3]}, 0),
            IMAGE,
            1,
            "an RLE of 3 pixels, but its image has 24",
        ),
        (
            (55, 1, [[0, 1, 2, 1, 2, None]], 0),
            IMAGE,
            1,
            "annotation 10 has a polygon with the coordinate nan",
        ),
        ((55, 1, SMALL, 0), {**IMAGE, "width": 7}, 1, "is 7x4 in the JSON, but its semantic labels are 6x4"),
        ((55, 1, SMALL, 0), {**IMAGE, "file_name": "z.png"}, 2, "has no image of the split, such as a.png"),
    ],
)
def test_wrong_instances_are_named(tmp_path, tool, capsys, annotation, image, status, message):
    file = write_roads(tmp_path, {"a": LABELS})
    write_instances(tmp_path / "i.json", [image], [annotation], (("car", 1), ("cart", 4)))
    assert tool(file, "--instances", "i.json") == status
    errors = capsys.readouterr().err.splitlines()
    assert message in errors[0]
    assert len(errors) == (2 if status == 1 else 1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda content: content["images"].append({"id": 5, "file_name": "a.png"}),
            "two images have the file_name a",
        ),
        (
            lambda content: content["images"].append({"id": 55, "file_name": "b.png"}),
            "two images have the id 55",
        ),
        (
            lambda content: content["images"][0].pop("id"),
            "image 1 of the list lacks 'id'",
        ),
        (
            lambda content: content["images"].append(7),
            "'images' must be a list of objects, as in COCO's instances format",
        ),
        (
            lambda content: content["annotations"][0].update(image_id=[55]),
            "is of image [55]; expected",
        ),
        (lambda content: content["annotations"][0].update(segments_info=[]), "so it is a panoptic file"),
    ],
)
def test_a_wrong_json_is_one_line(tmp_path, tool, capsys, spoil, message):
    file = write_roads(tmp_path, {"a": LABELS})
    write_instances(tmp_path / "i.json", [IMAGE], [(55, 1, run_length(CARS[0]), 0)])
    content = json.loads((tmp_path / "i.json").read_text())
    spoil(content)
    (tmp_path / "i.json").write_text(json.dumps(content))
    assert tool(file, "--instances", "i.json") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert "i.json" in line


def test_a_dataset_without_labels_is_explained(tmp_path, tool, capsys):
    file = write_roads(tmp_path, {"a": LABELS}, without_labels=list(ROADS["splits"]))
    assert tool(file, "--instances", "i.json") == 2
    assert "roads.yaml: none of its splits has labels" in capsys.readouterr().err


def test_categories_of_other_names_are_renamed_or_left_out(tmp_path, tool):
    file = write_roads(tmp_path, {"a": LABELS})
    annotations = [(55, 1, run_length(CARS[0]), 0), (55, 2, run_length(box(1, 3, 2, 5)), 0)]
    write_instances(tmp_path / "i.json", [IMAGE], annotations, (("auto", 1), ("blob", 2)))
    assert tool(file, "--instances", "i.json", "--rename", "auto=car", "blob=void") == 0
    found = result(tmp_path)[1]
    assert np.array_equal(found["car", 0][0], CARS[0])
    assert ("person", 0) not in found


def test_impossible_conversions_are_one_line(tmp_path, tool, capsys):
    file = write_roads(tmp_path, {"a": LABELS, "b": LABELS})
    write_instances(tmp_path / "i.json", [IMAGE], [])

    def message(*arguments):
        assert tool(*arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    found = message(file, "--instances", "missing.json")
    assert found.startswith("error: --instances: there is no file ")
    assert f"{tmp_path}/missing.json or missing.json; check the path" in found
    assert "no image has a file like" in message(file, "--instance-masks", "x/{stem}.png")
    assert "write {stem} into it" in message(file, "--instance-masks", "x/*.png")
    assert "unknown field" in message(file, "--instance-masks", "x/{name}_{stem}.png")
    assert "did you mean" in message("cityscape", "--instances", "i.json")
    assert "has panoptic labels" in message("shapes", "--instances", "i.json")
    assert "no class has instances" in message("camvid", "--instances", "i.json")
    assert "--split nope: roads.yaml has roads_train" in message(
        file, "--instances", "i.json", "--split", "nope"
    )
    (tmp_path / "mine.yaml").write_text("mine: 1\n")
    assert "mine.yaml: exists and was not written by this command" in message(
        file, "--instances", "i.json", "--name", "mine"
    )
    assert (tmp_path / "mine.yaml").read_text() == "mine: 1\n"
    assert not (tmp_path / "panoptic").exists()


def test_a_path_that_is_wrong_for_all_splits_is_said_once(tmp_path, tool, capsys, monkeypatch):
    """And named once, where the dataset lies in the current folder."""
    splits = {"roads_train": {"split": "train"}, "roads_val": {"split": "train"}}
    file = write_roads(tmp_path, {"a": LABELS}, splits=splits, root=".")
    monkeypatch.chdir(tmp_path)
    assert tool(file.name, "--instances", "missing.json") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"error: --instances: there is no file \S*missing.json; check the path", line)
    assert tool(file.name, "--instance-masks", "x/{stem}.png") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.count("a.png") == 1
