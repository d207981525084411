"""A private dataset needs its YAML and nothing else, whatever its label files look like."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from segzoo import model_zoo
from segzoo.data import SegmentationMapper, build_train_loader, label_reader, register_dataset_file
from segzoo.utils.errors import InputError
from tests.data.data_trees import ROADS, load, random_image, save, write_roads, write_yaml

NAMES = ["road", "building", "sky", "car", "person"]
COLORS = [(128, 64, 128), (70, 70, 70), (70, 130, 180), (0, 0, 142), (220, 20, 60)]
CLASSES = np.array([[0, 1, 2], [3, 4, 255]], dtype=np.uint8)


def index_png(values):
    return values, {}


def wide_png(values):
    return values.astype(np.uint16), {}


def palette_png(values):
    palette = [part for color in COLORS for part in color] + [0] * 3 * 251
    return Image.fromarray(values).convert("L"), {"encoding": "palette", "palette": palette}


def color_png(values):
    table = np.zeros((256, 3), dtype=np.uint8)
    table[:5] = COLORS
    classes = [{"name": name, "color": list(color)} for name, color in zip(NAMES, COLORS, strict=True)]
    return table[values], {"encoding": {"type": "rgb", "void": [[0, 0, 0]]}, "classes": classes}


def from_one(values):
    return values + np.uint8(1), {"encoding": {"type": "index", "offset": -1}}


def first_channel(values):
    return np.dstack([values, values // 2, 255 - values]), {"encoding": {"type": "index", "channel": 0}}


def second_channel(values):
    return np.dstack([values // 2, values, 255 - values]), {"encoding": {"type": "index", "channel": 1}}


def ids(values):
    numbers = np.full(256, 255, np.uint8)
    numbers[:5] = (7, 11, 23, 26, 24)
    classes = [{"name": name, "id": int(numbers[index])} for index, name in enumerate(NAMES)]
    return numbers[values], {"encoding": "id", "classes": classes}


FORMATS = [index_png, wide_png, palette_png, color_png, from_one, first_channel, second_channel, ids]


@pytest.mark.parametrize("encode", FORMATS, ids=lambda function: function.__name__)
def test_every_format_gives_the_same_classes_and_can_be_trained_on(tmp_path, encode):
    stored, keys = encode(CLASSES)
    file = write_roads(tmp_path, CLASSES, **{key: value for key, value in keys.items() if key != "palette"})
    if "palette" in keys:
        stored.putpalette(keys["palette"])
        stored.save(tmp_path / "masks/train/a.png")
    else:
        save(tmp_path / "masks/train/a.png", stored)
    records, metadata = load(file)
    assert metadata.load_sem_seg(records[0]).tolist() == CLASSES.tolist()
    mapper = SegmentationMapper(
        True, task="semantic", augmentations=[], readers={"roads_train": label_reader("roads_train")}
    )
    assert mapper(records[0])["sem_seg"].tolist() == CLASSES.tolist()


def test_a_yaml_named_in_the_configuration_is_all_that_training_needs(tmp_path):
    for stem in "abcd":
        save(tmp_path / f"images/train/{stem}.jpg", random_image(40, 50))
        save(tmp_path / f"masks/train/{stem}.png", np.full((40, 50), 3, dtype=np.uint8))
    file = write_yaml(tmp_path, {**ROADS, "images": "images/{split}/{stem}.jpg"})
    overrides = {
        "DATASETS.FILES": f'("{file}",)',
        "DATASETS.TRAIN": '("roads_train",)',
        "DATASETS.TEST": '("roads_train",)',
        "SOLVER.IMS_PER_BATCH": "2",
        "DATALOADER.NUM_WORKERS": "0",
        "INPUT.MIN_SIZE_TRAIN": "(40,)",
        "INPUT.CROP_SIZE": "[32, 32]",
    }
    words = [word for pair in overrides.items() for word in pair]
    cfg = model_zoo.load_config("semantic/camvid/maskformer_r18", words)
    batch = next(iter(build_train_loader(cfg)))
    assert len(batch) == 2
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 5
    assert all(set(sample["segment_classes"].tolist()) == {3} for sample in batch)


@pytest.mark.parametrize("classes", [["background", "roads"], ["roads", "background"]])
def test_masks_of_0_and_255_name_the_remedy_and_each_remedy_works(tmp_path, classes):
    mask = np.array([[0, 255, 255]], dtype=np.uint8)
    foreground = classes[1]
    records, metadata = load(write_roads(tmp_path, mask, classes=classes))
    with pytest.raises(InputError) as caught:
        metadata.load_sem_seg(records[0])
    message = str(caught.value)
    assert f"{tmp_path}/masks/train/a.png: holds only {{0, 255}}; 255 is the ignore label" in message
    assert "no foreground remains" in message
    assert "encoding: binary" in message
    assert f"label_map: {{255: {foreground}}}" in message
    for remedy, expected in (
        ({"encoding": "binary"}, [[0, 1, 1]]),
        ({"label_map": {255: foreground}}, [[0, 1, 1]]),
        ({"encoding": {"type": "index", "void": [255]}}, [[0, 255, 255]]),
    ):
        register_dataset_file(write_yaml(tmp_path, {**ROADS, "classes": classes, **remedy}))
        reader = label_reader("roads_train")
        assert reader.load_sem_seg(DatasetCatalog.get("roads_train")[0]).tolist() == expected


RAW = ["road", "car", "truck", "bus", "person", "rider", "unclear"]
MERGED = {"car": "vehicle", "truck": "vehicle", "bus": "vehicle", "rider": "person", "unclear": "void"}
# By hand: every raw label and what becomes of it among road, vehicle, person.
EXPECTED = [0, 1, 1, 1, 2, 2, 255]


@pytest.mark.parametrize("kind", ["index", "sparse", "rgb"])
def test_every_raw_label_is_merged_by_name_whatever_the_format(tmp_path, kind):
    if kind == "rgb":
        table = [[10 * index, 5, 200] for index in range(len(RAW))]
        stored = np.array([table], dtype=np.uint8)
        encoding = {"type": "rgb", "colors": {name: [color] for name, color in zip(RAW, table, strict=True)}}
    else:
        values = [3, 9, 20, 21, 40, 77, 100] if kind == "sparse" else list(range(len(RAW)))
        stored = np.array([values], dtype=np.uint8)
        encoding = {"type": "index", "values": dict(zip(values, RAW, strict=True))}
    content = {"classes": ["road", "vehicle", "person"], "encoding": encoding, "label_map": MERGED}
    records, metadata = load(write_roads(tmp_path, stored, **content))
    assert metadata.load_sem_seg(records[0]).tolist() == [EXPECTED]


def test_an_unknown_target_or_source_of_a_merge_suggests_the_nearest(tmp_path):
    content = {"classes": ["road", "vehicle"], "encoding": {"type": "index", "values": ["road", "car"]}}
    with pytest.raises(InputError, match=r"label_map target 'vehicel' is unknown; did you mean vehicle\?"):
        load(write_roads(tmp_path, CLASSES, **content, label_map={"car": "vehicel"}))
    with pytest.raises(InputError, match=r"label_map source 'cra' is not a label .*; did you mean car\?"):
        load(write_roads(tmp_path, CLASSES, **content, label_map={"car": "vehicle", "cra": "road"}))


def test_several_label_files_of_an_image_need_only_a_star(tmp_path):
    save(tmp_path / "images/a_b.jpg", random_image(1, 4))
    save(tmp_path / "masks/train/a_b-2.png", np.array([[0, 3, 3, 255]], dtype=np.uint8))
    save(tmp_path / "masks/train/a_b-1.png", np.array([[0, 0, 1, 2]], dtype=np.uint8))
    content = {**ROADS, "images": "images/{stem}.jpg", "labels": "masks/{split}/{stem}-*.png"}
    records, metadata = load(write_yaml(tmp_path, content))
    assert metadata.load_sem_seg(records[0]).tolist() == [[0, 3, 1, 2]]
    # A star ends at an underscore, so that it may also come first.
    save(tmp_path / "masks/train/2_a_b.png", np.array([[4, 4, 4, 4]], dtype=np.uint8))
    records, metadata = load(write_yaml(tmp_path, {**content, "labels": "masks/{split}/*_{stem}.png"}))
    assert metadata.load_sem_seg(records[0]).tolist() == [[4, 4, 4, 4]]
    panoptic = {"panoptic": "p", "annotations": "p.json", "labels": "{stem}_*.png"}
    with pytest.raises(InputError, match=r"labels with \* cannot be combined with panoptic"):
        register_dataset_file(write_yaml(tmp_path, {**ROADS, **panoptic}))


def test_a_list_takes_lines_by_number_and_names_with_or_without_suffix(tmp_path):
    for stem in "abcd":
        save(tmp_path / f"images/{stem}.jpg", random_image(1, 2))
        save(tmp_path / f"masks/{stem}.png", np.zeros((1, 2), np.uint8))
    (tmp_path / "all.txt").write_bytes(b"\xef\xbb\xbfa.jpg\r\nb\r\n\r\nc.jpg\r\nd\r\n")
    content = {
        "splits": {name: {"lines": lines} for name, lines in LINES.items()},
        "images": "images/{stem}.*",
        "labels": "masks/{stem}.png",
        "list": "all.txt[{lines}]",
        "classes": NAMES,
    }
    register_dataset_file(write_yaml(tmp_path, content))
    found = {name: "".join(record["image_id"] for record in DatasetCatalog.get(name)) for name in LINES}
    assert found == {"part_first": "ab", "part_middle": "c", "part_rest": "cd", "part_all": "abcd"}


LINES = {"part_first": "0:2", "part_middle": "2:3", "part_rest": "2:", "part_all": ":"}


def test_a_split_without_labels_is_named_in_the_yaml(tmp_path):
    file = write_roads(tmp_path, CLASSES, splits={"roads_train": "train", "roads_new": "new"})
    save(tmp_path / "images/new/z.png", random_image(2, 2))
    content = {**ROADS, "splits": {"roads_train": "train", "roads_new": "new"}}
    register_dataset_file(file)
    with pytest.raises(InputError, match=r"roads_new: 1 images like .*z.png, but no label like"):
        DatasetCatalog.get("roads_new")
    register_dataset_file(write_yaml(tmp_path, {**content, "without_labels": ["roads_new"]}))
    (record,) = DatasetCatalog.get("roads_new")
    assert record["file_name"].endswith("images/new/z.png")
    assert "sem_seg_file_name" not in record
    assert "sem_seg_file_name" in DatasetCatalog.get("roads_train")[0]
    assert MetadataCatalog.get("roads_new").classes == NAMES
    with pytest.raises(
        InputError, match=r"without_labels has the unknown split roads_nwe; did you mean roads_new"
    ):
        register_dataset_file(write_yaml(tmp_path, {**content, "without_labels": ["roads_nwe"]}))
    with pytest.raises(InputError, match=r"without_labels is 'roads_new'; expected a list of names"):
        register_dataset_file(write_yaml(tmp_path, {**content, "without_labels": "roads_new"}))


def test_a_dataset_of_unlabeled_images_only_needs_no_labels_key(tmp_path):
    save(tmp_path / "photos/1.jpg", random_image(2, 2))
    content = {"splits": {"photos": "x"}, "images": "photos/{stem}.jpg", "classes": "camvid"}
    records, metadata = load(write_yaml(tmp_path, {**content, "without_labels": ["photos"]}, "photos.yaml"))
    assert len(records) == 1
    assert len(metadata.classes) == 11


def test_the_test_images_of_a_panoptic_dataset_are_those_of_its_folder(tmp_path):
    save(tmp_path / "images/test/b.jpg", random_image(2, 2))
    save(tmp_path / "images/test/a.png", random_image(2, 2))
    content = {
        "splits": {"street_test": "test"},
        "without_labels": ["street_test"],
        "images": "images/{split}",
        "panoptic": "panoptic/{split}",
        "annotations": "panoptic_{split}.json",
        "classes": "coco_panoptic",
    }
    records, _ = load(write_yaml(tmp_path, content))
    assert [record["image_id"] for record in records] == ["a", "b"]


def test_a_wrong_channel_is_explained(tmp_path):
    content = {"encoding": {"type": "index", "channel": "red"}}
    with pytest.raises(InputError, match=r"encoding index: channel is 'red'; expected 0 \(red\), 1 or 2"):
        load(write_roads(tmp_path, CLASSES, **content))
    # Colors are never taken for indices unless the YAML says so.
    colors = np.dstack([CLASSES, CLASSES, CLASSES // 2])
    records, metadata = load(write_roads(tmp_path, colors))
    with pytest.raises(InputError, match=r"a.png: is a color image \(RGB\), but .* encoding: rgb"):
        metadata.load_sem_seg(records[0])
