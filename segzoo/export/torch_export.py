"""Export of a model as a torch.export program, from pixels to the head's outputs, that runs without segzoo.

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
from segzoo.utils.files import atomic_path

# The file inside a program's file that describes its inputs and outputs.
DESCRIPTION = "segzoo.json"

# Relative to the outputs' norm. Rounding errors are far smaller, except where they change an attention mask.
LARGEST_DIFFERENCE = 0.01


class Network(nn.Module):
    """The part of a meta-architecture before post-processing.

    Calls `batch_outputs`: (N, 3, H, W) float pixels in [0, 255] to `pred_logits` and `pred_masks` of mask
    classification, to `sem_seg_logits` of per-pixel methods. `torch.compile(Network(model))` has no graph
    breaks.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = as_segmentor(model)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.model.batch_outputs(images)


def check_exportable(model: nn.Module) -> None:
    """Refuse a model that export cannot write, whatever its weights.

    Raises:
        InputError: shapes of its outputs depend on the pixels.
    """
    if not as_segmentor(model).fixed_shapes:
        raise InputError(
            f"{type(model).__name__} cannot be exported: the number of boxes that it passes on depends on "
            "the image; `segzoo predict` and segzoo.engine.Predictor run it"
        )


@torch.no_grad()
def export_program(model: nn.Module, size: tuple[int, int], batch_size: int = 1) -> ExportedProgram:
    """Trace a model, which has to be in eval mode, for one image size.

    Args:
        model: a meta-architecture, a `Segmentor` or one with `raw_outputs`.
        size: any (H, W); normalization and padding are part of the program.
        batch_size: N.

    Raises:
        InputError: the model's control flow or shapes depend on values of tensors.
    """
    check_exportable(model)
    try:
        return torch.export.export(Network(model), (_noise(model, size, batch_size),))
    except RuntimeError as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"{type(model).__name__} cannot be traced ({reason}); no shape may depend on values of "
            "tensors: derive it from segzoo.modeling.Segmentor, whose padding does not"
        ) from error


@torch.no_grad()
def save_program(
    path: str | Path, program: ExportedProgram, model: nn.Module, description: dict[str, Any]
) -> float:
    """Write a program and its description to a file, kept only if its outputs match the model's.

    Args:
        path: file to write, with the extension .pt2.
        program: from `export_program`.
        model: the model it was traced from.
        description: see `describe_program`.

    Returns:
        The norm of the outputs' difference after reading the file back, relative to the outputs' norm.

    Raises:
        InputError: the difference is above LARGEST_DIFFERENCE.
    """
    path = Path(path)
    with atomic_path(path) as unfinished:
        torch.export.save(program, unfinished, extra_files={DESCRIPTION: json.dumps(description, indent=1)})
        shape = description["input"]["shape"]
        images = _noise(model, tuple(shape[2:]), shape[0])
        expected = as_segmentor(model).batch_outputs(images)
        outputs = torch.export.load(unfinished).module()(images)
        differences = {name: _difference(outputs[name], expected[name]) for name in expected}
        for name, difference in differences.items():
            if not difference <= LARGEST_DIFFERENCE:  # also NaN
                raise InputError(
                    f"{path}: {name} of the exported program differs from the model's by {difference:.2g} of "
                    f"its norm (limit {LARGEST_DIFFERENCE}); file not kept"
                )
    return max(differences.values())


@torch.no_grad()
def describe_program(
    cfg: CfgNode, model: nn.Module, size: tuple[int, int], batch_size: int = 1
) -> dict[str, Any]:
    """Return a checkpoint's description (class names, colors, ...) with the program's `input` and `outputs`.

    `padded_size` of the input is the first argument of the functions in `mask_classification.postprocess`;
    `postprocess` has their tasks, thresholds and numbers from the configuration, nothing for other models.
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
    """Return (N, 3, H, W) float pixels, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch_size, 3, *size, generator=generator).mul_(255).to(as_segmentor(model).device)


def _difference(actual: Tensor, expected: Tensor) -> float:
    # Outputs may be whole numbers, such as classes.
    actual, expected = actual.float(), expected.float()
    return float((actual - expected).norm() / expected.norm().clamp(min=1e-12))
