"""`segzoo convert-data panoptic-to-detection`: each panoptic segment becomes an annotation with a mask."""

import io
import itertools
import json
from contextlib import redirect_stdout

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segzoo.cli import convert_data
from segzoo.cli.convert_data.panoptic_to_detection.parts import divide
from segzoo.cli.panoptic_files import panoptic_categories
from segzoo.data import read_dataset_file
from tests.data.data_trees import save, write_panoptic, write_roads, write_street

CATEGORIES = [
    {"id": 3, "name": "car", "isthing": 1, "color": [0, 0, 142], "supercategory": "vehicle"},
    {"id": 0, "name": "sky", "isthing": 0},
]
# Void 0; a car, sky, a crowd of cars whose id has all three bytes.
CROWD = 1 + 256 * 2 + 65536 * 3
IDS = np.array(
    [
        [9, 9, 9, 9, 9, 0],
        [4, 4, 9, 9, 9, 0],
        [4, 4, 4, 9, CROWD, CROWD],
        [4, 0, 0, 0, CROWD, 9],
    ]
)
SEGMENTS = [
    {"id": 9, "category_id": 0, "note": "kept"},
    {"id": 4, "category_id": 3},
    {"id": CROWD, "category_id": 3, "iscrowd": 1},
]


@pytest.fixture
def tool():
    """A function that runs the command in this process and returns its exit status."""
    return lambda *words: convert_data.main(
        ["panoptic-to-detection", *map(str, words), *([] if "--workers" in words else ["--workers", "0"])]
    )


def write(folder, ids=IDS, segments=SEGMENTS, categories=CATEGORIES):
    """Write panoptic.json and panoptic/a.png; return the JSON's path."""
    write_panoptic(folder, {"a": ids}, {"a": segments}, categories)
    return folder / "panoptic.json"


def change(json_file, edit):
    """Edit a JSON in place."""
    content = json.loads(json_file.read_text())
    edit(content)
    json_file.write_text(json.dumps(content))


def read(file):
    """Return a detection JSON, its masks checked and decoded by pycocotools."""
    with redirect_stdout(io.StringIO()):
        coco = COCO(str(file))
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        mask = coco.annToMask(annotation)
        assert mask.sum() == annotation["area"]
        assert coco_mask.toBbox(annotation["segmentation"]).tolist() == annotation["bbox"]
        annotation["mask"] = mask.astype(bool)
    return content


def test_each_segment_becomes_an_annotation(tool, tmp_path):
    json_file = write(tmp_path)
    change(json_file, lambda content: content.update(info={"year": 2026}, licenses=[{"id": 1}]))
    before = json.loads(json_file.read_text())
    assert tool("--json", json_file) == 0
    found = read(tmp_path / "panoptic_detection_format.json")
    assert {key: found[key] for key in ("info", "licenses", "images")} == {
        key: before[key] for key in ("info", "licenses", "images")
    }
    assert found["categories"] == [
        {"id": 3, "name": "car", "supercategory": "vehicle"},
        {"id": 0, "name": "sky"},
    ]
    expected = [
        {"id": 1, "category_id": 0, "iscrowd": 0, "bbox": [0, 0, 6, 4], "area": 10, "note": "kept"},
        {"id": 2, "category_id": 3, "iscrowd": 0, "bbox": [0, 1, 3, 3], "area": 6},
        {"id": 3, "category_id": 3, "iscrowd": 1, "bbox": [4, 2, 2, 2], "area": 3},
    ]
    for annotation, segment, values in zip(found["annotations"], SEGMENTS, expected, strict=True):
        assert np.array_equal(annotation.pop("mask"), segment["id"] == IDS)
        assert annotation.pop("segmentation")["size"] == [4, 6]
        assert annotation == {**values, "image_id": 1}


def test_things_only_leaves_out_stuff_and_its_categories(tool, tmp_path, capsys):
    assert tool("--json", write(tmp_path), "--things-only", "--sub-stuff") == 0
    assert "--sub-stuff has no effect with --things-only" in capsys.readouterr().out
    found = read(tmp_path / "panoptic_detection_format_things_only.json")
    assert [one["name"] for one in found["categories"]] == ["car"]
    assert [(one["id"], one["bbox"]) for one in found["annotations"]] == [
        (1, [0, 1, 3, 3]),
        (2, [4, 2, 2, 2]),
    ]


