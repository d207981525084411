"""A configuration that is saved with one Detectron2 is read with another."""

import pytest
import yaml
from detectron2.config import get_cfg

import segzoo.config.defaults as defaults
import segzoo.config.load as configs
from segzoo.engine.saved_config import saved_config
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError

NAME = "semantic/shapes/pspnet_r18_quarter"
# What Detectron2's main branch (2026) has beside v0.6's keys, typed from its defaults.py.
MAIN = {
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": False,
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": False,
    "MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER": 0.5,
    "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES": 50,
    "DATALOADER.REPEAT_SQRT": True,
    "SOLVER.BASE_LR_END": 0.0,
    "SOLVER.NUM_DECAYS": 3,
    "SOLVER.RESCALE_INTERVAL": False,
    "FLOAT32_PRECISION": "",
}


def with_keys(values):
    """Detectron2's defaults with these keys and no other of main's."""
    cfg = get_cfg()
    for key in MAIN:
        *path, leaf = key.split(".")
        node = cfg
        for part in path:
            node = node[part]
        node.pop(leaf, None)
        if key in values:
            node[leaf] = values[key]
    return cfg


def install(monkeypatch, keys):
    """Simulate a Detectron2 with these keys of VERSION_KEYS."""
    for module in (configs, defaults):
        monkeypatch.setattr(module, "get_cfg", lambda: with_keys(keys))


@pytest.fixture
def main(monkeypatch):
    install(monkeypatch, MAIN)


@pytest.fixture
def v06(monkeypatch):
    install(monkeypatch, {})


def flat(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def write(path, values):
    tree = {}
    for key, value in values.items():
        *parts, leaf = key.split(".")
        node = tree
        for part in parts:
            node = node.setdefault(part, {})
        node[leaf] = value
    path.write_text(yaml.safe_dump(tree))
    return path


def test_mains_defaults_are_read_with_v06(v06, tmp_path):
    load_config(write(tmp_path / "config.yaml", MAIN))


def test_mains_defaults_are_read_with_main(main, tmp_path):
    cfg = load_config(write(tmp_path / "config.yaml", {**MAIN, "DATALOADER.REPEAT_SQRT": False}))
    assert cfg.DATALOADER.REPEAT_SQRT is False
    assert cfg.SOLVER.NUM_DECAYS == 3


def test_main_saves_what_v06_reads(main, tmp_path, monkeypatch):
    text = saved_config(load_config(NAME))
    assert not set(flat(yaml.safe_load(text))) & set(MAIN)
    (tmp_path / "config.yaml").write_text(text)
    install(monkeypatch, {})
    cfg = load_config(tmp_path / "config.yaml")
    assert yaml.safe_load(saved_config(cfg)) == yaml.safe_load(text)


def test_v06_saves_what_main_reads(v06, tmp_path, monkeypatch):
    text = saved_config(load_config(NAME))
    (tmp_path / "config.yaml").write_text(text)
    install(monkeypatch, MAIN)
    cfg = load_config(tmp_path / "config.yaml")
    assert cfg.DATALOADER.REPEAT_SQRT is True
    assert yaml.safe_load(saved_config(cfg)) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("key", "value"),
    [("DATALOADER.REPEAT_SQRT", False), ("FLOAT32_PRECISION", "high"), ("SOLVER.NUM_DECAYS", 2)],
)
def test_other_values_are_saved_and_are_one_line_where_there_is_no_such_key(
    main, tmp_path, monkeypatch, key, value
):
    text = saved_config(load_config(NAME, [key, str(value)]))
    assert set(flat(yaml.safe_load(text))) & set(MAIN) == {key}
    (tmp_path / "config.yaml").write_text(text)
    install(monkeypatch, {})
    with pytest.raises(InputError) as caught:
        load_config(tmp_path / "config.yaml")
    line = str(caught.value)
    assert line.startswith(f"{tmp_path}/config.yaml: {key} {value!r} cannot be set; the installed ")
    assert f"leave it out, which means {MAIN[key]!r}" in line
    # The remedy.
    tree = yaml.safe_load(text)
    *path, leaf = key.split(".")
    node = tree
    for part in path:
        node = node[part]
    del node[leaf]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    load_config(tmp_path / "config.yaml")


def test_an_override_of_such_a_key_is_one_line(v06):
    with pytest.raises(InputError, match=r"unknown key DATALOADER.REPEAT_SQRT; the installed .*INSTALL"):
        load_config(NAME, ["DATALOADER.REPEAT_SQRT", "True"])


@pytest.mark.parametrize("release", ["main", "v06"])
def test_a_key_that_nothing_reads_has_the_same_remedy_in_every_release(request, tmp_path, release):
    request.getfixturevalue(release)
    remedy = "; SOLVER.POLY_LR_CONSTANT_ENDING is the lowest factor of the learning rate"
    with pytest.raises(InputError, match=remedy):
        load_config(write(tmp_path / "config.yaml", {"SOLVER.BASE_LR_END": 0.1}))
    with pytest.raises(InputError, match=remedy):
        load_config(NAME, ["SOLVER.BASE_LR_END", "0.1"])


def test_an_unknown_key_of_no_release_is_as_before(v06, tmp_path):
    with pytest.raises(InputError, match=r"NUM_WORKER; did you mean DATALOADER.NUM_WORKERS"):
        load_config(write(tmp_path / "config.yaml", {"DATALOADER.NUM_WORKER": 1}))
