"""Detectron2's Checkpointer interface with safe reading, atomic writing and a load report."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from segzoo.utils.errors import InputError
from segzoo.utils.files import cannot_write, remove_stale, write_atomically

from .atomic_save import save_checkpoint, size_in_memory
from .finite import NonFiniteWeightsError, check_finite_optimizer
from .load import load_state, open_checkpoint
from .reader import CheckpointFile, DamagedFileError, read_checkpoint
from .report import CheckpointMismatchError, LoadReport

logger = logging.getLogger(__name__)

_PERIODIC = re.compile(r".+_(\d{7})\.pth$")
_OTHERS = ("model_final.pth", "model_best.pth")
_LAST = "last_checkpoint"


class SegzooCheckpointer(Checkpointer):
    """Checkpointer of a model, its optimizer, scheduler and other objects with a `state_dict`.

    Unlike Detectron2's, it reads files without executing code and writes them atomically, raises where a file
    does not fit the model, and resumes from the previous checkpoint where the newest one is damaged.

    Attributes:
        report: the report of the last load; None before the first.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        keep: int = 0,
        description: Mapping[str, Any] | None = None,
        trust: bool = False,
        **checkpointables: Any,
    ) -> None:
        """
        Args:
            model: the model, wrapped in DistributedDataParallel or not.
            save_dir: folder of the checkpoints; with "" nothing is saved.
            save_to_disk: whether this process writes; by default only the main one does.
            keep: number of periodic checkpoints (`model_0004999.pth`) to keep; 0 keeps all. Others, such as
                `model_best.pth` and `model_final.pth`, are always kept.
            description: metadata stored in every file under the key "segzoo": version, task, dataset,
                classes, colors, isthing, ignore_label, label_map, image_format, pixel_mean, pixel_std.
            trust: execute pickled code in the files that are loaded.
            **checkpointables: objects with `state_dict` and `load_state_dict`, by their key in the file.
        """
        super().__init__(
            model,
            save_dir,
            save_to_disk=comm.is_main_process() if save_to_disk is None else save_to_disk,
            **checkpointables,
        )
        self.path_manager = PathManager
        self.keep = keep
        self.description = dict(description or {})
        self.trust = trust
        self.report: LoadReport | None = None

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `<name>.pth` and, unless the name ends with `_best`, tag it as the last checkpoint.

        Args:
            name: file name without extension.
            **kwargs: further content: `iteration`, ...

        Raises:
            InputError: some content could not be read back without executing code, the disk is full, the
                folder cannot be written, ...; existing files are left unchanged.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        folder = Path(self.save_dir)
        file = folder / f"{name}.pth"
        content = {"model": self.model.state_dict(), "segzoo": self.description}
        content |= {key: item.state_dict() for key, item in self.checkpointables.items()}
        logger.info("Saving checkpoint to %s", file)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_stale(folder)
            save_checkpoint(file, content | kwargs)
            # A run resumes from the latest weights, not from the best ones so far.
            if not name.endswith("_best"):
                self.tag_last_checkpoint(file.name)
                self._remove_old(folder, file.name)
        except OSError as error:
            reason = cannot_write(file, error, size_in_memory(content))
            last = last_checkpoint(folder)
            left = f"--resume continues from {last}" if last else "there is no earlier checkpoint"
            raise InputError(f"{reason}; {left}") from None

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write the name of the newest checkpoint to `last_checkpoint`, atomically."""
        content = last_filename_basename.encode()
        write_atomically(Path(self.save_dir) / _LAST, lambda stream: stream.write(content))

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a checkpoint, official or segzoo's own.

        Args:
            path: path or URL; "" loads nothing.
            checkpointables: keys to load beside the model; None means all, and the model must then fit fully.

        Returns:
            The file's content beside the model and the checkpointables: `{"iteration": 4999, ...}`.
        """
        if not path:
            logger.info("No MODEL.WEIGHTS: the model keeps its random initial values")
            return {}
        return self._apply(open_checkpoint(path, self.trust), str(path), checkpointables)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Resume from the last checkpoint in `save_dir`, or load only the weights at `path`.

        If the last checkpoint is damaged, a warning is logged and the newest readable one is taken.

        Raises:
            InputError: no checkpoint in the folder can be read, or processes see different ones.
        """
        resume = resume and bool(self.save_dir)
        tagged = resume and self.has_checkpoint()
        file = self._newest_readable() if tagged else None
        seen = comm.all_gather(file.path.name if file else "")
        if len(set(seen)) > 1:
            raise InputError(
                f"--resume: processes see different checkpoints in {self.save_dir} ({', '.join(set(seen))}); "
                "OUTPUT_DIR must be a folder that all machines share"
            )
        if file:
            logger.info("Resuming from %s", file.path)
            try:
                return self._apply(file, str(file.path), None)
            except NonFiniteWeightsError as error:
                raise InputError(f"--resume: {error}; delete {file.path.name} and --resume does so") from None
        if tagged:
            raise InputError(
                f"--resume: no checkpoint in {self.save_dir} can be read; "
                "start again with --overwrite, which moves the folder, or with another OUTPUT_DIR"
            )
        if resume:
            start = f"starting from MODEL.WEIGHTS {path}" if path else "starting from random weights"
            logger.info("--resume: no %s in %s; %s", _LAST, self.save_dir, start)
        return self.load(path, checkpointables=[])

    def has_checkpoint(self) -> bool:
        """Return whether there is a checkpoint to resume from, with or without a `last_checkpoint` file."""
        if not self.save_dir:
            return False
        return super().has_checkpoint() or any(_by_age(Path(self.save_dir), periodic_only=False))

    def get_checkpoint_file(self) -> str:
        """Return the path of the last checkpoint in `save_dir`, without reading it; "" if there is none."""
        name = last_checkpoint(self.save_dir) if self.save_dir else ""
        return str(Path(self.save_dir, name)) if name else ""

    def _newest_readable(self) -> CheckpointFile | None:
        """Return the tagged checkpoint or, if it is damaged, the newest one that can be read."""
        folder = Path(self.save_dir)
        candidates = _by_age(folder, periodic_only=False)[::-1]
        name = _tagged_name(folder)
        if name:
            candidates = [folder / name, *(file for file in candidates if file != folder / name)]
        elif super().has_checkpoint():
            logger.warning("--resume: %s does not name a file; taking the newest checkpoint", folder / _LAST)
        for candidate in candidates:
            try:
                return read_checkpoint(candidate, self.trust, verify=True)
            except DamagedFileError as error:
                problem = str(error)
            except OSError as error:
                problem = f"{candidate} cannot be read: {error.strerror}"
            logger.warning("--resume: %s; trying the checkpoint before it", problem)
        return None

    def _apply(self, file: CheckpointFile, name: str, checkpointables: list[str] | None) -> dict[str, Any]:
        resuming = checkpointables is None
        if resuming:
            for state in map(file.rest.get, self.checkpointables):
                if isinstance(state, Mapping) and isinstance(state.get("optimizer"), Mapping):
                    check_finite_optimizer(state["optimizer"], name)
        try:
            self.report = load_state(self.model, file, name=name, allow_other_classes=not resuming)
        except CheckpointMismatchError as error:
            self.report = error.report
            raise
        self.report.log()
        self.report.compare(self.description)
        if self.report.complete and self.report.differences:
            logger.warning(
                "%s was trained for another config than this one (%s)",
                name,
                "; ".join(self.report.differences),
            )
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key in file.rest:
                self._restore(key, file.rest.pop(key), name)
            else:
                logger.warning("%s holds no %s; it starts anew", name, key)
        return file.rest

    def _restore(self, key: str, state: Any, name: str) -> None:
        try:
            self.checkpointables[key].load_state_dict(state)
        except InputError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = " ".join(f"{type(error).__name__} {error}".split())
            raise InputError(
                f"{name}: its {key} state does not fit ({reason}); another program may have written it; "
                f"start from its weights, without --resume: MODEL.WEIGHTS {name}, and another OUTPUT_DIR"
            ) from error

    def _remove_old(self, folder: Path, newest: str) -> None:
        if self.keep > 0:
            for file in _by_age(folder, periodic_only=True)[: -self.keep]:
                if file.name != newest:
                    file.unlink(missing_ok=True)


def last_checkpoint(folder: str | Path) -> str:
    """Return the file name of a folder's last checkpoint; "" if the folder holds none.

    Without a usable `last_checkpoint` file it is the newest one: a job may end between writing the two.
    """
    files = _by_age(Path(folder), periodic_only=False)
    return _tagged_name(Path(folder)) or (files[-1].name if files else "")


def _tagged_name(folder: Path) -> str:
    """Return the name in `last_checkpoint`; "" if that file is absent or does not hold a file name."""
    try:
        name = (folder / _LAST).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return name if name.isprintable() else ""


def _by_age(folder: Path, *, periodic_only: bool) -> list[Path]:
    """Return the checkpoints that trainings have left in a folder, the newest last.

    They are sorted by time: by number, those of an earlier, longer training would be the newest.
    """

    def age(file: Path) -> tuple[int, bool, str]:
        # At equal times model_final.pth is the last, and numbers of seven digits sort as strings.
        return file.stat().st_mtime_ns, file.name == _OTHERS[0], file.name

    files = [file for file in folder.glob("*.pth") if _PERIODIC.match(file.name)]
    if not periodic_only:
        files += [file for name in _OTHERS if (file := folder / name).is_file()]
    return sorted(files, key=age)
