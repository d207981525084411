#!/usr/bin/env python
"""Draws a model's predictions on pictures and videos.

    python tools/demo.py --config-file configs/panoptic/coco/maskformer_r50.yaml \\
        --input a.jpg folder/ 'more/*.png' clip.mp4 --output out/ MODEL.WEIGHTS model.pth

Pictures keep their names, as JPEG; a video becomes an .mp4 of the same rate. What is drawn follows the
model's task; `--task` picks another one that the network can answer.
"""

import argparse
import glob
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

import segzoo  # noqa: F401  before Detectron2: makes the installed library versions work together

# isort: split
from command_line import CommandLine, explained, name_or_path, path_value, share, whole_number

from segzoo.engine.draw import Tracks, draw_result, segments, semantic_labels
from segzoo.engine.picture_inputs import as_rgb
from segzoo.engine.predictor import Predictor
from segzoo.errors import InputError
from segzoo.evaluation.files import save_ids, save_labels, write_text_atomically
from segzoo.model_zoo import load_config

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
WINDOW = "segzoo"
EXIT_STATUS = "exit status: 0 done, 1 some of the inputs could not be read or drawn, 2 wrong input"
TASKS = ("semantic", "panoptic", "entity", "instance")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = CommandLine(
        description=__doc__, epilog=EXIT_STATUS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_config(required=True)
    parser.add_data()
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input",
        type=name_or_path,
        nargs="+",
        action="extend",
        metavar="PATH",
        help="pictures, folders, globs, video files",
    )
    source.add_argument(
        "--video-input", type=name_or_path, metavar="FILE", help="a video file, or an address OpenCV can open"
    )
    source.add_argument(
        "--webcam",
        type=whole_number(0),
        nargs="?",
        const=0,
        metavar="NUMBER",
        help="a camera (the first one is 0, the default), until q is pressed",
    )
    parser.add_argument(
        "--output", type=path_value, metavar="DIR", help="folder for results; without it they are shown"
    )
    parser.add_argument("--task", choices=TASKS, help="what to draw; default: the model's task")
    parser.add_argument(
        "--confidence-threshold",
        type=share,
        default=0.5,
        help="segments of a lower score are not drawn (0.5)",
    )
    parser.add_argument(
        "--save-labels", action="store_true", help="write label maps and ids as PNG and JSON to DIR/labels"
    )
    parser.add_argument(
        "--random-weights", action="store_true", help="run without MODEL.WEIGHTS, to try the tool only"
    )
    parser.add_trust()
    parser.add_overrides(data_is_overrides=True)
    return parser.parse_args(arguments)


def find_inputs(patterns: Sequence[str]) -> tuple[list[Path], list[Path], list[str]]:
    """Expands files, folders and globs.

    Returns:
        Pictures and videos, each once, in the order given; those of a folder or glob by name; and a line for
        each file named beside others that is neither, as a shell's `*` names them.
    Raises:
        InputError: a name matches nothing, or there is neither a picture nor a video.
    """
    kinds = PICTURES + VIDEOS
    failures: list[str] = []
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            matches = sorted(file for file in path.iterdir() if file.suffix.lower() in kinds)
            if not matches:
                raise InputError(f"--input {pattern}: the folder holds no pictures ({' '.join(PICTURES)})")
        elif path.is_file():
            matches = [path]
            if path.suffix.lower() not in kinds:
                failures.append(f"--input {path}: unknown kind of file; expected {' '.join(kinds)}")
                matches = []
        else:
            files = [
                file for file in map(Path, sorted(glob.glob(str(path), recursive=True))) if file.is_file()
            ]
            if not files:
                raise InputError(f"--input {pattern}: no such file or folder")
            matches = [file for file in files if file.suffix.lower() in kinds]
            if not matches:
                raise InputError(f"--input {pattern}: matches no pictures ({' '.join(kinds)})")
            if len(matches) < len(files):
                print(f"--input {pattern}: skipped {len(files) - len(matches)} files of other kinds")
        found.update(dict.fromkeys(matches))
    if failures and not found:
        raise InputError(failures[0])
    videos = [path for path in found if path.suffix.lower() in VIDEOS]
    return [path for path in found if path not in videos], videos, failures


def name_results(sources: Sequence[Path]) -> list[str]:
    """A name for each source's result: its stem, numbered where a stem was there before, in any case."""
    names, taken = [], set()
    for source in sources:
        name, number = source.stem, 2
        while name.casefold() in taken:
            name, number = f"{source.stem}_{number}", number + 1
        taken.add(name.casefold())
        names.append(name)
    return names


