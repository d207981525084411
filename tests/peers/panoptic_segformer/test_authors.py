"""Panoptic SegFormer against the authors' code, imported from the checkout in SEGZOO_PEER_PANOPTIC_SEGFORMER.

    SEGZOO_PEER_PANOPTIC_SEGFORMER=/path/to/Panoptic-SegFormer \\
        python -m pytest tests/peers/panoptic_segformer/test_authors.py -s

Whole outputs at full width on seeds and sizes that no recorded case has; `-s` shows the differences. The
environment is that of `make_cases.py`.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog

CHECKOUT = os.environ.get("SEGZOO_PEER_PANOPTIC_SEGFORMER", "")
if not CHECKOUT:
    pytest.skip(
        "SEGZOO_PEER_PANOPTIC_SEGFORMER names no checkout of the authors' code", allow_module_level=True
    )

from tests.peers import filled, loaded  # noqa: E402
from tests.peers.panoptic_segformer import authors, run_authors  # noqa: E402
from tests.peers.panoptic_segformer.inputs import OUTPUTS, training_input  # noqa: E402
from tests.peers.panoptic_segformer.settings import ADJUSTMENTS  # noqa: E402
from tests.peers.seeded import pack_shapes, seeded_image, seeded_scene, spread_difference  # noqa: E402

# Leaf, the authors' configuration, seed of the weights.
MODELS = {
    "r50": ("panoptic/coco/panoptic_segformer_r50", "panformer_r50_24e_coco_panoptic", 8),
    "pvtv2_b5": (
        "panoptic/coco/panoptic_segformer_pvtv2_b5_in21k",
        "panformer_pvtb5_24e_coco_panoptic",
        103,
    ),
}
# Sizes of the image and of the results; the third has levels of one cell.
SIZES = [((205, 333), (157, 251)), ((251, 187), (251, 187)), ((33, 47), (90, 121))]


@pytest.fixture(scope="module", params=MODELS)
def both(request, tmp_path_factory):
    """The authors' model and segzoo's, with the same weights from a file with the authors' names."""
    leaf, config, seed = MODELS[request.param]
    theirs, _ = authors.build(Path(CHECKOUT), config)
    weights = filled.fill(theirs, seed, ADJUSTMENTS)
    integers = pack_shapes(filled.integers_of(theirs))
    file = loaded.published_file(tmp_path_factory.mktemp("file") / "m.pth", weights, integers, "state_dict")
    ours, cfg = loaded.loaded_model(leaf, file)
    return request.param, theirs, ours, cfg


def rows_of(found, expected):
    """For each expected mask the index of the most similar one: that of the same place if they are equal."""
    order = np.arange(len(expected))
    for index in np.flatnonzero(abs(found - expected).max((1, 2)) > 1e-3 * expected.std()):
        order[index] = abs(found - expected[index]).max((1, 2)).argmin()
    return order


@pytest.mark.parametrize("index", range(len(SIZES)))
def test_maps_and_segments_agree(both, index):
    name, theirs, ours, cfg = both
    size, output = SIZES[index]
    image = seeded_image(400 + index, *size)
    ours.eval()
    theirs.eval()
    expected = run_authors.infer(theirs, image, output)
    inputs = {"image": torch.from_numpy(image), "height": output[0], "width": output[1]}
    with torch.no_grad():
        outputs = ours.raw_outputs([inputs])
        result = ours([inputs], tasks=("panoptic", "instance"))[0]
    # Pairs of a query and a class of nearly equal probability may swap, or differ at the last place.
    order = rows_of(loaded.to_array(outputs["thing_masks"][0]), expected["thing_masks"])
    swapped = int((order != np.arange(len(order))).sum())
    outputs["thing_masks"] = outputs["thing_masks"][:, order]
    assert swapped <= 4
    worst = {}
    for kind, key in OUTPUTS.items():
        worst[kind] = spread_difference(loaded.to_array(outputs[key][0]), expected[kind])
    ids, segments = result["panoptic_seg"]
    dataset_ids = MetadataCatalog.get(cfg.DATASETS.TEST[0]).contiguous_id_to_dataset_id
    categories = np.zeros(output, int)
    for segment in segments:
        categories[loaded.to_array(ids) == segment["id"]] = dataset_ids[segment["category_id"]]
    share = float((categories != expected["category"]).mean())
    print(
        f"\n{name} {size} -> {output}: {len(segments)} segments, pixels {share:.1e}, {swapped} swapped,",
        worst,
    )
    assert share <= 1e-4
    assert max(worst.values()) <= 1e-5


@pytest.mark.parametrize(
    "classes", [(3, 100, 3, 17, 79, 85, 132, 0), (88, 120), (5, 6, 6, 60), (90, 90, 12), (4, 110)]
)
def test_losses_agree(both, classes):
    name, theirs, ours, _ = both
    size = (163, 229)
    authors.without_dropout(theirs.train())
    loaded.without_noise(ours.train())
    image, scene = seeded_image(500, *size), seeded_scene(501, *size, classes, void=len(classes) % 2 == 1)
    with torch.no_grad():
        expected, _ = run_authors.losses(theirs, image, scene)
        found = ours([training_input(image, scene)])
    values = {key: float(value) for key, value in expected.items()}
    worst = max(
        abs(float(found.get(key, 0)) - value) / max(abs(value), 1e-6) for key, value in values.items()
    )
    print(f"\n{name} {classes}: relative {worst:.1e}")
    assert worst <= 2e-5
