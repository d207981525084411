"""Human parsing: LIP, CIHP, ATR, MHP v1 and v2, in the formats and folders of their authors."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from PIL import Image

from segzoo import model_zoo
from segzoo.cli import prepare
from segzoo.cli.prepare import atr
from segzoo.data import SegmentationMapper, label_reader, read_dataset_file
from segzoo.data.mapper import swap_classes
from segzoo.evaluation import build_evaluator
from segzoo.utils.errors import InputError
from tests.data.data_trees import random_image, save

REPOSITORY = Path(__file__).resolve().parents[2]

# By hand, from the authors' tables.
LIP = {
    0: "background",
    1: "hat",
    2: "hair",
    3: "glove",
    4: "sunglasses",
    5: "upper-clothes",
    6: "dress",
    7: "coat",
    8: "socks",
    9: "pants",
    10: "jumpsuits",
    11: "scarf",
    12: "skirt",
    13: "face",
    14: "left-arm",
    15: "right-arm",
    16: "left-leg",
    17: "right-leg",
    18: "left-shoe",
    19: "right-shoe",
}
ATR = {
    0: "background",
    1: "hat",
    2: "hair",
    3: "sunglasses",
    4: "upper-clothes",
    5: "skirt",
    6: "pants",
    7: "dress",
    8: "belt",
    9: "left-shoe",
    10: "right-shoe",
    11: "face",
    12: "left-leg",
    13: "right-leg",
    14: "left-arm",
    15: "right-arm",
    16: "bag",
    17: "scarf",
}
MHP_V1 = {value: name.replace("-", " ") for value, name in ATR.items()} | {18: "torso skin"}
MHP_V2 = {
    **{0: "background", 1: "cap/hat", 2: "helmet", 3: "face", 4: "hair", 5: "left-arm", 6: "right-arm"},
    **{7: "left-hand", 8: "right-hand", 9: "protector", 10: "bikini/bra", 11: "jacket/windbreaker/hoodie"},
    **{12: "t-shirt", 13: "polo-shirt", 14: "sweater", 15: "singlet", 16: "torso-skin", 17: "pants"},
    **{18: "shorts/swim-shorts", 19: "skirt", 20: "stockings", 21: "socks", 22: "left-boot"},
    **{23: "right-boot", 24: "left-shoe", 25: "right-shoe", 26: "left-highheel", 27: "right-highheel"},
    **{28: "left-sandal", 29: "right-sandal", 30: "left-leg", 31: "right-leg", 32: "left-foot"},
    **{33: "right-foot", 34: "coat", 35: "dress", 36: "robe", 37: "jumpsuit", 38: "other-full-body-clothes"},
    **{39: "headwear", 40: "backpack", 41: "ball", 42: "bats", 43: "belt", 44: "bottle", 45: "carrybag"},
    **{46: "cases", 47: "sunglasses", 48: "eyewear", 49: "glove", 50: "scarf", 51: "umbrella"},
    **{52: "wallet/purse", 53: "watch", 54: "wristband", 55: "tie", 56: "other-accessary"},
    **{57: "other-upper-body-clothes", 58: "other-lower-body-clothes"},
}
CLASSES = {
    "lip": LIP,
    "cihp": LIP | {10: "torso-skin"},
    "atr": ATR,
    "mhp_v1": MHP_V1,
    "mhp_v2": MHP_V2,
}
PAIRS = {
    "lip": {(14, 15), (16, 17), (18, 19)},
    "cihp": {(14, 15), (16, 17), (18, 19)},
    "atr": {(9, 10), (12, 13), (14, 15)},
    "mhp_v1": {(9, 10), (12, 13), (14, 15)},
    "mhp_v2": {(5, 6), (7, 8), (22, 23), (24, 25), (26, 27), (28, 29), (30, 31), (32, 33)},
}
COUNTS = {
    "lip": {"lip_train": 30462, "lip_val": 10000, "lip_test": 10000},
    "cihp": {"cihp_train": 28280, "cihp_val": 5000, "cihp_test": 5000},
    "atr": {"atr_train": 16000, "atr_val": 700, "atr_test": 1000},
    "mhp_v1": {"mhp_v1_train": 3000, "mhp_v1_val": 1000, "mhp_v1_test": 980},
    "mhp_v2": {"mhp_v2_train": 15403, "mhp_v2_val": 5000, "mhp_v2_test": 5000},
}


def write_lip(base, labels, area="TrainVal_images", parsing="TrainVal_parsing_annotations", split="train"):
    save(base / area / f"{split}_images/77_1.jpg", random_image(*labels.shape))
    save(base / parsing / f"{split}_segmentations/77_1.png", labels)


def write_cihp(base, labels, folder="train"):
    save(base / folder / "Images/0000006.jpg", random_image(*labels.shape))
    save(base / folder / "Category_ids/0000006.png", labels)
    save(base / folder / "Categories/0000006.png", random_image(*labels.shape))  # visualizations, not labels


def write_atr(base, labels):
    save(base / "JPEGImages/997_1.jpg", random_image(*labels.shape))
    save(base / "SegmentationClassAug/997_1.png", labels)
    (base / "segzoo_split").mkdir()
    (base / "segzoo_split/train.txt").write_text("997_1\n")


def write_mhp_v1(base, labels):
    save(base / "images/0001.jpg", random_image(*labels.shape))
    save(base / "annotations/0001_01_01.png", labels)
    (base / "train_list.txt").write_text("0001.jpg\n")


def write_mhp_v2(base, labels):
    save(base / "train/images/96.jpg", random_image(*labels.shape))
    # The authors' tool saved three channels; the other two must not be read.
    save(base / "train/parsing_annos/96_01_01.png", np.dstack([labels, labels // 2, np.zeros_like(labels)]))
    (base / "list").mkdir()
    (base / "list/train.txt").write_text("96\n")


# Each dataset in the folders of the seed projects, and in natural ones of $DETECTRON2_DATASETS.
TREES = [
    ("lip", "LIP/LIP", write_lip, {}),
    ("lip", "LIP", write_lip, {}),
    ("lip", "lip", write_lip, {}),
    ("lip", "LIP", write_lip, {"area": "TrainVal_images/TrainVal_images"}),
    ("lip", "LIP", write_lip, {"parsing": "TrainVal_parsing_annotations/TrainVal_parsing_annotations"}),
    (
        "lip",
        "LIP/LIP",
        write_lip,
        {
            "area": "TrainVal_images/TrainVal_images",
            "parsing": "TrainVal_parsing_annotations/TrainVal_parsing_annotations",
        },
    ),
    *(
        ("cihp", root, write_cihp, {"folder": folder})
        for root in (
            "LIP/CIHP/instance-leve_human_parsing",
            "LIP/CIHP/instance-level_human_parsing",
            "CIHP/instance-level_human_parsing",
            "CIHP",
        )
        for folder in ("train", "Training")
    ),
    ("atr", "LIP/ATR/humanparsing", write_atr, {}),
    ("atr", "ATR", write_atr, {}),
    ("mhp_v1", "MHPv1", write_mhp_v1, {}),
    ("mhp_v1", "LV-MHP-v1", write_mhp_v1, {}),
    ("mhp_v2", "MHPv2", write_mhp_v2, {}),
    ("mhp_v2", "LV-MHP-v2", write_mhp_v2, {}),
]


@pytest.mark.parametrize(("name", "root", "write", "how"), TREES)
def test_every_value_of_the_files_is_the_class_of_the_authors_table(datasets_folder, name, root, write, how):
    table = CLASSES[name]
    values = np.array([[*table, 255]], dtype=np.uint8)
    write(datasets_folder / root, values, **how)
    (record,) = DatasetCatalog.get(f"{name}_train")
    metadata = MetadataCatalog.get(f"{name}_train")
    labels = metadata.load_sem_seg(record)
    assert [metadata.classes[label] for label in labels[0, :-1]] == list(table.values())
    assert labels[0, -1] == metadata.ignore_label == 255
    assert len(metadata.classes) == len(table)


@pytest.mark.parametrize(("name", "root", "write", "how"), [TREES[index] for index in (0, 6, 14, 16, 18)])
def test_a_value_beyond_the_table_is_refused_with_the_file(datasets_folder, name, root, write, how):
    beyond = len(CLASSES[name])
    write(datasets_folder / root, np.array([[0, beyond]], dtype=np.uint8), **how)
    (record,) = DatasetCatalog.get(f"{name}_train")
    with pytest.raises(InputError, match=rf"png: label {beyond} is outside \[0, {beyond}\)"):
        MetadataCatalog.get(f"{name}_train").load_sem_seg(record)


@pytest.mark.parametrize("name", CLASSES)
def test_counts_and_flip_pairs_are_the_published_ones(name):
    dataset = read_dataset_file(name)
    assert dataset.image_counts == COUNTS[name]
    assert {tuple(sorted(pair)) for pair in dataset.flip_pairs} == PAIRS[name]
    names = [entry.name for entry in dataset.classes]
    for left, right in dataset.flip_pairs:
        assert names[left].replace("left", "right") == names[right] != names[left]
    # Whatever is called left or right has its counterpart in a pair.
    sided = {index for index, one in enumerate(names) if one.startswith(("left", "right"))}
    assert sided == {index for pair in dataset.flip_pairs for index in pair}


@pytest.mark.parametrize(("name", "root", "write", "how"), [TREES[index] for index in (0, 6, 14, 16, 18)])
def test_flipped_training_swaps_left_and_right_and_twice_is_the_identity(
    datasets_folder, name, root, write, how
):
    table = CLASSES[name]
    values = np.array([list(table)], dtype=np.uint8)
    write(datasets_folder / root, values, **how)
    (record,) = DatasetCatalog.get(f"{name}_train")
    reader = label_reader(f"{name}_train")
    mapper = SegmentationMapper(
        True,
        task="semantic",
        augmentations=[T.RandomFlip(prob=1.0)],
        readers={f"{name}_train": reader},
    )
    found = [reader.dataset.classes[label].name for label in mapper(record)["sem_seg"][0].tolist()]
    exchanged = str.maketrans({"<": "right", ">": "left"})
    expected = [one.replace("left", "<").replace("right", ">").translate(exchanged) for one in table.values()]
    assert found == expected[::-1]
    assert found != list(table.values())[::-1]
    # Flipped and swapped again, everything is as before.
    index_map = reader.load_index_map(record, semantic=True)
    twice = swap_classes(swap_classes(index_map, reader.dataset.flip_pairs), reader.dataset.flip_pairs)
    assert np.array_equal(reader.class_map(twice), values)


def naive_merge(persons):
    """Pixel by pixel: the first person that covers it."""
    merged = np.zeros_like(persons[0])
    for position in np.ndindex(merged.shape):
        present = [int(person[position]) for person in persons if person[position] != 0]
        merged[position] = present[0] if present else 0
    return merged


def test_persons_are_merged_in_order_of_their_names_and_the_first_wins(datasets_folder):
    rng = np.random.default_rng(0)
    persons = [
        rng.integers(0, 19, (6, 5), dtype=np.uint8) * rng.integers(0, 2, (6, 5), dtype=np.uint8)
        for _ in "abc"
    ]
    base = datasets_folder / "MHPv1"
    save(base / "images/0001.jpg", random_image(6, 5))
    save(base / "images/0002.jpg", random_image(6, 5))
    for number in (3, 1, 2):  # not in the order in which they were written
        save(base / f"annotations/0001_03_0{number}.png", persons[number - 1])
    save(base / "annotations/0002_01_01.png", np.zeros((6, 5), np.uint8))
    (base / "train_list.txt").write_text("0002.jpg\r\n0001.jpg\r\n")
    records = DatasetCatalog.get("mhp_v1_train")
    assert [record["image_id"] for record in records] == ["0002", "0001"]
    files = [Path(name).name for name in records[1]["sem_seg_file_name"]]
    assert files == ["0001_03_01.png", "0001_03_02.png", "0001_03_03.png"]
    reader = label_reader("mhp_v1_train")
    merged = reader.load_sem_seg(records[1])
    assert np.array_equal(merged, naive_merge(persons))
    assert not np.array_equal(merged, naive_merge(persons[::-1]))
    # Background is a class of its own, not void.
    assert not reader.load_sem_seg(records[0]).any()


def test_mhp_v2_names_are_split_at_the_underscore(datasets_folder):
    base = datasets_folder / "MHPv2"
    for stem, value in (("9", 1), ("96", 2), ("961", 3)):
        save(base / f"val/images/{stem}.jpg", random_image(2, 2))
        channels = np.zeros((2, 2, 3), np.uint8)
        channels[..., 0] = value
        save(base / f"val/parsing_annos/{stem}_01_01.png", channels)
    # Without the authors' lists, all images are taken.
    records = DatasetCatalog.get("mhp_v2_val")
    reader = label_reader("mhp_v2_val")
    assert {record["image_id"]: len(record["sem_seg_file_name"]) for record in records} == {
        "9": 1,
        "96": 1,
        "961": 1,
    }
    assert {record["image_id"]: reader.load_sem_seg(record)[0, 0] for record in records} == {
        "9": 1,
        "96": 2,
        "961": 3,
    }


def test_mhp_v2_reads_the_first_channel_where_gray_would_be_another_class(datasets_folder):
    base = datasets_folder / "MHPv2"
    channels = np.zeros((1, 2, 3), np.uint8)
    channels[0, :, 0] = (58, 5)
    save(base / "train/images/1.jpg", random_image(1, 2))
    file = save(base / "train/parsing_annos/1_01_01.png", channels)
    assert np.asarray(Image.open(file).convert("L")).tolist() == [[17, 1]]
    (record,) = DatasetCatalog.get("mhp_v2_train")
    assert label_reader("mhp_v2_train").load_sem_seg(record).tolist() == [[58, 5]]
    # Files of one channel are read as they are.
    save(base / "train/parsing_annos/1_01_01.png", channels[..., 0])
    assert label_reader("mhp_v2_train").load_sem_seg(record).tolist() == [[58, 5]]


def test_a_person_of_another_size_and_an_image_without_persons_are_explained(datasets_folder):
    base = datasets_folder / "MHPv1"
    save(base / "images/0001.jpg", random_image(2, 3))
    save(base / "images/0002.jpg", random_image(2, 3))
    save(base / "annotations/0001_02_01.png", np.zeros((2, 3), np.uint8))
    save(base / "annotations/0001_02_02.png", np.zeros((3, 2), np.uint8))
    (base / "train_list.txt").write_text("0001.jpg\n")
    (record,) = DatasetCatalog.get("mhp_v1_train")
    with pytest.raises(InputError, match=r"0001_02_02.png: is 2x3, but .*0001_02_01.png of the same image"):
        label_reader("mhp_v1_train").load_sem_seg(record)
    (base / "train_list.txt").write_text("0001.jpg\n0002.jpg\n")
    with pytest.raises(InputError, match=r"1 image has no labels, first .*0002.jpg \(expected .*0002_\*_\*"):
        DatasetCatalog.get("mhp_v1_train")


def test_mhp_v1_splits_its_list_without_losing_an_image(datasets_folder):
    base = datasets_folder / "MHPv1"
    for folder in ("images", "annotations"):
        (base / folder).mkdir(parents=True)
    stems = [f"{number:04d}" for number in range(4000)]
    for stem in stems:
        (base / f"images/{stem}.jpg").touch()
        (base / f"annotations/{stem}_01_01.png").touch()
    (base / "train_list.txt").write_text("".join(f"{stem}.jpg\n" for stem in stems))
    (base / "test_list.txt").write_text("0007.jpg\n")
    parts = {
        name: [record["image_id"] for record in DatasetCatalog.get(f"mhp_v1_{name}")]
        for name in ("train", "val", "test")
    }
    assert parts == {"train": stems[:3000], "val": stems[3000:], "test": ["0007"]}
    assert len(parts["val"]) == 1000


def test_the_split_of_atr_has_the_published_sizes_and_never_changes():
    stems = [f"dataset10k_{number}" for number in range(1, 17707)]
    lists = atr.split_names(reversed(stems), atr.SIZES)
    assert {name: len(names) for name, names in lists.items()} == {
        "test": 1000,
        "val": 700,
        "train": 16000,
        "unused": 6,
    }
    assert sorted(itertools.chain(*lists.values())) == sorted(stems)
    # By `printf 'segzoo atr 0/dataset10k_%d' 1 | sha256sum`, for 1 to 8, sorted by hand.
    few = atr.split_names(stems[:8], {"test": 2, "val": 2, "train": 3})
    assert {name: [int(stem.split("_")[1]) for stem in names] for name, names in few.items()} == {
        "test": [4, 8],
        "val": [1, 6],
        "train": [2, 3, 5],
        "unused": [7],
    }


def interrupted(file, text, **options):
    """Replaces Path.write_text; stops after a few bytes."""
    file.write_bytes(text.encode()[:3])
    raise KeyboardInterrupt


def test_the_split_of_atr_is_written_and_read(datasets_folder, monkeypatch, capsys):
    base = datasets_folder / "ATR/humanparsing"
    for number in range(1, 8):
        save(base / f"JPEGImages/997_{number}.jpg", random_image(2, 2))
        save(base / f"SegmentationClassAug/997_{number}.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(InputError, match=r"no list .*train.txt; run `segzoo prepare atr`"):
        DatasetCatalog.get("atr_train")
    assert prepare.main(["atr"]) == 2
    assert "has 7 images, the published set 17706" in capsys.readouterr().err
    monkeypatch.setattr(atr, "SIZES", {"test": 2, "val": 1, "train": 3})
    assert prepare.main(["atr", "--allow-incomplete"]) == 0
    found = {
        name: [one["image_id"] for one in DatasetCatalog.get(f"atr_{name}")]
        for name in ("train", "val", "test")
    }
    assert {name: len(stems) for name, stems in found.items()} == {"train": 3, "val": 1, "test": 2}
    assert len(set().union(*found.values())) == 6
    # A list that is cut off would be read as a smaller split.
    monkeypatch.setattr(Path, "write_text", interrupted)
    written = (base / "segzoo_split/train.txt").read_text()
    # The exit status of a shell for a program that SIGINT ended.
    assert prepare.main(["atr", "--allow-incomplete"]) == 130
    assert {file.name for file in (base / "segzoo_split").iterdir()} == {
        f"{name}.txt" for name in ("train", "val", "test", "unused")
    }
    assert (base / "segzoo_split/train.txt").read_text() == written
    (base / "SegmentationClassAug/997_7.png").unlink()
    assert prepare.main(["atr", "--allow-incomplete"]) == 2
    assert "1 names of JPEGImages are not in SegmentationClassAug, first 997_7" in capsys.readouterr().err
    assert prepare.main(["atr", "--root", str(datasets_folder)]) == 2
    assert "no JPEGImages/ in" in capsys.readouterr().err


def write_unlabeled(datasets_folder):
    """Images of the test sets of LIP, CIHP and MHP v2."""
    save(datasets_folder / "LIP/Testing_images/testing_images/1_2.jpg", random_image(2, 3))
    save(datasets_folder / "CIHP/Testing/Images/0000001.jpg", random_image(2, 3))
    save(datasets_folder / "MHPv2/test/images/7.jpg", random_image(2, 3))
    (datasets_folder / "MHPv2/list").mkdir()
    (datasets_folder / "MHPv2/list/test_all.txt").write_text("7\n")


@pytest.mark.parametrize("name", ["lip_test", "cihp_test", "mhp_v2_test"])
def test_a_test_set_without_labels_is_for_inference_only(datasets_folder, name):
    write_unlabeled(datasets_folder)
    (record,) = DatasetCatalog.get(name)
    assert set(record) == {"file_name", "image_id", "dataset", "layout"}
    inference = SegmentationMapper(False, task="semantic", augmentations=[])
    assert inference(record)["image"].shape == (3, 2, 3)
    with pytest.raises(InputError, match=f"{name}: has no ground truth, only images"):
        label_reader(name).load_sem_seg(record)
    evaluators = build_evaluator(name, ["semantic"])._evaluators
    assert [one.task_key for one in evaluators] == ["predictions"]
    cfg = model_zoo.get_config("semantic/camvid/maskformer_r18")
    cfg.DATASETS.TRAIN = (name,)
    with pytest.raises(InputError, match=f"DATASETS.TRAIN: {name} has no labels, only images"):
        SegmentationMapper(cfg, True)


def test_a_missing_dataset_and_missing_lists_have_different_messages(datasets_folder):
    (datasets_folder / "MHPv2").mkdir()
    with pytest.raises(InputError, match=r"mhp_v2_val: no images .*MHPv2/val/images/\{stem\}.jpg"):
        DatasetCatalog.get("mhp_v2_val")
    save(datasets_folder / "MHPv1/images/0001.jpg", random_image(2, 2))
    with pytest.raises(InputError, match=r"mhp_v1_val: no list .*MHPv1/train_list.txt; set DETECTRON2"):
        DatasetCatalog.get("mhp_v1_val")