def check_targets(sources: Sequence[Path], targets: Sequence[Path], labels: Path | None) -> None:
    """Raises InputError if a result would be written over an input, under whatever name."""
    existing = [target.resolve() for target in targets if target.exists()]
    for source in filter(Path.is_file, sources):
        lost = any(target.samefile(source) for target in existing)
        in_labels = labels is not None and source.suffix.lower() == ".png"
        if lost or (in_labels and source.resolve().parent == labels.resolve()):
            raise InputError(
                f"--output: {source} is an input and would be overwritten; give another --output"
            )


class Demo:
    """Predicts, draws, and writes or shows; counts what could not be read."""

    def __init__(
        self,
        predictor: Predictor,
        task: str,
        classes: Sequence[str],
        colors: Sequence[tuple[int, int, int]],
        threshold: float,
        output: Path | None,
        labels: bool,
    ):
        self.predictor = predictor
        self.classes = classes
        self.colors = colors
        self.task = task
        self.threshold = threshold
        self.output = output
        self.save_labels = labels
        self.failures: list[str] = []
        self._annotations: list[dict] = []
        self._written = False

    def draw(self, rgb: np.ndarray, result: dict, tracks: Tracks | None = None) -> np.ndarray:
        return draw_result(rgb, result, self.task, self.classes, self.colors, self.threshold, tracks)

    def run_pictures(self, paths: Sequence[Path], names: Sequence[str]) -> None:
        readable: list[str] = []

        def pictures() -> Iterator[np.ndarray]:
            for path, name in zip(paths, names, strict=True):
                try:
                    picture = as_rgb(path, image_range=self.predictor.image_range)
                except InputError as error:
                    self.failures.append(str(error))
                    progress.update()
                    continue
                readable.append(name)
                yield picture

        with tqdm(total=len(paths), desc="pictures", unit="picture", disable=not paths) as progress:
            for index, (rgb, result) in enumerate(self.predictor.stream(pictures(), color="RGB")):
                name = readable[index]
                drawn = self.draw(rgb, result)
                if self.output is None:
                    _show(drawn, wait=0)
                else:
                    _write_picture(self.output / f"{name}.jpg", drawn)
                    self._written = True
                if self.save_labels:
                    self._write_labels(name, result)
                progress.update()

    def run_video(self, source: str | int, name: str) -> None:
        """A file, an address or the number of a camera."""
        capture = cv2.VideoCapture(source)
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        rate = capture.get(cv2.CAP_PROP_FPS) or 25.0

        def frames() -> Iterator[np.ndarray]:
            while True:
                more, frame = capture.read()
                if not more:
                    return
                yield frame

        writer, tracks, done, stopped = None, Tracks(), 0, False
        try:
            for rgb, result in tqdm(
                self.predictor.stream(frames(), color="BGR"),
                desc=name,
                total=count if count > 0 else None,
                unit="frame",
            ):
                drawn = self.draw(rgb, result, tracks)
                if self.output is None:
                    if _show(drawn, wait=1) == ord("q"):
                        stopped = True
                        break
                else:
                    writer = writer or _open_video(self.output / f"{name}.mp4", rate, drawn.shape)
                    writer.write(drawn[..., ::-1])
                    self._written = True
                if self.save_labels:
                    self._write_labels(f"{name}_{done:06d}", result)
                done += 1
        except KeyboardInterrupt:  # the way to end a camera or a long video; what is written so far is kept
            stopped = True
            print(f"\nstopped after {done} frames", file=sys.stderr)
        finally:
            capture.release()
            if writer is not None:
                writer.release()
        if not done:
            self.failures.append(f"{source}: cannot be read as a video")
        elif not stopped and done < count - 2:  # containers may count a frame or two more than there are
            self.failures.append(f"{source}: read {done} of {count} frames")

    def finish(self) -> int:
        """Writes the panoptic JSON and reports; returns the exit status."""
        if self._annotations:
            text = json.dumps({"annotations": self._annotations})
            write_text_atomically(self.output / "labels" / f"{self.task}.json", text)
        for failure in self.failures:
            print(f"error: {failure}", file=sys.stderr)
        if self._written:
            print(f"Results are in {self.output}")
        return 1 if self.failures else 0

    def _write_labels(self, name: str, result: dict) -> None:
        folder = self.output / "labels"
        if self.task == "semantic":
            labels = semantic_labels(result)
            # 255 is the ignore label of 8-bit maps: a class of that number needs 16 bits.
            wide = len(self.predictor.metadata.classes) > 255
            save_labels(folder / f"{name}.png", labels.astype(np.uint16 if wide else np.uint8))
            return
        ids, segments_info = segments(result, self.task, self.threshold)
        save_ids(folder / f"{name}.png", ids)
        to_dataset_id = self.predictor.metadata.contiguous_id_to_dataset_id
        areas = np.bincount(ids.ravel(), minlength=1)
        described = []
        for info in segments_info:
            entry = {"id": int(info["id"]), "area": int(areas[info["id"]]), "iscrowd": 0}
            if self.task == "panoptic":
                entry["category_id"] = to_dataset_id[info["category_id"]]
            if info.get("score") is not None:
                entry["score"] = float(info["score"])
            described.append(entry)
        self._annotations.append({"image_id": name, "file_name": f"{name}.png", "segments_info": described})


