"""results.json: its content, atomic writing, and the refusal to compare different protocols."""

import json
import os
from dataclasses import asdict, replace

import pytest

from segzoo import __version__
from segzoo.evaluation import Protocol, compare_results, load_results, write_results
from segzoo.utils.errors import InputError
from segzoo.utils.files import write_text

PROTOCOL = Protocol(
    datasets={"roads_val": 12},
    input_size={"short_edge": 512, "long_edge_max": 2048},
    weights="model_final.pth",
    weights_sha256="ab" * 32,
)
RESULTS = {"roads_val": {"sem_seg": {"mIoU": 61.5, "IoU-car": float("nan")}, "panoptic_seg": {"PQ": 40.25}}}


def test_results_json_holds_metrics_protocol_version_and_date(tmp_path):
    path = write_results(tmp_path / "inference", RESULTS, PROTOCOL)
    assert path == tmp_path / "inference" / "results.json"
    document = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert document["segzoo"] == __version__
    assert document["date"].endswith("+00:00")
    assert document["results"]["roads_val"]["sem_seg"] == {"mIoU": 61.5, "IoU-car": None}
    expected = json.loads(json.dumps(asdict(PROTOCOL)))
    assert document["protocol"] == expected
    assert {
        "scales",
        "flip",
        "crop",
        "stride",
        "input_size",
        "class_averaging",
        "weights_sha256",
        "datasets",
    } <= set(expected)


def test_a_protocol_that_lacks_a_key_or_an_image_count_is_refused(tmp_path):
    protocol = asdict(PROTOCOL)
    del protocol["flip"]
    with pytest.raises(InputError, match="evaluation protocol: flip is missing"):
        write_results(tmp_path, RESULTS, protocol)
    with pytest.raises(InputError, match="datasets lacks roads_val"):
        write_results(tmp_path, RESULTS, replace(PROTOCOL, datasets={"other": 3}))
    assert not list(tmp_path.iterdir())


def test_equal_protocols_are_compared_whatever_the_weights(tmp_path):
    write_results(tmp_path / "a", RESULTS, PROTOCOL)
    better = {"roads_val": {"sem_seg": {"mIoU": 63.0}}, "other": {}}
    protocol = replace(PROTOCOL, weights="other.pth", datasets={"roads_val": 12, "other": 1})
    write_results(tmp_path / "b", better, protocol)
    assert compare_results(tmp_path / "a", tmp_path / "b") == {"roads_val": {"sem_seg/mIoU": (61.5, 63.0)}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scales": (0.5, 1.0)}, r"scales is \[1.0\] in the first result and \[0.5, 1.0\]"),
        ({"flip": True}, "flip is false in the first result and true"),
        ({"crop": (512, 512)}, "crop is null"),
        ({"stride": (1, 1)}, "stride is null"),
        ({"input_size": "original"}, "input_size is"),
        ({"class_averaging": "all"}, 'class_averaging is "valid"'),
        ({"datasets": {"roads_val": 11}}, "roads_val was scored on 12 and on 11 images"),
    ],
)
def test_different_protocols_are_not_compared(tmp_path, change, message):
    first = load_results(write_results(tmp_path / "a", RESULTS, PROTOCOL))
    second = load_results(write_results(tmp_path / "b", RESULTS, replace(PROTOCOL, **change)))
    with pytest.raises(InputError, match=f"not comparable: {message}"):
        compare_results(first, second)


def test_results_without_a_common_dataset_or_no_results_at_all(tmp_path):
    first = load_results(write_results(tmp_path / "a", RESULTS, PROTOCOL))
    with pytest.raises(InputError, match="no common dataset, found roads_val and shapes_val"):
        compare_results(first, {**first, "results": {"shapes_val": {}}})
    with pytest.raises(InputError, match="not found"):
        load_results(tmp_path / "nowhere")
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(InputError, match='lacks "protocol" or "results"'):
        load_results(tmp_path / "metrics.json")


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_text(path, "old")

    def full_disk(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
