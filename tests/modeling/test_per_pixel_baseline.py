"""MaskFormer's per-pixel baselines against parts of an independent MaskFormer, and their losses by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.modeling.modeling_helpers import published_names, random_image, relative_difference, shake
from tests.modeling.pixel_model_helpers import (
    count_parameters,
    load_published,
    normalized,
    pixel_model,
    unallocated_model,
)

NUM_CLASSES = 11
R18 = ["MODEL.BACKBONE.NAME", "ResNetBackbone", "MODEL.BACKBONE.VARIANT", "r18"]
R50 = ["MODEL.BACKBONE.NAME", "ResNetBackbone", "MODEL.BACKBONE.VARIANT", "r50"]
# Change of random ResNets' outputs under an input noise of one part in a million.
FLOOR = 5e-4
SIZES = [(64, 96), (70, 101)]


def mask_former() -> nn.Module:
    """Build transformers' MaskFormer with one query per class."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    backbone = transformers.ResNetConfig(
        depths=[2, 2, 2, 2],
        hidden_sizes=[64, 128, 256, 512],
        layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = transformers.MaskFormerConfig(
        backbone_config=backbone,
        decoder_config=transformers.DetrConfig(num_queries=NUM_CLASSES),
        num_labels=NUM_CLASSES,
    )
    return shake(transformers.MaskFormerForInstanceSegmentation(config).eval())


def published(peer: nn.Module, layout: str) -> dict[str, torch.Tensor]:
    """Return the peer's weights with the old or new names of the official files."""
    state = published_names(peer.state_dict())
    state = {key: value for key, value in state.items() if ".class_embed." not in key}
    if layout == "old":
        state = {key.replace("sem_seg_head.pixel_decoder.", "sem_seg_head."): state[key] for key in state}
    return state


@pytest.mark.parametrize("layout", ["old", "new"])
def test_the_baseline_classifies_the_embeddings_of_an_independent_pixel_decoder(layout, tmp_path):
    peer = mask_former()
    state = published(peer, layout)
    state = {key: value for key, value in state.items() if ".predictor." not in key}
    weight, bias = torch.randn(NUM_CLASSES, 256, 1, 1), torch.randn(NUM_CLASSES)
    state |= {"sem_seg_head.predictor.weight": weight, "sem_seg_head.predictor.bias": bias}
    model = pixel_model("per_pixel_baseline", NUM_CLASSES, *R18).eval()
    load_published(model, state, tmp_path)
    for size in SIZES:
        image = random_image(*size)
        with torch.no_grad():
            logits = model.raw_outputs([{"image": image}])["sem_seg_logits"]
            embeddings = peer.model.pixel_level_module(normalized(model, image)).decoder_last_hidden_state
            assert relative_difference(logits, F.conv2d(embeddings, weight, bias)) < FLOOR


@pytest.mark.parametrize("layout", ["old", "new"])
def test_class_scores_of_baseline_plus_are_the_masks_of_an_independent_maskformer(layout, tmp_path):
    peer = mask_former()
    model = pixel_model("per_pixel_baseline_plus", NUM_CLASSES, *R18).eval()
    assert load_published(model, published(peer, layout), tmp_path).source == "PerPixelBaseline+"
    for size in SIZES:
        image = random_image(*size)
        with torch.no_grad():
            logits = model.raw_outputs([{"image": image}])["sem_seg_logits"]
            assert relative_difference(logits, peer(normalized(model, image)).masks_queries_logits) < FLOOR


def test_every_decoder_layer_is_supervised_by_the_cross_entropy_of_its_masks(tmp_path):
    # Dropout and batch statistics are off, so that the peer's hidden states equal those in training.
    peer = mask_former()
    with torch.no_grad():
        list(peer.mask_embedder.parameters())[-2].mul_(100)  # scores that distinguish the layers
    model = pixel_model("per_pixel_baseline_plus", NUM_CLASSES, *R18, "MODEL.MASK_FORMER.DROPOUT", 0.0)
    load_published(model, published(peer, "new"), tmp_path)
    model.train()
    model.backbone.eval()
    image = random_image(64, 96)
    labels = torch.randint(0, NUM_CLASSES, (64, 96), generator=torch.Generator().manual_seed(0))
    labels[:10] = 255
    losses = model([{"image": image, "sem_seg": labels}])
    assert set(losses) == {"loss_sem_seg", *(f"loss_sem_seg_{layer}" for layer in range(5))}
    with torch.no_grad():
        outputs = peer(normalized(model, image), output_hidden_states=True)
        embeddings = outputs.pixel_decoder_last_hidden_state
        hidden_states = outputs.transformer_decoder_hidden_states[-6:]
        for layer, hidden in enumerate(hidden_states):
            hidden = hidden if layer == 5 else peer.model.transformer_module.decoder.layernorm(hidden)
            masks = torch.einsum("nqc,nchw->nqhw", peer.mask_embedder(hidden), embeddings)
            masks = F.interpolate(masks, size=(64, 96), mode="bilinear", align_corners=False)
            expected = F.cross_entropy(masks, labels[None], ignore_index=255)
            name = "loss_sem_seg" if layer == 5 else f"loss_sem_seg_{layer}"
            assert losses[name].item() == pytest.approx(expected.item(), rel=2e-3)


def test_there_is_one_query_per_class_and_no_class_prediction():
    model = unallocated_model("per_pixel_baseline_plus", 847, *R50)
    assert model.sem_seg_head.decoder.query_embed.weight.shape == (847, 256)
    assert not any("class_embed" in name for name, _ in model.named_parameters())


def test_the_baselines_differ_by_the_transformer_decoder_and_the_classifier():
    attention = 4 * (256 * 256 + 256)
    layer = 2 * attention + (256 * 2048 + 2048) + (2048 * 256 + 256) + 3 * 2 * 256
    decoder = 6 * layer + 2 * 256  # and its last norm
    decoder += 150 * 256  # queries
    decoder += 2048 * 256 + 256  # projection of res5
    decoder += 3 * (256 * 256 + 256)  # mask embedding
    plus = count_parameters(unallocated_model("per_pixel_baseline_plus", 150, *R50))
    baseline = count_parameters(unallocated_model("per_pixel_baseline", 150, *R50))
    assert plus - baseline == pytest.approx((decoder - (256 * 150 + 150)) / 1e6, abs=1e-6)


def test_all_parameters_of_both_baselines_get_gradients():
    for method in ("per_pixel_baseline", "per_pixel_baseline_plus"):
        model = pixel_model(method, NUM_CLASSES, *R18, "MODEL.BACKBONE.NORM", "BN")
        labels = torch.randint(0, NUM_CLASSES, (64, 64))
        sum(model([{"image": random_image(64, 64), "sem_seg": labels}] * 2).values()).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
