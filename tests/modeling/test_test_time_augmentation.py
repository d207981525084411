"""Properties of multi-scale and flip testing that hold for any model."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segzoo.config.load import new_config
from segzoo.modeling import as_segmentor
from segzoo.modeling.protocols import MapAveraging, SemanticTTA, build_protocol_model
from segzoo.utils.errors import InputError


class BrightnessScores(nn.Module):
    """Class 0 scores a pixel's brightness, class 1 its darkness, so that scores follow resizes and flips."""

    def forward(self, batched_inputs):
        outputs = []
        for inputs in batched_inputs:
            bright = inputs["image"].float().mean(0, keepdim=True)
            scores = torch.cat([bright, 255 - bright])
            size = (inputs["height"], inputs["width"])
            outputs.append({"sem_seg": F.interpolate(scores[None], size, mode="bilinear")[0]})
        return outputs


class LeftArmEverywhere(nn.Module):
    """Predicts class 1 (left arm) on the left half of the image, class 2 on the right."""

    def forward(self, batched_inputs):
        height, width = batched_inputs[0]["height"], batched_inputs[0]["width"]
        scores = torch.zeros(3, height, width)
        scores[1, :, : width // 2] = 1
        scores[2, :, width // 2 :] = 1
        return [{"sem_seg": scores}]


def image_input(size=(24, 32)):
    ramp = torch.linspace(0, 255, size[1]).expand(3, *size).to(torch.uint8)
    return {"image": ramp, "height": size[0], "width": size[1]}


def averaged(model, edges, long_edge_max, **options):
    return SemanticTTA(as_segmentor(model), MapAveraging(tuple(edges), long_edge_max, True), **options)


def test_a_flipped_copy_is_flipped_back():
    tta = averaged(BrightnessScores(), [24], 64)
    inputs = image_input()
    scores = tta([inputs])[0]["sem_seg"]
    torch.testing.assert_close(scores[0], inputs["image"][0].float(), atol=1.5, rtol=0)


def test_scales_average_to_the_same_map_for_a_model_that_follows_the_image():
    tta = averaged(BrightnessScores(), [12, 24, 48], 96)
    inputs = image_input()
    scores = tta([inputs])[0]["sem_seg"]
    assert scores.shape == (2, 24, 32)
    torch.testing.assert_close(scores.sum(0), torch.full((24, 32), 255.0))
    torch.testing.assert_close(scores[0], inputs["image"][0].float(), atol=8, rtol=0)


def test_left_and_right_classes_are_swapped_in_the_flipped_copy():
    swapped = averaged(LeftArmEverywhere(), [24], 64, flip_pairs=[(1, 2)])([image_input()])[0]["sem_seg"]
    plain = averaged(LeftArmEverywhere(), [24], 64)([image_input()])[0]["sem_seg"]
    assert swapped[1, 0, 0] == 1
    assert plain[1, 0, 0] == 0.5


def test_a_panoptic_config_is_refused_by_name():
    cfg = new_config()
    cfg.TEST.AUG.ENABLED = True
    cfg.TEST.TASKS = ("panoptic", "semantic")
    with pytest.raises(InputError, match=r"TEST\.AUG supports the semantic task only"):
        build_protocol_model(cfg, BrightnessScores())


def test_labels_are_the_classes_of_the_largest_average():
    tta = averaged(BrightnessScores(), [12, 24], 64)
    scores = tta([image_input()])[0]["sem_seg"]
    result = tta([image_input()], semantic="labels")[0]
    assert set(result) == {"sem_seg_labels"}
    assert torch.equal(result["sem_seg_labels"].long(), scores.argmax(0))


def test_both_keys_select_the_same_protocol():
    old, new = new_config(), new_config()
    old.TEST.AUG.ENABLED, new.TEST.PROTOCOL = True, "maskformer_tta"
    for cfg in (old, new):
        cfg.TEST.TASKS = ("semantic",)
        cfg.TEST.AUG.MIN_SIZES = (24, 36)
    built = [build_protocol_model(cfg, BrightnessScores()) for cfg in (old, new)]
    assert built[0].protocol == built[1].protocol
    results = [model([image_input()])[0]["sem_seg"] for model in built]
    assert torch.equal(*results)
