"""Wrong command lines of every tool: one line, a status that is not 0, a traceback only with --debug."""

import importlib
import json
import re
import runpy
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from segzoo.cli import main
from segzoo.cli.commands import COMMANDS, COMMANDS_OF_SCRIPTS
from segzoo.cli.errors import report_errors
from segzoo.cli.parser import KEYS, SECTIONS, CommandLine
from segzoo.config.load import new_config
from segzoo.engine.nonfinite_dump import NonFiniteLossError
from segzoo.utils.errors import InputError
from segzoo.utils.files import REMEDIES
from tests.data.data_trees import write_roads, write_street
from tests.engine import warm

TOOLS = Path(__file__).resolve().parents[2] / "tools"
LEAF = "semantic/camvid/maskformer_r18"

LINES = [
    ("train_net", [], "--config-file is missing; give a YAML file or a name that `segzoo zoo` lists"),
    (
        "train_net",
        ["--config-file", "semantic/camvid/maskformer_r81"],
        "did you mean semantic/camvid/maskformer_r18?",
    ),
    (
        "train_net",
        ["--config-file", LEAF, "SEED"],
        "overrides are KEY VALUE pairs, but 'SEED' has no value",
    ),
    (
        "train_net",
        ["--config-file", LEAF, "SEED", "1", "--resume"],
        "Move --resume before KEY VALUE overrides.",
    ),
    (
        "train_net",
        ["--config-file", LEAF, "--num-gpus", "two"],
        "argument --num-gpus: invalid int value: 'two'",
    ),
    ("train_net", ["--config-file", LEAF, "--num-gpus", "0"], "--num-gpus"),
    ("train_net", ["--config-file", LEAF, "--num-machines", "2"], "--dist-url"),
    (
        "train_net",
        ["--config-file", LEAF, "--num-machines", "2", "--dist-url", "tcp://localhost"],
        "--dist-url tcp://localhost: expected tcp://HOST:PORT",
    ),
    (
        "train_net",
        ["--config-file", LEAF, "--num-machines", "2", "--dist-url", "tcp://localhost:99999"],
        "--dist-url tcp://localhost:99999: expected a port from 1 to 65535",
    ),
    (
        "train_net",
        ["--config-file", LEAF, "--shard", "1/2"],
        "--shard splits a test, not a training; add --eval-only",
    ),
    (
        "train_net",
        ["--config-file", LEAF, "--eval-only", "--shard", "3/2", "OUTPUT_DIR", "{output}"],
        "--shard 3/2",
    ),
    ("train_net", ["--config-file"], "argument --config-file: expected one argument; see "),
    (
        "train_net",
        ["--config-fil", LEAF],
        "unrecognized arguments: --config-fil; did you mean --config-file?",
    ),
    ("train_net", ["--config-file", LEAF, "--over"], "--over; did you mean --overwrite?"),
    ("train_net", ["--dat={street}", "--config-file", LEAF], "did you mean --data?"),
    ("submit", ["--", "--config-file", LEAF, "--over"], "--over; did you mean --overwrite?"),
    ("submit", ["--", "--config-file", LEAF, "--dat", "{street}"], "--dat; did you mean --data?"),
    ("check_dataset", ["camvid", "--work", "2"], "--work 2; did you mean --workers?"),
    ("demo", ["--config-file", LEAF, "--input", "{image}", "--deb"], "--deb; did you mean --debug?"),
    ("train_net", ["--config-file", ""], "argument --config-file: is empty; give a path"),
    ("train_net", ["--config-file", "{folder}"], "is a folder; give one of its files"),
    ("train_net", ["--config-file", LEAF, "--config-file", "b.yaml"], "is given twice, with semantic/camvid"),
    ("train_net", ["--config-file", LEAF, "SEED", "1", "--num-gpus", "2"], "Move --num-gpus before KEY"),
    ("train_net", ["--num_gpus=2"], "unrecognized arguments: --num_gpus=2; did you mean --num-gpus?"),
    (
        "train_net",
        ["--config-file", LEAF, "SEED=3"],
        "SEED=3: overrides are KEY VALUE pairs; write SEED 3",
    ),
    ("train_net", ["--config-file", LEAF, "--opts", "SEED"], "but 'SEED' has no value"),
    ("train_net", ["--config-file", LEAF, "--weights", "{file}", "SEED"], "but 'SEED' has no value"),
    ("train_net", ["--config-file", LEAF, "--data", "{street}", "SEED"], "but 'SEED' has no value"),
    (
        "train_net",
        ["--config-file", LEAF, "SEED", "1", "MODEL.WEIGHTS", "my", "weights.pth"],
        "but 'weights.pth' after MODEL.WEIGHTS my is not a key; give each key one value, with spaces in",
    ),
    ("train_net", ["--config-file", LEAF, "model.weights", "a"], "did you mean MODEL.WEIGHTS?"),
    (
        "train",
        [LEAF, "--num-gpus", "2"],
        f"{LEAF} follows no option, and is no key of the configuration; did",
    ),
    ("train", [LEAF, "SEED", "1"], f"did you mean --config-file {LEAF}?"),
    ("convert-checkpoint", ["a.pth", "--output", "b.pth"], "did you mean --weights a.pth?"),
    ("visualize-data", ["camvid", "--output", "{output}"], "did you mean --data camvid?"),
    ("train", ["a.yaml", "--resume"], "did you mean --config-file a.yaml or --data a.yaml?"),
    ("train", ["--config-file", LEAF, "Seed", "3", "--resume"], "unknown key Seed; did you mean SEED?"),
    (
        "train_net",
        ["--config-file", LEAF, "--eval-only", "--weights", "none.pth"],
        "none.pth: does not exist; expected a checkpoint file",
    ),
    (
        "train_net",
        ["--config-file", LEAF, "--num-gpus", "-1"],
        "argument --num-gpus: -1: expected at least 1",
    ),
    ("train_net", ["--config-file", LEAF, "--machine-rank", "-1"], "--machine-rank: -1: expected at least 0"),
    (
        "train_net",
        ["--config-file", LEAF, "--data", "{folder}"],
        "is a folder with no dataset file; give the",
    ),
    (
        "train_net",
        ["--config-file", LEAF, "--data", "{street}", "DATASETS.TRAIN", "('street_trian',)"],
        "DATASETS.TRAIN 'street_trian' is unknown; did you mean street_train?",
    ),
    ("demo", [], "one of the arguments --input --video-input --webcam is required; see "),
    (
        "demo",
        ["--config-file", LEAF],
        "one of the arguments --input --video-input --webcam is required; see ",
    ),
    (
        "demo",
        ["--config-file", LEAF, "--input", "none.jpg", "--output", "{output}"],
        "no such file or folder",
    ),
    (
        "demo",
        ["--config-file", LEAF, "--input", "{file}", "--output", "{output}"],
        "unknown file format; expected",
    ),
    (
        "demo",
        ["--config-file", LEAF, "--input", "{folder}", "--output", "{output}"],
        "the folder holds no images",
    ),
    (
        "demo",
        ["--config-file", LEAF, "--input", "{image}", "--output", "{output}"],
        "MODEL.WEIGHTS is empty; give a",
    ),
    ("demo", ["--config-file", LEAF, "--input", "{image}", "--output", "{file}"], "is a file; give a folder"),
    (
        "demo",
        ["--config-file", LEAF, "--input", "{image}", "--task", "pan"],
        "argument --task: invalid choice: 'pan'",
    ),
    ("demo", ["--config-file", LEAF, "--input", "{image}", "--save-labels"], "--save-labels needs --output"),
    ("demo", ["--config-file", LEAF, "--input", ""], "argument --input: is empty; give a path"),
    ("demo", ["--config-file", LEAF, "--webcam", "-1"], "argument --webcam: -1: expected at least 0"),
    (
        "demo",
        ["--config-file", LEAF, "--input", "{image}", "--confidence-threshold", "5"],
        "argument --confidence-threshold: 5: expected a number from 0 to 1",
    ),
    (
        "demo",
        ["--config-file", LEAF, "--input", "{image}", "--output", "{output}", "SOLVER.MAX_ITERS", "5"],
        "unknown key SOLVER.MAX_ITERS; did you mean SOLVER.MAX_ITER?",
    ),
    (
        "check_dataset",
        [],
        "the dataset is missing; give a dataset YAML, or the name of a built-in dataset; see",
    ),
    (
        "check_dataset",
        ["camvid", "--data", "voc_2012"],
        "--data voc_2012 and camvid are two datasets; give one",
    ),
    ("check_dataset", ["camvid", "--workers", "-1"], "argument --workers: -1: expected at least 0"),
    ("check_dataset", ["DATASETS.TEST", "()"], "DATASETS: the configuration has no dataset"),
    (
        "check_dataset",
        ["DATASETS.TEST=()"],
        "DATASETS.TEST=(): overrides are KEY VALUE pairs; write DATASETS",
    ),
    ("check_dataset", ["camvit"], "dataset file camvit does not exist; did you mean camvid?"),
    ("check_dataset", ["camvid", "--split", "val"], "--split val: camvid.yaml has camvid_train"),
    ("check_dataset", ["camvid", "--number", "0"], "--number: 0: expected at least 1; see "),
    (
        "check_dataset",
        ["camvid", "--output", "{file}/x"],
        "Not a directory; part of its path is a file; choose another one",
    ),
    (
        "evaluate_predictions",
        [],
        "there is nothing to evaluate; give --model, or --config-file and --weights, or --predictions",
    ),
    (
        "evaluate_predictions",
        ["--split", "camvid_vall", "--predictions", "{output}"],
        "--split camvid_vall: not registered; did you mean camvid_val?",
    ),
    (
        "evaluate_predictions",
        ["--data", "camvit", "--predictions", "{output}"],
        "dataset file camvit does not exist; did you mean camvid?",
    ),
    (
        "evaluate_predictions",
        ["--predictions", "{output}"],
        "the dataset is missing; give --data with a dataset",
    ),
    (
        "evaluate_predictions",
        ["--data", "voc_2012", "--predictions", "{folder}"],
        "no predictions found, expected",
    ),
    (
        "evaluate_predictions",
        ["--split", "camvid_val", "--predictions", "none"],
        "none: not a folder; expected the",
    ),
    (
        "evaluate_predictions",
        ["--split", "camvid_val", "--predictions", "{folder}"],
        "no predictions found, expected",
    ),
    ("predict", ["--model", "{file}.pth", "--input", "{image}"], "file.txt.pth: does not exist; expected a"),
    ("predict", ["--model", "a/b/c", "--input", "{image}"], "config file a/b/c does not exist"),
    (
        "evaluate",
        ["--model", LEAF],
        f"--model {LEAF} has no official weights; give a checkpoint: --weights FILE",
    ),
    ("evaluate", ["--model", LEAF, "--config-file", LEAF], "are two models; give one"),
    ("evaluate", ["--model", "a.pth", "--weights", "b.pth"], "--model a.pth and the weights b.pth are two"),
    ("evaluate", ["--model", LEAF, "--weights", "b.pth"], "b.pth: does not exist; expected a checkpoint"),
    (
        "train",
        ["--model", "a.pth"],
        "a training starts from one with --config-file NAME --weights a.pth",
    ),
    ("train", ["--model", LEAF, "SEED", "x"], "SEED is x (str); expected an integer"),
    (
        "evaluate",
        ["--predictions", "{folder}", "--shard", "1/2"],
        "--shard runs a model, --predictions does not; leave one of them out",
    ),
    (
        "evaluate",
        ["--weights", "a.pth", "--tasks", "semantic"],
        "--tasks scores saved predictions, with --predictions FOLDER; for a model set TEST.TASKS",
    ),
    ("analyze_model", [], "no model given; give a name that `segzoo zoo` lists"),
    ("analyze_model", ["semantic/camvid/maskformer_r81"], "did you mean semantic/camvid/maskformer_r18?"),
    ("analyze_model", [LEAF, "--size", "0", "5"], "argument --size: 0: expected at least 1"),
    ("analyze_model", [LEAF, "--opts", "SEED", "x"], "SEED is x (str); expected an integer, such as -1"),
    ("export_model", ["--output", "a.pt2", "--size", "0", "64"], "argument --size: 0: expected at least 1"),
    ("export_model", ["--batch-size", "0"], "argument --batch-size: 0: expected at least 1"),
    (
        "convert_checkpoint",
        ["--input", "a.pth"],
        "the following arguments are required: --output; see",
    ),
    (
        "convert_checkpoint",
        ["--config-file", LEAF, "--input", "a.pth", "--output", "b.onnx"],
        "--output b.onnx: the extension is '.onnx'; expected .pth or .safetensors",
    ),
    (
        "convert_checkpoint",
        ["--config-file", LEAF, "--input", "a.pth", "--output", "{output}/model_final.pth"],
        "model_final.pth exists; delete it or choose another name",
    ),
    ("visualize_data", ["--output", "{output}"], "the dataset is missing; give --data with a dataset YAML"),
    ("visualize_data", ["--data", "camvid_val", "--output", ""], "argument --output: is empty; give a path"),
    ("visualize_data", ["--split", "camvid_vall", "--output", "{output}"], "did you mean camvid_val?"),
    ("visualize_data", ["--split", "camvid_val", "--output", "{file}"], "File exists; choose another name"),
    ("visualize_data", ["--source", "mapper", "--output", "{output}"], "--source mapper needs --config-file"),
    (
        "visualize_data",
        ["--split", "camvid_val", "--output", "{output}", "--number", "0"],
        "--number: 0: expected at",
    ),
    ("make_panoptic", ["--instances", "i.json"], "the dataset is missing; give a dataset YAML"),
    ("make_panoptic", ["roads.yaml"], "one of the arguments --instances --instance-masks is required; see "),
    ("make_panoptic", ["{folder}/none.yaml", "--instances", "i.json"], "none.yaml does not exist"),
    (
        "make_panoptic",
        ["{street}", "--instances", "i.json"],
        "street.yaml: has panoptic labels; give a YAML of semantic",
    ),
    (
        "make_panoptic",
        ["{roads}", "--instances", "i.json"],
        "roads.yaml: no class has instances; write those that do",
    ),
    (
        "make_panoptic",
        ["{roads}", "--instances", "i.json", "--rename", "a"],
        "--rename a: expected CATEGORY=CLASS",
    ),
    (
        "replay",
        ["none.pth"],
        "none.pth: does not exist; a training that stops names the file in its last line",
    ),
    ("replay", ["{file}"], "is not a checkpoint (it starts with b'hello')"),
    ("benchmark", ["criterion", "--threads", "0"], "argument --threads: 0: expected at least 1; see "),
    ("benchmark", ["criterion", "SEED", "1"], "invalid choice: 'SEED'"),
    ("benchmark", ["speed"], "argument WHAT: invalid choice: 'speed'"),
    (
        "benchmark",
        ["evaluation", "--case", "none"],
        "--case none: no case contains it; see: benchmark.py list",
    ),
    ("benchmark", ["throughput", LEAF, "--batch", "0"], "--batch, --threads and --size: expected at least 1"),
    ("make_model_zoo", ["--missing"], "--missing goes with --measure; add it"),
    (
        "make_model_zoo",
        ["--measure", "semantic/camvid/none"],
        "semantic/camvid/none has no row in the tables",
    ),
    ("make_model_zoo", ["--check", "SEED", "1"], "reads no configuration that KEY VALUE could override"),
    ("plot_zoo", ["--dataset", "ade20k", "--output", "{output}/zoo.png", "--metric", "mIou"], "mIo"),
    (
        "quickstart",
        ["--output", "{output}", "SEED", "1", "--train", "3"],
        "Move --train before KEY VALUE overrides.",
    ),
    ("quickstart", ["--output", "{output}", "--val", "0"], "argument --val: 0: expected at least 1"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), LINES, ids=lambda value: str(value)[:50])
