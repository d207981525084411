"""A private package with a loss term, a matching cost, a decoder with outputs and losses, and a criterion."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

from segzoo.checkpoint import SegzooCheckpointer, load_checkpoint
from segzoo.config.files import config_root
from segzoo.engine import Trainer, default_setup
from segzoo.model_zoo import load_config
from segzoo.modeling import CRITERION_REGISTRY
from segzoo.modeling.mask_classification.criterion import (
    DecoderOutputs,
    DiceTerm,
    FusedSetCriterion,
    MaskTerm,
    SegmentTargets,
)
from segzoo.utils.errors import InputError
from tests.data.data_trees import forget, write_street
from tests.mask_classification.test_training_robustness import NARROW
from tests.registrations import forgotten

PACKAGE = '''
"""Boxes in addition to masks, as in detection transformers, and a count of segments."""

import torch
from detectron2.config import CfgNode
from detectron2.config import configurable
from torch import nn

from segzoo.config import register_config
from segzoo.modeling import (
    CRITERION_REGISTRY,
    LOSS_TERM_REGISTRY,
    MATCHING_COST_REGISTRY,
    TRANSFORMER_DECODER_REGISTRY,
)
from segzoo.modeling.mask_classification.criterion import FusedSetCriterion, LossTerm, QueryCost
from segzoo.projects.maskformer.transformer_decoder import MaskFormerTransformerDecoder

SEEN = []


@register_config
def add_box_config(cfg):
    cfg.MODEL.PRIVATE_BOXES = CfgNode()
    cfg.MODEL.PRIVATE_BOXES.WEIGHT = 5.0


def boxes(target):
    """Return left, top, right, bottom of the segments, (S, 4), in units of the padded image's sides."""
    height, width = target.size
    return target.extras["boxes"] / torch.tensor([width, height] * 2, device=target.classes.device)


@MATCHING_COST_REGISTRY.register()
class BoxCost(QueryCost):
    @configurable
    def __init__(self, weight):
        self.weight = weight

    @classmethod
    def from_config(cls, cfg):
        return {"weight": cfg.MODEL.PRIVATE_BOXES.WEIGHT}

    def costs(self, outputs, image, target):
        return torch.cdist(outputs.stacked("pred_boxes", image), boxes(target), p=1)


@LOSS_TERM_REGISTRY.register()
class BoxTerm(LossTerm):
    @configurable
    def __init__(self, weight):
        super().__init__()
        self.weight = weight
        self.scale = nn.Parameter(torch.ones(()))

    @classmethod
    def from_config(cls, cfg):
        return {"weight": cfg.MODEL.PRIVATE_BOXES.WEIGHT}

    def forward(self, layer):
        found = layer.matched(layer.outputs["pred_boxes"])
        expected = torch.cat(
            [boxes(target)[segments] for target, (_, segments) in zip(layer.targets, layer.matches)]
        )
        assert torch.equal(layer.matched_extra("boxes").isfinite(), expected.isfinite())
        losses = {"loss_bbox": self.weight * self.scale * (found - expected).abs().sum() / layer.num_masks}
        if layer.is_last:
            losses["loss_scale"] = (self.scale - 1.5).square()
        return losses


@TRANSFORMER_DECODER_REGISTRY.register()
class BoxDecoder(MaskFormerTransformerDecoder):
    wants = ("images", "targets", "tasks")

    @configurable
    def __init__(self, *, mask_dim, **options):
        super().__init__(mask_dim=mask_dim, **options)
        self.box_embed = nn.Linear(mask_dim, 4)
        self.count = nn.Linear(3, 1)

    def forward(self, x, mask_features, images, targets, tasks):
        outputs = super().forward(x, mask_features)
        SEEN.append((tuple(images.shape), targets and [len(target) for target in targets], tasks))
        if targets is not None:
            for layer in (outputs, *outputs["aux_outputs"]):
                layer["pred_boxes"] = self.box_embed(layer["mask_embed"]).sigmoid()
            number = torch.tensor([[len(target)] for target in targets], device=images.device)
            outputs["losses"] = {"loss_count": 0.1 * (self.count(images.mean((2, 3))) - number).abs().mean()}
        return outputs


@CRITERION_REGISTRY.register()
class HalvedCriterion(FusedSetCriterion):
    def forward(self, *arguments):
        return {name: loss / 2 for name, loss in super().forward(*arguments).items()}
