"""Load files into models: every rule of every layout, the report, and refusals."""

import hashlib
import logging
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint.c2_model_loading import convert_basic_c2_names
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn
from torchvision.models import resnet18

from segzoo.checkpoint import (
    CheckpointMismatchError,
    KeyMap,
    SegzooCheckpointer,
    key_maps,
    load_checkpoint,
    register_key_map,
    save_checkpoint,
)
from segzoo.projects.mask2former import key_map as mask2former_key_map  # noqa: F401
from segzoo.projects.maskformer import key_map as maskformer_key_map  # noqa: F401
from segzoo.utils.errors import InputError


def tree(shapes: dict[str, tuple[int, ...]]) -> nn.Module:
    """A module whose state dict has these keys and shapes, with random values."""
    root = nn.Module()
    for key, shape in shapes.items():
        *path, leaf = key.split(".")
        module = root
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        module.register_parameter(leaf, nn.Parameter(torch.randn(shape)))
    return root


def maskformer(classes: int = 3, bias_table: int = 9) -> nn.Module:
    """The skeleton of a MaskFormer with the published names."""
    return tree(
        {
            "backbone.patch_embed.proj.weight": (4, 3, 2, 2),
            "backbone.layers.0.blocks.0.attn.qkv.weight": (12, 4),
            "backbone.layers.0.blocks.0.attn.relative_position_bias_table": (bias_table, 2),
            "backbone.norm0.weight": (4,),
            "sem_seg_head.pixel_decoder.adapter_1.weight": (8, 4, 1, 1),
            "sem_seg_head.pixel_decoder.adapter_1.norm.weight": (8,),
            "sem_seg_head.pixel_decoder.layer_4.weight": (8, 4, 3, 3),
            "sem_seg_head.pixel_decoder.mask_features.bias": (8,),
            "sem_seg_head.pixel_decoder.input_proj.weight": (8, 4, 1, 1),
            "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.linear1.weight": (8, 8),
            "sem_seg_head.predictor.transformer.decoder.layers.0.linear1.weight": (8, 8),
            "sem_seg_head.predictor.query_embed.weight": (5, 8),
            "sem_seg_head.predictor.input_proj.weight": (8, 4, 1, 1),
            "sem_seg_head.predictor.class_embed.weight": (classes + 1, 8),
            "sem_seg_head.predictor.class_embed.bias": (classes + 1,),
        }
    )


def write(file: Path, weights: dict[str, Tensor], **rest) -> Path:
    """A .pkl of arrays, as MaskFormer publishes, or a .pth of tensors."""
    if file.suffix == ".pkl":
        content = {
            "model": {key: value.numpy() for key, value in weights.items()},
            "__author__": "someone",
            **rest,
        }
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save({"model": weights, **rest}, file)
    return file


def randomized(model: nn.Module) -> dict[str, Tensor]:
    return {key: torch.randn(value.shape) for key, value in model.state_dict().items()}


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_loaded(model: nn.Module, expected: dict[str, Tensor]) -> None:
    for key, value in expected.items():
        assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
