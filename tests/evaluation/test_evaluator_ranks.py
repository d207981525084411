"""The result does not depend on how images are distributed over ranks; and the table of evaluators."""

import pickle

import pytest
from detectron2.utils import comm

from segzoo.evaluation import build_evaluator
from segzoo.evaluation.base import prediction_names
from segzoo.utils.errors import InputError
from tests.evaluation.evaluation_data import PanopticData

TASKS = {"semantic": "sem_seg_labels", "panoptic": "panoptic_seg", "entity": "entity_seg"}


def outputs_of(data):
    parts = [data.outputs(key) for key in TASKS.values()]
    return [one | two | three for one, two, three in zip(*parts, strict=True)]


def run(data, monkeypatch, shards, **options):
    """Evaluates the shards (lists of image indices) as ranks of one job and returns rank 0's result."""
    outputs = outputs_of(data)
    ranks = []
    for shard in shards:
        evaluators = build_evaluator(data.name, list(TASKS), **options)
        for index in shard:
            evaluators.process([data.dataset_dicts[index]], [outputs[index]])
        ranks.append(evaluators)
    results = {}
    for evaluators in zip(*(rank._evaluators for rank in ranks), strict=True):
        for evaluator in evaluators:
            while evaluator._pending:
                evaluator._collect()
        sent = [pickle.loads(pickle.dumps(evaluator.partial())) for evaluator in evaluators]
        with monkeypatch.context() as patch:
            patch.setattr(comm, "get_world_size", lambda: len(shards))
            patch.setattr(comm, "synchronize", lambda: None)
            patch.setattr(comm, "gather", lambda part, sent=sent: sent)
            results |= evaluators[0].evaluate()
            assert evaluators[0].image_count == len(data.dataset_dicts)
            patch.setattr(comm, "gather", lambda part: [])
            patch.setattr(comm, "is_main_process", lambda: False)
            assert evaluators[-1].evaluate() is None
    return results


@pytest.mark.parametrize(
    "shards", [[range(0, 6), range(6, 11)], [[1, 10, 4], [0, 3, 2, 9, 5, 8], [6, 7]], [range(11), []]]
)
def test_ranks_give_bitwise_the_numbers_of_one_process(tmp_path, monkeypatch, shards):
    data = PanopticData(tmp_path / "data", num_images=11, seed=2)
    evaluators = build_evaluator(data.name, list(TASKS), scoring_threads=0)
    evaluators.process(data.dataset_dicts, outputs_of(data))
    alone = evaluators.evaluate()
    assert set(alone) == {"sem_seg", "panoptic_seg", "entity_seg"}
    assert repr(run(data, monkeypatch, shards)) == repr(
        dict(alone)
    )  # repr: NaN equals NaN, floats to the bit


def test_an_image_on_two_ranks_is_refused_or_counted_once(tmp_path, monkeypatch):
    data = PanopticData(tmp_path / "data", num_images=3)
    with pytest.raises(InputError, match="two ranks scored the same image"):
        run(data, monkeypatch, [[0, 1, 2], [2]])


def test_a_task_without_ground_truth_is_refused_with_the_possible_ones(tmp_path):
    data = PanopticData(tmp_path / "data", num_images=1)
    with pytest.raises(
        InputError, match="cannot score 'depth'; expected some of entity, instance, panoptic, semantic"
    ):
        build_evaluator(data.name, ["depth"])
    with pytest.raises(InputError, match=r"TEST.TASKS is empty"):
        build_evaluator(data.name, [])


def test_prediction_names_are_unique_below_the_common_folder():
    files = ["/data/a/x/0.jpg", "/data/a/y/0.jpg", "/data/a/1.png"]
    names = prediction_names([{"file_name": name} for name in files])
    assert list(names.values()) == ["x/0", "y/0", "1"]
    with pytest.raises(InputError, match=r"/d/0.png and /d/0.jpg would both be saved as 0.png"):
        prediction_names([{"file_name": "/d/0.jpg"}, {"file_name": "/d/0.png"}])
