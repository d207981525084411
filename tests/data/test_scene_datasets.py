"""Scene datasets: every value that their label files can hold, their layouts, names, and what is refused."""

import ast
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES, COCO_CATEGORIES
from PIL import Image

from segzoo.data import read_dataset_file
from segzoo.utils.errors import InputError
from tests.data.data_trees import random_image, save

VOID = 255

# cityscapesScripts, labels.py: the trainId of the ids 0..33.
CITYSCAPES_TRAIN_IDS = [
    *(VOID, VOID, VOID, VOID, VOID, VOID, VOID, 0, 1, VOID, VOID, 2, 3, 4, VOID, VOID, VOID, 5, VOID),
    *(6, 7, 8, 9, 10, 11, 12, 13, 14, 15, VOID, VOID, 16, 17, 18),
]
# nightrome/cocostuff: thing classes without labels, as they would stand in stuffthingmaps (id - 1).
COCO_STUFF_GAPS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)

COUNTS = {
    "cityscapes_sem_seg_train": 2975,
    "cityscapes_sem_seg_val": 500,
    "cityscapes_sem_seg_test": 1525,
    "cityscapes_fine_sem_seg_train": 2975,
    "cityscapes_fine_sem_seg_val": 500,
    "cityscapes_fine_sem_seg_test": 1525,
    "voc_2012_sem_seg_train_aug": 10582,
    "voc_2012_sem_seg_train": 1464,
    "voc_2012_sem_seg_val": 1449,
    "voc_2012_sem_seg_trainval": 2913,
    "voc_2012_sem_seg_test": 1456,
    "pascal_context_59_sem_seg_train": 4996,
    "pascal_context_59_sem_seg_val": 5104,
    "coco_2017_train_stuff_sem_seg": 118287,
    "coco_2017_val_stuff_sem_seg": 5000,
    "coco_2017_train_stuff_10k_sem_seg": 9000,
    "coco_2017_test_stuff_10k_sem_seg": 1000,
    "coco_2017_train_21_sem_seg": None,
    "coco_2017_val_21_sem_seg": None,
    "ade20k_full_sem_seg_train": 25574,
    "ade20k_full_sem_seg_val": 2000,
}
NAMES = ("cityscapes", "voc_2012", "pascal_context", "coco_stuff", "coco_stuff_10k", "coco_21", "ade20k_full")


def row(values, dtype=np.uint8):
    return np.array([values], dtype=dtype)


def write(root, image, label, values, mode=None):
    """An image and its label file, one pixel high."""
    save(root / image, random_image(1, len(values)))
    return save(root / label, row(values), mode)


def write_list(root, file, *lines):
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text("".join(f"{line}\n" for line in lines))


def load(split):
    """The classes of the first image of a split."""
    return MetadataCatalog.get(split).load_sem_seg(DatasetCatalog.get(split)[0]).ravel().tolist()


def classes_of(split):
    return MetadataCatalog.get(split).classes


def test_the_splits_and_the_published_numbers_of_images():
    found = {}
    for name in NAMES:
        dataset = read_dataset_file(name)
        found.update({split: dataset.image_counts.get(split) for split in dataset.splits})
    assert found == COUNTS


CITYSCAPES_SPLITS = {"cityscapes_sem_seg_train": "train", "cityscapes_fine_sem_seg_val": "val"}


@pytest.mark.parametrize("root", ["cityscapes", "CityScapes"])
@pytest.mark.parametrize("split", CITYSCAPES_SPLITS)
def test_every_id_of_cityscapes(datasets_folder, root, split):
    folder = f"{CITYSCAPES_SPLITS[split]}/ulm/ulm_000000_000019"
    image, label = f"leftImg8bit/{folder}_leftImg8bit.png", f"gtFine/{folder}_gtFine_labelIds.png"
    write(datasets_folder / root, image, label, [*range(34), VOID])
    assert load(split) == [*CITYSCAPES_TRAIN_IDS, VOID]
    assert DatasetCatalog.get(split)[0]["image_id"] == "ulm/ulm_000000_000019"


def test_train_ids_of_cityscapes_give_the_same_classes(datasets_folder):
    base = "train/ulm/ulm_000000_000019"
    label = f"gtFine/{base}_gtFine_labelTrainIds.png"
    write(datasets_folder / "cityscapes", f"leftImg8bit/{base}_leftImg8bit.png", label, CITYSCAPES_TRAIN_IDS)
    assert load("cityscapes_sem_seg_train") == CITYSCAPES_TRAIN_IDS


