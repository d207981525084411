"""Palettes that contradict the colors of the YAML stop; palettes for viewing do not."""

import logging

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from segzoo.data import label_reader, register_dataset_file
from segzoo.data.palettes import PaletteError, viewing_palette
from segzoo.evaluation.prediction_io import load_labels
from segzoo.utils.errors import InputError
from tests.data.data_trees import random_image, save, write_yaml

CLASSES = [
    {"name": "road", "color": [128, 64, 128]},
    {"name": "car", "color": [0, 0, 142]},
    {"name": "sky", "color": [70, 130, 180]},
]
COLORS = np.array([entry["color"] for entry in CLASSES], np.uint8)
LABELS = np.random.default_rng(0).choice([0, 1, 2], (12, 16), p=[0.1, 0.2, 0.7]).astype(np.uint8)


def write_palette(folder, labels, palette):
    """A dataset's one mask with these indices and colors."""
    save(folder / "images/a.png", random_image(*labels.shape))
    image = Image.fromarray(labels)
    image.putpalette(np.asarray(palette, np.uint8).tobytes())
    (folder / "masks").mkdir(exist_ok=True)
    image.save(folder / "masks/a.png")


def read(folder, **keys):
    base = {
        "splits": {"x": "x"},
        "images": "images/{stem}.png",
        "labels": "masks/{stem}.png",
        "classes": CLASSES,
    }
    register_dataset_file(write_yaml(folder, {**base, **keys}))
    (record,) = DatasetCatalog.get("x")
    return label_reader("x").load_sem_seg(record)


def test_a_quantized_mask_is_refused_and_read_by_its_colors_with_the_remedy(tmp_path):
    save(tmp_path / "images/a.png", random_image(*LABELS.shape))
    save(tmp_path / "masks/a.png", LABELS)
    Image.fromarray(COLORS[LABELS]).quantize(8).save(tmp_path / "masks/a.png")
    # The most frequent color comes first in Pillow, which this test relies on.
    assert Image.open(tmp_path / "masks/a.png").getpalette()[:3] == CLASSES[2]["color"]
    with pytest.raises(
        PaletteError,
        match=r"masks/a.png: its palette gives 0 the color of 'sky'.* in roads.yaml 0 is 'road'.* rgb",
    ):
        read(tmp_path)
    assert (read(tmp_path, encoding="rgb") == LABELS).all()


def test_an_explicit_palette_encoding_is_not_checked(tmp_path):
    write_palette(tmp_path, LABELS, COLORS[[2, 0, 1]])
    assert (read(tmp_path, encoding="palette") == LABELS).all()


@pytest.mark.parametrize(
    "palette",
    [
        COLORS,
        [[index, index, index] for index in range(256)],
        np.random.default_rng(5).integers(0, 256, (256, 3)),
        viewing_palette(256),
        [[0, 0, 0]] * 256,
        # Two of the indices that occur share a color of a class: a palette that was not filled in.
        [[128, 64, 128], [128, 64, 128], [70, 130, 180]],
    ],
    ids=["the classes'", "gray", "random", "VOC", "black", "not filled in"],
)
def test_palettes_for_viewing_are_ignored(tmp_path, palette):
    write_palette(tmp_path, LABELS, palette)
    assert (read(tmp_path) == LABELS).all()


def test_vocs_own_palette_is_no_contradiction_where_classes_use_some_of_its_colors(tmp_path):
    voc = viewing_palette(4).tolist()
    classes = [{"name": name, "color": voc[index]} for name, index in (("a", 0), ("b", 2), ("c", 1))]
    write_palette(tmp_path, LABELS, viewing_palette(256))
    assert (read(tmp_path, classes=classes) == LABELS).all()


def test_generated_colors_contradict_nothing(tmp_path):
    from segzoo.data.dataset_classes import generated_color

    write_palette(tmp_path, LABELS, [generated_color(index) for index in (1, 2, 0)])
    assert (read(tmp_path, classes=["road", "car", "sky"]) == LABELS).all()


def test_the_viewing_palette_is_that_of_voc(sample_data):
    stored = Image.open(next((sample_data / "voc_sample/SegmentationClass").glob("*.png"))).getpalette()
    assert viewing_palette(256).ravel().tolist() == stored


def test_a_built_in_dataset_only_warns(tmp_path, monkeypatch, caplog):
    from segzoo.data import dataset_file

    write_palette(tmp_path, LABELS, COLORS[[2, 0, 1]])
    monkeypatch.setattr(dataset_file, "CATALOG", tmp_path)
    with caplog.at_level(logging.WARNING):
        assert (read(tmp_path, root=str(tmp_path)) == LABELS).all()
    assert "its palette gives 0 the color of 'sky'" in caplog.text


def test_predictions_are_checked_in_the_same_way(tmp_path):
    register_dataset_file(
        write_yaml(
            tmp_path,
            {"splits": {"x": "x"}, "images": "{stem}.png", "labels": "{stem}_l.png", "classes": CLASSES},
        )
    )
    check = MetadataCatalog.get("x").check_palette
    write_palette(tmp_path, LABELS, COLORS)
    assert (load_labels(tmp_path / "masks/a.png", check) == LABELS).all()
    write_palette(tmp_path, LABELS, COLORS[[2, 0, 1]])
    with pytest.raises(InputError, match=r"a.png: its palette gives .*; save the indices of the classes"):
        load_labels(tmp_path / "masks/a.png", check)
