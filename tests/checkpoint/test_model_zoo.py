"""The zoo's names, links and numbers, and the network costs that are counted for it.

The reading of the tables is tested in test_zoo_tables.py, numbers of other families in test_zoo_*.py.
"""

import dataclasses
import functools
import hashlib
import http.server
import math
import re
import threading
import warnings
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from fvcore.nn import FlopCountAnalysis
from torch import nn

from segzoo import model_zoo
from segzoo.checkpoint import download, load_checkpoint
from segzoo.cli import convert_checkpoint, model_option
from segzoo.config.files import config_root
from segzoo.engine.analysis import analyze, analyze_config
from segzoo.model_zoo import load_config, registry
from segzoo.model_zoo.registry import known_models, sections
from segzoo.utils.errors import InputError

SMALL = "semantic/shapes/pspnet_r18_quarter"

# Metric, then (md5 prefix, value) of each model as in the official MODEL_ZOO.md, not copied from the tables.
OFFICIAL = {
    "mIoU": {
        "semantic/cityscapes/mask2former_r50": ("cc1b1f", 79.4),
        "semantic/cityscapes/mask2former_r101": ("257ce8", 80.1),
        "semantic/cityscapes/mask2former_swin_tiny": ("2d58d4", 82.1),
        "semantic/cityscapes/mask2former_swin_small": ("fa26ae", 82.6),
        "semantic/cityscapes/mask2former_swin_base_in21k": ("1c6b65", 83.3),
        "semantic/cityscapes/mask2former_swin_large_in21k": ("17c1ee", 83.3),
        "semantic/mapillary_vistas/mask2former_r50": ("6c66d0", 57.4),
        "semantic/mapillary_vistas/mask2former_swin_large_in21k": ("90ee2d", 63.2),
        "semantic/ade20k/maskformer_r50": ("d8dbeb", 44.5),
        "semantic/ade20k/maskformer_r101": ("1aeb94", 45.5),
        "semantic/ade20k/maskformer_r101c": ("b432ea", 46.0),
        "semantic/ade20k/maskformer_swin_tiny": ("8657a5", 46.7),
        "semantic/ade20k/maskformer_swin_small": ("528157", 49.8),
        "semantic/ade20k/maskformer_swin_base_in21k": ("45388b", 52.7),
        "semantic/ade20k/maskformer_swin_large_in21k": ("aefa3b", 54.1),
        "semantic/ade20k_full/maskformer_r50": ("f4e3f6", 16.0),
        "semantic/ade20k_full/maskformer_r101": ("88df33", 16.8),
        "semantic/ade20k_full/maskformer_r101c": ("75d34e", 17.4),
        "semantic/coco_stuff_10k/maskformer_r50": ("cb03eb", 37.1),
        "semantic/coco_stuff_10k/maskformer_r101": ("eb19bb", 38.1),
        "semantic/coco_stuff_10k/maskformer_r101c": ("bffd25", 38.0),
        "semantic/cityscapes/maskformer_r101": ("38c00c", 78.5),
        "semantic/cityscapes/maskformer_r101c": ("4f8ff9", 79.7),
        "semantic/mapillary_vistas/maskformer_r50": ("f3fc73", 53.1),
        "semantic/ade20k/mask2former_r50": ("500878", 47.2),
        "semantic/ade20k/mask2former_r101": ("0d68be", 47.8),
        "semantic/ade20k/mask2former_swin_tiny": ("5274a6", 47.7),
        "semantic/ade20k/mask2former_swin_small": ("011c6d", 51.3),
        "semantic/ade20k/mask2former_swin_base": ("503e96", 52.4),
        "semantic/ade20k/mask2former_swin_base_in21k": ("7e47bf", 53.9),
        "semantic/ade20k/mask2former_swin_large_in21k": ("6b4a3a", 56.1),
    },
    "mIoU ms": {
        "semantic/ade20k/maskformer_r50": ("d8dbeb", 46.7),
        "semantic/ade20k/maskformer_r101": ("1aeb94", 47.2),
        "semantic/ade20k/maskformer_r101c": ("b432ea", 48.1),
        "semantic/ade20k/maskformer_swin_tiny": ("8657a5", 48.8),
        "semantic/ade20k/maskformer_swin_small": ("528157", 51.0),
        "semantic/ade20k/maskformer_swin_base_in21k": ("45388b", 53.9),
        "semantic/ade20k/maskformer_swin_large_in21k": ("aefa3b", 55.6),
        "semantic/coco_stuff_10k/maskformer_r50": ("cb03eb", 38.9),
        "semantic/coco_stuff_10k/maskformer_r101": ("eb19bb", 39.8),
        "semantic/coco_stuff_10k/maskformer_r101c": ("bffd25", 39.3),
        "semantic/cityscapes/maskformer_r101": ("38c00c", 80.3),
        "semantic/cityscapes/maskformer_r101c": ("4f8ff9", 81.4),
        "semantic/mapillary_vistas/maskformer_r50": ("f3fc73", 55.4),
        "semantic/ade20k/mask2former_r50": ("500878", 49.2),
        "semantic/ade20k/mask2former_r101": ("0d68be", 50.1),
        "semantic/ade20k/mask2former_swin_tiny": ("5274a6", 49.6),
        "semantic/ade20k/mask2former_swin_small": ("011c6d", 52.4),
        "semantic/ade20k/mask2former_swin_base": ("503e96", 53.7),
        "semantic/ade20k/mask2former_swin_base_in21k": ("7e47bf", 55.1),
        "semantic/ade20k/mask2former_swin_large_in21k": ("6b4a3a", 57.3),
    },
    "PQ": {
        "panoptic/cityscapes/mask2former_r50": ("4ab90c", 62.1),
        "panoptic/cityscapes/mask2former_r101": ("04d286", 62.4),
        "panoptic/cityscapes/mask2former_swin_tiny": ("ceba0f", 63.9),
        "panoptic/cityscapes/mask2former_swin_small": ("23efb7", 64.8),
        "panoptic/cityscapes/mask2former_swin_base_in21k": ("fa840f", 66.1),
        "panoptic/cityscapes/mask2former_swin_large_in21k": ("064788", 66.6),
        "panoptic/mapillary_vistas/mask2former_r50": ("4e9874", 36.3),
        "panoptic/mapillary_vistas/mask2former_swin_large_in21k": ("132c71", 45.5),
        "panoptic/ade20k/mask2former_r50": ("5c90d4", 39.7),
        "panoptic/ade20k/mask2former_swin_large_in21k": ("e0c58e", 48.1),
        "panoptic/ade20k/maskformer_r50": ("7aa977", 34.7),
        "panoptic/ade20k/maskformer_r101": ("0b3cc8", 35.7),
        "panoptic/coco/maskformer_r50": ("6f60dc", 46.5),
        "panoptic/coco/maskformer_r101": ("57b049", 47.6),
        "panoptic/coco/maskformer_swin_tiny": ("539394", 47.7),
        "panoptic/coco/maskformer_swin_small": ("5bf6b1", 49.7),
        "panoptic/coco/maskformer_swin_base_in21k": ("4b7f49", 51.8),
        "panoptic/coco/maskformer_swin_large_in21k": ("7505c4", 52.7),
        "panoptic/coco/mask2former_r50": ("94dc52", 51.9),
        "panoptic/coco/mask2former_r101": ("b807bd", 52.6),
        "panoptic/coco/mask2former_swin_tiny": ("9fd0ae", 53.2),
        "panoptic/coco/mask2former_swin_small": ("a407fd", 54.6),
        "panoptic/coco/mask2former_swin_base": ("9d7f02", 55.1),
        "panoptic/coco/mask2former_swin_base_in21k": ("54b88a", 56.4),
        "panoptic/coco/mask2former_swin_large_in21k_100ep": ("f07440", 57.8),
    },
    "AP": {
        "instance/coco/mask2former_r50": ("3c8ec9", 43.7),
        "instance/coco/mask2former_r101": ("eba159", 44.2),
        "instance/coco/mask2former_swin_tiny": ("86143f", 45.0),
        "instance/coco/mask2former_swin_small": ("1e7f22", 46.3),
        "instance/coco/mask2former_swin_base": ("f6e0f6", 46.7),
        "instance/coco/mask2former_swin_base_in21k": ("83d103", 48.1),
        "instance/coco/mask2former_swin_large_in21k_100ep": ("e5f453", 50.1),
        "instance/cityscapes/mask2former_r50": ("01a8ed", 37.4),
        "instance/cityscapes/mask2former_r101": ("c2b8c8", 38.5),
        "instance/cityscapes/mask2former_swin_tiny": ("6a63f8", 39.7),
        "instance/cityscapes/mask2former_swin_small": ("974824", 41.8),
        "instance/cityscapes/mask2former_swin_base_in21k": ("7a3b6d", 42.0),
        "instance/cityscapes/mask2former_swin_large_in21k": ("dfa862", 43.7),
        "instance/ade20k/mask2former_r50": ("67e945", 26.4),
        "instance/ade20k/mask2former_swin_large_in21k": ("92dae9", 34.9),
    },
    "AP50": {
        "instance/cityscapes/mask2former_r50": ("01a8ed", 61.9),
        "instance/cityscapes/mask2former_r101": ("c2b8c8", 63.9),
        "instance/cityscapes/mask2former_swin_tiny": ("6a63f8", 66.9),
        "instance/cityscapes/mask2former_swin_small": ("974824", 70.4),
        "instance/cityscapes/mask2former_swin_base_in21k": ("7a3b6d", 68.8),
        "instance/cityscapes/mask2former_swin_large_in21k": ("dfa862", 71.4),
    },
}


