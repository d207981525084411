"""Published files of Panoptic SegFormer: names, both layouts, counts of parameters."""

import re

import pytest
import torch
from torch import nn

from segzoo.checkpoint import load_checkpoint
from segzoo.engine import Trainer
from segzoo.model_zoo import load_config
from segzoo.projects.panoptic_segformer.key_map import PANOPTIC_SEGFORMER
from segzoo.solver import build_optimizer
from segzoo.utils.errors import InputError

LEAF = "panoptic/coco/panoptic_segformer_"
# Entries of a published file, and those of its backbone.
FILES = {
    "r50": (955, 318),
    "r101": (1261, 624),
    "pvtv2_b5_in21k": (1689, 1052),
    "swin_large_224_in21k": (992, 355),
}


def attention(name, offsets=256, weights=128):
    sizes = {"sampling_offsets": offsets, "attention_weights": weights, "value_proj": 256, "output_proj": 256}
    for part, size in sizes.items():
        yield from linear(f"{name}.{part}", size, 256)


def linear(name, outputs, inputs):
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def norm(name):
    yield f"{name}.weight", (256,)
    yield f"{name}.bias", (256,)


def feed_forward(name):
    yield from linear(f"{name}.layers.0.0", 1024, 256)
    yield from linear(f"{name}.layers.1", 256, 1024)


def mask_branch(name):
    for level in (1, 2, 3):
        yield from linear(f"{name}.linear_l{level}.0", 8, 8)
    yield from linear(f"{name}.linear.0", 1, 24)


def mask_head(name, layers, self_attention):
    for layer in range(layers):
        block = f"{name}.blocks.{layer}"
        for part in "q", "k", "v", "proj":
            yield from linear(f"{block}.attn.{part}", 256, 256)
        yield from mask_branch(f"{block}.attn")
        yield from norm(f"{block}.head_norm1")
        yield from norm(f"{block}.head_norm2")
        yield from linear(f"{block}.mlp.fc1", 1024, 256)
        yield from linear(f"{block}.mlp.fc2", 256, 1024)
        if self_attention:
            yield from linear(f"{block}.self_attention.qkv", 768, 256)
            yield from linear(f"{block}.self_attention.proj", 256, 256)
            yield from norm(f"{block}.norm3")
    for part in "q", "k":
        yield from linear(f"{name}.attnen.{part}", 256, 256)
    yield from mask_branch(f"{name}.attnen")


def head_entries():
    """Names and shapes of `bbox_head.` in the authors' files."""
    yield "query_embedding.weight", (300, 512)
    yield "stuff_query.weight", (53, 512)
    yield "transformer.level_embeds", (4, 256)
    yield from linear("transformer.reference_points", 2, 256)
    for index in range(6):
        yield from linear(f"cls_branches.{index}", 80, 256)
        yield from linear(f"cls_stuff_branches.{index}", 1, 256)
    for index in range(4):
        yield from linear(f"cls_thing_branches.{index}", 80, 256)
    for name, count in (("reg_branches", 6), ("reg_branches2", 4)):
        for index in range(count):
            for layer, outputs in ((0, 256), (2, 256), (4, 4)):
                yield from linear(f"{name}.{index}.{layer}", outputs, 256)
    for layer in range(6):
        name = f"transformer.encoder.layers.{layer}"
        yield from attention(f"{name}.attentions.0")
        yield from feed_forward(f"{name}.ffns.0")
        yield from norm(f"{name}.norms.0")
        yield from norm(f"{name}.norms.1")
        name = f"transformer.decoder.layers.{layer}"
        yield f"{name}.attentions.0.attn.in_proj_weight", (768, 256)
        yield f"{name}.attentions.0.attn.in_proj_bias", (768,)
        yield from linear(f"{name}.attentions.0.attn.out_proj", 256, 256)
        yield from attention(f"{name}.attentions.1")
        yield from feed_forward(f"{name}.ffns.0")
        for index in range(3):
            yield from norm(f"{name}.norms.{index}")
    yield from mask_head("things_mask_head", 4, self_attention=False)
    yield from mask_head("stuff_mask_head", 6, self_attention=True)


def resnet_name(name):
    """Return torchvision's name of a weight of our ResNet."""
    name = name.replace("stem.conv1.norm.", "bn1.").replace("stem.conv1.", "conv1.")
    name = re.sub(r"res(\d)", lambda match: f"layer{int(match[1]) - 1}", name)
    name = name.replace("shortcut.norm.", "downsample.1.").replace("shortcut.", "downsample.0.")
    return re.sub(r"conv(\d)\.norm\.", r"bn\1.", name)


