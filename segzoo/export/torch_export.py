"""A model as a program of tensor operations: from pixels to the head's own outputs, without segzoo.

Shape shorthand: N images, H W size of an image.
"""

import json
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import Tensor, nn
from torch.export import ExportedProgram

from segzoo.engine.model_description import describe
from segzoo.modeling import Segmentor, as_segmentor
from segzoo.utils.dataset_names import classes_dataset
from segzoo.utils.errors import InputError
from segzoo.utils.files import written_whole

# The text file inside a program's file that says what goes in and what comes out.
DESCRIPTION = "segzoo.json"

# Of the outputs' norm. Rounding is far below; but where it decides what a query may look at, it can show.
LARGEST_DIFFERENCE = 0.01


class Network(nn.Module):
    """The part of a meta-architecture that runs before post-processing.

    Calls `batch_outputs`: (N, 3, H, W) float pixels in [0, 255] to `pred_logits` and `pred_masks` of mask
    classification, to `sem_seg_logits` of per-pixel methods. `torch.compile(Network(model))` has no breaks.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = as_segmentor(model)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.model.batch_outputs(images)


@torch.no_grad()
def export_program(model: nn.Module, size: tuple[int, int], batch_size: int = 1) -> ExportedProgram:
    """Traces a model, which has to be in eval mode, for one size of images.

    Args:
        model: a meta-architecture, a `Segmentor` or one with `raw_outputs`.
        size: (H, W), any; normalizing and padding are part of the program.
        batch_size: N.

    Raises:
        InputError: what the model does depends on values of tensors.
    """
    try:
        return torch.export.export(Network(model), (_noise(model, size, batch_size),))
    except RuntimeError as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"{type(model).__name__} cannot be traced ({reason}); no shape may depend on values of "
            "tensors: derive it from segzoo.modeling.Segmentor, which pads without"
        ) from error


@torch.no_grad()
def save_program(
    path: str | Path, program: ExportedProgram, model: nn.Module, description: dict[str, Any]
) -> float:
    """Writes a program and its description to a file, which stays only if it computes what the model does.

    Args:
        path: of the file to write, with the extension .pt2.
        program: of `export_program`.
        model: that it was made of.
        description: see `describe_program`.

    Returns:
        The norm of the difference of the outputs, read back and run, in units of the outputs' norm.

    Raises:
        InputError: that is more than LARGEST_DIFFERENCE.
    """
    path = Path(path)
    with written_whole(path) as unfinished:
        torch.export.save(program, unfinished, extra_files={DESCRIPTION: json.dumps(description, indent=1)})
        shape = description["input"]["shape"]
        images = _noise(model, tuple(shape[2:]), shape[0])
        expected = as_segmentor(model).batch_outputs(images)
        outputs = torch.export.load(unfinished).module()(images)
        differences = {name: _difference(outputs[name], expected[name]) for name in expected}
        for name, difference in differences.items():
            if not difference <= LARGEST_DIFFERENCE:  # nan, too
                raise InputError(
                    f"{path}: {name} of the exported program differs from the model's by {difference:.2g} of "
                    f"its norm (limit {LARGEST_DIFFERENCE}); file not kept"
                )
    return max(differences.values())


@torch.no_grad()
def describe_program(
    cfg: CfgNode, model: nn.Module, size: tuple[int, int], batch_size: int = 1
) -> dict[str, Any]:
    """What a checkpoint says of itself (classes, colors, ...), and the program's `input` and `outputs`.

    `padded_size` of the input is what the functions of `mask_classification.postprocess` ask for first;
    `postprocess` has the tasks, thresholds and numbers that the configuration gives them, nothing for other
    models.
    """
    images = _noise(model, size, batch_size)
    segmentor = as_segmentor(model, input_format=cfg.INPUT.FORMAT)
    outputs = segmentor.batch_outputs(images)
    return {
        **describe(cfg, MetadataCatalog.get(classes_dataset(cfg))),
        "input": {
            "shape": list(images.shape),
            "range": [0, 255],
            "channels": segmentor.input_format,
            "padded_size": list(segmentor.padded_size(size)),
        },
        "outputs": {name: list(output.shape) for name, output in outputs.items()},
        "postprocess": _postprocessing(cfg, segmentor) if "pred_masks" in outputs else {},
    }


def _postprocessing(cfg: CfgNode, segmentor: Segmentor) -> dict[str, Any]:
    return {
        "tasks": list(cfg.TEST.TASKS) or [cfg.TASK],
        **{key.lower(): value for key, value in cfg.MODEL.MASK_FORMER.TEST.items()},
        "semantic_resizing": segmentor.semantic_resizing,
        "entity_score_threshold": cfg.TEST.ENTITY_SCORE_THRESHOLD,
        "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
    }


def _noise(model: nn.Module, size: tuple[int, int], batch_size: int) -> Tensor:
    """(N, 3, H, W) float pixels, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch_size, 3, *size, generator=generator).mul_(255).to(as_segmentor(model).device)


def _difference(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm().clamp(min=1e-12))