def test_classes_of_cityscapes_are_detectron2s():
    scored = [one for one in CITYSCAPES_CATEGORIES if 0 <= one["trainId"] < 255]
    metadata = MetadataCatalog.get("cityscapes_sem_seg_val")
    assert metadata.classes == [one["name"] for one in scored]
    assert metadata.colors == [one["color"] for one in scored]
    assert metadata.contiguous_id_to_dataset_id == [one["id"] for one in scored]
    assert metadata.isthing == [bool(one["isthing"]) for one in scored]


def test_the_test_set_of_cityscapes_needs_no_labels(datasets_folder):
    save(datasets_folder / "cityscapes/leftImg8bit/test/bonn/bonn_1_leftImg8bit.png", random_image(2, 2))
    (record,) = DatasetCatalog.get("cityscapes_sem_seg_test")
    assert "sem_seg_file_name" not in record


# VOC's colors by hand: https://host.robots.ox.ac.uk/pascal/VOC/voc2012/segexamples
VOC_COLORS = {
    "background": (0, 0, 0),
    "aeroplane": (128, 0, 0),
    "bicycle": (0, 128, 0),
    "bottle": (128, 0, 128),
    "cat": (64, 0, 0),
    "horse": (192, 0, 128),
    "person": (192, 128, 128),
    "sheep": (128, 64, 0),
    "tvmonitor": (0, 64, 128),
}


def test_classes_and_colors_of_voc():
    metadata = MetadataCatalog.get("voc_2012_sem_seg_val")
    assert len(metadata.classes) == 21
    assert metadata.classes[:3] == ["background", "aeroplane", "bicycle"]
    assert metadata.classes[15:] == ["person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"]
    colors = dict(zip(metadata.classes, metadata.colors, strict=True))
    assert {name: colors[name] for name in VOC_COLORS} == VOC_COLORS
    assert classes_of("coco_2017_train_21_sem_seg") == metadata.classes


def test_the_real_voc_labels(sample_data, datasets_folder):
    if not (sample_data / "voc_sample").is_dir():
        pytest.skip("no VOC sample")
    (datasets_folder / "VOC2012").symlink_to(sample_data / "voc_sample")
    files = sorted((sample_data / "voc_sample/SegmentationClass").iterdir())
    # The sample has no lists.
    root = datasets_folder / "VOCdevkit/VOC2012"
    root.mkdir(parents=True)
    for folder in ("JPEGImages", "SegmentationClass"):
        (root / folder).symlink_to(sample_data / "voc_sample" / folder)
    write_list(root, "ImageSets/Segmentation/val.txt", *(file.stem for file in files))
    metadata = MetadataCatalog.get("voc_2012_sem_seg_val")
    for file, record in zip(files, DatasetCatalog.get("voc_2012_sem_seg_val"), strict=True):
        image = Image.open(file)
        assert np.array_equal(metadata.load_sem_seg(record), np.array(image))
        palette = np.array(image.getpalette()).reshape(-1, 3)[:21]
        assert [tuple(color) for color in palette.tolist()] == metadata.colors


VOC_VALUES = [*range(21), VOID]


@pytest.mark.parametrize("root", ["VOC2012", "VOCdevkit/VOC2012"])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_every_value_of_voc(datasets_folder, root, mode):
    write(datasets_folder / root, "JPEGImages/a.jpg", "SegmentationClass/a.png", VOC_VALUES, mode)
    # convert("P") may sort the palette: the stored index is what counts.
    stored = np.array(Image.open(datasets_folder / root / "SegmentationClass/a.png"))[0].tolist()
    for split in ("train", "val", "trainval"):
        write_list(datasets_folder / root, f"ImageSets/Segmentation/{split}.txt", "a")
        assert load(f"voc_2012_sem_seg_{split}") == stored


VOC_AUG_LISTS = {
    "written by the script": ("ImageSets/Segmentation/train_aug.txt", "a"),
    "other spelling": ("ImageSets/Segmentation/trainaug.txt", "a"),
    "two columns": ("list/train_aug.txt", "/JPEGImages/a.jpg /SegmentationClassAug/a.png"),
}


