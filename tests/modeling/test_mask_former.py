"""The meta-architecture with each of its decoders: training, evaluation and raw outputs."""

import io

import pytest
import torch
import torch.nn.functional as F
from detectron2.data import MetadataCatalog

from segzoo.utils.errors import InputError
from tests.modeling.modeling_helpers import (
    MASKED_ATTENTION,
    SMALL,
    TRANSFORMER_PIXEL_DECODER,
    make_model,
    random_image,
    relative_difference,
    shake,
)

NUM_CLASSES = 3
METHODS = {
    "fpn": SMALL,
    "transformer_fpn": [*SMALL, *TRANSFORMER_PIXEL_DECODER],
    "masked_attention": [*SMALL, *MASKED_ATTENTION],
}
ALL_TASKS = (
    "TEST.TASKS",
    ("semantic", "panoptic", "instance", "entity"),
    "DATASETS.CLASSES_FROM",
    "model_test",
)


@pytest.fixture(params=METHODS)
def method(request) -> list:
    return METHODS[request.param]


@pytest.fixture(autouse=True)
def thing_flags():
    """Register a dataset without images whose first class is a thing."""
    MetadataCatalog.get("model_test").set(isthing=[True, False, False])
    yield
    MetadataCatalog.remove("model_test")


def small_model(overrides: list, *more: object):
    return shake(make_model(NUM_CLASSES, *overrides, *more))


def training_input(height: int, width: int, num_segments: int, seed: int = 0) -> dict:
    """Return an image whose segments are vertical stripes, with a void first column of pixels."""
    segment_map = torch.arange(width).sub(1).mul(num_segments).div(max(width - 1, 1)).floor()
    segment_map[0] = -1
    if num_segments == 0:
        segment_map[:] = -1
    return {
        "image": random_image(height, width, seed),
        "segment_map": segment_map.to(torch.int16).expand(height, width).contiguous(),
        "segment_classes": torch.arange(num_segments) % NUM_CLASSES,
    }


def test_every_layer_has_its_losses_and_every_parameter_its_gradient(method):
    model = small_model(method)
    losses = model([training_input(40, 65, 2), training_input(33, 48, 1, seed=1)])
    names = {f"loss_{term}{layer}" for term in ("ce", "mask", "dice") for layer in ("", "_0")}
    if method is METHODS["masked_attention"]:  # it also predicts before the first layer
        names |= {"loss_ce_1", "loss_mask_1", "loss_dice_1"}
    assert set(losses) == names
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    zero = [name for name, parameter in model.named_parameters() if parameter.grad.abs().max() == 0]
    assert zero == []


