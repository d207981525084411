"""Finding the images and videos to predict, and naming the results so that no input is overwritten."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from segzoo.utils.errors import InputError
from segzoo.utils.paths import is_same_file, user_path

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


def find_inputs(patterns: Sequence[str]) -> tuple[list[Path], list[Path], list[str]]:
    """Expand files, folders and globs.

    Returns:
        Images and videos, each once, in the order given, those of a folder or glob by name; and a message for
        each pattern that matches neither.

    Raises:
        InputError: there is neither an image nor a video.
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
    suffixes = IMAGES + VIDEOS
    path = user_path(pattern)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
        matches = [file for file in files if file.suffix.lower() in suffixes]
        if not matches:
            raise InputError(f"--input {pattern}: the folder holds no images ({' '.join(IMAGES)})")
        return matches
    if path.is_file():
        if path.suffix.lower() not in suffixes:
            raise InputError(f"--input {path}: unknown file format; expected {' '.join(suffixes)}")
        return [path]
    files = [file for file in map(Path, sorted(glob.glob(str(path), recursive=True))) if file.is_file()]
    if not files:
        raise InputError(f"--input {pattern}: no such file or folder")
    matches = [file for file in files if file.suffix.lower() in suffixes]
    if not matches:
        raise InputError(f"--input {pattern}: matches no images ({' '.join(suffixes)})")
    if len(matches) < len(files):
        print(f"--input {pattern}: skipped {len(files) - len(matches)} files of other formats")
    return matches


def name_results(images: Sequence[Path], videos: Sequence[Path] = ()) -> list[str]:
    """Return a name for each source's result: its stem, numbered where it is taken, regardless of case.

    The label maps of a video's frames are called <name>_000000, so that must not be the name of an image.
    """
    names, taken = [], set()
    for index, source in enumerate([*images, *videos]):
        name, number = source.stem, 2
        while name.casefold() in taken or (index >= len(images) and _has_frames(name, taken)):
            name, number = f"{source.stem}_{number}", number + 1
        taken.add(name.casefold())
        names.append(name)
    return names


def _has_frames(name: str, taken: set[str]) -> bool:
    frame = re.compile(rf"{re.escape(name.casefold())}_\d{{6,}}")
    return any(map(frame.fullmatch, taken))


def check_targets(sources: Sequence[Path], targets: Sequence[Path], labels: Path | None) -> None:
    """Raise InputError if a result would overwrite an input, under whatever name."""
    existing = [target for target in targets if target.exists()]
    for source in filter(Path.is_file, sources):
        is_target = any(is_same_file(target, source) for target in existing)
        in_labels = labels is not None and source.suffix.lower() == ".png"
        if is_target or (in_labels and is_same_file(source.parent, labels)):
            raise InputError(
                f"--output: {source} is an input and would be overwritten; give another --output"
            )