def test_a_wrong_command_line_is_one_line(refusal, tmp_path, monkeypatch, name, arguments, message):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "file.txt").write_text("hello")
    roads = write_roads(tmp_path / "roads", np.zeros((2, 4), np.uint8))
    places = {
        "{folder}": folder,
        "{file}": tmp_path / "file.txt",
        "{image}": roads.parent / "images/train/a.png",
        "{roads}": roads,
        "{street}": write_street(tmp_path / "street"),
    }
    for place, path in places.items():
        arguments = [argument.replace(place, str(path)) for argument in arguments]
    monkeypatch.chdir(tmp_path)
    assert message in refusal(name, *arguments)


@pytest.mark.parametrize("name", sorted({name for name, _, _ in LINES} - set(COMMANDS)))
def test_every_tool_shows_where_with_debug(name):
    """The shared parser gives it to all; what it does is tested below."""
    with pytest.raises(SystemExit) as end:
        importlib.import_module(name).main(["--help"])
    assert end.value.code == 0


def test_every_tool_takes_its_arguments_alike():
    """`doctor` and the installers run where segzoo cannot be imported; the first reports all as items.

    `gpu_check` imports it in processes of its own only, which may fail.
    """
    alone = {"doctor", "gpu_check", "install_detectron2", "install_environment", "try_versions"}
    files = {
        file.stem: file.read_text(encoding="utf-8") for file in TOOLS.glob("*.py") if file.stem not in alone
    }
    files.pop("command_line")
    assert not [name for name, text in files.items() if "ArgumentParser(" in text]
    tools = {name for name, text in files.items() if "CommandLine(" in text}
    scripts = {name for name, text in files.items() if "run_script(" in text}
    assert {name for name, _, _ in LINES} <= tools | scripts | set(COMMANDS)
    assert all("@report_errors" in files[name] for name in tools)
    assert scripts == set(COMMANDS_OF_SCRIPTS) & set(files) - tools


