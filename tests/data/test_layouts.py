"""Images and labels are paired by path templates or lists."""

import numpy as np
import pytest

from segzoo.data.templates import match
from segzoo.utils.errors import InputError
from tests.data.data_trees import ROADS, load, random_image, save, write_roads, write_yaml

LABELS = np.array([[0, 1], [2, 3]], dtype=np.uint8)


def test_fields_match_parts_of_names_and_fill_the_labels(tmp_path):
    for city, number in (("ulm", 2), ("bonn", 1), ("bonn", 3)):
        stem = f"{city}_{number:06d}"
        save(tmp_path / f"leftImg8bit/train/{city}/{stem}_leftImg8bit.png", random_image(2, 2))
        save(tmp_path / f"gtFine/train/{city}/{stem}_gtFine_labelIds.png", LABELS)
    content = {
        **ROADS,
        "images": "leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png",
        "labels": "gtFine/{split}/{city}/{stem}_gtFine_labelIds.png",
    }
    records, _ = load(write_yaml(tmp_path, content))
    assert [one["image_id"] for one in records] == [
        "bonn/bonn_000001",
        "bonn/bonn_000003",
        "ulm/ulm_000002",
    ]
    assert records[2]["sem_seg_file_name"].endswith("gtFine/train/ulm/ulm_000002_gtFine_labelIds.png")


@pytest.mark.parametrize(
    ("images", "folder"),
    [("m/img_{stem}.png", "m"), ("{split}/{stem}.*", "train"), ("m/{area}_x/{stem}.png", "m")],
)
def test_the_root_of_the_images_is_a_folder(tmp_path, images, folder):
    for template in (images, "labels/{stem}.png"):
        path = template.replace("{split}", "train").replace("{stem}", "a").replace("{area}", "b")
        save(tmp_path / path.replace(".*", ".png"), LABELS)
    _, metadata = load(write_yaml(tmp_path, {**ROADS, "images": images, "labels": "labels/{stem}.png"}))
    assert metadata.image_root == str(tmp_path / folder)


def test_any_suffix_stands_for_images_only(tmp_path):
    for name in ("a.jpg", "b.PNG", "notes.txt", ".hidden.png", "c.d.jpeg"):
        (tmp_path / name).write_bytes(b"")
    found = [fields["stem"] for _, fields in match(tmp_path, "{stem}.*", {})]
    assert found == ["a", "b", "c.d"]


def load_list(file, lines):
    """The images of the dataset with such a list file."""
    (file.parent / "list/train.txt").write_text(lines)
    return load(file)[0]


def test_names_in_a_list_may_have_spaces(tmp_path):
    write_roads(tmp_path, np.zeros((2, 3), dtype=np.uint8))
    for folder in ("images", "masks"):
        (tmp_path / f"{folder}/train/a.png").rename(tmp_path / f"{folder}/train/a b 1.png")
    for name in ("a b 1", "a b 1.png"):
        (tmp_path / "train.txt").write_text(f"{name}\n")
        (record,), _ = load(write_yaml(tmp_path, {**ROADS, "list": "train.txt"}))
        assert record["sem_seg_file_name"] == str(tmp_path / "masks/train/a b 1.png")


def test_a_list_file_picks_images_by_name_or_by_two_paths(tmp_path):
    for stem in "abc":
        save(tmp_path / f"JPEGImages/{stem}.jpg", random_image(2, 2))
        save(tmp_path / f"SegmentationClassAug/{stem}.png", LABELS)
    content = {
        **ROADS,
        "images": "JPEGImages/{stem}.*",
        "labels": "SegmentationClassAug/{stem}.png",
        "list": "list/{split}.txt",
    }
    file = write_yaml(tmp_path, content)
    (tmp_path / "list").mkdir()
    by_name = load_list(file, "c\na\n\n")
    by_path = load_list(
        file,
        "/JPEGImages/c.jpg /SegmentationClassAug/c.png\n/JPEGImages/a.jpg /SegmentationClassAug/a.png\n",
    )
    assert [one["image_id"] for one in by_name] == ["c", "a"]
    assert by_name == by_path
    with pytest.raises(InputError, match=r"1 of 1 listed images do not exist: .*JPEGImages/z.jpg"):
        load_list(file, "z\n")
    with pytest.raises(InputError, match=r"train.txt: line 1 has 4 words; expected a name or two paths"):
        load_list(file, "/JPEGImages/one 1.jpg /SegmentationClassAug/one 1.png\n")


def test_splits_may_set_several_fields(tmp_path):
    save(tmp_path / "Training/Images/a.jpg", random_image(2, 2))
    save(tmp_path / "Training/Labels/a.png", LABELS)
    content = {
        **ROADS,
        "splits": {"people_train": {"part": "Training", "kind": "Labels"}},
        "images": "{part}/Images/{stem}.jpg",
        "labels": "{part}/{kind}/{stem}.png",
    }
    assert len(load(write_yaml(tmp_path, content))[0]) == 1


def test_missing_labels_are_counted_and_the_first_is_named(tmp_path):
    file = write_roads(tmp_path, LABELS)
    for stem in "bcd":
        save(tmp_path / f"images/train/{stem}.png", random_image(2, 2))
    with pytest.raises(InputError) as caught:
        load(file)
    assert str(caught.value).startswith(
        f"roads_train: 3 images have no labels, first {tmp_path}/images/train/b.png "
        f"(expected {tmp_path}/masks/train/b.png); "
    )


def test_images_without_any_label_name_the_labels_expected(tmp_path):
    file = write_roads(tmp_path, LABELS)
    (tmp_path / "masks/train/a.png").unlink()
    with pytest.raises(InputError, match=r"1 images like .*a.png, but no label like .*masks/train/a.png"):
        load(file)


def test_two_images_of_one_name_are_refused(tmp_path):
    file = write_roads(tmp_path, LABELS, images="images/{split}/{stem}.*")
    save(tmp_path / "images/train/a.jpg", random_image(2, 2))
    with pytest.raises(InputError, match=r"a.jpg and .*a.png share a name"):
        load(file)


def test_the_first_layout_that_has_files_is_taken(tmp_path):
    layouts = [{"labels": "fine/{stem}.png"}, {"labels": "masks/{split}/{stem}.png", "encoding": "index"}]
    content = {key: value for key, value in ROADS.items() if key != "labels"}
    write_roads(tmp_path, LABELS)
    file = write_yaml(tmp_path, {**content, "layouts": layouts})
    assert load(file)[0][0]["layout"] == 1
    save(tmp_path / "fine/a.png", LABELS)
    assert load(file)[0][0]["layout"] == 0
