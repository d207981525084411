"""Evaluators whose numbers are those of Detectron2, panopticapi, pycocotools and cityscapesScripts.

`build_evaluator` picks them; `write_results` keeps the numbers together with how they were made.
"""

from .base import BackgroundEvaluator
from .builder import EVALUATORS, build_evaluator
from .cityscapes_instance import CityscapesInstanceEvaluator
from .entity import EntityEvaluator
from .instance import InstanceEvaluator
from .panoptic import PanopticEvaluator
from .results import Protocol, compare_results, load_results, write_results
from .semantic import CLASS_AVERAGING, SemanticEvaluator, printed_metrics

__all__ = [
    "CLASS_AVERAGING",
    "EVALUATORS",
    "BackgroundEvaluator",
    "CityscapesInstanceEvaluator",
    "EntityEvaluator",
    "InstanceEvaluator",
    "PanopticEvaluator",
    "Protocol",
    "SemanticEvaluator",
    "build_evaluator",
    "compare_results",
    "load_results",
    "printed_metrics",
    "write_results",
]
