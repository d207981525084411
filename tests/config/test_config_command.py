"""`segzoo config`: the resolved configuration, the origin of each value, the difference of two."""

import re

import pytest
import yaml

from segzoo.cli import config as command
from segzoo.config.files import config_root
from segzoo.config.keys import flatten
from segzoo.config.load import new_config
from segzoo.config.origins import find_origins
from segzoo.config.rules import NAMES
from segzoo.model_zoo import list_models, load_config
from segzoo.utils.errors import InputError

LEAF = "semantic/cityscapes/danet_r50_v1s_240ep"


def printed(capsys, *words):
    status = command.main(words)
    return status, capsys.readouterr()


def listed(value):
    """A configuration in which every tuple is a list."""
    if isinstance(value, dict):
        return {key: listed(part) for key, part in value.items()}
    return [listed(part) for part in value] if isinstance(value, list | tuple) else value


def test_what_is_printed_is_a_configuration_that_gives_the_same(tmp_path, capsys):
    status, shown = printed(capsys, LEAF, "SOLVER.BASE_LR", "0.25")
    assert status == 0
    file = tmp_path / "mine.yaml"
    file.write_text(shown.out)
    expected = load_config(LEAF, ["SOLVER.BASE_LR", "0.25"])
    assert listed(load_config(file)) == listed(expected)


@pytest.mark.parametrize("name", list_models()[::12])
def test_the_last_origin_of_every_key_has_its_value_and_names_the_line_that_says_it(name):
    cfg = load_config(name)
    origins = find_origins(name, completed=cfg)
    values = dict(flatten(cfg))
    assert origins.keys() == values.keys()
    for key, found in origins.items():
        last = found[-1]
        assert listed(last.value) == listed(values[key])
        for origin in found:
            file, _, line = origin.source.rpartition(":")
            if line.isdigit():
                text = (config_root() / file).read_text().splitlines()[int(line) - 1]
                assert text.strip().startswith(f"{key.split('.')[-1]}:")


def test_all_sources_of_a_key_are_shown_with_the_effective_one_first(capsys):
    _, shown = printed(capsys, LEAF, "--origin", "SOLVER.HEAD_MULTIPLIER")
    rows = [line.split() for line in shown.out.splitlines()]
    assert [row[-2] if row[0] != "SOLVER.HEAD_MULTIPLIER" else row[1] for row in rows][:2] == ["1.0", "10.0"]
    assert rows[0][2].startswith(f"{LEAF}.yaml:")
    assert rows[1][1].startswith("_base_/recipes/gluoncv/recipe.yaml:")
    assert shown.out.splitlines()[2].endswith("segzoo's default")


def test_overrides_and_what_follows_from_the_dataset_are_origins(capsys):
    _, shown = printed(capsys, LEAF, "--origin", "SOLVER.BASE_LR", "SOLVER.BASE_LR", "0.25")
    assert shown.out.splitlines()[0].split() == ["SOLVER.BASE_LR", "0.25", "override"]
    _, shown = printed(capsys, LEAF, "--origin", "MODEL.SEM_SEG_HEAD.NUM_CLASSES")
    assert shown.out.splitlines()[0].split()[1:] == ["19", "follows", "from", "the", "dataset"]


def test_an_override_is_shown_as_it_was_given():
    found = find_origins("panoptic/coco/mask2former_r50", ["MODEL.RESNETS.DEPTH", "101"])
    assert ("override", 101) in found["MODEL.RESNETS.DEPTH"]
    assert found["MODEL.BACKBONE.VARIANT"][-1] == ("translated", "r101")


def test_keys_of_a_project_name_its_module():
    assert find_origins(LEAF)["MODEL.DANET.POSITION_SOFTMAX"][0].source == "segzoo.projects.danet.config"


def test_a_section_shows_its_keys_and_a_wrong_one_is_explained(capsys):
    _, shown = printed(capsys, LEAF, "--origin", "SOLVER.AMP")
    assert {line.split()[0] for line in shown.out.splitlines()} >= {"SOLVER.AMP.ENABLED"}
    assert all(line.startswith((" ", "SOLVER.AMP.")) for line in shown.out.splitlines())
    status, shown = printed(capsys, LEAF, "--origin", "SOLVER.BASE_LT")
    assert status == 2
    assert shown.err == "error: unknown key SOLVER.BASE_LT; did you mean SOLVER.BASE_LR?\n"


def test_the_difference_of_two_is_that_of_their_values(capsys):
    other = "semantic/cityscapes/danet_r101_v1s_240ep"
    _, shown = printed(capsys, LEAF, "--diff", other)
    one, two = dict(flatten(load_config(LEAF))), dict(flatten(load_config(other)))
    lines = shown.out.splitlines()
    assert lines[0].split() == [LEAF, other]
    assert [line.split()[0] for line in lines[1:]] == sorted(key for key in one if one[key] != two[key])
    assert ["MODEL.BACKBONE.VARIANT", "'r50_v1s'", "'r101_v1s'"] in [line.split() for line in lines]
    _, shown = printed(capsys, LEAF, "--diff", LEAF)
    assert shown.out == f"{LEAF} and {LEAF} have the same values\n"


def test_changed_values_only(capsys):
    _, shown = printed(capsys, LEAF, "--changed")
    changed = dict(line.split(": ", 1) for line in shown.out.splitlines())
    assert changed["SOLVER.BASE_LR"] == "0.005"
    assert "VERSION" not in changed


def test_a_file_of_ones_own_is_named_as_it_was_given(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"_BASE_": str(config_root() / f"{LEAF}.yaml"), "SEED": 3}))
    assert find_origins(file)["SEED"][-1] == (f"{file}:1", 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "NAME is missing"),
        (["a/b/c"], "config file a/b/c does not exist"),
        ([LEAF, "--config-file", "x.yaml"], "are two configurations; give one"),
        ([LEAF, "--diff", LEAF, "--changed"], "not allowed with argument"),
    ],
)
def test_wrong_input_is_one_line(words, message, capsys):
    try:
        status = command.main(words)
    except SystemExit as end:
        status = end.code
    error = capsys.readouterr().err
    assert status == 2
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("key", NAMES)
def test_a_name_that_nothing_is_registered_by_is_refused(key, capsys):
    default = dict(flatten(new_config()))[key]
    value = "('nosuch',)" if isinstance(default, tuple | list) else "nosuch"
    of_masks = "MASK_FORMER" in key or "PIXEL_DECODER" in key
    status, shown = printed(capsys, "panoptic/coco/mask2former_r50" if of_masks else LEAF, key, value)
    assert (status, shown.out) == (2, "")
    assert re.fullmatch(rf"error: {key}:? 'nosuch' is (unknown|not registered); .*\n", shown.err)


def test_names_of_a_file_of_ones_own_are_checked(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    keys = {"_BASE_": str(config_root() / f"{LEAF}.yaml"), "SOLVER": {"OPTIMIZER": "ADAM"}}
    file.write_text(yaml.safe_dump(keys))
    status, shown = printed(capsys, str(file), "--changed")
    assert (status, shown.out) == (2, "")
    assert "SOLVER.OPTIMIZER 'ADAM' is unknown; did you mean AdamW?" in shown.err


def test_errors_of_the_configuration_are_those_of_training():
    with pytest.raises(InputError, match=r"unknown key SOLVER\.BASE_LT"):
        find_origins(LEAF, ["SOLVER.BASE_LT", "1"])
