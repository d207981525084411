"""Small datasets with mistakes, and the findings of `segzoo check-data`."""

import json

import numpy as np
import yaml
from detectron2.data import DatasetCatalog

from segzoo.cli import check_data
from segzoo.data import label_reader
from tests.data.data_trees import random_image, save

HEIGHT, WIDTH = 24, 32
VOID = 255
NAMES = ("road", "car", "sky")
COLORS = ((128, 64, 128), (0, 0, 142), (70, 130, 180))
COLORED = [{"name": name, "color": list(color)} for name, color in zip(NAMES, COLORS, strict=True)]


def check(capsys, path):
    """Exit status of `segzoo check-data`, and its findings."""
    status = check_data.main([str(path), "--json", "--workers", "0"])
    return status, json.loads(capsys.readouterr().out)["findings"]


def labels_of(path, split="x_train"):
    """{image id: (H, W) labels} as training reads them."""
    reader = label_reader(split)
    return {record["image_id"]: reader.load_sem_seg(record) for record in DatasetCatalog.get(split)}


def draw(values, images=3):
    """Random maps {stem: (H, W)}, each with all of the values, in unlike numbers of pixels."""
    found = {}
    for number in range(images):
        random = np.random.default_rng(number)
        labels = random.choice(values, (HEIGHT, WIDTH), p=random.dirichlet(np.full(len(values), 4.0)))
        labels.flat[: len(values)] = values
        found[f"{number:02d}"] = labels
    return found


def write(folder, truth, store, labels="masks/{stem}.png", classes=NAMES, **keys):
    """A dataset whose label files are what `store(labels, path)` writes of the truth."""
    (folder / "masks").mkdir(parents=True)
    for number, (stem, one) in enumerate(truth.items()):
        save(folder / f"images/{stem}.png", random_image(HEIGHT, WIDTH, number))
        store(one, folder / f"masks/{stem}.png")
    content = {
        "splits": {"x_train": "x"},
        "images": "images/{stem}.png",
        "labels": labels,
        "classes": list(classes),
        **keys,
    }
    return write_dataset_yaml(folder, content)


def write_dataset_yaml(folder, content):
    path = folder / "roads.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def apply(path, keys):
    write_dataset_yaml(path.parent, yaml.safe_load(path.read_text()) | keys)


def options_of(findings):
    """The options of the first finding that has some."""
    options = next(finding["options"] for finding in findings if finding["options"])
    return [(option["if"], yaml.safe_load(option["set"])) for option in options]


def notes_of(capsys, path, text):
    """The texts and remedies of the notes that have this in them; there is no problem."""
    status, findings = check(capsys, path)
    assert status == 0
    return [(one["text"], one["remedy"]) for one in findings if text in one["text"]]