def backbone_entries(model, leaf):
    """Names and shapes of `backbone.` in the authors' files."""
    for name, value in model.backbone.state_dict().items():
        yield (
            f"backbone.{resnet_name(name)}" if leaf.startswith("r") else f"backbone.{name}",
            tuple(value.shape),
        )
        if name.endswith("running_var"):
            yield f"backbone.{resnet_name(name).replace('running_var', 'num_batches_tracked')}", ()
        if name.endswith("relative_position_bias_table"):
            yield f"backbone.{name.replace('bias_table', 'index')}", (49, 49)


def neck_entries(channels):
    for index, count in enumerate(channels):
        yield f"neck.convs.{index}.conv.weight", (256, count, 1, 1)
        yield from norm(f"neck.convs.{index}.gn")
    yield "neck.extra_convs.0.conv.weight", (256, channels[-1], 3, 3)
    yield from norm("neck.extra_convs.0.gn")


def published(model, leaf):
    """Names and shapes of a published file."""
    shapes = model.backbone.output_shape()
    channels = [shapes[f"res{index}"].channels for index in (3, 4, 5)]
    head = {f"bbox_head.{name}": shape for name, shape in head_entries()}
    return {**dict(backbone_entries(model, leaf)), **dict(neck_entries(channels)), **head}


def second_names(name):
    """The names that the released Swin-L has, and that the authors' test script renames."""
    for new, old in (
        ("things_mask_head.", "mask_head."),
        ("stuff_mask_head.", "mask_head2."),
        ("cls_thing_branches.", "cls_branches2."),
    ):
        name = name.replace(new, old)
    return name


