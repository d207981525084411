"""Panoptic SegFormer against what the authors' code computed: see `make_cases.py`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog

from segzoo.solver import build_optimizer
from tests.peers import filled, loaded
from tests.peers.panoptic_segformer.inputs import OUTPUTS, training_input
from tests.peers.panoptic_segformer.settings import (
    ADJUSTMENTS,
    INFERENCE,
    SAME_WEIGHTS,
    SCENES,
    TRAINING_SEED,
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
R50 = "panoptic/coco/panoptic_segformer_r50"
LEAVES = {
    "r50_smaller": (R50,),
    "r50_larger": (R50,),
    "pvtv2_b0": ("panoptic/coco/panoptic_segformer_pvtv2_b5_in21k", "MODEL.BACKBONE.VARIANT", "b0"),
}
FIRST = next(iter(SCENES))


def recorded(name):
    return read_case(CASES, name)


def load(folder, name, *overrides, rename=()):
    """Load the weights of an inference case, from a file with other names if `rename` has replacements."""
    names = recorded(f"{name}_names")
    weights = seeded_weights(unpack_shapes(names["shapes"]), INFERENCE[name].seed, ADJUSTMENTS)
    published = {}
    for key, value in weights.items():
        for old, new in rename:
            key = key.replace(old, new)
        published[key] = value
    file = loaded.published_file(folder / "released.pth", published, names["integers"], "state_dict")
    leaf, *changes = LEAVES[name]
    model, cfg = loaded.loaded_model(leaf, file, *changes, *overrides)
    parameters = [one for one in sorted(weights) if not one.endswith(("running_mean", "running_var"))]
    buffers = {key: value.clone() for key, value in model.named_buffers()}
    return Loaded(model, cfg, loaded.names_of_parameters(model, weights), parameters, buffers)


@pytest.fixture(scope="module")
def model_of(request, tmp_path_factory):
    return load(tmp_path_factory.mktemp(request.param), request.param)


@with_case(INFERENCE, SAME_WEIGHTS)
def test_network_map_and_instances_are_those_of_the_authors_code(model_of, name):
    case, expected, (model, cfg, *_) = INFERENCE[name], recorded(name), model_of
    inputs = {"image": torch.from_numpy(seeded_image(case.image_seed, *case.image))}
    inputs["height"], inputs["width"] = case.output
    model.float().eval()
    with torch.no_grad():
        outputs = model.raw_outputs([inputs])
        result = model([inputs], tasks=("panoptic", "instance"))[0]
    for theirs, ours in OUTPUTS.items():
        assert difference(loaded.to_array(outputs[ours][0]), theirs, expected[theirs]) < 3e-4, ours
    assert outputs["thing_classes"][0].tolist() == expected["thing_classes"].tolist()

    ids, segments = result["panoptic_seg"]
    dataset_ids = MetadataCatalog.get(cfg.DATASETS.TEST[0]).contiguous_id_to_dataset_id
    categories, numbers = np.zeros(case.output, int), np.zeros(case.output, int)
    for segment in segments:
        mask = loaded.to_array(ids) == segment["id"]
        categories[mask] = dataset_ids[segment["category_id"]]
    assert (categories != expected["category"]).mean() <= 1e-4
    # Things are numbered in order of their scores.
    things = [segment for segment in segments if segment["isthing"]]
    for number, segment in enumerate(things, start=1):
        numbers[loaded.to_array(ids) == segment["id"]] = number
    assert (numbers != expected["instance"]).mean() <= 1e-4

    # Rows of nearly equal scores may swap.
    instances = result["instances"]
    boxes, areas = instances.pred_boxes.tensor.numpy(), instances.pred_masks.flatten(1).sum(1).numpy()
    rows = np.c_[instances.scores.numpy(), instances.pred_classes.numpy(), areas, boxes]
    names = ("instance_scores", "instance_labels", "instance_areas", "instance_boxes")
    expected_rows = np.column_stack([expected[one] for one in names])
    distances = abs(rows[None] - expected_rows[:, None]) / [2e-3, 0.1, 2, *[0.05] * 4]
    assert (distances.max(2).min(1) < 1).all()


def test_the_other_names_of_the_mask_decoders_load_too(tmp_path):
    """As in the released Swin-L file."""
    case, expected = INFERENCE["r50_smaller"], recorded("r50_smaller")
    rename = [("things_mask_head", "mask_head"), ("stuff_mask_head", "mask_head2")]
    rename += [("cls_thing_branches", "cls_branches2")]
    model = load(tmp_path, "r50_smaller", rename=rename).model
    with torch.no_grad():
        inputs = {"image": torch.from_numpy(seeded_image(case.image_seed, *case.image))}
        outputs = model.eval().raw_outputs([inputs])
    for name in ("thing_masks", "stuff_masks"):
        assert difference(loaded.to_array(outputs[name][0]), name, expected[name]) < 3e-4


def computed_losses(model, scenes):
    """Losses in float64 without dropout."""
    loaded.without_noise(model.train()).double()
    with filled.double_precision():
        inputs = []
        for one in scenes:
            scene = seeded_scene(TRAINING_SEED, *one.image, one.classes, void=one.void)
            inputs.append(training_input(seeded_image(TRAINING_SEED, *one.image), scene))
            inputs[-1]["image"] = inputs[-1]["image"].double()
        return model(inputs)


def expected_losses(name, scene):
    case = recorded(name)
    return dict(zip(unpack_text(case["names"]).split("\n"), case[f"{scene}/losses"].tolist(), strict=True))


def compare_losses(found, expected):
    """The losses that the authors multiply by 0 may be absent."""
    values = {name: float(value.detach()) for name, value in found.items()}
    absent = {name for name in expected if name not in values}
    assert all(expected[name] == 0 for name in absent), absent
    assert values == pytest.approx(
        {name: value for name, value in expected.items() if name not in absent}, rel=2e-6, abs=1e-9
    )


@with_case(["r50_smaller"], SAME_WEIGHTS)
def test_losses_are_those_of_the_authors_code(model_of, name):
    for scene in [key for key, one in SCENES.items() if one.canvas is None]:
        found = computed_losses(model_of.model, [SCENES[scene]])
        compare_losses(found, expected_losses("r50_losses", scene))


def test_losses_of_three_filter_rounds_are_those_of_the_authors_code(tmp_path):
    """With the authors' stop test, which always ends the first round, undone."""
    rounds = ("MODEL.PANOPTIC_SEGFORMER.FILTER_ROUNDS", 3)
    model = load(tmp_path, "r50_smaller", *rounds).model
    compare_losses(computed_losses(model, [SCENES[FIRST]]), expected_losses("r50_three_rounds", FIRST))


