"""Scoring threads: the queue's bound, the order of images, and the RLE encoder."""

import threading

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as mask_tools
from tabulate import tabulate

from segzoo.engine.evaluation_loop import run_inference
from segzoo.evaluation import EntityEvaluator, PanopticEvaluator, base, mask_runs
from segzoo.evaluation.rle import encode_rle
from segzoo.utils.errors import InputError
from tests.evaluation.evaluation_data import PanopticData


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return PanopticData(tmp_path_factory.mktemp("data"), num_images=12)


class Blocked(base.BackgroundEvaluator):
    """Evaluator that scores nothing until `go` is set, and counts queued predictions."""

    task_key = "blocked"

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.go, self.lock = threading.Event(), threading.Lock()
        self.waiting = self.most = 0

    def take(self, output, file_name):
        with self.lock:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
        return output

    def score(self, dataset_dict, prediction):
        assert self.go.wait(20), "`process` waited although there was room"
        with self.lock:
            self.waiting -= 1

    def summarize(self, merged):
        return {"images": self.image_count}


def test_a_batch_is_taken_while_its_images_are_still_to_be_scored(data):
    evaluator = Blocked(data.name)
    evaluator.process(data.dataset_dicts, [torch.zeros(1000)] * 12)
    assert evaluator.waiting == 12
    evaluator.go.set()
    assert evaluator.evaluate() == {"blocked": {"images": 12}}


@pytest.mark.parametrize(
    ("limit", "scoring_threads", "most"),
    [
        (5 * 4000, 2, 5),
        (5 * 4000 + 3999, 2, 5),
        (0, 2, 2),  # as many as there are threads, however large
        (0, 1, 1),
    ],
)
def test_the_queue_is_bounded_by_its_bytes(data, monkeypatch, limit, scoring_threads, most):
    monkeypatch.setattr(base, "WAITING_BYTES", limit)
    evaluator = Blocked(data.name, scoring_threads=scoring_threads)
    batch = [(torch.zeros(500), np.zeros(250), [{"id": 1}])] * 12  # 2000 + 2000 bytes
    threading.Timer(0.2, evaluator.go.set).start()
    evaluator.process(data.dataset_dicts, batch)
    evaluator.evaluate()
    # The caller holds the one that is being queued.
    assert evaluator.most <= most + 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError])
def test_queued_images_are_not_scored_after_an_error(data, error):
    """Python waits for its threads before it exits: otherwise perhaps minutes of scoring."""
    evaluator, taken = Blocked(data.name, scoring_threads=1), []

    class Failing(torch.nn.Module):
        def forward(self, inputs):
            if len(taken) == 10:
                raise error("stop")
            taken.append(inputs)
            return [{"sem_seg": torch.zeros(2, 4, 4)}]

    with pytest.raises(error):
        run_inference(Failing(), [[one] for one in data.dataset_dicts], evaluator)
    threads = [one for one in threading.enumerate() if one.name.startswith("Blocked")]
    evaluator.go.set()
    for thread in threads:
        thread.join(20)
    assert evaluator.waiting >= 9  # one was being scored


@pytest.mark.parametrize(
    ("evaluator", "key"), [(PanopticEvaluator, "panoptic_seg"), (EntityEvaluator, "entity_seg")]
)
def test_the_order_of_images_changes_nothing(data, evaluator, key):
    outputs = data.outputs(key)
    results = []
    for order in (range(12), reversed(range(12)), np.random.default_rng(0).permutation(12)):
        scored = evaluator(data.name)
        for index in order:
            scored.process([data.dataset_dicts[index]], [outputs[index]])
        results.append(scored.evaluate())
    np.testing.assert_equal(results[1:], results[:1] * 2)


def masks():
    rng = np.random.default_rng(0)
    for index in range(200):
        height, width = rng.integers(1, 70, 2)
        yield rng.random((height, width)) < (0.5, 0.03, 0.97, 0.0, 1.0)[index % 5]
    for shape in ((480, 640), (427, 641), (1, 3000), (3000, 1)):
        noise = rng.normal(0, 1, (8, 8)).astype(np.float32)
        yield cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_CUBIC) > 0.5
    yield np.zeros((0, 5), bool)
    yield np.zeros((40, 24), bool)[::2, ::3]
    yield np.asfortranarray(rng.random((48, 32)) < 0.5)


@pytest.mark.parametrize("at_once", [1, 1 << 28])
def test_runs_found_on_a_device_are_those_of_pycocotools(at_once, monkeypatch):
    monkeypatch.setattr(mask_runs, "_ELEMENTS_AT_ONCE", at_once)
    for mask in masks():
        several = np.stack([mask, ~mask, np.ones_like(mask), mask & False])
        runs = mask_runs.find_runs(torch.from_numpy(several))
        assert runs.shape == several.shape
        expected = [mask_tools.encode(np.asfortranarray(one, np.uint8)) for one in several]
        assert list(runs) == [{"size": one["size"], "counts": one["counts"].decode()} for one in expected]
    assert list(mask_runs.find_runs(torch.zeros(0, 3, 4, dtype=torch.bool))) == []


def test_encoded_masks_equal_pycocotools():
    for mask in masks():
        expected = mask_tools.encode(np.asfortranarray(mask, np.uint8))
        assert encode_rle(mask) == {"size": expected["size"], "counts": expected["counts"].decode()}


@pytest.mark.parametrize("columns", [["AP"], ["PQ", "SQ", "RQ"]])
@pytest.mark.parametrize("count", [1, 30])
def test_the_table_of_the_classes_is_tabulates(columns, count):
    rng = np.random.default_rng(count)
    names = ["a", "long name of a class", *(f"class{i}" for i in range(28))][:count]
    rows = (100 * rng.random((count, len(columns)))).tolist()
    rows[-1][-1] = 100.0
    expected = tabulate(
        [[name, *row] for name, row in zip(names, rows, strict=True)], ["class", *columns], "pipe", ".2f"
    )
    assert base.class_table(names, columns, rows) == expected
    absent = [float("nan")] * len(columns)
    found = base.class_table([*names, "none"], columns, [*rows, absent])
    assert found == expected + "\n(1 classes that do not occur are left out)"
