"""A checkpoint's metadata are compared with the config."""

import hashlib

import pytest
import torch
from torch import nn

from segzoo.checkpoint import SegzooCheckpointer, compare_description
from segzoo.checkpoint import download as files_module
from segzoo.utils.errors import InputError

OURS = {"classes": ["road", "sky"], "image_format": "RGB", "pixel_mean": [1.0, 2.0, 3.0]}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"classes": ["sky", "road"]}, ["class 0: 'sky' vs 'road'"]),
        ({"classes": ["road"]}, ["1 vs 2 classes"]),
        ({"image_format": "BGR"}, ["image_format: 'BGR' vs 'RGB'"]),
        ({"pixel_mean": [1.0, 2.0, 4.0]}, ["pixel_mean: [1.0, 2.0, 4.0] vs [1.0, 2.0, 3.0]"]),
    ],
)
def test_differences_are_named(change, expected):
    assert compare_description(OURS | change, OURS) == expected
    assert compare_description(None, OURS) == []


def test_evaluation_of_other_classes_is_refused_and_fine_tuning_warned(tmp_path, caplog):
    SegzooCheckpointer(nn.Linear(2, 2), str(tmp_path), description=OURS).save("a")
    other = SegzooCheckpointer(nn.Linear(2, 2), description=OURS | {"classes": ["sky", "road"]})
    other.load(str(tmp_path / "a.pth"), checkpointables=[])
    assert "class 0: 'road' vs 'sky'" in caplog.text
    with pytest.raises(InputError, match=r"evaluation: .*class 0: 'road' vs 'sky'.*refusing to report"):
        other.report.require_complete()


def test_the_hash_of_a_url_with_a_query_is_checked(tmp_path, monkeypatch):
    file = tmp_path / "x"
    torch.save({}, file)
    assert not hashlib.md5(file.read_bytes()).hexdigest().startswith("000000")
    monkeypatch.setattr(files_module.PathManager, "get_local_path", lambda source: str(file))
    with pytest.raises(InputError, match="expected 000000"):
        files_module.local_file("https://example.org/model_final_000000.pkl?download=1")
