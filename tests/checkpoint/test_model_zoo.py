"""The zoo's names, links, numbers, and the document made from them."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from segzoo import model_zoo
from segzoo.errors import InputError
from segzoo.model_zoo.analysis import analyze
from segzoo.model_zoo.configs import config_root
from segzoo.model_zoo.official import known_models, sections
from segzoo.model_zoo.tables import render

REPOSITORY = Path(__file__).resolve().parents[2]

# (md5 prefix, mIoU or PQ) as in the official MODEL_ZOO.md, typed from it and not from the tables.
OFFICIAL = {
    "semantic/ade20k/maskformer_r50": ("d8dbeb", 44.5),
    "semantic/ade20k/maskformer_r101": ("1aeb94", 45.5),
    "semantic/ade20k/maskformer_r101c": ("b432ea", 46.0),
    "semantic/ade20k/maskformer_swin_tiny": ("8657a5", 46.7),
    "semantic/ade20k/maskformer_swin_small": ("528157", 49.8),
    "semantic/ade20k/maskformer_swin_base_in21k": ("45388b", 52.7),
    "semantic/ade20k/maskformer_swin_large_in21k": ("aefa3b", 54.1),
    "panoptic/coco/maskformer_r50": ("6f60dc", 46.5),
    "panoptic/coco/maskformer_r101": ("57b049", 47.6),
    "panoptic/coco/maskformer_swin_tiny": ("539394", 47.7),
    "panoptic/coco/maskformer_swin_small": ("5bf6b1", 49.7),
    "panoptic/coco/maskformer_swin_base_in21k": ("4b7f49", 51.8),
    "panoptic/coco/maskformer_swin_large_in21k": ("7505c4", 52.7),
}


def test_every_official_file_has_its_link_hash_licence_and_protocol():
    linked = {name: info for name, info in known_models().items() if info.url}
    assert set(linked) == set(OFFICIAL)
    for name, (md5_prefix, value) in OFFICIAL.items():
        info = model_zoo.official_weights(name)
        assert info.md5_prefix == md5_prefix
        assert info.published[0].value == value
        assert info.url.startswith("https://dl.fbaipublicfiles.com/maskformer/")
        assert info.url.endswith(f"/model_final_{md5_prefix}.pkl")
        assert info.licence == "CC BY-NC 4.0"
        assert all(entry.protocol for entry in info.published)
        assert re.fullmatch(r"\d{8}(_\d+)?", info.model_id)


def test_row_without_a_file_says_so():
    with pytest.raises(InputError, match=r"maskformer_swin_base has no official weights \(in the paper only"):
        model_zoo.official_weights("panoptic/coco/maskformer_swin_base")


def test_published_parts_of_panoptic_quality_are_consistent():
    """PQ over 133 classes is the mean of 80 things and 53 stuff classes."""
    for name, info in known_models().items():
        values = {entry.metric: entry.value for entry in info.published}
        if "PQ_th" in values:
            mean = (80 * values["PQ_th"] + 53 * values["PQ_st"]) / 133
            assert abs(mean - values["PQ"]) < 0.1, name


def test_every_row_has_a_configuration_and_every_configuration_a_row_but_for_generated_data():
    generated = set(model_zoo.list_models(dataset="shapes"))
    assert set(known_models()) == set(model_zoo.list_models()) - generated


def test_names_are_filtered_by_task_dataset_and_method():
    assert "panoptic/coco/maskformer_r50" in model_zoo.list_models(task="panoptic")
    assert all(name.startswith("semantic/ade20k/") for name in model_zoo.list_models("semantic", "ade20k"))
    assert model_zoo.list_models(method="maskformer")
    assert model_zoo.list_models(task="panoptic", dataset="camvid") == []


def test_committed_model_zoo_document_is_the_one_made_from_the_tables():
    assert (REPOSITORY / "MODEL_ZOO.md").read_text(encoding="utf-8") == render(), (
        "run python tools/make_model_zoo.py"
    )


def test_document_links_exist_and_numbers_are_attributed():
    text = render()
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", text):
        assert (REPOSITORY / target).is_file(), target
    for row in (line for line in text.splitlines() if line.startswith("| name")):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        numbers = cells[4:-3]
        assert all(cell.endswith((", paper", ", reproduced")) for cell in numbers), numbers


@pytest.mark.parametrize("name", ["semantic/ade20k/maskformer_swin_tiny"])
def test_parameters_and_multiply_adds_agree_with_the_official_code(name):
    model = model_zoo.get(name)
    info = known_models()[name]
    official = info.official_code
    found = analyze(model, official.size)
    assert found.total_params / 1e6 == pytest.approx(official.params, rel=0.005)
    assert found.total_flops / 1e9 == pytest.approx(official.gflops, rel=0.05)
    assert info.reproduced.params == pytest.approx(found.total_params / 1e6, abs=0.006)
    assert info.reproduced.gflops == pytest.approx(found.total_flops / 1e9, abs=0.06)


def test_reproduced_sizes_agree_with_the_official_code_wherever_it_was_measured():
    for section in sections():
        for info in section.models:
            if info.official_code:
                assert info.reproduced.size == info.official_code.size
                assert info.reproduced.params == pytest.approx(info.official_code.params, rel=0.005), (
                    info.name
                )
                assert info.reproduced.gflops == pytest.approx(info.official_code.gflops, rel=0.05), info.name


class Attention(nn.Module):
    """Queries of a hidden width over the pixels of an image, by hand or by PyTorch's operator."""

    def __init__(self, fused: bool):
        super().__init__()
        self.projection = nn.Conv2d(3, 8, 1, bias=False)
        self.fused = fused

    def raw_outputs(self, batched_inputs):
        feature = self.projection(batched_inputs[0]["image"][None].float()).flatten(2).transpose(1, 2)
        query, key, value = feature[:, :5], feature, feature[..., :6]
        if self.fused:
            return {"x": nn.functional.scaled_dot_product_attention(query, key, value)}
        return {"x": (query @ key.transpose(1, 2)).softmax(-1) @ value}


