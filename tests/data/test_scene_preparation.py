"""`segzoo prepare` on scene datasets, on tiny trees in the formats of the downloads."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.io import savemat

from segzoo.utils.errors import InputError
from segzoo.utils.files import atomic_path
from tests.data.data_trees import random_image, save

DATASETS = Path(__file__).resolve().parents[2] / "datasets"
VOID = 255
VOC_COLORS = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128)}


def pixels(file):
    return np.array(Image.open(file))


def write_list(file, *names):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{name}\n" for name in names))


def load(split):
    """Return {image name: its class map}."""
    metadata = MetadataCatalog.get(split)
    records = DatasetCatalog.get(split)
    return {Path(record["file_name"]).stem: metadata.load_sem_seg(record) for record in records}


def write_mat(file, variables):
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, variables)


# --- VOC 2012 with SBD


def write_sbd(folder, name, labels):
    regions = {"Boundaries": np.zeros((20, 1)), "Segmentation": labels, "CategoriesPresent": np.array([1])}
    write_mat(folder / f"cls/{name}.mat", {"GTcls": regions})


@pytest.fixture
def voc(datasets_folder):
    """Write VOC with one image in train and another in val, and SBD with both and two more."""
    root = datasets_folder / "VOCdevkit/VOC2012"
    names = ("both", "val", "sbd_1", "sbd_2")
    for number, name in enumerate(names):
        save(root / f"JPEGImages/{name}.jpg", random_image(2, 3))
        labels = np.array([[0, 15, 20], [number, number, number]], dtype=np.uint8)
        write_sbd(datasets_folder / "benchmark_RELEASE/dataset", name, labels)
    for name in ("both", "val"):
        save(root / f"SegmentationClass/{name}.png", np.array([[0, 255, 7]] * 2, dtype=np.uint8))
    write_list(root / "ImageSets/Segmentation/train.txt", "both")
    write_list(root / "ImageSets/Segmentation/val.txt", "val")
    write_list(root / "ImageSets/Segmentation/trainval.txt", "both", "val")
    return root


def test_augmented_voc_has_no_image_of_val_and_keeps_vocs_own_labels(prepare, voc, capsys):
    assert prepare("voc_2012") == 1
    assert "voc_2012_sem_seg_train_aug: 3 images, published: 10582" in capsys.readouterr().out
    found = load("voc_2012_sem_seg_train_aug")
    assert found.keys() == {"both", "sbd_1", "sbd_2"}
    assert not found.keys() & load("voc_2012_sem_seg_val").keys()
    assert found["both"].tolist() == [[0, VOID, 7]] * 2
    assert found["sbd_1"].tolist() == [[0, 15, 20], [2, 2, 2]]
    assert found["sbd_2"].tolist() == [[0, 15, 20], [3, 3, 3]]
    assert not (voc / "SegmentationClassAug.partial").exists()


def test_augmented_voc_has_vocs_palette(prepare, voc):
    prepare("voc_2012")
    image = Image.open(voc / "SegmentationClassAug/sbd_1.png")
    assert image.mode == "P"
    palette = np.array(image.getpalette()).reshape(-1, 3)
    assert {index: tuple(palette[index].tolist()) for index in VOC_COLORS} == VOC_COLORS


def test_augmented_voc_is_written_once(prepare, voc):
    prepare("voc_2012")
    file = voc / "SegmentationClassAug/sbd_1.png"
    written = file.stat().st_mtime_ns
    (voc / "SegmentationClassAug/sbd_2.png").unlink()
    prepare("voc_2012")
    assert file.stat().st_mtime_ns == written
    assert (voc / "SegmentationClassAug/sbd_2.png").is_file()


def test_a_broken_file_of_sbd_is_named_and_an_incomplete_folder_is_not_read(
    prepare, voc, datasets_folder, capsys
):
    folder = datasets_folder / "benchmark_RELEASE/dataset"
    (folder / "cls/sbd_1.mat").write_bytes(b"<html>404</html>" * 100)
    write_sbd(folder, "sbd_2", np.array([[21]], dtype=np.uint8))
    assert prepare("voc_2012") == 1
    errors = capsys.readouterr().err
    assert "sbd_1.mat: has no readable GTcls" in errors
    assert "sbd_2.mat: label 21 is outside [0, 21)" in errors
    assert not (voc / "SegmentationClassAug").exists()
    assert not (voc / "ImageSets/Segmentation/train_aug.txt").exists()
    for name in ("sbd_1", "sbd_2"):
        write_sbd(folder, name, np.zeros((2, 3), dtype=np.uint8))
    prepare("voc_2012")
    assert load("voc_2012_sem_seg_train_aug").keys() == {"both", "sbd_1", "sbd_2"}


def test_training_on_val_is_found(prepare, voc, capsys):
    prepare("voc_2012")
    (voc / "SegmentationClassAug/val.png").write_bytes((voc / "SegmentationClass/val.png").read_bytes())
    write_list(voc / "ImageSets/Segmentation/train_aug.txt", "both", "val")
    assert prepare("voc_2012", "--check") == 2
    assert "train_aug: 1 of its images are in VOC val, first val.jpg" in capsys.readouterr().err


def test_a_missing_voc_or_sbd_is_explained(prepare, voc, datasets_folder, capsys):
    (datasets_folder / "benchmark_RELEASE").rename(datasets_folder / "elsewhere")
    assert prepare("voc_2012") == 2
    assert "unpack SBD's benchmark.tgz there or give --sbd" in capsys.readouterr().err
    assert prepare("voc_2012", "--sbd", str(datasets_folder / "elsewhere/dataset")) == 1
    assert prepare("voc_2012", "--root", str(datasets_folder)) == 2
    assert f"no ImageSets/Segmentation/val.txt in {datasets_folder};" in capsys.readouterr().err


# --- PASCAL Context

# The benchmark's 59 of the authors' 459 labels; class k in the PNGs is the k-th.
CONTEXT_NATIVE = [
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144),
    *(158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354),
    *(355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
]


@pytest.fixture
def context(datasets_folder):
    root = datasets_folder / "VOCdevkit/VOC2010"
    for name in ("2008_000001", "2008_000002", "2008_000003"):
        save(root / f"JPEGImages/{name}.jpg", random_image(1, 460))
    return root


def test_every_label_of_the_authors_context_files(prepare, context, capsys):
    native = np.arange(460, dtype=np.uint16)[None]
    for name in ("2008_000001", "2008_000002", "2008_000003"):
        write_mat(context / f"trainval/{name}.mat", {"LabelMap": native})
    write_list(context / "ImageSets/Main/train.txt", "2008_000001", "2008_000002")
    write_list(context / "ImageSets/Main/val.txt", "2008_000003")
    assert prepare("pascal_context") == 1
    assert "pascal_context_59_sem_seg_train: 2 images, published: 4996 or 4998" in capsys.readouterr().out
    expected = [CONTEXT_NATIVE.index(label) + 1 if label in CONTEXT_NATIVE else 0 for label in range(460)]
    assert pixels(context / "SegmentationClassContext/2008_000001.png").tolist() == [expected]
    train, val = load("pascal_context_59_sem_seg_train"), load("pascal_context_59_sem_seg_val")
    assert (train.keys(), val.keys()) == ({"2008_000001", "2008_000002"}, {"2008_000003"})
    assert val["2008_000003"].tolist() == [[label - 1 if label else VOID for label in expected]]


def write_context_json(root, sizes, regions):
    """Write the JSON of {name: (phase, height, width)} and [(name, native label, (H, W) bool)]."""
    images = [
        {
            "image_id": 100 + number,
            "file_name": f"{name}.jpg",
            "phase": phase,
            "height": height,
            "width": width,
        }
        for number, (name, (phase, height, width)) in enumerate(sizes.items())
    ]
    numbers = {Path(one["file_name"]).stem: one["image_id"] for one in images}
    annotations = []
    for name, label, mask in regions:
        encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        encoded["counts"] = encoded["counts"].decode()
        annotations.append({"image_id": numbers[name], "category_id": label, "segmentation": encoded})
    (root / "trainval_merged.json").write_text(
        json.dumps({"images": images, "annos_segmentation": annotations})
    )


def test_the_merged_json_of_context(prepare, context):
    labels = np.repeat([0, 284, 420, 3], [100, 200, 100, 60])[None]
    sizes = {"2008_000001": ("train", 1, 460), "2008_000003": ("val", 1, 460), "test": ("test", 9, 9)}
    regions = [("2008_000001", label, labels == label) for label in (284, 420, 3)]
    write_context_json(context, sizes, regions)
    assert prepare("pascal_context") == 1
    # person is the 37th of the classes in alphabetical order, tree the 53rd; 3 is not among the 59.
    expected = np.repeat([0, 37, 53, 0], [100, 200, 100, 60])
    assert pixels(context / "SegmentationClassContext/2008_000001.png")[0].tolist() == expected.tolist()
    names = MetadataCatalog.get("pascal_context_59_sem_seg_train").classes
    assert (names[36], names[52]) == ("person", "tree")
    assert load("pascal_context_59_sem_seg_val")["2008_000003"].tolist() == [[VOID] * 460]


def test_a_mask_of_another_size_is_named(prepare, context, capsys):
    write_context_json(
        context, {"2008_000001": ("train", 1, 460)}, [("2008_000001", 2, np.ones((2, 2), dtype=bool))]
    )
    assert prepare("pascal_context") == 1
    assert "2008_000001: is 460x1, but a mask has the size [2, 2]" in capsys.readouterr().err


def test_missing_annotations_of_context_are_explained(prepare, context, capsys):
    assert prepare("pascal_context") == 2
    assert "neither trainval_merged.json nor *.mat in" in capsys.readouterr().err
    (context / "trainval_merged.json").write_text("{}")
    assert prepare("pascal_context") == 2
    assert "lacks 'images'" in capsys.readouterr().err


# --- COCO-Stuff 10k

COCO_STUFF_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
COCO_STUFF_IDS = [number for number in range(1, 183) if number not in COCO_STUFF_GAPS]


@pytest.fixture
def stuff_10k(datasets_folder):
    root = datasets_folder / "coco/coco_stuff_10k"
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "test"):
        save(root / f"images/COCO_{split}.jpg", random_image(2, 172))
        write_list(root / f"imageLists/{split}.txt", f"COCO_{split}")
    return root


def test_every_label_of_coco_stuff_10k_v1_1(prepare, stuff_10k, capsys):
    stored = np.array([[0, *COCO_STUFF_IDS]] * 2, dtype=np.int64)
    for split in ("train", "test"):
        write_mat(stuff_10k / f"annotations/COCO_{split}.mat", {"S": stored})
    assert prepare("coco_stuff_10k") == 1
    assert "coco_2017_test_stuff_10k_sem_seg: 1 images, published: 1000" in capsys.readouterr().out
    for split in ("train", "test"):
        (labels,) = load(f"coco_2017_{split}_stuff_10k_sem_seg").values()
        assert labels.tolist() == [[VOID, *range(171)]] * 2


def test_every_label_of_coco_stuff_10k_v1_0(prepare, stuff_10k):
    h5py = pytest.importorskip("h5py")
    for split in ("train", "test"):
        # Matlab 7.3: a header of 512 bytes, and columns first.
        with h5py.File(stuff_10k / f"annotations/COCO_{split}.mat", "w", userblock_size=512) as file:
            file["S"] = np.array([range(1, 173)] * 2, dtype=np.float64).T
    prepare("coco_stuff_10k")
    (labels,) = load("coco_2017_train_stuff_10k_sem_seg").values()
    assert labels.tolist() == [[VOID, *range(171)]] * 2


def test_hdf5_without_h5py_says_what_to_install(prepare, stuff_10k, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "h5py", None)
    for split in ("train", "test"):
        header = b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n" + bytes(99)
        (stuff_10k / f"annotations/COCO_{split}.mat").write_bytes(header)
    assert prepare("coco_stuff_10k") == 1
    errors = capsys.readouterr().err
    assert "COCO_train.mat: is HDF5 (COCO-Stuff 10k v1.0); pip install h5py" in errors


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (np.full((2, 172), 12), "label 12 is not 0 or an id of COCO-Stuff's classes"),
        (np.full((2, 172), 300), "label 300 is not 0 or an id"),
        (np.full((172, 2), 1), "has the shape (172, 2), its image is 172x2"),
    ],
)
def test_wrong_labels_of_coco_stuff_10k_are_named(prepare, stuff_10k, capsys, stored, message):
    for split in ("train", "test"):
        write_mat(stuff_10k / f"annotations/COCO_{split}.mat", {"S": stored})
    assert prepare("coco_stuff_10k") == 1
    assert f"COCO_train.mat: {message}" in capsys.readouterr().err
    assert not (stuff_10k / "annotations_detectron2/train").exists()


# --- COCO with 21 classes

# VOC's name and COCO's, where they differ.
COCO_NAMES = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


def box(left, top, right, bottom):
    """Return the COCO polygon of a rectangle."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def write_instances(datasets_folder, images):
    """Write {stem: (height, width, [(category, segmentation)])} as train and as val."""
    content = {"images": [], "annotations": []}
    for number, (stem, (height, width, instances)) in enumerate(images.items(), 1):
        content["images"].append({"id": number, "file_name": f"{stem}.jpg", "height": height, "width": width})
        for category, segmentation in instances:
            content["annotations"].append(
                {"image_id": number, "category_id": category, "segmentation": segmentation}
            )
        for split in ("train2017", "val2017"):
            save(datasets_folder / f"coco/{split}/{stem}.jpg", random_image(height, width))
    (datasets_folder / "coco/annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        file = datasets_folder / f"coco/annotations/instances_{split}.json"
        file.write_text(json.dumps(content))


def test_every_category_of_coco_21(prepare, datasets_folder):
    ids = {one["name"]: one["id"] for one in COCO_CATEGORIES if one["isthing"]}
    stripes = [(number, box(0, 10 * row, 12, 10 * row + 10)) for row, number in enumerate(ids.values())]
    write_instances(datasets_folder, {"a": (800, 12, stripes)})
    prepare("coco_21")
    (labels,) = load("coco_2017_train_21_sem_seg").values()
    classes = MetadataCatalog.get("coco_2017_train_21_sem_seg").classes
    of_category = {ids[COCO_NAMES.get(name, name)]: index for index, name in enumerate(classes) if index}
    expected = [of_category.get(number, 0) for number in ids.values()]
    assert sorted(expected) == sorted([*range(1, 21), *[0] * 60])
    assert labels[5::10, 6].tolist() == expected


def test_the_first_instance_wins_and_other_categories_hide_nothing(prepare, datasets_folder):
    crowd = np.zeros((60, 80), dtype=np.uint8)
    crowd[50:, :] = 1
    lengths = [
        int(length) for length in np.diff(np.flatnonzero(np.diff(crowd.T.ravel(), prepend=1, append=2)))
    ]
    runs = {"size": [60, 80], "counts": lengths}
    instances = [
        (22, box(0, 0, 80, 60)),  # an elephant, which is none of the 21
        (18, box(0, 0, 40, 40)),  # a dog
        (1, box(20, 20, 60, 40)),  # a person behind it
        (1, runs),
    ]
    write_instances(datasets_folder, {"a": (60, 80, instances)})
    prepare("coco_21")
    (labels,) = load("coco_2017_val_21_sem_seg").values()
    expected = np.zeros((60, 80), dtype=np.uint8)
    expected[20:40, 20:60] = 15
    expected[0:40, 0:40] = 12
    expected[50:] = 15
    assert np.array_equal(labels, expected)


def test_images_with_at_most_a_thousand_labeled_pixels_are_left_out(prepare, datasets_folder, capsys):
    images = {
        "enough": (40, 40, [(1, box(0, 0, 40, 26))]),
        "thousand": (40, 40, [(1, box(0, 0, 40, 25))]),
        "other": (40, 40, [(22, box(0, 0, 40, 40))]),
        "none": (40, 40, []),
    }
    write_instances(datasets_folder, images)
    assert prepare("coco_21") == 0
    assert load("coco_2017_train_21_sem_seg").keys() == {"enough"}
    assert "coco_2017_train_21_sem_seg: 1 images" in capsys.readouterr().out


def test_a_wrong_json_of_coco_is_explained(prepare, datasets_folder, capsys):
    write_instances(datasets_folder, {})
    (datasets_folder / "coco/annotations/instances_train2017.json").write_text('{"images": []}')
    assert prepare("coco_21") == 2
    assert "instances_train2017.json: lacks 'annotations'" in capsys.readouterr().err


# --- ADE20K-full


def ade20k_png(ids):
    """Return a label image of the release for ids: red is ten times the upper part plus a remainder."""
    ids = np.asarray(ids)
    return np.stack([ids // 256 * 10 + ids % 10, ids % 256, np.ones_like(ids)], axis=2).astype(np.uint8)


def write_release(datasets_folder, images):
    """Write the release with images and labels from {name: (H, W) ids}."""
    folder = "ADE20K_2021_17_01/images/ADE/{}/urban/street"
    index = {"filename": [f"{name}.jpg" for name in images], "folder": [], "scene": np.array(["street"])}
    for name, ids in images.items():
        index["folder"].append(folder.format("validation" if "_val_" in name else "training"))
        base = datasets_folder / index["folder"][-1]
        save(base / f"{name}.jpg", random_image(*np.shape(ids)))
        save(base / f"{name}_seg.png", ade20k_png(ids))
    # numpy's numbers are bytes in protocol 2, which has none.
    index["objectPresence"] = np.zeros((2, 2), np.uint8)
    with (datasets_folder / "ADE20K_2021_17_01/index_ade20k.pkl").open("wb") as file:
        pickle.dump(index, file, protocol=2)


def test_every_id_of_ade20k_full(prepare, datasets_folder, capsys):
    classes = MetadataCatalog.get("ade20k_full_sem_seg_val").contiguous_id_to_dataset_id
    ids = np.arange(3690)
    write_release(datasets_folder, {"ADE_train_1": [ids], "ADE_val_1": [ids], "ADE_frame_1": [ids]})
    assert prepare("ade20k_full") == 1
    assert "ade20k_full_sem_seg_train: 2 images, published: 25574" in capsys.readouterr().out
    assert load("ade20k_full_sem_seg_train").keys() == {"ADE_train_1", "ADE_frame_1"}
    (labels,) = load("ade20k_full_sem_seg_val").values()
    expected = [classes.index(number) if number in classes else 65535 for number in ids.tolist()]
    assert labels.tolist() == [expected]


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(600, 1030, (512, 879)), (1030, 600, (879, 512)), (512, 900, (512, 900)), (700, 700, (512, 512))],
)
def test_the_shorter_side_of_ade20k_full_is_512_at_most(prepare, datasets_folder, height, width, expected):
    ids = np.zeros((height, width), dtype=int)
    ids[:, : width // 2] = 2978
    ids[0] = 312
    write_release(datasets_folder, {"ADE_val_1": ids})
    prepare("ade20k_full")
    (record,) = DatasetCatalog.get("ade20k_full_sem_seg_val")
    labels = MetadataCatalog.get("ade20k_full_sem_seg_val").load_sem_seg(record)
    assert labels.shape == expected
    assert Image.open(record["file_name"]).size == expected[::-1]
    # Nearest-neighbor resizing: no new labels between wall and void.
    assert set(np.unique(labels)) == {0, 1, 65535}
    assert abs((labels == 0).mean() - 0.5) < 0.01


def test_an_index_of_ade20k_that_would_run_code_is_refused(prepare, datasets_folder, capsys):
    write_release(datasets_folder, {"ADE_val_1": [[0]]})
    file = datasets_folder / "ADE20K_2021_17_01/index_ade20k.pkl"
    file.write_bytes(pickle.dumps({"filename": print}))
    assert prepare("ade20k_full") == 2
    assert "it holds builtins.print, which is not plain data" in capsys.readouterr().err
    file.unlink()
    assert prepare("ade20k_full") == 2
    assert "index_ade20k.pkl: does not exist" in capsys.readouterr().err


def test_a_missing_label_image_of_ade20k_is_named(prepare, datasets_folder, capsys):
    write_release(datasets_folder, {"ADE_val_1": [[0]]})
    next(datasets_folder.rglob("*_seg.png")).unlink()
    assert prepare("ade20k_full") == 1
    assert "ADE_val_1_seg.png: does not exist" in capsys.readouterr().err


# --- labels for other projects


def test_cityscapes_train_ids_are_written_beside_the_ids(prepare, datasets_folder, capsys):
    root = datasets_folder / "cityscapes"
    for split in ("train", "val"):
        save(root / f"leftImg8bit/{split}/ulm/a_leftImg8bit.png", random_image(1, 4))
        label = np.array([[0, 7, 33, 29]], dtype=np.uint8)
        save(root / f"gtFine/{split}/ulm/a_gtFine_labelIds.png", label)
    assert prepare("cityscapes") == 0
    written = root / "gtFine/val/ulm/a_gtFine_labelTrainIds.png"
    assert pixels(written).tolist() == [[255, 0, 18, 255]]
    capsys.readouterr()
    assert prepare("cityscapes", "--check") == 1
    printed = capsys.readouterr()
    assert "cityscapes_sem_seg_val: 1 images, published: 500" in printed.out
    assert "cityscapes_sem_seg_test: no images" in printed.err
    # Without the id files, the written files are read, and there is nothing to do.
    (root / "gtFine/val/ulm/a_gtFine_labelIds.png").unlink()
    assert load("cityscapes_sem_seg_val")["a_leftImg8bit"].tolist() == [[255, 0, 18, 255]]
    assert prepare("cityscapes") == 0


@pytest.mark.parametrize(
    ("option", "target"),
    [
        ((), "stuffthingmaps_detectron2/{}2017/1.png"),
        (("--label-train-ids",), "stuffthingmaps/{}2017/1_labelTrainIds.png"),
    ],
)
def test_coco_stuff_indices_are_written(prepare, datasets_folder, option, target):
    root = datasets_folder / "coco"
    for split in ("train", "val"):
        save(root / f"{split}2017/1.jpg", random_image(1, 4))
        save(root / f"stuffthingmaps/{split}2017/1.png", np.array([[0, 12, 181, 255]], dtype=np.uint8))
    assert prepare("coco_stuff", *option) == 0
    for split in ("train", "val"):
        assert pixels(root / target.format(split)).tolist() == [[0, 11, 170, 255]]


def test_several_processes_write_the_same_files(prepare, voc):
    assert prepare("voc_2012", "--workers", "2") == 1
    assert load("voc_2012_sem_seg_train_aug").keys() == {"both", "sbd_1", "sbd_2"}


def test_a_file_that_fails_leaves_nothing(datasets_folder):
    def write_half():
        with atomic_path(datasets_folder / "a.png") as file:
            file.write_bytes(b"half")
            raise InputError("broken")

    with pytest.raises(InputError, match="broken"):
        write_half()
    assert list(datasets_folder.iterdir()) == []
