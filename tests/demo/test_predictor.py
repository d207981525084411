"""Predictor: any input, any number, results at the image's own size."""

import cv2
import numpy as np
import pytest
import torch

from segzoo.data import SegmentationMapper
from segzoo.engine import Predictor
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError
from tests.demo.demo_helpers import CONFIG, OVERRIDES

# Other batch sizes sum in another order: float32 rounding, amplified by random weights.
TOLERANCE = 1e-3


def assert_same_scores(first: dict, second: dict, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(first["sem_seg"], second["sem_seg"], atol=tolerance, rtol=tolerance)


def test_a_batch_gives_what_single_images_give(make_predictor, images):
    one_by_one, together = make_predictor(batch_size=1), make_predictor(batch_size=3)
    for single, batched in zip(
        (one_by_one(image, color="BGR") for image in images),
        together(images, color="BGR"),
        strict=True,
    ):
        assert_same_scores(single, batched)


def test_results_have_the_image_size_and_all_tasks_of_the_config(make_predictor, images):
    for image, result in zip(images, make_predictor()(images, color="BGR"), strict=True):
        height, width = image.shape[:2]
        assert result["sem_seg"].shape == (11, height, width)
        for key in ("panoptic_seg", "entity_seg"):
            ids, segments_info = result[key]
            assert ids.shape == (height, width)
            assert {info["id"] for info in segments_info} == set(ids.unique().tolist()) - {0}


def test_file_bgr_and_rgb_array_of_an_image_give_the_same_prediction(make_predictor, images, tmp_path):
    predictor, image = make_predictor(), images[0]
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), image)
    expected = predictor(image, color="BGR")
    assert_same_scores(predictor(str(path)), expected, tolerance=0)
    assert_same_scores(predictor(path), expected, tolerance=0)
    assert_same_scores(predictor(image[..., ::-1], color="RGB"), expected, tolerance=0)
    assert (predictor(image, color="RGB")["sem_seg"] - expected["sem_seg"]).abs().max() > 1e-3


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_an_image_reaches_the_model_as_in_evaluation(make_predictor, images, tmp_path, image_format):
    overrides = ("INPUT.FORMAT", image_format, "INPUT.MIN_SIZE_TEST", "80", "INPUT.MAX_SIZE_TEST", "100")
    predictor = make_predictor(*overrides)
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), images[1])
    mapper = SegmentationMapper(load_config(CONFIG, (*OVERRIDES, *overrides)), is_train=False)
    record = mapper({"file_name": str(path), "image_id": 1})
    seen = []
    predictor.model.register_forward_pre_hook(lambda module, arguments: seen.extend(arguments[0]))
    predictor(path)
    assert torch.equal(seen[0]["image"], record["image"])
    assert (seen[0]["height"], seen[0]["width"]) == (record["height"], record["width"]) == (150, 100)


def test_a_stream_reads_no_further_than_a_batch(make_predictor, images):
    read = []

    def source():
        for number in range(10):
            read.append(number)
            yield images[number % 3]

    stream = make_predictor(batch_size=2).stream(source(), color="BGR")
    image, _ = next(stream)
    assert read == [0, 1]
    assert np.array_equal(image, images[0][..., ::-1])


def test_no_images_give_no_results(make_predictor):
    assert make_predictor()([]) == []


def test_a_built_model_can_be_used_and_is_put_into_eval_mode(make_predictor, images):
    reference = make_predictor("INPUT.MIN_SIZE_TEST", "0")
    model = reference.model.train()
    predictor = Predictor(model)
    assert not model.training
    result = predictor(images[0], color="BGR")
    assert not result["sem_seg"].requires_grad
    assert_same_scores(result, reference(images[0], color="BGR"), tolerance=0)


def test_weights_that_do_not_fill_the_model_are_refused(weights, tmp_path):
    state = torch.load(weights)["model"]
    state = {key: value for key, value in state.items() if "class_embed" not in key}
    path = tmp_path / "headless.pth"
    torch.save({"model": state}, path)
    with pytest.raises(InputError, match=r"class_embed"):
        Predictor(load_config(CONFIG, OVERRIDES), path)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("", "the path of the checkpoint is empty; give a file"),
        (CONFIG, r"is a configuration; give load_config\("),
        ("semantic/camvid/maskformer_r18", r"is a configuration; give load_config\('semantic/camvid/mask"),
        ("x" * 5000 + ".pth", r"x\.pth: does not exist"),
        (None, "Predictor: found NoneType; expected the path of a checkpoint, a configuration, or a built"),
        (b"model.pth", "Predictor: found bytes; expected"),
    ],
)
def test_an_argument_that_is_no_model_is_one_line(model, message):
    with pytest.raises(InputError, match=message):
        Predictor(model)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_refused(make_predictor, batch_size):
    with pytest.raises(InputError, match=f"Predictor: batch_size {batch_size}; expected at least 1"):
        make_predictor(batch_size=batch_size)


def test_a_missing_and_a_broken_file_are_named(make_predictor, tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.jpg"):
        make_predictor()(tmp_path / "nowhere.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(InputError, match=r"broken\.jpg"):
        make_predictor()(tmp_path / "broken.jpg")


def test_a_checkpoint_of_another_format_is_refused(weights, tmp_path):
    path = tmp_path / "bgr.pth"
    torch.save({**torch.load(weights), "segzoo": {"image_format": "BGR"}}, path)
    with pytest.raises(InputError, match=r"image_format: 'BGR' vs 'RGB'.*predictions would mean nothing"):
        Predictor(load_config(CONFIG, (*OVERRIDES, "INPUT.FORMAT", "RGB")), path)


def test_images_run_under_the_test_protocol_at_one_scale(images):
    overrides = ("TEST.PROTOCOL", "semseg_ms", "TEST.TASKS", "('semantic',)")
    sizes = ("TEST.INFERENCE.BASE_SIZE", "80", "TEST.INFERENCE.CROP_SIZE", "[65, 65]")
    predictor = Predictor(load_config(CONFIG, (*OVERRIDES, *overrides, *sizes)))
    windows = []
    dense_scores = predictor.model.dense_scores
    predictor.model.dense_scores = lambda images: windows.append(images.shape) or dense_scores(images)
    assert predictor(images[0], color="BGR")["sem_seg"].shape == (11, 96, 128)
    # 60 x 80 pixels at the base size, padded to 65 x 80: two windows, each with its flip.
    assert sum(shape[0] for shape in windows) == 4
    assert {tuple(shape[1:]) for shape in windows} == {(3, 65, 65)}
    center_crop = ("TEST.PROTOCOL", "gluon_val", "TEST.INFERENCE.CROP_SIZE", "[64, 64]")
    predictor = Predictor(load_config(CONFIG, (*OVERRIDES, *overrides[2:], *center_crop)))
    assert predictor(images[0], color="BGR")["sem_seg"].shape == (11, 96, 128)