@pytest.mark.parametrize("fused", [True, False])
def test_attention_counts_its_two_products_whether_fused_or_not(fused):
    found = analyze(Attention(fused), (4, 10))
    assert found.params == {"projection": 24}
    # 40 pixels: projection 40 * 3 * 8; logits 5 * 40 * 8; weighted sum 5 * 40 * 6.
    assert found.flops["projection"] == 960
    assert found.total_flops == 960 + 1600 + 1200


def test_get_gives_an_evaluating_model_with_the_weights_of_a_file(tmp_path):
    name = "semantic/camvid/maskformer_r18"
    first = model_zoo.get(name)
    assert not first.training
    torch.save({"model": first.state_dict()}, tmp_path / "x.pth")
    second = model_zoo.get(name, weights=tmp_path / "x.pth")
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


def test_get_refuses_weights_that_do_not_fill_the_model(tmp_path):
    model = model_zoo.get("semantic/camvid/maskformer_r18")
    weights = model.state_dict()
    for key in ("sem_seg_head.predictor.class_embed.weight", "sem_seg_head.predictor.class_embed.bias"):
        weights[key] = torch.zeros(151, *weights[key].shape[1:])
    torch.save({"model": weights}, tmp_path / "x.pth")
    with pytest.raises(InputError, match="class head not loaded"):
        model_zoo.get("semantic/camvid/maskformer_r18", weights=tmp_path / "x.pth")


def test_starting_weights_named_in_configurations_are_the_published_ones():
    text = "\n".join(file.read_text() for file in (config_root() / "_base_" / "backbones").glob("*.yaml"))
    for name in (
        "torchvision/R-50.pkl",
        "torchvision/R-101.pkl",
        "DeepLab/R-103.pkl",
        "swin_tiny_patch4_window7_224.pth",
    ):
        assert name in text