@pytest.mark.parametrize("kind", VOC_AUG_LISTS)
def test_the_lists_of_augmented_voc(datasets_folder, kind):
    root = datasets_folder / "VOC2012"
    write(root, "JPEGImages/a.jpg", "SegmentationClassAug/a.png", VOC_VALUES)
    write(root, "JPEGImages/b.jpg", "SegmentationClassAug/b.png", [1])
    write_list(root, *VOC_AUG_LISTS[kind])
    assert load("voc_2012_sem_seg_train_aug") == VOC_VALUES
    (record,) = DatasetCatalog.get("voc_2012_sem_seg_train_aug")
    assert record["file_name"] == str(root / "JPEGImages/a.jpg")


def test_plain_voc_reads_vocs_own_labels_where_there_are_both(datasets_folder):
    root = datasets_folder / "VOC2012"
    write(root, "JPEGImages/a.jpg", "SegmentationClass/a.png", [3])
    write(root, "JPEGImages/a.jpg", "SegmentationClassAug/a.png", [4])
    for split in ("val", "train_aug"):
        write_list(root, f"ImageSets/Segmentation/{split}.txt", "a")
    assert load("voc_2012_sem_seg_val") == [3]
    assert load("voc_2012_sem_seg_train_aug") == [4]
    (root / "SegmentationClass/a.png").unlink()
    assert load("voc_2012_sem_seg_val") == [4]


# The authors' labels.txt, entries of the 59 classes; DATASETS of mmsegmentation sorts by these ids.
CONTEXT_IDS = {"aeroplane": 2, "bag": 9, "building": 44, "person": 284, "tree": 420, "wood": 458}


def test_classes_of_pascal_context():
    metadata = MetadataCatalog.get("pascal_context_59_sem_seg_val")
    assert len(metadata.classes) == 59
    assert metadata.classes == sorted(metadata.classes)
    ids = metadata.contiguous_id_to_dataset_id
    assert ids == sorted(ids)
    by_name = dict(zip(metadata.classes, ids, strict=True))
    assert {name: by_name[name] for name in CONTEXT_IDS} == CONTEXT_IDS


CONTEXT_LAYOUTS = {
    "VOCdevkit/VOC2010": "SegmentationClassContext",
    "VOC2010": "SegmentationClassContext",
}


@pytest.mark.parametrize("root", CONTEXT_LAYOUTS)
def test_every_value_of_pascal_context(datasets_folder, root):
    folder = datasets_folder / root
    write(folder, "JPEGImages/a.jpg", f"{CONTEXT_LAYOUTS[root]}/a.png", [*range(60), VOID])
    for split in ("train", "val"):
        write_list(folder, f"ImageSets/SegmentationContext/{split}.txt", "a")
        assert load(f"pascal_context_59_sem_seg_{split}") == [VOID, *range(59), VOID]


def test_pascal_context_as_on_detectron2(datasets_folder):
    values = [*range(59), VOID]
    write(
        datasets_folder / "pascal_ctx_d2",
        "images/validation/a.jpg",
        "annotations_ctx59/validation/a.png",
        values,
    )
    assert load("pascal_context_59_sem_seg_val") == values


COCO_STUFF_RAW = {
    "detectron2": ("coco", "val2017", "stuffthingmaps/val2017"),
    "images and labels": ("COCO", "images/val2017", "labels/val2017"),
    "mmsegmentation": ("coco_stuff164k", "images/val2017", "annotations/val2017"),
}


def coco_stuff_labels():
    """Every raw value and its class, by counting the gaps before it."""
    raw = [value for value in range(182) if value not in COCO_STUFF_GAPS]
    return raw, [value - sum(gap < value for gap in COCO_STUFF_GAPS) for value in raw]


@pytest.mark.parametrize("layout", COCO_STUFF_RAW)
def test_every_value_of_coco_stuff(datasets_folder, layout):
    root, images, labels = COCO_STUFF_RAW[layout]
    raw, expected = coco_stuff_labels()
    assert expected == list(range(171))
    write(datasets_folder / root, f"{images}/1.jpg", f"{labels}/1.png", [*raw, VOID])
    assert load("coco_2017_val_stuff_sem_seg") == [*expected, VOID]


@pytest.mark.parametrize("gap", [*COCO_STUFF_GAPS, 182])
def test_a_value_that_coco_stuff_does_not_have_is_refused(datasets_folder, gap):
    write(datasets_folder / "coco", "val2017/1.jpg", "stuffthingmaps/val2017/1.png", [3, gap])
    with pytest.raises(InputError, match=rf"1\.png: label {gap} is not among the values 0, 1, 2"):
        load("coco_2017_val_stuff_sem_seg")


