"""The datasets of `segzoo prepare`, with the options and the help of each.

The modules that do the work are not imported here, since that takes seconds (torch, Detectron2).
"""

import ast
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import segzoo
from segzoo.cli.parser import CommandLine, path_value, whole_number
from segzoo.utils.text_files import read_text

CATALOG = Path(segzoo.__file__).parent / "data" / "catalog"
EXIT_STATUS = "exit status: 0 the dataset is complete, 1 something is missing, 2 nothing can be done"


def with_root(text: str, *, writes: bool = True, workers: bool = True) -> Callable[[CommandLine], None]:
    """Return a function that adds the options common to most datasets.

    Args:
        text: name and required contents of the dataset's folder.
        writes: whether there is anything to write.
        workers: whether files are written in several processes.
    """

    def add(parser: CommandLine) -> None:
        parser.add_argument(
            "--root",
            type=path_value,
            metavar="DIR",
            help=f"folder {text}; default: below $DETECTRON2_DATASETS (./datasets)",
        )
        if writes and workers:
            parser.add_workers()
        if writes:
            parser.add_argument("--check", action="store_true", help="write nothing; count what is there")

    return add


def _voc(parser: CommandLine) -> None:
    with_root("VOC2012, with JPEGImages/ and SegmentationClass/")(parser)
    parser.add_argument("--sbd", type=path_value, metavar="DIR", help="folder of SBD with cls/*.mat")


def _pascal_context(parser: CommandLine) -> None:
    with_root("VOC2010, with JPEGImages/")(parser)
    parser.add_argument(
        "--annotations",
        type=path_value,
        metavar="FILE",
        help="trainval_merged.json, or the authors' folder of .mat files",
    )


def _coco_stuff(parser: CommandLine) -> None:
    with_root("coco, with train2017/, val2017/ and stuffthingmaps/")(parser)
    parser.add_argument("--label-train-ids", action="store_true", help="write beside the labels")


def _coco_panoptic(parser: CommandLine) -> None:
    splits = ("coco_2017_train_panoptic", "coco_2017_val_panoptic")
    parser.add_split(f"{' and '.join(splits)} (default: both)", "--splits", choices=splits)
    parser.add_argument(
        "--labels", action="store_true", help="read every panoptic PNG and compare with the JSON"
    )
    parser.add_argument("--semantic", action="store_true", help="write semantic label PNGs; implies --labels")
    parser.add_argument("--statistics", action="store_true", help="count segments and entities")
    parser.add_workers()


def _atr(parser: CommandLine) -> None:
    with_root("humanparsing, with JPEGImages/ and SegmentationClassAug/", workers=False)(parser)
    parser.add_argument("--allow-incomplete", action="store_true", help="split an incomplete copy")


def _shapes(parser: CommandLine) -> None:
    parser.add_argument(
        "--root",
        type=path_value,
        metavar="DIR",
        help="folder to write; default: shapes below $DETECTRON2_DATASETS (./datasets)",
    )
    parser.add_argument("--train", type=whole_number(1), default=1600, help="training images (1600)")
    parser.add_argument("--val", type=whole_number(1), default=200, help="validation images (200)")
    parser.add_argument(
        "--size", type=whole_number(32), default=128, help="height and width of an image in pixels (128)"
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="random seed (0)")
    parser.add_workers()


class Preparation(NamedTuple):
    """The preparation of a dataset.

    Attributes:
        about: title of the dataset in the list.
        makes: what is written, in the list; "" if nothing is.
        section: title of the section of the guide with the source and the expected folders, see
            `dataset_guide.section`.
        add_options: adds options to the command line of the dataset.
        module: module of this package. Its docstring is the help, `prepare(arguments) -> bool` does the work
            and returns whether the dataset is complete.
    """

    about: str
    makes: str
    section: str
    add_options: Callable[[CommandLine], None]
    module: str = "published"


