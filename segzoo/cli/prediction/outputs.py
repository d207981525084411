"""Writing visualizations: images as JPEG, or as PNG beyond JPEG's limit of size, and videos as MPEG-4.

Shape shorthand: H, W pixels.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from segzoo.utils.errors import InputError
from segzoo.utils.files import write_atomically
from segzoo.utils.paths import is_same_file

# The longest side that libjpeg accepts.
LARGEST_JPEG = 65500


def write_image(path: Path, rgb: np.ndarray, inputs: Sequence[Path] = ()) -> Path:
    """Write an (H, W, 3) uint8 image to `path` as JPEG, or as a PNG of that name if it is too large.

    Args:
        inputs: files that must not be overwritten.

    Returns:
        The path that was written.

    Raises:
        InputError: it cannot be encoded.
        OSError: it cannot be written; then no part of it is left.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, 95]
    if max(rgb.shape[:2]) > LARGEST_JPEG:
        path, options = path.with_suffix(".png"), []
        if any(is_same_file(path, one) for one in inputs):
            path = path.with_name(f"{path.stem}_drawn.png")
    try:
        succeeded, encoded = cv2.imencode(path.suffix, rgb[..., ::-1], options)
    except cv2.error as error:
        raise InputError(f"{path}: cannot be encoded ({' '.join(error.err.split())})") from None
    if not succeeded:
        raise InputError(f"{path}: cannot be encoded at {rgb.shape[1]}x{rgb.shape[0]}; resize the image")
    write_atomically(path, lambda stream: stream.write(encoded.tobytes()), durable=False)
    return path


class VideoFile:
    """An .mp4 with the size of its first frame, rounded up to even sides, which the encoder needs."""

    def __init__(self, path: Path, rate: float, shape: tuple[int, ...]):
        """
        Args:
            shape: (H, W, 3), that of a frame.

        Raises:
            InputError: this OpenCV cannot write one there.
        """
        self.path = path
        self.frames = 0
        height, width = shape[:2]
        self._border = (0, height % 2, 0, width % 2)
        self.size = (width + width % 2, height + height % 2)
        self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate, self.size)
        if not self._writer.isOpened():
            raise InputError(
                f"--output: {path} cannot be written as MPEG-4; this OpenCV may lack the encoder"
            )

    @property
    def is_larger(self) -> bool:
        """Return whether the last row or column of a frame is duplicated."""
        return any(self._border)

    def write(self, rgb: np.ndarray) -> None:
        """Append an (H, W, 3) uint8 frame."""
        frame = rgb[..., ::-1]
        if self.is_larger:
            frame = cv2.copyMakeBorder(frame, *self._border, cv2.BORDER_REPLICATE)
        self._writer.write(np.ascontiguousarray(frame))
        self.frames += 1

    def close(self) -> str | None:
        """Finish the file; return what is wrong with it, since the encoder reports no errors."""
        self._writer.release()
        capture = cv2.VideoCapture(str(self.path))
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if count >= self.frames - 2:
            return None
        return f"{self.path}: holds {count} of {self.frames} frames; is the disk full?"
