"""Files of transformers in the layouts of several code bases: splitting, joining and reshaping weights."""

import pytest
import torch
from torch import nn

from segzoo.checkpoint import KeyMap, load_checkpoint, register_key_map
from segzoo.checkpoint.rules_transformer import (
    HF_MIT,
    MMSEG_MIT,
    TIMM_PVT_V2,
    drop_unit_kernel,
    resize_position_grid,
)
from segzoo.modeling.backbones.cswin import CSWinTransformer, CSWinVariant
from segzoo.modeling.backbones.mit import MixTransformer, PyramidVariant
from segzoo.utils.errors import InputError

MIT = PyramidVariant((8, 16, 40, 64), (1, 1, 1, 1))


class Model(nn.Module):
    """A model with the weight names of a complete one."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(64, 3)


def mit() -> Model:
    return Model(MixTransformer(variant=MIT))


def test_an_official_mit_file_loads_completely_and_does_not_change_the_head(tmp_path):
    torch.manual_seed(0)
    state = MixTransformer(variant=MIT).state_dict()
    head = {"head.weight": torch.zeros(10, 64), "head.bias": torch.zeros(10)}
    torch.save({**state, **head}, tmp_path / "mit_b0.pth")
    model = mit()
    report = load_checkpoint(model, tmp_path / "mit_b0.pth")
    assert report.source == "MiT or PVTv2 ImageNet"
    assert report.extras == ["head.weight", "head.bias"]
    assert report.reinitialized == ["classifier.weight", "classifier.bias"]
    for key, value in state.items():
        assert torch.equal(model.state_dict()[f"backbone.{key}"], value)


def test_files_of_the_first_pvt_are_refused(tmp_path):
    state = MixTransformer(variant=MIT).state_dict()
    torch.save({**state, "pos_embed1": torch.zeros(1, 3136, 8)}, tmp_path / "pvt_tiny.pth")
    with pytest.raises(InputError, match="has a place in the model"):
        load_checkpoint(mit(), tmp_path / "pvt_tiny.pth")


def test_an_official_cswin_file_loads_and_does_not_change_the_output_norms(tmp_path):
    variant = CSWinVariant(16, (1, 1, 1, 1), (2, 4, 8, 16))
    torch.manual_seed(0)
    state = CSWinTransformer(variant=variant).state_dict()
    published = {key: value for key, value in state.items() if not key.startswith("norm")}
    published |= {"norm.weight": torch.ones(128), "norm.bias": torch.ones(128)}
    published |= {"head.weight": torch.ones(10, 128)}
    torch.save({"state_dict": published}, tmp_path / "cswin.pth")
    model = Model(CSWinTransformer(variant=variant))
    report = load_checkpoint(model, tmp_path / "cswin.pth")
    assert report.source == "CSWin ImageNet"
    assert report.extras == ["norm.weight", "norm.bias", "head.weight"]
    norms = [f"backbone.norm{index}.{part}" for index in range(1, 5) for part in ("weight", "bias")]
    assert report.reinitialized == [*norms, "classifier.weight", "classifier.bias"]
    assert torch.equal(model.backbone.stage3[0].qkv.weight, state["stage3.0.qkv.weight"])


def test_published_dense_cswin_file_needs_no_renaming(tmp_path):
    variant = CSWinVariant(16, (1, 1, 1, 1), (2, 4, 8, 16))
    saved = Model(CSWinTransformer(variant=variant))
    torch.save({"state_dict": saved.state_dict(), "meta": {}}, tmp_path / "upernet_cswin.pth")
    report = load_checkpoint(Model(CSWinTransformer(variant=variant)), tmp_path / "upernet_cswin.pth")
    assert report.complete
    assert report.renamed == {}


def test_weights_are_split_in_order_and_parts_of_one_name_are_joined():
    layout = KeyMap(
        name="splits",
        recognize=(),
        splits=((r"\.in_proj_(weight|bias)$", (r".q.\1", r".kv.\1", r".kv.\1")),),
    )
    weights = {"a.in_proj_weight": torch.arange(12).view(6, 2), "a.in_proj_bias": torch.arange(6)}
    weights["b"] = torch.ones(1)
    regrouped = layout.regroup(weights)
    assert {key: value.tolist() for key, value in regrouped.items()} == {
        "a.q.weight": [[0, 1], [2, 3]],
        "a.kv.weight": [[4, 5], [6, 7], [8, 9], [10, 11]],
        "a.q.bias": [0, 1],
        "a.kv.bias": [2, 3, 4, 5],
        "b": [1.0],
    }


def test_joined_weights_are_in_the_order_of_the_regexes_for_any_order_of_the_file():
    layout = KeyMap(name="joins", recognize=(), joins=(((r"\.key\.", r"\.value\."), ".kv."),))
    weights = {
        "0.value.bias": torch.tensor([3, 4]),
        "0.key.bias": torch.tensor([1, 2]),
        "1.key.bias": torch.tensor([5]),
    }
    regrouped = layout.regroup(weights)
    assert {key: value.tolist() for key, value in regrouped.items()} == {
        "0.kv.bias": [1, 2, 3, 4],
        "1.key.bias": [5],  # without its partner: unchanged
    }


def test_a_weight_without_its_partner_is_an_error_that_names_it(tmp_path):
    register_key_map(KeyMap(name="lonely", recognize=(r"^lonely\.",), joins=(((r"\.k$", r"\.v$"), ".kv"),)))
    model = nn.ModuleDict({"lonely": nn.ParameterDict({"kv": torch.zeros(4), "q": torch.zeros(2)})})
    torch.save({"lonely.k": torch.ones(2), "lonely.q": torch.ones(2)}, tmp_path / "lonely.pth")
    with pytest.raises(InputError, match=r"lacks lonely\.kv; the model has no place for lonely\.k"):
        load_checkpoint(model, tmp_path / "lonely.pth")


def test_an_uneven_split_is_not_applied():
    layout = KeyMap(name="uneven", recognize=(), splits=((r"^qkv$", ("q", "k", "v")),))
    assert list(layout.regroup({"qkv": torch.ones(4)})) == ["qkv"]


def test_an_invalid_regex_of_a_split_is_refused():
    with pytest.raises(ValueError, match="is not a regular expression"):
        register_key_map(KeyMap(name="broken", recognize=(), splits=(("(", ("a", "b")),)))
    with pytest.raises(ValueError, match="is not a regular expression"):
        register_key_map(KeyMap(name="broken", recognize=(), joins=((("a", "("), "b"),)))


def test_reshaping_refuses_other_shapes():
    assert drop_unit_kernel(torch.zeros(4, 2, 1, 1), torch.Size((4, 2))).shape == (4, 2)
    assert drop_unit_kernel(torch.zeros(4, 2, 3, 3), torch.Size((4, 2))) is None
    assert resize_position_grid(torch.zeros(1, 4, 4, 8), torch.Size((1, 4, 4, 16))) is None
    assert resize_position_grid(torch.zeros(1, 16, 8), torch.Size((1, 4, 4, 8))) is None


@pytest.mark.parametrize(
    ("rules", "key", "name"),
    [
        (MMSEG_MIT, "backbone.layers.3.0.projection.weight", "backbone.patch_embed4.proj.weight"),
        (MMSEG_MIT, "layers.1.1.11.ffn.layers.1.bias", "block2.11.mlp.dwconv.dwconv.bias"),
        (MMSEG_MIT, "backbone.layers.0.2.weight", "backbone.norm1.weight"),
        (MMSEG_MIT, "backbone.layers.2.1.0.attn.sr.weight", "backbone.block3.0.attn.sr.weight"),
        (MMSEG_MIT, "decode_head.convs.0.conv.weight", "decode_head.convs.0.conv.weight"),
        (HF_MIT, "segformer.encoder.layer_norm.2.bias", "backbone.norm3.bias"),
        (HF_MIT, "encoder.block.1.3.layer_norm_2.weight", "backbone.block2.3.norm2.weight"),
        (HF_MIT, "segformer.encoder.block.0.1.attention.self.sr.bias", "backbone.block1.1.attn.sr.bias"),
        (HF_MIT, "decode_head.linear_c.0.proj.weight", "decode_head.linear_c.0.proj.weight"),
        (TIMM_PVT_V2, "stages.1.downsample.proj.bias", "patch_embed2.proj.bias"),
    ],
)
def test_names_of_other_code_bases_become_the_official_ones(rules, key, name):
    assert KeyMap(name="", recognize=(), rules=rules).rename(key) == name
