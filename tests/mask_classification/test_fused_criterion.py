"""`FusedSetCriterion` gives the losses, gradients and assignments of `SetCriterion` in random cases."""

import pytest
import torch
from torch import nn

from segzoo.modeling.mask_classification.criterion import (
    AllPixels,
    ClassTerm,
    DecoderOutputs,
    DiceTerm,
    FusedSetCriterion,
    LossTerm,
    MaskTerm,
    SegmentTargets,
    SetCriterion,
    UncertainPoints,
)
from tests.mask_classification.criterion_reference import OwnPoints, make_criterion
from tests.processes import pretend_processes


class Case:
    """Predictions, targets and options determined by a seed."""

    def __init__(self, seed: int, dtype: torch.dtype):
        self.generator = torch.Generator().manual_seed(seed)
        layers, images = self.integer(1, 4), self.integer(1, 3)
        queries, channels = self.integer(3, 12), 4
        mask_size, size = ([self.integer(low, high) for _ in range(2)] for low, high in ((3, 9), (5, 30)))
        features = self.normal(images, channels, *mask_size, dtype=dtype)
        self.outputs: dict = {}
        self.leaves = [features]
        for _ in range(layers):
            logits, embed = (self.normal(images, queries, width, dtype=dtype) for width in (6, channels))
            self.leaves += [logits, embed]
            layer = {"pred_logits": logits}
            if seed % 2:
                layer["mask_embed"] = embed
            else:
                layer["pred_masks"] = torch.einsum("nqc,nchw->nqhw", embed, features)
            self.outputs.setdefault("aux_outputs", []).append(layer)
        self.outputs.update(self.outputs["aux_outputs"].pop())
        if seed % 2:
            self.outputs["mask_features"] = features
        # No segments, a few, more than queries.
        counts = [(0, 2, queries + 3)[self.integer(0, 2)] for _ in range(images)]
        self.targets = [self.target(count, size, as_planes=seed % 3 == 0) for count in counts]
        self.options = {
            "weights": tuple((0.5 + 5 * torch.rand(3, generator=self.generator)).tolist()),
            "mask_loss": ("focal", "bce")[seed // 2 % 2],
            "num_points": (0, 24)[seed // 4 % 2],
            "no_object_weight": (0.1, 0.0, 0.7)[seed % 3],
        }
        self.chunk_elements = (None, 1, 300)[self.integer(0, 2)]

    def integer(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def normal(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).to(dtype).requires_grad_()

    def target(self, count: int, size: list[int], as_planes: bool) -> SegmentTargets:
        classes = torch.randint(0, 5, (count,), generator=self.generator)
        if as_planes:
            return SegmentTargets(classes, masks=torch.rand(count, *size, generator=self.generator) > 0.6)
        segment_map = torch.randint(-1, max(count, 1), size, generator=self.generator).to(torch.int16)
        return SegmentTargets(classes, segment_map=segment_map if count else segment_map.fill_(-1))

    def result(self, criterion: SetCriterion) -> tuple[dict, list[torch.Tensor]]:
        losses = criterion(self.outputs, self.targets, OwnPoints(seed=7))
        return losses, gradients(losses, self.leaves)


def gradients(losses: dict, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    total = sum(losses.values())
    return torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seed", range(24))
def test_losses_gradients_and_assignments_are_those_of_the_plain_form(
    plain_matcher, monkeypatch, seed, dtype
):
    case = Case(seed, dtype)
    if seed % 4 == 3:
        # The other of two processes has 11 segments and queries as given.
        elsewhere = torch.tensor([11.0, 9.0, 40.0])
        pretend_processes(monkeypatch, 2, lambda counts: counts.add_(elsewhere))
    matcher = plain_matcher(*(case.options[name] for name in ("weights", "mask_loss", "num_points")))
    fused = make_criterion(
        **case.options, criterion_class=FusedSetCriterion, chunk_elements=case.chunk_elements
    )
    plain = make_criterion(**case.options, criterion_class=SetCriterion, matcher=matcher)
    assert fused.fused_terms is not None
    pairs = [
        one.matcher(DecoderOutputs(case.outputs), case.targets, OwnPoints(seed=7)) for one in (fused, plain)
    ]
    for ours, theirs in zip(*pairs, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(torch.stack(one), torch.stack(other))
    (losses, found), (expected_losses, expected) = case.result(fused), case.result(plain)
    tolerance = 1e-10 if dtype == torch.float64 else 5e-6
    assert list(losses) == list(expected_losses)
    for name, value in expected_losses.items():
        torch.testing.assert_close(losses[name], value, rtol=tolerance, atol=tolerance, msg=name)
    for ours, theirs in zip(found, expected, strict=True):
        scale = max(float(theirs.abs().max()), 1.0)
        assert float((ours - theirs).abs().max()) <= tolerance * scale


class AreaTerm(LossTerm):
    """The mean probability of matched masks, a loss that the fused criterion does not know."""

    def forward(self, layer):
        return {"loss_area": layer.compared.probability.mean()}


@pytest.mark.parametrize("num_points", [0, 30])
def test_a_custom_term_is_computed_with_the_fused_terms(make_scene, num_points):
    scene = make_scene(dtype=torch.float64)
    results = []
    for criterion_class in (FusedSetCriterion, SetCriterion):
        criterion = make_criterion(num_points=num_points, criterion_class=criterion_class)
        criterion.terms["AreaTerm"] = AreaTerm()
        losses = criterion(scene.outputs, scene.targets, OwnPoints(seed=3))
        results.append((losses, gradients(losses, scene.leaves)))
    assert [name for name in results[0][0] if name.endswith("area")] == ["loss_area"]
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)


class WeightedMaskTerm(MaskTerm):
    """A subclass, which may compute anything."""

    def forward(self, layer):
        return {"loss_mask": 2 * super().forward(layer)["loss_mask"]}


def test_only_known_terms_and_comparisons_are_fused(make_scene):
    class_term, mask_term, dice_term = ClassTerm(5), MaskTerm(), DiceTerm()
    matcher = make_criterion().matcher

    def fused(terms, comparison=None):
        return FusedSetCriterion(terms, matcher, comparison).fused_terms

    assert fused([class_term, mask_term, dice_term]) == (mask_term, dice_term)
    assert fused([dice_term, nn.Identity(), mask_term]) == (mask_term, dice_term)
    assert fused([class_term, mask_term]) is None
    assert fused([class_term, WeightedMaskTerm(), dice_term]) is None
    assert fused([mask_term, dice_term], UncertainPoints(5)) == (mask_term, dice_term)
    assert fused([mask_term, dice_term], lambda *arguments: AllPixels()(*arguments)) is None
    scene = make_scene()
    losses = [
        FusedSetCriterion([class_term, term, dice_term], matcher)(scene.outputs, scene.targets)["loss_mask"]
        for term in (mask_term, WeightedMaskTerm())
    ]
    torch.testing.assert_close(losses[1], 2 * losses[0])


def test_two_losses_of_one_name_are_refused(make_scene):
    scene = make_scene()
    criterion = make_criterion()
    criterion.terms["again"] = DiceTerm()
    with pytest.raises(ValueError, match="two losses are named loss_dice"):
        criterion(scene.outputs, scene.targets)


class DenoisingTerm(LossTerm):
    """The terms of queries whose segments are known."""

    def __init__(self):
        super().__init__()
        self.terms = nn.ModuleList([ClassTerm(5), DiceTerm(2.0)])

    def forward(self, layer):
        known = layer.with_queries(layer.outputs["known"], layer.outputs["known_matches"])
        losses = {}
        for term in self.terms:
            losses.update({f"{name}_known": loss for name, loss in term(known).items()})
        return losses


def test_queries_with_known_segments_are_given_to_the_same_terms(make_scene):
    """Like denoising queries: each segment has two, and the decoder gives the matches."""
    scene = make_scene(layers=1)
    outputs, counts = scene.outputs, [len(target) for target in scene.targets]
    queries = 2 * max(counts)
    known = {
        "pred_logits": scene.random(2, queries, 6),
        "pred_masks": scene.random(2, queries, 8, 10),
    }
    matches = [(torch.arange(2 * count), torch.arange(count).repeat(2)) for count in counts]
    criterion = make_criterion()
    criterion.terms["DenoisingTerm"] = DenoisingTerm()
    losses = criterion({**outputs, "known": known, "known_matches": matches}, scene.targets)
    planes, dice, matched, unmatched = scene.planes(), 0.0, 0.0, 0.0
    log_probability = known["pred_logits"].log_softmax(-1)
    for image, (own, segments) in enumerate(matches):
        masks = nn.functional.interpolate(
            known["pred_masks"][image : image + 1, own], size=(32, 40), mode="bilinear"
        )
        p, t = masks[0].sigmoid(), planes[image][segments]
        dice += (1 - (2 * (p * t).sum((1, 2)) + 1) / (p.sum((1, 2)) + t.sum((1, 2)) + 1)).sum()
        matched -= log_probability[image, own, scene.targets[image].classes[segments]].sum()
        unmatched -= 0.1 * log_probability[image, len(own) :, 5].sum()
    number = 2 * sum(counts)
    torch.testing.assert_close(losses["loss_dice_known"], 2 * dice / number)
    expected = (matched + unmatched) / (number + 0.1 * (2 * queries - number))
    torch.testing.assert_close(losses["loss_ce_known"], expected)