@pytest.fixture(scope="module", params=FILES)
def on_meta(request):
    """Return the name of a leaf and its model without values."""
    cfg = load_config(LEAF + request.param, ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        return request.param, Trainer.build_model(cfg)


def test_names_and_shapes_of_the_published_files_are_those_of_the_model(on_meta):
    leaf, model = on_meta
    entries = published(model, leaf)
    assert len(entries) == FILES[leaf][0]
    assert sum(name.startswith("backbone.") for name in entries) == FILES[leaf][1]
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for rename in (str, second_names):
        names = {rename(name): shape for name, shape in entries.items()}
        assert PANOPTIC_SEGFORMER.fits(names)
        left_out = [name for name in names if any(re.search(one, name) for one in PANOPTIC_SEGFORMER.extras)]
        assert len(left_out) == 32
        found = {
            PANOPTIC_SEGFORMER.rename(name): shape
            for name, shape in names.items()
            if name not in left_out and not re.search(r"num_batches_tracked|relative_position_index", name)
        }
        assert found == expected


def test_parameters_are_those_of_the_published_models_without_unused_heads(on_meta):
    leaf, model = on_meta
    # Counted in the authors' code, in millions: all, trained.
    counted = {
        "r50": (51.272, 50.996),
        "r101": (70.264, 69.936),
        "pvtv2_b5_in21k": (104.996, 104.996),
        "swin_large_224_in21k": (221.353, 221.353),
    }[leaf]
    unused = 4 * (80 * 257) + 4 * (2 * 256 * 257 + 4 * 257)
    total = sum(parameter.numel() for parameter in model.parameters())
    if leaf.startswith("r"):
        # Frozen norms are buffers here.
        total += sum(
            value.numel() for name, value in model.named_buffers() if re.search(r"norm\.(weight|bias)$", name)
        )
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert (total + unused) / 1e6 == pytest.approx(counted[0], abs=6e-4)
    assert (trained + unused) / 1e6 == pytest.approx(counted[1], abs=6e-4)


def test_learning_rates_and_decay_of_r50():
    cfg = load_config(f"{LEAF}r50", ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = Trainer.build_model(cfg)
    groups = build_optimizer(cfg, model).param_groups
    rates = {}
    for group in groups:
        assert group["weight_decay"] == 1e-4
        rates[group["lr"]] = rates.get(group["lr"], 0) + len(group["params"])
    # Of the authors' 68, 611 and 117 frozen tensors, 32 belong to the unused heads.
    assert {round(rate, 8): count for rate, count in rates.items()} == {1.4e-5: 68, 1.4e-4: 611 - 32}


@pytest.mark.parametrize("rename", [str, second_names])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_published_file_loads_completely(tmp_path, rename, prefix):
    model = small_r50()
    generator = torch.Generator().manual_seed(0)
    entries = published(model, "r50")
    weights = {
        prefix + rename(name): torch.rand(shape, generator=generator) if shape else torch.tensor(0)
        for name, shape in entries.items()
    }
    torch.save({"meta": {"epoch": 24}, "state_dict": weights, "optimizer": {}}, tmp_path / "published.pth")
    report = load_checkpoint(model, tmp_path / "published.pth")
    assert report.source == "Panoptic SegFormer"
    assert report.complete
    assert not report.unexpected
    expected = weights[f"{prefix}{rename('bbox_head.stuff_mask_head.attnen.k.weight')}"]
    assert torch.equal(model.stuff_decoder.tail.k.weight, expected)
    expected = weights[f"{prefix}bbox_head.reg_branches.3.2.weight"]
    assert torch.equal(model.location_decoder.box_heads[3].layers[1].weight, expected)
    expected = weights[f"{prefix}neck.extra_convs.0.gn.bias"]
    assert torch.equal(model.neck.levels[3].norm.bias, expected)


def small_r50(*overrides: str) -> nn.Module:
    """The heads of R50 on a small backbone."""
    small = ["MODEL.BACKBONE.VARIANT", "r18_quarter", "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"]
    return Trainer.build_model(load_config(f"{LEAF}r50", [*small, *overrides]))


INSTANCES = ("TASK", "instance", "TEST.TASKS", "('instance',)")
# Semantic segmentation of classes without things.
STUFF = (
    *("TASK", "semantic", "TEST.TASKS", "('semantic',)", "DATASETS.TRAIN", "('ade20k_sem_seg_train',)"),
    *("DATASETS.TEST", "('ade20k_sem_seg_val',)"),
)


@pytest.mark.parametrize(
    ("overrides", "lacking", "other"),
    [
        (INSTANCES, ("mask_head2", "stuff_query", "cls_stuff_branches"), []),
        (
            STUFF,
            (
                *("mask_head", "query_embedding", "cls_branches", "reg_branches"),
                *("transformer.decoder", "transformer.reference_points"),
            ),
            ["53 classes -> 150"],
        ),
    ],
)
def test_a_published_file_initializes_models_without_stuff_or_things(tmp_path, overrides, lacking, other):
    model = small_r50(*overrides)
    entries = {second_names(name): shape for name, shape in published(model, "r50").items()}
    weights = {name: torch.full(shape, 0.5) for name, shape in entries.items()}
    torch.save({"state_dict": weights}, tmp_path / "published.pth")
    report = load_checkpoint(model, tmp_path / "published.pth")
    assert (report.unexpected, report.missing, report.other_numbers) == ([], [], other)
    unused = ("reg_branches2", "cls_branches2")
    left_out = tuple(f"bbox_head.{name}." for name in (*lacking, *unused))
    assert {key for key in report.extras if "num_batches_tracked" not in key} == {
        key for key in weights if key.startswith(left_out)
    }


def test_layers_that_a_decoder_lacks_are_not_left_out(tmp_path):
    model = small_r50("MODEL.PANOPTIC_SEGFORMER.THING_LAYERS", "2")
    weights = {name: torch.ones(shape) for name, shape in published(model, "r50").items()}
    torch.save({"state_dict": weights}, tmp_path / "published.pth")
    with pytest.raises(InputError, match=r"no place for .* weights \(bbox_head.things_mask_head.blocks.2"):
        load_checkpoint(model, tmp_path / "published.pth")


def test_the_maps_of_the_backbone_are_ordered_by_their_stride():
    names = ("MODEL.SEM_SEG_HEAD.IN_FEATURES", "('res5', 'res3', 'res4')")
    model = small_r50(*names)
    assert model.in_features == ("res3", "res4", "res5")


def test_a_neck_beside_the_model_s_own_is_refused():
    cfg = load_config(
        "panoptic/shapes/panoptic_segformer_r18_quarter", ["MODEL.DEVICE", "cpu", "MODEL.NECK.NAME", "FPN"]
    )
    with pytest.raises(InputError, match=r"MODEL.NECK.NAME FPN has no effect here: PanopticSegFormer"):
        Trainer.build_model(cfg)