def test_the_parser_knows_what_keys_begin_with():
    config = new_config()
    assert {name for name, value in config.items() if isinstance(value, dict)} == SECTIONS
    assert set(config) - SECTIONS <= KEYS


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_the_common_options_and_examples(name, capsys):
    module = main.load(name)
    parser = module.build_parser()
    assert isinstance(parser, CommandLine)
    with pytest.raises(SystemExit) as end:
        module.main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: segzoo {name} ")
    assert "--debug" in text
    assert text.count(f"segzoo {name} ") > 2, "no examples"
    # Options of a command have types whose complaints say what was expected.
    assert "%(" not in text


SCRIPTS = [
    file
    for folder in ("tools", "datasets")
    for file in sorted((TOOLS.parent / folder).glob("*.py"))
    if "run_script(" in file.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.stem)
def test_a_script_of_an_earlier_name_runs_the_command_and_names_it(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(script), "--no-such-flag"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 2
    *before, line = capsys.readouterr().err.splitlines()
    assert "--no-such-flag" in line
    kept = {"train_net", "demo", "submit", "doctor"}
    if script.stem in kept or script.parent.name == "datasets":
        assert before == []
    else:
        (note,) = before
        name, command = re.fullmatch(r"(\w+\.py) is now called `segzoo ([\w -]+)`", note).groups()
        assert name == script.name
        assert command.split()[0] in COMMANDS


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (InputError("a.png: wrong\n size"), 2, "error: a.png: wrong size\n"),
        (
            OSError(28, "No space left on device"),
            2,
            "error: No space left on device; free some space, or choose",
        ),
        (
            PermissionError(13, "Permission denied", "out"),
            2,
            "error: out: Permission denied; make it writable",
        ),
        (NonFiniteLossError("diverged"), 1, "error: diverged\n"),
    ],
)
def test_errors_with_an_explanation_are_a_line_or_with_debug_a_traceback(capsys, error, status, said):
    @report_errors
    def main(arguments):
        raise error

    assert main([]) == status
    assert capsys.readouterr().err.startswith(said)
    with pytest.raises(type(error)):
        main(["--debug"])


