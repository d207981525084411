#!/usr/bin/env python
"""Score ground truth that was reduced to the size of a method's masks and enlarged again.

python tools/mask_size_bound.py --data coco_panoptic --split coco_2017_val_panoptic
python tools/mask_size_bound.py --data my_dataset.yaml --method entityseg --short 512 --long 1024

The segments of each image become masks at the size that the network sees (nearest), at the size of the
method's masks, and at the size of the image again, where a pixel belongs to the segment whose mask exceeds
0.5. PQ and the AP of entities are computed as in an evaluation; crowd segments are not predicted.
Masks that are fitted with the loss of a method can score higher, above all small objects at low resolution.
METHOD is:

panoptic_segformer   masks on a grid of stride 8, enlarged in one bilinear step
entityseg            masks at stride 4, enlarged by the aligned resize of dynamic kernels, then bilinear
entityseg_logits     logits at stride 8, as its mask branch has them: doubled, then as entityseg
maskformer           masks at stride 4, bilinear to the network's size and to the image's
"""

import argparse
from collections.abc import Callable, Sequence

import segzoo  # noqa: F401  before Detectron2: makes the installed library versions work together

# isort: split
from command_line import EXIT_STATUS, CommandLine, end, report_errors, whole_number

# isort: split
import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from tabulate import tabulate
from torch import Tensor
from torch.nn import functional as F

from segzoo.data import register_dataset_file
from segzoo.evaluation import build_evaluator
from segzoo.utils.errors import InputError

Size = tuple[int, int]
# Logit of a pixel inside: sigmoid(10) is 1 - 5e-5.
LOGIT = 10.0
SIZE_DIVISIBILITY = 32


def network_size(size: Size, short: int, long: int) -> Size:
    """Return the size of an image whose short side becomes `short`, its long side at most `long`."""
    if not short:
        return size
    scale = min(short / min(size), long / max(size))
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def bilinear(masks: Tensor, size: Size) -> Tensor:
    """Resize (S, h, w) masks without antialiasing."""
    return F.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0]


def aligned(masks: Tensor, factor: int) -> Tensor:
    """Enlarge (S, h, w) masks; cell i keeps its value at factor * i + factor // 2."""
    height, width = masks.shape[-2:]
    masks = F.pad(masks[None], (0, 1, 0, 1), mode="replicate")
    masks = F.interpolate(
        masks, (factor * height + 1, factor * width + 1), mode="bilinear", align_corners=True
    )
    masks = F.pad(masks, (factor // 2, 0, factor // 2, 0), mode="replicate")
    return masks[0, :, : factor * height, : factor * width]


def padded(masks: Tensor) -> Tensor:
    """Pad (S, h, w) masks with zeros to a multiple of SIZE_DIVISIBILITY."""
    height, width = masks.shape[-2:]
    return F.pad(masks, (0, -width % SIZE_DIVISIBILITY, 0, -height % SIZE_DIVISIBILITY))


def panoptic_segformer(masks: Tensor, output: Size) -> Tensor:
    """Return masks after a grid of stride 8, whose sides are rounded up."""
    height, width = masks.shape[-2:]
    return bilinear(bilinear(masks, (-(-height // 8), -(-width // 8))), output)


def entityseg(masks: Tensor, output: Size) -> Tensor:
    """Return masks after stride 4."""
    height, width = masks.shape[-2:]
    return bilinear(aligned(padded(masks)[:, 2::4, 2::4], 4)[:, :height, :width], output)


def entityseg_logits(masks: Tensor, output: Size) -> Tensor:
    """Return masks after logits at stride 8."""
    height, width = masks.shape[-2:]
    logits = (padded(masks)[:, 4::8, 4::8] * 2 - 1) * LOGIT
    return bilinear(aligned(aligned(logits, 2).sigmoid(), 4)[:, :height, :width], output)


def maskformer(masks: Tensor, output: Size) -> Tensor:
    """Return masks after stride 4 of the padded image."""
    height, width = masks.shape[-2:]
    whole = padded(masks)
    size = whole.shape[-2:]
    small = bilinear(whole, (size[0] // 4, size[1] // 4))
    return bilinear(bilinear(small, tuple(size))[:, :height, :width], output)


METHODS: dict[str, Callable[[Tensor, Size], Tensor]] = {
    one.__name__: one for one in (panoptic_segformer, entityseg, entityseg_logits, maskformer)
}


def reduced(ids: np.ndarray, segments: list[dict], size: Size, method: str) -> tuple[np.ndarray, list[dict]]:
    """Return an id map and its segments after the masks were reduced and enlarged.

    Args:
        ids: (H, W) segment ids.
        segments: dicts with id, category_id and iscrowd.
        size: of the network's input.
        method: a key of METHODS.
    """
    segments = [segment for segment in segments if not segment["iscrowd"]]
    result = np.zeros_like(ids)
    if not segments:
        return result, []
    masks = torch.stack([torch.from_numpy(ids == segment["id"]) for segment in segments]).float()
    probabilities = METHODS[method](F.interpolate(masks[None], size, mode="nearest")[0], ids.shape)
    best, index = probabilities.max(0)
    chosen = np.array([segment["id"] for segment in segments], ids.dtype)[index.numpy()]
    result = np.where((best > 0.5).numpy(), chosen, 0)
    present = set(np.unique(result).tolist())
    keys = ("id", "category_id")
    return result, [
        {**{key: segment[key] for key in keys}, "score": 1.0}
        for segment in segments
        if segment["id"] in present
    ]


def bound(split: str, method: str, short: int, long: int) -> dict[str, float]:
    """Return PQ, PQ of things and of stuff, and the AP of entities on a split, in percent."""
    records, metadata = DatasetCatalog.get(split), MetadataCatalog.get(split)
    if metadata.evaluator_type != "panoptic":
        raise InputError(f"--split {split}: {metadata.evaluator_type} labels, expected panoptic ones")
    evaluator = build_evaluator(split, ("panoptic", "entity"))
    evaluator.reset()
    for record in records:
        ids, segments = metadata.load_panoptic(record)
        segment_map = reduced(ids, segments, network_size(ids.shape, short, long), method)
        evaluator.process([record], [{"panoptic_seg": segment_map, "entity_seg": segment_map}])
    results = evaluator.evaluate()
    panoptic, entity = results["panoptic_seg"], results["entity_seg"]
    return {
        **{name: panoptic[name] for name in ("PQ", "SQ", "RQ", "PQ_th", "PQ_st")},
        **{f"entity {name}": entity[name] for name in ("AP", "AP50", "AP75")},
    }


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = CommandLine(
        description=__doc__, epilog=EXIT_STATUS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", required=True, metavar="FILE|NAME", help="dataset file, or built-in dataset"
    )
    parser.add_argument("--split", help="split of the dataset; default: its last")
    parser.add_argument(
        "--method", nargs="+", default=list(METHODS), choices=list(METHODS), help="default: all"
    )
    parser.add_argument(
        "--short", type=whole_number(0), default=800, help="short side of the input; 0: the image's own size"
    )
    parser.add_argument("--long", type=whole_number(1), default=1333, help="longest side of the input")
    return parser.parse_args(arguments)


@report_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; return its exit status: 0, or 2 for wrong input."""
    args = parse_arguments(arguments)
    splits = register_dataset_file(args.data)
    split = args.split or splits[-1]
    if split not in splits:
        raise InputError(f"--split {split}: expected one of {', '.join(splits)}")
    rows = [{"method": method, **bound(split, method, args.short, args.long)} for method in args.method]
    print(tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".2f"))
    return 0


if __name__ == "__main__":
    end(main())