@pytest.mark.parametrize("layout", ["old", "new", "mixed"])
def test_every_published_maskformer_layout_loads_by_name(tmp_path, layout, suffix):
    model = maskformer()
    new = randomized(model)
    published = {}
    for index, (key, value) in enumerate(new.items()):
        shorten = layout == "old" or (layout == "mixed" and index % 2)
        published[key.replace(".pixel_decoder.", ".") if shorten else key] = value
    published["criterion.empty_weight"] = torch.ones(4)
    published["backbone.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(4, 4)
    report = load_checkpoint(model, write(tmp_path / f"x{suffix}", published))
    assert_loaded(model, new)
    assert report.complete
    assert report.source == ("native" if layout == "new" else "MaskFormer")
    assert len(report.renamed) == {"old": 6, "new": 0, "mixed": 3}[layout]
    assert sorted(report.extras) == sorted(set(published) - set(new) - set(report.renamed))
    assert "pixel_decoder.pixel_decoder" not in str(report)


@pytest.mark.parametrize("query", ["static_query", "query_feat"])
def test_mask2former_query_features_load_under_both_published_names(tmp_path, query):
    names = ("transformer_cross_attention_layers.0.norm.weight", "query_feat.weight", "query_embed.weight")
    model = tree({f"sem_seg_head.predictor.{name}": (3, 2) for name in names})
    new = randomized(model)
    published = {key.replace("query_feat", query): value for key, value in new.items()}
    load_checkpoint(model, write(tmp_path / "x.pkl", published))
    assert_loaded(model, new)


def resnet50() -> ResNet:
    stem = BasicStem(out_channels=8, norm="FrozenBN")
    stages = [
        ResNet.make_stage(
            block_class=BottleneckBlock,
            num_blocks=blocks,
            in_channels=8 if stage == 0 else 16 * 2 ** (stage - 1),
            bottleneck_channels=4 * 2**stage,
            out_channels=16 * 2**stage,
            stride_per_block=[1 if stage == 0 else 2] + [1] * (blocks - 1),
            norm="FrozenBN",
        )
        for stage, blocks in enumerate((2, 2, 2, 2))
    ]
    return ResNet(stem, stages, out_features=["res5"])


def with_backbone(backbone: nn.Module) -> nn.Module:
    model = maskformer()
    model.backbone = backbone
    return model


def test_detectron2_imagenet_resnet_fills_the_backbone_and_reports_the_rest(tmp_path):
    model = with_backbone(resnet50())
    before = snapshot(model)
    new = randomized(model.backbone)
    published = {**new, "stem.fc.weight": torch.zeros(1000, 8), "stem.fc.bias": torch.zeros(1000)}
    report = load_checkpoint(model, write(tmp_path / "R-50.pkl", published, matching_heuristics=True))
    assert_loaded(model, {f"backbone.{key}": value for key, value in new.items()})
    head = [key for key in before if key.startswith("sem_seg_head.")]
    assert_loaded(model, {key: before[key] for key in head})
    assert sorted(report.reinitialized) == sorted(head)
    assert sorted(report.extras) == ["stem.fc.bias", "stem.fc.weight"]
    with pytest.raises(InputError, match="refusing to report metrics"):
        report.require_complete()


def test_backbone_file_loads_into_a_bare_backbone(tmp_path):
    model = resnet50()
    new = randomized(model)
    assert load_checkpoint(model, write(tmp_path / "R-50.pkl", new)).complete
    assert_loaded(model, new)


def caffe2_name(key: str) -> str:
    """Caffe2's name of a Detectron2 ResNet weight, spelled out by hand."""
    parts = key.split(".")
    kind = (
        {"weight": "w", "bias": "b"}[parts[-1]]
        if "norm" not in parts
        else {"weight": "bn_s", "bias": "bn_b"}[parts[-1]]
    )
    if parts[0] == "stem":
        return "conv1_w" if kind == "w" else f"res_conv1_{kind}"
    branch = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}[parts[2]]
    return f"{parts[0]}_{parts[1]}_{branch}_{kind}"


def test_caffe2_imagenet_resnet_loads_and_keeps_neutral_statistics(tmp_path):
    model = resnet50()
    new = {key: value for key, value in randomized(model).items() if "running" not in key}
    published = {caffe2_name(key): value for key, value in new.items()}
    published |= {"fc1000_w": torch.zeros(1000, 8), "fc1000_b": torch.zeros(1000), "conv1_b": torch.zeros(8)}
    published["conv1_w_momentum"] = torch.zeros(3)
    report = load_checkpoint(model, write(tmp_path / "R-50.pkl", published))
    assert report.source == "Caffe2 ImageNet ResNet"
    assert report.complete
    assert_loaded(model, new)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            assert torch.allclose(module.running_mean, torch.zeros(1))
            assert torch.allclose(module.running_var, torch.ones(1), atol=1e-4)


def test_caffe2_rules_agree_with_detectron2_on_every_resnet_name():
    rules = next(key_map for key_map in key_maps() if key_map.name == "Caffe2 ImageNet ResNet")
    kinds = ("w", "bn_s", "bn_b", "bn_rm", "bn_riv", "gn_s", "gn_b")
    branches = ("branch1", "branch2a", "branch2b", "branch2c")
    names = [
        f"res{stage}_{block}_{branch}_{kind}"
        for stage in range(2, 6)
        for block in (0, 22)
        for branch in branches
        for kind in kinds
    ]
    names += ["conv1_w", "res_conv1_bn_s", "res_conv1_bn_b", "conv1_gn_s", "conv1_gn_b"]
    assert [rules.rename(name) for name in names] == convert_basic_c2_names(names)


