"""Panoptic SegFormer trained by two processes, an image each, and by one process with both images."""

import pytest
import torch
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

from tests.modeling.panoptic_segformer_helpers import small_model, with_segments

# Classes of the segments of each process's image: 0 and 2 are things. The processes have different numbers
# of things and of stuff, or none at all.
CASES = {
    "both": ((0, 1, 2, 0, 3), (2, 4, 1)),
    "no_things_in_one": ((0, 1, 2, 0), (3, 4, 1)),
    "no_stuff_in_one": ((0, 2, 2), (3, 0, 4, 1)),
    "nothing_in_one": ((0, 1, 2, 4, 0), ()),
}


def losses_and_gradients(model, images):
    losses = model(images)
    sum(losses.values()).backward()
    gradients = {name.removeprefix("module."): one.grad for name, one in model.named_parameters()}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


def train_in_process(rank, folder, classes):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    image = with_segments(48, 64, classes[rank], seed=rank)
    found = losses_and_gradients(DistributedDataParallel(small_model().train()), [image])
    torch.save(found, folder / f"{rank}.pth")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("classes", CASES.values(), ids=CASES)
def test_two_processes_train_like_one_with_both_images(tmp_path, classes):
    multiprocessing.start_processes(train_in_process, (tmp_path, classes), 2, start_method="fork")
    images = [with_segments(48, 64, own, seed=rank) for rank, own in enumerate(classes)]
    expected, gradients = losses_and_gradients(small_model().train(), images)
    apart = [torch.load(tmp_path / f"{rank}.pth") for rank in range(2)]
    for name, loss in expected.items():
        torch.testing.assert_close(sum(losses[name] for losses, _ in apart) / 2, loss, rtol=1e-4, atol=1e-6)
    for name, gradient in gradients.items():
        for _, averaged in apart:
            torch.testing.assert_close(averaged[name], gradient, rtol=1e-3, atol=1e-5)
