"""What COCO JSONs of other programs hold: every field with many wrong values, against pycocotools and numpy.

A change of a small valid JSON ends in one line, or in the right numbers: never in another error.
"""

import copy
import json
import re
import warnings

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from panopticapi.utils import id2rgb
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from segzoo.cli.check_data.inspection import inspect_image
from segzoo.data import SegmentationMapper, coco_json, read_image
from segzoo.evaluation import InstanceEvaluator, PanopticEvaluator
from segzoo.evaluation.rescore import rescore
from segzoo.utils.errors import InputError
from tests.data.data_trees import (
    STREET,
    STREET_CATEGORIES,
    STREET_IDS,
    STREET_SEGMENTS,
    load,
    random_image,
    save,
    write_yaml,
)

HEIGHT, WIDTH = 24, 32
# In place of any value: of another type, or one that no such field can have. ABSENT takes the key away.
ABSENT = object()
WRONG = [
    *(ABSENT, None, True, 0, -1, 1.0, 2.5, float("nan"), float("inf"), 10**400),
    *("", "1", "no", [], [[1]], {}),
]


def polygon(left, top, right, bottom):
    return [left, top, right, top, right, bottom, left, bottom]


def instances_json():
    """Two images; a cat of two parts, a dog, and a crowd as RLE."""
    crowd = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    crowd[18:, :] = 1
    code = rle.encode(crowd)
    return {
        "images": [
            {"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
            {"id": 2, "file_name": "b.png", "height": HEIGHT, "width": WIDTH},
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 3,
                "iscrowd": 0,
                "area": 91.5,
                "bbox": [2.0, 2.0, 20.0, 8.0],
                "segmentation": [polygon(2, 2, 10, 10), polygon(18, 4, 22, 10)],
            },
            {
                "id": 2,
                "image_id": 2,
                "category_id": 7,
                "iscrowd": 0,
                "area": 100.0,
                "bbox": [4.0, 4.0, 10.0, 10.0],
                "segmentation": [polygon(4, 4, 14, 14)],
            },
            {
                "id": 3,
                "image_id": 1,
                "category_id": 3,
                "iscrowd": 1,
                "area": 192,
                "bbox": [0, 18, 32, 6],
                "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
            },
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    }


PETS = {
    "splits": {"pets_x": "x"},
    "images": "images",
    "instances": "pets.json",
    "classes": ["background", "cat", "dog"],
    "background": "background",
}


@pytest.fixture(scope="module")
def pets_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pets")
    for name in ("a", "b"):
        save(folder / f"images/{name}.png", random_image(HEIGHT, WIDTH))
    write_yaml(folder, PETS, "pets.yaml")
    return folder


@pytest.fixture(scope="module")
def street_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("street")
    save(folder / "images/a.jpg", random_image(*STREET_IDS.shape))
    save(folder / "panoptic/a.png", id2rgb(STREET_IDS.astype(np.uint32)))
    write_yaml(folder, STREET, "street.yaml")
    return folder


def panoptic_json():
    areas = {int(one): int((one == STREET_IDS).sum()) for one in np.unique(STREET_IDS)}
    segments = [
        {"iscrowd": 0, "area": areas[one["id"]], "bbox": [0, 0, 1, 1], **one} for one in STREET_SEGMENTS
    ]
    height, width = STREET_IDS.shape
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "height": height, "width": width}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
        "categories": copy.deepcopy(STREET_CATEGORIES),
    }


def places(value, path=()):
    """The paths of all fields of a JSON, and of the first member of each list."""
    is_list = isinstance(value, list)
    inner = enumerate(value[:1]) if is_list else value.items() if isinstance(value, dict) else ()
    for key, one in inner:
        yield (*path, key)
        yield from places(one, (*path, key))


def changed(content, path, value):
    content = copy.deepcopy(content)
    node = content
    for key in path[:-1]:
        node = node[key]
    if value is ABSENT:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return content


def outcome(read):
    """What `read` returns, or the one line it ends with."""
    try:
        return read(), ""
    except InputError as error:
        line = str(error)
        assert "\n" not in line
        assert line.strip()
        return None, line


def read_pets(folder):
    """Every way in which the instances are used: {image file: (class map, masks, fields of each)}."""
    records, metadata = load(folder / "pets.yaml")
    found = {}
    for record in map(SegmentationMapper(False, task="instance", augmentations=[]), records):
        reader = metadata.label_reader
        reader.load_index_map(record)
        reader.load_index_map(record, semantic=True)
        instances = metadata.load_instances(record)
        masks = [rle.decode(one["segmentation"]).astype(bool) for one in instances]
        content = [(one["category_id"], one["iscrowd"], one["area"], tuple(one["bbox"])) for one in instances]
        found[record["file_name"][-5:]] = (metadata.load_sem_seg(record), masks, content)
    return found