def test_bbox_and_area_of_the_json_are_kept_and_missing_keys_are_added(tool, tmp_path, capsys):
    json_file = write(tmp_path)

    def edit(content):
        first, second, _ = content["annotations"][0]["segments_info"]
        first["bbox"] = [0, 0, 5, 4]
        for key in ("bbox", "area", "iscrowd"):
            del second[key]

    change(json_file, edit)
    assert tool("--json", json_file, "--output", tmp_path / "out.json") == 0
    first, second, _ = json.loads((tmp_path / "out.json").read_text())["annotations"]
    assert first["bbox"] == [0, 0, 5, 4]
    assert (second["bbox"], second["area"], second["iscrowd"]) == ([0, 1, 3, 3], 6, 0)
    assert "1 segments have a bbox or area" in capsys.readouterr().out


def test_the_name_of_a_png_ends_at_the_last_dot(tool, tmp_path):
    json_file = write(tmp_path)
    (tmp_path / "panoptic/a.png").rename(tmp_path / "panoptic/a.b.png")
    change(json_file, lambda content: content["annotations"][0].update(file_name="a.b.jpg"))
    assert tool("--json", json_file) == 0
    assert len(read(tmp_path / "panoptic_detection_format.json")["annotations"]) == 3


def test_perfect_predictions_score_1_in_cocos_evaluation(tool, tmp_path):
    """An annotation with the id 0 would never be matched."""
    assert tool("--json", write(tmp_path)) == 0
    with redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "panoptic_detection_format.json"))
        keys = ("image_id", "category_id", "segmentation")
        results = [{**{key: one[key] for key in keys}, "score": 1.0} for one in truth.anns.values()]
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def region(mask, left, top, width, height):
    mask[top : top + height, left : left + width] = True


def boxes_of(*regions, shape=(400, 400)):
    """Return the boxes of the parts of a mask of rectangles, in the order of the parts."""
    mask = np.zeros(shape, dtype=bool)
    for one in regions:
        region(mask, *one)
    parts = divide(mask)
    assert np.array_equal(sum(part.mask.astype(int) for part in parts), mask)
    assert [part.area for part in parts] == [part.mask.sum() for part in parts]
    assert [part.bbox for part in parts] == [
        coco_mask.toBbox(coco_mask.encode(np.asfortranarray(part.mask, np.uint8))).tolist() for part in parts
    ]
    return [part.bbox for part in parts]


def test_parts_of_rectangles_are_those_computed_by_hand():
    # Squares of 40 and 50: between them 100 - 40 = 60 pixels, less than 90; then 140 - 40 = 100.
    assert boxes_of((0, 0, 40, 40), (100, 0, 50, 50)) == [[0, 0, 150, 50]]
    assert boxes_of((0, 0, 40, 40), (140, 0, 50, 50)) == [[0, 0, 40, 40], [140, 0, 50, 50]]
    # The distance is 90, which is not below the sum of the sizes.
    assert boxes_of((0, 0, 40, 40), (130, 0, 50, 50)) == [[0, 0, 40, 40], [130, 0, 50, 50]]
    # A region of size 31 always joins the nearest larger one, one of 32 does not.
    assert boxes_of((0, 0, 31, 31), (300, 300, 50, 50)) == [[0, 0, 350, 350]]
    assert boxes_of((0, 0, 32, 32), (300, 300, 50, 50)) == [[0, 0, 32, 32], [300, 300, 50, 50]]
    # Pixels that touch at a corner are connected: two diagonal lines, and a square.
    lines = [(left + step, step, 1, 1) for left in (0, 300) for step in range(40)]
    assert boxes_of(*lines, (0, 350, 41, 41)) == [[0, 0, 40, 40], [300, 0, 40, 40], [0, 350, 41, 41]]
    assert boxes_of((7, 5, 1, 1)) == [[7, 5, 1, 1]]
    # Of five regions the only one above 32 and the largest other one are kept, the others join the nearest of
    # the two; then the smaller of the two, now with the box of all its regions (100 wide), stays.
    small = [(0, 300, 10, 10), (60, 300, 11, 11), (90, 300, 10, 80), (0, 390, 9, 9)]
    assert boxes_of((300, 0, 60, 60), *small) == [[300, 0, 60, 60], [0, 300, 100, 99]]
    # A size of 32 is not above 32: the second region of that size joins the first one.
    small = [(0, 0, 32, 32), (110, 0, 32, 32), (0, 50, 5, 5), (110, 50, 5, 5)]
    assert boxes_of((300, 300, 60, 60), *small) == [[0, 0, 142, 55], [300, 300, 60, 60]]