@pytest.mark.parametrize(
    "error", [KeyError("a"), OSError(5, "Input/output error"), BrokenPipeError(32, "pipe")]
)
def test_other_errors_keep_their_traceback(error):
    @report_errors
    def main(arguments):
        raise error

    with pytest.raises(type(error)):
        main([])
    assert set(REMEDIES).isdisjoint({5, 32})


class End(NamedTuple):
    """How a process ended, and what it printed."""

    status: int
    out: str
    err: str


def ended(tool, *arguments, folder):
    """A tool in a process of its own, forked from one that has imported everything."""
    output, error = folder / "output.txt", folder / "error.txt"
    output.unlink(missing_ok=True)
    words = map(str, (folder, error, TOOLS / f"{tool}.py", *arguments))
    process = warm.start(output, warm.as_command, *words)
    return End(process.status(120), process.output, error.read_text())


def test_real_processes_end_with_one_line_and_with_debug_a_traceback(tmp_path):
    wrong = ("--dataset-file", "none.yaml", "--output", "out")
    end = ended("visualize_data", *wrong, folder=tmp_path)
    assert (end.status, end.out) == (2, "")
    new_name, line = end.err.splitlines()
    assert new_name == "visualize_data.py is now called `segzoo visualize-data`"
    assert line.startswith("error: dataset file none.yaml does not exist")
    end = ended("visualize_data", "--debug", *wrong, folder=tmp_path)
    assert end.status == 1
    assert "Traceback" in end.err
    assert end.err.splitlines()[-1].startswith("segzoo.utils.errors.InputError: dataset file none.yaml")


