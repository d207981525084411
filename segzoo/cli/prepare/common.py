"""Parts shared by preparations: finding a dataset, writing files atomically, counting images.

A file is written under another name and renamed, and a folder gets its name when it is complete. So an
interrupted preparation can be started again, keeps finished files, and never leaves incomplete ones where
they would be read.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import loadmat

from segzoo.cli.parallel import map_files
from segzoo.data import read_dataset_file
from segzoo.data.dataset_file import DatasetFile
from segzoo.data.label_reader import LabelReader
from segzoo.data.layouts import FoundLayout, find_layout
from segzoo.data.register import load_split
from segzoo.utils.commands import command_line
from segzoo.utils.errors import InputError
from segzoo.utils.files import atomic_path
from segzoo.utils.paths import datasets_folder
from segzoo.utils.text_files import read_text

# Writes the file of a job, or raises InputError.
Convert = Callable[[Any, Path], None]


def find_root(dataset: str, given: str | Path | None, needs: str, remedy: str) -> Path:
    """Return the folder of a dataset that holds the file or folder `needs`.

    Args:
        dataset: name of its YAML, which lists its possible folders.
        given: folder that the user has given, or None.
        remedy: how to get what is needed.

    Raises:
        InputError: there is none.
    """
    roots = [root for layout in read_dataset_file(dataset).layouts for root in layout.roots]
    candidates = [Path(given)] if given else [datasets_folder() / root for root in dict.fromkeys(roots)]
    for candidate in candidates:
        if (candidate / needs).exists():
            return candidate
    guide = command_line("prepare", dataset, "--help")
    raise InputError(
        f"no {needs} in {' or '.join(map(str, candidates))}; {remedy}, or give --root; `{guide}` shows where "
        "to get it"
    )


def read_lines(file: Path, remedy: str) -> list[str]:
    """Return the non-empty lines of a text file, stripped."""
    try:
        lines = read_text(file).split("\n")
    except OSError:
        raise InputError(f"{file}: does not exist; {remedy}") from None
    return [line.strip() for line in lines if line.strip()]


def read_mat(file: Path, key: str) -> np.ndarray:
    """Return a variable of a Matlab file of version 7 or older as an array, of objects for structures.

    Raises:
        InputError: not such a file, or it has no such variable.
    """
    try:
        return loadmat(file, struct_as_record=False)[key]
    # Damaged files make the parser raise almost anything.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{file}: has no readable {key} ({reason}); unpack the archive again") from None


def save_labels(labels: np.ndarray, target: Path, palette: Sequence[Sequence[int]] | None = None) -> None:
    """Write (H, W) uint8 labels as a PNG, with a palette of colors if given."""
    image = Image.fromarray(labels)
    if palette is not None:
        image.putpalette([part for color in palette for part in color])
    # Not durable: there are thousands, and one that a power cut loses is written again.
    with atomic_path(target, durable=False) as file:
        image.save(file, format="PNG")


def save_lines(lines: Sequence[str], target: Path) -> None:
    """Write a text file."""
    with atomic_path(target) as file:
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def convert_files(jobs: Mapping[Path, Any], convert: Convert, workers: int, title: str) -> list[str]:
    """Write missing files in several processes; print and return why some cannot be written.

    Args:
        jobs: {file to write: what `convert` makes it from}.
        workers: number of processes.
        title: title of the progress bar.
    """
    todo = [(job, target) for target, job in jobs.items() if not target.exists()]
    one = partial(_convert_one, convert=convert)
    problems = [text for text in map_files(one, todo, workers, title, unit="file", chunk=16) if text]
    for problem in problems:
        print(problem, file=sys.stderr)
    return problems


def _convert_one(task: tuple[Any, Path], convert: Convert) -> str | None:
    try:
        convert(*task)
    except InputError as error:
        return str(error)
    return None


def fill_folder(folder: Path, jobs: Mapping[str, Any], convert: Convert, workers: int, title: str) -> bool:
    """Write the files of a folder, which is renamed once it is complete; other files in it stay.

    Args:
        jobs: {file name: what `convert` makes it from}.

    Returns:
        Whether it is complete; if not, the messages say what to repair.
    """
    unfinished = folder.with_name(f"{folder.name}.partial")
    there = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    if jobs.keys() <= there:
        print(f"{title}: {folder} is complete")
        return True
    unfinished.mkdir(parents=True, exist_ok=True)
    for name in there:
        os.replace(folder / name, unfinished / name)
    if folder.is_dir():
        folder.rmdir()
    targets = {unfinished / name: job for name, job in jobs.items()}
    problems = convert_files(targets, convert, workers, title)
    if problems:
        print(f"{title}: stays in {unfinished} until these files are repaired", file=sys.stderr)
        return False
    for left_over in unfinished.glob(".*"):  # temporary files of a killed process
        left_over.unlink()
    os.replace(unfinished, folder)
    print(f"{title}: {len(jobs)} files in {folder}")
    return True


def at_root(dataset: DatasetFile, root: Path | str | None) -> DatasetFile:
    """Return the dataset with `root` as its only root folder, or unchanged for None."""
    if root is None:
        return dataset
    here = (str(Path(root).resolve()),)
    return replace(dataset, layouts=tuple(replace(layout, roots=here) for layout in dataset.layouts))


def check_splits(
    dataset: DatasetFile, skip: Sequence[str] = (), also: Mapping[str, int] | None = None
) -> tuple[dict[str, FoundLayout], bool]:
    """Print how many images each split has, and how many were published.

    Args:
        skip: splits to leave out.
        also: {split: a second published number of images}.

    Returns:
        {split: its files}, and whether all splits are there with a published number of images.
    """
    found, complete = {}, True
    for split in dataset.splits:
        if split in skip:
            continue
        try:
            found[split] = find_layout(dataset, split)
            # With a JSON, it lists the images.
            count = len(found[split].images or load_split(dataset, split))
        except InputError as error:
            print(error, file=sys.stderr)
            complete = False
            continue
        published = [counts[split] for counts in (dataset.image_counts, also or {}) if split in counts]
        text = f", published: {' or '.join(map(str, published))}" if published else ""
        print(f"{split}: {count} images{text}")
        complete &= not published or count in published
    return found, complete


def export_class_indices(
    dataset: DatasetFile, splits: Sequence[str], target: Callable[[str, str], Path], workers: int
) -> bool:
    """Write labels as segzoo reads them, class indices and 255 for void, for other projects.

    Args:
        splits: registered names.
        target: maps the paths of an image and of its label file to the file to write.

    Returns:
        Whether all were written.
    """
    complete = True
    for split in splits:
        found = find_layout(dataset, split)
        jobs = {
            target(image.path, image.labels[0]): {
                "file_name": image.path,
                "sem_seg_file_name": image.labels[0],
                "layout": found.index,
            }
            for image in found.images
        }
        problems = convert_files(jobs, partial(_export, reader=LabelReader(dataset, split)), workers, split)
        complete &= not problems
        print(f"{split}: {len(jobs) - len(problems)} label files such as {next(iter(jobs))}")
    return complete


def _export(record: Mapping[str, Any], target: Path, reader: LabelReader) -> None:
    save_labels(reader.load_sem_seg(record), target)
