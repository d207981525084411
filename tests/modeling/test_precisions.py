"""Mask classification with weights of other dtypes than float32, and on the meta device."""

import pytest
import torch

from tests.modeling.modeling_helpers import (
    MASKED_ATTENTION,
    SMALL,
    TRANSFORMER_PIXEL_DECODER,
    make_model,
    random_image,
    relative_difference,
    shake,
)

METHODS = {
    "maskformer": SMALL,
    "maskformer_transformer_encoder": [*SMALL, *TRANSFORMER_PIXEL_DECODER],
    "mask2former": [
        *(*SMALL, *MASKED_ATTENTION),
        *("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "MSDeformAttnPixelDecoder"),
    ],
}
FEWER = ("MODEL.BACKBONE.VARIANT", "r18_quarter", "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 1)


@pytest.fixture(params=METHODS)
def model(request):
    return shake(make_model(3, *METHODS[request.param], *FEWER)).eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.2), (torch.float64, 1e-4)])
def test_weights_may_have_another_dtype(model, dtype, tolerance):
    inputs = [{"image": random_image(40, 33)}]
    with torch.no_grad():
        expected = model(inputs)[0]["sem_seg"]
        model.to(dtype)
        assert model.raw_outputs(inputs)["pred_masks"].dtype == dtype
        actual = model(inputs)[0]["sem_seg"]
    assert actual.dtype == torch.float32
    assert relative_difference(actual, expected) < tolerance


def test_shapes_are_known_on_the_meta_device(model):
    images = torch.zeros(2, 3, 40, 70)
    with torch.no_grad():
        expected = {name: tensor.shape for name, tensor in model.batch_outputs(images).items()}
        found = model.to("meta").batch_outputs(images.to("meta"))
    assert {name: tensor.shape for name, tensor in found.items()} == expected
