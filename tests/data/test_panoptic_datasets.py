"""Cityscapes and ADE20K panoptic: their metadata, what `segzoo prepare` writes, and reading it."""

import importlib
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import ADE20K_SEM_SEG_CATEGORIES, CITYSCAPES_CATEGORIES
from panopticapi.utils import rgb2id
from PIL import Image

from segzoo.cli.panoptic_files import measure_segments
from segzoo.cli.prepare import ade20k_panoptic
from segzoo.data import read_dataset_file
from segzoo.utils.errors import InputError
from tests.data.data_trees import (
    ADE_CATEGORIES,
    ADE_LABELS,
    ADE_NUMBERS,
    LABEL_OF_CATEGORY,
    random_image,
    save,
    write_ade20k,
    write_panoptic,
)


def segment_ids(file: Path) -> np.ndarray:
    return rgb2id(np.array(Image.open(file)))


def test_segments_are_measured_as_by_looking_at_each_mask():
    ids = np.random.default_rng(0).choice([0, 7, 300, 70000, 16777215], (9, 14), p=[0.3, 0.3, 0.2, 0.1, 0.1])
    measured = measure_segments(ids)
    assert list(measured) == [7, 300, 70000, 16777215]
    for segment_id, found in measured.items():
        rows, columns = np.nonzero(ids == segment_id)
        right, bottom = columns.max() + 1, rows.max() + 1
        box = [columns.min(), rows.min(), right - columns.min(), bottom - rows.min()]
        assert found == {"area": len(rows), "bbox": box}
    assert measure_segments(np.zeros((2, 3), dtype=int)) == {}


# --------------------------------------------------------------------------------------------- Cityscapes


def test_cityscapes_has_detectron2s_categories():
    metadata = MetadataCatalog.get("cityscapes_fine_panoptic_val")
    assert metadata.classes == [one["name"] for one in CITYSCAPES_CATEGORIES]
    assert metadata.contiguous_id_to_dataset_id == [one["id"] for one in CITYSCAPES_CATEGORIES]
    assert metadata.isthing == [bool(one["isthing"]) for one in CITYSCAPES_CATEGORIES]
    assert metadata.colors == [tuple(one["color"]) for one in CITYSCAPES_CATEGORIES]
    assert len(metadata.thing_classes) == 8
    assert metadata.evaluator_type == "panoptic"


# Road, sky, void of several kinds, a trailer (void, with instances), two cars, a crowd of cars, a person.
INSTANCE_IDS = np.array(
    [
        [23, 23, 23, 23, 11, 11],
        [4, 26000, 26000, 26001, 26, 26],
        [7, 7, 24000, 26001, 30000, 30],
        [7, 7, 24000, 1, 0, 3],
    ],
    dtype=np.uint16,
)


