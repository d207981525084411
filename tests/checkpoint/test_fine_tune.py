"""From a model of 133 classes to one of five: all weights but those of classes, or of other queries, stay."""

import logging
import pickle
import re
from pathlib import Path

import pytest
import torch
import train_net
from torch import nn

from segzoo.checkpoint import SegzooCheckpointer, load_checkpoint
from segzoo.cli.prepare.shapes import make_shapes
from segzoo.engine import Trainer, evaluate
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError
from tests.modeling.modeling_helpers import MASKED_ATTENTION, SMALL, make_model

REPOSITORY = Path(__file__).resolve().parents[2]
METHODS = {
    "maskformer": SMALL,
    "mask2former": [
        *(*SMALL, *MASKED_ATTENTION),
        *("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "MSDeformAttnPixelDecoder"),
        *("MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 1),
    ],
}
HEAD = "sem_seg_head.predictor"
CLASSES = [f"{HEAD}.class_embed.weight", f"{HEAD}.class_embed.bias"]
QUERIES = {
    "maskformer": [f"{HEAD}.query_embed.weight"],
    "mask2former": [f"{HEAD}.query_feat.weight", f"{HEAD}.query_embed.weight"],
}


def build(method: str, num_classes: int, num_queries: int = 7, seed: int = 0) -> nn.Module:
    count = ("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", num_queries)
    return make_model(num_classes, *METHODS[method], *count, seed=seed)


def write_official(folder: Path, model: nn.Module, method: str) -> Path:
    """As the authors publish: a pickle of arrays with the names and the buffer of their first version."""
    weights = {}
    for key, value in model.state_dict().items():
        if method == "maskformer":
            key = key.replace("sem_seg_head.pixel_decoder.", "sem_seg_head.")
        weights[key.replace(".query_feat.", ".static_query.")] = value.numpy()
    weights["criterion.empty_weight"] = torch.ones(model.num_classes + 1).numpy()
    (folder / "model_final.pkl").write_bytes(pickle.dumps({"model": weights, "__author__": "someone"}))
    return folder / "model_final.pkl"


def write_own(folder: Path, model: nn.Module, method: str) -> Path:
    description = {"classes": [f"class {index}" for index in range(model.num_classes)]}
    SegzooCheckpointer(model, str(folder), description=description).save("model_final")
    return folder / "model_final.pth"


WRITERS = {"official": write_official, "own": write_own}


@pytest.mark.parametrize("num_queries", [7, 4, 9])
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("method", METHODS)
def test_only_classes_and_other_queries_are_reinitialized_and_logged(
    tmp_path, caplog, method, writer, num_queries
):
    trained = build(method, 133)
    file = WRITERS[writer](tmp_path, trained, method)
    model = build(method, 5, num_queries, seed=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    names = [f"class {index}" for index in range(5)]
    checkpointer = SegzooCheckpointer(model, str(tmp_path / "new"), description={"classes": names})
    with caplog.at_level(logging.WARNING):
        checkpointer.resume_or_load(str(file), resume=False)
    expected = [*CLASSES, *(QUERIES[method] if num_queries != 7 else ())]
    assert sorted(checkpointer.report.reinitialized) == sorted(expected)
    for key, value in model.state_dict().items():
        source = before if key in expected else trained.state_dict()
        assert torch.equal(value, source[key]), key
    lines = [record.getMessage() for record in caplog.records if "re-initialized" in record.getMessage()]
    assert len(lines) == 1
    assert "\n" not in lines[0]
    counts = "133 classes -> 5" + (f", 7 queries -> {num_queries}" if num_queries != 7 else "")
    assert sorted(re.search(r": (\d.*?); re-init", lines[0])[1].split(", ")) == sorted(counts.split(", "))
    shapes = {
        f"{HEAD}.class_embed.weight (134, 32) -> (6, 32)",
        f"{HEAD}.class_embed.bias (134,) -> (6,)",
    }
    if num_queries != 7:
        shapes |= {f"{key} (7, 32) -> ({num_queries}, 32)" for key in QUERIES[method]}
    assert all(shape in lines[0] for shape in shapes)
    with pytest.raises(InputError, match=r"evaluation: .* not loaded \(\d+ rows in .*refusing to report"):
        checkpointer.report.require_complete()


@pytest.mark.parametrize("method", METHODS)
def test_other_queries_alone_are_no_error_but_not_to_be_evaluated_or_resumed(tmp_path, method):
    file = write_own(tmp_path, build(method, 3), method)
    report = load_checkpoint(build(method, 3, 9), file)
    assert report.other_numbers == ["7 queries -> 9"]
    with pytest.raises(InputError, match=r"object queries not loaded \(7 rows in .*, 9 in the model"):
        report.require_complete()
    resumed = SegzooCheckpointer(build(method, 3, 9), str(tmp_path))
    with pytest.raises(InputError, match=r"query_\w+\.weight is \(7, 32\) in the file, \(9, 32\)"):
        resumed.resume_or_load("", resume=True)


def test_equal_numbers_are_not_reported(tmp_path, caplog):
    file = write_own(tmp_path, build("mask2former", 3), "mask2former")
    with caplog.at_level(logging.WARNING):
        report = load_checkpoint(build("mask2former", 3), file)
    assert report.complete
    assert report.other_numbers == []
    assert caplog.records == []


def test_eval_only_refuses_a_model_that_is_still_to_be_fine_tuned(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    make_shapes(tmp_path / "shapes", train=1, val=1, size=64, workers=0)
    name = "panoptic/shapes/mask2former_r18_quarter"
    cfg = load_config(name, ["DATASETS.TRAIN", "()", "DATASETS.TEST", "()", "TEST.TASKS", "('semantic',)"])
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 133
    file = write_official(tmp_path, Trainer.build_model(cfg), "mask2former")
    overrides = ["MODEL.WEIGHTS", str(file), "OUTPUT_DIR", str(tmp_path / "out")]
    assert train_net.main(["--config-file", name, "--eval-only", *overrides]) == 2
    error = capsys.readouterr().err
    assert re.search(r"evaluation: class head not loaded \(134 rows .*, \d+ in the model", error)
    assert not (tmp_path / "out" / "inference" / "results.json").exists()


def test_evaluation_from_python_refuses_it_too_until_it_has_been_trained(tmp_path, monkeypatch):
    """As Detectron2's users do: build, load, evaluate, without checking the report."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    make_shapes(tmp_path / "shapes", train=1, val=1, size=64, workers=0)
    name = "semantic/shapes/pspnet_r18_quarter"
    cfg = load_config(name, ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "out")])
    model = Trainer.build_model(cfg).eval()
    # A head of other classes, as after another dataset; and a whole model.
    weights = {key: value for key, value in model.state_dict().items() if "predictor" not in key}
    classifier = {key: value for key, value in model.state_dict().items() if "predictor" in key}
    assert {len(value) for value in classifier.values()} == {11}
    torch.save({"model": weights | {key: value[:5] for key, value in classifier.items()}}, tmp_path / "5.pth")
    torch.save({"model": weights | classifier}, tmp_path / "11.pth")

    load_checkpoint(model, tmp_path / "5.pth")
    for again in range(2):  # predicting fills nothing
        with pytest.raises(InputError, match=r"evaluation: class head not loaded \(5 rows in .*, 11 in the"):
            evaluate(cfg, model)
        with torch.no_grad():
            model([{"image": torch.zeros(3, 64, 64 + 32 * again)}])
    assert not (tmp_path / "out").exists()

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    assert "mIoU" in evaluate(cfg, model)["sem_seg"]
    load_checkpoint(model, tmp_path / "5.pth")
    with pytest.raises(InputError, match="class head not loaded"):
        evaluate(cfg, model)
    load_checkpoint(model, tmp_path / "11.pth")
    assert "mIoU" in evaluate(cfg, model)["sem_seg"]