def test_without_deep_supervision_only_the_last_layer_has_losses(method):
    model = small_model(method, "MODEL.MASK_FORMER.DEEP_SUPERVISION", False)
    losses = model([training_input(32, 32, 2), training_input(32, 32, 1)])
    assert set(losses) == {"loss_ce", "loss_mask", "loss_dice"}
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_images_without_any_object_train(method):
    model = small_model(method)
    losses = model([training_input(32, 40, 0), training_input(32, 40, 0, seed=1)])
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_mask"] == losses["loss_dice"] == 0
    sum(losses.values()).backward()
    # Processes exchange gradients of all parameters, so none may be missing without objects.
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_padding_is_zero_after_normalization_and_belongs_to_no_segment(method):
    """Adding unlabeled pixels of the mean color by hand changes no loss."""
    model = small_model(method, "MODEL.MASK_FORMER.DROPOUT", 0.0)
    inputs = training_input(30, 50, 2)
    image = model.pixel_mean.expand(3, 32, 64).clone()
    image[:, :30, :50] = inputs["image"]
    segment_map = torch.full((32, 64), -1, dtype=torch.int16)
    segment_map[:30, :50] = inputs["segment_map"]
    by_hand = {"image": image, "segment_map": segment_map, "segment_classes": inputs["segment_classes"]}
    losses = []
    for one in (inputs, by_hand):
        torch.manual_seed(0)  # for the points of masked attention's loss
        losses.append(model([one, training_input(32, 64, 1)]))
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (32, 64), (61, 35)])
@pytest.mark.parametrize("divisibility", [0, 32])
def test_results_of_all_tasks_have_the_requested_size(method, size, divisibility):
    model = small_model(method, *ALL_TASKS, "MODEL.MASK_FORMER.SIZE_DIVISIBILITY", divisibility).eval()
    inputs = [{"image": random_image(*size), "height": 45, "width": 70}, {"image": random_image(20, 30)}]
    with torch.no_grad():
        results = model(inputs)
    for result, (height, width) in zip(results, [(45, 70), (20, 30)], strict=True):
        assert set(result) == {"sem_seg", "panoptic_seg", "instances", "entity_seg"}
        assert result["sem_seg"].shape == (NUM_CLASSES, height, width)
        assert result["sem_seg"].isfinite().all()
        for name in ("panoptic_seg", "entity_seg"):
            ids, segments = result[name]
            assert ids.shape == (height, width)
            assert ids.dtype == torch.int32
            assert set(ids.unique().tolist()) - {0} == {segment["id"] for segment in segments}
        assert result["instances"].image_size == (height, width)
        assert result["instances"].pred_classes.eq(0).all()  # the only thing class


def test_semantic_labels_are_the_argmax_of_the_scores():
    model = small_model(METHODS["fpn"]).eval()
    inputs = [{"image": random_image(40, 33), "height": 80, "width": 50}]
    with torch.no_grad():
        scores = model(inputs)[0]["sem_seg"]
        result = model(inputs, semantic="labels")[0]
    assert set(result) == {"sem_seg_labels"}
    assert torch.equal(result["sem_seg_labels"].long(), scores.argmax(0))


@pytest.mark.parametrize("tasks", [("semantic",), ("semantic", "panoptic")])
@pytest.mark.parametrize(
    ("task", "key", "resized"),
    [
        ("semantic", "", "scores"),
        ("panoptic", "", "masks"),
        ("semantic", "masks", "masks"),
        ("panoptic", "scores", "scores"),
    ],
)
def test_the_trained_task_and_no_requested_one_decides_what_is_resized(task, key, resized, tasks):
    """As published models were evaluated: semantic ones resize scores, the others masks."""
    overrides = ("TASK", task, "DATASETS.CLASSES_FROM", "model_test")
    model = small_model(METHODS["fpn"], *overrides, "MODEL.MASK_FORMER.TEST.SEMANTIC_RESIZING", key).eval()
    inputs = [{"image": random_image(40, 33), "height": 90, "width": 50}]
    assert model.semantic_resizing == resized
    with torch.no_grad():
        actual = model(inputs, tasks=tasks)[0]["sem_seg"]
        raw = model.raw_outputs(inputs)

    def resize(planes, size):
        return F.interpolate(planes[None], size=size, mode="bilinear", align_corners=False)[0]

    masks = resize(raw["pred_masks"][0], (64, 64))[:, :40, :33]
    if resized == "masks":
        masks = resize(masks, (90, 50))
    class_scores = raw["pred_logits"][0].softmax(-1)[:, :NUM_CLASSES]
    expected = torch.einsum("qk,qhw->khw", class_scores, masks.sigmoid())
    if resized == "scores":
        expected = resize(expected, (90, 50))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


def test_a_prediction_does_not_depend_on_the_rest_of_the_batch(method):
    model = small_model(method).eval()
    images = [random_image(*size, seed) for seed, size in enumerate([(32, 64), (50, 40), (30, 60), (32, 64)])]
    with torch.no_grad():
        together = model([{"image": image} for image in images])
        alone = [model([{"image": image}])[0] for image in images]
    for one, other in zip(together, alone, strict=True):
        assert relative_difference(one["sem_seg"], other["sem_seg"]) < 1e-4


