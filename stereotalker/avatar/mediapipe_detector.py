"""MediaPipe's tasks as our detector: the only file that imports mediapipe, which comes with the extra [photo].

Model files (Google, Apache-2.0) are read from a folder, or fetched on request and accepted only with the SHA-256 written here.
"""

from __future__ import annotations

import hashlib
import os
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from stereotalker.avatar.landmarks import POSE, VISIBLE, Landmarks
from stereotalker.errors import UserError
from stereotalker.smplx_layout import SIDES
from stereotalker.store.digests import file_digest
from stereotalker.store.files import write_atomic

_SOURCE = "https://storage.googleapis.com/mediapipe-models"
# name -> (path at the source, SHA-256 that is accepted; more than one where others pack the same weights)
FILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "face_landmarker.task": (
        "face_landmarker/face_landmarker/float16/1",
        ("64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",),
    ),
    "selfie_segmenter.tflite": (
        "image_segmenter/selfie_segmenter/float16/1",
        ("191ac9529ae506ee0beefa6b2c945a172dab9d07d1e802a290a4e4038226658b",),
    ),
    "pose_landmarker_lite.task": (
        "pose_landmarker/pose_landmarker_lite/float16/1",
        (
            "59929e1d1ee95287735ddd833b19cf4ac46d29bc7afddbbf6753c459690d574a",
            "b95325a3286e7721f1d19f4f2d7a5f1ab662a598972669ff4c37e7052eb18572",
        ),
    ),
    "hand_landmarker.task": (
        "hand_landmarker/hand_landmarker/float16/1",
        ("fbc2a30080c3c557093b5ddfc334698132eb341044ccee322ccf8bcf3607cde1",),
    ),
    "hand_landmarker_lite.task": ("", ("e635571d01e2ca2908a011b7be5c9135f6830989f6cf419f46a4eae44481920f",)),
}
_HANDS = ("hand_landmarker.task", "hand_landmarker_lite.task")  # either will do
TELEMETRY = "MediaPipe's wheel sends usage metrics to Google and has no switch against it; it works without a network"
# Shares of the shoulders' width.
_APART, _SAME_HAND, _FROM_WRIST, _HAND_CROP = (
    0.6,
    0.08,
    0.35,
    0.4,
)  # people; two finds of one hand; hand from its wrist; half a crop's side
_SURE = 0.3  # detection confidence


def detector_version() -> str:
    """Of the installed MediaPipe. Raises UserError that says how to get it."""
    try:
        return f"mediapipe {version('mediapipe')}"
    except PackageNotFoundError as error:
        raise _unusable(error) from None


def _unusable(error: Exception) -> UserError:
    return UserError(
        f"portraits need the extra [photo] (pip install 'stereotalker[photo]') and the system libraries libEGL and libGLESv2: {error}."
        f" Know: {TELEMETRY}"
    )


def copy_from(source: Path, folder: Path) -> list[Path]:
    """Take the model files of another folder. Raises UserError where they are not all there with a known SHA-256."""
    good = [
        name
        for name, (_, accepted) in FILES.items()
        if (source / name).is_file() and file_digest(source / name) in accepted
    ]
    if lacking := [name for name in FILES if name not in good and (name not in _HANDS or not set(_HANDS) & set(good))]:
        raise UserError(f"{source} does not hold {', '.join(lacking)} with a known SHA-256")
    folder.mkdir(parents=True, exist_ok=True)
    for name in good:
        write_atomic(folder / name, (source / name).read_bytes())
    return [folder / name for name in good]


def model_digests(folder: Path) -> list[str]:
    """SHA-256 of the files that would be used."""
    return [file_digest(folder / name) for name in FILES if (folder / name).is_file()]


