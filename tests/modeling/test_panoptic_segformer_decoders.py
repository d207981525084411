"""The network of Panoptic SegFormer against transformers' Deformable DETR and against restatements."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segzoo.export.torch_export import export_program, save_program
from segzoo.layers.deformable_encoder import DeformableEncoder
from segzoo.layers.padded_levels import PaddedLevels
from segzoo.projects.panoptic_segformer.location_decoder import LocationDecoder
from segzoo.projects.panoptic_segformer.mask_decoder import MaskDecoder, Pixels, StuffDecoder
from tests.modeling.modeling_helpers import relative_difference, shake
from tests.modeling.panoptic_segformer_helpers import small_model, with_segments

DIM, HEADS, HIDDEN, QUERIES, CLASSES = 32, 4, 48, 7, 5
SIZES = [(9, 13), (5, 7), (3, 4), (2, 2)]
PADDED = (69, 101)
# Parts of transformers' names and ours.
RENAMED = (
    (r"^model\.encoder\.", "encoder.encoder."),
    (r"^model\.level_embed$", "encoder.level_embed"),
    (r"^model\.decoder\.layers\.", "decoder.layers."),
    (r"^model\.query_position_embeddings\.", "decoder.query_embed."),
    (r"^model\.reference_points\.", "decoder.reference_points."),
    (r"^class_embed\.", "decoder.class_heads."),
    (r"^bbox_embed\.", "decoder.box_heads."),
    (r"\.mlp\.fc", ".linear"),
    (r"\.encoder_attn_layer_norm\.", ".norm2."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"(decoder.*)\.final_layer_norm\.", r"\1.norm3."),
    (r"(encoder.*)\.final_layer_norm\.", r"\1.norm2."),
    (r"\.self_attn\.o_proj\.", ".self_attn.out_proj."),
)


class GivenFeatures(nn.Module):
    """Stands in for the peer's backbone and projections: features and masks are set from outside."""

    def forward(self, images, mask):
        sizes = SIZES[:3]
        masks = [F.interpolate(mask[None].float(), size=size).bool()[0] for size in sizes]
        return list(zip(self.features, masks, strict=True))


@pytest.fixture(scope="module")
def peer():
    transformers = pytest.importorskip("transformers")
    config = transformers.DeformableDetrConfig(
        backbone_config=transformers.ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 8, 8, 8],
            depths=[1, 1, 1, 1],
            out_features=["stage2", "stage3", "stage4"],
        ),
        use_timm_backbone=False,
        backbone=None,
        d_model=DIM,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=HIDDEN,
        decoder_ffn_dim=HIDDEN,
        num_feature_levels=4,
        num_queries=QUERIES,
        num_labels=CLASSES,
        with_box_refine=True,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    peer = shake(transformers.DeformableDetrForObjectDetection(config).eval())
    # These begin at 0: positions, and earlier boxes, would have no effect.
    for name, parameter in peer.named_parameters():
        if re.search(r"(sampling_offsets|attention_weights|bbox_embed\.\d\.layers\.2)\.weight$", name):
            nn.init.normal_(parameter, std=0.1)
    peer.model.backbone = GivenFeatures()
    peer.model.input_proj = nn.ModuleList(nn.Identity() for _ in range(4))
    return peer


@pytest.fixture(scope="module")
def ours(peer):
    """Our encoder and location decoder with the peer's weights."""
    layer = {"num_heads": HEADS, "num_points": 4, "hidden_dim": HIDDEN, "dropout": 0.0}
    model = nn.ModuleDict(
        {
            "encoder": DeformableEncoder(DIM, 2, 4, position_offset=-0.5, **layer),
            "decoder": LocationDecoder(
                num_classes=CLASSES, num_queries=QUERIES, dim=DIM, num_layers=3, num_levels=4, **layer
            ),
        }
    )
    weights = {}
    for name, value in peer.state_dict().items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        weights[name] = value
    for index in range(3):
        start = f"decoder.layers.{index}.self_attn."
        for kind in ("weight", "bias"):
            parts = [weights.pop(f"{start}{role}_proj.{kind}") for role in "qkv"]
            weights[f"{start}in_proj_{kind}"] = torch.cat(parts)
    missing = model.load_state_dict(weights, strict=False).missing_keys
    assert missing == []
    return model.eval()


@pytest.mark.parametrize("image_sizes", [[PADDED, PADDED], [PADDED, (50, 77)]], ids=["whole", "padded"])
def test_encoder_and_location_decoder_equal_those_of_transformers(peer, ours, image_sizes):
    torch.manual_seed(1)
    levels = [torch.randn(2, DIM, *size) for size in SIZES]
    mask = torch.zeros(2, *PADDED, dtype=torch.long)
    for image, (height, width) in enumerate(image_sizes):
        mask[image, :height, :width] = 1
    peer.model.backbone.features = levels[:3]
    peer.model.input_proj[3] = GivenLevel(levels[3])
    padded = PaddedLevels.of_batch(SIZES, image_sizes, PADDED)
    assert (padded is None) == (image_sizes[1] == PADDED)
    with torch.no_grad():
        expected = peer(torch.zeros(2, 3, *PADDED), pixel_mask=mask, return_dict=True)
        memory = ours["encoder"].encode(levels, padded)
        found = ours["decoder"](memory, SIZES, padded)
    valid = slice(None) if padded is None else ~padded.padding()
    assert relative_difference(memory[valid], expected.encoder_last_hidden_state[valid]) < 1e-5
    assert relative_difference(found.hidden, expected.last_hidden_state) < 1e-5
    assert relative_difference(found.logits[-1], expected.logits) < 1e-5
    assert relative_difference(found.boxes[-1], expected.pred_boxes) < 1e-5


