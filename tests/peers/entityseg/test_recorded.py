"""EntitySeg against what the authors' code computed: see `make_cases.py`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T

from segzoo.data.segment_boxes import rounded_boxes
from segzoo.projects.entityseg.candidates import find_candidates
from segzoo.projects.entityseg.fcos_head import Locations
from segzoo.solver import build_optimizer
from tests.peers import filled, loaded
from tests.peers.entityseg.inputs import training_inputs
from tests.peers.entityseg.settings import (
    ADJUSTMENTS,
    BATCHES,
    INFERENCE,
    MAPPED,
    SAME_NAMES,
    SAME_WEIGHTS,
    TRAINING_SEED,
    mapped_scene,
)
from tests.peers.recorded import Loaded, read_case, with_case
from tests.peers.seeded import (
    difference,
    seeded_image,
    seeded_scene,
    seeded_weights,
    unpack_shapes,
    unpack_text,
)

CASES = Path(__file__).parent / "cases"
LEAVES = {
    "r50_smaller": ("entity/coco/entityseg_r50",),
    "r50_larger": ("entity/coco/entityseg_r50",),
    "r50_many": ("entity/coco/entityseg_r50",),
    "swin_tiny": ("entity/coco/entityseg_swin_tiny",),
    "mit_b0": ("entity/coco/entityseg_mit_b0",),
    "r50_dcnv2": ("entity/coco/entityseg_r101_dcnv2_3x", "MODEL.BACKBONE.VARIANT", "r50"),
}
OUTPUTS = {
    "cls": "class_logits",
    "reg": "distances",
    "ctr": "centerness_logits",
    "kernel": "kernels",
    "mask_features": "mask_features",
}
FIRST = next(iter(BATCHES))


def recorded(name):
    return read_case(CASES, name)


def load(folder, name, leaf=None):
    """Load the weights of an inference case."""
    case = INFERENCE[name]
    recorded_names = recorded(f"{SAME_NAMES.get(name, name)}_names")
    shapes = unpack_shapes(recorded_names["shapes"])
    weights = seeded_weights(shapes, case.seed, (*ADJUSTMENTS, *case.adjustments))
    file = loaded.published_file(folder / "model_final.pth", weights, recorded_names["integers"], "model")
    default, *changes = LEAVES[name]
    model, cfg = loaded.loaded_model(leaf or default, file, *changes)
    frozen = ".bottom_up." if default.endswith("r50") else "none"
    parameters = [
        one
        for one in sorted(weights)
        if not one.endswith(("running_mean", "running_var")) and not (frozen in one and ".norm." in one)
    ]
    buffers = {key: value.clone() for key, value in model.named_buffers()}
    return Loaded(model, cfg, loaded.names_of_parameters(model, weights), parameters, buffers)


@pytest.fixture(scope="module")
def model_of(request, tmp_path_factory):
    return load(tmp_path_factory.mktemp(request.param), request.param)


@with_case(INFERENCE, SAME_WEIGHTS)
def test_network_and_entities_are_those_of_the_authors_code(model_of, name):
    case, expected, model = INFERENCE[name], recorded(name), model_of.model.float().eval()
    for key, buffer in model.named_buffers():
        buffer.copy_(model_of.buffers[key])
    inputs = {"image": torch.from_numpy(seeded_image(case.image_seed, *case.image))}
    inputs["height"], inputs["width"] = case.output
    model.mask_rescore = False
    with torch.no_grad():
        outputs = model.raw_outputs([inputs])
        for theirs, ours in OUTPUTS.items():
            assert difference(loaded.to_array(outputs[ours][0]), theirs, expected[theirs]) < 1e-4, ours
        ids, entities = model([inputs], tasks=("entity",))[0]["entity_seg"]
        model.mask_rescore = True
        _, rescored = model([inputs], tasks=("entity",))[0]["entity_seg"]
    assert [one["score"] for one in entities] == pytest.approx(expected["scores"].tolist(), rel=1e-4)
    assert [one["score"] for one in rescored] == pytest.approx(expected["rescored"].tolist(), rel=1e-3)
    # Ids rise as the scores before rescoring fall.
    assert [one["id"] for one in entities] == list(range(1, len(entities) + 1))
    assert (loaded.to_array(ids) != expected["entity_map"]).mean() <= 1e-4


@with_case(["r50_many"], SAME_WEIGHTS)
def test_a_case_has_more_candidates_than_a_level_and_a_result_may_have(model_of, name):
    case, model = INFERENCE[name], model_of.model.float().eval()
    with torch.no_grad():
        image = torch.from_numpy(seeded_image(case.image_seed, *case.image))
        outputs = model.raw_outputs([{"image": image}])
    logits, levels = outputs["class_logits"][0], outputs["levels"]
    assert ((logits.sigmoid() > model.score_threshold) & (levels == 0)).sum() > model.candidates_per_level
    every = find_candidates(
        logits,
        outputs["centerness_logits"][0],
        outputs["distances"][0],
        Locations(outputs["points"], levels),
        model.strides,
        max_candidates=len(logits),
    )
    assert len(every.positions) > model.detections_per_image


def expected_losses(name, batch):
    case = recorded(name)
    names = unpack_text(case["names"]).split("\n")
    return dict(zip(names, case[f"{batch}/losses"].tolist(), strict=True))


def computed_losses(model, batch):
    """Losses in float64 without drop-path."""
    loaded.without_noise(model.train()).double()
    images, scenes = [], []
    for index, (size, number) in enumerate(zip(batch.images, batch.segments, strict=True)):
        images.append(seeded_image(TRAINING_SEED + index, *size))
        scenes.append(seeded_scene(TRAINING_SEED + index, *size, [0] * number, void=batch.void))
    with filled.double_precision():
        inputs = training_inputs(images, scenes)
        for one in inputs:
            one["image"] = one["image"].double()
        return model(inputs)


@with_case(["r50_smaller"], SAME_WEIGHTS)
@pytest.mark.parametrize(("batch", "limits"), [("capped", (10, 500)), ("twice_capped", (10, 13))])
def test_losses_of_sampled_masks_are_those_of_the_authors_code(model_of, name, batch, limits, monkeypatch):
    """The authors sample their first positives here, sorted by level and image; ours are sorted by image."""
    case, model = recorded("r50_losses"), model_of.model
    theirs = np.arange(len(case[f"{batch}/image"]))
    ours = np.lexsort((theirs, case[f"{batch}/level"], case[f"{batch}/image"]))
    orders = [torch.from_numpy(np.argsort(ours)), torch.arange(limits[0] * 2)]
    monkeypatch.setattr(torch, "randperm", lambda count, **_: orders.pop(0)[:count])
    monkeypatch.setattr(model, "max_masks_per_image", limits[0])
    monkeypatch.setattr(model, "max_masks", limits[1])
    found = computed_losses(model, BATCHES[batch])
    assert len(orders) == (0 if limits[1] < limits[0] * 2 else 1)
    values = {key: float(value.detach()) for key, value in found.items()}
    assert values == pytest.approx(expected_losses("r50_losses", batch), rel=1e-6)


def test_losses_of_the_baseline_are_those_of_the_authors_code(tmp_path):
    model = load(tmp_path, "r50_smaller", "entity/coco/entityseg_r50_baseline").model
    losses = {name: float(value.detach()) for name, value in computed_losses(model, BATCHES[FIRST]).items()}
    expected = expected_losses("r50_baseline", FIRST)
    assert losses == pytest.approx({name: expected[name] for name in losses}, rel=1e-6)
    assert all(value == 0 for name, value in expected.items() if name not in losses)


@with_case(["r50_smaller", "mit_b0"], SAME_WEIGHTS)
def test_losses_and_gradients_are_those_of_the_authors_code(model_of, name):
    model, _, names, parameters, _ = model_of
    r50 = name == "r50_smaller"
    for batch in [key for key, one in BATCHES.items() if not one.overrides] if r50 else [FIRST]:
        found = computed_losses(model, BATCHES[batch])
        expected = expected_losses("r50_losses" if r50 else f"{name}_training", batch)
        values = {key: float(value.detach()) for key, value in found.items()}
        assert values == pytest.approx(expected, rel=1e-6, abs=1e-9), batch
        if batch == FIRST:
            sum(found.values()).backward()
    rows = recorded("r50_gradients" if r50 else f"{name}_training")["gradients"]
    theirs = dict(zip(parameters, rows.tolist(), strict=True))
    theirs = {one: row for one, row in theirs.items() if not np.isnan(row[0])}
    assert loaded.worst_gradients(loaded.gradients_by_name(model, names), theirs, 1e-5) == []
    model.zero_grad()


@with_case(["r50_smaller", "mit_b0", "swin_tiny"], SAME_WEIGHTS)
def test_learning_rate_and_decay_are_those_of_the_authors_code(model_of, name):
    model, cfg, names, parameters, _ = model_of
    decays = recorded(f"{name}_names")["decay"].tolist()
    # Parameters that are never used are absent here: level p2 and the norm of Swin's first output.
    unused = ("fpn_lateral2.", "fpn_output2.", "bottom_up.norm0.")
    expected = {
        one: decay
        for one, decay in zip(parameters, decays, strict=True)
        if decay >= 0 and not any(part in one for part in unused)
    }
    identity = {id(one): names.get(key, key) for key, one in model.named_parameters()}
    found = {
        identity[id(one)]: (group["weight_decay"], group["lr"])
        for group in build_optimizer(cfg, model).param_groups
        for one in group["params"]
    }
    assert set(found) == set(expected)
    different = {one: found[one] for one, decay in expected.items() if found[one][0] != pytest.approx(decay)}
    assert different == {}
    assert {rate for _, rate in found.values()} == {cfg.SOLVER.BASE_LR}


@with_case(["r50_smaller", "mit_b0"], SAME_WEIGHTS)
def test_initial_values_have_the_distribution_of_the_authors_code(model_of, name):
    """Outside the backbone: constants are equal, other tensors have the same mean and standard deviation."""
    _, cfg, names, parameters, _ = model_of
    outside = [one for one in parameters if ".bottom_up." not in one]
    expected = dict(zip(outside, recorded(f"{name}_names")["initial"].tolist(), strict=True))
    assert loaded.different_initial_values(loaded.fresh_model(cfg), names, expected) == {}


@pytest.mark.parametrize("index", range(len(MAPPED)))
def test_boxes_of_the_published_training_are_those_of_the_authors_mapper(index):
    """Whole numbers, so that a resize rounds down; entities of one row or column are dropped by the model."""
    expected, scene = recorded("mapper"), mapped_scene()
    short, flip = MAPPED[index]
    augmentation = T.AugmentationList([T.ResizeShortestEdge(short, 2000), T.RandomFlip(prob=float(flip))])
    given = T.AugInput(np.zeros((*scene.ids.shape, 3), np.uint8), sem_seg=scene.ids.astype(np.uint8))
    transform = augmentation(given)
    assert (given.sem_seg == expected[f"map{index}"]).all()
    boxes = rounded_boxes(scene.boxes(inclusive=True), transform, given.image.shape[:2])
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    assert (np.flatnonzero(kept) + 1).tolist() == expected[f"ids{index}"].tolist()
    assert boxes[kept].astype(int).tolist() == expected[f"boxes{index}"].tolist()