def fetch(folder: Path) -> list[Path]:
    """Download the model files that are missing into `folder`. Raises UserError for a file that is not what was promised."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name in _missing(folder):
        path, accepted = FILES[name]
        url = f"{_SOURCE}/{path}/{name}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                content = answer.read()
        except OSError as error:
            raise UserError(f"{url} cannot be fetched: {error}; fetch it elsewhere and put it into {folder}") from None
        if hashlib.sha256(content).hexdigest() not in accepted:
            raise UserError(
                f"{url}: SHA-256 {hashlib.sha256(content).hexdigest()} is not the expected {accepted[0]}; nothing was written"
            )
        write_atomic(folder / name, content)
        made.append(folder / name)
    return made


def _missing(folder: Path) -> list[str]:
    hands = next((name for name in _HANDS if (folder / name).is_file()), _HANDS[0])
    return [name for name in FILES if not (folder / name).is_file() and (name == hands or name not in _HANDS)]


def check_usable(folder: Path) -> None:
    """That package and model files are there, without loading them. Raises UserError that says how to get them."""
    detector_version()
    if missing := _missing(folder):
        raise UserError(
            f"the detector's model files {', '.join(missing)} are not in {folder}; `stereotalker avatar detector` fetches them"
            " (or set avatar.detectors in params.yaml to a folder that holds them, or give --landmarks FILE.json to `stereotalker avatar add`)"
        )


class MediaPipe:
    """Face 478 with head pose, body 33, hands 2 x 21, person mask. 0.1 s a picture on two cores."""

    def __init__(self, folder: Path):
        make, self._image = _tools(folder)
        hands = next(name for name in _HANDS if (folder / name).is_file())
        self.name = detector_version()
        self._face = make(
            "FaceLandmarker",
            "face_landmarker.task",
            output_facial_transformation_matrixes=True,
            num_faces=4,
            min_face_detection_confidence=_SURE,
        )
        self._pose = make(
            "PoseLandmarker", "pose_landmarker_lite.task", num_poses=4, min_pose_detection_confidence=_SURE
        )
        self._hand = make(
            "HandLandmarker",
            hands,
            num_hands=4,
            min_hand_detection_confidence=_SURE,
            min_hand_presence_confidence=_SURE,
        )
        self._person = make("ImageSegmenter", "selfie_segmenter.tflite", output_confidence_masks=True)

    def __enter__(self) -> MediaPipe:
        return self

    def __exit__(self, *_) -> None:
        """Before the interpreter ends: the tasks' own destructors come too late then."""
        with _quiet():
            for task in (self._face, self._pose, self._hand, self._person):
                task.close()

    def __call__(self, picture: np.ndarray) -> Landmarks:
        """u8 [H, W, 3] sRGB -> Landmarks."""
        with _quiet():
            return self._look(picture)

    def _look(self, picture: np.ndarray) -> Landmarks:
        H, W = picture.shape[:2]
        square = _square(picture)
        image, side = self._image(square), len(square)
        faces, poses = self._face.detect(image), self._pose.detect(image)
        person = np.squeeze(self._person.segment(image).confidence_masks[0].numpy_view())[:H, :W].copy()
        best = max(
            range(len(faces.face_landmarks)),
            key=lambda k: np.ptp(_points(faces.face_landmarks[k], side)[:, 0]),
            default=None,
        )
        face = head = pose = visible = world = None
        if best is not None:
            face = _points(faces.face_landmarks[best], side)
            head = np.asarray(faces.facial_transformation_matrixes[best], np.float32)[:3, :3]
            head = head / np.cbrt(np.linalg.det(head))
        if poses.pose_landmarks:

            def nose(k):
                return (
                    np.linalg.norm(_points(poses.pose_landmarks[k], side)[POSE["nose"]] - face.mean(0))
                    if face is not None
                    else k
                )

            mine = min(range(len(poses.pose_landmarks)), key=nose)
            pose, world = _points(poses.pose_landmarks[mine], side), _world(poses.pose_world_landmarks[mine])
            visible = np.array([p.visibility for p in poses.pose_landmarks[mine]], np.float32)
        middles = [
            _points(p, side)[[POSE["left_shoulder"], POSE["right_shoulder"]]].mean(0) for p in poses.pose_landmarks
        ]
        people = (
            0
            if pose is None
            else 1
            + sum(
                np.linalg.norm(m - middles[mine])
                > _APART * np.linalg.norm(np.subtract(*pose[[POSE["left_shoulder"], POSE["right_shoulder"]]]))
                for m in middles
            )
        )
        hands, hands_world = self._hands(square, pose, visible)
        return Landmarks(
            size=(H, W), faces=len(faces.face_landmarks), face=face, head=head, people=people, pose=pose,
            visible=visible, pose_world=world, hands=hands, hands_world=hands_world, person=person.astype(np.float32),
        )  # fmt: skip

    def _hands(self, square: np.ndarray, pose: np.ndarray | None, visible: np.ndarray | None) -> tuple[dict, dict]:
        """Hands in the whole picture, then around wrists that have none yet. Sides by the nearest wrist: the detector's own are often wrong."""
        hands: dict[str, np.ndarray] = {}
        world: dict[str, np.ndarray] = {}
        if pose is None:
            return hands, world
        wrists = {side: pose[POSE[f"{side}_wrist"]] for side in SIDES}
        shoulders = float(np.linalg.norm(np.subtract(*pose[[POSE["left_shoulder"], POSE["right_shoulder"]]])))

        def assign(found, offset: np.ndarray, side_px: int, wanted: list[str]) -> None:
            candidates = [
                (np.linalg.norm(points[0] - wrists[side]), side, k, points)
                for k in range(len(found.hand_landmarks)) for points in [_points(found.hand_landmarks[k], side_px) + offset] for side in wanted
            ]  # fmt: skip
            taken: set[int] = set()
            for distance, side, k, points in sorted(candidates, key=lambda c: c[0]):
                clash = any(
                    np.linalg.norm(points - other, axis=1).mean() < _SAME_HAND * shoulders for other in hands.values()
                )
                if side not in hands and k not in taken and distance < _FROM_WRIST * shoulders and not clash:
                    hands[side], world[side] = points, _world(found.hand_world_landmarks[k])
                    taken.add(k)

        assign(self._hand.detect(self._image(square)), np.zeros(2, np.float32), len(square), list(SIDES))
        for side in SIDES:
            if side in hands or visible[POSE[f"{side}_wrist"]] < VISIBLE:
                continue
            centre = pose[[POSE[f"{side}_{name}"] for name in ("wrist", "index", "pinky")]].mean(0)
            half = int(_HAND_CROP * shoulders)
            x, y = (int(np.clip(c - half, 0, max(len(square) - 2 * half, 0))) for c in centre)
            crop = square[y : y + 2 * half, x : x + 2 * half]
            if min(crop.shape[:2]) > 16:
                assign(
                    self._hand.detect(self._image(_square(crop))),
                    np.array([x, y], np.float32),
                    max(crop.shape[:2]),
                    [side],
                )
        return hands, world


