"""Copying code and configuration into a job's folder, so that later edits do not change a pending job."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from segzoo.config.bases import read_with_bases
from segzoo.utils.commands import SOURCE_TREE, is_source_tree
from segzoo.utils.errors import InputError
from segzoo.utils.paths import user_path

# The source tree, or the folder in which the package is installed.
ROOT = SOURCE_TREE

# An untracked file is copied if it is code or configuration, and small.
SUFFIXES = {".py", ".yaml", ".yml", ".json", ".toml", ".cfg", ".txt", ".sh"}
MAX_BYTES_TRACKED = 10 * 2**20
MAX_BYTES_UNTRACKED = 2**20
# Folders to skip without git, besides hidden ones.
NO_CODE = {"output", "build", "dist", "__pycache__"}
# Folder for configuration from outside the code.
SUBMITTED = "submitted"


def take_snapshot(target: Path, root: Path = ROOT) -> tuple[int, str]:
    """Copy the code into `target`: tracked files, and untracked ones that are neither ignored nor big.

    For an installed package, copy the files of the package.

    Returns:
        The number of files, and the commit ("" without git; with a "+" if files differ from it).
    """
    commit = _git(root, "rev-parse", "HEAD").strip()
    if commit and Path(_git(root, "rev-parse", "--show-toplevel").strip()) == root:
        tracked = _git(root, "ls-files", "-z").split("\0")
        untracked = _git(root, "ls-files", "-z", "--others", "--exclude-standard").split("\0")
        commit += "+" if _git(root, "status", "--porcelain").strip() else ""
    else:
        package = root if is_source_tree(root) else root / "segzoo"
        commit, tracked, untracked = "", [], [str(path.relative_to(root)) for path in _walk(package)]
    files = [name for name in tracked if _fits(root / name, MAX_BYTES_TRACKED)]
    files += [name for name in tracked if _is_inner_link(root / name, root)]
    files += [
        name
        for name in untracked
        if Path(name).suffix in SUFFIXES
        and _fits(root / name, MAX_BYTES_UNTRACKED)
        and not _in_job_folder(root, Path(name))
    ]
    for name in files:
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        # Links to folders of the code stay links, as segzoo/projects is one.
        shutil.copy2(root / name, copy, follow_symlinks=not _is_inner_link(root / name, root))
    return len(files), commit


def frozen_config(snapshot: Path, config: Path, root: Path = ROOT) -> str:
    """Return the path of a configuration in the snapshot; copy one from outside the code with its bases."""
    file = config.resolve()
    if file.is_relative_to(root) and (snapshot / file.relative_to(root)).is_file():
        return str(snapshot / file.relative_to(root))
    text = yaml.safe_dump(_plain(read_with_bases(config)))
    return str(_write_unique(snapshot / SUBMITTED / file.name, text))


def frozen_datasets(snapshot: Path, files: Sequence[str]) -> tuple[str, ...]:
    """Copy the files of DATASETS.FILES and return their paths; they find their data as the originals do."""
    paths = map(user_path, files)
    return tuple(_frozen_dataset(snapshot, path) if path.is_file() else str(path) for path in paths)


def _frozen_dataset(snapshot: Path, file: Path) -> str:
    content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    if not isinstance(content, dict):
        raise InputError(f"{file}: not a dataset file; expected a mapping of keys")
    layouts = content.get("layouts")
    for entry in [content, *(layouts if isinstance(layouts, list) else ())]:
        if entry is content or "root" in entry:
            roots = entry.get("root", ".")
            roots = [roots] if isinstance(roots, str) else list(roots)
            # First beside the original or the target of its link; then, as usual, in the folder of datasets.
            beside = dict.fromkeys((file.absolute().parent, file.resolve().parent))
            entry["root"] = [*(str(folder / user_path(root)) for root in roots for folder in beside), *roots]
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return str(_write_unique(snapshot / SUBMITTED / file.name, text))


def _write_unique(path: Path, text: str) -> Path:
    """Write to `path`, or to a numbered name beside it if that has another text; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, candidate = 1, path
    while candidate.exists() and candidate.read_text(encoding="utf-8") != text:
        number += 1
        candidate = path.with_name(f"{path.stem}_{number}{path.suffix}")
    candidate.write_text(text, encoding="utf-8")
    return candidate


def _plain(node: object) -> object:
    """Convert tuples to text, which yacs reads as tuples; YAML has lists only."""
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    return str(node) if isinstance(node, tuple) else node


def _git(root: Path, *arguments: str) -> str:
    """Return the output of git; "" without git or a repository."""
    try:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def _walk(root: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if not name.startswith(".") and name not in NO_CODE]
        for name in (*files, *names):
            if name in files or _is_inner_link(Path(folder, name), root):
                yield Path(folder, name)


def _fits(file: Path, limit: int) -> bool:
    return file.is_file() and file.stat().st_size <= limit


def _is_inner_link(path: Path, root: Path) -> bool:
    """Return whether a path is a link to a folder of the same code."""
    return path.is_symlink() and path.is_dir() and path.resolve().is_relative_to(root.resolve())


def _in_job_folder(root: Path, name: Path) -> bool:
    """Return whether a file belongs to this or an earlier job, in a folder that git does not ignore."""
    return any((root / parent / "job.json").is_file() for parent in name.parents)
