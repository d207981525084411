"""Drawing: pixels keep their places, colors follow the legend and are stable through a video."""

import json

import numpy as np
import pytest
import torch

from segzoo.engine.metrics_log import read_metrics
from segzoo.utils.errors import InputError
from segzoo.visualization import panels
from segzoo.visualization.draw import (
    RESULT_KEYS,
    Tracks,
    default_threshold,
    distinct_color,
    draw_entity,
    draw_instances,
    draw_panoptic,
    draw_result,
    draw_semantic,
)
from segzoo.visualization.panels import draw_loss_curve, legend, strip

CLASSES = ("disk", "square", "stripes")
COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
GRAY = np.full((40, 60, 3), 128, dtype=np.uint8)


def dominant_channel(drawn: np.ndarray) -> np.ndarray:
    """(H, W) index of the brightest channel, -1 where a pixel is gray."""
    spread = drawn.max(axis=2).astype(int) - drawn.min(axis=2)
    return np.where(spread > 8, drawn.argmax(axis=2), -1)


@pytest.mark.parametrize(("task", "drawn"), [("panoptic", True), ("entity", False)])
def test_unlikely_panoptic_segments_are_drawn_as_the_model_has_kept_them(task, drawn):
    ids = torch.zeros(40, 60, dtype=torch.int32)
    ids[10:30, 20:40] = 1
    segment = {"id": 1, "isthing": True, "category_id": 1, "score": 0.3}
    threshold = default_threshold(task)
    shown = draw_result(GRAY, {RESULT_KEYS[task][0]: (ids, [segment])}, task, CLASSES, COLORS, threshold)
    assert (shown != GRAY).any() == drawn


def test_semantic_colors_lie_on_the_labels_and_ignored_pixels_stay_as_they_were():
    labels = np.random.default_rng(0).choice([0, 1, 2, 255], size=(40, 60))
    drawn = draw_semantic(GRAY, labels, CLASSES, COLORS)
    assert drawn.shape == GRAY.shape
    assert drawn.dtype == np.uint8
    assert np.array_equal(dominant_channel(drawn), np.where(labels == 255, -1, labels))
    assert np.array_equal(drawn[labels == 255], GRAY[labels == 255])


def test_panoptic_colors_lie_on_the_segments_whatever_their_ids():
    ids = np.zeros((40, 60), dtype=np.int32)
    ids[3:11, 5:20] = 70_000
    ids[20:31, 40:55] = 16_777_215
    segments_info = [
        {"id": 70_000, "category_id": 0, "isthing": True},
        {"id": 16_777_215, "category_id": 2, "isthing": False},
    ]
    drawn = draw_panoptic(GRAY, ids, segments_info, CLASSES, COLORS)
    expected = np.full(ids.shape, -1)
    expected[ids == 70_000] = 0
    expected[ids == 16_777_215] = 2
    assert np.array_equal(dominant_channel(drawn), expected)
    assert np.array_equal(drawn[ids == 0], GRAY[ids == 0])


def test_instances_of_a_class_differ_in_shade_only():
    ids = np.repeat(np.array([[1, 2, 3]], dtype=np.int32), 20, axis=1).repeat(30, axis=0)
    segments_info = [{"id": number, "category_id": 1, "isthing": True} for number in (1, 2, 3)]
    drawn = draw_panoptic(np.full((30, 60, 3), 128, np.uint8), ids, segments_info, CLASSES, COLORS)
    middles = [tuple(drawn[15, column]) for column in (10, 30, 50)]
    assert len(set(middles)) == 3
    assert (dominant_channel(drawn) == 1).all()


def test_entities_get_distinct_colors():
    ids = np.arange(1, 7, dtype=np.int32).repeat(10)[None].repeat(40, axis=0)
    segments_info = [{"id": number, "score": 0.9, "category_id": 0} for number in range(1, 7)]
    drawn = draw_entity(GRAY, ids, segments_info)
    assert len({tuple(drawn[20, 10 * index + 5]) for index in range(6)}) == 6


def test_overlapping_instances_show_the_highest_score_on_top():
    masks = np.zeros((2, 40, 60), dtype=bool)
    masks[0, 10:30, 10:30] = masks[1, 10:30, 20:40] = True
    drawn = draw_instances(GRAY, masks, [0, 1], [0.9, 0.6], CLASSES, names=False)
    assert np.array_equal(drawn[20, 25], drawn[20, 15])
    assert not np.array_equal(drawn[20, 25], drawn[20, 35])


