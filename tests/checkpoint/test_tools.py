"""`segzoo analyze` and `segzoo convert-checkpoint`, run in this process."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from segzoo import model_zoo
from segzoo.checkpoint import read_checkpoint
from segzoo.cli import analysis, analyze, convert_checkpoint

CONFIG = "semantic/camvid/maskformer_r18"


@pytest.fixture(scope="module")
def official_file(tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A pickle in the first published layout, for the model of CONFIG, and its weights in today's."""
    weights = model_zoo.get(CONFIG).state_dict()
    arrays = {key.replace(".pixel_decoder.", "."): value.numpy() for key, value in weights.items()}
    file = tmp_path_factory.mktemp("official") / "published.pkl"
    file.write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}))
    return file, weights


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_converted_file_is_native_and_describes_itself(tmp_path, official_file, capsys, suffix):
    source, weights = official_file
    output = tmp_path / f"converted{suffix}"
    arguments = ["--config-file", CONFIG, "--input", str(source), "--output", str(output)]
    assert convert_checkpoint.main(arguments) == 0
    assert "read as MaskFormer" in capsys.readouterr().out
    file = read_checkpoint(output)
    assert all(torch.equal(file.weights[key], value) for key, value in weights.items())
    assert len(file.description["classes"]) == 11
    assert file.description["ignore_label"] == 255
    assert file.description["image_format"] == "RGB"


def test_conversion_neither_overwrites_nor_fills_gaps_with_random_values(tmp_path, official_file, capsys):
    source, _ = official_file
    convert = convert_checkpoint.main
    output = tmp_path / "x.pth"
    output.touch()
    assert convert(["--config-file", CONFIG, "--input", str(source), "--output", str(output)]) == 2
    assert "exists" in capsys.readouterr().err
    arguments = [
        "--config-file",
        "semantic/ade20k/maskformer_r50",
        "--input",
        str(source),
        "--output",
        "none.txt",
    ]
    assert convert(arguments) == 2
    assert "expected .pth or .safetensors" in capsys.readouterr().err


def test_analysis_prints_parts_total_and_json(capsys):
    assert analyze.main([f"configs/{CONFIG}.yaml", "--size", "64", "96", "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    model = model_zoo.get(CONFIG)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert result["params_M"] == pytest.approx(total / 1e6, abs=1e-3)
    assert result["size"] == [64, 96]
    assert sum(part["gflops"] for part in result["parts"].values()) == pytest.approx(
        result["gflops"], abs=0.02
    )
    assert {"backbone", "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"} <= set(result["parts"])


def test_deviations_from_published_numbers_are_printed_in_percent():
    show = analysis.show
    known = {"params_M": 42, "gflops": None}
    text = show(
        {"name": "x", "size": [512, 512], "params_M": 44.1, "gflops": 3.0, "parts": {}, "paper": known}
    )
    assert "42 (+5.0 %)" in text
    assert "GFLOPs @ 512x512" in text


def test_unknown_model_is_one_line_and_status_2(capsys):
    assert analyze.main(["semantic/camvid/maskfrmer_r18"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert "did you mean semantic/camvid/maskformer_r18" in captured.err


def test_an_impossible_image_size_is_one_line_and_status_2(capsys):
    with pytest.raises(SystemExit) as end:
        analyze.main([CONFIG, "--size", "0", "64"])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: argument --size: 0: expected at least 1")
