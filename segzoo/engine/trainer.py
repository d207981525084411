"""The trainer: the training loop and its parts, built from the config."""

import logging
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase
from detectron2.engine.hooks import IterationTimer
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm
from detectron2.utils.events import (
    EventStorage,
    EventWriter,
    JSONWriter,
    get_event_storage,
)
from torch import nn

from segzoo.checkpoint import SegzooCheckpointer
from segzoo.data import SegmentationMapper, build_test_loader, build_train_loader
from segzoo.data.batch_size import images_per_pass
from segzoo.data.handover import report_ended_workers
from segzoo.data.labeled import holds_targets
from segzoo.modeling import as_segmentor
from segzoo.modeling.build import build_model
from segzoo.modeling.protocols import build_single_scale_config
from segzoo.solver import (
    build_lr_scheduler,
    build_optimizer,
    gather_optimizer_state,
    learning_rate_factor,
    load_optimizer_state,
    optimizer_name,
    restore_scheduled,
)
from segzoo.utils.errors import InputError

from .best import closing_lines, read_best
from .compiled_parts import compile_parts
from .cuda_settings import training_settings
from .distributed.data_parallel import distributed, sync_batch_norm_on_cpu, unwrapped
from .distributed.signals import StopHook, StopSignals, evaluating, iterating, stop_while_waiting
from .evaluation_loop import build_evaluators, check_best_metric, check_evaluation, evaluate
from .hooks import CheckpointHook, EvaluationHook, LearningRateHook, WriterHook
from .metrics_log import (
    LossRecorder,
    TensorBoardWriter,
    continue_metrics,
    drop_metrics,
    has_results,
    latest_scalars,
    read_metrics,
    recent_scalars,
    restore_latest_scalars,
    restore_recent_scalars,
    wait_until_event_files_sort,
)
from .model_description import classes_metadata, describe_checkpoint
from .names import check_names, is_standard
from .nonfinite_dump import NonFiniteLossError, save_nonfinite_capsule
from .output_lock import Claim, claimed, writing_explained
from .progress import ProgressPrinter
from .rng_state import capture_random_state, restore_random_state
from .skipped_files import SkippedFilesHook
from .train_step import TrainStep
from .trainer_registry import TRAINER_REGISTRY
from .unlabeled import UnlabeledHook

logger = logging.getLogger(__name__)


