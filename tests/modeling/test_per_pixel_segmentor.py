"""The meta-architecture of per-pixel methods: padding, batches, resizing, results, losses."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import nn
from torch.nn import functional as F

from segzoo.modeling.per_pixel import PerPixelSegmentor, PixelHead
from segzoo.modeling.per_pixel.losses import CrossEntropy
from segzoo.utils.errors import InputError
from tests.modeling.modeling_helpers import random_image
from tests.modeling.pixel_model_helpers import normalized, pixel_model
from tests.modeling.pixel_peers import TINY
from tests.registrations import forgotten

# No batch statistics: an image's losses do not depend on the rest of the batch.
NORMS = ("MODEL.BACKBONE.NORM", "FrozenBN", "MODEL.SEM_SEG_HEAD.NORM", "FrozenBN")
SMALL = (*TINY, *NORMS, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 8, "MODEL.AUX_HEAD.CONVS_DIM", 8)
SIZES = [(61, 83), (64, 64), (61, 83)]


def fcn(*overrides, num_classes=12):
    return pixel_model("fcn", num_classes, *SMALL, *overrides)


def annotated(sizes=SIZES, num_classes=12, void=0.2):
    generator = torch.Generator().manual_seed(3)
    inputs = []
    for index, size in enumerate(sizes):
        labels = torch.randint(0, num_classes, size, generator=generator)
        labels[torch.rand(size, generator=generator) < void] = 255
        inputs.append({"image": random_image(*size, seed=index), "sem_seg": labels})
    return inputs


class FirstChannels(PixelHead):
    """The input itself, at half its size, as logits of three classes."""

    def forward(self, features):
        return {"logits": features["image"][..., ::2, ::2]}


def first_channels(cfg, input_shape):
    return FirstChannels(**FirstChannels.from_config(cfg, input_shape))


class NoFeatures(nn.Module):
    def forward(self, image):
        return {"res5": image}


def transparent(size_divisibility=0, align_corners=False, head=FirstChannels, with_auxiliary=False):
    options = {
        "input_shape": {"res5": ShapeSpec(channels=3, stride=1)},
        "in_features": ("res5",),
        "num_classes": 3,
        "channels": 3,
        "align_corners": align_corners,
    }
    return PerPixelSegmentor(
        backbone=NoFeatures(),
        sem_seg_head=head(**options),
        auxiliary_head=head(**options) if with_auxiliary else None,
        loss=CrossEntropy(align_corners=align_corners),
        pixel_mean=(1.0, 2.0, 3.0),
        pixel_std=(2.0, 2.0, 4.0),
        size_divisibility=size_divisibility,
    )


@pytest.mark.parametrize("align_corners", [False, True])
def test_logits_are_resized_to_the_padded_image_cropped_and_resized_to_the_output_size(align_corners):
    model = transparent(size_divisibility=16, align_corners=align_corners).eval()
    image = random_image(37, 50)
    mean, std = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 4.0])
    values = (image - mean[:, None, None]) / std[:, None, None]
    padded = torch.zeros(1, 3, 48, 64)
    padded[0, :, :37, :50] = values
    options = {"mode": "bilinear", "align_corners": align_corners}
    full = F.interpolate(padded[..., ::2, ::2], (48, 64), **options)[..., :37, :50]

    own_size = model([{"image": image}])[0]["sem_seg"]
    torch.testing.assert_close(own_size, full[0])
    torch.testing.assert_close(model.score_maps(image[None].float()), full)
    resized = model([{"image": image, "height": 20, "width": 91}])[0]["sem_seg"]
    torch.testing.assert_close(resized, F.interpolate(full, (20, 91), **options)[0])
    raw = model.raw_outputs([{"image": image}])["sem_seg_logits"]
    torch.testing.assert_close(raw, padded[..., ::2, ::2])


def test_a_prediction_does_not_depend_on_the_rest_of_the_batch():
    model = fcn("MODEL.SEM_SEG_HEAD.SIZE_DIVISIBILITY", 32).eval()
    inputs = [{"image": random_image(*size, seed=index)} for index, size in enumerate([*SIZES, (33, 120)])]
    with torch.no_grad():
        together = model(inputs)
        for one, result in zip(inputs, together, strict=True):
            torch.testing.assert_close(result["sem_seg"], model([one])[0]["sem_seg"], rtol=1e-4, atol=1e-5)


def test_images_that_are_padded_to_the_same_size_run_together():
    model = fcn("MODEL.SEM_SEG_HEAD.SIZE_DIVISIBILITY", 32).eval()
    batches = []
    model.backbone.register_forward_pre_hook(lambda module, inputs: batches.append(tuple(inputs[0].shape)))
    with torch.no_grad():
        model([{"image": random_image(*size)} for size in [(60, 90), (64, 64), (33, 96)]])
    assert sorted(batches) == [(1, 3, 64, 64), (2, 3, 64, 96)]


# 12 classes are more than are upsampled at a time.
@pytest.mark.parametrize("size", [None, (40, 131)])
def test_labels_are_the_argmax_of_the_scores(size):
    model = fcn("MODEL.SEM_SEG_HEAD.SIZE_DIVISIBILITY", 32).eval()
    output_size = {"height": size[0], "width": size[1]} if size else {}
    inputs = [{"image": random_image(61, 83), **output_size}]
    with torch.no_grad():
        scores = model(inputs)[0]["sem_seg"]
        labels = model(inputs, semantic="labels")[0]["sem_seg_labels"]
    assert scores.shape[-2:] == (size or (61, 83))
    assert len(labels.unique()) > 1
    assert torch.equal(labels.long(), scores.argmax(dim=0))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"semantic": "probabilities"}, "semantic='probabilities': expected 'scores' or 'labels'"),
        ({"tasks": ("panoptic",)}, "^task 'panoptic': PerPixelSegmentor supports semantic only"),
        ({"tasks": ("depth",)}, "^task 'depth': expected some of semantic, panoptic"),
    ],
)
def test_an_unsupported_result_is_an_error(asked, message):
    with pytest.raises(InputError, match=message):
        fcn().eval()([{"image": random_image(64, 64)}], **asked)


def test_the_losses_are_cross_entropies_at_the_size_of_the_padded_batch():
    weights = ("MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", 2.0, "MODEL.AUX_HEAD.LOSS_WEIGHT", 0.5)
    no_dropout = ("MODEL.SEM_SEG_HEAD.DROPOUT", 0.0, "MODEL.AUX_HEAD.DROPOUT", 0.0)
    model = fcn(*weights, *no_dropout)
    inputs = annotated()
    images = torch.zeros(3, 3, 64, 83)
    labels = torch.full((3, 64, 83), 255)
    for index, one in enumerate(inputs):
        height, width = one["sem_seg"].shape
        images[index, :, :height, :width] = normalized(model, one["image"])[0]
        labels[index, :height, :width] = one["sem_seg"]
    losses = model(inputs)
    features = model.backbone(images)
    for head, name, weight in (
        (model.sem_seg_head, "loss_sem_seg", 2.0),
        (model.auxiliary_head, "loss_sem_seg_auxiliary", 0.5),
    ):
        logits = F.interpolate(head(features)["logits"], (64, 83), mode="bilinear", align_corners=True)
        expected = weight * F.cross_entropy(logits, labels, ignore_index=255)
        assert losses.pop(name).item() == pytest.approx(expected.item(), rel=1e-5)
    assert losses == {}


def test_additional_outputs_of_a_head_are_supervised_with_their_weights():
    class TwoOutputs(FirstChannels):
        loss_weights = {"other": 0.25}

        def forward(self, features):
            logits = super().forward(features)["logits"]
            return (
                {"logits": logits, "other": logits, "third": logits} if self.training else {"logits": logits}
            )

    model = transparent()
    model.sem_seg_head.__class__ = TwoOutputs
    losses = model(annotated(num_classes=3))
    main = losses["loss_sem_seg"].item()
    assert losses["loss_sem_seg_other"].item() == pytest.approx(0.25 * main)
    assert losses["loss_sem_seg_third"].item() == pytest.approx(main)


@pytest.mark.parametrize("loss", ["CrossEntropy", "OHEMCrossEntropy", "BoundaryRelaxedCrossEntropy"])
def test_images_without_labels_have_zero_loss_and_finite_gradients(loss):
    model = fcn("MODEL.SEM_SEG_HEAD.LOSS.NAME", loss)
    losses = model(annotated(void=1.1))
    assert {name: value.item() for name, value in losses.items()} == dict.fromkeys(losses, 0.0)
    sum(losses.values()).backward()
    assert all(value.grad is None or not value.grad.any() for value in model.parameters())


def test_all_pixels_of_a_batch_have_equal_weight():
    model = fcn("MODEL.SEM_SEG_HEAD.DROPOUT", 0.0, "MODEL.AUX_HEAD.DROPOUT", 0.0)
    inputs = annotated([(64, 64), (64, 64)])
    inputs[0]["sem_seg"][:40] = 255
    counts = [one["sem_seg"].ne(255).sum().item() for one in inputs]
    with torch.no_grad():
        together = model(inputs)
        apart = [model([one]) for one in inputs]
    for name, value in together.items():
        expected = sum(count * losses[name].item() for count, losses in zip(counts, apart, strict=True))
        assert value.item() == pytest.approx(expected / sum(counts), rel=1e-4)


def test_the_zoom_factor_is_taken_from_the_configuration():
    inputs = annotated([(65, 97)])
    no_dropout = ("MODEL.SEM_SEG_HEAD.DROPOUT", 0.0, "MODEL.AUX_HEAD.DROPOUT", 0.0)
    model = fcn(*no_dropout, "MODEL.SEM_SEG_HEAD.LOSS.ZOOM_FACTOR", 1)
    losses = model(inputs)
    # At 1 the logits of stride 8 are not resized.
    logits = model.sem_seg_head(model.backbone(normalized(model, inputs[0]["image"])))["logits"]
    expected = F.cross_entropy(logits, inputs[0]["sem_seg"][None, ::8, ::8], ignore_index=255)
    assert losses["loss_sem_seg"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.SEM_SEG_HEAD.LOSS.NAME", "CrossEntrpy", "did you mean CrossEntropy"),
        ("MODEL.SEM_SEG_HEAD.LOSS.CLASS_WEIGHTS", (1.0, 2.0), "has 2 weights for 12 classes"),
        ("MODEL.SEM_SEG_HEAD.DROPOUT_KIND", "row", "^dropout_kind 'row': expected channel or element"),
        ("MODEL.NECK.NAME", "JPUU", "MODEL.NECK.NAME 'JPUU' is unknown"),
        ("MODEL.AUX_HEAD.NAME", "FCN", "MODEL.AUX_HEAD.NAME 'FCN' is unknown"),
        ("MODEL.AUX_HEAD.IN_FEATURES", ["res6"], "^MODEL.AUX_HEAD.IN_FEATURES has 'res6'"),
        ("MODEL.AUX_HEAD.IN_FEATURES", [], "^MODEL.AUX_HEAD.IN_FEATURES is empty"),
        ("MODEL.AUX_HEAD.NAME", "MaskFormerHead", "is not a head of PerPixelSegmentor; .* FCNHead"),
        ("MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead", "is not a head of PerPixelSegmentor"),
        ("MODEL.SEM_SEG_HEAD.IN_FEATURES", [], "SEM_SEG_HEAD.IN_FEATURES is empty; expected some of res2"),
        ("MODEL.SEM_SEG_HEAD.DROPOUT", 1.5, "^dropout 1.5: expected a probability"),
        ("MODEL.SEM_SEG_HEAD.NORM", "SynchBN", "^norm 'SynchBN': .*; did you mean SyncBN"),
        ("MODEL.SEM_SEG_HEAD.NORM", "GN", "norm GN makes 32 groups of channels, but a map has 8;"),
        ("MODEL.BACKBONE.NORM", "BNN", "^norm 'BNN': expected BN, SyncBN"),
        ("MODEL.BACKBONE.OUT_FEATURES", ["res3", "res6"], "expected some of res2, res3, res4, res5"),
        ("MODEL.BACKBONE.OUT_FEATURES", [], "expected some of res2, res3, res4, res5"),
        ("MODEL.SEM_SEG_HEAD.LOSS.CLASS_WEIGHTS", (0.0,) * 12, "expected values of at least 0, not all 0"),
        (
            "MODEL.SEM_SEG_HEAD.LOSS.CLASS_WEIGHTS",
            (1.0,) * 11 + (-1.0,),
            "expected values of at least 0, not all 0",
        ),
        ("TASK", "panoptic", "TASK panoptic: PerPixelSegmentor is trained for it"),
    ],
)
def test_a_wrong_key_or_argument_is_named(key, value, message):
    with pytest.raises(InputError, match=message):
        fcn(key, value)


def test_a_head_registered_as_a_function_is_taken_and_hides_no_message():
    with forgotten():
        SEM_SEG_HEADS_REGISTRY.register(first_channels)
        model = fcn("MODEL.SEM_SEG_HEAD.NAME", "first_channels", num_classes=3)
        assert isinstance(model.sem_seg_head, FirstChannels)
        with pytest.raises(InputError, match="'MaskFormerHead' is not a head of PerPixelSegmentor; choose"):
            fcn("MODEL.SEM_SEG_HEAD.NAME", "MaskFormerHead")


def test_a_feature_that_no_decoder_can_attend_to_is_named():
    with pytest.raises(InputError, match=r"TRANSFORMER_IN_FEATURE 'res6': .* offer res2, res3"):
        pixel_model("per_pixel_baseline_plus", 12, *TINY, "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "res6")


def test_labels_of_another_size_than_their_image_are_an_error():
    inputs = annotated([(64, 64), (48, 64)])
    inputs[1]["sem_seg"] = inputs[1]["sem_seg"][:, :32]  # the padded batches would fit
    with pytest.raises(InputError, match=r"labels of \(48, 32\) pixels for an image of \(48, 64\)"):
        fcn()(inputs)


def test_a_wrong_crop_stops_before_the_backbone_runs():
    model = pixel_model("pspnet_semseg", 12, *SMALL)
    model.backbone.forward = None
    with pytest.raises(InputError, match="found 64 x 83"):
        model(annotated())


class PenalizedHead(FirstChannels):
    """A head with an additional supervised output and, in training, its own loss."""

    loss_name = "loss_mean"

    def forward(self, features):
        outputs = super().forward(features)
        if self.training:
            mean = features["image"].mean()
            outputs |= {"again": outputs["logits"], "losses": {self.loss_name: 3 * mean}}
        return outputs


@pytest.mark.parametrize("with_auxiliary", [False, True])
def test_losses_that_a_head_computed_are_added_to_those_of_its_logits(with_auxiliary):
    model = transparent(head=PenalizedHead, with_auxiliary=with_auxiliary)
    inputs = [{"image": random_image(16, 24), "sem_seg": torch.ones(16, 24, dtype=torch.int64)}]
    losses = model(inputs)
    mean, std = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 4.0])
    expected = 3 * ((inputs[0]["image"].float().mean((1, 2)) - mean) / std).mean()
    names = {"loss_sem_seg", "loss_sem_seg_again", "loss_mean"}
    if with_auxiliary:
        names |= {"loss_sem_seg_auxiliary", "loss_mean_auxiliary"}
        torch.testing.assert_close(losses["loss_mean_auxiliary"], expected)
    assert losses.keys() == names
    torch.testing.assert_close(losses["loss_mean"], expected)
    torch.testing.assert_close(losses["loss_sem_seg_again"], losses["loss_sem_seg"])
    assert model.eval()(inputs)[0].keys() == {"sem_seg"}


def test_a_head_may_not_use_the_name_of_a_loss_of_the_model(monkeypatch):
    monkeypatch.setattr(PenalizedHead, "loss_name", "loss_sem_seg")
    inputs = [{"image": random_image(16, 24), "sem_seg": torch.ones(16, 24, dtype=torch.int64)}]
    with pytest.raises(ValueError, match="two losses are named loss_sem_seg;"):
        transparent(head=PenalizedHead)(inputs)


def test_targets_are_moved_to_the_device_before_the_network_runs(monkeypatch):
    """Afterwards their copies would wait for the work of the network that is queued on a GPU."""
    model, order = fcn().train(), []
    for name in ("prepare_targets", "network"):
        method = getattr(model, name)
        monkeypatch.setattr(
            model, name, lambda batch, name=name, method=method: order.append(name) or method(batch)
        )
    model(annotated())
    assert order == ["prepare_targets", "network"]