def restated_parts(mask):
    """Return the masks of the parts, by flood fill and sets of pixels."""
    left, regions = {tuple(pixel) for pixel in np.argwhere(mask)}, []
    for start in sorted(left):
        if start not in left:
            continue
        found, todo = set(), [start]
        left.discard(start)
        while todo:
            y, x = todo.pop()
            found.add((y, x))
            for near in itertools.product((y - 1, y, y + 1), (x - 1, x, x + 1)):
                if near in left:
                    left.discard(near)
                    todo.append(near)
        regions.append(found)

    def corners(pixels):
        ys, xs = zip(*pixels, strict=True)
        return [(x, y) for x in (min(xs), max(xs) + 1) for y in (min(ys), max(ys) + 1)]

    def size(pixels):
        (x0, y0), *_, (x1, y1) = corners(pixels)
        return ((x1 - x0) * (y1 - y0)) ** 0.5

    def distance(one, other):
        return min(np.hypot(a - c, b - d) for a, b in corners(one) for c, d in corners(other))

    regions.sort(key=size)
    if len(regions) > 4:
        kept = min(4, max(1, sum(size(one) >= 32 for one in regions)))
        while kept < len(regions) and size(regions[-kept]) > 32:
            kept += 1
        large = [set(one) for one in regions[-kept:]]
        for one in regions[:-kept]:
            nearest = min(range(kept), key=lambda k: distance(one, regions[-kept:][k]))
            large[nearest] |= one
        regions = sorted(large, key=size)
    parts, united = [], [set(one) for one in regions]
    for index, one in enumerate(regions[:-1]):
        later = range(index + 1, len(regions))
        nearest = min(later, key=lambda k: distance(one, regions[k]))
        if distance(one, regions[nearest]) < size(one) + size(regions[nearest]) or size(one) < 32:
            united[nearest] |= united[index]
        else:
            parts.append(united[index])
    return [*parts, united[-1]]


def test_parts_of_random_masks_are_those_of_a_restatement():
    counts = set()
    for seed in range(16):
        rng = np.random.default_rng(seed)
        mask = np.zeros((700, 800), dtype=bool)
        for _ in range(rng.integers(1, 11)):
            side = rng.choice([8, 40, 70])
            region(mask, *rng.integers(0, 700, 2), *rng.integers(1, side, 2))
        found = [{tuple(pixel) for pixel in np.argwhere(part.mask)} for part in divide(mask)]
        assert found == restated_parts(mask), seed
        counts.add(len(found))
    assert counts >= {1, 2}


def test_sub_stuff_adds_the_parts_after_each_stuff_segment(tool, tmp_path):
    ids = np.zeros((120, 300), dtype=int)
    ids[:, :200] = 4
    ids[:40, :40] = 9
    ids[60:120, 240:300] = 9
    segments = [SEGMENTS[0], {"id": 4, "category_id": 3}]
    assert tool("--json", write(tmp_path, ids, segments), "--sub-stuff") == 0
    found = read(tmp_path / "panoptic_detection_format_sub_stuff.json")["annotations"]
    assert [(one["id"], one["category_id"], one["bbox"]) for one in found] == [
        (1, 0, [0, 0, 300, 120]),
        (2, 0, [0.0, 0.0, 40.0, 40.0]),
        (3, 0, [240.0, 60.0, 60.0, 60.0]),
        (4, 3, [0, 0, 200, 120]),
    ]
    assert [one.get("note") for one in found] == ["kept", "kept", "kept", None]
    assert [one["image_id"] for one in found] == [1, 1, 1, 1]


# {name on the command line: (YAML, {split: (JSON, folder of PNGs)})}, as published.
TREES = {
    "coco": (
        "coco_panoptic",
        {"coco_2017_val_panoptic": ("coco/annotations/panoptic_val2017", "coco/panoptic_val2017")},
    ),
    "cityscapes": (
        "cityscapes_panoptic",
        {
            "cityscapes_fine_panoptic_val": (
                "cityscapes/gtFine/cityscapes_panoptic_val",
                "cityscapes/gtFine/cityscapes_panoptic_val",
            )
        },
    ),
    "ade20k": (
        "ade20k_panoptic",
        {
            "ade20k_panoptic_val": (
                "ADEChallengeData2016/ade20k_panoptic_val",
                "ADEChallengeData2016/ade20k_panoptic_val",
            )
        },
    ),
    "mapillary": (
        "mapillary_vistas_panoptic",
        {
            "mapillary_vistas_panoptic_val": (
                "mapillary_vistas/validation/panoptic/panoptic_2018",
                "mapillary_vistas/validation/panoptic",
            )
        },
    ),
}