def write(folder, name, content):
    # With numbers beyond floats and NaN, as Python's json writes them.
    (folder / name).write_text(json.dumps(content))


def test_every_wrong_value_in_an_instances_json_is_one_line_or_harmless(pets_folder):
    content = instances_json()
    write(pets_folder, "pets.json", content)
    right = read_pets(pets_folder)
    refused, taken = 0, 0
    of_crowd = [("annotations", 2, *path) for path in places(content["annotations"][2])]
    for path in [*places(content), *of_crowd]:
        for value in WRONG:
            write(pets_folder, "pets.json", changed(content, path, value))
            found, line = outcome(lambda: read_pets(pets_folder))
            refused += found is None
            taken += found is not None
            if found is None:
                assert "pets" in line or ".png" in line
                continue
            # Whatever is taken, areas are finite and positive, unless of a mask without pixels.
            for labels, masks, listed in found.values():
                assert labels.shape == (HEIGHT, WIDTH)
                assert labels.max() < 3
                for mask, (_, crowd, area, box) in zip(masks, listed, strict=True):
                    assert crowd in (0, 1)
                    assert np.isfinite(area)
                    assert (area > 0) == bool(mask.any()) or area > 0
                    assert np.isfinite(box).all()
            if path[0] == "annotations" and path[-1] in ("area", "bbox"):
                for name, (labels, masks, _) in found.items():
                    assert np.array_equal(labels, right[name][0])
                    assert all(map(np.array_equal, masks, right[name][1]))
    assert refused > 100
    assert taken > 80


@pytest.mark.parametrize("value", [ABSENT, None, 0, -5, float("nan"), float("inf"), 10**400, "300", [], True])
def test_invalid_areas_are_measured_and_logged_once(pets_folder, caplog, value):
    content = instances_json()
    for one in content["annotations"]:
        for key in ("area", "bbox"):
            one[key] = value
            if value is ABSENT:
                del one[key]
    write(pets_folder, "pets.json", content)
    found = read_pets(pets_folder)
    read_pets(pets_folder)
    peer = COCO()
    peer.dataset = instances_json()
    peer.createIndex()
    for number, name in ((1, "a.png"), (2, "b.png")):
        codes = [peer.annToRLE(one) for one in peer.loadAnns(peer.getAnnIds(imgIds=[number]))]
        assert [one[2] for one in found[name][2]] == [float(rle.area(code)) for code in codes]
        assert [one[3] for one in found[name][2]] == [tuple(rle.toBbox(code)) for code in codes]
    lines = [line for line in caplog.messages if "no usable area" in line]
    said = "missing" if value is ABSENT else json.dumps(value)[:60]
    assert len(lines) == 1
    assert (
        "of 3 annotations 3 have no usable area and 3 have no usable bbox (first: annotation 1, area"
        in lines[0]
    )
    assert said in lines[0]


@pytest.mark.parametrize("key", ["id", "image_id", "category_id"])
@pytest.mark.parametrize("form", [str, float])
def test_ids_in_another_form_are_the_same_ids(pets_folder, key, form):
    content = instances_json()
    write(pets_folder, "pets.json", content)
    right = read_pets(pets_folder)
    for one in content["annotations"]:
        one[key] = form(one[key])
    if key == "category_id" and form is str:
        for one in content["categories"]:
            one["id"] = f" {one['id']}.0"
    write(pets_folder, "pets.json", content)
    found = read_pets(pets_folder)
    for name in right:
        assert np.array_equal(found[name][0], right[name][0])
        assert found[name][2] == right[name][2]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("annotations", 0, "category_id"), "4", 'annotation 1 has the category "4", which is not among its'),
        (("annotations", 0, "category_id"), True, "annotation 1 has the category true, which"),
        (("annotations", 0, "image_id"), "a", 'annotation 1 is of image "a", which is not in images'),
        (("annotations", 0, "iscrowd"), "no", 'annotation 1 has iscrowd "no"; expected 0 or 1'),
        (("annotations", 0, "iscrowd"), 2, "annotation 1 has iscrowd 2; expected 0 or 1"),
        (("annotations", 0, "iscrowd"), -1, "annotation 1 has iscrowd -1; expected 0 or 1"),
        (("annotations", 0, "iscrowd"), 0.5, "annotation 1 has iscrowd 0.5; expected 0 or 1"),
        (
            ("categories", 0, "id"),
            "cat",
            'category 1 of the list, "cat", has the id "cat"; expected a whole number',
        ),
        (("categories", 0, "name"), 3, "category 3 has the name 3; expected a string"),
        (("images", 0, "id"), None, "image 1 of the list has the id null; expected a unique number"),
        (("images", 0, "file_name"), 3, "image 1 has the file_name 3; expected the name of a file"),
        (("images",), None, "lacks the list 'images' of COCO's instances format (it is null)"),
    ],
)
def test_a_value_that_nothing_can_be_made_of_is_shown_as_the_json_has_it(pets_folder, path, value, message):
    write(pets_folder, "pets.json", changed(instances_json(), path, value))
    with pytest.raises(InputError) as error:
        load(pets_folder / "pets.yaml")
    assert message in str(error.value)
    assert "pets.json" in str(error.value)


