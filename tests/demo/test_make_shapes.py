"""The generated dataset: deterministic, valid in COCO's panoptic format, and as the quickstart promises."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segzoo.cli.prepare import shapes as generator
from segzoo.utils.errors import InputError

TRAIN, VAL = 24, 12


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return generator.make_shapes(tmp_path_factory.mktemp("data") / "shapes", train=TRAIN, val=VAL, seed=5)


def fingerprints(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_split(root: Path, split: str):
    """Yield annotation, id map, semantic map and pixels of every image, read without the generator's code."""
    document = json.loads((root / "annotations" / f"panoptic_{split}.json").read_text())
    for entry, annotation in zip(document["images"], document["annotations"], strict=True):
        assert entry["id"] == annotation["image_id"]
        rgb = np.asarray(Image.open(root / "panoptic" / split / annotation["file_name"])).astype(np.int64)
        ids = rgb @ [1, 256, 65536]
        semantic = np.asarray(Image.open(root / "semantic" / split / annotation["file_name"]))
        image = np.asarray(Image.open(root / "images" / split / entry["file_name"]))
        yield annotation, ids, semantic, image


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_seed_gives_the_same_bytes_with_any_number_of_processes(shapes, tmp_path, workers):
    again = generator.make_shapes(tmp_path / "shapes", train=TRAIN, val=VAL, seed=5, workers=workers)
    assert fingerprints(again) == fingerprints(shapes)


def test_another_seed_and_the_other_split_give_other_images():
    images = [
        generator.make_scene(seed, split, 1).image.tobytes() for seed in (5, 6) for split in ("train", "val")
    ]
    assert len(set(images)) == 4


def test_an_image_does_not_depend_on_the_number_of_images(shapes, tmp_path):
    fewer = generator.make_shapes(tmp_path / "shapes", train=3, val=2, seed=5)
    for file in ("images/train/000003.jpg", "panoptic/train/000003.png", "semantic/val/000002.png"):
        assert (fewer / file).read_bytes() == (shapes / file).read_bytes()


@pytest.mark.parametrize("split", ["train", "val"])
def test_segments_of_json_and_png_agree_in_ids_areas_and_boxes(shapes, split):
    for annotation, ids, _, image in read_split(shapes, split):
        assert image.shape == (128, 128, 3)
        listed = {segment["id"]: segment for segment in annotation["segments_info"]}
        assert set(np.unique(ids).tolist()) - {0} == set(listed)
        for segment_id, segment in listed.items():
            rows, columns = np.nonzero(ids == segment_id)
            assert segment["area"] == len(rows)
            left, top, width, height = segment["bbox"]
            assert (left, top) == (columns.min(), rows.min())
            assert (left + width - 1, top + height - 1) == (columns.max(), rows.max())


def test_semantic_maps_agree_with_panoptic_ones_and_leave_out_void_and_crowds(shapes):
    document = json.loads((shapes / "annotations" / "panoptic_train.json").read_text())
    class_of = {category["id"]: index for index, category in enumerate(document["categories"])}
    for annotation, ids, semantic, _ in read_split(shapes, "train"):
        expected = np.full(ids.shape, 255)
        for segment in annotation["segments_info"]:
            if not segment["iscrowd"]:
                expected[ids == segment["id"]] = class_of[segment["category_id"]]
        assert np.array_equal(semantic, expected)


def test_stuff_is_one_segment_per_class_and_only_a_swarm_is_a_crowd(shapes):
    document = json.loads((shapes / "annotations" / "panoptic_train.json").read_text())
    is_thing = {category["id"]: category["isthing"] for category in document["categories"]}
    for annotation, *_ in read_split(shapes, "train"):
        stuff = [
            segment["category_id"]
            for segment in annotation["segments_info"]
            if not is_thing[segment["category_id"]]
        ]
        assert len(stuff) == len(set(stuff))
        things = [segment for segment in annotation["segments_info"] if is_thing[segment["category_id"]]]
        assert sum(not segment["iscrowd"] for segment in things) <= 6


