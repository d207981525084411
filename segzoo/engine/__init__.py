"""Training, evaluation and prediction: what drives a model."""

from .distributed.launch import launch
from .evaluation_loop import evaluate, run_inference
from .model_description import describe
from .nonfinite_dump import NonFiniteLossError
from .setup import default_setup, resolve_device
from .train_step import TrainStep
from .trainer import Trainer

__all__ = [
    "NonFiniteLossError",
    "Predictor",
    "TrainStep",
    "Trainer",
    "default_setup",
    "describe",
    "evaluate",
    "launch",
    "resolve_device",
    "run_inference",
]


def __getattr__(name: str):
    # Prediction needs image and drawing libraries that training does not: loaded on first use.
    if name == "Predictor":
        from .predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