def test_raw_outputs_are_the_last_layer_on_the_padded_batch(method):
    model = small_model(method).eval()
    with torch.no_grad():
        outputs = model.raw_outputs([{"image": random_image(33, 40)}, {"image": random_image(20, 65)}])
    assert set(outputs) == {"pred_logits", "pred_masks"}
    assert outputs["pred_logits"].shape == (2, 7, NUM_CLASSES + 1)
    assert outputs["pred_masks"].shape == (2, 7, 64 // 4, 96 // 4)


def test_training_and_evaluation_see_the_same_masks(method):
    """The factors of training multiply to the masks of eval mode, without dropout."""
    model = small_model(method, "MODEL.MASK_FORMER.DROPOUT", 0.0)
    features = model.backbone.eval()(torch.randn(2, 3, 32, 64))
    head = model.sem_seg_head
    with torch.no_grad():
        training, evaluation = head.train()(features), head.eval()(features)
    masks = torch.einsum("nqc,nchw->nqhw", training["mask_embed"], training["mask_features"])
    torch.testing.assert_close(masks, evaluation["pred_masks"])
    torch.testing.assert_close(training["pred_logits"], evaluation["pred_logits"])


def test_bfloat16_autocast_trains_and_predicts_close_to_float32(method):
    model = small_model(method)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model([training_input(32, 64, 2), training_input(32, 64, 1)])
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    model.eval()
    inputs = [{"image": random_image(32, 64)}]
    with torch.no_grad():
        expected = model(inputs)[0]["sem_seg"]
        with torch.autocast("cpu", torch.bfloat16):
            scores = model(inputs)[0]["sem_seg"]
    assert scores.dtype == torch.float32
    if method is not METHODS["masked_attention"]:  # its attention masks may change
        assert relative_difference(scores, expected) < 0.1


def test_saved_weights_restore_the_same_predictions(method):
    model = small_model(method).eval()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    restored = make_model(NUM_CLASSES, *method, seed=5).eval()
    restored.load_state_dict(torch.load(file, weights_only=True), strict=True)
    inputs = [{"image": random_image(32, 64)}]
    with torch.no_grad():
        assert torch.equal(model(inputs)[0]["sem_seg"], restored(inputs)[0]["sem_seg"])


def test_state_holds_no_color_constants_and_no_criterion(method):
    keys = small_model(method).state_dict()
    assert {key.split(".")[0] for key in keys} == {"backbone", "sem_seg_head"}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_raw_outputs_can_be_traced(method):
    """Counting operations and export need it."""
    model = small_model(method).eval()

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, image):
            outputs = self.model.raw_outputs([{"image": image}])
            return outputs["pred_logits"], outputs["pred_masks"]

    image = random_image(32, 64).float()
    with torch.no_grad():
        traced = torch.jit.trace(Network(), (image,))
        other = random_image(32, 64, seed=1).float()
        torch.testing.assert_close(traced(other), Network()(other))


def test_masked_attention_refuses_a_single_map_and_maskformer_refuses_several():
    with pytest.raises(InputError, match=r"'res5' is one map.*use 'multi_scale_pixel_decoder'"):
        small_model(METHODS["masked_attention"], "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "res5")
    with pytest.raises(InputError, match=r"'multi_scale_pixel_decoder' is several maps.*use 'res5'"):
        small_model(METHODS["fpn"], "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "multi_scale_pixel_decoder")


def test_an_unknown_feature_is_refused_with_the_available_ones():
    with pytest.raises(InputError, match=r"'transformer_encoder': FPNPixelDecoder.*offer res2, res3"):
        small_model(METHODS["fpn"], "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "transformer_encoder")


def test_panoptic_needs_thing_flags_for_every_class():
    with pytest.raises(InputError, match="task panoptic: 0 thing/stuff flags for 3 classes"):
        small_model(METHODS["fpn"], "TEST.TASKS", ("panoptic",))