@pytest.mark.parametrize(
    ("value", "crowd"), [(None, 0), (True, 1), (False, 0), ("1", 1), (1.0, 1), (ABSENT, 0)]
)
def test_flags_mean_what_they_say(pets_folder, value, crowd):
    write(pets_folder, "pets.json", changed(instances_json(), ("annotations", 0, "iscrowd"), value))
    (record, _), _ = load(pets_folder / "pets.yaml")
    assert record["annotations"][0]["iscrowd"] == crowd


def test_ids_of_one_number_in_two_forms_stay_two(pets_folder):
    """Images 1 and "01": an annotation that says neither as it is written is of none."""
    content = instances_json()
    content["images"][1]["id"] = "01"
    content["annotations"][1]["image_id"] = "01"
    write(pets_folder, "pets.json", content)
    found = {record["image_id"]: len(record["annotations"]) for record in load(pets_folder / "pets.yaml")[0]}
    assert found == {1: 2, "01": 1}
    content["annotations"][1]["image_id"] = "1"
    write(pets_folder, "pets.json", content)
    with pytest.raises(InputError, match='annotation 2 is of image "1", which is not in images'):
        load(pets_folder / "pets.yaml")


def read_street(folder):
    """Every way in which the segments are used: class map, {id: area}, and PQ of the truth as prediction."""
    records, metadata = load(folder / "street.yaml")
    if not records:
        raise InputError("street.yaml: has no images")  # as training and evaluation report
    record = SegmentationMapper(False, task="panoptic", augmentations=[])(records[0])
    ids, segments = metadata.load_panoptic(record)
    metadata.label_reader.load_index_map(record)
    kept = [one for one in segments if not one["iscrowd"]]
    visible = np.where(np.isin(ids, [one["id"] for one in kept]), ids, 0)
    guess = [{"id": one["id"], "category_id": one["category_id"]} for one in kept]
    evaluator = PanopticEvaluator("street_train", scoring_threads=0)
    evaluator.process([record], [{"panoptic_seg": (torch.from_numpy(visible), guess)}])
    pq = evaluator.evaluate()["panoptic_seg"]["PQ"]
    return metadata.load_sem_seg(record), {one["id"]: one["area"] for one in segments}, pq


def test_every_wrong_value_in_a_panoptic_json_is_one_line_or_harmless(street_folder):
    content = panoptic_json()
    write(street_folder, "panoptic.json", content)
    right = read_street(street_folder)
    assert right[2] == 100
    assert right[1] == {int(one): int((one == STREET_IDS).sum()) for one in np.unique(STREET_IDS) if one}
    refused, taken = 0, 0
    for path in [*places(content)]:
        for value in WRONG:
            write(street_folder, "panoptic.json", changed(content, path, value))
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found, line = outcome(lambda: read_street(street_folder))
            refused += found is None
            taken += found is not None
            if found is None:
                assert "street" in line or ".png" in line or ".json" in line
                continue
            assert found[2] == 100
            # The pixels of the PNG, whatever else was changed.
            assert found[1].items() <= right[1].items()
            if path[-1] in ("area", "bbox") or "bbox" in path:
                assert np.array_equal(found[0], right[0])
                assert found[1] == right[1]
    assert refused > 100
    assert taken > 80


