"""Predictions of a loader's batches, on a GPU with one batch ahead of the one that is scored."""

import contextlib
from collections.abc import Generator, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segzoo.modeling import SegmentationModel

from .progress import Stopwatch

Inputs = list[dict[str, Any]]


class Predicted(NamedTuple):
    """A batch, its predictions, and the event after which their copies on the host are complete."""

    inputs: Inputs
    outputs: list[dict[str, Any]]
    copied: torch.cuda.Event | None = None


def predictions(
    model: SegmentationModel,
    loader: Iterable[Inputs],
    stopwatch: Stopwatch,
    *,
    tasks: Sequence[str] | None,
    ahead: bool | None = None,
) -> Generator[tuple[Inputs, list[dict[str, Any]]], None, None]:
    """Yield batches and their predictions, in order.

    On a GPU the next batch is given to the device before the host waits for the last one, so that it computes
    while the host copies, scores and loads. Maps of labels and ids come on the host then, and what the caller
    computes on the device until it asks for the next batch is not queued behind that batch.

    Args:
        stopwatch: gets the laps "data" and "compute"; the latter is the time until predictions are complete.
        ahead: whether to compute ahead; None: for a model on a GPU.
    """
    if ahead is None:
        ahead = any(parameter.is_cuda for parameter in model.parameters())
    # The caller waits only for what is in its own stream, not for the batch ahead.
    beside = torch.cuda.Stream() if ahead and torch.cuda.is_available() else None
    last: Predicted | None = None
    for inputs in loader:
        stopwatch.lap("data")
        outputs = model(inputs, tasks=tasks, semantic="labels")
        now = _copied(inputs, outputs) if ahead else Predicted(inputs, outputs)
        last, done = (now, last) if ahead else (None, now)
        if done is not None:
            complete = _complete(done, stopwatch)
            with _current(beside):
                yield complete
            if beside is not None:
                # Memory of these predictions is used again only after what the caller left in its stream.
                torch.cuda.current_stream().wait_stream(beside)
        else:
            stopwatch.lap("compute")
    if last is not None:
        yield _complete(last, stopwatch)


def _current(stream: torch.cuda.Stream | None) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if stream is None else torch.cuda.stream(stream)


def _copied(inputs: Inputs, outputs: list[dict[str, Any]]) -> Predicted:
    """Start the copies to the host."""
    outputs = [{name: _on_host(value) for name, value in output.items()} for output in outputs]
    event = None
    if torch.cuda.is_available():
        event = torch.cuda.Event()
        event.record()
    return Predicted(inputs, outputs, event)


def _on_host(value: Any) -> Any:
    """Return a map of integers, or a pair of one and its segments, with the map on its way to the host.

    Everything else stays where it is: scores are reduced to labels, and masks to runs, on the device.
    """
    if isinstance(value, tuple):
        return tuple(map(_on_host, value))
    if isinstance(value, Tensor) and value.dim() == 2 and not value.is_floating_point():
        # Into page-locked memory, which a non-blocking copy allocates.
        return value.to("cpu", non_blocking=True)
    return value


def _complete(predicted: Predicted, stopwatch: Stopwatch) -> tuple[Inputs, list[dict[str, Any]]]:
    if predicted.copied is not None:
        predicted.copied.synchronize()
    stopwatch.lap("compute")
    return predicted.inputs, predicted.outputs
