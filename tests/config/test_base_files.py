"""Base files: one folder for each key, so that no order decides; and those of version 0.1 are still read."""

import logging
import re
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.modeling import build_backbone

from segzoo.config import former_bases
from segzoo.config.bases import read_with_bases
from segzoo.config.files import config_root
from segzoo.config.load import read_config
from segzoo.config.origins import find_origins
from segzoo.model_zoo import load_config

REPOSITORY = Path(__file__).resolve().parents[2]
BASES = config_root() / "_base_"
LEAVES = sorted(file for file in config_root().rglob("*.yaml") if "_base_" not in file.parts)


def flat(keys, prefix=""):
    for key, value in keys.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif key != "_BASE_":
            yield f"{prefix}{key}", value


def bases_of(file):
    listed = yaml.safe_load(file.read_text()).get("_BASE_", [])
    return [(file.parent / base).resolve() for base in ([listed] if isinstance(listed, str) else listed)]


def with_bases(file):
    yield file.resolve()
    for base in bases_of(file):
        yield from with_bases(base)


def test_the_document_of_recipes_has_a_row_for_each_folder():
    rows = re.findall(r"^\| `(\w+)` \|", (REPOSITORY / "docs/recipes.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(file.name for file in (BASES / "recipes").iterdir() if file.is_dir())


def test_the_readme_counts_the_methods():
    listed = re.findall(
        r"^\| \[.*projects/(\w+)/", (REPOSITORY / "docs/methods.md").read_text(), re.MULTILINE
    )
    assert sorted(listed) == sorted(file.parent.name for file in REPOSITORY.glob("projects/*/README.md"))
    (count,) = re.findall(
        r"^\| Methods \| (\d+) and two baselines", (REPOSITORY / "README.md").read_text(), re.M
    )
    assert int(count) == len(listed) - 1  # the baselines share a row


def test_no_key_is_set_by_two_folders():
    folders = {}
    for file in BASES.rglob("*.yaml"):
        for key, _ in flat(yaml.safe_load(file.read_text())):
            folders.setdefault(key, set()).add(file.relative_to(BASES).parts[0])
    assert len(folders) > 100
    assert {key: names for key, names in folders.items() if len(names) > 1} == {}


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda file: str(file.relative_to(config_root())))
def test_the_order_of_the_folders_decides_nothing(leaf, tmp_path):
    by_folder = {}
    for base in bases_of(leaf):
        by_folder.setdefault(base.relative_to(BASES.resolve()).parts[0], []).append(str(base))
    expected = dict(flat(read_with_bases(leaf)))
    keys = {key: value for key, value in yaml.safe_load(leaf.read_text()).items() if key != "_BASE_"}
    other = tmp_path / "other.yaml"
    backwards = [base for group in reversed(by_folder.values()) for base in group]
    other.write_text(yaml.safe_dump({"_BASE_": backwards, **keys}))
    assert dict(flat(read_with_bases(other))) == expected


@pytest.mark.parametrize(
    "leaf",
    [
        "semantic/ade20k/segformer_mit_b0",
        "panoptic/coco/maskformer_swin_tiny",
        "panoptic/coco/mask2former_r50",
    ],
)
def test_a_model_s_file_takes_bfloat16_as_an_option(leaf, tmp_path):
    file, option = tmp_path / "own.yaml", BASES / "recipes/segzoo/amp_bf16.yaml"
    file.write_text(yaml.safe_dump({"_BASE_": [str(config_root() / f"{leaf}.yaml"), str(option)]}))
    expected = dict(flat(load_config(leaf)))
    with_option = expected | {"SOLVER.AMP.ENABLED": True, "SOLVER.AMP.DTYPE": "bfloat16"}
    assert dict(flat(load_config(file))) == with_option != expected


def test_every_base_file_is_used_by_a_model_or_on_the_page_of_what_is_combined():
    used = {file for leaf in LEAVES for file in with_bases(leaf)}
    unused = {file.resolve() for file in BASES.rglob("*.yaml")} - used
    for folder in ("backbones", "methods"):
        page = (REPOSITORY / "docs" / f"{folder}.md").read_text(encoding="utf-8")
        unused -= {(BASES / folder / f"{name}.yaml").resolve() for name in re.findall(r"`(\w+)`", page)}
    page = (REPOSITORY / "docs/recipes.md").read_text(encoding="utf-8")
    unused -= {(BASES / file).resolve() for file in re.findall(r"`(recipes/\w+/\w+\.yaml)`", page)}
    assert {str(file) for file in unused} == set()


def test_the_page_of_backbones_has_all_of_them_with_their_numbers_of_parameters():
    page = (REPOSITORY / "docs" / "backbones.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|.*\| `(\w+)` \| (.+) \| .+ \|$", page, re.MULTILINE)
    stated = {
        name: (backbone, parameters)
        for backbone, files in rows
        for name, parameters in re.findall(r"`(\w+)` \(([\d.]+)\)", files)
    }
    counted = {}
    for file in (BASES / "backbones").glob("*.yaml"):
        cfg = read_config(file)
        with torch.device("meta"):
            parameters = build_backbone(cfg).parameters()
        counted[file.stem] = (cfg.MODEL.BACKBONE.NAME, f"{sum(p.numel() for p in parameters) / 1e6:.1f}")
    assert stated == counted


FORMER = {
    "a MaskFormer on CamVid": (
        [
            "datasets/camvid",
            "backbones/r18",
            "methods/maskformer",
            "schedules/adamw_resnet",
            "schedules/poly_10k_bs8",
        ],
        {"SOLVER": {"BACKBONE_MULTIPLIER": 1.0}},
        "semantic/camvid/maskformer_r18",
    ),
    "without a recipe": (
        ["datasets/camvid", "backbones/r18", "methods/bisenet", "schedules/poly_10k_bs8"],
        {"SOLVER": {"OPTIMIZER": "AdamW", "BASE_LR": 0.0005, "WEIGHT_DECAY": 0.01}},
        "semantic/camvid/bisenet_r18",
    ),
    "a recipe by its letter": (
        [
            "datasets/ade20k_segformer",
            "backbones/mit_b0",
            "methods/segformer_b0_b1",
            "schedules/recipe_d_segformer",
        ],
        {},
        "semantic/ade20k/segformer_mit_b0",
    ),
    "a dataset that has to come last": (
        [
            "backbones/r50_v1s",
            "methods/deeplabv3",
            "schedules/recipe_c_gluon",
            "datasets/cityscapes_gluon_long",
        ],
        {},
        "semantic/cityscapes/deeplabv3_r50_v1s_240ep",
    ),
    "keys of a method in a schedule": (
        ["datasets/coco_21_torchvision", "backbones/r50", "methods/fcn", "schedules/recipe_torchvision"],
        {},
        "semantic/coco_21/fcn_r50",
    ),
    "steps": (
        [
            *("datasets/coco_panoptic", "backbones/swin_tiny", "methods/maskformer"),
            *("schedules/adamw_swin", "schedules/step_554k_bs64"),
        ],
        {"MODEL": {"MASK_FORMER": {"SIZE_DIVISIBILITY": 0}}},
        "panoptic/coco/maskformer_swin_tiny",
    ),
    "sizes of a dataset, without any schedule": (
        ["datasets/shapes_semantic", "methods/pspnet"],
        {
            "MODEL": {
                "DEVICE": "cpu",
                "BACKBONE": {"NAME": "ResNetBackbone", "VARIANT": "r18_quarter", "NORM": "BN"},
                "SEM_SEG_HEAD": {"CONVS_DIM": 48, "NORM": "BN"},
                "AUX_HEAD": {"CONVS_DIM": 32},
            },
            "DATALOADER": {"NUM_WORKERS": 1},
            "SOLVER": {
                "IMS_PER_BATCH": 8,
                "MAX_ITER": 400,
                "OPTIMIZER": "AdamW",
                "BASE_LR": 0.002,
                "WEIGHT_DECAY": 0.01,
                "LR_SCHEDULER_NAME": "WarmupPolyLR",
                "CHECKPOINT_PERIOD": 0,
            },
            "TEST": {"IMS_PER_BATCH": 8},
            "SEED": 1,
        },
        "semantic/shapes/pspnet_r18_quarter",
    ),
}


@pytest.mark.parametrize("case", FORMER)
def test_base_files_of_version_0_1_keep_their_meaning(case, tmp_path, caplog):
    bases, keys, leaf = FORMER[case]
    file = tmp_path / "old.yaml"
    file.write_text(yaml.safe_dump({"_BASE_": [str(BASES / f"{base}.yaml") for base in bases], **keys}))
    with caplog.at_level(logging.WARNING):
        assert dict(flat(load_config(file))) == dict(flat(load_config(leaf)))
    (line,) = [record.getMessage() for record in caplog.records if "version 0.1" in record.getMessage()]
    for base in bases:
        assert (f"{base}.yaml is now " in line) is (base.startswith(("schedules/", "datasets/")))


def test_an_own_recipe_overrides_the_guess_for_a_former_dataset_file(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"SOLVER": {"MAX_ITER": 777, "IMS_PER_BATCH": 4}}))
    others = [str(BASES / f"{base}.yaml") for base in ("backbones/r18", "methods/pspnet", "datasets/camvid")]
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({"_BASE_": [str(recipe), *others]}))
    cfg = load_config(file)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH, cfg.INPUT.CROP_SIZE) == (777, 4, (352, 352))


def test_the_line_about_former_base_files_comes_once(tmp_path, caplog):
    file = tmp_path / "old.yaml"
    bases = ["datasets/camvid", "backbones/r18", "methods/maskformer", "schedules/adamw_resnet"]
    file.write_text(yaml.safe_dump({"_BASE_": [str(BASES / f"{base}.yaml") for base in bases]}))
    find_origins(file)
    assert caplog.text.count("version 0.1") == 1


@pytest.mark.parametrize("leaf", ["semantic/camvid/maskformer_r18", "panoptic/coco/mask2former_r50"])
def test_todays_configurations_are_not_former_ones(leaf, caplog):
    load_config(leaf)
    assert "version 0.1" not in caplog.text


def test_what_replaced_a_former_base_file_is_there():
    datasets = former_bases._DATASETS.values()
    names = {f"datasets/{dataset}" for dataset, _ in datasets} | {
        f"recipes/{recipe}" for _, recipe in datasets
    }
    names |= {f"recipes/{recipe}" for recipe in former_bases._SCHEDULES.values()}
    assert len(names) > 40
    assert [name for name in names if not (BASES / f"{name}.yaml").is_file()] == []
