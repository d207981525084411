"""FCN: the layouts of torchvision and mmsegmentation, and the options of its head."""

import pytest
import torch

from segzoo.checkpoint import load_checkpoint
from segzoo.utils.errors import InputError
from tests.modeling.modeling_helpers import shake
from tests.modeling.pixel_model_helpers import load_published, pixel_model
from tests.modeling.pixel_peers import (
    R50,
    R50_V1C,
    TINY,
    mmseg_logits,
    mmseg_model,
    patchy_image,
    worst_difference,
)


def torchvision_model(num_classes, auxiliary=True):
    segmentation = pytest.importorskip("torchvision.models.segmentation")
    torch.manual_seed(1)
    options = {"weights": None, "weights_backbone": None, "num_classes": num_classes, "aux_loss": auxiliary}
    return shake(segmentation.fcn_resnet50(**options).eval())


def test_files_of_torchvision_load_as_published_and_predict_the_same(tmp_path):
    peer = torchvision_model(21)
    model = pixel_model("fcn", 21, *R50, "MODEL.SEM_SEG_HEAD.ALIGN_CORNERS", False)

    load_published(model, peer.state_dict(), tmp_path)

    # torchvision returns its logits at the size of the input.
    image = patchy_image(70, 93)
    normalized = ((image - model.pixel_mean) / model.pixel_std)[None]
    with torch.no_grad():
        expected = peer(normalized)["out"]
        actual = model.eval().score_maps(image[None].float())
        auxiliary = model.auxiliary_head(model.backbone(normalized))["logits"]
        expected_auxiliary = peer.aux_classifier(peer.backbone(normalized)["aux"])
    assert actual.shape == (1, 21, 70, 93)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(auxiliary, expected_auxiliary, rtol=1e-4, atol=1e-4)


def test_file_and_model_may_have_an_auxiliary_classifier_or_not(tmp_path):
    torch.save(torchvision_model(5, auxiliary=False).state_dict(), tmp_path / "without.pth")
    report = load_checkpoint(pixel_model("fcn", 5, *R50), tmp_path / "without.pth")
    assert report.source == "torchvision FCN"
    assert {key.split(".")[0] for key in report.reinitialized} == {"auxiliary_head"}

    torch.save(torchvision_model(5).state_dict(), tmp_path / "with.pth")
    report = load_checkpoint(pixel_model("fcn", 5, *R50, "MODEL.AUX_HEAD.NAME", ""), tmp_path / "with.pth")
    assert report.complete
    assert {key.split(".")[0] for key in report.extras} == {"aux_classifier"}


def test_another_number_of_classes_gives_a_new_classifier_and_reports_it(tmp_path):
    torch.save(torchvision_model(5).state_dict(), tmp_path / "fcn.pth")
    report = load_checkpoint(pixel_model("fcn", 6, *R50), tmp_path / "fcn.pth")
    heads = ("sem_seg_head", "auxiliary_head")
    expected = {f"{head}.predictor.{part}" for head in heads for part in ("weight", "bias")}
    assert set(report.reinitialized) == expected


def test_files_of_mmsegmentation_load_as_published_and_predict_the_same(tmp_path):
    peer = mmseg_model(7, "FCNHead", channels=512, num_convs=2, concat_input=True)
    model = pixel_model("fcn_mmseg", 7, *R50_V1C)

    load_published(model, peer.state_dict(), tmp_path)

    assert worst_difference(model, mmseg_logits(peer), [patchy_image(72, 72), patchy_image(61, 83)]) < 1e-5


def test_a_head_without_convolutions_classifies_the_features_themselves():
    model = pixel_model("fcn", 3, *TINY, "MODEL.SEM_SEG_HEAD.NUM_CONVS", 0).eval()
    features = {"res5": torch.randn(1, 128, 5, 6)}
    predictor = model.sem_seg_head.predictor
    expected = torch.einsum("kc,nchw->nkhw", predictor.weight[..., 0, 0], features["res5"])
    expected = expected + predictor.bias[:, None, None]
    torch.testing.assert_close(model.sem_seg_head(features)["logits"], expected, rtol=1e-4, atol=1e-5)


def test_a_feature_that_the_backbone_lacks_is_named():
    with pytest.raises(InputError, match=r"MODEL\.SEM_SEG_HEAD\.IN_FEATURES has 'res6'"):
        pixel_model("fcn", 3, *TINY, "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res6"])
