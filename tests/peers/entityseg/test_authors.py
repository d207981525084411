"""EntitySeg against the authors' code, which is imported from the checkout in SEGZOO_PEER_ENTITYSEG.

    SEGZOO_PEER_ENTITYSEG=/path/to/Entity python -m pytest tests/peers/entityseg/test_authors.py -s

Whole outputs at full width on seeds and sizes that no recorded case has; `-s` shows the differences.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

CHECKOUT = os.environ.get("SEGZOO_PEER_ENTITYSEG", "")
if not CHECKOUT:
    pytest.skip("SEGZOO_PEER_ENTITYSEG names no checkout of the authors' code", allow_module_level=True)

from tests.peers import filled, loaded  # noqa: E402
from tests.peers.entityseg import authors, run_authors  # noqa: E402
from tests.peers.entityseg.inputs import training_inputs  # noqa: E402
from tests.peers.entityseg.settings import ADJUSTMENTS  # noqa: E402
from tests.peers.entityseg.test_recorded import OUTPUTS  # noqa: E402
from tests.peers.seeded import pack_shapes, seeded_image, seeded_scene, spread_difference  # noqa: E402

# Leaf, the authors' configuration, seed of the weights.
MODELS = {
    "r50": ("entity/coco/entityseg_r50", "entity_r50_1x", 105),
    "r101_dcnv2": ("entity/coco/entityseg_r101_dcnv2_3x", "entity_r101_dcnv2_3x", 106),
    "swin_tiny": ("entity/coco/entityseg_swin_tiny", "entity_swin_t_1x", 111),
    "mit_b0": ("entity/coco/entityseg_mit_b0", "entity_mit_b0_1x", 103),
}
# Sizes of the image and of the results.
SIZES = [((333, 500), (333, 500)), ((301, 415), (233, 322)), ((219, 347), (331, 524))]


@pytest.fixture(scope="module", params=MODELS)
def both(request, tmp_path_factory):
    """The authors' model and segzoo's, with the same weights from a file with the authors' names."""
    leaf, config, seed = MODELS[request.param]
    theirs, _ = authors.build(Path(CHECKOUT), config)
    weights = filled.fill(theirs, seed, ADJUSTMENTS)
    integers = pack_shapes(filled.integers_of(theirs))
    file = loaded.published_file(tmp_path_factory.mktemp("file") / "model.pth", weights, integers, "model")
    ours, _ = loaded.loaded_model(leaf, file)
    return request.param, theirs, ours, weights


@pytest.mark.parametrize("index", range(len(SIZES)))
def test_maps_and_entities_agree(both, index):
    name, theirs, ours, _ = both
    size, output = SIZES[index]
    image = seeded_image(200 + index, *size)
    ours.eval()
    theirs.eval()
    inputs = {"image": torch.from_numpy(image), "height": output[0], "width": output[1]}
    worst = {}
    for rescore in (False, True):
        expected = run_authors.infer(theirs, image, output, rescore=rescore)
        ours.mask_rescore = rescore
        with torch.no_grad():
            ids, entities = ours([inputs], tasks=("entity",))[0]["entity_seg"]
            outputs = ours.raw_outputs([inputs])
        for kind, key in OUTPUTS.items():
            worst[kind] = spread_difference(loaded.to_array(outputs[key][0]), expected[kind])
        assert len(entities) == len(expected["scores"])
        share = float((loaded.to_array(ids) != expected["entity_map"]).mean())
        scores = [one["score"] for one in entities]
        worst[f"scores, rescored {rescore}"] = float(
            np.max(abs(np.array(scores) / expected["scores"] - 1), initial=0)
        )
        assert share <= 1e-4
    print(f"\n{name} {size} -> {output}: {len(entities)} entities, pixels {share:.1e},", worst)
    assert max(value for key, value in worst.items() if "scores" not in key) <= 1e-5
    assert worst["scores, rescored False"] <= 1e-4
    # An entity of few pixels, one of which differs.
    assert worst["scores, rescored True"] <= 5e-3


@pytest.mark.parametrize(
    ("segments", "void"), [((9, 7), True), ((8, 6), False), ((0, 5), False), ((0, 0), False)]
)
def test_losses_agree(both, segments, void):
    name, theirs, ours, _ = both
    sizes = ((190, 250), (160, 222))
    authors.without_drop_path(theirs.train())
    loaded.without_noise(ours.train())
    images = [seeded_image(300 + index, *size) for index, size in enumerate(sizes)]
    scenes = [
        seeded_scene(300 + index, *size, [0] * number, void=void)
        for index, (size, number) in enumerate(zip(sizes, segments, strict=True))
    ]
    with torch.no_grad():
        expected, positives = run_authors.losses(theirs, images, scenes)
        found = ours(training_inputs(images, scenes))
    values = {key: float(value) for key, value in expected.items()}
    worst = max(abs(float(found[key]) - value) / max(abs(value), 1e-6) for key, value in values.items())
    print(f"\n{name} {segments} void {void}: {len(positives['image'])} positives, relative {worst:.1e}")
    assert worst <= 1e-5