def test_panopticapi_finds_the_ground_truth_perfect_against_itself(shapes):
    panopticapi_evaluation = pytest.importorskip("panopticapi.evaluation")
    document = json.loads((shapes / "annotations" / "panoptic_val.json").read_text())
    pairs = [(annotation, annotation) for annotation in document["annotations"]]
    categories = {category["id"]: category for category in document["categories"]}
    folder = str(shapes / "panoptic" / "val")
    statistics = panopticapi_evaluation.pq_compute_single_core(0, pairs, folder, folder, categories)
    result, _ = statistics.pq_average(categories, isthing=None)
    assert result["pq"] == 1.0


def test_the_dataset_is_as_hard_as_promised():
    things = [name for _, name, is_thing in generator.CATEGORIES if is_thing]
    stuff = [name for _, name, is_thing in generator.CATEGORIES if not is_thing]
    assert len(things) >= 5
    assert len(stuff) >= 4
    ids = [category_id for category_id, _, _ in generator.CATEGORIES]
    assert all(category_id != index for index, category_id in enumerate(ids))
    counts, seen, void, crowds = [], set(), 0, 0
    for number in range(1, 151):
        scene = generator.make_scene(0, "train", number)
        classes = [segment.class_index for segment in scene.segments if not segment.is_crowd]
        seen.update(classes)
        counts.append(sum(index < len(things) for index in classes))
        void += np.any(scene.index_map < 0)
        crowds += any(segment.is_crowd for segment in scene.segments)
    assert seen == set(range(len(ids)))
    assert max(counts) == 6
    assert np.mean(counts) > 2.5
    assert 0 < void < 50
    assert 0 < crowds < 30


def test_color_hints_at_the_class_but_does_not_determine_it():
    """The best prediction from a pixel's color alone is well below the target of a model."""

    def pixels(numbers: range) -> tuple[np.ndarray, np.ndarray]:
        colors, classes = [], []
        for number in numbers:
            scene = generator.make_scene(0, "train", number)
            table = np.array([segment.class_index for segment in scene.segments])
            inside = scene.index_map >= 0
            colors.append((scene.image[inside] // 32).astype(np.int64) @ [1, 8, 64])
            classes.append(table[scene.index_map[inside]])
        return np.concatenate(colors), np.concatenate(classes)

    number_of_classes = len(generator.CATEGORIES)
    colors, classes = pixels(range(1, 200))
    votes = np.bincount(colors * number_of_classes + classes, minlength=512 * number_of_classes)
    best = votes.reshape(512, number_of_classes).argmax(axis=1)
    colors, classes = pixels(range(200, 260))
    assert 0.5 < np.mean(best[colors] == classes) < 0.88


def test_a_complete_dataset_is_kept_and_an_outdated_or_damaged_one_is_generated_again(shapes, tmp_path):
    root = tmp_path / "shapes"
    generator.make_shapes(root, train=2, val=1)
    image = root / "images" / "train" / "000001.jpg"
    made = image.stat().st_mtime_ns
    generator.make_shapes(root, train=2, val=1)
    assert image.stat().st_mtime_ns == made
    (root / "semantic" / "val" / "000001.png").unlink()
    generator.make_shapes(root, train=2, val=1)
    assert (root / "semantic" / "val" / "000001.png").is_file()
    generator.make_shapes(root, train=3, val=1)
    assert len(list((root / "images" / "train").iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_an_interrupted_run_leaves_no_dataset_behind(tmp_path, monkeypatch):
    def broken(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(generator, "_write_scene", broken)
    with pytest.raises(KeyboardInterrupt):
        generator.make_shapes(tmp_path / "shapes", train=2, val=1)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"holds no shapes\.json"):
        generator.make_shapes(tmp_path, train=2, val=1)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"mine"


def test_impossible_arguments_are_refused(tmp_path):
    with pytest.raises(InputError, match="train 0"):
        generator.make_shapes(tmp_path / "a", train=0, val=1)
    with pytest.raises(InputError, match="size 8"):
        generator.make_shapes(tmp_path / "a", train=1, val=1, size=8)
