"""A training that takes milliseconds: four classes of pixels by color, with or without randomness.

N images, K classes, H W pixels.
"""

import json
from pathlib import Path

import segzoo  # noqa: F401  before Detectron2: makes the installed library versions work together

# isort: split
import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from segzoo.config.defaults import default_config
from segzoo.engine import Trainer, default_setup

CLASSES = ["sky", "road", "tree", "car"]
SIZE = 8
TIMES = ("time", "data_time", "compute_time", "eta_seconds", "images_per_second", "max_mem")

for _name in ("toy_train", "toy_val"):
    MetadataCatalog.get(_name).set(
        classes=CLASSES, colors=[(i, i, i) for i in range(4)], isthing=[False] * 4, ignore_label=255
    )


@META_ARCH_REGISTRY.register()
class ToyPixelClassifier(nn.Module):
    """Two convolutions; every loss is a mean over images, so batches can be split arbitrarily."""

    @configurable
    def __init__(self, *, dropout: float, norm: type[nn.Module] | None = None):
        super().__init__()
        self.backbone = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8) if norm is None else norm(8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(8, len(CLASSES), 1)

    @classmethod
    def from_config(cls, cfg):
        return {"dropout": cfg.MODEL.MASK_FORMER.DROPOUT}

    def forward(self, batched_inputs):
        device = self.head.weight.device
        images = torch.stack([image["image"] for image in batched_inputs]).to(device).float() / 255
        logits = self.head(self.dropout(self.norm(self.backbone(images)).relu()))
        if not self.training:
            return [{"sem_seg": scores} for scores in logits]
        labels = torch.stack([image["sem_seg"] for image in batched_inputs]).to(device)
        loss = nn.functional.cross_entropy(logits.float(), labels)
        return {"loss_ce": loss, "loss_size": 0.01 * logits.float().square().mean()}


def toy_image(index: int) -> dict:
    """Return image `index` of an endless set: (3, H, W) uint8 and its labels (H, W) int64."""
    generator = torch.Generator().manual_seed(index)
    labels = torch.randint(0, len(CLASSES), (SIZE, SIZE), generator=generator)
    noise = torch.randint(0, 40, (3, SIZE, SIZE), generator=generator)
    image = torch.stack([labels * 50, 150 - labels * 40, (labels % 2) * 200]) + noise
    return {"image": image.to(torch.uint8), "sem_seg": labels, "file_name": f"toy_{index}.png"}


class ToyTrainer(Trainer):
    """Trainer on consecutive images; with dropout, images also get noise from the global generators."""

    scores = None  # Results of successive evaluations; None: none.
    break_batch_at = None  # The iteration whose batch gets an infinite value.

    @classmethod
    def build_train_loader(cls, cfg, start_iteration):
        from detectron2.utils import comm

        stride = comm.get_world_size()
        size = cfg.SOLVER.IMS_PER_BATCH // (stride * cfg.SOLVER.ACCUMULATE)
        first = start_iteration * cfg.SOLVER.IMS_PER_BATCH + comm.get_rank()
        while True:
            batch = [toy_image(first + i * stride) for i in range(size)]
            for image in batch:
                if cfg.MODEL.MASK_FORMER.DROPOUT:
                    image["image"] = image["image"] + np.random.randint(0, 10)
                if first // cfg.SOLVER.IMS_PER_BATCH == cls.break_batch_at:
                    image["image"] = image["image"].float() * float("inf")
            yield batch
            first += size * stride

    @classmethod
    def check_test(cls, cfg):
        """`test` needs no data."""

    @classmethod
    def test(cls, cfg, model):
        torch.rand(3)  # An evaluation may draw random numbers.
        return {"sem_seg": {"mIoU": next(cls.scores), "IoU-sky": 1.0}}


def toy_cfg(output_dir, **changes):
    """A config for ToyTrainer; keys with double underscores for dots: SOLVER__MAX_ITER=10."""
    cfg = default_config()
    cfg.MODEL.META_ARCHITECTURE = "ToyPixelClassifier"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.MASK_FORMER.DROPOUT = 0.0
    cfg.DATASETS.TRAIN = ("toy_train",)
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SOLVER.BASE_LR = 0.01
    cfg.SOLVER.MAX_ITER = 10
    cfg.SOLVER.CHECKPOINT_PERIOD = 4
    cfg.SOLVER.LOG_PERIOD = 1
    cfg.SEED = 7
    cfg.OUTPUT_DIR = str(output_dir)
    for key, value in changes.items():
        *path, leaf = key.split("__")
        node = cfg
        for part in path:
            node = node[part]
        node[leaf] = value
    return cfg


def run_toy(cfg, resume: bool = False, trainer_class: type[Trainer] = ToyTrainer) -> Trainer:
    """Do what `tools/train_net.py` does in each process."""
    default_setup(cfg)
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def metrics(folder: Path) -> list[dict]:
    """Return the lines of metrics.json without times."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def weights(folder: Path, name: str = "model_final") -> dict[str, torch.Tensor]:
    """Return the weights in a checkpoint."""
    return torch.load(folder / f"{name}.pth", weights_only=True)["model"]


def assert_same_weights(first: dict, second: dict) -> None:
    """Assert that weights are bitwise equal."""
    assert first.keys() == second.keys()
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name


def run_toys(*cfgs) -> None:
    """For `launch`: run several trainings, one after the other."""
    for cfg in cfgs:
        run_toy(cfg)


def fail_in_rank_one(error: Exception) -> None:
    """For `launch`: raise in process 1, wait for it in process 0."""
    from detectron2.utils import comm

    if comm.get_rank() == 1:
        raise error
    comm.synchronize()
