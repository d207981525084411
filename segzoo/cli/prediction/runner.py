"""Predicting images, videos and cameras one after the other, and drawing the results."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from tqdm import tqdm

from segzoo.engine.predictor import Predictor
from segzoo.engine.predictor_inputs import as_rgb
from segzoo.evaluation.prediction_io import save_ids, save_labels
from segzoo.utils.errors import InputError
from segzoo.utils.files import write_text
from segzoo.visualization.draw import Tracks, default_threshold, draw_result, segments, semantic_labels

from ..weights_option import weights_in
from .asked_task import asked_task
from .inputs import check_targets, find_inputs, name_results
from .outputs import VideoFile, write_image
from .window import show, why_no_window


class Drawer:
    """A runner that predicts inputs, draws the results, writes or shows them, and collects failures."""

    def __init__(
        self,
        predictor: Predictor,
        task: str,
        classes: Sequence[str],
        colors: Sequence[tuple[int, int, int]],
        threshold: float,
        output: Path | None,
        labels: bool,
        inputs: Sequence[Path] = (),
    ):
        self.predictor = predictor
        self.classes = classes
        self.colors = colors
        self.task = task
        # Labels, since scores of 150 classes at full size are 150 maps.
        self.options = {"tasks": (task,), "semantic": "labels"}
        self.threshold = threshold
        self.output = output
        self.save_labels = labels
        self.inputs = inputs  # must not be overwritten
        self.failures: list[str] = []
        self._annotations: list[dict] = []
        self._written = 0

    def draw(self, rgb: np.ndarray, result: dict, tracks: Tracks | None = None) -> np.ndarray:
        """Return the (H, W, 3) uint8 visualization of a result."""
        return draw_result(rgb, result, self.task, self.classes, self.colors, self.threshold, tracks)

    def run_images(self, paths: Sequence[Path], names: Sequence[str]) -> None:
        """Draw all images that can be read; a failure concerns one image only."""
        size = self.predictor.batch_size
        sources = list(zip(paths, names, strict=True))
        with tqdm(total=len(paths), desc="images", unit="image", disable=not paths) as progress:
            for start in range(0, len(sources), size):
                for name, rgb, result in self._predict(sources[start : start + size]):
                    try:
                        self._write_or_show(name, rgb, result)
                    except InputError as error:
                        self.failures.append(str(error))
                progress.update(min(size, len(sources) - start))

    def _predict(self, sources: Sequence[tuple[Path, str]]) -> Iterator[tuple[str, np.ndarray, dict]]:
        """Yield name, image and result of the sources that can be read and fit into memory."""
        readable: list[tuple[Path, str, np.ndarray]] = []
        for path, name in sources:
            try:
                readable.append((path, name, as_rgb(path, image_range=self.predictor.image_range)))
            except InputError as error:
                self.failures.append(str(error))
        results = self._results([rgb for _, _, rgb in readable])
        for (path, name, rgb), result in zip(readable, results, strict=True):
            if result is None:
                height, width = rgb.shape[:2]
                self.failures.append(f"{path}: {width}x{height} needs more memory than is free; resize it")
            else:
                yield name, rgb, result

    def _results(self, images: list[np.ndarray]) -> list[dict | None]:
        """Return the predictions; None for an image that does not fit into memory by itself."""
        try:
            return self.predictor(images, color="RGB", **self.options)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
        if len(images) == 1:
            return [None]
        return [result for one in images for result in self._results([one])]

    def _write_or_show(self, name: str, rgb: np.ndarray, result: dict) -> None:
        drawn = self.draw(rgb, result)
        if self.output is None:
            show(drawn, wait=0)
        else:
            write_image(self.output / f"{name}.jpg", drawn, self.inputs)
            self._written += 1
        if self.save_labels:
            self._write_labels(name, result)

    def run_video(self, source: str | int, name: str) -> None:
        """Draw the frames of a file, an address or a camera, given by its number.

        Raises:
            InputError: there is no such camera.
        """
        capture = _open_capture(source)
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        rate = capture.get(cv2.CAP_PROP_FPS) or 25.0

        def frames() -> Iterator[np.ndarray]:
            while True:
                more, frame = capture.read()
                if not more:
                    return
                yield frame

        video, tracks, done, stopped = None, Tracks(), 0, False
        try:
            for rgb, result in tqdm(
                self.predictor.stream(frames(), color="BGR", **self.options),
                desc=name,
                total=count if count > 0 else None,
                unit="frame",
            ):
                drawn = self.draw(rgb, result, tracks)
                if self.output is None:
                    if show(drawn, wait=1) == ord("q"):
                        stopped = True
                        break
                else:
                    video = video or VideoFile(self.output / f"{name}.mp4", rate, drawn.shape)
                    video.write(drawn)
                if self.save_labels:
                    self._write_labels(f"{name}_{done:06d}", result)
                done += 1
        except KeyboardInterrupt:  # the way to end a camera or a long video; what is written so far is kept
            stopped = True
            print(f"\nstopped after {done} frames", file=sys.stderr)
        finally:
            capture.release()
            if video is not None:
                self._close(video)
        if not done:
            self.failures.append(f"{source}: cannot be read as a video")
        elif not stopped and done < count - 2:  # containers may count a frame or two more than there are
            self.failures.append(f"{source}: read {done} of {count} frames")

    def _close(self, video: VideoFile) -> None:
        problem = video.close()
        if problem is not None:
            self.failures.append(problem)
            return
        self._written += 1
        if video.is_larger:
            width, height = video.size
            print(f"{video.path}: {width}x{height}, last row or column duplicated; MPEG-4 needs even sides")

    def finish(self) -> int:
        """Write the panoptic JSON and print failures; return the exit status."""
        if self._annotations:
            text = json.dumps({"annotations": self._annotations})
            write_text(self.output / "labels" / f"{self.task}.json", text)
        if self._written:
            print(f"Results are in {self.output}")
        for failure in self.failures:
            print(f"error: {failure}", file=sys.stderr)
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


def _open_capture(source: str | int) -> cv2.VideoCapture:
    """Open a video or a camera.

    Raises:
        InputError: there is no such camera.
    """
    # Silences OpenCV and FFmpeg: the errors below and in `run_video` are enough.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    # OpenCV 5 has moved the function.
    set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
    before = set_log_level(0)
    try:
        capture = cv2.VideoCapture(source)
    finally:
        set_log_level(before)
    if isinstance(source, int) and not capture.isOpened():
        raise InputError(
            f"--webcam: no camera found (number {source}); give another number, or a file with --video-input"
        )
    return capture


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "allocate memory" in str(error)


def draw_predictions(arguments: argparse.Namespace, cfg: CfgNode) -> int:
    """Predict and draw all inputs; return the exit status.

    Args:
        cfg: the complete configuration of the model; changed.
    """
    task = asked_task(arguments.task, cfg)
    images, videos, failures = find_inputs(arguments.input) if arguments.input else ([], [], [])
    if arguments.video_input:
        videos = [Path(arguments.video_input)]
        if "://" not in arguments.video_input and not videos[0].exists():
            raise InputError(f"--video-input {arguments.video_input}: no such file")
    names = name_results(images, videos)
    output = arguments.output
    if output is None and arguments.save_labels:
        raise InputError("--save-labels needs --output")
    if output is None and (reason := why_no_window()):
        raise InputError(f"no window can be opened here ({reason}); give --output DIR")
    if arguments.webcam is not None:
        _open_capture(arguments.webcam).release()  # raises before the model is built
    if output is not None:
        if output.is_file():
            raise InputError(f"--output {output} is a file; give a folder")
        results = [output / f"{name}.jpg" for name in names[: len(images)]]
        results += [output / f"{name}.mp4" for name in names[len(images) :]]
        check_targets([*images, *videos], results, output / "labels" if arguments.save_labels else None)
        output.mkdir(parents=True, exist_ok=True)
        for source, name in zip([*images, *videos], names, strict=True):
            if name != source.stem:
                print(f"{source} is written as {name}, as the name {source.stem} is taken")

    given = weights_in(arguments.opts)
    if arguments.random_weights and given:
        raise InputError(f"--random-weights and the weights {given} contradict each other; give one of them")
    if arguments.random_weights:  # also instead of the weights that a training starts from
        cfg.MODEL.WEIGHTS = ""
    elif not cfg.MODEL.WEIGHTS:
        raise InputError("MODEL.WEIGHTS is empty; give a checkpoint: --weights FILE")
    if arguments.save_labels and task == "instance":
        raise InputError("--save-labels: instances may overlap, so there is no label map of them")
    cfg.TEST.TASKS = (task,)
    predictor = Predictor(cfg, trust=arguments.trust_checkpoint)
    metadata = predictor.metadata
    # An instance segmentation model has the thing classes only.
    classes, colors = (
        (metadata.thing_classes, metadata.thing_colors)
        if cfg.TASK == "instance"
        else (metadata.classes, metadata.colors)
    )
    drawer = Drawer(
        predictor,
        task,
        classes,
        colors,
        default_threshold(task) if arguments.confidence_threshold is None else arguments.confidence_threshold,
        output,
        arguments.save_labels,
        [*images, *videos],
    )
    drawer.failures += failures
    try:
        drawer.run_images(images, names[: len(images)])
        for video, name in zip(videos, names[len(images) :], strict=True):
            # Path collapses the slashes of an address.
            drawer.run_video(arguments.video_input or str(video), name)
        if arguments.webcam is not None:
            drawer.run_video(arguments.webcam, "webcam")
    finally:  # the results so far stay usable
        status = drawer.finish()
    return status
