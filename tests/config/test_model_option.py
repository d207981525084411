"""--model: which configuration and which weights a name or a file stands for."""

import pytest

from segzoo.cli import (
    analyze,
    check_data,
    config,
    convert_checkpoint,
    doctor,
    evaluate,
    export,
    predict,
    train,
    visualize_data,
)
from segzoo.cli.submission.plan import plan_runs
from segzoo.cli.weights_option import weights_in
from segzoo.config import files
from segzoo.model_zoo.configs import load_config
from segzoo.utils.errors import InputError

PUBLISHED = "panoptic/coco/maskformer_r50"
URL = "https://dl.fbaipublicfiles.com/maskformer/panoptic-coco/maskformer_panoptic_R50_bs64_554k/model_final_6f60dc.pkl"
NEEDED = {
    evaluate: [],
    predict: ["--input", "a.jpg"],
    export: ["--size", "64", "64", "--output", "a.pt2"],
    convert_checkpoint: ["--output", "a.pth"],
}


def parsed(module, *words):
    return module.build_parser().parse_args([*NEEDED.get(module, ()), *words])


@pytest.mark.parametrize("module", NEEDED, ids=lambda module: module.__name__)
@pytest.mark.parametrize("name", [PUBLISHED, f"configs/{PUBLISHED}.yaml"])
def test_a_name_of_the_zoo_brings_its_official_weights_unless_others_are_given(module, name):
    found = parsed(module, "--model", name, "SEED", "3")
    assert (found.config_file, weights_in(found.opts), found.opts[-2:]) == (name, URL, ["SEED", "3"])
    for words in (["--weights", "mine.pth"], ["MODEL.WEIGHTS", "mine.pth"]):
        assert weights_in(parsed(module, "--model", name, *words).opts) == "mine.pth"


def test_a_name_of_gluoncv_is_that_of_the_leaf_and_one_line_says_so(caplog):
    leaf = "semantic/voc_2012/pspnet_r101_v1s_coco_trainval"
    name = "psp_resnet101_voc"
    url = f"https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com/gluon/models/{name}-2c2f4e1c.zip"
    files._name_of_authors.cache_clear()
    found = parsed(evaluate, "--model", name)
    assert (found.config_file, weights_in(found.opts)) == (name, url)
    assert files.find_config(name) == files.find_config(leaf)
    assert files.zoo_name(name) == leaf
    assert load_config(name) == load_config(leaf)
    assert caplog.messages == [
        f"{name}, a name of GluonCV, is {leaf} here; pytorch-cv's of that name is "
        "semantic/voc_2012/pspnet_r101_v1s"
    ]


def test_a_file_precedes_a_name_of_gluoncv(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fcn_resnet50_ade").write_text("SEED: 5")
    assert load_config("fcn_resnet50_ade").SEED == 5
    assert files.zoo_name("fcn_resnet50_ade") == "fcn_resnet50_ade"
    assert not files.is_config_name("fcn_resnet50_ade")
    with pytest.raises(InputError, match="fcn_resnet50_adee does not exist"):
        files.find_config("fcn_resnet50_adee")


@pytest.mark.parametrize(
    "file",
    ["street.pth", "street.params", "street.zip", "https://host/street", "model.safetensors#ema", "nameless"],
)
def test_a_checkpoint_brings_its_own_configuration(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nameless").touch()
    for module in NEEDED:
        found = parsed(module, "--model", file)
        assert (found.config_file, weights_in(found.opts)) == (None, file)


def test_what_runs_no_model_takes_it_as_the_configuration():
    for module in (check_data, config, doctor):
        found = parsed(module, "--model", PUBLISHED, "SEED", "3")
        assert (found.config_file, found.opts) == (PUBLISHED, ["SEED", "3"])
    assert parsed(visualize_data, "--output", "o", "--model", PUBLISHED).source == "mapper"
    assert parsed(analyze, "--model", "a.yaml", "--config-file", "b.yaml").config_file == ["a.yaml", "b.yaml"]
    for module in (config, doctor, analyze):
        assert weights_in(parsed(module, "--model", PUBLISHED, "--weights", "a.pth").opts) == "a.pth"
    assert parsed(doctor, "--weights", "a.pth").config_file == "a.pth"
    assert parsed(config, "--weights", "a.pth").name == "a.pth"


def test_what_is_converted_is_input_or_weights(capsys):
    for flag in ("--input", "--weights"):
        assert weights_in(parsed(convert_checkpoint, flag, "a.pth").opts) == "a.pth"
    with pytest.raises(SystemExit):
        parsed(convert_checkpoint, "--input", "a.pth", "--weights", "b.pth")
    assert "is given twice, with a.pth and b.pth" in capsys.readouterr().err
    with pytest.raises(InputError, match="--input is missing; give the checkpoint to convert, or --model"):
        parsed(convert_checkpoint, "--config-file", PUBLISHED)


def test_a_training_takes_a_configuration_and_starts_from_its_own_weights():
    found = parsed(train, "--model", PUBLISHED)
    assert (found.config_file, found.opts) == (PUBLISHED, [])
    with pytest.raises(InputError, match="a training starts from one with --config-file NAME"):
        parsed(train, "--model", "a.pth")


def test_no_weights_are_downloaded_for_a_model_without_any(tmp_path):
    assert weights_in(parsed(predict, "--random-weights", "--model", PUBLISHED).opts) == ""
    assert weights_in(parsed(evaluate, "--resume", "--model", PUBLISHED).opts) == ""


def test_a_job_reads_a_copy_of_the_configuration_that_model_names(tmp_path):
    (run,) = plan_runs(["--model=semantic/shapes/pspnet_r18_quarter", "SEED", "1"], [], [], tmp_path / "job")
    assert run.arguments[:2] == ["--config-file", "semantic/shapes/pspnet_r18_quarter"]
    assert not [word for word in run.arguments if word.startswith("--model")]
    with pytest.raises(InputError, match="leave out --model after --"):
        plan_runs(["--model", PUBLISHED], [PUBLISHED], [], tmp_path / "job")