'''
STANDARD = {"TERMS": ("ClassTerm", "MaskTerm", "DiceTerm"), "COSTS": ("ClassCost", "MaskCost", "DiceCost")}


@pytest.fixture
def private_boxes(tmp_path, monkeypatch):
    """Write the package and a dataset to a folder on the import path."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "private_boxes.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path / "package"))
    monkeypatch.chdir(tmp_path)
    write_street(tmp_path / "street")
    with forgotten():
        yield tmp_path
    sys.modules.pop("private_boxes", None)
    forget(["street_train"])


def configuration(folder, *overrides):
    changes = {
        "_BASE_": str(config_root() / "_base_/methods/maskformer.yaml"),
        "IMPORTS": ["private_boxes"],
        "INPUT": {"TARGETS": ["segments", "boxes"]},
        "MODEL": {
            "MASK_FORMER": {
                "TRANSFORMER_DECODER_NAME": "BoxDecoder",
                "LOSS_TERMS": [*STANDARD["TERMS"], "BoxTerm"],
                "MATCHING_COSTS": [*STANDARD["COSTS"], "BoxCost"],
            },
            "PRIVATE_BOXES": {"WEIGHT": 3.0},
        },
    }
    (folder / "boxes.yaml").write_text(yaml.safe_dump(changes))
    keys = NARROW | {
        "TASK": "panoptic",
        "DATASETS.FILES": f"('{folder / 'street' / 'street.yaml'}',)",
        "DATASETS.TRAIN": "('street_train',)",
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 2,
        "SOLVER.LOG_PERIOD": 1,
        "DATALOADER.NUM_WORKERS": 0,
        "OUTPUT_DIR": str(folder / "run"),
    }
    return load_config(
        folder / "boxes.yaml", [str(part) for pair in keys.items() for part in pair] + list(overrides)
    )


def test_private_parts_train_in_the_standard_model(private_boxes):
    cfg = configuration(private_boxes)
    default_setup(cfg)
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    model = trainer.model
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer.train()

    # Masks are still compared by the fused criterion.
    assert type(model.criterion) is FusedSetCriterion
    assert model.criterion.fused_terms is not None
    for name in ("sem_seg_head.predictor.box_embed.weight", "sem_seg_head.predictor.count.weight"):
        assert not torch.equal(dict(model.named_parameters())[name], before[name])
    # A term's own parameter is trained and stored.
    scale = torch.load("run/model_final.pth", weights_only=True)["model"]["criterion.terms.BoxTerm.scale"]
    assert scale != 1.0

    lines = [json.loads(line) for line in Path("run/metrics.json").read_text().splitlines()]
    layers = ["", "_0"]  # two decoder layers
    expected = {f"loss_{name}{layer}" for name in ("ce", "mask", "dice", "bbox") for layer in layers}
    assert {key for key in lines[-1] if key.startswith("loss_")} == expected | {"loss_scale", "loss_count"}
    assert lines[-1]["total_loss"] == pytest.approx(
        sum(value for key, value in lines[-1].items() if key.startswith("loss_")), rel=1e-5
    )
    # The decoder saw the padded batch and the segments in training; in evaluation there are no targets.
    import private_boxes as package

    shape, counts, tasks = package.SEEN[-1]
    assert shape[:2] == (2, 3)
    assert shape[2] % 32 == shape[3] % 32 == 0
    assert all(count > 0 for count in counts)
    assert tasks == ("panoptic",)
    model.eval()
    with torch.no_grad():
        model([{"image": torch.zeros(3, 40, 50)}])
    assert package.SEEN[-1] == ((1, 3, 64, 64), None, ("panoptic",))


def test_a_missing_target_is_named_with_the_key_that_adds_it(private_boxes):
    one = ("SOLVER.MAX_ITER", "1", "INPUT.TARGETS")
    trainer = Trainer(configuration(private_boxes, *one, "('segments',)"))
    with pytest.raises(
        InputError, match=r"^training images have no segment_boxes, .* \(found none\)"
    ) as error:
        trainer.train()
    remedy = str(error.value).rpartition("INPUT.TARGETS: ")[2].strip('"')
    Trainer(configuration(private_boxes, *one, remedy)).train()
    target = SegmentTargets(
        torch.tensor([0]), masks=torch.ones(1, 2, 2) > 0, extras={"areas": torch.tensor([4])}
    )
    assert target.to("cpu").extras["areas"].tolist() == [4]
    with pytest.raises(InputError, match=r"segment_boxes.*\(found areas\)"):
        target.to("cpu").extras["boxes"]


def test_a_private_cost_decides_the_matching(private_boxes):
    cfg = configuration(private_boxes, "MODEL.PRIVATE_BOXES.WEIGHT", "1000.0")
    model = Trainer.build_model(cfg)
    segment_map = torch.full((8, 8), -1, dtype=torch.int16)
    segment_map[:4, :4], segment_map[6:, 4:] = 0, 1
    edges = torch.tensor([[0.0, 0, 4, 4], [4, 6, 8, 8]])
    target = SegmentTargets(torch.tensor([0, 1]), segment_map=segment_map, extras={"boxes": edges})
    torch.manual_seed(0)
    boxes = torch.rand(1, 5, 4)
    boxes[0, 3] = torch.tensor([0.0, 0.0, 0.5, 0.5])
    boxes[0, 1] = torch.tensor([0.5, 0.75, 1.0, 1.0])
    outputs = {
        "pred_logits": torch.randn(1, 5, 5),
        "pred_masks": torch.randn(1, 5, 2, 2),
        "pred_boxes": boxes,
    }
    (((queries, segments),),) = model.criterion.matcher(DecoderOutputs(outputs), [target])
    assert dict(zip(segments.tolist(), queries.tolist(), strict=True)) == {0: 3, 1: 1}
    assert model.criterion(outputs, [target])["loss_bbox"].item() == pytest.approx(0.0, abs=1e-4)


def test_a_private_criterion_replaces_the_standard_one(private_boxes):
    losses = {}
    for name in ("FusedSetCriterion", "HalvedCriterion"):
        cfg = configuration(private_boxes, "MODEL.MASK_FORMER.CRITERION_NAME", name)
        criterion = Trainer.build_model(cfg).criterion
        assert type(criterion) is CRITERION_REGISTRY.get(name)
        torch.manual_seed(0)
        outputs = {"pred_logits": torch.randn(1, 5, 5), "pred_masks": torch.randn(1, 5, 2, 2)}
        outputs["pred_boxes"] = torch.rand(1, 5, 4)
        extras = {"boxes": torch.tensor([[0.0, 0, 8, 8]])}
        target = SegmentTargets(
            torch.tensor([0]), segment_map=torch.zeros(8, 8, dtype=torch.int16), extras=extras
        )
        losses[name] = criterion(outputs, [target])
    for name, loss in losses["FusedSetCriterion"].items():
        torch.testing.assert_close(losses["HalvedCriterion"][name] * 2, loss)


def checkpoint_of(cfg, file):
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    torch.save({"model": model.state_dict()}, file)
    return model


def test_a_file_without_the_parameters_of_a_term_is_evaluated_and_fine_tuned_but_not_resumed(
    private_boxes, tmp_path
):
    terms = f"{(*STANDARD['TERMS'],)}"
    checkpoint_of(configuration(private_boxes, "MODEL.MASK_FORMER.LOSS_TERMS", terms), tmp_path / "a.pth")
    model = Trainer.build_model(configuration(private_boxes))
    checkpointer = SegzooCheckpointer(model)
    checkpointer.load(str(tmp_path / "a.pth"), checkpointables=[])
    assert checkpointer.report.training_only == ["criterion.terms.BoxTerm.scale"]
    checkpointer.report.require_complete()
    with pytest.raises(InputError, match=r"lacks criterion\.terms\.BoxTerm\.scale"):
        checkpointer.load(str(tmp_path / "a.pth"))


def test_parameters_of_other_terms_in_a_file_are_ignored(private_boxes, tmp_path):
    saved = checkpoint_of(configuration(private_boxes), tmp_path / "b.pth")
    terms = f"{(*STANDARD['TERMS'],)}"
    model = Trainer.build_model(configuration(private_boxes, "MODEL.MASK_FORMER.LOSS_TERMS", terms))
    report = load_checkpoint(model, tmp_path / "b.pth")
    assert report.extras == ["criterion.terms.BoxTerm.scale"]
    report.require_complete()
    weight = "sem_seg_head.predictor.box_embed.weight"
    assert torch.equal(model.state_dict()[weight], saved.state_dict()[weight])


def test_parameters_of_terms_keep_their_names_in_another_order_and_may_have_another_shape(
    private_boxes, tmp_path
):
    saved = checkpoint_of(configuration(private_boxes), tmp_path / "c.pth").state_dict()
    terms = f"{('BoxTerm', *STANDARD['TERMS'])}"
    cfg = configuration(private_boxes, "MODEL.MASK_FORMER.LOSS_TERMS", terms)
    scale = "criterion.terms.BoxTerm.scale"
    torch.save({"model": saved | {scale: torch.tensor(7.0)}}, tmp_path / "c.pth")
    model = Trainer.build_model(cfg)
    assert scale in load_checkpoint(model, tmp_path / "c.pth").loaded
    assert model.state_dict()[scale] == 7
    torch.save({"model": saved | {scale: torch.full((5,), 7.0)}}, tmp_path / "c.pth")
    model = Trainer.build_model(cfg)
    report = load_checkpoint(model, tmp_path / "c.pth")
    assert report.training_only == report.extras == [scale]
    assert model.state_dict()[scale] == 1


def test_two_terms_of_one_class_are_both_kept():
    first, second = (MaskTerm(weight) for weight in (1.0, 2.0))
    criterion = FusedSetCriterion([first, DiceTerm(), second], matcher=None)
    assert list(criterion.terms) == ["MaskTerm", "DiceTerm", "MaskTerm_2"]
    assert criterion.terms["MaskTerm_2"] is second