@pytest.mark.parametrize("metric", OFFICIAL)
def test_official_files_have_their_link_hash_license_and_numbers(metric):
    for name, (md5_prefix, value) in OFFICIAL[metric].items():
        info = model_zoo.official_weights(name)
        assert info.value(metric) == value, name
        assert info.md5_prefix == md5_prefix
        folder = "maskformer/mask2former/" if "mask2former" in name else "maskformer/"
        assert info.url.startswith(f"https://dl.fbaipublicfiles.com/{folder}")
        assert info.url.endswith(f"/model_final_{md5_prefix}.pkl")
        assert info.license == "CC BY-NC 4.0"
        assert re.fullmatch(r"\d{8}(_\d+)?", info.model_id)


def test_no_linked_row_of_these_methods_escapes_the_typed_table():
    methods = ("MaskFormer", "Mask2Former")
    linked = {name for name, info in known_models().items() if info.url and info.method in methods}
    assert linked == set().union(*OFFICIAL.values())


def test_every_row_has_license_protocols_and_a_link_or_a_reason():
    for name, info in known_models().items():
        assert info.license, name
        assert info.paper.startswith("http"), name
        assert info.repository.startswith("http"), name
        assert info.url or info.page or info.folder or info.note, f"{name}: no link and no note that says why"
        for entry in info.published:
            assert len(entry.protocol) > 15 or entry.protocol.startswith("as "), f"{name}: {entry.metric}"
            assert not entry.protocol.endswith("."), f"{name}: {entry.metric}"
            assert 1 < entry.value < 100, f"{name}: {entry.metric} is not in percent"


