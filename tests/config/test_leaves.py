"""Every configuration of the zoo builds, and says what its name says."""

import pytest
import torch
from detectron2.modeling import build_model

from segzoo.config.files import config_root
from segzoo.model_zoo import load_config

LEAVES = sorted(
    str(file.relative_to(config_root()).with_suffix(""))
    for file in config_root().rglob("*.yaml")
    if "_base_" not in file.parts
)


@pytest.mark.parametrize("name", LEAVES)
def test_the_leaf_builds(name):
    cfg = load_config(name, ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = build_model(cfg)
    assert sum(parameter.numel() for parameter in model.parameters()) > 100_000
    assert name.split("/")[0] == cfg.TASK


def test_there_are_leaves():
    assert len(LEAVES) >= 20


@pytest.mark.parametrize(("file", "edge"), [("ade20k_512", 512), ("ade20k_640", 640), ("camvid", 360)])
def test_training_short_edges_are_half_to_twice_the_base_in_steps_of_a_tenth(file, edge):
    leaf = {"camvid": "semantic/camvid/maskformer_r18", "ade20k_512": "semantic/ade20k/maskformer_r50"}
    cfg = load_config(leaf.get(file, "semantic/ade20k/maskformer_swin_base_in21k"))
    expected = [edge * tenth // 10 for tenth in range(5, 21)]
    assert list(cfg.INPUT.MIN_SIZE_TRAIN) == expected


@pytest.mark.parametrize(
    "name", [name for name in LEAVES if name.startswith(("instance/coco", "instance/ade20k"))]
)
def test_images_without_an_object_are_left_out_as_in_the_published_runs(name):
    assert load_config(name).DATALOADER.FILTER_EMPTY_ANNOTATIONS
