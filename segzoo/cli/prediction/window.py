"""Showing images in a window, where one can be opened."""

import os
import re
import subprocess
import sys

import cv2
import numpy as np

WINDOW = "segzoo"


def why_no_window() -> str:
    """Return why no window can be opened here, or "" if one can.

    Qt ends the process if it finds no display, so a subprocess tries it.
    """
    gui = re.search(r"^\s*GUI:\s*(\w+)", cv2.getBuildInformation(), re.MULTILINE)
    if gui and gui[1].upper() == "NONE":
        return "this OpenCV is built without windows, as opencv-python-headless is"
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return "this machine or session has no display"
    program = f"import cv2; cv2.namedWindow({WINDOW!r}); cv2.destroyAllWindows()"
    try:
        tried = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "the display does not answer"
    return "" if tried.returncode == 0 else "the display cannot be reached, or this OpenCV does not fit it"


def show(rgb: np.ndarray, wait: int) -> int:
    """Show an (H, W, 3) uint8 image; return the key pressed within `wait` ms (0: no limit)."""
    cv2.imshow(WINDOW, rgb[..., ::-1])
    return cv2.waitKey(wait)
