"""A complete evaluation of three tasks, beside Detectron2's loop with its evaluators and the same model."""

import time
from unittest import mock

import torch
from benchmark_cases import evaluation_run

from . import Rows, Settings
from .measuring import failures_in_rows

IMAGES = 100


def run(settings: Settings, rows: Rows) -> None:
    """Run both once; the images are about 480 x 640, with the predictions of a good model."""
    images = 8 if settings.small else IMAGES
    patches = {"IMAGES": images, "SCORED_ALONE": evaluation_run.BATCH, "DEVICE": settings.device}
    with mock.patch.multiple(evaluation_run, **patches):
        pair = evaluation_run.whole_run()
        results = {}
        for by, evaluate in (("segzoo", pair.segzoo), ("detectron2", pair.peer)):
            with failures_in_rows(rows, by=by):
                started = time.perf_counter()
                results[by] = evaluate()
                if settings.on_gpu:
                    torch.cuda.synchronize()
                taken = time.perf_counter() - started
                rows.add(by=by, images=images, seconds=taken, **{"images/s": images / taken})
        if len(results) == 2:
            rows.add(by="difference", result=pair.compare(*results.values()))
