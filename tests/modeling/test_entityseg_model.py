"""EntitySeg as a whole, with few channels: empty images, sampling, and results apart from the batch."""

import pytest
import torch

from segzoo.engine import Trainer
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError

SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.ENTITYSEG.KERNEL_CONVS_DIM", "32"),
    *("MODEL.ENTITYSEG.MASK_CONVS_DIM", "16", "MODEL.ENTITYSEG.NUM_CONVS", "1"),
]
LEAF = "entity/shapes/entityseg_r18_quarter"
PATHS = ("111", "110", "101", "100", "011", "010", "001")


def build(*overrides):
    torch.manual_seed(0)
    return Trainer.build_model(load_config(LEAF, [*SMALL, *overrides]))


def image(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"image": torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)}


def training_input(segments, height=64, width=96):
    """An image with a grid of segments of 16 x 16 pixels."""
    labels = torch.full((height, width), -1, dtype=torch.int16)
    boxes, centers = [], []
    for index in range(segments):
        top, left = 16 * (index // 6), 16 * (index % 6)
        labels[top : top + 16, left : left + 16] = index
        boxes.append([left, top, left + 15, top + 15])
        centers.append([left + 7.5, top + 7.5])
    return {
        **image(height, width, segments),
        "segment_map": labels,
        "segment_classes": torch.zeros(segments, dtype=torch.int64),
        "segment_entity_boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "segment_entity_centers": torch.tensor(centers, dtype=torch.float32).reshape(-1, 2),
    }


def losses_of(model, *inputs):
    """Return the losses, after a backward pass from their sum."""
    model.train()
    model.zero_grad(set_to_none=True)
    losses = model(list(inputs))
    sum(losses.values()).backward()
    return {name: loss.item() for name, loss in losses.items()}


def test_images_without_entities_give_gradients_to_every_parameter():
    """Processes of a distributed training wait for the gradients of all parameters."""
    model = build()
    losses = losses_of(model, training_input(0), training_input(0))
    assert {name: loss for name, loss in losses.items() if loss} == {
        "loss_fcos_cls": pytest.approx(losses["loss_fcos_cls"])
    }
    assert losses["loss_fcos_cls"] > 0
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_the_losses_are_those_of_the_paths_and_the_baseline_has_one():
    names = {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"}
    losses = losses_of(build(), training_input(6), training_input(1))
    assert losses.keys() == names | {f"loss_mask_bank_{path}" for path in PATHS} | {"loss_mask_cluster"}
    assert all(loss > 0 for loss in losses.values())
    baseline = build(
        *("MODEL.ENTITYSEG.PATH_WEIGHTS", '[["111", 1.0], ["110", 0.0]]'),
        *("MODEL.ENTITYSEG.OVERLAP_WEIGHT", "0.0"),
    )
    assert losses_of(baseline, training_input(6)).keys() == names | {"loss_mask_bank_111"}
    assert len(baseline.mask_network.bank) == 0


@pytest.mark.parametrize(
    ("weights", "paths"),
    [
        ('[["111", 1.0], ["110", 1.0]]', ("111", "110")),
        ('[["111", 1.0], ["011", 0.5]]', ("111", "011")),
        # The suppression of overlaps reads the masks of 111, whose own loss is off.
        ('[["111", 0], ["110", 1.0]]', ("110",)),
    ],
)
def test_every_parameter_gets_a_gradient_from_some_of_the_paths(weights, paths):
    """Data-parallel training stops at the second iteration otherwise."""
    model = build("MODEL.ENTITYSEG.PATH_WEIGHTS", weights)
    losses = losses_of(model, training_input(6), training_input(1))
    assert {name for name in losses if "mask" in name} == {
        "loss_mask_cluster",
        *(f"loss_mask_bank_{path}" for path in paths),
    }
    assert all(loss > 0 for loss in losses.values())
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("first", [False, True])
def test_an_entity_of_one_row_is_no_target_and_its_pixels_are_covered_by_none(first):
    thin = training_input(2)
    thin["segment_map"][20] = 2
    thin["segment_classes"] = torch.zeros(3, dtype=torch.int64)
    for key, row in (("boxes", [0.0, 20, 95, 20]), ("centers", [47.5, 20.0])):
        rows = (thin[f"segment_entity_{key}"], torch.tensor([row]))
        thin[f"segment_entity_{key}"] = torch.cat(rows[::-1] if first else rows)
    if first:
        thin["segment_map"] = torch.tensor([1, 2, 0, -1], dtype=torch.int16)[thin["segment_map"].long()]
    model = build()
    without = losses_of(model, {**training_input(2), "image": thin["image"]})
    assert losses_of(model, thin) == pytest.approx(without, rel=1e-5)


def test_masks_are_computed_at_a_limited_number_of_locations(monkeypatch):
    model = build("MODEL.ENTITYSEG.MAX_MASKS_PER_IMAGE", "6", "MODEL.ENTITYSEG.MAX_MASKS", "10")
    counted = []
    forward = model.mask_network.forward
    monkeypatch.setattr(
        model.mask_network,
        "forward",
        lambda inputs, kernels, paths: counted.append(len(inputs)) or forward(inputs, kernels, paths),
    )
    for images in ([24, 24], [24], [1]):
        losses_of(model, *(training_input(number) for number in images))
    # 12 for two images, but 10 in total; 6 for one; all four of a single segment.
    assert counted == [10, 6, 4]


@torch.no_grad()
def test_predictions_do_not_depend_on_the_batch_and_an_image_may_have_none():
    model = build().eval()
    model.fcos_head.cls_logits.bias.fill_(1.0)
    model.fcos_head.bbox_pred.weight.mul_(50)
    model.kernel_head.predictor.weight.mul_(100)
    inputs = [{**image(50, 70, seed), "height": 40, "width": 90} for seed in range(3)]
    alone = [model([one])[0]["entity_seg"] for one in inputs]
    together = model(inputs)
    assert max(len(info) for _, info in alone) > 3
    for (ids, info), result in zip(alone, together, strict=True):
        assert (ids != result["entity_seg"][0]).float().mean() < 1e-3
        scores = [one["score"] for one in result["entity_seg"][1]]
        assert scores == pytest.approx([one["score"] for one in info], rel=1e-4)
        assert scores == sorted(scores, reverse=True)
    model.fcos_head.cls_logits.bias.fill_(-9.0)
    ids, info = model(inputs[:1])[0]["entity_seg"]
    assert (ids.shape, int(ids.max()), info) == ((40, 90), 0, [])


@torch.no_grad()
def test_rescoring_never_raises_a_score_and_changes_nothing_else():
    model = build().eval()
    model.fcos_head.cls_logits.bias.fill_(1.0)
    model.fcos_head.bbox_pred.weight.mul_(50)
    model.kernel_head.predictor.weight.mul_(100)
    inputs = [image(64, 64)]
    ids, info = model(inputs)[0]["entity_seg"]
    model.mask_rescore = True
    other_ids, rescored = model(inputs)[0]["entity_seg"]
    assert torch.equal(ids, other_ids)
    assert [one["ori_score"] for one in rescored] == [one["score"] for one in info]
    assert all(0.5 * one["ori_score"] < one["score"] <= one["ori_score"] for one in rescored)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.ENTITYSEG.SIZE_RANGES", "(64,)"], "SIZE_RANGES (64,): expected 2 sizes for the 3 levels"),
        (["MODEL.FPN.OUT_FEATURES", "('p3', 'p4')"], "needs three or more levels whose strides double"),
        (["MODEL.ENTITYSEG.PATH_WEIGHTS", '[["110", 1.0]]'], "each of 111, 110, 101, 100, 011, 010, 001"),
        (["MODEL.ENTITYSEG.PATH_WEIGHTS", '[["111", 0]]'], "weight of at least 0, one of them above 0"),
        (["MODEL.ENTITYSEG.KERNEL_CONVS_DIM", "40"], "KERNEL_CONVS_DIM 40: expected a multiple of 32"),
        (["MODEL.FPN.OUT_CHANNELS", "40"], "MODEL.FPN.OUT_CHANNELS 40: .* expected a multiple of 32"),
        (["TASK", "semantic"], "TASK semantic: EntitySeg has a single class .* set TASK entity"),
        (["TASK", "panoptic"], "TASK panoptic: EntitySeg has a single class"),
        (["TASK", "instance", "TEST.TASKS", "('entity',)"], "TASK instance: EntitySeg has a single class"),
        (["MODEL.ENTITYSEG.MASK_NORM", "LN"], "MODEL.ENTITYSEG.MASK_NORM 'LN': expected .* BN or SyncBN"),
        (["MODEL.ENTITYSEG.CENTER_RADIUS", "0"], "CENTER_RADIUS 0.0: expected a finite number above 0"),
    ],
)
def test_wrong_values_are_one_line_with_the_key(overrides, message):
    with pytest.raises(InputError) as caught:
        build(*overrides)
    before, _, after = message.partition(" .* ")
    assert before in str(caught.value)
    assert after in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_without_a_pyramid_is_refused():
    cfg = load_config(LEAF, ["MODEL.DEVICE", "cpu"])
    cfg.MODEL.NECK.NAME = ""
    with pytest.raises(InputError, match=r"MODEL.NECK.NAME is empty, but EntitySeg needs a feature pyramid"):
        Trainer.build_model(cfg)
