"""Training, evaluation and prediction: what drives a model."""

from typing import TYPE_CHECKING

from segzoo.utils.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from .checkpoint_evaluation import evaluate, evaluate_checkpoint
    from .distributed.launch import launch
    from .evaluation_loop import run_inference
    from .model_description import describe
    from .nonfinite_dump import NonFiniteLossError
    from .predictor import Predictor
    from .setup import default_setup, resolve_device
    from .train_step import TrainStep
    from .trainer import Trainer
    from .trainer_registry import TRAINER_REGISTRY
    from .trainers import find_trainer
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__all__ = [
    "TRAINER_REGISTRY",
    "NonFiniteLossError",
    "Predictor",
    "TrainStep",
    "Trainer",
    "default_setup",
    "describe",
    "evaluate",
    "evaluate_checkpoint",
    "find_trainer",
    "launch",
    "resolve_device",
    "run_inference",
]
