"""Paths as users write them: `~`, and links to files, folders, the checkout and the package."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from segzoo.checkpoint.download import local_file
from segzoo.config.files import find_config, zoo_name
from segzoo.config.paths import PATH_KEYS, map_paths
from segzoo.data import register_dataset_file
from segzoo.data.dataset_file import CATALOG, find_dataset_file, read_dataset_file
from segzoo.engine.output_lock import writing_explained
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError
from segzoo.utils.paths import user_path
from tests.data.data_trees import write_roads

REPOSITORY = Path(__file__).resolve().parents[2]
LEAF = "semantic/camvid/maskformer_r18"


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def roads_in(folder):
    return write_roads(folder, np.zeros((8, 8), np.uint8))


def test_every_path_of_a_configuration_may_begin_at_home(home, tmp_path):
    roads_in(home / "roads")
    (home / "base.yaml").write_text("SEED: 7\n")
    (home / "mine.yaml").write_text(f"_BASE_: [{find_config(LEAF)}, ~/base.yaml]\nOUTPUT_DIR: ~/runs/a\n")
    overrides = ["MODEL.WEIGHTS", "~/a.pth", "DATASETS.FILES", "('~/roads/roads.yaml',)"]
    cfg = load_config("~/mine.yaml", overrides)
    assert cfg.SEED == 7
    assert f"{home}/runs/a" == cfg.OUTPUT_DIR
    assert f"{home}/a.pth" == cfg.MODEL.WEIGHTS
    assert tuple(cfg.DATASETS.FILES) == (f"{home}/roads/roads.yaml",)
    # Only at the beginning, and of a user that there is.
    assert load_config(LEAF, ["OUTPUT_DIR", "a/~/b"]).OUTPUT_DIR == "a/~/b"
    assert user_path("~no-such-user/a") == Path("~no-such-user/a")
    assert load_config(LEAF, ["MODEL.WEIGHTS", "https://host/~me/a.pth"]).MODEL.WEIGHTS.endswith("/~me/a.pth")


def test_the_listed_keys_are_all_changed(home):
    cfg = load_config(LEAF, ["MODEL.WEIGHTS", "a.pth", "OUTPUT_DIR", "o"])
    cfg.DATASETS.FILES = ["b.yaml", "c.yaml"]
    map_paths(cfg, lambda path: f"/x/{path}")
    assert (cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR) == ("/x/a.pth", "/x/o")
    assert cfg.DATASETS.FILES == ["/x/b.yaml", "/x/c.yaml"]
    assert {"OUTPUT_DIR", "MODEL.WEIGHTS", "DATASETS.FILES"} <= set(PATH_KEYS)


def test_paths_of_a_dataset_file_may_begin_at_home(home, tmp_path):
    roads_in(home / "roads")
    file = tmp_path / "elsewhere.yaml"
    lines = (home / "roads/roads.yaml").read_text().splitlines()
    lines = [line for line in lines if not line.startswith("root")]
    for root in ("root: ~/roads\n", "root: [nowhere, ~/roads]\n"):
        file.write_text("\n".join([*lines, root]))
        register_dataset_file(file)
        (record,) = DatasetCatalog.get("roads_train")
        assert record["file_name"].startswith(f"{home}/roads/")
    file.write_text("instances: ~/i.json\nimages: ~/images\nclasses: [a]\nsplits: {a_x: x}\n")
    (layout,) = read_dataset_file("~/../elsewhere.yaml").layouts
    assert (layout.instances, layout.images) == (f"{home}/i.json", f"{home}/images")


def test_weights_may_lie_at_home(home):
    (home / "a.pth").write_bytes(b"weights")
    assert local_file("~/a.pth") == home / "a.pth"


def test_a_folder_stands_for_its_one_dataset_file(tmp_path, monkeypatch):
    file = roads_in(tmp_path / "roads")
    (file.parent / "other.yaml").write_text("SEED: 1\n")
    assert find_dataset_file(file.parent) == file
    (file.parent / "second.yaml").write_text("splits: {}\n")
    with pytest.raises(InputError, match=r"2 dataset files \(roads.yaml, second.yaml\); give the YAML"):
        find_dataset_file(file.parent)
    # The name of a built-in one, also where a folder of data has that name.
    (tmp_path / "camvid").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_dataset_file("camvid") == CATALOG / "camvid.yaml"


def test_a_dataset_file_is_one_by_whatever_link(tmp_path):
    file = roads_in(tmp_path / "roads")
    names = register_dataset_file(file)
    (tmp_path / "link").symlink_to(file.parent)
    (tmp_path / "file.yaml").symlink_to(file)
    # Its data lie beside the file, whichever name it has.
    for path in (tmp_path / "link/roads.yaml", tmp_path / "file.yaml"):
        assert register_dataset_file(path) == names
        assert len(DatasetCatalog.get("roads_train")) == 1
    copy = roads_in(tmp_path / "copy")
    with pytest.raises(InputError, match="; register under a new name"):
        register_dataset_file(copy)


def test_builtin_datasets_are_themselves_by_whatever_link(tmp_path):
    (tmp_path / "link").symlink_to(CATALOG)
    (tmp_path / "mine.yaml").symlink_to(CATALOG / "camvid.yaml")
    for path in (tmp_path / "link/camvid.yaml", tmp_path / "mine.yaml"):
        assert "camvid_train" in register_dataset_file(path)
    copy = tmp_path / "camvid.yaml"
    copy.write_bytes((CATALOG / "camvid.yaml").read_bytes())
    with pytest.raises(InputError, match="'camvid_train' is built in; register under a new name"):
        register_dataset_file(copy)


def test_a_configuration_behind_a_link_finds_its_bases(tmp_path):
    leaf = find_config(LEAF)
    (tmp_path / "leaf.yaml").symlink_to(leaf)
    (tmp_path / "configs").symlink_to(leaf.parents[2])
    (tmp_path / "mine.yaml").write_text("_BASE_: leaf.yaml\nSEED: 3\n")
    plain = load_config(LEAF)
    for path in (tmp_path / "leaf.yaml", tmp_path / f"configs/{LEAF}.yaml"):
        assert load_config(path) == plain
    assert load_config(tmp_path / "mine.yaml").SEED == 3
    # A base beside the link comes first.
    (tmp_path / "a").mkdir()
    (tmp_path / "a/mine.yaml").symlink_to(tmp_path / "mine.yaml")
    (tmp_path / "a/leaf.yaml").write_text(f"_BASE_: {leaf}\nSOLVER:\n  MAX_ITER: 5\n")
    assert load_config(tmp_path / "a/mine.yaml").SOLVER.MAX_ITER == 5
    assert zoo_name(tmp_path / f"configs/{LEAF}.yaml") == LEAF
    assert zoo_name(f"configs/{LEAF}.yaml") == zoo_name(LEAF) == LEAF
    assert zoo_name(tmp_path / "mine.yaml") == str(tmp_path / "mine.yaml")


def test_a_name_under_configs_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(f"configs/{LEAF}.yaml") == find_config(LEAF)


def test_a_full_disk_is_explained_by_whatever_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    error = OSError(28, "No space left on device", str(tmp_path / "a.pth"))
    with pytest.raises(InputError, match="OUTPUT_DIR: "), writing_explained(tmp_path / "link"):
        raise error
    with pytest.raises(OSError, match="No space"), writing_explained(tmp_path / "link"):
        raise OSError(28, "No space left on device", "/elsewhere/a.pth")


def test_a_package_behind_a_link_has_its_builtin_datasets(tmp_path):
    (tmp_path / "link").symlink_to(REPOSITORY)
    program = (
        "from segzoo.data import register_dataset_file as register; "
        "from segzoo.data.dataset_file import CATALOG; "
        "print(*register('camvid'), *register(CATALOG.resolve() / 'voc_2012.yaml'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "link"), "OMP_NUM_THREADS": "1"}
    printed = subprocess.check_output(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, text=True
    )
    assert {"camvid_train", "voc_2012_sem_seg_val"} <= set(printed.split())
