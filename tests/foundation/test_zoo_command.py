"""`segzoo zoo`: the list, its filters, a model's page, the download."""

import hashlib
import json
from dataclasses import replace

import pytest

from segzoo.cli import zoo
from segzoo.config.files import _name_of_authors, config_root, find_config
from segzoo.model_zoo import list_models, official, registry
from segzoo.model_zoo.registry import known_models

NAME = "panoptic/coco/mask2former_r50"


def run(capsys, *words):
    status = zoo.main(words)
    return status, capsys.readouterr()


def listed(shown):
    rows = shown.out.split("\n\n")[0].splitlines()[1:]
    return [row.split()[0] for row in rows]


def test_without_words_all_models_are_listed_by_task_and_dataset_the_best_first(capsys):
    status, shown = run(capsys)
    names = listed(shown)
    assert status == 0
    assert sorted(names) == list_models()
    folders = [name.rsplit("/", 1)[0] for name in names]
    assert folders == sorted(folders)
    own = [name for name in names if name.startswith("panoptic/coco/mask2former")]
    values = [known_models()[name].value("PQ") for name in own]
    assert values == sorted(values, reverse=True)
    assert f"{len(names)} models" in shown.out


@pytest.mark.parametrize(
    ("flags", "condition"),
    [
        (["--task", "panoptic"], lambda name, info: name.startswith("panoptic/")),
        (["--dataset", "cityscapes"], lambda name, info: name.split("/")[1] == "cityscapes"),
        (["--license", "mit"], lambda name, info: info and "MIT" in info.license),
        (["--with-weights"], lambda name, info: info and info.url),
        (
            ["--max-params", "30"],
            lambda name, info: info and info.reproduced and info.reproduced.params <= 30,
        ),
        (["MaskFormer", "swin"], lambda name, info: "maskformer" in name and "swin" in name),
        (
            ["upernet", "--task", "semantic", "--dataset", "ade20k"],
            lambda name, info: name.startswith("semantic/ade20k/upernet"),
        ),
    ],
)
def test_filters_keep_what_they_say(flags, condition, capsys):
    _, shown = run(capsys, *flags)
    expected = [name for name in list_models() if condition(name, known_models().get(name))]
    assert sorted(listed(shown)) == expected
    assert 0 < len(expected) < len(list_models())


def test_json_has_what_the_tables_say(capsys):
    _, shown = run(capsys, "--task", "entity", "--json")
    rows = {row["name"]: row for row in json.loads(shown.out)}
    assert sorted(rows) == list_models(task="entity")
    _, shown = run(capsys, NAME, "--json")
    info = known_models()[NAME]
    row = json.loads(shown.out)
    assert (row["url"], row["value"], row["metric"]) == (info.url, info.value("PQ"), "PQ")


def test_the_page_of_a_model_has_its_numbers_its_license_and_commands(capsys):
    status, shown = run(capsys, f"configs/{NAME}.yaml")
    assert run(capsys, str(config_root() / f"{NAME}.yaml"))[1].out == shown.out
    info = known_models()[NAME]
    assert status == 0
    for text in (f"PQ {info.value('PQ'):g} %", info.url, info.license, f"{info.reproduced.params} M"):
        assert text in shown.out
    for command in ("train", "evaluate", "predict", "config"):
        assert f" {command} " in shown.out
    assert shown.out.count(f"--weights {info.url}") == 2


@pytest.mark.parametrize("word", ["maskrcnn", "mask-rcnn", "Mask_RCNN"])
def test_hyphens_and_underscores_of_words_are_not_compared(word, capsys):
    _, shown = run(capsys, word)
    assert sorted(listed(shown)) == [name for name in list_models() if "/mask_rcnn_" in name]


@pytest.mark.parametrize(
    ("theirs", "ours", "code"),
    [
        ("entity_r50_1x", "entity/coco/entityseg_r50", "EntitySeg"),
        ("entity_swin_lw7_3x", "entity/coco/entityseg_swin_large_224_in21k_3x", "EntitySeg"),
        ("panformer_r50_24e_coco_panoptic", "panoptic/coco/panoptic_segformer_r50", "Panoptic SegFormer"),
    ],
)
def test_names_of_the_authors_configurations_are_known(theirs, ours, code, capsys, caplog):
    _name_of_authors.cache_clear()  # it logs once
    status, shown = run(capsys, theirs)
    assert status == 0
    assert f"model         {ours}\n" in shown.out
    assert f"{theirs}, a name of {code}, is {ours} here" in caplog.text
    assert find_config(theirs) == config_root() / f"{ours}.yaml"


def test_metrics_have_a_decimal_as_on_the_pages(capsys):
    name = "entity/coco/entityseg_swin_large_224_in21k_3x"
    assert known_models()[name].value("AP rescored") == 40
    _, shown = run(capsys, name)
    assert "AP rescored 40.0 %, " in shown.out
    assert "AP 38.6 %, " in shown.out


def test_a_configuration_without_a_row_says_so(capsys):
    _, shown = run(capsys, "semantic/shapes/pspnet_r18_quarter")
    assert "published     nothing" in shown.out
    assert "--weights" not in shown.out


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A file that stands for the official one of NAME."""
    file = tmp_path / "model.pkl"
    file.write_bytes(b"weights")
    info = replace(
        known_models()[NAME],
        url=str(file),
        md5_prefix=hashlib.md5(b"weights").hexdigest()[:6],
        sha256_prefix=hashlib.sha256(b"weights").hexdigest()[:8],
    )
    monkeypatch.setattr(official, "official_weights", lambda name: {NAME: info}[name])
    return file


def test_a_download_prints_the_file(published, capsys):
    status, shown = run(capsys, NAME, "--download")
    assert (status, shown.out) == (0, f"{published}\n")


def test_a_file_that_is_not_the_published_one_is_refused(published, capsys):
    published.write_bytes(b"other weights")
    status, shown = run(capsys, NAME, "--download")
    assert status == 2
    assert "md5 starts with" in shown.err


def test_weights_that_only_a_browser_gets_name_the_page(capsys):
    name = "semantic/ade20k/segformer_mit_b2"
    status, shown = run(capsys, name, "--download")
    assert status == 2
    assert registry.known_models()[name].folder in shown.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["panoptic/coco/mask2former_r5"], f"did you mean {NAME}?"),
        (["--dataset", "ade"], "did you mean ade20k?"),
        (["--license", "gpl"], "licenses are: CC BY-NC 4.0"),
        (["--download"], "--download needs the NAME of a model"),
        (["mask2former", "r50", "--download"], "the zoo has no model mask2former r50"),
        (["--max-params", "0.001"], "no model of the zoo meets all of that"),
        (["panformer_r50_24e"], "did you mean panformer_r50_24e_coco_panoptic?"),
        (["segformr"], "did you mean SegFormer?"),
        (["fcn_resnet50_adee"], "did you mean fcn_resnet50_ade?"),
        (["fcn_resnet50_adee", "--download"], "did you mean fcn_resnet50_ade?"),
    ],
)
def test_what_is_not_there_is_one_line(words, message, capsys):
    status, shown = run(capsys, *words)
    assert status == 2
    assert message in shown.err
    assert shown.err.count("\n") == 1