class JawTracker:
    """MediaPipe's face landmarker on finished frames: whether it finds a face, and how far it says the jaw is open."""

    def __init__(self, folder: Path):
        make, self._image = _tools(folder)
        self._face = make("FaceLandmarker", "face_landmarker.task", output_face_blendshapes=True)

    def __enter__(self) -> JawTracker:
        return self

    def __exit__(self, *_) -> None:
        with _quiet():
            self._face.close()

    def jaw(self, frames: np.ndarray) -> np.ndarray:
        """u8 [T, H, W, 3] -> jawOpen in 0..1, nan where no face is found, f32 [T]."""
        out = np.full(len(frames), np.nan, np.float32)
        with _quiet():
            for t, frame in enumerate(frames):
                shapes = self._face.detect(self._image(_square(frame))).face_blendshapes
                if shapes:
                    out[t] = next(s.score for s in shapes[0] if s.category_name == "jawOpen")
        return out


def _tools(folder: Path) -> tuple[Callable, Callable]:
    """make(kind, model's file, **options) -> a task, and what wraps u8 [H, W, 3] for it. Raises UserError where package, files or libraries are not there."""
    check_usable(folder)
    for name in FILES:
        if (folder / name).is_file() and file_digest(folder / name) not in FILES[name][1]:
            raise UserError(
                f"{folder / name}: SHA-256 {file_digest(folder / name)} is none that is known for {name}; remove it and fetch it again"
            )
    try:
        import mediapipe
        from mediapipe.tasks.python import BaseOptions, vision
    except (ImportError, OSError) as error:
        raise _unusable(error) from None

    def make(kind: str, name: str, **options):
        base = BaseOptions(model_asset_path=str(folder / name))
        try:
            with _quiet():
                return getattr(vision, kind).create_from_options(
                    getattr(vision, kind + "Options")(base_options=base, **options)
                )
        except (OSError, RuntimeError) as error:  # its library is loaded only here
            raise _unusable(error) from None

    return make, lambda a: mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(a))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the dozens of lines that the tasks' C++ writes to the standard error whatever its log level."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _square(picture: np.ndarray) -> np.ndarray:
    """Padded to the right and below: the tasks project key points rightly for squares only."""
    H, W = picture.shape[:2]
    side = max(H, W)
    return picture if H == W else np.pad(picture, ((0, side - H), (0, side - W), (0, 0)), mode="edge")


def _points(landmarks, side: int) -> np.ndarray:
    return np.array([[p.x * side, p.y * side] for p in landmarks], np.float32)


def _world(landmarks) -> np.ndarray:
    """The detector's y points down and its z away from the camera."""
    return np.array([[p.x, -p.y, -p.z] for p in landmarks], np.float32)
