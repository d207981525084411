"""Mask2Former, from an image to class and mask logits, against transformers on the same weights."""

import importlib.util
import tempfile
from pathlib import Path

import torch

from segzoo import model_zoo
from segzoo.checkpoint import load_checkpoint

from . import Case, Pair

# Of the spread of the outputs: a mask logit near zero flips a pixel of the binary attention mask.
TOLERANCE = 1e-2
SWIN_TINY = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}


def whole_model(size: tuple[int, int]) -> Pair:
    """The COCO panoptic model with Swin-T: 133 classes, 100 queries, weights drawn from a seed."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = transformers.SwinConfig(**SWIN_TINY, out_features=stages)
    config = transformers.Mask2FormerConfig(backbone_config=backbone, num_labels=133)
    network = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    model = model_zoo.get("panoptic/coco/mask2former_swin_tiny", weights=None, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        load_checkpoint(model, Path(folder) / "model.safetensors").require_complete()

    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    normalised = ((image - model.pixel_mean) / model.pixel_std)[None]

    @torch.inference_mode()
    def ours() -> tuple[torch.Tensor, torch.Tensor]:
        outputs = model.raw_outputs([{"image": image}])
        return outputs["pred_logits"], outputs["pred_masks"]

    @torch.inference_mode()
    def theirs() -> tuple[torch.Tensor, torch.Tensor]:
        outputs = network(normalised)
        return outputs.class_queries_logits, outputs.masks_queries_logits

    return Pair(ours, theirs, _compare)


def _compare(ours: tuple[torch.Tensor, ...], theirs: tuple[torch.Tensor, ...]) -> str:
    worst = max(
        ((one - other).abs().max() / (other.max() - other.min())).item()
        for one, other in zip(ours, theirs, strict=True)
    )
    return f"{'' if worst < TOLERANCE else 'DIFFERENT, '}outputs {worst:.1e}"


CASES = [
    Case(
        f"swin-tiny-{height}x{width}",
        f"Mask2Former Swin-T, image {height} x {width} to class and mask logits; peer: transformers",
        lambda size=(height, width): whole_model(size),
        goal=2.0,
        memory_goal=1.0,
        repeat=3,
        slow=True,
    )
    for height, width in ((512, 512), (800, 1344))
    if importlib.util.find_spec("transformers") is not None
]