def batch_losses(names):
    """The losses of a batch from the authors', who take one image: their normalizers are undone.

    r / n_t and (1 - r) / n_s are both 1 / (n_t + n_s), with each number at least 1.
    """
    counts = [
        [sum(c < 80 for c in SCENES[n].classes), sum(c >= 80 for c in SCENES[n].classes)] for n in names
    ]
    divisor = sum(max(sum(column), 1) for column in zip(*counts, strict=True))
    total = dict.fromkeys(expected_losses("r50_losses", FIRST), 0.0)
    for name, own in zip(names, counts, strict=True):
        for key, value in expected_losses("r50_losses", name).items():
            total[key] += value * sum(max(count, 1) for count in own) / divisor
    return total


@with_case(["r50_smaller"], SAME_WEIGHTS)
def test_losses_of_a_batch_sum_over_images_and_divide_by_their_things_and_stuff(model_of, name):
    names = (FIRST, "no_stuff", "no_thing", "repeated_stuff")
    compare_losses(computed_losses(model_of.model, [SCENES[name] for name in names]), batch_losses(names))


@with_case(["r50_smaller"], SAME_WEIGHTS)
def test_location_losses_of_a_padded_image_are_those_of_the_authors_code(model_of, name):
    """Boxes are in units of the image without padding, and the levels' valid shares scale the sampled places.

    The authors' mask decoders attend to padding, which never occurs in their training; ours do not.
    """
    names = ("padded", FIRST)
    located = ("loss_cls", "loss_bbox", "loss_iou")
    found = computed_losses(model_of.model, [SCENES[name] for name in names])
    expected = {key: value for key, value in batch_losses(names).items() if key.endswith(located)}
    assert {key: float(found[key].detach()) for key in expected} == pytest.approx(expected, rel=2e-6)


@with_case(["r50_smaller"], SAME_WEIGHTS)
def test_gradients_are_those_of_the_authors_code(model_of, name):
    model, _, names, parameters, _ = model_of
    losses = computed_losses(model, [SCENES[FIRST]])
    model.zero_grad()
    sum(losses.values()).backward()
    rates = recorded("r50_optimizer")["optimizer"]
    trained = [one for one, (rate, _) in zip(parameters, rates, strict=True) if rate]
    rows = recorded("r50_gradients")["gradients"]
    theirs = {one: row.tolist() for one, row in zip(trained, rows, strict=True)}
    # Multiplied by 0 in the authors' losses, and absent here.
    theirs = {one: row for one, row in theirs.items() if not unused(one)}
    assert loaded.worst_gradients(loaded.gradients_by_name(model, names), theirs, 1e-5) == []


def unused(parameter):
    return "reg_branches2" in parameter or "cls_thing_branches" in parameter


@with_case(["r50_smaller"], SAME_WEIGHTS)
def test_learning_rates_and_decay_are_those_of_the_authors_code(model_of, name):
    model, cfg, names, parameters, _ = model_of
    rates = recorded("r50_optimizer")["optimizer"].tolist()
    expected = {one: row for one, row in zip(parameters, rates, strict=True) if row[0] and not unused(one)}
    identity = {id(one): names.get(key, key) for key, one in model.named_parameters()}
    found = {
        identity[id(one)]: [group["lr"], group["weight_decay"]]
        for group in build_optimizer(cfg, model).param_groups
        for one in group["params"]
    }
    assert set(found) == set(expected)
    different = {one: (found[one], row) for one, row in expected.items() if found[one] != pytest.approx(row)}
    assert different == {}


@with_case(["r50_smaller"], SAME_WEIGHTS)
def test_initial_values_have_the_distribution_of_the_authors_code(model_of, name):
    """Outside the backbone: constants are equal, other tensors have the same mean and standard deviation."""
    _, cfg, names, parameters, _ = model_of
    outside = [one for one in parameters if not one.startswith("backbone.")]
    expected = dict(zip(outside, recorded("r50_optimizer")["initial"].tolist(), strict=True))
    assert loaded.different_initial_values(loaded.fresh_model(cfg), names, expected) == {}
