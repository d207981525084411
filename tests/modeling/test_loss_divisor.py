"""Divisors of pixel losses: counted pixels or all pixels, by hand and against mmsegmentation."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from segzoo.model_zoo import load_config
from segzoo.modeling.per_pixel.losses import CrossEntropy, OHEMCrossEntropy
from segzoo.projects.deeplabv3plus.boundary_loss import BoundaryRelaxedCrossEntropy
from segzoo.utils.errors import InputError
from tests.modeling.peers import mmseg_models
from tests.modeling.pixel_model_helpers import pixel_model
from tests.modeling.pixel_peers import TINY
from tests.processes import pretend_processes

IGNORE = 255
CLASSES = 4
WEIGHTS = (1.0, 0.5, 2.0, 3.0)


def some_pixels(images: int = 2, ignored: float = 0.3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (images, CLASSES, 9, 11) logits and (images, 9, 11) labels, a fraction of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, CLASSES, 9, 11, generator=generator)
    labels = torch.randint(0, CLASSES, (images, 9, 11), generator=generator)
    return logits, labels.masked_fill(torch.rand(images, 9, 11, generator=generator) < ignored, IGNORE)


def gradient(loss, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = logits.clone().requires_grad_()
    loss(logits, labels).backward()
    return logits.grad


@pytest.mark.parametrize(
    ("average_over", "weights", "expected"),
    [
        # Losses of four pixels: log 2 (class 0), log 4 (class 1), ignored, log 2 (class 1).
        ("valid", (), (math.log(2) + math.log(4) + math.log(2)) / 3),
        ("all", (), (math.log(2) + math.log(4) + math.log(2)) / 4),
        ("valid", (1.0, 3.0), (math.log(2) + 3 * math.log(4) + 3 * math.log(2)) / 7),
        # The ignored pixel has weight 1.
        ("all", (1.0, 3.0), (math.log(2) + 3 * math.log(4) + 3 * math.log(2)) / 8),
    ],
)
def test_cross_entropy_by_hand(average_over, weights, expected):
    # Probabilities (1/2, 1/2), (3/4, 1/4), any, (1/2, 1/2).
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [5.0, -7.0], [1.0, 1.0]]).T[None, :, None, :]
    labels = torch.tensor([[[0, 1, IGNORE, 1]]])
    loss = CrossEntropy(average_over=average_over, class_weights=weights)
    assert loss(logits, labels).item() == pytest.approx(expected, rel=1e-6)


def test_hard_pixels_by_hand():
    # The first is easy (probability 9/10), the second and the last are kept.
    logits = torch.tensor([[math.log(9), 0.0], [math.log(3), 0.0], [5.0, -7.0], [1.0, 1.0]]).T[
        None, :, None, :
    ]
    labels = torch.tensor([[[0, 1, IGNORE, 1]]])
    kept = math.log(4) + math.log(2)
    for average_over, divisor in (("valid", 2), ("all", 4)):
        loss = OHEMCrossEntropy(threshold=0.7, keep_fraction=4, average_over=average_over)
        assert loss(logits, labels).item() == pytest.approx(kept / divisor, rel=1e-6)
    for average_over, divisor in (("valid", 6), ("all", 8)):
        loss = OHEMCrossEntropy(
            threshold=0.7, keep_fraction=4, average_over=average_over, class_weights=(1.0, 3.0)
        )
        assert loss(logits, labels).item() == pytest.approx(3 * kept / divisor, rel=1e-6)


def test_relaxed_boundaries_by_hand():
    # All pixels of one class: the relaxed loss is the cross-entropy times the class weight, 1 without bound.
    logits = torch.zeros(1, 2, 1, 4)
    labels = torch.tensor([[[0, 0, IGNORE, IGNORE]]])
    # Next to the second pixel the third also has class 0: three pixels count, and 1 is added.
    for average_over, divisor in (("valid", 3 + 1), ("all", 4)):
        loss = BoundaryRelaxedCrossEntropy(class_weight_bound=0.0, average_over=average_over)
        assert loss(logits, labels).item() == pytest.approx(3 * math.log(2) / divisor, rel=1e-6)


def test_gradients_shrink_by_the_fraction_of_counted_pixels():
    logits, labels = some_pixels()
    share = (labels != IGNORE).float().mean()
    assert 0.5 < share < 0.9
    valid, over_all = (gradient(CrossEntropy(average_over=name), logits, labels) for name in ("valid", "all"))
    torch.testing.assert_close(over_all, share * valid)
    # (softmax - one-hot) / number of pixels, 0 where a pixel does not count.
    one_hot = F.one_hot(labels.where(labels != IGNORE, 0), CLASSES).permute(0, 3, 1, 2)
    expected = (logits.softmax(dim=1) - one_hot) * (labels != IGNORE)[:, None]
    torch.testing.assert_close(over_all, expected / labels.numel())
    torch.testing.assert_close(valid, expected / (labels != IGNORE).sum())


@pytest.mark.parametrize("average_over", ["valid", "all"])
@pytest.mark.parametrize(("weights", "ignored"), [((), 0.3), ((), 0.0), (WEIGHTS, 0.0)])
def test_cross_entropy_is_mmsegmentations(average_over, weights, ignored):
    mmseg_models()
    from mmseg.models.losses import CrossEntropyLoss

    # With class weights mmsegmentation 1.2 supports no ignored pixels: it looks up the weight of 255.
    logits, labels = some_pixels(ignored=ignored)
    peer = CrossEntropyLoss(class_weight=list(weights) or None, avg_non_ignore=average_over == "valid")
    loss = CrossEntropy(average_over=average_over, class_weights=weights)
    expected = peer(logits, labels, ignore_index=IGNORE)
    assert loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(
        gradient(loss, logits, labels),
        gradient(lambda logits, labels: peer(logits, labels, ignore_index=IGNORE), logits, labels),
    )


@pytest.mark.parametrize(("threshold", "kept"), [(0.7, 10), (0.05, 30), (0.01, 60)])
def test_hard_pixels_over_all_are_those_of_mmsegmentations_sampler(threshold, kept):
    mmseg_models()
    from mmseg.models.losses import CrossEntropyLoss
    from mmseg.structures import OHEMPixelSampler

    logits, labels = some_pixels()
    sampler = OHEMPixelSampler(SimpleNamespace(ignore_index=IGNORE), thresh=threshold, min_kept=kept)
    weight = sampler.sample(logits, labels[:, None])
    expected = CrossEntropyLoss()(logits, labels, weight=weight, ignore_index=IGNORE)
    loss = OHEMCrossEntropy(threshold=threshold, keep_fraction=labels[0].numel() / kept, average_over="all")
    assert loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("average_over", ["valid", "all"])
@pytest.mark.parametrize("make", [CrossEntropy, OHEMCrossEntropy])
@pytest.mark.parametrize("weights", [(), WEIGHTS])
def test_two_processes_train_like_one_with_both_images(average_over, make, weights, monkeypatch):
    logits, labels = some_pixels()
    labels[1, :7] = IGNORE  # far fewer pixels in the second process
    # All pixels below the threshold are kept, independent of the other process.
    options = {"threshold": 0.9, "keep_fraction": 1e6} if make is OHEMCrossEntropy else {}
    loss = make(average_over=average_over, class_weights=weights, **options)
    together = gradient(loss, logits, labels)
    sent = []
    pretend_processes(monkeypatch, 2, lambda tensor: sent.append(tensor.clone()))
    for image in (0, 1):
        loss(logits[image : image + 1], labels[image : image + 1])
    total = sent[0] + sent[1]
    pretend_processes(monkeypatch, 2, lambda tensor: tensor.copy_(total))
    apart = [gradient(loss, logits[image : image + 1], labels[image : image + 1]) for image in (0, 1)]
    # DistributedDataParallel averages the processes' gradients.
    torch.testing.assert_close(torch.cat(apart) / 2, together)


def test_accumulated_passes_over_all_pixels_are_one_pass():
    logits, labels = some_pixels()
    labels[1, :7] = IGNORE
    loss = CrossEntropy(average_over="all")
    passes = [gradient(loss, logits[image : image + 1], labels[image : image + 1]) for image in (0, 1)]
    torch.testing.assert_close(torch.cat(passes) / 2, gradient(loss, logits, labels))


def test_the_loss_of_the_auxiliary_head_has_the_same_divisor():
    labels = torch.randint(0, 3, (64, 64), generator=torch.Generator().manual_seed(0))
    labels[:20] = IGNORE
    inputs = [{"image": torch.full((3, 64, 64), 90, dtype=torch.uint8), "sem_seg": labels}] * 2
    found = {}
    for average_over in ("valid", "all"):
        key = "MODEL.SEM_SEG_HEAD.LOSS.AVERAGE_OVER"
        options = ("MODEL.SEM_SEG_HEAD.DROPOUT", 0.0, "MODEL.AUX_HEAD.DROPOUT", 0.0, key, average_over)
        model = pixel_model("pspnet_mmseg", 3, *TINY, "MODEL.BACKBONE.OUTPUT_STRIDE", 32, *options)
        with torch.no_grad():
            found[average_over] = model(inputs)
    assert set(found["all"]) == {"loss_sem_seg", "loss_sem_seg_auxiliary"}
    for name, value in found["all"].items():
        assert value.item() == pytest.approx(44 / 64 * found["valid"][name].item(), rel=1e-5)


MEANINGS = {
    # mmsegmentation, and its forks with which SegFormer, Swin and CSWin were trained.
    "semantic/ade20k/segformer_mit_b0": "all",
    "semantic/ade20k/segformer_mit_b5": "all",
    "semantic/cityscapes/segformer_mit_b2": "all",
    "semantic/coco_stuff/segformer_mit_b1": "all",
    "semantic/ade20k/upernet_swin_tiny": "all",
    "semantic/ade20k/upernet_cswin_base": "all",
    "semantic/ade20k/upernet_volo_d3": "all",
    "semantic/cityscapes/upernet_volo_d4": "all",
    # semseg, pytorch-cv, GluonCV (its gradient), torchvision, VPLR, MaskFormer's baselines.
    "semantic/ade20k/pspnet_r50_v1s_100ep": "valid",
    "semantic/voc_2012/psanet_r50_v1s_50ep": "valid",
    "semantic/cityscapes/bisenet_r18_v1b": "valid",
    "semantic/voc_2012/fcn_jpu_r101_v1s": "valid",
    "semantic/ade20k/deeplabv3_r50_v1s_120ep": "valid",
    "semantic/cityscapes/danet_r50_v1s_240ep": "valid",
    "semantic/coco_21/fcn_r50": "valid",
    "semantic/cityscapes/deeplabv3plus_wrn38": "valid",
    "semantic/ade20k/per_pixel_baseline_r50": "valid",
    "semantic/ade20k/per_pixel_baseline_plus_r50": "valid",
    # segzoo's own.
    "semantic/camvid/segformer_mit_b0": "valid",
    "semantic/shapes/pspnet_r18_quarter": "valid",
}


@pytest.mark.parametrize(("name", "average_over"), MEANINGS.items())
def test_each_configuration_has_the_meaning_of_its_source(name, average_over):
    assert average_over == load_config(name).MODEL.SEM_SEG_HEAD.LOSS.AVERAGE_OVER


def test_an_unknown_meaning_is_named():
    with pytest.raises(InputError, match=r"LOSS.AVERAGE_OVER 'vaild': expected valid or all.*did you mean"):
        load_config("semantic/ade20k/segformer_mit_b0", ["MODEL.SEM_SEG_HEAD.LOSS.AVERAGE_OVER", "vaild"])
    with pytest.raises(InputError, match="average_over 'some': expected valid or all"):
        CrossEntropy(average_over="some")
