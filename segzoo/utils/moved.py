"""Import modules of version 0.1 by their old names, with a warning that gives the new one."""

import importlib
import importlib.abc
import sys
import types
import warnings
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

_MASKS = "segzoo.modeling.mask_classification"
# CHANGELOG.md shows this table. A name that is now a function of its package, such as segzoo.engine.launch,
# cannot be listed: importing the module would overwrite the function.
MOVED = {
    "segzoo.checkpoint.description": "segzoo.checkpoint.compatibility",
    "segzoo.checkpoint.files": "segzoo.checkpoint.download",
    "segzoo.checkpoint.layouts": "segzoo.checkpoint.rules_cnn",
    "segzoo.checkpoint.reading": "segzoo.checkpoint.reader",
    "segzoo.checkpoint.transformer_layouts": "segzoo.checkpoint.rules_transformer",
    "segzoo.checkpoint.writing": "segzoo.checkpoint.atomic_save",
    "segzoo.coco_masks": "segzoo.utils.coco_masks",
    "segzoo.data.formats": "segzoo.data.label_reader",
    "segzoo.data.instances": "segzoo.data.coco_instances",
    "segzoo.data.messages": "segzoo.data.checks",
    "segzoo.data.pixels": "segzoo.data.label_ops",
    "segzoo.data.policies": "segzoo.data.augmentation.policies",
    "segzoo.data.recipe_policies": "segzoo.data.augmentation.recipes",
    "segzoo.data.transforms": "segzoo.data.augmentation.transforms",
    "segzoo.engine.draw": "segzoo.visualization.draw",
    "segzoo.engine.export": "segzoo.export.torch_export",
    "segzoo.engine.figures": "segzoo.visualization.panels",
    "segzoo.engine.lost": "segzoo.engine.distributed.peer_failure",
    "segzoo.engine.network": "segzoo.engine.distributed.network",
    "segzoo.engine.nonfinite": "segzoo.engine.nonfinite_dump",
    "segzoo.engine.output_folder": "segzoo.engine.output_lock",
    "segzoo.engine.picture_inputs": "segzoo.engine.predictor_inputs",
    "segzoo.engine.pictures": "segzoo.engine.tensorboard_images",
    "segzoo.engine.random_state": "segzoo.engine.rng_state",
    "segzoo.engine.recording": "segzoo.engine.progress",
    "segzoo.engine.self_description": "segzoo.engine.model_description",
    "segzoo.engine.signals": "segzoo.engine.distributed.signals",
    "segzoo.engine.skipped": "segzoo.engine.skipped_files",
    "segzoo.errors": "segzoo.utils.errors",
    "segzoo.evaluation.files": "segzoo.evaluation.prediction_io",
    "segzoo.evaluation.instance_task": "segzoo.evaluation.instance_base",
    "segzoo.evaluation.run_lengths": "segzoo.evaluation.rle",
    "segzoo.evaluation.saved": "segzoo.evaluation.rescore",
    "segzoo.json_values": "segzoo.utils.json_values",
    "segzoo.layers.autocast": "segzoo.layers.runtime",
    "segzoo.layers.recompute": "segzoo.layers.runtime",
    "segzoo.layers.transfer": "segzoo.layers.runtime",
    "segzoo.model_zoo.analysis": "segzoo.engine.analysis",
    "segzoo.model_zoo.config_paths": "segzoo.config.paths",
    "segzoo.model_zoo.config_values": "segzoo.config.rules",
    "segzoo.model_zoo.detectron2_keys": "segzoo.config.version_keys",
    "segzoo.model_zoo.from_checkpoint": "segzoo.engine.model_config",
    "segzoo.model_zoo.reading": "segzoo.model_zoo.table_reader",
    "segzoo.model_zoo.saved_config": "segzoo.engine.saved_config",
    "segzoo.model_zoo.zoo": "segzoo.model_zoo.api",
    f"{_MASKS}.binary_masks": f"{_MASKS}.postprocess.binary_masks",
    f"{_MASKS}.contest": f"{_MASKS}.postprocess.panoptic_fusion",
    f"{_MASKS}.criterion_dense": f"{_MASKS}.criterion.dense_loss",
    f"{_MASKS}.criterion_points": f"{_MASKS}.criterion.point_loss",
    f"{_MASKS}.criterion_rows": f"{_MASKS}.criterion.matched_masks",
    f"{_MASKS}.mask_predictions": f"{_MASKS}.criterion.mask_predictions",
    f"{_MASKS}.matcher": f"{_MASKS}.criterion.matcher",
    f"{_MASKS}.points": f"{_MASKS}.criterion.point_sampling",
    f"{_MASKS}.targets": f"{_MASKS}.criterion.target_masks",
    f"{_MASKS}.tiles": f"{_MASKS}.postprocess.tiled_masks",
    "segzoo.paths": "segzoo.utils.paths",
    "segzoo.text_files": "segzoo.utils.text_files",
    "segzoo.threads": "segzoo.utils.threads",
}
_INTERNAL = (str(Path(__file__).parent), str(Path(importlib.__file__).parent), "<frozen importlib")


def find_moved_modules() -> None:
    """Install the finder of the modules in MOVED, after all other finders."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MOVED else None

    def exec_module(self, module: types.ModuleType) -> None:
        name = module.__name__
        warnings.warn(
            f"{name} is now {MOVED[name]}; import that, the old name will be removed in version 0.3",
            DeprecationWarning,
            stacklevel=_stack_level(),
        )
        # The same module object, so that its classes are identical by either name.
        sys.modules[name] = importlib.import_module(MOVED[name])


def _stack_level() -> int:
    """Return the caller's `stacklevel` of the first frame outside the import system."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INTERNAL):
        # `warnings` does not count frozen frames.
        level += not frame.f_code.co_filename.startswith("<frozen importlib")
        frame = frame.f_back
    return level