def test_a_training_that_meets_a_wrong_file_in_a_worker_says_one_line(tmp_path):
    file = write_roads(tmp_path, np.full((32, 32), 9, np.uint8))
    overrides = [
        "DATASETS.FILES",
        f"('{file}',)",
        "DATASETS.TRAIN",
        "('roads_train',)",
        "DATASETS.TEST",
        "()",
    ]
    overrides += ["MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", "2", "INPUT.CROP_SIZE", "(32, 32)"]
    overrides += [
        "INPUT.MIN_SIZE_TRAIN",
        "(32,)",
        "OUTPUT_DIR",
        tmp_path / "out",
        "DATALOADER.NUM_WORKERS",
        "1",
    ]
    flags = ["--config-file", "semantic/camvid/maskformer_r18"]
    end = ended("train_net", *flags, *overrides, folder=tmp_path)
    assert end.status == 2
    assert end.err.count("\n") == 1, end.err
    assert f"error: {tmp_path}/masks/train/a.png: label 9 is outside [0, 5)" in end.err
    assert end.err.endswith("; DATALOADER.ON_ERROR skip trains without such files\n")


def test_invalid_results_are_one_line(tool, output):
    """Reading results that are broken says so."""
    (output / "inference/results.json").write_text(json.dumps({}))
    answer = tool("evaluate_predictions", "--split", "camvid_val", "--predictions", output / "inference")
    assert answer.status == 2
    assert 'results.json: lacks "protocol" or "results"' in answer.err[-1]
    (output / "inference/results.json").write_bytes(b"{}\n")