def test_an_image_without_segments_is_unchanged():
    assert np.array_equal(draw_panoptic(GRAY, np.zeros((40, 60), np.int32), [], CLASSES, COLORS), GRAY)
    assert np.array_equal(draw_instances(GRAY, np.zeros((0, 40, 60), bool), [], [], CLASSES), GRAY)


def test_names_are_written_on_large_images_only():
    for side, written in ((64, False), (320, True)):
        image, labels = np.full((side, side, 3), 128, np.uint8), np.zeros((side, side), np.int64)
        with_names = draw_semantic(image, labels, CLASSES, COLORS)
        without = draw_semantic(image, labels, CLASSES, COLORS, names=False)
        assert np.array_equal(with_names, without) != written


def test_a_label_map_of_another_size_than_the_image_is_refused():
    with pytest.raises(ValueError, match="image is"):
        draw_semantic(GRAY, np.zeros((20, 30), np.int64), CLASSES, COLORS)


def test_numbers_follow_segments_from_frame_to_frame():
    def frame(first: int, second: int, shift: int) -> tuple[np.ndarray, list[dict]]:
        ids = np.zeros((40, 60), dtype=np.int32)
        ids[5:15, 5 + shift : 20 + shift] = first
        ids[25:35, 30 + shift : 45 + shift] = second
        return ids, [{"id": first, "category_id": 0}, {"id": second, "category_id": 0}]

    tracks = Tracks()
    before = tracks.update(*frame(1, 2, 0))
    after = tracks.update(*frame(2, 1, 3))  # the model now numbers them in reverse
    assert before[1] == after[2]
    assert before[2] == after[1]
    ids, segments_info = frame(7, 8, 6)
    ids[0:3, 0:3] = 9
    newcomer = tracks.update(ids, [*segments_info, {"id": 9, "category_id": 0}])
    assert newcomer[7] == before[1]
    assert newcomer[9] not in before.values()
    changed_class = tracks.update(ids, [{"id": 7, "category_id": 1}])
    assert changed_class[7] not in newcomer.values()


def test_distinct_colors_are_distinct():
    colors = np.array([distinct_color(index) for index in range(12)], dtype=float)
    distances = np.linalg.norm(colors[:, None] - colors[None], axis=2) + 1e3 * np.eye(12)
    assert distances.min() > 20


def test_a_strip_shows_every_image_at_one_height_under_its_title():
    images = [np.full((50, 80, 3), 10, np.uint8), np.full((100, 40, 3), 200, np.uint8)]
    drawn = strip(images, ["image", "prediction"], gap=8)
    assert drawn.shape[1] == 80 + 8 + 20
    assert np.array_equal(drawn[-50:, :80], images[0])
    assert (drawn[-50:, 88:] == 200).all()
    assert drawn[:-50].min() < 100  # the titles


def test_a_legend_wraps_and_shows_every_color():
    drawn = legend([f"a rather long class name {index}" for index in range(6)], [*COLORS, *COLORS], width=300)
    assert drawn.shape[1] == 300
    for color in COLORS:
        assert (drawn == color).all(axis=2).any()


def test_the_loss_curve_adds_up_layers_and_ignores_evaluation_lines(tmp_path):
    lines = [
        {"iteration": 19, "loss_ce": 1.0, "loss_ce_0": 2.0, "loss_dice": 0.5, "total_loss": 3.5, "lr": 0.1},
        {"iteration": 39, "sem_seg/loss_like": 7.0},
    ]
    file = tmp_path / "metrics.json"
    # The last line was truncated by a kill.
    file.write_text("\n".join(json.dumps(line) for line in lines) + '\n{"iteration": 5')
    assert panels._losses(read_metrics(file)) == {
        "loss_ce (2 layers)": [(19, 3.0)],
        "loss_dice": [(19, 0.5)],
        "total_loss": [(19, 3.5)],
    }
    draw_loss_curve(read_metrics(file), tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    file.write_text(json.dumps({"iteration": 1, "lr": 0.1}))
    with pytest.raises(InputError, match="hold no losses"):
        draw_loss_curve(read_metrics(file), tmp_path / "loss.png")