def test_torchvision_resnet_loads_into_detectron2_names(tmp_path):
    theirs = resnet18(num_classes=2)
    stages = [
        ResNet.make_stage(
            BasicBlock,
            2,
            in_channels=inner,
            out_channels=outer,
            norm="FrozenBN",
            stride_per_block=[stride, 1],
        )
        for inner, outer, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
    ]
    ours = ResNet(BasicStem(norm="FrozenBN"), stages, out_features=["res5"]).eval()
    report = load_checkpoint(ours, write(tmp_path / "resnet18.pth", theirs.state_dict()))
    assert report.complete
    image = torch.randn(1, 3, 64, 64)
    features = nn.Sequential(*list(theirs.eval().children())[:-2])
    with torch.no_grad():
        torch.testing.assert_close(ours(image)["res5"], features(image), rtol=1e-3, atol=1e-4)


def swin_file(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the Swin repository publishes for such a backbone, and the values that `model` should get."""
    new = {
        key: value
        for key, value in randomized(model).items()
        if key.startswith("backbone.") and "norm0" not in key
    }
    published = {key.removeprefix("backbone."): value for key, value in new.items()}
    published |= {
        "norm.weight": torch.zeros(4),
        "head.weight": torch.zeros(10, 4),
        "head.bias": torch.zeros(10),
    }
    published["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(4, 4)
    published["layers.0.blocks.1.attn_mask"] = torch.zeros(1, 4, 4)
    return published, new


def test_swin_imagenet_file_fills_the_backbone_but_its_output_norms(tmp_path):
    model = maskformer()
    before = snapshot(model)
    published, new = swin_file(model)
    report = load_checkpoint(model, write(tmp_path / "swin.pth", published))
    assert report.source == "Swin ImageNet"
    assert_loaded(model, new)
    assert_loaded(model, {key: before[key] for key in report.reinitialized})
    assert "backbone.norm0.weight" in report.reinitialized
    assert len(report.extras) == 5


def test_swin_bias_table_of_another_window_is_interpolated_and_reported(tmp_path):
    published, _ = swin_file(maskformer(bias_table=9))  # window 2
    rows, columns = torch.meshgrid(torch.arange(3.0), torch.arange(3.0), indexing="ij")
    table = torch.stack([rows.flatten(), columns.flatten()], dim=1)
    published["layers.0.blocks.0.attn.relative_position_bias_table"] = table
    model = maskformer(bias_table=25)  # window 3
    report = load_checkpoint(model, write(tmp_path / "swin.pth", published))
    key = "backbone.layers.0.blocks.0.attn.relative_position_bias_table"
    assert report.resized == [key]
    assert "interpolated" in str(report)
    resized = model.state_dict()[key].reshape(5, 5, 2)
    # A ramp stays a ramp, about the same center, in its own direction and no other.
    assert torch.allclose(resized[2, 2], torch.tensor([1.0, 1.0]))
    assert torch.all(resized[1:, :, 0] > resized[:-1, :, 0])
    assert torch.allclose(resized[:, :1, 0].expand(5, 5), resized[:, :, 0], atol=1e-5)
    assert torch.allclose(resized[..., 0].T, resized[..., 1], atol=1e-5)


def test_classifier_of_another_number_of_classes_is_reinitialized_and_refused_for_evaluation(tmp_path):
    official = randomized(maskformer(classes=150))
    model = maskformer(classes=5)
    before = snapshot(model)
    report = load_checkpoint(model, write(tmp_path / "x.pkl", official))
    classifier = [f"sem_seg_head.predictor.class_embed.{kind}" for kind in ("weight", "bias")]
    assert report.reinitialized == classifier
    assert_loaded(model, {key: before[key] for key in classifier})
    assert_loaded(model, {key: value for key, value in official.items() if key not in classifier})
    assert (classifier[0], (151, 8), (6, 8)) in report.mismatched
    with pytest.raises(
        InputError, match=r"evaluation: class head not loaded \(151 .* 6 .*refusing to report"
    ):
        report.require_complete()


def test_classifier_of_another_width_is_an_error(tmp_path):
    official = randomized(maskformer())
    official["sem_seg_head.predictor.class_embed.weight"] = torch.zeros(4, 16)
    with pytest.raises(
        InputError, match=r"class_embed\.weight is \(4, 16\) in the file, \(4, 8\) in the model"
    ):
        load_checkpoint(maskformer(), write(tmp_path / "x.pkl", official))


def test_other_shapes_are_listed_with_both_shapes_and_nothing_is_loaded(tmp_path):
    official = randomized(maskformer())
    official["sem_seg_head.predictor.input_proj.weight"] = torch.zeros(9, 4, 1, 1)
    model = maskformer()
    before = snapshot(model)
    with pytest.raises(InputError, match=r"1 shapes differ: .*input_proj\.weight is \(9, 4, .*\(8, 4, "):
        load_checkpoint(model, write(tmp_path / "x.pkl", official))
    assert_loaded(model, before)


def test_leftover_and_missing_weights_are_an_error_that_lists_ten_and_the_count(tmp_path):
    official = randomized(maskformer())
    del official["sem_seg_head.predictor.query_embed.weight"]
    official |= {f"backbone.layers.9.part{index:02d}": torch.zeros(1) for index in range(12)}
    model = maskformer()
    before = snapshot(model)
    with pytest.raises(InputError) as error:
        load_checkpoint(model, write(tmp_path / "x.pkl", official))
    message = str(error.value)
    assert "the file lacks sem_seg_head.predictor.query_embed.weight" in message
    assert "the model has no place for 12 weights" in message
    assert "part09" in message
    assert "part10" not in message
    assert "\n" not in message
    assert_loaded(model, before)
    report = load_checkpoint(model, tmp_path / "x.pkl", strict=False)
    assert report.missing == ["sem_seg_head.predictor.query_embed.weight"]
    assert len(report.unexpected) == 12
    assert not report.complete


def test_a_file_that_does_not_fit_shows_the_table_and_the_nearest_layouts_first(tmp_path, caplog):
    official = randomized(maskformer())
    lost = "sem_seg_head.predictor.query_embed.weight"
    file = write(tmp_path / "x.pkl", {key: value for key, value in official.items() if key != lost})
    with caplog.at_level(logging.ERROR), pytest.raises(CheckpointMismatchError) as error:
        load_checkpoint(maskformer(), file)
    report = error.value.report
    assert report.missing == [lost]
    assert len(report.loaded) == len(official) - 1
    (text,) = [record.getMessage() for record in caplog.records]
    rows = {row.split("|")[1].strip(): row.split("|")[2].strip() for row in text.splitlines() if "|" in row}
    assert rows["loaded"] == str(len(report.loaded))
    assert rows["missing"] == "1"
    assert "as " in text.splitlines()[-1]


def test_the_nearest_layouts_are_those_that_place_most_of_the_file(tmp_path):
    keys = ["patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight", "layers.1.downsample.norm.weight"]
    weights = {key: torch.zeros(1) for key in [*keys, "foreign.weight"]}
    # Where timm has the step between two stages in the second, the Swin repository has it in the first.
    own = {f"backbone.{key}" for key in [*keys[:2], "layers.0.downsample.norm.weight"]}
    with pytest.raises(CheckpointMismatchError) as error:
        load_checkpoint(tree(dict.fromkeys(own, (1,))), write(tmp_path / "x.pth", weights))
    assert error.value.report.source == "Swin ImageNet"
    first, second = error.value.nearest
    assert (first.name, first.explained, first.recognized) == ("timm Swin ImageNet", 3, False)
    assert second.explained == 2


def test_a_checkpointer_keeps_the_report_of_a_file_that_does_not_fit(tmp_path):
    official = randomized(maskformer())
    official["sem_seg_head.predictor.input_proj.weight"] = torch.zeros(9, 4, 1, 1)
    checkpointer = SegzooCheckpointer(maskformer(), str(tmp_path))
    with pytest.raises(CheckpointMismatchError):
        checkpointer.load(str(write(tmp_path / "x.pkl", official)))
    assert [key for key, _, _ in checkpointer.report.mismatched] == [
        "sem_seg_head.predictor.input_proj.weight"
    ]


def test_incomplete_backbone_file_is_an_error(tmp_path):
    new = randomized(resnet50())
    del new["res4.1.conv2.weight"]
    with pytest.raises(InputError, match=r"the file lacks backbone\.res4\.1\.conv2\.weight"):
        load_checkpoint(with_backbone(resnet50()), write(tmp_path / "R-50.pkl", new))


def test_file_of_another_architecture_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"none of its 1 weights \(vocabulary\) has a place in the model"):
        load_checkpoint(maskformer(), write(tmp_path / "x.pth", {"vocabulary": torch.zeros(3)}))


def test_missing_classifier_is_accepted_only_on_demand(tmp_path):
    headless = {key: value for key, value in randomized(maskformer()).items() if "class_embed" not in key}
    file = write(tmp_path / "x.pth", headless)
    with pytest.raises(InputError, match="the file lacks 2 weights"):
        load_checkpoint(maskformer(), file)
    report = load_checkpoint(maskformer(), file, allow_missing_classifier=True)
    assert len(report.reinitialized) == 2


def test_report_table_counts_what_happened(tmp_path):
    official = {
        key.replace(".pixel_decoder.", "."): value for key, value in randomized(maskformer(classes=7)).items()
    }
    table = str(load_checkpoint(maskformer(), write(tmp_path / "x.pkl", official)))
    for row, count in (("loaded", 13), ("renamed", 6), ("re-initialized", 2), ("other shape", 2)):
        assert re.search(rf"^\| {row} +\| +{count} \|", table, re.MULTILINE), table


def test_two_weights_that_map_to_one_name_are_an_error(tmp_path):
    official = randomized(maskformer())
    official["sem_seg_head.layer_4.weight"] = official["sem_seg_head.pixel_decoder.layer_4.weight"]
    with pytest.raises(InputError, match=r"both map to sem_seg_head\.pixel_decoder\.layer_4\.weight"):
        load_checkpoint(maskformer(), write(tmp_path / "x.pkl", official))


def test_a_map_applies_its_rules_in_order_and_is_registered_once():
    key_map = KeyMap("ordered", (r"^first\.", r"!^never"), rules=((r"^a\.", "b."), (r"^b\.", "c.")))
    assert key_map.rename("a.x") == "c.x"
    assert key_map.fits(["first.y"])
    assert not key_map.fits(["first.y", "never"])
    assert not key_map.fits(["x.first.y"])
    with pytest.raises(ValueError, match="already registered"):
        register_key_map(KeyMap("native", (r"x",)))
    with pytest.raises(ValueError, match="not a regular expression"):
        register_key_map(KeyMap("broken", (r"(",)))


@pytest.mark.parametrize("correct", [True, False])
def test_md5_in_the_name_of_a_published_file_is_checked_before_reading(tmp_path, correct):
    weights = randomized(maskformer())
    content = write(tmp_path / "x.pkl", weights).read_bytes()
    prefix = hashlib.md5(content).hexdigest()[:6] if correct else "000000"
    file = tmp_path / f"model_final_{prefix}.pkl"
    file.write_bytes(content)
    if correct:
        assert load_checkpoint(maskformer(), file).complete
    else:
        found = hashlib.md5(content).hexdigest()[:6]
        with pytest.raises(
            InputError, match=rf"model_final_000000\.pkl: md5 starts with {found}, expected 000000"
        ):
            load_checkpoint(maskformer(), file)


def test_urls_go_through_detectron2s_path_manager_and_its_cache(tmp_path, monkeypatch):
    new = randomized(resnet50())
    file = write(tmp_path / "R-50.pkl", new)
    asked = []
    monkeypatch.setattr(PathManager, "get_local_path", lambda path: asked.append(path) or str(file))
    model = resnet50()
    load_checkpoint(model, "detectron2://ImageNetPretrained/torchvision/R-50.pkl")
    assert asked == ["detectron2://ImageNetPretrained/torchvision/R-50.pkl"]
    assert_loaded(model, new)


def test_sha256_in_the_name_is_checked_for_files_of_pytorch_org_and_no_others(tmp_path, monkeypatch):
    file = write(tmp_path / "resnet-20240101.pth", randomized(resnet50()))
    assert load_checkpoint(resnet50(), file).complete
    monkeypatch.setattr(PathManager, "get_local_path", lambda path: str(file))
    with pytest.raises(InputError, match=r"sha256 starts with [0-9a-f]{8}, expected 20240101"):
        load_checkpoint(resnet50(), "https://download.pytorch.org/models/resnet-20240101.pth")


def test_failed_download_and_absent_file_name_the_address_in_one_line(tmp_path, monkeypatch):
    def unreachable(path):
        raise OSError("Connection\nrefused")

    monkeypatch.setattr(PathManager, "get_local_path", unreachable)
    with pytest.raises(
        InputError, match=r"https://example\.com/x\.pth: download failed \(Connection refused\)"
    ):
        load_checkpoint(maskformer(), "https://example.com/x.pth")
    with pytest.raises(InputError, match=r"none\.pth: does not exist"):
        load_checkpoint(maskformer(), tmp_path / "none.pth")


def test_half_precision_files_and_wrapped_models_load(tmp_path):
    model = nn.DataParallel(maskformer())
    new = randomized(model.module)
    save_checkpoint(tmp_path / "x.pth", {"model": {key: value.half() for key, value in new.items()}})
    assert load_checkpoint(model, tmp_path / "x.pth").complete
    assert_loaded(model.module, {key: value.half().float() for key, value in new.items()})
    assert np.isfinite(sum(value.sum().item() for value in model.state_dict().values()))