@pytest.mark.parametrize("form", [str, float, lambda value: f" {value}.0"])
@pytest.mark.parametrize("of_lists", [False, True])
def test_ids_of_segments_in_another_form_are_the_same_ids(street_folder, form, of_lists):
    """`of_lists`: the lists of images and categories have the other form, or what refers to them."""
    content = panoptic_json()
    write(street_folder, "panoptic.json", content)
    right = read_street(street_folder)
    (annotation,) = content["annotations"]
    if of_lists:
        changes = [(one, "id") for one in (*content["images"], *content["categories"])]
    else:
        changes = [(annotation, "image_id")]
        changes += [(one, key) for one in annotation["segments_info"] for key in ("id", "category_id")]
    for row, key in changes:
        row[key] = form(row[key])
    write(street_folder, "panoptic.json", content)
    found = read_street(street_folder)
    assert np.array_equal(found[0], right[0])
    assert found[1:] == right[1:]


@pytest.mark.parametrize("isthing", ["no", 2, -1, 0.5])
def test_isthing_of_another_type_is_refused(street_folder, isthing):
    write(street_folder, "panoptic.json", changed(panoptic_json(), ("categories", 1, "isthing"), isthing))
    with pytest.raises(InputError) as error:
        load(street_folder / "street.yaml")
    assert f"category 3 'car' has isthing {json.dumps(isthing)}; expected 0 or 1" in str(error.value)


@pytest.mark.parametrize("isthing", [True, 1.0, "1"])
def test_isthing_in_another_form_is_taken(street_folder, isthing):
    write(street_folder, "panoptic.json", changed(panoptic_json(), ("categories", 1, "isthing"), isthing))
    assert read_street(street_folder)[2] == 100


def test_sizes_are_those_of_the_turned_image(tmp_path):
    """EXIF orientation 6 is a quarter turn; of the formats that have it, each is read from its header."""
    for suffix in ("jpg", "png", "webp", "tif"):
        folder = tmp_path / suffix
        image = Image.fromarray(random_image(WIDTH, HEIGHT))
        exif = Image.Exif()
        exif[0x0112] = 6
        (folder / "images").mkdir(parents=True)
        image.save(folder / f"images/a.{suffix}", exif=exif)
        content = instances_json()
        content["images"] = [{"id": 1, "file_name": f"a.{suffix}"}]
        content["annotations"] = content["annotations"][:1]
        write_yaml(folder, {**PETS, "splits": {f"pets_{suffix}": "x"}}, "pets.yaml")
        write(folder, "pets.json", content)
        (record,), metadata = load(folder / "pets.yaml")
        assert (record["height"], record["width"]) == read_image(record["file_name"]).shape[:2]
        assert (record["height"], record["width"]) == (HEIGHT, WIDTH)
        assert metadata.load_sem_seg(record).shape == (HEIGHT, WIDTH)


@pytest.mark.parametrize("key", ["height", "width"])
@pytest.mark.parametrize("side", [0, -1, 10**7, True, None])
def test_sizes_that_no_image_has_are_those_of_the_file(pets_folder, key, side):
    write(pets_folder, "pets.json", changed(instances_json(), ("images", 0, key), side))
    (record, _), _ = load(pets_folder / "pets.yaml")
    assert (record["height"], record["width"]) == (HEIGHT, WIDTH)


def test_files_with_sizes_are_not_opened(pets_folder, monkeypatch):
    write(pets_folder, "pets.json", instances_json())
    monkeypatch.setattr(coco_json, "image_size", lambda *names: pytest.fail("opened"))
    assert len(load(pets_folder / "pets.yaml")[0]) == 2


@pytest.mark.parametrize("kind", ["instances", "panoptic"])
def test_every_wrong_value_in_a_file_of_predictions_is_one_line_or_harmless(
    pets_folder, street_folder, tmp_path, kind
):
    if kind == "instances":
        write(pets_folder, "pets.json", instances_json())
        records, metadata = load(pets_folder / "pets.yaml")
        evaluator = InstanceEvaluator("pets_x", tmp_path, save_predictions=True, scoring_threads=0)
        for record in records:
            truths = [one for one in metadata.load_instances(record) if not one["iscrowd"]]
            instances = Instances((HEIGHT, WIDTH))
            masks = [rle.decode(one["segmentation"]).astype(bool) for one in truths]
            instances.pred_masks = torch.from_numpy(np.stack(masks))
            instances.scores = torch.ones(len(truths))
            instances.pred_classes = torch.tensor([one["category_id"] - 1 for one in truths])
            evaluator.process([record], [{"instances": instances}])
        name, file, task, key = "pets_x", "coco_instances_results.json", "instance", ("segm", "AP")
    else:
        write(street_folder, "panoptic.json", panoptic_json())
        (record,), metadata = load(street_folder / "street.yaml")
        ids, segments = metadata.load_panoptic(record)
        evaluator = PanopticEvaluator("street_train", tmp_path, save_predictions=True, scoring_threads=0)
        evaluator.process([record], [{"panoptic_seg": (torch.from_numpy(ids), segments)}])
        name, file, task, key = "street_train", "predictions.json", "panoptic", ("panoptic_seg", "PQ")
    best = evaluator.evaluate()[key[0]][key[1]]
    content = json.loads((tmp_path / file).read_text())
    if kind == "panoptic":
        # Other programs say the areas of their segments, which are compared and not used.
        for segment in content["annotations"][0]["segments_info"]:
            segment["area"] = 3
    refused = 0
    for path in [*places(content)]:
        if path[0] == "categories":
            continue
        for value in WRONG:
            write(tmp_path, file, changed(content, path, value))
            found, line = outcome(lambda: rescore(name, tmp_path, [task])[0][key[0]][key[1]])
            refused += found is None
            if found is None:
                assert file in line or "street" in line or "pets" in line
            elif path[-1] in ("area", "bbox") or "bbox" in path:
                assert found == best
    assert refused > 50