@TRAINER_REGISTRY.register()
class Trainer(TrainerBase):
    """Trainer of the configured model; hooks do everything beside the training step.

    Use: `trainer = Trainer(cfg); trainer.resume_or_load(resume=args.resume); trainer.train()`. A subclass
    may replace any of the `build_` methods; registered in TRAINER_REGISTRY and named by TRAINER, it is used
    by every command. `register_hooks` takes any Detectron2 hook. A resumed run continues as if it had not
    been interrupted: weights, optimizer, schedule, data order, random generators and metrics.

    Attributes:
        model: the model, wrapped in DistributedDataParallel if there are several processes.
        optimizer, scheduler, checkpointer: as in Detectron2.
        start_iter, iter, max_iter: the first, current and final iteration, counted over all runs.
        past_metrics: the metrics.json lines before `start_iter`, in the main process.
        evaluated_at: the iteration after which this run last evaluated the model, None before.
        lacks_record: whether the run before was killed after its checkpoint, before that iteration's records.
        skipped: {error message: number of times this process skipped the file}, with ON_ERROR skip.
        num_images: number of training images, None for a loader without it.
        saw_targets: whether any image of this process had targets so far.
    """

    def __init__(self, cfg: CfgNode, *, trust_checkpoint: bool = False):
        """
        Args:
            cfg: complete, as `segzoo.model_zoo.load_config` returns it; MODEL.DEVICE exists here.
            trust_checkpoint: execute pickled code in MODEL.WEIGHTS and in checkpoints.

        Raises:
            InputError: a key with an impossible value, or batch sizes that do not divide evenly.
        """
        super().__init__()
        self.cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size()).clone()
        _check_numbers(self.cfg, comm.get_world_size())
        check_names(self.cfg, type(self))
        if is_standard(type(self), "build_lr_scheduler"):
            learning_rate_factor(self.cfg)
        model = self.build_model(self.cfg)
        logger.debug("Model:\n%s", model)
        self.optimizer = self.build_optimizer(self.cfg, model)
        self.scheduler = self.build_lr_scheduler(self.cfg, self.optimizer)
        self._segmentor = as_segmentor(model)
        compile_parts(model, self.cfg.MODEL.COMPILE.PARTS, self.cfg.MODEL.COMPILE.MODE)
        self.model = distributed(model, self.cfg.MODEL.DEVICE)
        self.train_step = TrainStep.from_config(self.cfg, self.model, self.optimizer, self._stop_at_nonfinite)
        self.checkpointer = self.build_checkpointer(
            self.cfg, model, trust=trust_checkpoint, trainer=weakref.proxy(self)
        )
        self.max_iter = self.cfg.SOLVER.MAX_ITER
        self.past_metrics: list[dict] = []
        self._first_record = 0
        self.evaluated_at: int | None = None
        self.lacks_record = False
        self.skipped: dict[str, int] = {}
        self.num_images: int | None = None
        self.saw_targets = False
        self._claim: Claim | None = None
        self._stop_reason = ""
        self._saved_at: int | None = None
        self._random_states: list[dict] = []
        self._recent_scalars: dict[str, list[list[float]]] = {}
        self._latest_scalars: dict[str, list] = {}
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Build MODEL.META_ARCHITECTURE on MODEL.DEVICE.

        Raises:
            InputError: no such architecture.
        """
        model = build_model(cfg)
        if torch.device(cfg.MODEL.DEVICE).type == "cpu":
            model = sync_batch_norm_on_cpu(model, comm.get_world_size())
        return model

    @classmethod
    def build_checkpointer(cls, cfg: CfgNode, model: nn.Module, **options: Any) -> SegzooCheckpointer:
        """Build the checkpointer for OUTPUT_DIR, whose files describe themselves."""
        return SegzooCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            keep=cfg.SOLVER.CHECKPOINT_KEEP,
            description=describe_checkpoint(cfg, classes_metadata(cfg)),
            **options,
        )

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer that SOLVER names; see `segzoo.solver`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(
        cls, cfg: CfgNode, optimizer: torch.optim.Optimizer
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Build the schedule that SOLVER names; it is stepped after every iteration."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_mapper(cls, cfg: CfgNode, is_train: bool) -> Callable[[dict], dict]:
        """Build the mapper from a dataset dict to the model's input, with targets for training."""
        return SegmentationMapper(cfg, is_train)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, start_iteration: int = 0) -> Iterable[list[dict]]:
        """Build the loader of this process's endless micro-batches, SOLVER.ACCUMULATE per iteration."""
        return build_train_loader(cfg, start_iteration=start_iteration, mapper=cls.build_mapper(cfg, True))

    @classmethod
    def build_test_loader(
        cls, cfg: CfgNode, dataset_name: str, dataset: Sequence[dict] | None = None
    ) -> Iterable[list[dict]]:
        """Build the loader of this process's share of a test set, or of some of its records; has a length."""
        return build_test_loader(cfg, dataset_name, mapper=cls.build_mapper(cfg, False), dataset=dataset)

    @classmethod
    def build_evaluators(cls, cfg: CfgNode, dataset_name: str) -> list[DatasetEvaluator]:
        """Build the evaluators of a test set; each returns results under its own keys."""
        return list(build_evaluators(cfg, dataset_name)._evaluators)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Build one evaluator from `build_evaluators`, under Detectron2's name."""
        return DatasetEvaluators(list(cls.build_evaluators(cfg, dataset_name)))

    @classmethod
    def evaluate(cls, cfg: CfgNode, model: nn.Module, **options: Any) -> dict:
        """Run `segzoo.engine.evaluate` with the loader and evaluators of this class."""
        return evaluate(cfg, model, cls, **options)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module) -> dict:
        """Evaluate the model in training on DATASETS.TEST, at one scale; see `engine.evaluation_loop`."""
        cfg = build_single_scale_config(cfg)
        try:
            storage = get_event_storage()
        except AssertionError:  # Called outside a training.
            return cls.evaluate(cfg, model)
        results = cls.evaluate(cfg, model, iteration=storage.iter)
        if cfg.TEST.NUM_PICTURES and comm.is_main_process():
            # Needs drawing libraries, which a training without evaluation does not.
            from .tensorboard_images import put_visualizations

            put_visualizations(cfg, model, storage, cls.build_mapper(cfg, False))
        return results

    @classmethod
    def check_test(cls, cfg: CfgNode) -> None:
        """Raise the input errors of `test` before the first iteration; override it together with `test`.

        Raises:
            InputError: see `check_evaluation` and `check_best_metric` in `segzoo.engine.evaluation_loop`.
        """
        try:
            check_evaluation(build_single_scale_config(cfg), cls)
        except InputError as error:
            raise InputError(f'{error} (DATASETS.TEST "()" trains without evaluation)') from None
        check_best_metric(cfg, cls)

    def build_hooks(self) -> list[HookBase]:
        """Build the hooks, in order: timer, learning rate, checkpoints, signals, evaluation, writers."""
        cfg = self.cfg
        rates = LearningRateHook(cfg.SOLVER.BASE_LR)
        hooks = [IterationTimer(), rates, CheckpointHook(cfg.SOLVER.CHECKPOINT_PERIOD), StopHook()]
        hooks.append(UnlabeledHook(cfg.TASK, cfg.DATASETS.TRAIN, cfg.SOLVER.IMS_PER_BATCH))
        if cfg.DATASETS.TEST:
            # Through a weak reference: the trainer owns its hooks.
            trainer = weakref.proxy(self)

            def test() -> dict:
                # The evaluation's line includes the losses up to here.
                trainer._recorder.flush()
                with evaluating(trainer):
                    return trainer.test(trainer.cfg, unwrapped(trainer.model))

            hooks.append(
                EvaluationHook(
                    cfg.TEST.EVAL_PERIOD,
                    test,
                    cfg.TEST.BEST_METRIC,
                    cfg.TEST.EARLY_STOP_PATIENCE,
                )
            )
        if cfg.DATALOADER.ON_ERROR == "skip":
            hooks.append(SkippedFilesHook(cfg.OUTPUT_DIR, cfg.SOLVER.LOG_PERIOD))
        workers = cfg.DATALOADER.NUM_WORKERS
        return [*hooks, WriterHook(cfg.SOLVER.LOG_PERIOD, cfg.SOLVER.IMS_PER_BATCH, workers)]

    def build_writers(self) -> list[EventWriter]:
        """Build the writers of progress lines, metrics.json and TensorBoard; called in the main process."""
        folder = self.cfg.OUTPUT_DIR
        wait_until_event_files_sort(Path(folder))
        return [
            ProgressPrinter(self.max_iter),
            # Purges what a killed run wrote after the checkpoint: this run writes it again. Placed before
            # metrics.json, so that TensorBoard has every line of that file.
            TensorBoardWriter(folder, purge_step=self._first_record),
            JSONWriter(str(self._metrics_file)),
        ]

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume from OUTPUT_DIR's last checkpoint, if `resume` and there is one; else load MODEL.WEIGHTS.

        Raises:
            InputError: MODEL.WEIGHTS is for another input, and the model has `same_input`.
        """
        resuming = resume and self.checkpointer.has_checkpoint()
        rest = self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resuming:
            self.iter = self.start_iter = int(rest.get("iteration", self.iter)) + 1
            self._saved_at = self.start_iter - 1
            self._random_states = rest.get("random_states", [])
        elif self.checkpointer.report and getattr(unwrapped(self.model), "same_input", False):
            self.checkpointer.report.require_same_input()

    def train(self) -> None:
        """Train up to SOLVER.MAX_ITER, or until the evaluation hook stops it, and save model_final.pth.

        A finished training whose final evaluation is missing is evaluated. Inside `stop_on_signals()`
        signals end it early, with a checkpoint.

        Raises:
            InputError: another training writes into OUTPUT_DIR, or has left checkpoints there that this one
                does not resume; or it cannot be written, as on a full disk, where earlier checkpoints stay
                valid.
        """
        self._check_output_dir()
        if self.start_iter >= self.max_iter:
            logger.info("Checkpoint already at MAX_ITER=%d; nothing to train.", self.max_iter)
            if not self._lacks_final_record():
                self._log_closing_lines()
                return
            logger.info("Running what is missing after the last iteration.")
        if self.cfg.DATASETS.TEST:
            self.check_test(self.cfg)
        folder, workers = self.cfg.OUTPUT_DIR, self.cfg.DATALOADER.NUM_WORKERS
        with claimed(folder) as claim, writing_explained(folder), report_ended_workers(workers):
            self._claim = claim
            with training_settings(self.cfg):
                self._train()
        self._log_closing_lines()

    def renew_claim(self) -> None:
        """Claim OUTPUT_DIR again where it was removed and created again.

        Raises:
            InputError: another training has claimed it.
        """
        if self._claim is not None:
            self._claim.renew()

    def _log_closing_lines(self) -> None:
        """Log the result of the training, its files, and commands to use them."""
        if not comm.is_main_process():
            return
        best = read_best(self.cfg.OUTPUT_DIR, self.cfg.TEST.BEST_METRIC)
        evaluated, exportable = bool(self.cfg.DATASETS.TEST), self._segmentor.fixed_shapes
        for line in closing_lines(self.cfg.OUTPUT_DIR, self.iter, best, evaluated, exportable):
            logger.info("%s", line)

    def _check_output_dir(self) -> None:
        folder = self.cfg.OUTPUT_DIR
        if not folder:
            raise InputError(
                "OUTPUT_DIR is empty; set a folder, or let segzoo.engine.default_setup(cfg) choose one"
            )
        if self.start_iter == 0 and any(comm.all_gather(self.checkpointer.has_checkpoint())):
            raise InputError(
                f"OUTPUT_DIR {folder} holds the checkpoints of another training; resume it with "
                "trainer.resume_or_load(resume=True), or choose another OUTPUT_DIR"
            )

    def _train(self) -> None:
        self._begin()
        with iterating(), EventStorage(self.start_iter) as self.storage:
            restore_recent_scalars(self.storage, self._recent_scalars)
            if self.lacks_record:
                restore_latest_scalars(self.storage, self._latest_scalars, self.start_iter - 1)
            self._recorder = LossRecorder(self.storage, self.cfg.SOLVER.LOG_PERIOD)
            try:
                self.before_train()
                for iteration in range(self.start_iter, self.max_iter):
                    self.iter = iteration
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    if self._stop_reason:
                        logger.info("Stopping after iteration %d: %s", self.iter, self._stop_reason)
                        self.save_checkpoint("model_final")
                        break
                self.iter = min(self.iter + 1, self.max_iter)
            except Exception:
                # To log.txt only: the caller prints the error, or one line of it, on the screen.
                logger.debug("Training ended with an error in iteration %d:", self.iter, exc_info=True)
                raise
            finally:
                self._batches = iter(())
                self.after_train()

    def run_step(self) -> None:
        started = time.perf_counter()
        micro_batches = [next(self._batches) for _ in range(self.cfg.SOLVER.ACCUMULATE)]
        data_time = time.perf_counter() - started
        self.saw_targets = self.saw_targets or any(map(holds_targets, micro_batches))
        self._segmentor.set_progress(self.iter, self.max_iter)
        losses = self.train_step(micro_batches)
        self._recorder.add(self.iter, losses, data_time)

    def after_step(self) -> None:
        if self.iter + 1 == self.max_iter:
            self.train_step.finish()
            self._recorder.flush()
        super().after_step()

    def latest_losses(self) -> dict[str, float]:
        """Return what this process recorded last: losses, "data_time" in seconds, and "iteration"."""
        return dict(self._recorder.latest)

    def stop(self, reason: str) -> None:
        """End the training after the current iteration; called by a hook, in every process."""
        self._stop_reason = reason

    def stop_with_checkpoint(self, signals: StopSignals) -> None:
        """End the training at a signal, with a checkpoint of the last iteration; every process calls it.

        Raises:
            StoppedBySignal: always, after saving.
        """
        if self._saved_at != self.storage.iter:
            self.save_checkpoint(f"model_{self.storage.iter:07d}")
        # The parent of the processes may end the others as soon as one has ended.
        comm.synchronize()
        raise signals.stopped(
            f"stopped after iteration {self.storage.iter}; {signals.continued_by} continues from there, "
            f"{self.checkpointer.get_checkpoint_file()}"
        )

    def prepared_checkpoint(self) -> Callable[[], None]:
        """Return a function that saves the iteration that just ended, later and without other processes.

        Every process calls this, and may call the function before the next iteration. An iteration that is
        already saved is not saved again.
        """
        if self._saved_at == self.storage.iter:
            return lambda: None
        name = f"model_{self.storage.iter:07d}"
        if self.cfg.SOLVER.SHARD_OPTIMIZER and comm.get_world_size() > 1:
            # The optimizer's state is sharded across processes.
            self.save_checkpoint(name)
            return lambda: None
        self.train_step.finish()
        self._recorder.flush()
        random_states = comm.gather(capture_random_state())
        return lambda: self._write_checkpoint(name, random_states)

    def save_checkpoint(self, name: str) -> None:
        """Save OUTPUT_DIR/<name>.pth with all that resuming needs; every process has to call it."""
        self.train_step.finish()
        self._recorder.flush()
        random_states = comm.gather(capture_random_state())
        gather_optimizer_state(self.optimizer)
        self._write_checkpoint(name, random_states)

    def _write_checkpoint(self, name: str, random_states: list[dict]) -> None:
        self.renew_claim()
        self.checkpointer.save(name, iteration=self.storage.iter, random_states=random_states)
        if not name.endswith("_best"):  # from which no run resumes
            self._saved_at = self.storage.iter

    def state_dict(self) -> dict:
        """Return all state beside weights, iteration and random states, as plain data and tensors."""
        return {
            **super().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "optimizer_name": optimizer_name(self.optimizer),
            "scheduler": self.scheduler.state_dict(),
            **self.train_step.state_dict(),
            "seed": self.cfg.SEED,
            "recent_scalars": recent_scalars(self.storage),
            "latest_scalars": latest_scalars(self.storage),
        }

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore `state_dict()`; learning rates and weight decay follow the config of this run.

        With a scheduler of torch the learning rates continue from those of the checkpoint.
        """
        super().load_state_dict(state_dict)
        written_by = state_dict.get("optimizer_name", "")
        load_optimizer_state(self.optimizer, state_dict["optimizer"], written_by)
        self.scheduler.load_state_dict(state_dict.get("scheduler", {"iteration": self.iter + 1}))
        restore_scheduled(self.optimizer, state_dict["optimizer"], self.scheduler)
        if "grad_scaler" in state_dict:
            self.train_step.load_state_dict(state_dict)
        self._recent_scalars = state_dict.get("recent_scalars", {})
        self._latest_scalars = state_dict.get("latest_scalars", {})
        seed = state_dict.get("seed", self.cfg.SEED)
        if seed != self.cfg.SEED:
            logger.info("SEED %d of the resumed run replaces %d", seed, self.cfg.SEED)
            self.cfg.defrost()
            self.cfg.SEED = seed
            self.cfg.freeze()

    def _begin(self) -> None:
        """Prepare data, metrics.json and random generators for `start_iter`."""
        self.iter = self.start_iter
        self.model.train()
        if self.start_iter < self.max_iter:
            loader = self.build_train_loader(self.cfg, self.start_iter)
            self.skipped = getattr(loader, "skipped", {})
            data = getattr(loader, "dataset", None)
            self.num_images = len(data) if hasattr(data, "__len__") else None
            # Through a weak reference: the trainer owns its loader.
            trainer = weakref.proxy(self)
            if hasattr(loader, "while_waiting"):
                loader.while_waiting = lambda seconds: stop_while_waiting(trainer, seconds)
            self._batches = iter(loader)
        if comm.is_main_process():
            self.past_metrics = continue_metrics(self._metrics_file, self.start_iter)
            self._check_last_line()
        if len(self._random_states) == comm.get_world_size():
            restore_random_state(self._random_states[comm.get_rank()])
        elif self._random_states:
            logger.warning(
                "%d processes resume a run of %d: augmentation and dropout draw other random numbers",
                comm.get_world_size(),
                len(self._random_states),
            )
        # No longer needed.
        self._random_states = []
        logger.info("Training from iteration %d to %d", self.start_iter, self.max_iter)

    def _check_last_line(self) -> None:
        """Check the records of the checkpoint's iteration: remove unexpected ones, note missing ones.

        They are written after the checkpoint, not before it: an evaluation's line holds its results, and a
        failing evaluation must not lose what was trained; and hooks may put scalars until the last one,
        before which Detectron2's users insert theirs.
        """
        self._first_record = self.start_iter
        last = self.start_iter - 1
        lines = [line for line in self.past_metrics if line["iteration"] == last]
        expected, complete = self._last_line(lines)
        if last < 0 or not self._latest_scalars:
            return
        if not expected:
            # TensorBoard may still have it: a run was killed after removing it from metrics.json.
            self._first_record = last
        if complete == expected:
            return
        self._first_record, self.lacks_record = last, expected
        self.past_metrics = drop_metrics(self._metrics_file, last)

    def _last_line(self, lines: list[dict]) -> tuple[bool, bool]:
        """Tell whether a record of the iteration before `start_iter` is expected, and whether it is complete.

        Args:
            lines: metrics.json lines of that iteration.
        """
        done = self.start_iter
        if any(isinstance(hook, EvaluationHook) and hook.due(done) for hook in self._hooks):
            return True, has_results(lines, done - 1)
        expected = any(isinstance(hook, WriterHook) and hook.due(done) for hook in self._hooks)
        return expected, any("total_loss" in line for line in lines)

    @property
    def _metrics_file(self) -> Path:
        return Path(self.cfg.OUTPUT_DIR, "metrics.json")

    def _lacks_final_record(self) -> bool:
        """Tell whether a complete training lacks its final evaluation, or its last record."""
        if not 0 < self.start_iter == self.max_iter:
            return False
        past = comm.all_gather(read_metrics(self._metrics_file) if comm.is_main_process() else [])[0]
        _, complete = self._last_line([line for line in past if line["iteration"] == self.start_iter - 1])
        return not complete

    def _stop_at_nonfinite(
        self, reason: str, losses: dict[str, float], batch: list[dict], random_state: dict
    ) -> None:
        message = save_nonfinite_capsule(
            self.cfg.OUTPUT_DIR,
            iteration=self.iter,
            rank=comm.get_rank(),
            reason=reason,
            losses=losses,
            batch=batch,
            random_state=random_state,
            model=unwrapped(self.model),
            learning_rates=[group["lr"] for group in self.optimizer.param_groups],
            cfg=self.cfg,
        )
        raise NonFiniteLossError(message)


def _check_numbers(cfg: CfgNode, world_size: int) -> None:
    if cfg.SOLVER.LOG_PERIOD < 1:
        raise InputError(f"SOLVER.LOG_PERIOD {cfg.SOLVER.LOG_PERIOD}: must be at least 1 iteration")
    if cfg.TEST.EARLY_STOP_PATIENCE > 0 and not cfg.TEST.BEST_METRIC:
        raise InputError(
            f"TEST.EARLY_STOP_PATIENCE {cfg.TEST.EARLY_STOP_PATIENCE} without TEST.BEST_METRIC: "
            "set the metric that has to improve, or the patience to 0"
        )
    images_per_pass(cfg, world_size)