def write_tree(root, name, json_stem=None, masks=None):
    """Write the validation split of a built-in dataset, without images; return (split, path of the JSON).

    The JSON and the folder of PNGs are those of TREES unless other ones are given.
    """
    yaml_name, splits = TREES[name]
    ((split, published),) = splits.items()
    json_stem, masks = json_stem or published[0], masks or published[1]
    classes = panoptic_categories(read_dataset_file(yaml_name))
    thing = next(one["id"] for one in classes if one["isthing"])
    stuff = next(one["id"] for one in classes if not one["isthing"])
    segments = [
        {**SEGMENTS[0], "category_id": stuff},
        *({**one, "category_id": thing} for one in SEGMENTS[1:]),
    ]
    json_file = write(root / "written", segments=segments, categories=classes)
    target = root / f"{json_stem}.json"
    (root / masks).mkdir(parents=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    json_file.rename(target)
    (root / "written/panoptic/a.png").rename(root / masks / "a.png")
    return split, target


@pytest.mark.parametrize("name", TREES)
def test_built_in_datasets_are_found_without_their_images(tool, datasets_folder, name, capsys):
    split, json_file = write_tree(datasets_folder, name)
    target = json_file.with_name(f"{json_file.stem}_detection_format.json")
    # The training split is missing.
    assert tool(name) == 1
    printed = capsys.readouterr()
    assert f"{split}: 1 images, 3 annotations in {target}" in printed.out
    assert len(printed.err.splitlines()) == 1
    assert "_train" in printed.err
    assert [one["area"] for one in read(target)["annotations"]] == [10, 6, 3]
    target.write_text("{}")
    assert tool(name, "--split", split) == 0
    assert target.read_text() == "{}"
    assert "--overwrite converts again" in capsys.readouterr().out
    assert tool("--data", name, "--split", split, "--overwrite") == 0
    assert len(read(target)["annotations"]) == 3


def test_datasets_of_ones_own_are_converted(tool, datasets_folder, tmp_path):
    file = write_street(tmp_path)
    assert tool(file, "--output", tmp_path / "out") == 0
    assert read(tmp_path / "out/panoptic_detection_format.json")["annotations"]


def test_processes_write_the_same_file(tool, tmp_path):
    maps = {f"{number:02}": np.roll(IDS, number, axis=1) for number in range(20)}
    write_panoptic(tmp_path, maps, dict.fromkeys(maps, SEGMENTS), CATEGORIES)
    for workers in (0, 2):
        words = ("--json", tmp_path / "panoptic.json", "--output", tmp_path / f"{workers}.json")
        assert tool(*words, "--workers", workers) == 0
    found = read(tmp_path / "2.json")["annotations"]
    assert [one["id"] for one in found] == list(range(1, 61))
    assert (tmp_path / "0.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def first_segment(**values):
    return lambda content: content["annotations"][0]["segments_info"][0].update(values)


WRONG_JSON = {
    "isthing": (lambda content: content["categories"][0].pop("isthing"), "lacks 'isthing'"),
    "category": (first_segment(category_id=77), "has the category 77, which is not among its categories"),
    "image": (
        lambda content: content["annotations"][0].update(image_id=8),
        "image 8, which is not in images",
    ),
    "segments_info": (lambda content: content["annotations"][0].pop("segments_info"), "no segments_info"),
    "png": (lambda content: content["annotations"][0].update(file_name="b.png"), "add the PNGs"),
    "twice": (
        lambda content: content["annotations"].append(content["annotations"][0]),
        "of image 1; it must",
    ),
}
WRONG_IMAGE = {
    "id": (first_segment(id=8), "segment ids 9 are not in the segments_info"),
    "size": (lambda content: content["images"][0].update(width=7), "is 6x4, but the panoptic JSON says 7x4"),
}


@pytest.mark.parametrize("wrong", [*WRONG_JSON, *WRONG_IMAGE])
def test_wrong_labels_are_named_and_an_old_output_stays(tool, tmp_path, capsys, wrong):
    json_file = write(tmp_path)
    edit, message = {**WRONG_JSON, **WRONG_IMAGE}[wrong]
    change(json_file, edit)
    output = tmp_path / "panoptic_detection_format.json"
    output.write_text("{}")
    assert tool("--json", json_file, "--overwrite") == (2 if wrong in WRONG_JSON else 1)
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[0]
    assert len(lines) == (1 if wrong in WRONG_JSON else 2)
    assert output.read_text() == "{}"
    assert sorted(file.name for file in tmp_path.glob("*.json")) == [
        "panoptic.json",
        "panoptic_detection_format.json",
    ]


def test_a_png_that_is_not_a_panoptic_one_is_named(tool, tmp_path, capsys):
    json_file = write(tmp_path)
    save(tmp_path / "panoptic/a.png", np.zeros((4, 6), dtype=np.uint8))
    assert tool("--json", json_file) == 1
    assert "a panoptic PNG holds segment ids as RGB, found mode L" in capsys.readouterr().err
    Image.new("RGB", (6, 4)).save(tmp_path / "panoptic/a.png", format="JPEG")
    assert tool("--json", json_file) == 1
    assert "a lossy format" in capsys.readouterr().err


def test_wrong_words_are_one_line(tool, datasets_folder, tmp_path, capsys):
    json_file = write(tmp_path)
    labels = write_roads(tmp_path / "roads", np.zeros((4, 6), dtype=np.uint8))
    (tmp_path / "there.json").write_text("{}")
    for words, message in (
        ([], "the dataset is missing; give coco"),
        (["--masks", "x"], "--masks: needs --json"),
        (["coco", "--json", json_file], "give either files or a dataset"),
        (["coco", "--data", "ade20k"], "are two datasets"),
        (["coko"], "did you mean coco"),
        (["mapillary_vistas"], "has no panoptic labels; give mapillary_vistas_panoptic"),
        ([labels], "roads.yaml: has no panoptic labels"),
        (["coco", "--split", "val"], "--split val: coco_panoptic.yaml has coco_2017_train_panoptic"),
        (["--json", tmp_path / "no.json"], "no.json: there is no such file"),
        (["--json", json_file, "--masks", tmp_path / "no"], "name it with --masks"),
        (["--json", json_file, "--output", json_file], "is the panoptic JSON itself"),
        (["--json", json_file, "--output", tmp_path / "there.json"], "exists; give --overwrite"),
    ):
        assert tool(*words) == 2, words
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        assert message in lines[0]


def test_a_segment_without_a_pixel_is_kept_unless_it_would_be_divided(tool, tmp_path, capsys):
    json_file = write(tmp_path)

    def edit(content):
        content["annotations"][0]["segments_info"][1:1] = [
            {"id": 5, "category_id": 3},
            {"id": 6, "category_id": 0, "bbox": [1, 2, 3, 4], "area": 5},
        ]

    change(json_file, edit)
    assert tool("--json", json_file) == 0
    assert "2 segments" in capsys.readouterr().out
    found = json.loads((tmp_path / "panoptic_detection_format.json").read_text())["annotations"]
    assert [one["id"] for one in found] == [1, 2, 3, 4, 5]
    assert [coco_mask.area(one["segmentation"]) for one in found] == [10, 0, 0, 6, 3]
    assert [(one["bbox"], one["area"]) for one in found[1:3]] == [([0, 0, 0, 0], 0), ([1, 2, 3, 4], 5)]
    assert tool("--json", json_file, "--sub-stuff") == 1
    assert "no pixel has the id 6 of a stuff segment, which --sub-stuff cannot" in capsys.readouterr().err
    # The thing alone is no obstacle.
    change(json_file, lambda content: content["annotations"][0]["segments_info"].pop(2))
    assert tool("--json", json_file, "--sub-stuff") == 0


@pytest.mark.parametrize(
    ("name", "split", "json_stem", "masks"),
    [
        (
            "cityscapes",
            "cityscapes_fine_panoptic_val",
            "cityscapes/cityscapes_in_coco_format/cityscapes_panoptic_val",
            "cityscapes/cityscapes_in_coco_format/cityscapes_panoptic_val",
        ),
        (
            "mapillary",
            "mapillary_vistas_panoptic_val",
            "mapillary-vistas/val/panoptic_2018",
            "mapillary-vistas/val/panoptic",
        ),
        ("coco", "coco_2017_val_panoptic", "annotations/panoptic_val2017", "annotations/panoptic_val2017"),
    ],
)
def test_the_folders_of_panoptic_segformer_are_found(tool, datasets_folder, name, split, json_stem, masks):
    _, json_file = write_tree(datasets_folder, name, json_stem, masks)
    assert tool(name, "--split", split) == 0
    target = json_file.with_name(f"{json_file.stem}_detection_format.json")
    assert [one["area"] for one in read(target)["annotations"]] == [10, 6, 3]


def test_two_splits_are_not_written_to_one_file(tool, datasets_folder, tmp_path, capsys):
    _, val = write_tree(datasets_folder, "coco")
    train = val.with_name("panoptic_train2017.json")
    train.write_text(val.read_text())
    (datasets_folder / "coco/panoptic_train2017").symlink_to(datasets_folder / "coco/panoptic_val2017")
    assert tool("coco", "--output", tmp_path / "one.json") == 2
    said = capsys.readouterr()
    assert "choose one with --split" in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "one.json").exists()
    assert tool("coco", "--output", tmp_path / "both") == 0
    assert len(list((tmp_path / "both").iterdir())) == 2