class GivenLevel(nn.Module):
    """Returns one level whatever it is called with."""

    def __init__(self, level):
        super().__init__()
        self.level = level

    def forward(self, _features):
        return self.level


def attend(layer, x, memory, sizes):
    """The published order: mix the heads of each level, resize all channels, join by one linear layer."""
    attention, heads = layer, 4
    query, key = (
        projection(part).unflatten(2, (heads, -1)).transpose(1, 2)
        for projection, part in ((attention.q, x), (attention.k, memory))
    )
    logits = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    levels, start = [], 0
    for (height, width), mix in zip(sizes, attention.masks.levels, strict=True):
        part = logits[..., start : start + height * width].permute(0, 2, 3, 1)  # N, Q, pixels, heads
        start += height * width
        mixed = F.relu(mix(part)).permute(0, 1, 3, 2).unflatten(3, (height, width))
        resized = F.interpolate(mixed.flatten(0, 1), size=sizes[0], mode="bilinear", align_corners=False)
        levels.append(resized.unflatten(0, mixed.shape[:2]))
    joined = torch.cat(levels, dim=2).permute(0, 1, 3, 4, 2)
    masks = F.relu(attention.masks.join(joined))[..., 0]
    if attention.v is None:
        return None, masks
    value = attention.v(memory).unflatten(2, (heads, -1)).transpose(1, 2)
    return attention.proj((logits.softmax(-1) @ value).transpose(1, 2).flatten(2)), masks


def norm(module, x):
    return F.layer_norm(x, (x.shape[-1],), module.weight, module.bias, 1e-6)


def decode(decoder, x, memory, sizes, position=None):
    """The mask decoder as the paper and its code describe it; returns the masks of all layers."""
    masks = []
    for layer in decoder.layers:
        if position is not None:
            x = x + position
            attended, _ = nn.functional.multi_head_attention_forward(
                *(x.transpose(0, 1) for _ in range(3)),
                x.shape[-1],
                4,
                layer.self_attn.in_proj_weight,
                layer.self_attn.in_proj_bias,
                None,
                None,
                False,
                0.0,
                layer.self_attn.out_proj.weight,
                layer.self_attn.out_proj.bias,
                need_weights=False,
            )
            x = norm(layer.norm_self, x + attended.transpose(0, 1))
        change, mask = attend(layer.attn, x, memory, sizes)
        x = norm(layer.norm1, x + change)
        x = norm(layer.norm2, x + layer.mlp.fc2(F.gelu(layer.mlp.fc1(x))))
        masks.append(mask)
    x = x if position is None else x + position
    return [*masks, attend(decoder.tail, x, memory, sizes)[1]], x


ARGUMENTS = {"dim": DIM, "num_heads": 4, "num_levels": 3, "hidden_dim": HIDDEN, "num_layers": 2}


@pytest.fixture(scope="module")
def memory():
    torch.manual_seed(2)
    return 2 * torch.randn(2, sum(height * width for height, width in SIZES[:3]), DIM)


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
def test_the_thing_decoder_equals_a_restatement(memory, training):
    torch.manual_seed(3)
    decoder = shake(MaskDecoder(**ARGUMENTS)).train(training)
    x = torch.randn(2, 6, DIM)
    found = decoder(x, Pixels(memory, SIZES[:3])).masks
    expected, _ = decode(decoder, x, memory, SIZES[:3])
    assert len(found) == (3 if training else 1)
    for ours, theirs in zip(found, expected if training else expected[-1:], strict=True):
        assert (theirs > 0).any()
        assert relative_difference(ours, theirs) < 1e-5


@torch.no_grad()
def test_the_stuff_decoder_adds_the_position_before_every_layer_and_keeps_it(memory):
    torch.manual_seed(4)
    decoder = shake(StuffDecoder(num_classes=5, **ARGUMENTS)).train()
    content, position = decoder.query_embed.weight[:, :DIM], decoder.query_embed.weight[:, DIM:]
    masks, logits = decoder.decode(Pixels(memory, SIZES[:3]))
    expected, last = decode(decoder, content.expand(2, -1, -1), memory, SIZES[:3], position)
    for ours, theirs in zip(masks, expected, strict=True):
        assert relative_difference(ours, theirs) < 1e-5
    # Presence is read from the last query before the tail's position is added.
    head = decoder.class_heads[-1]
    assert relative_difference(logits[-1], head(last - position)[..., 0]) < 1e-5


