"""Legal but unusual images are read right: the pixels are compared with Pillow's, or known."""

import importlib.util
import io
import warnings

import numpy as np
import pytest
import yaml
from PIL import Image

from segzoo.data import image_files, read_image
from segzoo.utils.errors import InputError
from tests.data.data_trees import load, random_image, save, write_roads, write_yaml

RED, GREEN = (250, 10, 20), (10, 240, 30)


def flat(color, mode="RGB", size=(4, 2)):
    return Image.new("RGB", size, color).convert(mode)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.gif", {}),
        ("a.webp", {"lossless": True}),
        ("a.png", {"default_image": False}),
    ],
)
def test_the_first_frame_of_an_animation_is_read(tmp_path, name, options):
    file = tmp_path / name
    flat(RED).save(file, save_all=True, append_images=[flat(GREEN)], **options)
    with Image.open(file) as image:
        assert image.n_frames == 2
    assert np.array_equal(read_image(str(file)), np.full((2, 4, 3), RED, np.uint8))


def test_an_alpha_channel_is_dropped_not_blended(tmp_path):
    pixels = np.dstack(
        [random_image(5, 7), np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)]
    )
    for name in ("a.png", "a.tif"):
        Image.fromarray(pixels, "RGBA").save(tmp_path / name)
        assert np.array_equal(read_image(str(tmp_path / name)), pixels[:, :, :3])


def test_a_palette_with_transparency_gives_its_colors(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    image.putpalette([*RED, *GREEN])
    image.save(tmp_path / "a.png", transparency=0)
    assert read_image(str(tmp_path / "a.png")).tolist() == [[[*RED], [*GREEN]], [[*GREEN], [*RED]]]


def test_a_cmyk_jpeg_is_converted_as_pillow_does(tmp_path):
    flat(RED, "CMYK", (16, 16)).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.mode == "CMYK"
        expected = np.asarray(image.convert("RGB"))
    found = read_image(str(tmp_path / "a.jpg"))
    assert np.array_equal(found, expected)
    assert np.abs(found.astype(int) - RED).max() < 8


def test_sixteen_bits_of_color_keep_the_upper_eight(tmp_path):
    import cv2

    deep = np.random.default_rng(0).integers(0, 1 << 16, (3, 5, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), deep)  # BGR
    assert np.array_equal(read_image(str(tmp_path / "a.png"), "BGR"), (deep >> 8).astype(np.uint8))


@pytest.mark.parametrize("size", [(1, 1), (20_000, 3), (3, 20_000)])
def test_sides_of_one_and_of_20000_pixels_are_read(tmp_path, size):
    pixels = random_image(size[1], size[0])
    save(tmp_path / "a.png", pixels)
    assert np.array_equal(read_image(str(tmp_path / "a.png")), pixels)


def test_more_pixels_than_pillow_warns_of_are_read_without_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    pixels = random_image(6, 8)
    save(tmp_path / "a.png", pixels)
    # What it says when it is imported is undone by pytest, for each test: import it once more.
    spec = importlib.util.spec_from_file_location("imported_again", image_files.__file__)
    again = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        spec.loader.exec_module(again)
        with again.opened_image(str(tmp_path / "a.png")) as image:
            assert np.array_equal(np.asarray(image), pixels)
    assert not said


def test_the_suffix_does_not_matter(tmp_path):
    stream = io.BytesIO()
    pixels = random_image(5, 7)
    Image.fromarray(pixels).save(stream, "PNG")
    (tmp_path / "a.jpg").write_bytes(stream.getvalue())
    assert np.array_equal(read_image(str(tmp_path / "a.jpg")), pixels)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_an_exif_orientation_is_applied_and_the_labels_match(tmp_path, orientation):
    """Labels match the image as displayed; they have no EXIF data."""
    stored = random_image(4, 6)
    turned = np.rot90(stored, {3: 2, 6: -1, 8: 1}[orientation])
    labels = np.arange(24).reshape(turned.shape[:2]).astype(np.uint8) % 5
    file = write_roads(tmp_path, labels)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(stored).save(tmp_path / "images/train/a.png", exif=exif)
    records, metadata = load(file)
    image = read_image(records[0]["file_name"])
    assert np.array_equal(image, turned)
    height, width = image.shape[:2]
    found = metadata.load_sem_seg({**records[0], "height": height, "width": width})
    assert np.array_equal(found, labels)


def save_turned(file, labels, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(labels).save(file, exif=exif)


def test_an_orientation_in_a_label_file_that_only_fits_without_it_is_not_applied(tmp_path):
    labels = np.arange(8).reshape(2, 4).astype(np.uint8) % 5
    file = write_roads(tmp_path, labels)
    save_turned(tmp_path / "masks/train/a.png", labels, 6)
    records, metadata = load(file)
    assert np.array_equal(metadata.load_sem_seg({**records[0], "height": 2, "width": 4}), labels)


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_an_oriented_label_file_of_an_upright_image_has_two_remedies(tmp_path, orientation):
    labels = np.arange(8).reshape(2, 4).astype(np.uint8) % 5
    file = write_roads(tmp_path, labels)
    save_turned(tmp_path / "masks/train/a.png", labels, orientation)
    (record,), metadata = load(file)
    record = {**record, "height": 2, "width": 4}
    found = rf"the EXIF orientation {orientation}, which its image does not have.*exif: ignore in .*, else"
    with pytest.raises(InputError, match=found):
        metadata.load_sem_seg(record)
    (record,), metadata = load(write_yaml(tmp_path, {**yaml.safe_load(file.read_text()), "exif": "ignore"}))
    assert np.array_equal(metadata.load_sem_seg({**record, "height": 2, "width": 4}), labels)


def test_a_label_file_that_fits_its_image_only_rotated_must_be_saved_rotated(tmp_path):
    labels = np.arange(8).reshape(4, 2).astype(np.uint8) % 5
    file = write_roads(tmp_path, np.zeros((2, 4), np.uint8))
    save_turned(tmp_path / "masks/train/a.png", labels, 6)
    (record,), metadata = load(file)
    with pytest.raises(InputError, match="rotated by it they fit the image: save them rotated, without EXIF"):
        metadata.load_sem_seg({**record, "height": 2, "width": 4})
    save(tmp_path / "masks/train/a.png", np.rot90(labels, -1))
    assert np.array_equal(metadata.load_sem_seg(record), np.rot90(labels, -1))


@pytest.mark.parametrize(
    "damage", [b"\x00" * 8, b"II*\x00\xff\xff\xff\xff", b"MM\x00*\x00\x00\x00\x08\xff\xff"]
)
def test_broken_exif_data_does_not_make_an_image_unreadable(tmp_path, damage):
    Image.fromarray(random_image(8, 8)).save(tmp_path / "a.jpg", exif=b"Exif\x00\x00" + damage)
    with Image.open(tmp_path / "a.jpg") as image:
        assert np.array_equal(read_image(str(tmp_path / "a.jpg")), np.asarray(image))


def test_labels_that_are_all_void_are_fine(tmp_path):
    records, metadata = load(write_roads(tmp_path, np.full((2, 4), 255, np.uint8)))
    assert (metadata.load_sem_seg({**records[0], "height": 2, "width": 4}) == 255).all()