def notes(tool, file):
    answer = tool("check-data", file, "--workers", "0")
    return [line for line in answer.out if re.search("areas? or box", line)]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("area", 300, "annotation 2: area 300, measured 100"),
        ("area", 20.5, "annotation 2: area 20.5, measured 100"),
        # Corners in place of sides; parts of the image's sides.
        ("bbox", [4, 4, 28, 28], "annotation 2: bbox [4, 4, 28, 28], measured [4, 4, 10, 10]"),
        ("bbox", [0.1, 0.1, 0.3, 0.3], "annotation 2: bbox [0.1, 0.1, 0.3, 0.3], measured"),
        ("area", 51, ""),
        ("area", 195, ""),
        ("bbox", [3, 3, 12, 12], ""),
        ("area", None, ""),
        ("bbox", "", ""),
    ],
)
def test_the_checker_names_values_that_are_wrong_by_more_than_a_factor_of_two(
    tool, pets_folder, key, value, said
):
    write(pets_folder, "pets.json", changed(instances_json(), ("annotations", 1, key), value))
    found = notes(tool, pets_folder / "pets.yaml")
    if not said:
        assert not found
        return
    (line,) = found
    assert "1 area or box does not match its mask, by more than a factor of two, first" in line
    assert f"b.png: {said}" in line
    # As the line says.
    assert "leave the keys out, and they are computed" in line
    write(pets_folder, "pets.json", changed(instances_json(), ("annotations", 1, key), ABSENT))
    assert not notes(tool, pets_folder / "pets.yaml")


@pytest.mark.parametrize(("value", "is_named"), [(0, True), (None, True), (28, True), (8, False)])
def test_the_checker_names_segments_of_another_area_than_the_png(tool, street_folder, value, is_named):
    content = panoptic_json()
    segments = content["annotations"][0]["segments_info"]
    for segment in segments:
        rows, columns = np.nonzero(segment["id"] == STREET_IDS)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        segment["bbox"] = [int(side) for side in box]
    segments[0]["area"] = value  # it has 7 pixels
    write(street_folder, "panoptic.json", content)
    found = notes(tool, street_folder / "street.yaml")
    assert len(found) == is_named
    if is_named:
        assert f"a.jpg: segment 70000: area {json.dumps(value)}, measured 7" in found[0]


def test_the_checker_reads_each_panoptic_png_once(street_folder, monkeypatch):
    write(street_folder, "panoptic.json", panoptic_json())
    (record, *_), metadata = load(street_folder / "street.yaml")
    opened, pillow_open = [], Image.open

    def counted(file):
        opened.append(file.name)
        return pillow_open(file)

    monkeypatch.setattr(Image, "open", counted)
    assert inspect_image(record, metadata.label_reader).segments.sum() == len(STREET_SEGMENTS)
    assert sorted(opened) == sorted([record["file_name"], record["pan_seg_file_name"]])


def test_small_polygons_differ_along_their_outline():
    """A triangle of four pixels has an area of two: no program is wrong."""
    from segzoo.cli.check_data.geometry import _compare

    assert not list(_compare({"area": 2.0, "bbox": [1, 1, 2, 2]}, 4, [1, 1, 2, 2], "a", slack=4))
    assert list(_compare({"area": 2.0 - 1e-9, "bbox": [1, 1, 2, 2]}, 4, [1, 1, 2, 2], "a", slack=0))
