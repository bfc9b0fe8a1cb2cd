"""What a detector says of a portrait, whoever the detector is: key points, head pose, person mask.

H x W picture. Pixel centres lie at +0.5. World axes are the body's: x to the picture's right, y up, z towards the camera.
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

FACE_POINTS, POSE_POINTS, HAND_POINTS = 478, 33, 21  # as MediaPipe numbers them
FACE_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
FACE_INNER = np.setdiff1d(
    np.arange(468), FACE_OVAL
)  # without the oval, which slides with the head's turn, and without the irises
IRIS = {"right": slice(468, 473), "left": slice(473, 478)}
CHIN, FOREHEAD = 152, 10
VISIBLE = 0.5  # of a pose point, below which it is not used
POSE = {
    name: k
    for k, name in enumerate((
        "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer", "left_ear",
        "right_ear", "mouth_left", "mouth_right", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist",
        "right_wrist", "left_pinky", "right_pinky", "left_index", "right_index", "left_thumb", "right_thumb", "left_hip",
        "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "left_heel", "right_heel", "left_foot_index", "right_foot_index",
    ))
}  # fmt: skip


@dataclass(frozen=True)
class Landmarks:
    """Key points of one picture; of what was not found, None or an array without rows."""

    size: tuple[int, int]  # (height, width) px
    faces: int  # how many were found; everything else is of the largest
    face: np.ndarray | None  # f32 [478, 2] px
    head: np.ndarray | None  # f32 [3, 3] rotation of the head, world axes; its zero is the detector's own
    people: int
    pose: np.ndarray | None  # f32 [33, 2] px
    visible: np.ndarray | None  # f32 [33] in 0..1
    pose_world: np.ndarray | None  # f32 [33, 3] m from the hips' middle
    hands: dict[str, np.ndarray]  # side -> f32 [21, 2] px
    hands_world: dict[str, np.ndarray]  # side -> f32 [21, 3] m
    person: np.ndarray  # f32 [H, W] probability that a pixel shows a person

    @property
    def face_height(self) -> float:
        """From the chin to the upper edge of the forehead, px."""
        return float(np.linalg.norm(self.face[CHIN] - self.face[FOREHEAD]))

    @property
    def shoulder_width(self) -> float:
        """px; three face heights where no pose was found."""
        return (
            3 * self.face_height
            if self.pose is None
            else float(np.linalg.norm(np.subtract(*self.pose[[POSE["left_shoulder"], POSE["right_shoulder"]]])))
        )


class Detector(Protocol):
    """Whatever finds landmarks."""

    name: str  # with its version, for people

    def __call__(self, picture: np.ndarray) -> Landmarks:
        """u8 [H, W, 3] sRGB -> Landmarks."""
        ...

    def __enter__(self) -> Detector: ...

    def __exit__(self, *_) -> None: ...


_SHAPES = {
    "face": (FACE_POINTS, 2), "head": (3, 3), "pose": (POSE_POINTS, 2), "visible": (POSE_POINTS,),
    "pose_world": (POSE_POINTS, 3),
}  # fmt: skip


class KeyPointFile:
    """Landmarks from a JSON file with the fields of `Landmarks`, in pixels of the portrait's file; `person` is the path of a mask picture beside it."""

    def __init__(self, path: Path, portrait: Path):
        self.path, self.portrait, self.name = path, portrait, f"file {path.name}"

    def files(self) -> list[Path]:
        """All that it is read from."""
        try:
            mask = str(json.loads(self.path.read_text())["person"])
        except (OSError, ValueError, KeyError, TypeError):
            return [self.path]
        return [self.path, self.path.parent / mask]

    def __enter__(self) -> KeyPointFile:
        return self

    def __exit__(self, *_) -> None:
        pass

    def __call__(self, picture: np.ndarray) -> Landmarks:
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path}: expected a JSON file of key points: {error}") from None
        known = {field.name for field in fields(Landmarks)} - {"size", "faces", "people"}
        if not isinstance(found, dict) or set(found) - known or not {"face", "person"} <= set(found):
            raise UserError(
                f"{self.path}: expected a mapping with face and person, and of the rest some of {', '.join(sorted(known))}"
            )
        arrays = {name: self._array(name, found.get(name), shape) for name, shape in _SHAPES.items()}
        hands, hands_world = (
            self._sides(name, found.get(name) or {}, n) for name, n in (("hands", 2), ("hands_world", 3))
        )
        if (
            (arrays["pose"] is None) != (arrays["visible"] is None)
            or arrays["pose"] is None
            and (hands or arrays["pose_world"] is not None)
        ):
            raise UserError(f"{self.path}: pose and visible go together, and hands and pose_world need them")
        if not set(hands_world) <= set(hands):
            raise UserError(f"{self.path}: hands_world names a side that hands does not")
        size, full = picture.shape[:2], read_photo(self.portrait).shape[:2]
        person = cv2.resize(
            read_mask(self.path.parent / str(found["person"]), full), size[::-1], interpolation=cv2.INTER_AREA
        )
        scale = np.float32(size[0] / full[0])  # the portrait may have been scaled down
        arrays |= {name: arrays[name] * scale for name in ("face", "pose") if arrays[name] is not None}
        hands = {side: points * scale for side, points in hands.items()}
        return Landmarks(size=size, faces=1, people=1, hands=hands, hands_world=hands_world, person=person, **arrays)

    def _sides(self, name: str, value, coordinates: int) -> dict[str, np.ndarray]:
        if not isinstance(value, dict) or not set(value) <= set(SIDES) or None in value.values():
            raise UserError(
                f"{self.path}: {name}: expected a mapping of left, right or both to points; leave out what was not found"
            )
        return {
            side: self._array(f"{name}.{side}", points, (HAND_POINTS, coordinates)) for side, points in value.items()
        }

    def _array(self, name: str, value, shape: tuple[int, ...]) -> np.ndarray | None:
        if value is None:
            return None
        try:
            array = np.asarray(value, np.float32)
        except (TypeError, ValueError):
            array = np.zeros(0)
        if array.shape != shape or not np.isfinite(array).all():
            raise UserError(f"{self.path}: {name}: expected numbers {list(shape)}, got {list(array.shape)}")
        return array