_ADE20K, _CITYSCAPES, _MAPILLARY = "ADE20K, 150 classes", "Cityscapes", "Mapillary Vistas v1.2"
_ADE20K_INSTANCES = "ADEChallengeData2016, with images/ and annotations_instance/"
_ADE20K_PANOPTIC = "ADEChallengeData2016, with images/, annotations/ and annotations_instance/"
_CITYSCAPES_ROOT = "cityscapes, with leftImg8bit/ and gtFine/"

# {name of the dataset's file in segzoo/data/catalog: its preparation}.
PREPARATIONS = {
    "shapes": Preparation("Shapes", "the dataset, generated in seconds", "Shapes", _shapes, "shapes"),
    "camvid": Preparation("CamVid", "", "CamVid", with_root("CamVid", writes=False)),
    "cityscapes": Preparation(
        "Cityscapes, semantic",
        "*_labelTrainIds.png, for other projects",
        _CITYSCAPES,
        with_root(_CITYSCAPES_ROOT),
        "cityscapes",
    ),
    "cityscapes_panoptic": Preparation(
        "Cityscapes, panoptic",
        "panoptic PNGs and JSON, from *_instanceIds.png",
        _CITYSCAPES,
        with_root(_CITYSCAPES_ROOT),
        "cityscapes_panoptic",
    ),
    "cityscapes_instance": Preparation(
        "Cityscapes, instances", "", _CITYSCAPES, with_root(_CITYSCAPES_ROOT, writes=False)
    ),
    "mapillary_vistas": Preparation(
        "Mapillary Vistas, semantic", "", _MAPILLARY, with_root("mapillary_vistas", writes=False)
    ),
    "mapillary_vistas_panoptic": Preparation(
        "Mapillary Vistas, panoptic", "", _MAPILLARY, with_root("mapillary_vistas", writes=False)
    ),
    "voc_2012": Preparation(
        "PASCAL VOC 2012",
        "train_aug, from VOC train and SBD",
        "PASCAL VOC 2012, and train_aug",
        _voc,
        "voc_2012",
    ),
    "pascal_context": Preparation(
        "PASCAL Context, 59 classes",
        "label PNGs and lists, from the JSON or .mat files",
        "PASCAL Context, 59 classes",
        _pascal_context,
        "pascal_context",
    ),
    "ade20k": Preparation(
        "ADE20K, semantic",
        "labels from 0, for other projects",
        _ADE20K,
        with_root("ADEChallengeData2016, with images/ and annotations/"),
        "ade20k",
    ),
    "ade20k_test": Preparation("ADE20K, test images", "", _ADE20K, with_root("release_test", writes=False)),
    "ade20k_panoptic": Preparation(
        "ADE20K, panoptic",
        "panoptic PNGs and JSON, from the labels of 2016 and 2017",
        _ADE20K,
        with_root(_ADE20K_PANOPTIC),
        "ade20k_panoptic",
    ),
    "ade20k_instance": Preparation(
        "ADE20K, instances",
        "instances JSON, from annotations_instance/",
        _ADE20K,
        with_root(_ADE20K_INSTANCES),
        "ade20k_instance",
    ),
    "ade20k_full": Preparation(
        "ADE20K-full, 847 classes",
        "images and label files, from the release of 2021",
        "ADE20K-full, 847 classes",
        with_root("ADE20K_2021_17_01, with images/ and index_ade20k.pkl"),
        "ade20k_full",
    ),
    "coco_panoptic": Preparation(
        "COCO panoptic",
        "optional semantic PNGs, for other projects",
        "COCO panoptic",
        _coco_panoptic,
        "coco_panoptic",
    ),
    "coco_instances": Preparation(
        "COCO instances", "", "COCO instances", with_root("coco, with annotations/", writes=False)
    ),
    "coco_stuff": Preparation(
        "COCO-Stuff, 171 classes",
        "labels from 0, for other projects",
        "COCO-Stuff, 171 classes",
        _coco_stuff,
        "coco_stuff",
    ),
    "coco_stuff_10k": Preparation(
        "COCO-Stuff 10k",
        "label PNGs, from the .mat files",
        "COCO-Stuff 10k",
        with_root("coco_stuff_10k, with annotations/, images/ and imageLists/"),
        "coco_stuff_10k",
    ),
    "coco_21": Preparation(
        "COCO, the 21 classes of VOC",
        "label PNGs and lists, from COCO's instances",
        "COCO, 21 classes",
        with_root("coco, with annotations/ and {train,val}2017/"),
        "coco_21",
    ),
    "coco_stuff_test": Preparation(
        "COCO-Stuff, test-dev images", "", "COCO-Stuff, 171 classes", with_root("coco", writes=False)
    ),
    "coco_rem": Preparation(
        "COCO-ReM, instances (CC BY 4.0)", "", "COCO-ReM", with_root("with coco/ and coco_rem/", writes=False)
    ),
    "coconut": Preparation(
        "COCONut, panoptic (non-commercial)",
        "JSONs that name the files, from the released ones",
        "COCONut",
        with_root("with coco/ and coconut/"),
        "coconut",
    ),
    "entityseg": Preparation(
        "EntitySeg, entities (non-commercial)",
        "panoptic PNGs and JSONs of one class, from the masks",
        "EntitySeg",
        with_root("entityseg, with images/ or images_lr/, and annotations/"),
        "entityseg",
    ),
    "entityseg_instance": Preparation(
        "EntitySeg, instances (non-commercial)",
        "",
        "EntitySeg",
        with_root("entityseg, with annotations/", writes=False),
    ),
    "entityseg_panoptic": Preparation(
        "EntitySeg, panoptic (non-commercial)",
        "JSONs that name the files, from the released ones",
        "EntitySeg",
        with_root("entityseg, with images/ and annotations/"),
        "entityseg_panoptic",
    ),
    "entityseg_semantic": Preparation(
        "EntitySeg, semantic (non-commercial)",
        "",
        "EntitySeg",
        with_root("entityseg, with images/ and annotations/", writes=False),
    ),
    "bdd100k": Preparation(
        "BDD100K, semantic (not for profit)", "", "BDD100K", with_root("bdd100k", writes=False)
    ),
    "lip": Preparation("LIP", "", "Human parsing: LIP", with_root("LIP", writes=False)),
    "cihp": Preparation(
        "CIHP", "", "Human parsing: CIHP", with_root("instance-level_human_parsing", writes=False)
    ),
    "atr": Preparation("ATR", "lists of a fixed split", "Human parsing: ATR", _atr, "atr"),
    "mhp_v1": Preparation("MHP v1", "", "Human parsing: MHP v1", with_root("MHPv1", writes=False)),
    "mhp_v2": Preparation("MHP v2", "", "Human parsing: MHP v2", with_root("MHPv2", writes=False)),
}

# Names in the scripts of datasets/.
SYNONYMS = {"coco": "coco_panoptic", "voc": "voc_2012", "voc_aug": "voc_2012"}


def dataset_of(split: str) -> str:
    """Return the built-in dataset with a split of that name, or ""."""
    # Not parsed as YAML: some files are long.
    line = re.compile(rf"(?<![\w-]){re.escape(split)}:")
    found = (file.stem for file in sorted(CATALOG.glob("*.yaml")) if line.search(read_text(file)))
    return next(found, "")


def description(name: str) -> str:
    """Return the docstring of a dataset's module, read from its source: importing it takes seconds."""
    file = Path(__file__).with_name(f"{PREPARATIONS[name].module}.py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    return (text or "").replace("DATASET", name)


def load(name: str) -> Callable[..., bool]:
    """Import and return the function that prepares a dataset."""
    return import_module(f".{PREPARATIONS[name].module}", __package__).prepare
