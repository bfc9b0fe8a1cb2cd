"""Face detection with OpenCV's Haar cascade (Viola and Jones 2001), whose file comes in OpenCV's wheel."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
from cv2.data import haarcascades

SIDE = 256  # px of a picture's longer side when it is searched

# Scale factor between the sizes that are searched, and overlapping detections that make a face. Measured on the frames
# of the demo: a face is found in all of them, and in none of them upside down (with 1.05 and 3: in 47 %).
_SCALE_FACTOR, _MIN_NEIGHBORS = 1.1, 6

_of_thread = threading.local()


def resize_for_detection(gray: np.ndarray) -> np.ndarray:
    """Scale a gray picture u8 [H, W] so that its longer side has SIDE px."""
    scale = SIDE / max(gray.shape)
    return cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def find_faces(gray: np.ndarray) -> np.ndarray:
    """Find the faces in a picture made by `fitted`. Returns x, y and side in px, largest face first, f64 [N, 3]."""
    detections = _detector().detectMultiScale(gray, _SCALE_FACTOR, _MIN_NEIGHBORS, minSize=(24, 24))
    boxes = np.array([box[:3] for box in detections], float).reshape(-1, 3)
    return boxes[np.argsort(-boxes[:, 2], kind="stable")]


def _detector() -> cv2.CascadeClassifier:
    """The detector of this thread, because a detector keeps its picture in itself."""
    if not hasattr(_of_thread, "detector"):
        _of_thread.detector = cv2.CascadeClassifier(str(Path(haarcascades) / "haarcascade_frontalface_alt2.xml"))
    return _of_thread.detector