COCO_STUFF_INDICES = {
    "detectron2": ("coco", "val2017", "stuffthingmaps_detectron2/val2017/1.png"),
    "beside": ("coco", "val2017", "stuffthingmaps/val2017/1_labelTrainIds.png"),
    "images and labels": ("COCO", "images/val2017", "labels/val2017/1_labelTrainIds.png"),
    "mmsegmentation": ("coco_stuff164k", "images/val2017", "annotations/val2017/1_labelTrainIds.png"),
}


@pytest.mark.parametrize("layout", COCO_STUFF_INDICES)
def test_class_indices_of_coco_stuff(datasets_folder, layout):
    root, images, label = COCO_STUFF_INDICES[layout]
    values = [*range(171), VOID]
    write(datasets_folder / root, f"{images}/1.jpg", label, values)
    assert load("coco_2017_val_stuff_sem_seg") == values


def test_classes_of_coco_stuff():
    metadata = MetadataCatalog.get("coco_2017_val_stuff_sem_seg")
    things = [one for one in COCO_CATEGORIES if one["isthing"]]
    assert metadata.classes[:80] == [one["name"] for one in things]
    ids = metadata.contiguous_id_to_dataset_id
    assert ids == [one["id"] for one in things] + list(range(92, 183))
    assert metadata.isthing == [True] * 80 + [False] * 91
    assert (metadata.classes[80], metadata.classes[-1]) == ("banner", "wood")
    assert classes_of("coco_2017_test_stuff_10k_sem_seg") == metadata.classes


def mmsegmentation_classes(file, name):
    """The class names of a dataset of mmsegmentation, read from its source: importing it needs mmcv."""
    package = importlib.util.find_spec("mmseg")
    if package is None:
        pytest.skip("mmsegmentation is not installed")
    source = Path(package.submodule_search_locations[0], "datasets", file).read_text()
    (found,) = [node for node in ast.walk(ast.parse(source)) if getattr(node, "name", None) == name]
    (assignment,) = [node.value for node in found.body if isinstance(node, ast.Assign)]
    return list(ast.literal_eval({one.arg: one.value for one in assignment.keywords}["classes"]))


@pytest.mark.parametrize(
    ("ours", "file", "theirs"),
    [
        ("cityscapes_sem_seg_val", "cityscapes.py", "CityscapesDataset"),
        ("pascal_context_59_sem_seg_val", "pascal_context.py", "PascalContextDataset59"),
        ("coco_2017_val_stuff_sem_seg", "coco_stuff.py", "COCOStuffDataset"),
        ("voc_2012_sem_seg_val", "voc.py", "PascalVOCDataset"),
    ],
)
def test_names_are_mmsegmentations(ours, file, theirs):
    assert classes_of(ours) == mmsegmentation_classes(file, theirs)


COCO_10K_LAYOUTS = {
    "script": ("coco/coco_stuff_10k", "images/1.jpg", "annotations_detectron2/train/1.png", 0),
    "maskformer": (
        "coco/coco_stuff_10k",
        "images_detectron2/train/1.jpg",
        "annotations_detectron2/train/1.png",
        0,
    ),
    "mmsegmentation": (
        "coco_stuff10k",
        "images/train2014/1.jpg",
        "annotations/train2014/1_labelTrainIds.png",
        1,
    ),
}


@pytest.mark.parametrize("layout", COCO_10K_LAYOUTS)
def test_coco_stuff_10k(datasets_folder, layout):
    root, image, label, first = COCO_10K_LAYOUTS[layout]
    write(datasets_folder / root, image, label, [*range(first, 171 + first), VOID, *range(first)])
    if layout == "script":
        write_list(datasets_folder / root, "imageLists/train.txt", "1")
    assert load("coco_2017_train_stuff_10k_sem_seg") == [*range(171), VOID, *[VOID] * first]


@pytest.mark.parametrize("images", ["train2017", "images/train2017"])
def test_coco_21(datasets_folder, images):
    root = datasets_folder / "coco"
    write(root, f"{images}/1.jpg", "coco_21_labels/train2017/1.png", VOC_VALUES)
    save(root / f"{images}/2.jpg", random_image(1, 1))
    write_list(root, "coco_21_labels/train2017.txt", "1")
    assert load("coco_2017_train_21_sem_seg") == VOC_VALUES
    assert len(DatasetCatalog.get("coco_2017_train_21_sem_seg")) == 1