@pytest.fixture
def cityscapes(datasets_folder):
    root = datasets_folder / "cityscapes"
    for split, city, number in (("train", "ulm", 0), ("train", "aachen", 19), ("val", "lindau", 1)):
        stem = f"{city}_000000_{number:06d}"
        save(root / f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png", random_image(4, 6, number))
        ids = np.roll(INSTANCE_IDS, number, axis=1)
        save(root / f"gtFine/{split}/{city}/{stem}_gtFine_instanceIds.png", ids)
    return root


def test_cityscapes_panoptic_labels_are_written_by_the_rules_and_read(prepare, cityscapes, capsys):
    # Not the published number of images: what is there is written, and the exit status says so.
    assert prepare("cityscapes_panoptic") == 1
    assert "cityscapes_fine_panoptic_train: 2 images, published: 2975" in capsys.readouterr().out
    first, second = DatasetCatalog.get("cityscapes_fine_panoptic_train")
    assert first["image_id"] == "aachen_000000_000019"
    assert second["file_name"].endswith("leftImg8bit/train/ulm/ulm_000000_000000_leftImg8bit.png")
    expected = np.where(np.isin(INSTANCE_IDS, (0, 1, 3, 4, 30, 30000)), 0, INSTANCE_IDS)
    assert np.array_equal(segment_ids(second["pan_seg_file_name"]), expected)
    # Classes count 0..18: road 0, building 2, sky 10, person 11, car 13. By hand from the table above.
    described = [
        (one["id"], one["category_id"], one["iscrowd"], one["area"], one["bbox"], one["isthing"])
        for one in second["segments_info"]
    ]
    assert described == [
        (7, 0, 0, 4, [0, 2, 2, 2], False),
        (11, 2, 0, 2, [4, 0, 2, 1], False),
        (23, 10, 0, 4, [0, 0, 4, 1], False),
        (26, 13, 1, 2, [4, 1, 2, 1], True),
        (24000, 11, 0, 2, [2, 2, 1, 2], True),
        (26000, 13, 0, 2, [1, 1, 2, 1], True),
        (26001, 13, 0, 2, [3, 1, 1, 2], True),
    ]
    semantic = MetadataCatalog.get("cityscapes_fine_panoptic_train").load_sem_seg(second)
    assert semantic[1].tolist() == [255, 13, 13, 13, 13, 13]


@pytest.mark.parametrize("arguments", [{}, {"useTrainId": True}], ids=["ids", "train ids"])
def test_cityscapes_panoptic_labels_are_those_of_cityscapesscripts(
    prepare, cityscapes, tmp_path, monkeypatch, arguments
):
    pytest.importorskip("cityscapesscripts.helpers.labels")
    # Of this module only a printing function is used, and it needs pyquaternion.
    helpers = types.SimpleNamespace(printError=pytest.fail)
    monkeypatch.setitem(sys.modules, "cityscapesscripts.helpers.csHelpers", helpers)
    peer = importlib.import_module("cityscapesscripts.preparation.createPanopticImgs")
    theirs, suffix = tmp_path / "theirs", "_trainId" if arguments else ""
    theirs.mkdir()
    peer.convert2panoptic(str(cityscapes / "gtFine"), str(theirs), setNames=["train", "val"], **arguments)
    prepare("cityscapes_panoptic")
    for split in ("train", "val"):
        name = f"cityscapes_panoptic_{split}"
        files = sorted(file.name for file in (theirs / f"{name}{suffix}").iterdir())
        assert files == sorted(file.name for file in (cityscapes / "gtFine" / name).iterdir())
        for file in files:
            own = segment_ids(cityscapes / "gtFine" / name / file)
            assert np.array_equal(own, segment_ids(theirs / f"{name}{suffix}" / file))
        if not arguments:
            own, other = (
                json.loads((folder / f"{name}.json").read_text())
                for folder in (cityscapes / "gtFine", theirs)
            )
            assert own == other
    # The files of the peer are read as ours are.
    ours = [record["segments_info"] for record in DatasetCatalog.get("cityscapes_fine_panoptic_train")]
    for file in (cityscapes / "gtFine").glob("cityscapes_panoptic_*.json"):
        file.unlink()
    for file in theirs.iterdir():
        (cityscapes / "gtFine" / file.name).exists() or file.rename(cityscapes / "gtFine" / file.name)
    records = DatasetCatalog.get("cityscapes_fine_panoptic_train")
    assert [record["segments_info"] for record in records] == ours


def test_cityscapes_is_converted_once_and_completed(prepare, cityscapes, capsys):
    prepare("cityscapes_panoptic")
    folder = cityscapes / "gtFine/cityscapes_panoptic_train"
    files = sorted(folder.iterdir())
    stamps = [file.stat().st_mtime_ns for file in files]
    before = (cityscapes / "gtFine/cityscapes_panoptic_train.json").read_text()
    files[0].unlink()
    prepare("cityscapes_panoptic")
    assert files[1].stat().st_mtime_ns == stamps[1]
    assert sorted(folder.iterdir()) == files
    assert (cityscapes / "gtFine/cityscapes_panoptic_train.json").read_text() == before
    assert not list((cityscapes / "gtFine").glob("*.partial"))
    assert prepare("cityscapes_panoptic", "--check") == 1
    assert "cityscapes_fine_panoptic_val: 1 images, published: 500" in capsys.readouterr().out


def test_a_broken_cityscapes_file_is_named_and_its_split_not_published(prepare, cityscapes, capsys):
    bad = cityscapes / "gtFine/train/ulm/ulm_000000_000000_gtFine_instanceIds.png"
    save(bad, np.full((4, 6), 40, dtype=np.uint8))
    assert prepare("cityscapes_panoptic") == 1
    assert f"{bad}: ids go from 40 to 40, expected those of 34 classes" in capsys.readouterr().err
    assert not (cityscapes / "gtFine/cityscapes_panoptic_train.json").exists()
    with pytest.raises(InputError, match=r"run `segzoo prepare cityscapes_panoptic`"):
        DatasetCatalog.get("cityscapes_fine_panoptic_train")
    assert len(DatasetCatalog.get("cityscapes_fine_panoptic_val")) == 1


def test_a_missing_image_of_cityscapes_is_named(prepare, cityscapes):
    prepare("cityscapes_panoptic")
    image = cityscapes / "leftImg8bit/train/ulm/ulm_000000_000000_leftImg8bit.png"
    image.unlink()
    with pytest.raises(InputError, match=r"1 of 2 images do not exist: .*ulm_000000_000000_leftImg8bit.png"):
        DatasetCatalog.get("cityscapes_fine_panoptic_train")


def test_a_missing_cityscapes_is_explained(prepare, datasets_folder, capsys):
    assert prepare("cityscapes_panoptic") == 2
    assert "no gtFine in" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- ADE20K


def test_ade20k_has_100_things_in_the_order_of_the_instance_categories():
    dataset = read_dataset_file("ade20k_panoptic")
    semantic = read_dataset_file("ade20k")
    assert [one.name for one in dataset.classes] == [one.name for one in semantic.classes]
    assert [one.color for one in dataset.classes] == [one.color for one in semantic.classes]
    assert [one.id for one in dataset.classes] == list(range(150))
    things = [index + 1 for index, one in enumerate(dataset.classes) if one.isthing]
    assert len(LABEL_OF_CATEGORY) == 100
    assert things == list(LABEL_OF_CATEGORY.values())
    names = MetadataCatalog.get("ade20k_panoptic_val").thing_classes
    assert (names[0], names[5], names[99]) == ("bed", "table", "flag")


@pytest.fixture
def ade20k(datasets_folder):
    return write_ade20k(datasets_folder)


def painted_by_hand(labels, categories, numbers):
    """{(label, number or 0): mask} by the rules of the challenge, one segment after the other."""
    masks = {}
    for label in set(labels.ravel().tolist()) - {0} - set(LABEL_OF_CATEGORY.values()):
        masks[label, 0] = labels == label
    for number in set(numbers.ravel().tolist()) - {0}:
        mask = numbers == number
        (category,) = set(categories[mask].tolist())
        for other in masks.values():
            other &= ~mask
        masks[LABEL_OF_CATEGORY[category], number] = mask
    return {key: mask for key, mask in masks.items() if mask.any()}


def test_ade20k_panoptic_labels_are_painted_by_the_rules_and_read(prepare, ade20k, capsys):
    assert prepare("ade20k_panoptic") == 1
    assert "ade20k_panoptic_val: 2 images, published: 2000" in capsys.readouterr().out
    expected = painted_by_hand(ADE_LABELS, ADE_CATEGORIES, ADE_NUMBERS)
    # Wall (under a person), floor (under the bed), bed, two persons; sky is covered, flag has no instance.
    assert sorted(expected) == [(1, 0), (4, 0), (8, 1), (13, 2), (13, 3)]
    for split, folder in (("train", "training"), ("val", "validation")):
        records = DatasetCatalog.get(f"ade20k_panoptic_{split}")
        assert [record["image_id"] for record in records] == [f"ADE_{folder[:5]}_{n:08d}" for n in (1, 2)]
        metadata = MetadataCatalog.get(f"ade20k_panoptic_{split}")
        ids, segments = metadata.load_panoptic(records[0])
        assert len(segments) == len(expected)
        found = {(one["category_id"] + 1, one["id"] % 1000 * one["isthing"]): one for one in segments}
        for key, mask in expected.items():
            assert np.array_equal(ids == found[key]["id"], mask)
            assert found[key]["area"] == mask.sum()
            assert not found[key]["iscrowd"]
        assert (ids == 0).sum() == 24 - sum(mask.sum() for mask in expected.values())
        # The semantic labels are those of the semantic files: things without an instance, too.
        assert np.array_equal(metadata.load_sem_seg(records[0]), ADE_LABELS - np.uint8(1))


def test_every_category_of_ade20k_becomes_its_label(prepare, ade20k):
    name = "ADE_train_00000001"
    categories = np.arange(1, 101, dtype=np.uint8).reshape(10, 10)
    save(ade20k / f"annotations/training/{name}.png", np.zeros_like(categories))
    save(ade20k / f"annotations_instance/training/{name}.png", np.dstack([categories] * 3))
    save(ade20k / f"images/training/{name}.jpg", random_image(10, 10))
    prepare("ade20k_panoptic")
    record = DatasetCatalog.get("ade20k_panoptic_train")[0]
    segments = record["segments_info"]
    assert {one["bbox"][1] * 10 + one["bbox"][0] + 1: one["category_id"] + 1 for one in segments} == (
        LABEL_OF_CATEGORY
    )


def test_ade20k_labels_as_other_projects_have_them_are_read(datasets_folder, tmp_path):
    """Mask2Former's names of categories are lists of synonyms, and its semantic labels start at 0."""
    things = set(LABEL_OF_CATEGORY.values())
    categories = [
        {"id": index, "name": name, "isthing": int(index + 1 in things)}
        for index, name in enumerate(ADE20K_SEM_SEG_CATEGORIES)
    ]
    ids = np.arange(1, 151).reshape(10, 15) * 700
    segments = [{"id": (1 + index) * 700, "category_id": index} for index in range(150)]
    write_panoptic(tmp_path / "source", {"a": ids}, {"a": segments}, categories)
    root = datasets_folder / "ADEChallengeData2016"
    (root / "images").mkdir(parents=True)
    (tmp_path / "source/images").rename(root / "images/validation")
    (tmp_path / "source/panoptic").rename(root / "ade20k_panoptic_val")
    (tmp_path / "source/panoptic.json").rename(root / "ade20k_panoptic_val.json")
    semantic = np.arange(150, dtype=np.uint8).reshape(10, 15)
    save(root / "annotations_detectron2/validation/a.png", semantic)
    (record,) = DatasetCatalog.get("ade20k_panoptic_val")
    metadata = MetadataCatalog.get("ade20k_panoptic_val")
    assert [one["category_id"] for one in record["segments_info"]] == list(range(150))
    assert np.array_equal(metadata.load_sem_seg(record), semantic)


@pytest.mark.parametrize(
    ("kind", "pixels", "message"),
    [
        ("annotations", np.full((4, 6), 151, np.uint8), r"label 151 is outside \[0, 150\]"),
        ("annotations", np.zeros((5, 6), np.uint8), "is 6x4, but .* is 6x5"),
        ("annotations_instance", np.full((4, 6, 3), 101, np.uint8), r"category 101 .* outside \[1, 100\]"),
        ("annotations_instance", np.zeros((4, 6), np.uint8), "has 1 channels of uint8, expected 3"),
        (
            "annotations_instance",
            np.dstack([ADE_CATEGORIES, ADE_NUMBERS + 1] * 2)[..., :3],
            "instance has none",
        ),
        (
            "annotations_instance",
            np.dstack([ADE_CATEGORIES, ADE_NUMBERS > 0] * 2)[..., :3],
            "several categories",
        ),
    ],
)
def test_wrong_files_of_ade20k_are_named(prepare, ade20k, capsys, kind, pixels, message):
    save(ade20k / f"{kind}/training/ADE_train_00000002.png", pixels)
    assert prepare("ade20k_panoptic") == 1
    assert capsys.readouterr().err.count("ADE_train_00000002.png") >= 1
    folder = ade20k / "ade20k_panoptic_train"
    assert not folder.exists()
    assert (folder.with_name("ade20k_panoptic_train.partial") / "ADE_train_00000001.png").exists()
    files = tuple(
        ade20k / f"{one}/training/ADE_train_00000002.png" for one in ("annotations", "annotations_instance")
    )
    is_thing = np.array([index in LABEL_OF_CATEGORY.values() for index in range(151)])
    with pytest.raises(InputError, match=message):
        ade20k_panoptic.convert(files, ade20k / "x.png", is_thing)


def test_ade20k_without_instances_is_explained(prepare, datasets_folder, capsys):
    assert prepare("ade20k_panoptic") == 2
    assert "annotations_instance.tar" in capsys.readouterr().err
