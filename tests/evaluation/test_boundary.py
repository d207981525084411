"""Boundary AP, PQ and IoU against restatements with scipy's erosion and COCOeval, and cases done by hand."""

import contextlib
import io
import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import ndimage

import segzoo.data  # noqa: F401  registers Cityscapes
from segzoo.evaluation import (
    Protocol,
    boundaries,
    build_evaluator,
    compare_results,
    evaluator_protocols,
    write_results,
)
from segzoo.evaluation.boundaries import boundary_width, map_boundaries, mask_boundary
from segzoo.evaluation.boundary import BoundaryCityscapesEvaluator, BoundaryInstanceEvaluator
from segzoo.evaluation.rescore import rescore
from segzoo.utils.errors import InputError
from tests.evaluation.evaluation_data import IGNORE, PanopticData

DILATION = 0.05


def naive_boundary(mask, dilation=DILATION):
    """The definition, step by step: as many erosions by 3 x 3 as the width has pixels, in a border of 0."""
    width = max(1, round(dilation * np.hypot(*mask.shape)))
    eroded = ndimage.binary_erosion(np.pad(mask, 1), np.ones((3, 3)), iterations=width)
    return mask & ~eroded[1:-1, 1:-1]


def iou(one, other, left_out=None):
    counted = np.ones(one.shape, bool) if left_out is None else ~left_out
    union = np.count_nonzero((one & counted) | other)
    return np.count_nonzero(one & other) / union if union else 0.0


# Geometry.


@pytest.fixture(params=["compiled", "opencv"])
def path(request, monkeypatch):
    if request.param == "opencv":
        monkeypatch.setattr(boundaries, "compiled_kernels", lambda: None)
    else:
        pytest.importorskip("numba")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, bool])
