"""What losses are divided by is exchanged between processes once, before the network."""

import pytest
import torch

from segzoo.engine.distributed.data_parallel import sync_batch_norm_on_cpu
from segzoo.modeling.mask_classification.criterion import RandomPoints
from segzoo.modeling.per_pixel.losses import CrossEntropy
from tests.mask_classification.criterion_reference import make_criterion, plain_criterion
from tests.modeling.modeling_helpers import MASKED_ATTENTION, SMALL, make_model, random_image
from tests.modeling.panoptic_segformer_helpers import small_model, with_segments
from tests.modeling.pixel_model_helpers import pixel_model
from tests.modeling.pixel_peers import TINY
from tests.processes import pretend_processes


def segments() -> list[dict]:
    """Return two images with three segments and one."""
    images = []
    for number in (3, 1):
        segment_map = torch.arange(64)[:, None].expand(64, 64) * number // 64
        images.append(
            {
                "image": random_image(64, 64, seed=number),
                "segment_map": segment_map.to(torch.int16),
                "segment_classes": torch.arange(number),
            }
        )
    return images


def labels() -> list[dict]:
    """Return an image a quarter of whose pixels are ignored, with labels."""
    sem_seg = torch.arange(64).expand(64, 64) % 3
    return [{"image": random_image(64, 64), "sem_seg": sem_seg.where(torch.arange(64)[:, None] < 48, 255)}]


MODELS = {
    # Segments of both images; queries with and without one.
    "maskformer": (lambda: make_model(3, *SMALL), segments, [4, 4, 14 - 4]),
    "mask2former": (lambda: make_model(3, *SMALL, *MASKED_ATTENTION), segments, [4, 4, 14 - 4]),
    "fewer_queries": (
        lambda: make_model(3, *SMALL, "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 2),
        segments,
        [4, 3, 4 - 3],
    ),
    # Labeled pixels, once for two heads.
    "pspnet": (
        lambda: pixel_model("pspnet_mmseg", 3, *TINY, "MODEL.SEM_SEG_HEAD.LOSS.AVERAGE_OVER", "valid"),
        lambda: 2 * labels(),
        [2 * 48 * 64],
    ),
    # Things and stuff.
    "panoptic_segformer": (small_model, lambda: [with_segments(64, 64, (0, 1, 3))], [1, 2]),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_step_exchanges_once_and_before_the_network(name, monkeypatch):
    make, inputs, expected = MODELS[name]
    model = sync_batch_norm_on_cpu(make(), 1).train()
    happened = []
    model.backbone.register_forward_pre_hook(lambda *_: happened.append("network"))
    pretend_processes(monkeypatch, 1, lambda counts: happened.append(counts.tolist()))
    torch.manual_seed(0)
    losses = model(inputs())
    assert happened == [expected, "network"]
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize("make", [make_criterion, plain_criterion])
def test_counts_for_another_number_of_queries_are_exchanged_again(make, make_scene, monkeypatch):
    """As where a decoder of another package has more queries than it tells."""
    scene, criterion, sent = make_scene(), make(), []
    pretend_processes(monkeypatch, 1, lambda counts: sent.append(counts.tolist()))
    expected = criterion(scene.outputs, scene.targets, RandomPoints(seed=1))
    early = criterion.exchange(scene.targets, scene.num_queries)
    losses = criterion({**scene.outputs, "exchanged": early}, scene.targets, RandomPoints(seed=1))
    assert len(sent) == 2
    torch.testing.assert_close(losses, expected, rtol=0, atol=0)
    wrong = criterion.exchange(scene.targets, scene.num_queries - 5)
    losses = criterion({**scene.outputs, "exchanged": wrong}, scene.targets, RandomPoints(seed=1))
    assert sent[3] == sent[0] != sent[2]
    torch.testing.assert_close(losses, expected, rtol=0, atol=0)


def test_a_loss_derived_from_cross_entropy_divides_as_it_wants():
    class Smoothed(CrossEntropy):
        def compare(self, logits, labels):
            return super().compare(logits, labels) + logits.square().mean()

    loss, plain = Smoothed(), CrossEntropy()
    assert plain.exchange(labels()[0]["sem_seg"][None]) is not None
    assert loss.exchange(labels()[0]["sem_seg"][None]) is None
    model = pixel_model("pspnet_mmseg", 3, *TINY)
    found = []
    for one in (plain, loss):
        model.loss = one
        torch.manual_seed(0)
        found.append(model(2 * labels())["loss_sem_seg"].item())
    assert found[1] > found[0]


def test_a_loss_derived_from_cross_entropy_may_replace_forward():
    class Halved(CrossEntropy):
        def forward(self, logits, labels):
            return super().forward(logits, labels) / 2

    model = pixel_model("pspnet_mmseg", 3, *TINY)
    found = []
    for model.loss in (CrossEntropy(), Halved()):
        torch.manual_seed(0)
        found.append(model(2 * labels())["loss_sem_seg"])
    torch.testing.assert_close(2 * found[1], found[0])


def test_a_derived_criterion_may_give_other_targets(make_scene, monkeypatch):
    scene, criterion, sent = make_scene(), make_criterion(), []
    pretend_processes(monkeypatch, 1, lambda counts: sent.append(counts.tolist()))
    others = [min(scene.targets, key=len)] * len(scene.targets)
    expected = criterion(scene.outputs, others, RandomPoints(seed=1))
    early = criterion.exchange(scene.targets, scene.num_queries)
    losses = criterion({**scene.outputs, "exchanged": early}, others, RandomPoints(seed=1))
    assert sent[2] == sent[0] != sent[1]
    torch.testing.assert_close(losses, expected, rtol=0, atol=0)


def test_a_derived_model_may_give_other_labels(monkeypatch):
    model = pixel_model("pspnet_mmseg", 3, *TINY)
    own, sent = model.losses, []
    pretend_processes(monkeypatch, 1, lambda counts: sent.append(counts.tolist()))
    sync_batch_norm_on_cpu(model, 1)
    monkeypatch.setattr(
        model, "losses", lambda outputs, labels: own(outputs, labels.where(labels > 0, 255)), raising=False
    )
    model(2 * labels())
    labeled = sum(int((one["sem_seg"] % 255 > 0).sum()) for one in 2 * labels())
    assert sent[-1] == [labeled]