def test_multi_scale_numbers_are_in_their_own_columns():
    several = re.compile(r"(two|three|four|five|six|seven|eight|several|\d) (scales|sizes)|multi-scale")
    for section in sections():
        for metric, protocol in section.metrics.items():
            if metric.endswith(" ms"):
                assert several.search(protocol) or protocol.startswith("as "), (section.title, metric)
            else:
                assert not several.search(protocol), (section.title, metric)


def test_averages_over_scales_are_not_below_the_single_scale():
    for name, info in known_models().items():
        single, several = info.value("mIoU") or info.value("mIoU flip"), info.value("mIoU ms")
        assert single is None or several is None or several > single, name


def test_a_dataset_and_task_has_one_title():
    titles: dict[tuple[str, str], set[str]] = {}
    for section in sections():
        titles.setdefault((section.models[0].task, section.models[0].dataset), set()).add(section.title)
    assert all(len(words) == 1 for words in titles.values()), titles
    assert len(set().union(*titles.values())) == len(titles)


def test_overrides_of_the_tables_are_keys_of_their_configurations():
    """`evaluate_with` and `count_with`: what the document tells users to type."""
    for section in sections():
        info = section.models[0]
        for overrides in section.evaluate_with.values():
            load_config(info.name, overrides)
        for other in section.models:
            if other.count_with:
                load_config(other.name, [str(item) for item in other.count_with])


