"""CityscapesInstanceEvaluator against the official script on the same predictions, and hand-made cases."""

import contextlib
import importlib
import importlib.util
import io
import json
import math
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from detectron2.utils import comm
from PIL import Image

import segzoo.data  # noqa: F401  registers Cityscapes
from segzoo.evaluation import Protocol, build_evaluator, write_results
from segzoo.evaluation.cityscapes_ap import average_precision
from segzoo.evaluation.instance_files import load_instances
from segzoo.evaluation.prediction_io import save_mask
from segzoo.evaluation.rescore import rescore
from segzoo.utils.errors import InputError

VAL, TEST = "cityscapes_fine_instance_seg_val", "cityscapes_fine_instance_seg_test"
SIZE = (96, 160)
THINGS = {"person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32}
THINGS["bicycle"] = 33
NAMES = list(THINGS)


class Street:
    """A Cityscapes tree, and predictions for its images.

    Things of most kinds overlap stuff, void, caravans and each other; some are groups, some are small.
    """

    def __init__(self, root, num_images=6, seed=0):
        self.root, self.random = root, np.random.default_rng(seed)
        self.masks, self.scores, self.classes = {}, {}, {}
        for index in range(num_images):
            name = f"{('aachen', 'bonn')[index % 2]}_{index:06d}_000019"
            ids = self._draw()
            if index == 2:  # an image without things
                ids = np.where(ids < 1000, ids, 7).astype(np.uint16)
            self.add(name, ids, *self._predict(ids, nothing=index == 3))

    def add(self, name, ids, masks, classes, scores):
        """An image with its instance ids, and its predictions."""
        city = name.split("_")[0]
        for folder, suffix in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_instanceIds")):
            (self.root / "cityscapes" / folder / "val" / city).mkdir(parents=True, exist_ok=True)
            file = self.root / "cityscapes" / folder / "val" / city / f"{name}_{suffix}.png"
            Image.fromarray(ids if folder == "gtFine" else np.zeros(ids.shape, np.uint8)).save(file)
        self.masks[name] = np.array(masks, bool).reshape(-1, *ids.shape)
        self.classes[name], self.scores[name] = list(classes), list(scores)

    def _draw(self):
        random = self.random
        ids = random.choice([7, 8, 11, 21, 23], SIZE[1]).astype(np.uint16)[None].repeat(SIZE[0], 0)
        ids[-12:] = random.integers(0, 7)  # ego vehicle and other void
        for number in range(14):
            # Trains never occur; 29 and 30, caravan and trailer, are void, but their instances are not.
            category = int(random.choice([24, 25, 26, 26, 26, 27, 28, 29, 30, 32, 33]))
            side = random.integers(4, 34, 2)
            top, left = (int(random.integers(0, limit - 4)) for limit in SIZE)
            is_group = random.random() < 0.25
            ids[top : top + side[0], left : left + side[1]] = (
                category if is_group else category * 1000 + number
            )
        return ids

    def _predict(self, ids, nothing=False):
        random, masks, classes, scores = self.random, [], [], []
        if nothing:
            return masks, classes, scores
        for value in np.unique(ids):
            category = int(value if value < 1000 else value // 1000)
            if category == 28:  # buses are never found
                continue
            is_thing = category in THINGS.values()
            thing = category if is_thing else int(random.choice([26, 31, 33]))
            for _ in range(random.integers(0, 4) if is_thing else random.integers(0, 2)):
                shift = random.integers(-2, 3, 2) * (random.random() < 0.4)
                mask = np.roll(ids == value, shift, (0, 1))
                share = random.choice([1.0, 1.0, 0.8, 0.6, 0.5])  # IoUs that equal a threshold
                mask &= np.cumsum(mask).reshape(SIZE) <= share * mask.sum()
                masks.append(mask)
                classes.append(thing if random.random() < 0.9 else 24)
                quality = random.integers(1, 12) / 11 if random.random() < 0.7 else random.random()
                scores.append(quality if is_thing else quality / 2)
        # One that is empty, one on void alone, and the whole image for most classes: the official script
        # stops where all predictions of a class are ignored.
        everywhere = [24, 25, 26, 27, 32, 33]
        masks += [np.zeros(SIZE, bool), ids < 7, *[np.ones(SIZE, bool)] * len(everywhere)]
        return masks, [*classes, 26, 26, *everywhere], [*scores, 0.99, 0.07, *[0.05] * len(everywhere)]

    def outputs(self, things_only=True):
        """{file name: the model's output}; with all classes if not `things_only`."""
        order = NAMES if things_only else MetadataCatalog.get(VAL).classes
        found = {}
        for name, masks in self.masks.items():
            instances = Instances(masks.shape[1:], pred_masks=torch.from_numpy(masks))
            instances.scores = torch.tensor(self.scores[name], dtype=torch.float32)
            by_id = {THINGS.get(one): index for index, one in enumerate(order)}
            instances.pred_classes = torch.tensor([by_id[one] for one in self.classes[name]]).long()
            found[name] = {"instances": instances}
        return found

    def evaluate(self, things_only=True, output_dir=None, **options):
        model_classes = None if things_only else MetadataCatalog.get(VAL).classes
        evaluator = build_evaluator(VAL, ["instance"], output_dir, model_classes=model_classes, **options)
        outputs = self.outputs(things_only)
        for entry in DatasetCatalog.get(VAL):
            evaluator.process([entry], [outputs[stem(entry)]])
        return evaluator.evaluate()["segm"]


def stem(entry):
    return entry["file_name"].split("/")[-1].removesuffix("_leftImg8bit.png")


def official(root, predictions, folder, monkeypatch):
    """The averages of the official script for the files in `predictions`."""
    pytest.importorskip("cityscapesscripts")
    if importlib.util.find_spec("pyquaternion") is None:  # imported for boxes in space only
        monkeypatch.setitem(sys.modules, "pyquaternion", types.SimpleNamespace(Quaternion=None))
    script = importlib.import_module("cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling")
    truths = sorted(str(file) for file in root.glob("cityscapes/gtFine/val/*/*_instanceIds.png"))
    options = {"predictionPath": str(predictions), "predictionWalk": None, "quiet": True, "JSONOutput": False}
    options["gtInstancesFile"] = str(folder / "gtInstances.json")
    for key, value in options.items():
        monkeypatch.setattr(script.args, key, value, raising=False)
    monkeypatch.chdir(folder)  # the script writes matches.json
    with contextlib.redirect_stdout(io.StringIO()):
        found = [script.getPrediction(truth, script.args) for truth in truths]
        return script.evaluateImgLists(found, truths, script.args)["averages"]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize("seed", range(4))
def test_numbers_equal_the_official_script_bitwise_on_the_saved_files(root, tmp_path, monkeypatch, seed):
    street = Street(root, seed=seed)
    found = street.evaluate(things_only=seed % 2 == 0, output_dir=tmp_path / "out", save_predictions=True)
    peer = official(root, tmp_path / "out/cityscapes_instances", tmp_path, monkeypatch)
    expected = {"AP": 100 * peer["allAp"], "AP50": 100 * peer["allAp50%"]}
    for name in NAMES:
        expected[f"AP-{name}"] = 100 * peer["classes"][name]["ap"]
        expected[f"AP50-{name}"] = 100 * peer["classes"][name]["ap50%"]
    assert {key: repr(float(value)) for key, value in expected.items()} == {
        key: repr(value) for key, value in found.items()
    }
    assert 5 < found["AP"] < 95
    assert found["AP-bus"] == 0  # never predicted
    assert math.isnan(found["AP-train"])  # never there


def rectangle(top, left, height, width):
    mask = np.zeros(SIZE, bool)
    mask[top : top + height, left : left + width] = True
    return mask


CAR, OTHER = rectangle(0, 0, 20, 20), rectangle(40, 40, 20, 20)
HAND = {
    # name: (regions {id: mask}, predictions [(mask, score)] of cars, AP50)
    "found": ({26001: CAR}, [(CAR, 0.9)], 100),
    "one of two found": ({26001: CAR, 26002: OTHER}, [(CAR, 0.9)], 50),
    "half covered is not found": ({26001: CAR}, [(rectangle(0, 0, 20, 10), 0.9)], 0),
    "the surer of two is right": ({26001: CAR}, [(CAR, 0.5), (rectangle(0, 0, 20, 19), 0.9)], 100),
    "a surer error": ({26001: CAR}, [(CAR, 0.5), (OTHER, 0.9)], 25),
    "equally sure": ({26001: CAR}, [(CAR, 0.5), (OTHER, 0.5)], 75),
    "ignored on a group": ({26001: CAR, 26: OTHER}, [(CAR, 0.5), (OTHER, 0.9)], 100),
    "wrong on a group of another class": ({26001: CAR, 27: OTHER}, [(CAR, 0.5), (OTHER, 0.9)], 25),
    "ignored on void": ({26001: CAR, 4: OTHER}, [(CAR, 0.5), (OTHER, 0.9)], 100),
    "wrong on a caravan": ({26001: CAR, 29001: OTHER}, [(CAR, 0.5), (OTHER, 0.9)], 25),
    "half on void is wrong": (
        {26001: CAR, 4: OTHER},
        [(CAR, 0.5), (rectangle(40, 40, 20, 40), 0.9)],
        25,
    ),
    "small is ignored": ({26001: CAR, 26002: OTHER & rectangle(40, 0, 4, 160)}, [(CAR, 0.5)], 100),
    "only ignored ones": ({26001: CAR, 26: OTHER}, [(OTHER, 0.9)], 0),
}


@pytest.mark.parametrize("name", HAND)
def test_scores_of_hand_made_images(root, name):
    """A step of the curve reaches half-way to its neighbors, and its two ends are recall 1 and 0.

    A surer error: recall 1, 0, 0 with precision 1/2, 0, 1, so that the first step, half as wide, counts.
    """
    regions, predictions, expected = HAND[name]
    ids = np.full(SIZE, 7, np.uint16)
    for value, mask in regions.items():
        ids[mask] = value
    street = Street(root, num_images=0)
    masks, scores = zip(*predictions, strict=True)
    street.add("ulm_000000_000019", ids, masks, [26] * len(masks), scores)
    assert street.evaluate()["AP50"] == pytest.approx(expected)


def test_images_without_a_counted_instance_have_no_ap(root, caplog):
    ids = np.full(SIZE, 7, np.uint16)
    ids[rectangle(0, 0, 3, 3)] = 26001  # 9 pixels
    street = Street(root, num_images=0)
    street.add("ulm_000000_000019", ids, [CAR], [26], [0.9])
    assert np.isnan(street.evaluate()["AP"])
    assert "its 1 images have no single object of at least 100 pixels, so there is no AP" in caplog.text


def test_average_precision_against_a_loop_over_scores():
    random = np.random.default_rng(0)
    for _ in range(50):
        right, wrong = (random.integers(0, 9, random.integers(0, 12)) / 8 for _ in range(2))
        missed = int(random.integers(0, 5)) + (not len(right))
        points = []  # from low to high scores
        for score in sorted({*right, *wrong}):
            hits, errors = (right >= score).sum(), (wrong >= score).sum()
            points.append((hits / (len(right) + missed), hits / (hits + errors)))
        points.append((0.0, 1.0))
        expected, number = 0.0, len(points)
        for index, (_, precision) in enumerate(points):
            before, after = points[max(index - 1, 0)][0], points[min(index + 1, number - 1)][0]
            expected += precision * (before - after) / 2
        expected = expected if number > 1 else 0.0
        assert average_precision(right, wrong, missed) == pytest.approx(expected, abs=1e-12)


def test_ranks_give_bitwise_the_numbers_of_one_process(root, monkeypatch):
    street = Street(root, seed=3)
    alone = street.evaluate(scoring_threads=0)
    entries, outputs = DatasetCatalog.get(VAL), street.outputs()
    ranks = []
    for shard in (entries[::2], entries[1::2]):
        (evaluator,) = build_evaluator(VAL, ["instance"])._evaluators
        evaluator.process(shard, [outputs[stem(entry)] for entry in shard])
        evaluator.flush()
        ranks.append(evaluator)
    sent = [pickle.loads(pickle.dumps(evaluator.partial())) for evaluator in ranks]
    # Records hold no pixels: some bytes for each of the predictions.
    assert max(len(pickle.dumps(record)) for record in ranks[0].records) < SIZE[0] * SIZE[1] // 2
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(comm, "synchronize", lambda: None)
    monkeypatch.setattr(comm, "gather", lambda part: sent)
    assert repr(ranks[0].evaluate()["segm"]) == repr(alone)


def test_saved_instances_are_scored_again_alike(root, tmp_path):
    street = Street(root, seed=1)
    metrics = street.evaluate(output_dir=tmp_path / "out", save_predictions=True)
    write_results(
        tmp_path / "out",
        {VAL: {"segm": metrics}},
        Protocol(datasets={VAL: 6}, input_size="original", weights="a.pth"),
    )
    again, path = rescore(VAL, tmp_path / "out")
    assert repr(again) == repr({"segm": metrics})
    assert json.loads(path.read_text())["protocol"]["weights"] == "a.pth"


WRONG_FILES = {
    "line 1 is 'a.png 26', expected the path of a mask": "a.png 26\n",
    r"masks/gone.png: not found": "masks/gone.png 26 0.5\n",
    r"has the class id 34, expected the ids of cityscapes": "masks/{stem}_leftImg8bit_000.png 34 0.5\n",
    r"the predicted masks are 5 x 5 but the image is 96 x 160": "small.png 26 0.5\n",
    "its masks have several sizes": "masks/{stem}_leftImg8bit_000.png 26 0.5\nsmall.png 26 0.5\n",
}


@pytest.mark.parametrize("message", WRONG_FILES)
def test_wrong_saved_files_are_named(root, tmp_path, message):
    street = Street(root, num_images=1)
    street.evaluate(output_dir=tmp_path, save_predictions=True)
    (name,) = street.masks
    folder = tmp_path / "cityscapes_instances"
    text = folder / f"{name}_leftImg8bit.txt"
    Image.fromarray(np.ones((5, 5), np.uint8)).save(folder / "small.png")
    text.write_text(WRONG_FILES[message].format(stem=name))
    with pytest.raises(InputError, match=message) as error:
        rescore(VAL, tmp_path)
    assert "\n" not in str(error.value)
    text.unlink()
    with pytest.raises(InputError, match=r"txt: not found, the prediction of .* \(1 of 1 are missing\)"):
        rescore(VAL, tmp_path)


def test_a_split_without_labels_is_written_and_not_scored(root, tmp_path):
    street = Street(root, num_images=2)
    (root / "cityscapes/leftImg8bit/val").rename(root / "cityscapes/leftImg8bit/test")
    evaluator = build_evaluator(TEST, ["instance"], tmp_path)
    outputs = street.outputs()
    for entry in DatasetCatalog.get(TEST):
        evaluator.process([entry], [outputs[stem(entry)]])
    assert evaluator.evaluate() == {"instance_predictions": {"images": 2}}
    for name, masks in street.masks.items():
        (text,) = tmp_path.glob(f"cityscapes_instances/*/{name}*.txt")
        lines = [line.split(" ") for line in text.read_text().splitlines()]
        scores = torch.tensor(street.scores[name], dtype=torch.float32).tolist()
        assert [(int(label), float(score)) for _, label, score in lines] == list(
            zip(street.classes[name], scores, strict=True)
        )
        for (file, _, _), mask in zip(lines, masks, strict=True):
            assert ((np.array(Image.open(text.parent / file)) != 0) == mask).all()


def test_instance_labels_are_scored_by_class_too(root):
    """Their classes are those of labelIds.png: a perfect semantic prediction gives 100."""
    Street(root, num_images=2, seed=5)
    evaluator = build_evaluator(VAL, ["semantic"])
    ids = MetadataCatalog.get(VAL).contiguous_id_to_dataset_id
    for entry in DatasetCatalog.get(VAL):
        raw = np.array(Image.open(entry["sem_seg_file_name"])).astype(int)
        raw = np.where(raw < 1000, raw, raw // 1000)
        labels = np.zeros(raw.shape, np.uint8)
        for index, class_id in enumerate(ids):
            labels[raw == class_id] = index
        evaluator.process([entry], [{"sem_seg_labels": labels}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == pytest.approx(100)
    with pytest.raises(InputError, match="cannot score 'panoptic'; expected some of instance, semantic"):
        build_evaluator(VAL, ["panoptic"])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_prediction_lists_may_have_any_encoding(tmp_path, encoding):
    mask = np.eye(3, dtype=bool)
    save_mask(tmp_path / "masks/stra\u00dfe 1.png", mask)
    (tmp_path / "a.txt").write_text("masks/stra\u00dfe 1.png 26 0.5\r\n", encoding=encoding, newline="")
    masks, class_ids, scores = load_instances(tmp_path / "a.txt")
    assert np.array_equal(masks, mask[None])
    assert (class_ids, scores) == ([26], [0.5])