@torch.no_grad()
def test_padding_is_not_attended_to_and_has_no_masks(memory):
    torch.manual_seed(5)
    decoder = shake(MaskDecoder(**ARGUMENTS)).train()
    x = torch.randn(2, 6, DIM)
    padded = PaddedLevels.of_batch(SIZES[:3], [PADDED, (50, 77)], PADDED)
    padding = padded.padding()
    changed = torch.where(padding[..., None], torch.randn_like(memory) * 9, memory)
    masks = [decoder(x, Pixels(one, SIZES[:3], padding)).masks for one in (memory, changed)]
    for first, second in zip(*masks, strict=True):
        assert torch.equal(first, second)
    rows, columns = padded.valid[1, 0].tolist()
    assert masks[0][-1][1, :, rows:].abs().max() == 0
    assert masks[0][-1][1, :, :, columns:].abs().max() == 0
    # In eval mode the attention is another implementation.
    x_after = [
        decoder.train(mode)(x, Pixels(memory, SIZES[:3], padding)).queries[-1] for mode in (True, False)
    ]
    assert relative_difference(*x_after) < 1e-5


def test_valid_cells_are_those_of_resizing_the_image_s_mask():
    sizes, image = [(9, 13), (5, 7), (3, 4)], (50, 77)
    mask = torch.zeros(1, 1, *PADDED)
    mask[..., : image[0], : image[1]] = 1
    padded = PaddedLevels.of_batch(sizes, [image], PADDED)
    for level, size in enumerate(sizes):
        resized = F.interpolate(mask, size=size)[0, 0]
        assert padded.valid[0, level].tolist() == [int(resized[:, 0].sum()), int(resized[0].sum())]


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (7, 90), (65, 33)])
def test_images_of_any_size(size):
    model = small_model(num_queries=3).eval()
    inputs = with_segments(*size)
    inputs.update(height=31, width=17)
    results = model([inputs], tasks=("panoptic", "semantic", "instance", "entity"))[0]
    assert results["sem_seg"].shape == (5, 31, 17)
    assert results["panoptic_seg"][0].shape == (31, 17)
    assert results["instances"].image_size == (31, 17)


@torch.no_grad()
def test_a_prediction_does_not_depend_on_the_batch():
    model = shake(small_model()).eval()
    images = [with_segments(64, 96), with_segments(64, 96, seed=1), with_segments(50, 81, seed=2)]
    together = model(images, tasks=("semantic",))
    for image, result in zip(images, together, strict=True):
        alone = model([image], tasks=("semantic",))[0]
        torch.testing.assert_close(result["sem_seg"], alone["sem_seg"], atol=1e-5, rtol=1e-4)


def test_initial_values():
    model = small_model(num_queries=300)
    decoder, stuff = model.location_decoder, model.stuff_decoder.layers[0].self_attn
    for head in (*decoder.class_heads, *model.stuff_decoder.class_heads):
        assert head.bias.tolist() == pytest.approx([-4.59512] * len(head.bias), abs=1e-4)  # -log 99
    assert all(torch.equal(head.weight, decoder.class_heads[0].weight) for head in decoder.class_heads)
    first, *others = decoder.box_heads
    assert first.layers[-1].bias.tolist() == [0, 0, -2, -2]
    assert all(head.layers[-1].bias.abs().max() == 0 for head in others)
    assert all(head.layers[-1].weight.abs().max() == 0 for head in decoder.box_heads)
    assert all(torch.equal(head.layers[0].weight, first.layers[0].weight) for head in others)
    attention = decoder.layers[1].cross_attn
    assert attention.sampling_offsets.weight.abs().max() == 0
    # Four heads, four levels, four points: heads look right, down, left and up, points 1 to 4 pixels away.
    directions = attention.sampling_offsets.bias.detach().view(4, 4, 4, 2)[:, 0, 1]
    assert directions.flatten().tolist() == pytest.approx([2, 0, 0, 2, -2, 0, 0, -2], abs=1e-5)
    assert decoder.query_embed.weight.std().item() == pytest.approx(1, abs=0.05)
    for bias in (stuff.in_proj_bias, stuff.out_proj.bias):
        assert 0.9 * 64**-0.5 < bias.abs().max() <= 64**-0.5
    # Xavier: uniform in +- sqrt(6 / (inputs + outputs)).
    for weight in (
        decoder.layers[0].self_attn.out_proj.weight,
        decoder.layers[0].linear1.weight,
        model.transformer.encoder["layers"][0].linear2.weight,
        model.thing_decoder.layers[0].attn.q.weight,
        stuff.in_proj_weight,
    ):
        bound = (6 / sum(weight.shape)) ** 0.5
        assert 0.95 * bound < weight.abs().max() <= bound


def test_an_exported_program_is_kept_although_some_outputs_are_whole_numbers(tmp_path):
    model = shake(small_model()).eval()
    program = export_program(model, (40, 56))
    assert program.module()(torch.zeros(1, 3, 40, 56))["thing_classes"].dtype == torch.int64
    description = {"input": {"shape": [1, 3, 40, 56]}}
    assert save_program(tmp_path / "small.pt2", program, model, description) < 1e-4
