"""Evaluators with the same numbers as Detectron2, panopticapi, pycocotools and cityscapesScripts.

`build_evaluator` chooses them, `register_evaluator` adds others beside them; `write_results` stores the
metrics together with their protocol.
"""

from .base import BackgroundEvaluator
from .builder import build_evaluator, evaluator_protocols
from .cityscapes_instance import CityscapesInstanceEvaluator
from .entity import EntityEvaluator
from .instance import InstanceEvaluator
from .options import EvaluationOptions
from .panoptic import PanopticEvaluator
from .registry import find_evaluators, register_evaluator
from .results import Protocol, compare_results, load_results, write_results
from .semantic import CLASS_AVERAGING, SemanticEvaluator, printed_metrics

__all__ = [
    "CLASS_AVERAGING",
    "BackgroundEvaluator",
    "CityscapesInstanceEvaluator",
    "EntityEvaluator",
    "EvaluationOptions",
    "InstanceEvaluator",
    "PanopticEvaluator",
    "Protocol",
    "SemanticEvaluator",
    "build_evaluator",
    "compare_results",
    "evaluator_protocols",
    "find_evaluators",
    "load_results",
    "printed_metrics",
    "register_evaluator",
    "write_results",
]
