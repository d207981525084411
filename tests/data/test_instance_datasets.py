"""Cityscapes and ADE20K instances: their metadata, their labels as read, and what `segzoo prepare` writes."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import ADE20K_SEM_SEG_CATEGORIES, CITYSCAPES_CATEGORIES
from PIL import Image
from pycocotools.coco import COCO

from segzoo.data import read_dataset_file
from segzoo.data.encodings import UnknownLabelError
from segzoo.data.mapper import SegmentationMapper
from segzoo.data.register import label_reader
from segzoo.utils.errors import InputError
from tests.data.data_trees import (
    ADE_CATEGORIES,
    ADE_NUMBERS,
    LABEL_OF_CATEGORY,
    load,
    random_image,
    save,
    write_ade20k,
    write_yaml,
)

# Classes 2 and 3 are things, 5 is void. Road, sky, two cars, a group of cars, a person, a group of persons;
# void, and a numbered object of a void class.
STREET = {
    "splits": {"blocks_train": "train"},
    "images": "images/{stem}.png",
    "labels": "ids/{stem}.png",
    "encoding": {"type": "instance_id", "void": [0, 5]},
    "classes": [
        {"name": "road", "id": 1},
        {"name": "sky", "id": 4},
        {"name": "car", "id": 2, "isthing": True},
        {"name": "person", "id": 3, "isthing": True},
    ],
}
IDS = np.array([[4, 4, 4, 5, 5001, 0], [2000, 2000, 2, 2, 3, 1], [2000, 2007, 3001, 1, 3, 1]], np.uint16)


def write_street(folder, ids=IDS, **keys):
    save(folder / "images/a.png", random_image(*ids.shape))
    save(folder / "ids/a.png", ids)
    return write_yaml(folder, {**STREET, **keys}, "blocks.yaml")


def expected_instances(ids=IDS):
    """[(class index, mask)] of the numbered things, by looking at each value."""
    index_of = {2: 2, 3: 3}
    values = [value for value in np.unique(ids).tolist() if value >= 1000 and value // 1000 in index_of]
    return [(index_of[value // 1000], ids == value) for value in values]


def test_every_value_is_decoded_as_its_class(tmp_path):
    (record,), metadata = load(write_street(tmp_path))
    encoding = label_reader("blocks_train").dataset.layouts[0].encoding
    class_of = {1: 0, 4: 1, 2: 2, 3: 3, 0: 255, 5: 255}
    for value in range(1 << 16):
        category = value if value < 1000 else value // 1000
        assert encoding.known[value] == (category in class_of or value == 255)
        if category in class_of:
            assert encoding.table[value] == class_of[category]
    assert metadata.load_sem_seg(record).tolist() == [
        [1, 1, 1, 255, 255, 255],
        [2, 2, 2, 2, 3, 0],
        [2, 2, 3, 0, 3, 0],
    ]
    assert encoding.file_values() == [1, 4, 2, 3]  # what a submission of semantic labels says


def test_regions_are_those_of_the_file(tmp_path):
    (record,), metadata = load(write_street(tmp_path))
    regions = metadata.load_regions(record)
    assert regions.values.tolist() == sorted(set(IDS.ravel().tolist()))
    assert np.array_equal(regions.values[regions.indices], IDS)
    columns = (one.tolist() for one in regions[1:])
    rows = {value: rest for value, *rest in zip(*columns, strict=True)}
    assert rows == {
        0: [255, False],
        1: [0, False],
        2: [2, False],
        3: [3, False],
        4: [1, False],
        5: [255, False],
        2000: [2, True],
        2007: [2, True],
        3001: [3, True],
        5001: [255, True],
    }


def test_training_sees_the_numbered_things(tmp_path):
    (record,), _ = load(write_street(tmp_path))
    readers = {"blocks_train": label_reader("blocks_train")}
    mapped = SegmentationMapper(True, task="instance", augmentations=[], readers=readers)(record)
    # The map counts targets, whose classes count the things alone.
    found = [(one + 2, index) for index, one in enumerate(mapped["segment_classes"].tolist())]
    expected = expected_instances()
    assert [one for one, _ in found] == [one for one, _ in expected]
    segment_map = mapped["segment_map"].numpy()
    for (_, index), (_, mask) in zip(found, expected, strict=True):
        assert np.array_equal(segment_map == index, mask)
    assert (segment_map == -1).sum() == IDS.size - sum(mask.sum() for _, mask in expected)
    assert "sem_seg_file_name" not in mapped
    # Groups are crowds to the other tasks, and their class to the semantic one.
    panoptic = SegmentationMapper(True, task="panoptic", augmentations=[], readers=readers)(record)
    assert sorted(panoptic["segment_classes"].tolist()) == [0, 1, 2, 2, 3]
    semantic = SegmentationMapper(True, task="semantic", augmentations=[], readers=readers)(record)
    assert (semantic["sem_seg"] == 2).sum() == 6


def test_other_labels_are_rejected(tmp_path):
    path = write_street(tmp_path, np.where(IDS == 2007, 7001, IDS).astype(np.uint16))
    (record,), metadata = load(path)
    for read in (metadata.load_regions, metadata.load_sem_seg):
        with pytest.raises(UnknownLabelError, match=r"values 7001 have ids of no class, 7 \(1 pixels"):
            read(record)
    save(tmp_path / "ids/a.png", random_image(3, 6))
    with pytest.raises(InputError, match=r"is a color image .* but blocks.yaml says encoding instance_id"):
        metadata.load_regions(record)
    save(tmp_path / "ids/a.png", IDS[:2])
    with pytest.raises(InputError, match=r"is 6x2, but its image .* is 6x3"):
        metadata.load_regions({**record, "height": 3, "width": 6})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"encoding": "id", "evaluator": "cityscapes_instances"},
            "needs labels with the encoding instance_id",
        ),
        ({"evaluator": "coco_instances"}, "evaluator 'coco_instances' needs the key instances"),
        ({"encoding": {"type": "instance_id", "offset": 1}}, "has no option offset"),
        (
            {"classes": [{"name": "car", "id": 1000}, "road"]},
            "a class has the id 1000; ids must be below 1000",
        ),
        (
            {"layouts": [{"encoding": "id"}, {"encoding": "instance_id"}]},
            "either all layouts have the encoding instance_id, or none",
        ),
    ],
)
def test_contradictions_are_named(tmp_path, keys, message):
    with pytest.raises(InputError, match=message):
        read_dataset_file(write_street(tmp_path, **keys))
    assert read_dataset_file(write_street(tmp_path, evaluator="sem_seg")).evaluator == "sem_seg"


def test_cityscapes_instances_have_detectron2s_categories_and_files(datasets_folder):
    metadata = MetadataCatalog.get("cityscapes_fine_instance_seg_val")
    things = [one for one in CITYSCAPES_CATEGORIES if one["isthing"]]
    assert metadata.thing_classes == [one["name"] for one in things]
    assert metadata.thing_dataset_id_to_contiguous_id == {
        one["id"]: one["trainId"] for one in CITYSCAPES_CATEGORIES if one["isthing"]
    }
    assert metadata.evaluator_type == "cityscapes_instances"
    # 26 cars; 15 is void, as the 14 others of the benchmark; -1 is never painted.
    ids = np.array([[26000, 26000, 26, 7], [26001, 15, 29000, 0]], np.uint16)
    root = datasets_folder / "cityscapes"
    save(root / "leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.png", random_image(2, 4))
    save(root / "gtFine/val/ulm/ulm_000000_000019_gtFine_instanceIds.png", ids)
    (record,) = DatasetCatalog.get("cityscapes_fine_instance_seg_val")
    assert record["image_id"] == "ulm/ulm_000000_000019"
    assert metadata.load_sem_seg(record).tolist() == [[13, 13, 13, 0], [13, 255, 255, 255]]
    with pytest.raises(InputError, match=r"cityscapes_fine_instance_seg_train: no images .*train"):
        DatasetCatalog.get("cityscapes_fine_instance_seg_train")


def test_cityscapes_void_ids_are_those_of_the_benchmark():
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    (encoding,) = {one.encoding for one in read_dataset_file("cityscapes_instance").layouts}
    for label in labels:
        if label.id >= 0:
            index = 255 if label.ignoreInEval else label.trainId
            assert encoding.table[label.id] == encoding.table[label.id * 1000 + 3] == index


# --------------------------------------------------------------------------------------------- ADE20K


def test_ade20k_instances_have_the_things_of_the_panoptic_labels():
    metadata = MetadataCatalog.get("ade20k_instance_val")
    panoptic = MetadataCatalog.get("ade20k_panoptic_val")
    assert metadata.classes == metadata.thing_classes == panoptic.thing_classes
    assert metadata.thing_colors == panoptic.thing_colors
    assert metadata.contiguous_id_to_dataset_id == [label - 1 for label in LABEL_OF_CATEGORY.values()]
    assert metadata.evaluator_type == "coco_instances"


def test_ade20k_instances_are_written_in_cocos_format_and_read(prepare, datasets_folder, capsys):
    root = write_ade20k(datasets_folder)
    with pytest.raises(InputError, match=r"run `segzoo prepare ade20k_instance`"):
        DatasetCatalog.get("ade20k_instance_val")
    assert prepare("ade20k_instance") == 1  # not the published number of images
    assert "ade20k_instance_val: 2 images, published: 2000" in capsys.readouterr().out
    coco = COCO(str(root / "ade20k_instance_val.json"))
    capsys.readouterr()
    assert sorted(coco.anns) == list(range(1, 7))
    stems = ["ADE_valid_00000001", "ADE_valid_00000002"]
    assert sorted(coco.imgs) == stems
    records = DatasetCatalog.get("ade20k_instance_val")
    for stem, record in zip(stems, records, strict=True):
        assert (coco.imgs[stem]["width"], coco.imgs[stem]["height"]) == (6, 4)
        assert record["file_name"] == f"{root}/images/validation/{stem}.jpg"
        found = coco.loadAnns(coco.getAnnIds(imgIds=[stem]))
        truths = MetadataCatalog.get("ade20k_instance_val").load_instances(record)
        for number, annotation, truth in zip((1, 2, 3), found, truths, strict=True):
            mask = np.equal(ADE_NUMBERS, number)
            (category,) = set(ADE_CATEGORIES[mask].tolist())
            assert np.array_equal(coco.annToMask(annotation), mask)
            assert annotation["category_id"] == LABEL_OF_CATEGORY[category] - 1
            assert truth["category_id"] == category - 1
            assert annotation["area"] == truth["area"] == mask.sum()
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert annotation["bbox"] == [int(side) for side in box]
            assert annotation["iscrowd"] == 0
    assert prepare("ade20k_instance") == 1
    assert "ade20k_instance_val.json is there" in capsys.readouterr().out


def test_every_category_of_ade20k_becomes_its_class(prepare, datasets_folder):
    root = write_ade20k(datasets_folder)
    numbers = np.arange(1, 101, dtype=np.uint8).reshape(10, 10)
    save(root / "annotations_instance/training/ADE_train_00000001.png", np.dstack([numbers] * 3))
    save(root / "images/training/ADE_train_00000001.jpg", random_image(10, 10))
    prepare("ade20k_instance")
    record = DatasetCatalog.get("ade20k_instance_train")[0]
    assert [one["category_id"] for one in record["annotations"]] == list(range(100))


def test_mask2formers_json_of_ade20k_is_read(datasets_folder):
    """Its categories have the first of the synonyms that the authors of the instances chose."""
    root = write_ade20k(datasets_folder)
    ids = [label - 1 for label in LABEL_OF_CATEGORY.values()]
    names = {index: ADE20K_SEM_SEG_CATEGORIES[index].split(",")[0].strip() for index in ids}
    names |= {8: "windowpane", 37: "bathtub", 38: "railing", 87: "streetlight", 89: "television receiver"}
    names |= {90: "airplane", 92: "apparel", 138: "ashcan"}
    document = {
        "images": [{"id": "a", "file_name": "ADE_valid_00000001.jpg", "width": 6, "height": 4}],
        "annotations": [
            {"id": 1 + index, "image_id": "a", "category_id": index, "segmentation": [[0, 0, 4, 0, 4, 4]]}
            for index in ids
        ],
        "categories": [{"id": index, "name": name} for index, name in names.items()],
    }
    (root / "ade20k_instance_val.json").write_text(json.dumps(document))
    (record,) = DatasetCatalog.get("ade20k_instance_val")
    assert [one["category_id"] for one in record["annotations"]] == list(range(100))
    assert MetadataCatalog.get("ade20k_instance_val").contiguous_id_to_dataset_id == ids


def test_a_wrong_file_of_ade20k_is_named_and_its_split_not_written(prepare, datasets_folder, capsys):
    root = write_ade20k(datasets_folder)
    bad = root / "annotations_instance/training/ADE_train_00000002.png"
    Image.fromarray(np.full((4, 6, 3), 101, np.uint8)).save(bad)
    assert prepare("ade20k_instance") == 1
    assert f"{bad}: category 101 of an instance is outside [1, 100]" in capsys.readouterr().err
    assert not (root / "ade20k_instance_train.json").exists()
    assert (root / "ade20k_instance_val.json").exists()
    assert not [file for file in root.iterdir() if file.name.startswith(".")]


def test_ade20k_without_instances_is_explained(prepare, datasets_folder, capsys):
    assert prepare("ade20k_instance") == 2
    assert "unpack annotations_instance.tar" in capsys.readouterr().err
