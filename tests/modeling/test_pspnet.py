"""PSPNet: the layouts of semseg and mmsegmentation, sizes, crops."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segzoo.utils.errors import InputError
from tests.modeling.modeling_helpers import random_image, shake
from tests.modeling.pixel_model_helpers import (
    count_operations,
    count_parameters,
    load_published,
    pixel_model,
    unallocated_model,
)
from tests.modeling.pixel_peers import (
    R50_V1C,
    R50_V1S,
    TINY,
    mmseg_logits,
    mmseg_model,
    patchy_image,
    worst_difference,
)
from tests.modeling.semseg_reference import SemsegNetwork

NARROW = ("MODEL.SEM_SEG_HEAD.CONVS_DIM", 8)


class PyramidPooling(nn.Module):
    """semseg's `ppm`, from the description."""

    def __init__(self):
        super().__init__()
        self.features = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(side),
                nn.Conv2d(2048, 512, 1, bias=False),
                nn.BatchNorm2d(512),
                nn.ReLU(),
            )
            for side in (1, 2, 3, 6)
        )

    def forward(self, x):
        size = x.shape[2:]
        resized = [
            F.interpolate(branch(x), size, mode="bilinear", align_corners=True) for branch in self.features
        ]
        return torch.cat([x, *resized], 1)


def test_files_of_semseg_load_as_published_and_predict_the_same(tmp_path):
    model = pixel_model("pspnet_semseg", 7, *R50_V1S)
    torch.manual_seed(1)
    peer = shake(SemsegNetwork("ppm", PyramidPooling(), 7).eval())

    load_published(model, {f"module.{key}": value for key, value in peer.state_dict().items()}, tmp_path)

    assert worst_difference(model, peer, [patchy_image(73, 73), patchy_image(65, 97)]) < 1e-5


def test_files_of_mmsegmentation_load_as_published_and_predict_the_same(tmp_path):
    peer = mmseg_model(7, "PSPHead", channels=512, pool_scales=(1, 2, 3, 6))
    model = pixel_model("pspnet_mmseg", 7, *R50_V1C)

    load_published(model, peer.state_dict(), tmp_path)

    images = [patchy_image(72, 72), patchy_image(61, 83)]
    assert worst_difference(model, mmseg_logits(peer), images) < 1e-5


def test_parameters_and_multiply_adds_are_those_of_semseg():
    model = unallocated_model("pspnet_semseg", 150, *R50_V1S)
    # With the auxiliary head, which is only used in training.
    assert count_parameters(model) == pytest.approx(49.18, rel=0.005)
    assert count_operations(model, (473, 473)) == pytest.approx(162.3, rel=0.05)


def test_only_aligned_crops_are_accepted_if_weights_expect_them():
    model = pixel_model("pspnet_semseg", 3, *TINY)
    labels = torch.zeros(472, 473, dtype=torch.int64)
    with pytest.raises(InputError, match=r"found 472 x 473; set INPUT.CROP_SIZE to 465 or 473"):
        model([{"image": random_image(472, 473), "sem_seg": labels}])
    model.sem_seg_head.check_crop(473, 713)
    pixel_model("pspnet", 3, *TINY).sem_seg_head.check_crop(480, 333)


def test_bins_follow_the_configuration():
    model = pixel_model("pspnet", 3, *TINY, *NARROW, "MODEL.PSPNET.BINS", (1, 4)).eval()
    x = torch.randn(1, 128, 8, 12)
    head = model.sem_seg_head
    pooled = head.pooling(x)
    assert pooled.shape == (1, 128 + 2 * 8, 8, 12)
    # The second branch: means over 2 x 3 cells, projected.
    means = x.reshape(1, 128, 4, 2, 4, 3).mean(dim=(3, 5))
    expected = F.interpolate(head.pooling.projections[1](means), (8, 12), mode="bilinear", align_corners=True)
    torch.testing.assert_close(pooled[:, -8:], expected)