def write_ade20k_full(datasets_folder, values):
    root = datasets_folder / "ADE20K_2021_17_01"
    save(root / "images_detectron2/validation/ADE_val_1.jpg", random_image(1, len(values)))
    return save(root / "annotations_detectron2/validation/ADE_val_1.tif", row(values, np.uint16))


def test_every_value_of_ade20k_full(datasets_folder):
    write_ade20k_full(datasets_folder, [*range(847), 65535])
    metadata = MetadataCatalog.get("ade20k_full_sem_seg_val")
    labels = metadata.load_sem_seg(DatasetCatalog.get("ade20k_full_sem_seg_val")[0])
    assert labels.dtype == np.uint16
    assert labels[0].tolist() == [*range(847), 65535]
    assert metadata.ignore_label == 65535


# ADE20K 2021_17_01: ids of a few classes, from the dataset's own index.
ADE20K_IDS = {
    0: ("wall", 2978),
    11: ("person, individual, someone, somebody, mortal, soul", 1831),
    57: ("screen door, screen", 2251),
    255: ("pier", 1857),
    846: ("adding machine, totalizer, totaliser", 3148),
}


def test_classes_of_ade20k_full():
    metadata = MetadataCatalog.get("ade20k_full_sem_seg_val")
    ids = metadata.contiguous_id_to_dataset_id
    assert len(metadata.classes) == len(set(metadata.classes)) == len(set(ids)) == 847
    assert {index: (metadata.classes[index], ids[index]) for index in ADE20K_IDS} == ADE20K_IDS


def test_an_ade20k_full_label_out_of_range_names_the_file(datasets_folder):
    write_ade20k_full(datasets_folder, [846, 847])
    with pytest.raises(InputError, match=r"ADE_val_1\.tif: label 847 is outside \[0, 847\)"):
        load("ade20k_full_sem_seg_val")


@pytest.mark.parametrize(
    ("split", "image", "label", "lists", "value", "message"),
    [
        (
            "cityscapes_sem_seg_val",
            "cityscapes/leftImg8bit/val/ulm/a_leftImg8bit.png",
            "cityscapes/gtFine/val/ulm/a_gtFine_labelIds.png",
            None,
            34,
            "a_gtFine_labelIds.png: label 34 is not among the values 7, 8, 11",
        ),
        (
            "voc_2012_sem_seg_val",
            "VOC2012/JPEGImages/a.jpg",
            "VOC2012/SegmentationClass/a.png",
            "VOC2012/ImageSets/Segmentation/val.txt",
            21,
            r"a.png: label 21 is outside \[0, 21\)",
        ),
        (
            "pascal_context_59_sem_seg_val",
            "VOC2010/JPEGImages/a.jpg",
            "VOC2010/SegmentationClassContext/a.png",
            "VOC2010/ImageSets/SegmentationContext/val.txt",
            60,
            r"a.png: label 60 is outside \[1, 60\)",
        ),
        (
            "coco_2017_val_21_sem_seg",
            "coco/val2017/a.jpg",
            "coco/coco_21_labels/val2017/a.png",
            "coco/coco_21_labels/val2017.txt",
            21,
            r"a.png: label 21 is outside \[0, 21\)",
        ),
    ],
)
def test_a_label_out_of_range_names_the_file(datasets_folder, split, image, label, lists, value, message):
    write(datasets_folder, image, label, [8, value])
    if lists:
        write_list(datasets_folder, lists, "a")
    with pytest.raises(InputError, match=message):
        load(split)


@pytest.mark.parametrize(
    ("split", "folder", "name"),
    [
        ("voc_2012_sem_seg_train_aug", "VOC2012", "voc_2012"),
        ("pascal_context_59_sem_seg_val", "VOC2010", "pascal_context"),
        ("coco_2017_train_stuff_10k_sem_seg", "coco_stuff_10k", "coco_stuff_10k"),
        ("coco_2017_train_21_sem_seg", "coco", "coco_21"),
        ("ade20k_full_sem_seg_train", "ADE20K_2021_17_01", "ade20k_full"),
    ],
)
def test_missing_prepared_files_name_the_command(datasets_folder, split, folder, name):
    (datasets_folder / folder).mkdir()
    with pytest.raises(InputError, match=f"run `segzoo prepare {name}`"):
        DatasetCatalog.get(split)