def test_boundaries_are_masks_without_their_erosion(path, dtype):
    rng = np.random.default_rng(0)
    for _ in range(40):
        height, width, pixels = (int(number) for number in rng.integers(1, [30, 30, 6]))
        ids = np.kron(rng.integers(0, 4, (height // 3 + 1, width // 4 + 1)), np.ones((3, 4), int))
        ids = ids[:height, :width]
        ids[rng.random(ids.shape) < 0.02] = 5
        if dtype == np.int32:
            ids = ids * 3_000_000 - 1  # up to 2**24
        ids = ids.astype(dtype)
        expected = np.zeros(ids.shape, bool)
        for value in np.unique(ids):
            eroded = ndimage.binary_erosion(np.pad(ids == value, 1), np.ones((3, 3)), iterations=pixels)
            boundary = (ids == value) & ~eroded[1:-1, 1:-1]
            expected |= boundary
            np.testing.assert_array_equal(mask_boundary(ids == value, pixels), boundary)
        np.testing.assert_array_equal(map_boundaries(ids, pixels), expected)
    assert not mask_boundary(np.zeros((3, 4), bool), 1).any()


def test_the_width_is_a_share_of_the_diagonal():
    assert boundary_width((480, 640), 0.02) == 16  # the diagonal is 800
    assert boundary_width((1024, 2048), 0.005) == 11  # 2289.7
    assert boundary_width((10, 10), 0.02) == 1


# By hand: 40 x 40 pixels, width 3; a square of 20 x 20, and the same one pixel further right. Their rings
# have 20 * 20 - 14 * 14 = 204 pixels and share 6 rows of 19 and 14 rows of 4: 170.
WIDTH_3 = 0.053
RING_IOU = 170 / (204 + 204 - 170)


def square(shift=0):
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10 + shift : 30 + shift] = True
    return mask


class Square:
    """A registered image of the square as ground truth; `evaluator_type` says of which kind."""

    def __init__(self, name, evaluator_type, boundary_dilation=None, classes=3):
        self.entry = {"file_name": "/square.png", "image_id": 1, "height": 40, "width": 40}
        DatasetCatalog.register(name, lambda: [self.entry])
        # A crowd around it: nothing is void.
        segments = [{"id": 7, "category_id": 1, "iscrowd": 0}, {"id": 3, "category_id": 0, "iscrowd": 1}]
        regions = type("Regions", (), {})()
        regions.indices, regions.classes = square().astype(np.int32), np.array([0, 1])
        regions.is_instance = np.array([False, True])
        MetadataCatalog.get(name).set(
            classes=["ground", "square", *(f"absent{number}" for number in range(2, classes))],
            isthing=[False, True, *[False] * (classes - 2)],
            ignore_label=IGNORE if classes < IGNORE else 65535,
            evaluator_type=evaluator_type,
            contiguous_id_to_dataset_id=list(range(1, classes + 1)),
            load_sem_seg=lambda entry: self.labels,
            load_panoptic=lambda entry: (np.where(square(), 7, 3), segments),
            load_regions=lambda entry: regions,
            boundary_dilation=boundary_dilation,
        )
        self.labels, self.name = square().astype(np.uint8), name

    def evaluate(self, task, output, **options):
        options = {"boundary_dilation": WIDTH_3, "scoring_threads": 0} | options
        evaluator = build_evaluator(self.name, [task], names=["boundary"], **options)
        evaluator.process([self.entry], [output])
        return evaluator.evaluate()


@pytest.fixture
def make_square():
    made = []

    def make(evaluator_type, **metadata):
        made.append(Square(f"square_{len(made)}_of_boundaries", evaluator_type, **metadata))
        return made[-1]

    yield make
    for one in made:
        DatasetCatalog.pop(one.name)
        MetadataCatalog.pop(one.name)


def one_instance(mask):
    found = Instances(mask.shape, pred_masks=torch.from_numpy(mask[None]))
    found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([0])
    return {"instances": found}


def test_pairs_are_matched_by_boundary_iou(make_square):
    data = make_square("panoptic")
    moved = square(1).astype(np.int32)
    segments = [{"id": 1, "category_id": 1, "score": 0.5}]
    found = data.evaluate("panoptic", {"panoptic_seg": (moved, segments)})
    assert found["panoptic_seg"]["PQ"] == pytest.approx(100 * 380 / 420)
    assert found["boundary_panoptic_seg"]["PQ"] == pytest.approx(100 * RING_IOU)
    assert found["boundary_panoptic_seg"]["RQ"] == pytest.approx(100)
    # IoU 0.714 passes 5 of the 10 thresholds 0.5, 0.55, ..., where the masks' 0.905 passes 9.
    entity = data.evaluate("entity", {"entity_seg": (moved, segments)})
    assert (entity["entity_seg"]["AP"], entity["boundary_entity_seg"]["AP"]) == pytest.approx((90, 50))
    segm = data.evaluate("instance", one_instance(square(1)))
    assert (segm["segm"]["AP"], segm["boundary_segm"]["AP"]) == pytest.approx((90, 50))
    city = make_square("cityscapes_instances").evaluate("instance", one_instance(square(1)))
    assert (city["segm"]["AP"], city["boundary_segm"]["AP"]) == pytest.approx((90, 50))


def test_a_pair_counts_by_its_masks_if_their_iou_is_less(make_square):
    """A ring of width 3 is all boundary, that of the square: boundary IoU 1, mask IoU 204/400 = 0.51."""
    ring = square()
    ring[13:27, 13:27] = False
    data, ids = make_square("panoptic"), ring.astype(np.int32)
    segments = [{"id": 1, "category_id": 1, "score": 0.5}]
    found = data.evaluate("panoptic", {"panoptic_seg": (ids, segments)})
    assert found["boundary_panoptic_seg"]["PQ"] == pytest.approx(51)
    entity = data.evaluate("entity", {"entity_seg": (ids, segments)})
    assert entity["boundary_entity_seg"]["AP"] == pytest.approx(10)  # at the threshold 0.5
    assert data.evaluate("instance", one_instance(ring))["boundary_segm"]["AP"] == pytest.approx(10)
    city = make_square("cityscapes_instances").evaluate("instance", one_instance(ring))
    assert city["boundary_segm"]["AP"] == pytest.approx(10)


def test_a_pair_whose_boundaries_differ_is_not_found(make_square):
    """With width 1, the rings of 76 pixels share only 2 rows of 19: 1/3."""
    data = make_square("panoptic")
    output = {"panoptic_seg": (square(1).astype(np.int32), [{"id": 1, "category_id": 1}])}
    found = data.evaluate("panoptic", output, boundary_dilation=0.02)
    assert found["panoptic_seg"]["PQ"] == pytest.approx(100 * 380 / 420)
    assert found["boundary_panoptic_seg"]["PQ"] == 0


def test_the_boundaries_of_semantic_maps_by_hand(make_square, caplog):
    """The boundary of the ground is the border of the image, 444 pixels, and a ring of 26² - 20² = 276 around
    the hole, which shares 6 rows of 25 and 20 rows of 4 with the prediction's."""
    data = make_square("sem_seg")
    with caplog.at_level(logging.INFO, logger="segzoo"):
        found = data.evaluate("semantic", {"sem_seg_labels": square(1).astype(np.uint8)})
    assert "semantic maps (5.3 % of the diagonal)" in caplog.text
    assert "there is no published definition" in caplog.text
    ground = (444 + 230) / (2 * (444 + 276) - (444 + 230))
    metrics = found["boundary_sem_seg"]
    assert metrics["IoU-square"] == pytest.approx(100 * RING_IOU)
    assert metrics["IoU-ground"] == pytest.approx(100 * ground)
    assert metrics["mIoU"] == pytest.approx(50 * (RING_IOU + ground))
    assert np.isnan(metrics["IoU-absent2"])
    # What is ignored changes nothing: neither a class there, nor that it ends there.
    data.labels = data.labels.copy()
    data.labels[:15], data.labels[:, 33:] = IGNORE, IGNORE
    prediction = square().astype(np.uint8)
    prediction[:15] = np.random.default_rng(0).integers(0, 2, (15, 40))
    assert data.evaluate("semantic", {"sem_seg_labels": prediction})["boundary_sem_seg"]["mIoU"] == 100
    data.labels[:] = IGNORE
    assert np.isnan(data.evaluate("semantic", {"sem_seg_labels": prediction})["boundary_sem_seg"]["mIoU"])


def test_labels_of_256_classes_are_told_from_pixels_on_no_boundary(make_square):
    data = make_square("sem_seg", classes=256)
    data.labels = data.labels.astype(np.uint16)
    found = data.evaluate("semantic", {"sem_seg_labels": square().astype(np.uint8)})["boundary_sem_seg"]
    assert (found["mIoU"], found["IoU-ground"], found["IoU-square"]) == (100, 100, 100)


def test_overlaps_are_reported_by_the_standard_evaluator_alone(make_square, caplog):
    output = {"entity_seg": (square().astype(np.int32), [{"id": 1, "score": 0.5}])}
    with caplog.at_level(logging.INFO, logger="segzoo"):
        make_square("panoptic").evaluate("entity", output)
    assert caplog.text.count("No predicted entities overlap") == 1


# Against restatements, on random data with void, crowds and images without segments.


def naive_pq(data):
    """Boundary PQ, pair by pair of masks: (PQ of each class that occurs, in order)."""
    sums = np.zeros((data.num_classes, 4))  # IoU, TP, FP, FN
    for (true_ids, true_segments), (ids, segments) in zip(data.ground_truths, data.predictions, strict=True):
        void, found = true_ids == 0, set()
        for true in true_segments:
            mask, category, hit = true_ids == true["id"], true["category_id"], False
            for one in [] if true["iscrowd"] else segments:
                other = ids == one["id"]
                value = min(iou(other, mask, void), iou(naive_boundary(other), naive_boundary(mask), void))
                if one["category_id"] == category and value > 0.5:
                    sums[category] += (value, 1, 0, 0)
                    found.add(one["id"])
                    hit = True
            sums[category, 3] += not hit and not true["iscrowd"]
        for one in segments:
            other = ids == one["id"]
            passed_over = void.copy()
            for true in true_segments:
                if true["iscrowd"] and true["category_id"] == one["category_id"]:
                    passed_over |= true_ids == true["id"]
            if one["id"] not in found and np.count_nonzero(other & passed_over) <= other.sum() / 2:
                sums[one["category_id"], 2] += 1
    weight = sums[:, 1] + (sums[:, 2] + sums[:, 3]) / 2
    return 100 * sums[weight > 0, 0] / weight[weight > 0]


@pytest.mark.parametrize("seed", range(3))
def test_panoptic_quality_is_that_of_the_definition(tmp_path, seed):
    data = PanopticData(tmp_path / "data", seed=seed, max_segments=8)
    options = {"boundary_dilation": DILATION, "scoring_threads": seed}
    evaluator = build_evaluator(data.name, ["panoptic"], names=["boundary"], **options)
    evaluator.process(data.dataset_dicts, data.outputs("panoptic_seg"))
    found = evaluator.evaluate()
    expected = naive_pq(data)
    assert found["boundary_panoptic_seg"]["PQ"] == pytest.approx(expected.mean(), abs=1e-10)
    assert 0 < found["boundary_panoptic_seg"]["PQ"] < found["panoptic_seg"]["PQ"]


@pytest.mark.parametrize("seed", range(2))
def test_semantic_boundaries_are_those_of_the_definition(tmp_path, seed):
    data = PanopticData(tmp_path / "data", seed=seed)
    evaluator = build_evaluator(data.name, ["semantic"], names=["boundary"], boundary_dilation=DILATION)
    evaluator.process(data.dataset_dicts, data.outputs("sem_seg_labels"))
    found = evaluator.evaluate()["boundary_sem_seg"]
    sums = np.zeros((data.num_classes, 2))
    load = MetadataCatalog.get(data.name).load_sem_seg
    for entry, prediction in zip(data.dataset_dicts, data.semantic_predictions(), strict=True):
        truth = load(entry)
        for category in range(data.num_classes):
            masks = [(one == category) & (truth != IGNORE) for one in (truth, prediction)]
            one, other = (naive_boundary(mask) for mask in masks)
            sums[category] += np.count_nonzero(one & other), np.count_nonzero(one | other)
    present = sums[:, 1] > 0
    ious = 100 * sums[present, 0] / sums[present, 1]
    assert found["mIoU"] == pytest.approx(ious.mean(), abs=1e-10)
    names = [f"IoU-class{category}" for category in np.flatnonzero(present)]
    assert [found[name] for name in names] == pytest.approx(ious.tolist(), abs=1e-10)


class Overlapping:
    """Truths and predictions that overlap, with crowds, ties, and masks beyond the 100 that count."""

    def __init__(self, name, seed=0):
        rng = np.random.default_rng(seed)
        self.name, self.size, self.entries = name, (48, 64), []
        self.truths, self.outputs, self.detections = [], [], []
        for number in range(4):
            truths = []
            for _ in range(5):
                truths.append((self.blob(rng), int(rng.integers(2)), int(rng.random() < 0.25)))
            masks, classes = [], []
            for mask, category, _ in truths:
                for _ in range(120 if number == 3 and not masks else 2):
                    masks.append(np.roll(mask, rng.integers(-1, 2, 2), (0, 1)))
                    classes.append(category if rng.random() < 0.9 else 1 - category)
            scores = rng.integers(1, 9, len(masks)) / 8
            found = Instances(self.size, pred_masks=torch.from_numpy(np.array(masks)))
            found.scores, found.pred_classes = torch.from_numpy(scores), torch.tensor(classes)
            self.outputs.append({"instances": found})
            self.detections.append(list(zip(masks, classes, scores, strict=True)))
            self.truths.append(truths)
            self.entries.append({"file_name": f"/{number}.png", "image_id": number})
        DatasetCatalog.register(name, lambda: self.entries)
        MetadataCatalog.get(name).set(
            classes=["a", "b"],
            isthing=[True, True],
            evaluator_type="coco_instances",
            load_instances=self.load,
        )
        for entry in self.entries:
            entry.update(height=self.size[0], width=self.size[1])

    def blob(self, rng):
        rows, columns = np.mgrid[: self.size[0], : self.size[1]]
        row, column, height, width = rng.uniform((5, 5, 4, 4), (43, 59, 26, 34))
        return ((rows - row) / height) ** 2 + ((columns - column) / width) ** 2 <= 1

    def load(self, entry):
        return [
            {
                "category_id": category,
                "iscrowd": crowd,
                "area": float(mask.sum()),
                "segmentation": rle.encode(np.asfortranarray(mask, np.uint8)),
            }
            for mask, category, crowd in self.truths[entry["image_id"]]
        ]


def peer(truths, detections):
    """The twelve numbers of COCOeval with IoUs of whole maps, written down as the definition has them.

    Args:
        truths, detections: of each image, (mask, category, crowd flag) and (mask, category, score).
    """

    def annotations(images, with_scores):
        number = 0
        for index, masks in enumerate(images):
            for mask, category, value in masks:
                number += 1
                fact = {"score": value} if with_scores else {"iscrowd": value}
                one = {"id": number, "image_id": index, "category_id": category, "iscrowd": 0}
                yield {**one, **fact, "area": float(mask.sum()), "mask": mask}

    datasets = []
    for images, with_scores in ((truths, False), (detections, True)):
        dataset = COCO()
        dataset.dataset = {
            "images": [{"id": index} for index in range(len(images))],
            "categories": [{"id": 0}, {"id": 1}],
            "annotations": list(annotations(images, with_scores)),
        }
        datasets.append(dataset)

    class Peer(COCOeval):
        def computeIoU(self, image, category):  # noqa: N802  its name in pycocotools
            of_class, found = self._gts[image, category], self._dts[image, category]
            found = sorted(found, key=lambda one: -one["score"])[:100]
            return np.array(
                [
                    [
                        np.count_nonzero(one["mask"] & true["mask"]) / one["area"]
                        if true["iscrowd"]
                        else min(
                            iou(one["mask"], true["mask"]),
                            iou(naive_boundary(one["mask"]), naive_boundary(true["mask"])),
                        )
                        for true in of_class
                    ]
                    for one in found
                ]
            )

    with contextlib.redirect_stdout(io.StringIO()):
        for dataset in datasets:
            dataset.createIndex()
        evaluation = Peer(*datasets, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.where(evaluation.stats < 0, np.nan, 100 * evaluation.stats).tolist()


NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@pytest.mark.parametrize("seed", range(2))
def test_entity_ap_equals_cocoeval_with_the_minimum_iou(tmp_path, seed):
    data = PanopticData(tmp_path / "data", seed=seed)
    evaluator = build_evaluator(data.name, ["entity"], names=["boundary"], boundary_dilation=DILATION)
    evaluator.process(data.dataset_dicts, data.outputs("entity_seg"))
    metrics = evaluator.evaluate()["boundary_entity_seg"]
    order = sorted(range(len(data.dataset_dicts)), key=lambda index: data.dataset_dicts[index]["image_id"])
    truths = [
        [(ids == one["id"], 0, 0) for one in segments if not one["iscrowd"]]
        for ids, segments in (data.ground_truths[index] for index in order)
    ]
    detections = [
        [(ids == one["id"], 0, one["score"]) for one in segments]
        for ids, segments in (data.predictions[index] for index in order)
    ]
    expected = peer(truths, detections)
    assert [metrics[name] for name in NAMES] == pytest.approx(expected, nan_ok=True, abs=1e-10)
    assert 0 < metrics["AP"] < 60


@pytest.mark.parametrize("engine", ["pycocotools", "faster_coco_eval"])
def test_average_precision_equals_cocoeval_with_the_minimum_iou(engine):
    pytest.importorskip(engine)
    data = Overlapping(f"overlapping_{engine}")
    evaluator = BoundaryInstanceEvaluator(data.name, dilation=DILATION, engine=engine)
    evaluator.process(data.entries, data.outputs)
    metrics = evaluator.evaluate()["boundary_segm"]
    expected = peer(data.truths, data.detections)
    assert [metrics[name] for name in NAMES] == pytest.approx(expected, nan_ok=True, abs=1e-10)
    assert 0 < metrics["AP"] < 60
    assert 0 < metrics["APs"] != metrics["APm"] > 0
    # No masks are kept.
    assert not any("segmentation" in one for _, record in evaluator.records for one in record.truths)


# Protocol.


def test_the_width_is_the_datasets_or_the_published_one_and_results_say_so(tmp_path, make_square):
    output = one_instance(square())
    results, protocol = {}, {"datasets": {"x": 1}, "input_size": "original"}
    for name, given, expected in (("a", None, 0.02), ("b", 0.005, 0.005)):
        data = make_square("cityscapes_instances", boundary_dilation=given)
        evaluator = BoundaryCityscapesEvaluator(data.name)
        assert evaluator.protocol() == {"rules": "Cityscapes", "boundary_dilation": expected}
        results[name] = data.evaluate("instance", output, boundary_dilation=None)
        said = {"boundary_segm": evaluator.protocol()}
        write_results(tmp_path / name, {"x": results[name]}, Protocol(**protocol, evaluators={"x": said}))
    with pytest.raises(InputError, match=r"boundary_segm of x has boundary_dilation 0.02 in the first"):
        compare_results(tmp_path / "a", tmp_path / "b")
    # A result without the number, or that does not say how it is made, is compared in the others.
    write_results(tmp_path / "c", {"x": {"segm": results["b"]["segm"]}}, Protocol(**protocol))
    assert compare_results(tmp_path / "a", tmp_path / "c")["x"]["segm/AP"] == (100, 100)
    with pytest.raises(InputError, match=r"dilation 1.5: expected a share of the diagonal"):
        BoundaryCityscapesEvaluator(data.name, dilation=1.5)
    with pytest.raises(InputError, match=r"dilation 0.0: expected a share of the diagonal"):
        BoundaryCityscapesEvaluator(data.name, dilation=0.0)


def test_the_number_of_detections_is_compared_if_known(tmp_path, make_square):
    data = make_square("panoptic")
    for limit in (None, 50, 100):
        evaluators = build_evaluator(data.name, ["entity", "instance"], detections_per_image=limit)
        said = evaluator_protocols(evaluators)
        assert [one.get("detections_per_image") for one in (said.get("entity_seg", {}), said["segm"])] == [
            limit,
            limit,
        ]
        protocol = Protocol(datasets={"x": 1}, input_size="original", evaluators={"x": said})
        scores = {"entity_seg": {"AP": 1.0}, "segm": {"AP": 2.0}}
        write_results(tmp_path / str(limit), {"x": scores}, protocol)
    assert len(compare_results(tmp_path / "None", tmp_path / "50")["x"]) == 2
    with pytest.raises(InputError, match="entity_seg of x has detections_per_image 50 in the first"):
        compare_results(tmp_path / "50", tmp_path / "100")


def test_cityscapes_boundaries_are_a_quarter_as_wide():
    assert MetadataCatalog.get("cityscapes_fine_instance_seg_val").boundary_dilation == 0.005
    assert MetadataCatalog.get("cityscapes_fine_sem_seg_val").boundary_dilation == 0.005
    assert MetadataCatalog.get("cityscapes_fine_panoptic_val").boundary_dilation == 0.005
    assert MetadataCatalog.get("camvid_val").boundary_dilation is None


def test_saved_predictions_are_scored_again_with_boundaries(tmp_path):
    data = PanopticData(tmp_path / "data", num_images=3)
    tasks = {"semantic": "sem_seg_labels", "panoptic": "panoptic_seg"}
    outputs = [data.outputs(key) for key in tasks.values()]
    evaluator = build_evaluator(
        data.name, list(tasks), tmp_path / "out", names=["boundary"], save_predictions=True
    )
    evaluator.process(data.dataset_dicts, [one | other for one, other in zip(*outputs, strict=True)])
    # The standard ones save.
    assert [one.save_predictions for one in evaluator._evaluators] == [True, False, True, False]
    found = evaluator.evaluate()
    again, path = rescore(data.name, tmp_path / "out", evaluators=["boundary"])
    assert repr(again) == repr(dict(found))
    assert '"boundary_dilation": 0.02' in path.read_text()
    assert not (tmp_path / "out/rescored/predictions.json").exists()
