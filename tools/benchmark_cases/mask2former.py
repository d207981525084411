"""Mask2Former from a uint8 image to a panoptic or a semantic map, with the same weights on both sides.

Peers are transformers, with its image processor before and after the network, and the straightforward
formulation. transformers makes its maps from masks of 384 x 384, so only the networks' outputs can be
compared with it.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from segzoo import model_zoo
from segzoo.checkpoint import load_checkpoint

from . import Case, Pair, straightforward_postprocess
from .straightforward_mask2former import straightforward

# Relative to the spread of the outputs: a mask logit near zero flips a pixel of the binary attention mask.
TOLERANCE = 1e-2
# Fraction of the pixels of a map.
PIXEL_TOLERANCE = 1e-2
SWIN_TINY = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}
# Scales class logits so that queries of random weights are as confident as trained ones, and make segments.
CERTAINTY = 8.0


def transformers_pair(backbone: str) -> tuple[nn.Module, nn.Module]:
    """Return segzoo's and transformers' COCO panoptic model, with 133 classes and equal weights."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    if backbone == "r50":
        backbone_config = transformers.ResNetConfig(out_features=stages)
    else:
        backbone_config = transformers.SwinConfig(**SWIN_TINY, out_features=stages)
    config = transformers.Mask2FormerConfig(backbone_config=backbone_config, num_labels=133)
    network = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    with torch.no_grad():
        network.class_predictor.weight.mul_(CERTAINTY)
    model = model_zoo.get(f"panoptic/coco/mask2former_{backbone}", weights=None, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        path = Path(folder) / "model.safetensors"
        if backbone == "r50":
            name_resnet_weights(path, network.model.pixel_level_module.encoder, model.backbone)
        load_checkpoint(model, path).require_complete()
    return model, network


def name_resnet_weights(path: Path, theirs: nn.Module, ours: nn.Module) -> None:
    """Rename transformers' ResNet weights in a file as segzoo's: both list a block's shortcut first."""
    from safetensors.torch import load_file, save_file

    state, encoder = load_file(path), "model.pixel_level_module.encoder."
    names = [name for name in theirs.state_dict() if not name.endswith("num_batches_tracked")]
    weights = [state.pop(encoder + name) for name in names]
    state = {name: weight for name, weight in state.items() if not name.startswith(encoder)}
    state |= {encoder + name: weight for name, weight in zip(ours.state_dict(), weights, strict=True)}
    save_file(state, path)


def beside_transformers(backbone: str, size: tuple[int, int], task: str) -> Pair:
    from transformers import Mask2FormerImageProcessor

    model, network = transformers_pair(backbone)
    image, ours, our_outputs = segzoo_run(model, size, task)
    processor = Mask2FormerImageProcessor(
        do_resize=False,
        size_divisor=32,
        image_mean=(model.pixel_mean / 255).flatten().tolist(),
        image_std=(model.pixel_std / 255).flatten().tolist(),
    )
    stuff = {category for category, is_thing in enumerate(model.is_thing) if not is_thing}

    # As the published models were given; the processor does not pad the image of a batch of one.
    padding = (0, -size[1] % model.size_divisibility, 0, -size[0] % model.size_divisibility)

    def outputs():
        return network(nn.functional.pad(processor(image, return_tensors="pt")["pixel_values"], padding))

    @torch.inference_mode()
    def theirs():
        if task == "semantic":
            return processor.post_process_semantic_segmentation(outputs(), target_sizes=[size])
        return processor.post_process_panoptic_segmentation(
            outputs(),
            threshold=model.object_mask_threshold,
            overlap_mask_area_threshold=model.overlap_threshold,
            label_ids_to_fuse=stuff,
            target_sizes=[size],
        )

    @torch.inference_mode()
    def compare(*_) -> str:
        peer = outputs()
        return verdict(worst(our_outputs(), (peer.class_queries_logits, peer.masks_queries_logits)))

    return Pair(ours, theirs, compare)


def beside_the_straightforward(backbone: str, size: tuple[int, int], task: str) -> Pair:
    torch.manual_seed(0)
    model = model_zoo.get(f"panoptic/coco/mask2former_{backbone}", weights=None, device="cpu")
    with torch.no_grad():
        model.sem_seg_head.predictor.class_embed.weight.mul_(CERTAINTY)
    _, ours, our_outputs = segzoo_run(model, size, task)
    padded_size = tuple(side + -side % 32 for side in size)

    @torch.inference_mode()
    def outputs() -> tuple[Tensor, Tensor]:
        with straightforward(model):
            return our_outputs()

    @torch.inference_mode()
    def theirs() -> Tensor:
        logits, masks = outputs()
        arguments = (logits[0], masks[0], padded_size, size, size)
        if task == "semantic":
            return straightforward_postprocess.semantic_scores(*arguments, resize_scores=False).argmax(0)
        return straightforward_postprocess.panoptic(
            *arguments,
            model.is_thing,
            model.object_mask_threshold,
            model.overlap_threshold,
            model.confident_pixels_only,
        )[0]

    def compare(ours: Tensor, theirs: Tensor) -> str:
        return verdict(worst(our_outputs(), outputs()), float((ours != theirs).float().mean()))

    return Pair(ours, theirs, compare)


def segzoo_run(model: nn.Module, size: tuple[int, int], task: str) -> tuple[Tensor, Callable, Callable]:
    """Return an image, a function that makes its map, and one that returns the network's outputs."""
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)

    @torch.inference_mode()
    def run() -> Tensor:
        result = model([{"image": image}], tasks=(task,), semantic="labels")[0]
        return result["sem_seg_labels"] if task == "semantic" else result["panoptic_seg"][0]

    @torch.inference_mode()
    def outputs() -> tuple[Tensor, Tensor]:
        result = model.raw_outputs([{"image": image}])
        return result["pred_logits"], result["pred_masks"]

    return image, run, outputs


def worst(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> float:
    """Return the largest difference relative to the spread."""
    return max(
        ((one - other).abs().max() / (other.max() - other.min())).item()
        for one, other in zip(ours, theirs, strict=True)
    )


def verdict(outputs: float, pixels: float = 0.0) -> str:
    same = outputs < TOLERANCE and pixels < PIXEL_TOLERANCE
    return f"{'' if same else 'DIFFERENT, '}outputs {outputs:.1e}" + (f", map {pixels:.1e}" if pixels else "")


PEERS = {"straightforward": beside_the_straightforward, "transformers": beside_transformers}

CASES = [
    Case(
        f"{backbone}-{height}x{width}-{task}-{peer}",
        f"Mask2Former {name}, image {height} x {width} to a {task} map; peer: {peer}",
        lambda make=make, backbone=backbone, size=(height, width), task=task: make(backbone, size, task),
        goal=1.5,
        memory_goal=1.0,
        repeat=3,
        slow=True,
        needs=("transformers",) if peer == "transformers" else (),
        recorded=height == 512 and task == "panoptic" and (peer == "transformers" or backbone == "r50"),
    )
    for peer, make in PEERS.items()
    for backbone, name in (("r50", "R50"), ("swin_tiny", "Swin-T"))
    for height, width in ((512, 512), (800, 1333))
    for task in ("panoptic", "semantic")
]
