"""Which pictures and videos are meant, what their results are called, and that none is written over."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from segzoo.utils.errors import InputError
from segzoo.utils.paths import is_same_file, user_path

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


def find_inputs(patterns: Sequence[str]) -> tuple[list[Path], list[Path], list[str]]:
    """Expands files, folders and globs.

    Returns:
        Pictures and videos, each once, in the order given; those of a folder or glob by name; and a line for
        each name beside others that is neither, or of nothing.
    Raises:
        InputError: there is neither a picture nor a video.
    """
    failures: list[str] = []
    found: dict[Path, None] = {}
    for pattern in patterns:
        try:
            found.update(dict.fromkeys(_matches(pattern)))
        except InputError as error:
            failures.append(str(error))
    if not found:
        raise InputError(failures[0])
    videos = [path for path in found if path.suffix.lower() in VIDEOS]
    return [path for path in found if path not in videos], videos, failures


def _matches(pattern: str) -> list[Path]:
    kinds = PICTURES + VIDEOS
    path = user_path(pattern)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
        matches = [file for file in files if file.suffix.lower() in kinds]
        if not matches:
            raise InputError(f"--input {pattern}: the folder holds no images ({' '.join(PICTURES)})")
        return matches
    if path.is_file():
        if path.suffix.lower() not in kinds:
            raise InputError(f"--input {path}: unknown kind of file; expected {' '.join(kinds)}")
        return [path]
    files = [file for file in map(Path, sorted(glob.glob(str(path), recursive=True))) if file.is_file()]
    if not files:
        raise InputError(f"--input {pattern}: no such file or folder")
    matches = [file for file in files if file.suffix.lower() in kinds]
    if not matches:
        raise InputError(f"--input {pattern}: matches no images ({' '.join(kinds)})")
    if len(matches) < len(files):
        print(f"--input {pattern}: skipped {len(files) - len(matches)} files of other kinds")
    return matches


def name_results(pictures: Sequence[Path], videos: Sequence[Path] = ()) -> list[str]:
    """A name for each source's result: its stem, numbered where a stem was there before, in any case.

    The label maps of a video's frames are called <name>_000000, which no picture is then.
    """
    names, taken = [], set()
    for index, source in enumerate([*pictures, *videos]):
        name, number = source.stem, 2
        while name.casefold() in taken or (index >= len(pictures) and _has_frames(name, taken)):
            name, number = f"{source.stem}_{number}", number + 1
        taken.add(name.casefold())
        names.append(name)
    return names


def _has_frames(name: str, taken: set[str]) -> bool:
    frame = re.compile(rf"{re.escape(name.casefold())}_\d{{6,}}")
    return any(map(frame.fullmatch, taken))


def check_targets(sources: Sequence[Path], targets: Sequence[Path], labels: Path | None) -> None:
    """Raises InputError if a result would be written over an input, under whatever name."""
    existing = [target for target in targets if target.exists()]
    for source in filter(Path.is_file, sources):
        lost = any(is_same_file(target, source) for target in existing)
        in_labels = labels is not None and source.suffix.lower() == ".png"
        if lost or (in_labels and is_same_file(source.parent, labels)):
            raise InputError(
                f"--output: {source} is an input and would be overwritten; give another --output"
            )
