"""The landmarks of a portrait: keypoints, head rotation and person mask, from any detector or from a file.

The picture has H x W pixels, whose centers lie at +0.5. World axes are those of the body: x to the picture's right,
y up, z towards the camera.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from stereotalker.errors import UserError
from stereotalker.media.photos import read_mask, read_photo
from stereotalker.smplx_layout import SIDES

# Numbers of keypoints, in the order of MediaPipe.
FACE_POINTS, POSE_POINTS, HAND_POINTS = 478, 33, 21
# Face points on the outline of the face.
FACE_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
# Face points without the oval, which slides over the head when it turns, and without the irises.
FACE_INNER = np.setdiff1d(np.arange(468), FACE_OVAL)
IRIS = {"right": slice(468, 473), "left": slice(473, 478)}
CHIN, FOREHEAD = 152, 10
# Visibility of a pose point below which it is not used.
MIN_VISIBILITY = 0.5
# Row of each pose point.
POSE = {
    name: k
    for k, name in enumerate((
        "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer",
        "left_ear", "right_ear", "mouth_left", "mouth_right", "left_shoulder", "right_shoulder", "left_elbow",
        "right_elbow", "left_wrist", "right_wrist", "left_pinky", "right_pinky", "left_index", "right_index",
        "left_thumb", "right_thumb", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
        "left_heel", "right_heel", "left_foot_index", "right_foot_index",
    ))
}  # fmt: skip


@dataclass(frozen=True)
class Landmarks:
    """The landmarks of one picture. What was not found is None, or has no entry in its dictionary."""

    size: tuple[int, int]  # (height, width) px
    faces: int  # how many were found; `face` and `head` are those of the largest
    face: np.ndarray | None  # f32 [478, 2] px
    head: np.ndarray | None  # f32 [3, 3] rotation of the head in world axes, from the detector's own neutral head
    people: int  # how many were found
    pose: np.ndarray | None  # f32 [33, 2] px
    visible: np.ndarray | None  # f32 [33] visibility of the pose points in 0..1
    pose_world: np.ndarray | None  # f32 [33, 3] m from the middle of the hips
    hands: dict[str, np.ndarray]  # side -> f32 [21, 2] px
    hands_world: dict[str, np.ndarray]  # side -> f32 [21, 3] m
    person: np.ndarray  # f32 [H, W] probability that a pixel shows a person

    @property
    def face_height(self) -> float:
        """Distance from the chin to the upper edge of the forehead, px. A face must have been found."""
        assert self.face is not None
        return float(np.linalg.norm(self.face[CHIN] - self.face[FOREHEAD]))

    @property
    def shoulder_width(self) -> float:
        """Distance between the shoulders, px; three face heights if no pose was found."""
        if self.pose is None:
            return 3 * self.face_height
        return float(np.linalg.norm(np.subtract(*self.pose[[POSE["left_shoulder"], POSE["right_shoulder"]]])))

    def is_visible(self, name: str) -> bool:
        """Whether a pose point, a key of POSE, was found and is visible enough to be used."""
        return self.visible is not None and bool(self.visible[POSE[name]] >= MIN_VISIBILITY)


class Detector(Protocol):
    """Finds the landmarks of pictures. A context manager, because detectors hold native resources."""

    name: str  # with the version, as the avatar's card shows it

    def __call__(self, picture: np.ndarray) -> Landmarks:
        """Detect the landmarks of a picture u8 [H, W, 3] sRGB."""
        ...

    def __enter__(self) -> Detector: ...

    def __exit__(self, *_) -> None: ...


# Shapes of the arrays that a key point file may hold beside hands.
_SHAPES = {
    "face": (FACE_POINTS, 2), "head": (3, 3), "pose": (POSE_POINTS, 2), "visible": (POSE_POINTS,),
    "pose_world": (POSE_POINTS, 3),
}  # fmt: skip


class KeypointFile:
    """A detector that reads landmarks from a JSON file.

    The file has the fields of `Landmarks` without size, faces and people, in pixels of the portrait's file. `person` is
    the path of a mask picture, relative to the JSON file's folder.
    """

    def __init__(self, path: Path, portrait: Path):
        self.path, self.portrait, self.name = path, portrait, f"file {path.name}"

    def files(self) -> list[Path]:
        """The files that the landmarks are read from, for a store key."""
        try:
            mask = str(json.loads(self.path.read_text(encoding="utf-8"))["person"])
        except (OSError, ValueError, KeyError, TypeError):
            return [self.path]
        return [self.path, self.path.parent / mask]

    def __enter__(self) -> KeypointFile:
        return self

    def __exit__(self, *_) -> None:
        pass

    def __call__(self, picture: np.ndarray) -> Landmarks:
        """Read the landmarks, scaled to a picture u8 [H, W, 3] that shows the portrait. Raises UserError."""
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path}: expected a JSON file of key points: {error}") from None
        allowed = {field.name for field in fields(Landmarks)} - {"size", "faces", "people"}
        if not isinstance(values, dict) or set(values) - allowed or not {"face", "person"} <= set(values):
            raise UserError(
                f"{self.path}: expected a mapping with face and person,"
                f" and of the rest some of {', '.join(sorted(allowed))}"
            )
        arrays = {
            name: None if values.get(name) is None else self._array(name, values[name], shape)
            for name, shape in _SHAPES.items()
        }
        hands, hands_world = (
            self._sides(name, values.get(name) or {}, n) for name, n in (("hands", 2), ("hands_world", 3))
        )
        has_pose = arrays["pose"] is not None
        needs_pose = bool(hands) or arrays["pose_world"] is not None
        if has_pose != (arrays["visible"] is not None) or needs_pose and not has_pose:
            raise UserError(f"{self.path}: pose and visible go together, and hands and pose_world need them")
        if not set(hands_world) <= set(hands):
            raise UserError(f"{self.path}: hands_world names a side that hands does not")
        size, full_size = picture.shape[:2], read_photo(self.portrait).shape[:2]
        mask = read_mask(self.path.parent / str(values["person"]), full_size)
        person = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_AREA)
        scale = np.float32(size[0] / full_size[0])  # the picture may be smaller than the portrait's file
        arrays |= {
            name: array * scale for name, array in arrays.items() if name in ("face", "pose") and array is not None
        }
        hands = {side: points * scale for side, points in hands.items()}
        return Landmarks(size=size, faces=1, people=1, hands=hands, hands_world=hands_world, person=person, **arrays)

    def _sides(self, name: str, value, coordinates: int) -> dict[str, np.ndarray]:
        """Check a field with hands: side -> f32 [21, coordinates]."""
        if not isinstance(value, dict) or not set(value) <= set(SIDES) or None in value.values():
            raise UserError(
                f"{self.path}: {name}: expected a mapping of left, right or both to points;"
                " leave out what was not found"
            )
        return {
            side: self._array(f"{name}.{side}", points, (HAND_POINTS, coordinates)) for side, points in value.items()
        }

    def _array(self, name: str, value, shape: tuple[int, ...]) -> np.ndarray:
        """Check a field with numbers: f32 of a shape."""
        try:
            array = np.asarray(value, np.float32)
        except (TypeError, ValueError):
            array = np.zeros(0, np.float32)
        if array.shape != shape or not np.isfinite(array).all():
            raise UserError(f"{self.path}: {name}: expected numbers {list(shape)}, got {list(array.shape)}")
        return array
