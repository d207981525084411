"""Peak memory of training and inference, predicted without computing and measured."""

from .jobs import JOBS, SEGMENTS, Job, on_cpu
from .measurement import Measured, measure
from .prediction import Predicted, predict

__all__ = ["JOBS", "SEGMENTS", "Job", "Measured", "Predicted", "measure", "on_cpu", "predict"]
