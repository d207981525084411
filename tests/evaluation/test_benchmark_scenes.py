"""The benchmark's scenes against statistics that the datasets' papers give, and a real PNG's size."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(scope="module")
def scenes():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        from benchmark_cases import scenes

        yield scenes
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmark_cases"]:
        del sys.modules[name]


def test_panoptic_scenes_have_the_segments_of_coco_images(scenes, tmp_path):
    from segzoo.evaluation import prediction_io

    rng = np.random.default_rng(0)
    things, stuff, sizes, overlaps = [], [], [], []
    for index in range(25):
        (truth, segments), (predicted, guesses) = scenes.panoptic_scene(rng, 480, 640)
        things.append(sum(segment["isthing"] for segment in segments))
        stuff.append(len(segments) - things[-1])
        file = tmp_path / f"{index}.png"
        prediction_io.save_ids(file, truth)
        sizes.append(file.stat().st_size)
        assert set(np.unique(truth)) - {0} == {segment["id"] for segment in segments}
        assert set(np.unique(predicted)) - {0} == {segment["id"] for segment in guesses}
        for segment in segments:
            assert segment["area"] == (truth == segment["id"]).sum()
            assert segment["isthing"] == (segment["category_id"] < scenes.THINGS)
        largest = max(segments, key=lambda segment: segment["area"])
        inside = predicted[truth == largest["id"]]
        overlaps.append(np.bincount(inside).max() / inside.size)
    # Some of 7 things are hidden by others, and some of 4 stuff regions by things or unlabeled.
    assert 4.5 < np.mean(things) < 8.5
    assert 2.7 < np.mean(stuff) < 4.7
    # Two of COCO's, of 427 x 640 with 18 and 360 x 640 with 32 segments, have 10.2 and 13.8 KB.
    assert 7e3 < np.mean(sizes) < 14e3
    assert 0.85 < np.mean(overlaps) < 0.999  # right, with errors along the contours


def test_objects_are_as_small_as_those_of_coco(scenes):
    areas = scenes.object_areas(np.random.default_rng(0), 480, 640, 4000)
    assert np.mean(areas < 32**2) == pytest.approx(0.41, abs=0.03)
    assert np.mean(areas > 96**2) == pytest.approx(0.24, abs=0.03)
    assert areas.max() <= 480 * 640 / 2


@pytest.mark.parametrize(
    ("num_classes", "size", "present", "ignored"),
    [(150, (512, 683), 10, 0.11), (19, (512, 1024), 14, 0.12), (847, (512, 512), 10, 0.11)],
)
def test_semantic_scenes_have_the_classes_of_an_image(scenes, num_classes, size, present, ignored, tmp_path):
    rng = np.random.default_rng(0)
    classes, unlabeled, right = [], [], []
    for _ in range(6):
        truth, predicted = scenes.semantic_scene(rng, num_classes, *size)
        ignore = 255 if num_classes < 255 else 65535
        counted = truth != ignore
        assert truth[counted].max() < num_classes
        assert predicted.max() < num_classes
        classes.append(len(np.unique(truth[counted])))
        unlabeled.append(1 - counted.mean())
        right.append((truth == predicted)[counted].mean())
    assert np.mean(classes) == pytest.approx(present, abs=1.5)
    assert np.mean(unlabeled) == pytest.approx(ignored, abs=0.06)
    assert 0.6 < np.mean(right) < 0.9  # pixel accuracy of published models: 0.7 to 0.85 on ADE20K


def test_a_moved_map_differs_at_contours_only(scenes):
    labels = np.zeros((200, 300), np.int32)
    labels[:, 150:] = 7
    moved = scenes.moved(np.random.default_rng(0), labels, 3)
    assert set(np.unique(moved)) == {0, 7}
    columns = np.nonzero((moved != labels).any(axis=0))[0]
    assert columns.size
    assert columns.min() > 150 - 20
    assert columns.max() < 150 + 20
    assert 0.001 < (moved != labels).mean() < 0.03


def test_ids_up_to_24_bits_survive_a_moved_map(scenes):
    labels = np.full((64, 64), (1 << 24) - 1, np.int32)
    labels[32:] = (1 << 24) - 2
    assert set(np.unique(scenes.moved(np.random.default_rng(0), labels, 2))) == set(np.unique(labels))


def test_entity_scenes_have_up_to_100_detections(scenes):
    rng = np.random.default_rng(0)
    for _ in range(2):
        _, (ids, detections) = scenes.entity_scene(rng, 240, 320)
        assert 30 < len(detections) <= 100
        assert {one["id"] for one in detections} >= set(np.unique(ids)) - {0}


def test_a_ground_truth_png_is_written_for_both_sides(scenes, tmp_path):
    truth, _ = scenes.semantic_scene(np.random.default_rng(0), 19, 64, 96)
    entry = scenes.register_semantic("benchmark_scene_test", tmp_path, truth, 19)
    np.testing.assert_array_equal(np.asarray(Image.open(entry["sem_seg_file_name"])), truth)
