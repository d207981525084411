"""Evaluation in batches: predictions independent of the rest of the batch, and the reported times."""

import contextlib
import functools
import json
import re
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from segzoo.data import build as data_build
from segzoo.data import build_test_augmentations, build_test_loader, coco_json, mapper, record_cache
from segzoo.data.sampling import SameSizeBatchSampler
from segzoo.engine import Trainer, evaluate, evaluation_loop
from segzoo.engine.ahead import predictions as predictions_of
from segzoo.engine.evaluation_loop import check_evaluation, evaluation_advice, shares
from segzoo.engine.progress import Stopwatch
from segzoo.evaluation import load_results
from segzoo.model_zoo import load_config

SIZES = [(64, 96), (96, 64), (64, 96), (61, 90), (96, 64), (64, 96), (70, 70), (64, 95), (96, 61)]
YAML = """
name: sized
root: {root}
splits: {{sized_val: val}}
images: images
annotations: panoptic.json
panoptic: panoptic
classes:
  - {{id: 1, name: thing, isthing: true}}
  - {{id: 2, name: stuff, isthing: false}}
"""


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    """A small model for images of several sizes, half thing and half stuff."""
    folder = tmp_path_factory.mktemp("sized")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    (folder / "panoptic").mkdir()
    images, annotations = [], []
    for index, (height, width) in enumerate(SIZES):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(folder / "images" / f"{index}.png")
        ids = np.zeros((height, width, 3), np.uint8)
        ids[:, : width // 2, 0], ids[:, width // 2 :, 0] = 1, 2
        Image.fromarray(ids).save(folder / "panoptic" / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png", "height": height, "width": width})
        segments = [{"id": 1, "category_id": 1, "iscrowd": 0}, {"id": 2, "category_id": 2, "iscrowd": 0}]
        annotations.append({"image_id": index, "file_name": f"{index}.png", "segments_info": segments})
    categories = [{"id": 1, "name": "thing", "isthing": 1}, {"id": 2, "name": "stuff", "isthing": 0}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "panoptic.json").write_text(json.dumps(document))
    (folder / "sized.yaml").write_text(YAML.format(root=folder))
    overrides = {
        "DATASETS.FILES": f"('{folder}/sized.yaml',)",
        "DATASETS.TRAIN": "()",
        "DATASETS.TEST": "('sized_val',)",
        "INPUT.MIN_SIZE_TEST": 0,
        "TEST.TASKS": "('semantic', 'panoptic', 'instance', 'entity')",
        "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": 0.0,
        "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": 0.0,
        "DATALOADER.NUM_WORKERS": 0,
        "OUTPUT_DIR": folder / "out",
    }
    words = [str(word) for pair in overrides.items() for word in pair]
    return load_config("panoptic/shapes/mask2former_r18_quarter", words)


@pytest.fixture(scope="module")
def model(cfg):
    torch.manual_seed(0)
    return Trainer.build_model(cfg).eval()


def in_batches(cfg, size):
    cfg = cfg.clone()
    cfg.TEST.IMS_PER_BATCH = size
    return cfg


@torch.no_grad()
def predictions(cfg, model, size):
    """Return {file name: result}."""
    found = {}
    for inputs in build_test_loader(in_batches(cfg, size), "sized_val"):
        found |= zip((one["file_name"] for one in inputs), model(inputs), strict=True)
    return found


def test_a_prediction_does_not_depend_on_its_batch(cfg, model):
    alone = predictions(cfg, model, 1)
    assert len(alone) == len(SIZES)
    for size in (3, 8):
        together = predictions(cfg, model, size)
        assert together.keys() == alone.keys()
        for name, result in alone.items():
            other = together[name]
            # A larger batch sums in another order; padding would cause far larger differences.
            torch.testing.assert_close(other["sem_seg"], result["sem_seg"], rtol=1e-4, atol=1e-5)
            for key in ("panoptic_seg", "entity_seg"):
                differing = (other[key][0] != result[key][0]).float().mean()
                assert differing < 1e-3, (name, key)
                assert len(other[key][1]) == len(result[key][1])
            scores = [one["instances"].scores for one in (other, result)]
            torch.testing.assert_close(*scores, rtol=1e-3, atol=1e-4)


def test_results_do_not_depend_on_the_batch_and_hold_the_shares_of_the_time(cfg, model):
    results = []
    for size in (1, 8):
        results.append(evaluate(in_batches(cfg, size), model))
        protocol = load_results(f"{cfg.OUTPUT_DIR}/inference")["protocol"]
        percent = protocol["wall_time_percent"]["sized_val"]
        assert percent.keys() == {"data", "compute", "scoring"}
        assert sum(percent.values()) == pytest.approx(100, abs=0.05)
        seconds = protocol["seconds_per_image"]["sized_val"]
        for part, share in percent.items():
            assert share == pytest.approx(100 * seconds[part] / sum(seconds.values()), abs=0.01)
    first, second = (
        {f"{task}/{key}": value for task in one for key, value in one[task].items()} for one in results
    )
    assert first == pytest.approx(second, abs=0.2, nan_ok=True)


def test_an_evaluation_parses_a_json_once_and_builds_one_resize_for_all_images(cfg, model, monkeypatch):
    # Like a new process.
    monkeypatch.setattr(record_cache, "_remembered", {})
    calls = {"parsed": 0, "built": 0}

    def counted(name, function):
        def count(*arguments):
            calls[name] += 1
            return function(*arguments)

        return count

    monkeypatch.setattr(coco_json, "_parsed", counted("parsed", coco_json._parsed))
    build = counted("built", build_test_augmentations)
    for module in (data_build, mapper):
        monkeypatch.setattr(module, "build_test_augmentations", build)
    check_evaluation(cfg, Trainer)
    evaluate(cfg, model)
    # For the sizes of the batches, and for the mapper.
    assert calls == {"parsed": 1, "built": 2}


def test_batches_hold_images_of_one_padded_size_where_possible(cfg):
    batches = [
        [tuple(one["image"].shape[-2:]) for one in inputs]
        for inputs in build_test_loader(in_batches(cfg, 2), "sized_val")
    ]
    padded = [{tuple(-(-side // 32) for side in size) for size in batch} for batch in batches]
    # Five of the nine images are padded to 64 x 96, three to 96 x 64, one to 96 x 96.
    assert [len(sizes) for sizes in padded] == [1, 1, 1, 2, 1]
    assert [len(batch) for batch in batches] == [2, 2, 2, 2, 1]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
@pytest.mark.parametrize("kinds", ["aaaaaaa", "abababa", "abcdefg", "aabbbca", [None] * 7])
@pytest.mark.parametrize("indices", [range(7), range(2, 5), range(0)])
def test_every_image_is_in_one_batch(kinds, batch_size, indices):
    batches = list(SameSizeBatchSampler(indices, kinds, batch_size))
    assert sorted(index for batch in batches for index in batch) == list(indices)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert len(batches) == -(-len(indices) // batch_size)
    mixed = sum(len({kinds[index] for index in batch}) > 1 for batch in batches)
    alike = sum([kinds[index] for index in indices].count(kind) // batch_size for kind in set(kinds))
    assert mixed <= len(batches) - alike
    if batch_size == 1 or len(set(kinds)) == 1:
        assert [index for batch in batches for index in batch] == list(indices)


def test_shares_are_of_the_wall_time():
    assert shares({"data": 1.0, "compute": 2.5, "scoring": 0.5}) == {
        "data": 25.0,
        "compute": 62.5,
        "scoring": 12.5,
    }


@pytest.mark.parametrize(
    ("seconds", "advice"),
    [
        ((0.1, 0.8, 0.1), []),
        (
            (0.5, 0.4, 0.1),
            [r"waited for images 50 % of the time: raise DATALOADER\.NUM_WORKERS \(now 0; 16 "],
        ),
        ((0.1, 0.5, 0.4), [r"waited for scores 40 % of the time: raise TEST\.SCORING_THREADS \(now 2 "]),
        ((0.4, 0.2, 0.4), ["images 40 %", "scores 40 %"]),
        ((0.005, 0.001, 0.001), []),  # a second in all
    ],
)
def test_an_evaluation_that_waits_gives_advice(cfg, seconds, advice, monkeypatch):
    monkeypatch.setattr("segzoo.utils.threads._bound_processors", lambda: 16)
    monkeypatch.setattr("segzoo.utils.threads._cgroup_shares", lambda: [])
    found = evaluation_advice(cfg, dict(zip(("data", "compute", "scoring"), seconds, strict=True)), 150)
    assert len(found) == len(advice)
    for text, pattern in zip(found, advice, strict=True):
        assert re.search(pattern, text)


class Steps(torch.nn.Module):
    """A model that notes its calls, and predicts maps of the numbers of the images."""

    input_format = "RGB"

    def __init__(self, order):
        super().__init__()
        self.order = order

    def forward(self, batched_inputs, *, tasks=None, semantic="scores"):
        numbers = [one["number"] for one in batched_inputs]
        self.order.append(("computed", *numbers))
        return [
            {
                "sem_seg_labels": torch.full((2, 3), number),
                "panoptic_seg": (torch.full((2, 3), number, dtype=torch.int32), [{"id": number}]),
                "sem_seg": torch.full((4, 2, 3), float(number)),
            }
            for number in numbers
        ]


@pytest.mark.parametrize("count", [0, 1, 4])
@pytest.mark.parametrize("ahead", [False, True])
def test_on_a_gpu_the_next_batch_is_computed_before_the_last_one_is_scored(count, ahead):
    order = []
    loader = [[{"number": index}] for index in range(count)]
    stopwatch = Stopwatch()
    for inputs, outputs in predictions_of(Steps(order), loader, stopwatch, tasks=None, ahead=ahead):
        number = inputs[0]["number"]
        order.append(("scored", number))
        assert outputs[0]["sem_seg_labels"].unique().tolist() == [number]
        ids, segments = outputs[0]["panoptic_seg"]
        assert ids.unique().tolist() == [number]
        assert segments == [{"id": number}]
        assert outputs[0]["sem_seg"].unique().tolist() == [number]
    scored = [("scored", number) for number in range(count)]
    computed = [("computed", number) for number in range(count)]
    expected = [event for pair in zip(computed, scored, strict=True) for event in pair]
    if ahead and count > 1:
        expected = [computed[0]]
        for number in range(1, count):
            expected += [computed[number], scored[number - 1]]
        expected.append(scored[-1])
    assert order == expected
    assert set(stopwatch.seconds) <= {"data", "compute"}


class Streams:
    """CUDA streams that note what waits for what."""

    def __init__(self, monkeypatch):
        self.events, self.current = [], "own"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "Stream", lambda: "beside")
        monkeypatch.setattr(torch.cuda, "Event", mock.MagicMock())
        monkeypatch.setattr(torch.cuda, "stream", self.entered)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: self)

    def wait_stream(self, other):
        self.events.append(f"{self.current} waits for {other}")

    @contextlib.contextmanager
    def entered(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before


def test_what_the_scoring_queues_on_a_gpu_precedes_what_uses_its_memory_again(monkeypatch):
    streams = Streams(monkeypatch)
    loader = [[{"number": index}] for index in range(3)]
    scored = streams.events
    for inputs, _ in predictions_of(Steps(scored), loader, Stopwatch(), tasks=None, ahead=True):
        scored.append(f"{inputs[0]['number']} in {streams.current}")
    waits = "own waits for beside"
    computed = [("computed", index) for index in range(3)]
    assert scored == [
        *computed[:2],
        "0 in beside",
        waits,
        computed[2],
        "1 in beside",
        waits,
        "2 in own",
    ]


def test_an_error_in_the_scoring_leaves_its_stream(monkeypatch):
    streams = Streams(monkeypatch)
    monkeypatch.setattr(evaluation_loop, "as_segmentation_model", lambda model: model)
    ahead = functools.partial(predictions_of, ahead=True)
    monkeypatch.setattr(evaluation_loop, "predictions", ahead)

    class Broken(mock.MagicMock):
        def process(self, inputs, outputs):
            assert streams.current == "beside"
            raise ValueError("broken")

    loader = [[{"number": index}] for index in range(3)]
    with pytest.raises(ValueError, match="broken") as raised:
        evaluation_loop.feed(Steps([]), loader, Broken(), Stopwatch())
    assert streams.current == "own", raised
