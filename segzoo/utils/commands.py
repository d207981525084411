"""Command lines shown in messages, such as the one to resume with."""

import os
import shlex
import shutil
import sys
from pathlib import Path

SOURCE_TREE = Path(__file__).resolve().parents[2]
# Subcommands of `segzoo` that a source tree also has as scripts, under the names of Detectron2 and of earlier
# versions: the script and the options that it needs.
SCRIPTS: dict[str, tuple[str, ...]] = {
    "train": ("tools/train_net.py",),
    "evaluate": ("tools/train_net.py", "--eval-only"),
    "predict": ("tools/demo.py",),
    "submit": ("tools/submit.py",),
    "check-data": ("tools/check_dataset.py",),
    "visualize-data": ("tools/visualize_data.py",),
    "convert-data panoptic": ("tools/make_panoptic.py",),
    "export": ("tools/export_model.py",),
    "convert-checkpoint": ("tools/convert_checkpoint.py",),
    "analyze": ("tools/analyze_model.py",),
    "replay": ("tools/replay.py",),
    "doctor": ("tools/doctor.py",),
}


def command_line(name: str, *words: str | Path) -> str:
    """Return the line that runs a subcommand of `segzoo`, as the user of this process would type it.

    It is `python tools/...` if this process runs a script of a source tree and the subcommand has one, else
    `segzoo ...`.
    """
    script, *options = SCRIPTS.get(name, ("",))
    if script and is_started_by_script():
        return shell_command(_as_typed(SOURCE_TREE / script), *options, *words)
    return f"{program()} {shlex.join([*name.split(), *map(str, words)])}"


def _as_typed(script: Path) -> Path:
    """Return the path of a script as the user, who typed that of another script, would type it."""
    folder = Path(sys.argv[0]).parent
    if folder.resolve() == script.parent:
        return folder / script.name
    return Path(os.path.relpath(script)) if Path.cwd() == SOURCE_TREE else script


def program() -> str:
    """Return `segzoo` or `python -m segzoo`, as the user of this process types it."""
    as_module = Path(sys.argv[0]) == Path(__file__).parents[1] / "__main__.py"
    if as_module or (is_started_by_script() and not _finds_segzoo()):
        return f"{python()} -m segzoo"
    return "segzoo"


def is_source_tree(root: Path = SOURCE_TREE) -> bool:
    """Return whether the folder that holds the package is a source tree and not an installation."""
    return (root / "pyproject.toml").is_file()


def is_started_by_script() -> bool:
    """Return whether this process runs a script in tools/ or datasets/ of the source tree."""
    folders = (SOURCE_TREE / "tools", SOURCE_TREE / "datasets")
    return sys.argv[0].endswith(".py") and Path(sys.argv[0]).resolve().parent in folders


def _finds_segzoo() -> bool:
    """Return whether a shell finds the `segzoo` command of the running Python."""
    found = shutil.which("segzoo")
    return found is not None and os.path.samefile(Path(found).parent, Path(sys.executable).parent)


def shell_command(script: str | Path, *words: str | Path) -> str:
    """Return the line that runs a script with the running Python."""
    return shlex.join([python(), str(script), *map(str, words)])


def python() -> str:
    """Return `python` if a shell finds the running Python under that name, else its path."""
    found = shutil.which("python")
    if not found:
        return sys.executable
    # Environments may link to the same interpreter, but have separate folders of packages.
    files, folders = (found, sys.executable), (Path(found).parent, Path(sys.executable).parent)
    return "python" if os.path.samefile(*files) and os.path.samefile(*folders) else sys.executable
