"""SOLVER.SHARD_OPTIMIZER: the same weights and checkpoints, a share of the moments in each process."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm

from segzoo.engine import launch
from tests.engine.toy_training import assert_same_weights, metrics, run_toy, toy_cfg, weights

OPTIMIZERS = {"AdamW": {}, "SGD": {"SOLVER__MOMENTUM": 0.9}}


def run_and_count_moments(cfgs: list, resume: bool) -> None:
    """For `launch`: run trainings; each process writes the number of values in its optimizers' states."""
    for cfg in cfgs:
        optimizer = run_toy(cfg, resume=resume).optimizer
        # A sharded optimizer delegates to one with only this process's share.
        state = getattr(optimizer, "optim", optimizer).state
        moments = sum(value.numel() for entry in state.values() for value in entry.values() if value.dim())
        Path(cfg.OUTPUT_DIR, f"moments_{comm.get_rank()}.json").write_text(json.dumps(moments))


def configured(folder: Path, optimizer: str, sharded: bool, **changes):
    settings = {"SOLVER__OPTIMIZER": optimizer, "SOLVER__SHARD_OPTIMIZER": sharded} | OPTIMIZERS[optimizer]
    settings["SOLVER__CLIP_GRADIENTS__ENABLED"] = True
    return toy_cfg(folder, **settings, **changes)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of two-process runs by (optimizer, sharded): ten iterations, a checkpoint at the fourth."""
    root = tmp_path_factory.mktemp("runs")
    keys = [(name, sharded) for name in OPTIMIZERS for sharded in (False, True)]
    folders = {key: root / f"{key[0]}_{key[1]}" for key in keys}
    launch(run_and_count_moments, 2, args=([configured(folders[k], *k) for k in keys], False), device="cpu")
    return folders


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_sharding_changes_no_weight(runs, optimizer):
    assert_same_weights(weights(runs[optimizer, False]), weights(runs[optimizer, True]))
    assert metrics(runs[optimizer, False]) == metrics(runs[optimizer, True])


@pytest.mark.parametrize(("optimizer", "moments"), [("AdamW", 2), ("SGD", 1)])
def test_each_process_keeps_its_share_of_the_moments(runs, optimizer, moments):
    parameters = sum(weight.numel() for weight in weights(runs[optimizer, True]).values())
    counts = {
        sharded: [
            json.loads((runs[optimizer, sharded] / f"moments_{rank}.json").read_text()) for rank in (0, 1)
        ]
        for sharded in (False, True)
    }
    assert counts[False] == [moments * parameters] * 2
    assert sum(counts[True]) == moments * parameters
    assert min(counts[True]) > 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_sharded_checkpoint_is_that_of_a_plain_run(runs, optimizer):
    plain, sharded = (
        torch.load(runs[optimizer, key] / "model_0000003.pth", weights_only=True)["trainer"]["optimizer"]
        for key in (False, True)
    )
    assert plain["state"].keys() == sharded["state"].keys()
    for index, entry in plain["state"].items():
        assert entry.keys() == sharded["state"][index].keys()
        for name, value in entry.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(sharded["state"][index][name])), name
    for one, other in zip(plain["param_groups"], sharded["param_groups"], strict=True):
        assert {key: other[key] for key in ("params", "names", "lr", "weight_decay")} == {
            key: one[key] for key in ("params", "names", "lr", "weight_decay")
        }


@pytest.fixture(scope="module")
def resumed(runs, tmp_path_factory):
    """Folders of runs that resume with the other setting, by the key of the run that wrote the checkpoint."""
    root, cfgs, folders = tmp_path_factory.mktemp("resumed"), [], {}
    for (optimizer, sharded), source in runs.items():
        folder = folders[optimizer, sharded] = root / source.name
        folder.mkdir()
        shutil.copy(source / "model_0000003.pth", folder)
        (folder / "last_checkpoint").write_text("model_0000003.pth")
        cfgs.append(configured(folder, optimizer, not sharded))
    launch(run_and_count_moments, 2, args=(cfgs, True), device="cpu")
    return folders


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("sharded_first", [True, False])
def test_a_run_may_be_resumed_with_the_other_setting(runs, resumed, optimizer, sharded_first):
    key = optimizer, sharded_first
    assert_same_weights(weights(runs[key]), weights(resumed[key]))