def test_published_parameters_are_those_of_the_model_or_a_note_says_why_not():
    for name, info in known_models().items():
        if info.params is None or info.reproduced is None or "M" in info.note:
            continue
        # Papers round to millions, and some leave the classifier out.
        assert info.reproduced.params == pytest.approx(info.params, rel=0.02, abs=0.5), name


def test_published_gflops_at_the_counted_size_are_near_or_a_note_says_why_not():
    """Within 8 %: papers count other operations, too, and MaskFormer averages over images of many sizes."""
    for name, info in known_models().items():
        if info.gflops and info.reproduced and info.gflops_size == info.reproduced.size and not info.note:
            assert info.reproduced.gflops == pytest.approx(info.gflops, rel=0.08, abs=0.5), name


def test_counts_agree_with_the_official_code_wherever_it_was_measured():
    for name, info in known_models().items():
        if info.official_code and info.reproduced:
            assert info.reproduced.size == info.official_code.size, name
            assert info.reproduced.params == pytest.approx(info.official_code.params, rel=0.005), name
            assert info.reproduced.gflops == pytest.approx(info.official_code.gflops, rel=0.05), name


def test_row_without_a_file_says_so():
    with pytest.raises(InputError, match=r"maskformer_swin_base has no official weights \(only in the paper"):
        model_zoo.official_weights("panoptic/coco/maskformer_swin_base")


def test_row_with_a_folder_only_names_it():
    info = next(info for info in known_models().values() if info.folder and not info.url and not info.page)
    with pytest.raises(InputError, match="no direct link") as error:
        model_zoo.official_weights(info.name)
    assert info.folder in str(error.value)


def test_published_parts_of_panoptic_quality_are_consistent():
    """PQ over 133 classes is the mean of 80 things and 53 stuff classes."""
    for name, info in known_models().items():
        values = {entry.metric: entry.value for entry in info.published}
        if "PQ_th" in values:
            mean = (80 * values["PQ_th"] + 53 * values["PQ_st"]) / 133
            assert abs(mean - values["PQ"]) < 0.1, name


def test_every_row_has_a_configuration_and_every_configuration_a_row_but_for_generated_data():
    generated = set(model_zoo.list_models(dataset="shapes"))
    assert set(known_models()) <= set(model_zoo.list_models()) - generated
    # A new method has a table when it has weights or numbers to show, and then of all its configurations.
    tables = {file.stem for file in (Path(model_zoo.__file__).parent / "weights").glob("*.yaml")}
    without = set(model_zoo.list_models()) - generated - set(known_models())
    assert [
        name for name in without for table in tables if name.rpartition("/")[2].startswith(f"{table}_")
    ] == []


def test_names_are_filtered_by_task_dataset_and_method():
    assert "panoptic/coco/maskformer_r50" in model_zoo.list_models(task="panoptic")
    assert all(name.startswith("semantic/ade20k/") for name in model_zoo.list_models("semantic", "ade20k"))
    assert model_zoo.list_models(method="maskformer")
    assert not any("plus" in name for name in model_zoo.list_models(method="deeplabv3"))
    assert "semantic/ade20k/per_pixel_baseline_r50" in model_zoo.list_models(method="per_pixel_baseline")
    assert model_zoo.list_models(task="panoptic", dataset="camvid") == []


@pytest.mark.parametrize("name", ["semantic/ade20k/maskformer_swin_tiny", "panoptic/coco/mask2former_r50"])
def test_recorded_counts_are_those_of_the_model(name):
    found, recorded = analyze_config(model_zoo.get_config(name), (512, 544)), known_models()[name].reproduced
    assert found.total_params / 1e6 == pytest.approx(recorded.params, abs=0.006)
    found = analyze_config(model_zoo.get_config(name), recorded.size)
    assert found.total_flops / 1e9 == pytest.approx(recorded.gflops, abs=0.06)