def _show(rgb: np.ndarray, wait: int) -> int:
    cv2.imshow(WINDOW, rgb[..., ::-1])
    return cv2.waitKey(wait)


def _can_show() -> bool:
    try:
        cv2.namedWindow(WINDOW)
        cv2.destroyWindow(WINDOW)
    except cv2.error:
        return False
    return True


def _write_picture(path: Path, rgb: np.ndarray) -> None:
    if not cv2.imwrite(str(path), rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95]):
        raise InputError(f"--output: {path} cannot be written")


def _open_video(path: Path, rate: float, shape: tuple[int, ...]) -> cv2.VideoWriter:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate, (shape[1], shape[0]))
    if not writer.isOpened():
        raise InputError(f"--output: {path} cannot be written as MPEG-4; this OpenCV may lack the encoder")
    return writer


def run(arguments: argparse.Namespace) -> int:
    pictures, videos, failures = find_inputs(arguments.input) if arguments.input else ([], [], [])
    if arguments.video_input:
        videos = [Path(arguments.video_input)]
    names = name_results([*pictures, *videos])
    output = arguments.output
    if output is None and arguments.save_labels:
        raise InputError("--save-labels needs --output")
    if output is None and not _can_show():
        raise InputError(
            "no window can be opened here (this OpenCV or machine has no display); give --output DIR"
        )
    if output is not None:
        if output.is_file():
            raise InputError(f"--output {output} is a file; give a folder")
        results = [output / f"{name}.jpg" for name in names[: len(pictures)]]
        results += [output / f"{name}.mp4" for name in names[len(pictures) :]]
        check_targets([*pictures, *videos], results, output / "labels" if arguments.save_labels else None)
        output.mkdir(parents=True, exist_ok=True)

    cfg = load_config(arguments.config_file, arguments.opts)
    if not cfg.MODEL.WEIGHTS and not arguments.random_weights:
        raise InputError("MODEL.WEIGHTS is empty; give a checkpoint: MODEL.WEIGHTS FILE")
    task = arguments.task or cfg.TASK
    if cfg.TASK in ("entity", "instance") and task != cfg.TASK:
        raise InputError(f"--task {task}: this model was trained for {cfg.TASK} segmentation only")
    if arguments.save_labels and task == "instance":
        raise InputError("--save-labels: instances may overlap, so there is no label map of them")
    cfg.TEST.TASKS = (task,)
    predictor = Predictor(cfg, trust=arguments.trust_checkpoint)
    if hasattr(predictor.model, "sem_seg_output"):
        predictor.model.sem_seg_output = "labels"  # scores of 150 classes at full size are 150 pictures
    metadata = predictor.metadata
    # A model trained on instances knows the things only.
    classes, colors = (
        (metadata.thing_classes, metadata.thing_colors)
        if cfg.TASK == "instance"
        else (metadata.classes, metadata.colors)
    )
    demo = Demo(
        predictor, task, classes, colors, arguments.confidence_threshold, output, arguments.save_labels
    )
    demo.failures += failures
    try:
        demo.run_pictures(pictures, names[: len(pictures)])
        for video, name in zip(videos, names[len(pictures) :], strict=True):
            # A Path would take a slash out of an address.
            demo.run_video(arguments.video_input or str(video), name)
        if arguments.webcam is not None:
            demo.run_video(arguments.webcam, "webcam")
    finally:  # what is done stays usable, whatever stopped the rest
        status = demo.finish()
    return status


@explained
def main(arguments: Sequence[str] | None = None) -> int:
    return run(parse_arguments(arguments))


if __name__ == "__main__":
    sys.exit(main())