class RawOutputs(nn.Module):
    """A model as a function of one image, which is what fvcore can trace."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image):
        outputs = self.model.raw_outputs(
            [{"image": image, "height": image.shape[1], "width": image.shape[2]}]
        )
        return tuple(value for value in outputs.values() if isinstance(value, torch.Tensor))


def fused_attention(inputs, outputs):
    """What fvcore leaves out: the two matrix products of attention that PyTorch runs as one operator."""
    query, key, value = (item.type().sizes() for item in inputs[:3])
    return math.prod(query) * key[-2] + math.prod(query[:-1]) * value[-2] * value[-1]


# Convolutions, batch norm, pooling; windows, layer and group norm; deformable attention; reduced attention.
@pytest.mark.parametrize(
    "name",
    [
        "semantic/camvid/pspnet_r18",
        "semantic/camvid/maskformer_swin_tiny",
        "panoptic/shapes/mask2former_r18_quarter",
        "semantic/camvid/segformer_mit_b0",
    ],
)
def test_counts_without_data_are_those_that_fvcore_traces(name):
    model = build_model(model_zoo.load_config(name, ["MODEL.DEVICE", "cpu"])).eval()
    found = analyze(model, (65, 97))
    traced = FlopCountAnalysis(RawOutputs(model), (torch.zeros((3, 65, 97), dtype=torch.uint8),))
    traced.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    traced.set_op_handle("aten::scaled_dot_product_attention", fused_attention)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_module = traced.by_module()
    assert found.flops["backbone"] == by_module["model.backbone"]
    # A trace leaves out what nothing reads, and fvcore counts the mean over an image, too.
    assert found.total_flops == pytest.approx(by_module[""], rel=1e-3)
    assert found.total_params == sum(parameter.numel() for parameter in model.parameters())


def test_counting_neither_runs_nor_changes_the_model():
    model = model_zoo.get("semantic/camvid/maskformer_r18").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    autocast = torch.autocast
    analyze(model, (64, 64))
    assert model.training
    assert torch.autocast is autocast
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(hook for module in model.modules() for hook in module._forward_hooks)


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


def test_get_checks_a_published_sha256_before_reading(tmp_path, monkeypatch):
    name, info = next((name, info) for name, info in known_models().items() if info.sha256_prefix)
    (tmp_path / "other.pth").write_bytes(b"something else")
    monkeypatch.setattr(download.PathManager, "get_local_path", lambda _: str(tmp_path / "other.pth"))
    with pytest.raises(InputError, match=f"sha256 starts with [0-9a-f]+, expected {info.sha256_prefix}"):
        model_zoo.get(name, weights="official")


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The file of official weights of SMALL on a server, its address in the tables, and an empty cache."""
    (tmp_path / "www").mkdir()
    file = tmp_path / "www/small.pth"
    torch.save({"model": model_zoo.get(SMALL).state_dict()}, file)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=file.parent)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/small.pth"
        row = next(iter(known_models().values()))
        row = dataclasses.replace(row, name=SMALL, url=url, md5_prefix="", sha256_prefix=digest[:8])
        for module in (registry, model_option):
            monkeypatch.setattr(module, "known_models", lambda: {SMALL: row})
        yield file, url
        server.shutdown()


def test_official_weights_are_checked_wherever_their_address_is_given(served, tmp_path, capsys):
    file, url = served
    right, wrong = ["--output", str(tmp_path / "right.pth")], ["--output", str(tmp_path / "wrong.pth")]
    given = ["--model", SMALL, "MODEL.DEVICE", "cpu"]
    assert convert_checkpoint.main([*right, *given]) == 0
    (cached,) = (tmp_path / "cache").rglob("small.pth")
    line = (
        f"{url}: sha256 starts with [0-9a-f]{{8}}, expected [0-9a-f]{{8}}; the file is damaged or not the "
        f"published one: delete {cached} and try again"
    )
    # One that was cached before, and one that arrives so.
    for changed in (cached, file):
        changed.write_bytes(changed.read_bytes()[:-1] + b"?")
        capsys.readouterr()
        assert convert_checkpoint.main([*wrong, *given]) == 2
        said = [one for one in capsys.readouterr().err.splitlines() if one and "?B/s" not in one]
        assert re.fullmatch(f"error: {line}", said[-1])
        assert not (tmp_path / "wrong.pth").exists()
        with pytest.raises(InputError, match=line):
            load_checkpoint(model_zoo.get(SMALL), url)
        cached.unlink()


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
