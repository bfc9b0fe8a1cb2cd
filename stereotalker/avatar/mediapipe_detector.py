"""The landmark detector, built on MediaPipe's tasks. No other file imports mediapipe, which the extra [photo] installs.

Model files (Google, Apache-2.0) are read from a folder, or downloaded on request. They are accepted only with a SHA-256
that is listed here.
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

from stereotalker.avatar.landmarks import MIN_VISIBILITY, POSE, Landmarks
from stereotalker.errors import UserError
from stereotalker.smplx_layout import SIDES
from stereotalker.store.digests import file_digest
from stereotalker.store.files import write_atomic

_SOURCE = "https://storage.googleapis.com/mediapipe-models"
# File name -> path at the source, and the accepted SHA-256 digests. There is more than one if the same weights are also
# distributed in another package.
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
# Hand models in the order of preference; one of them is enough.
HAND_MODELS = ("hand_landmarker.task", "hand_landmarker_lite.task")
TELEMETRY = "MediaPipe's wheel sends usage metrics to Google and has no switch against it; it works without a network"
# Distances as shares of the shoulder width.
# Two bodies whose shoulder centers are farther apart are two people.
_OTHER_PERSON = 0.6
# Two detections whose points are nearer on average are the same hand.
_SAME_HAND = 0.08
# Largest distance of a hand from the wrist of its arm.
_MAX_WRIST_DISTANCE = 0.35
# Half the side of the crop around a wrist in which its hand is searched for.
_HAND_CROP = 0.4
# Smallest confidence of a detection.
_MIN_CONFIDENCE = 0.3
# Shortest side of a crop in which a hand is searched for, px.
_MIN_CROP_PX = 16


def detector_version() -> str:
    """Name and version of the installed MediaPipe. Raises UserError, which says how to install it."""
    try:
        return f"mediapipe {version('mediapipe')}"
    except PackageNotFoundError as error:
        raise _unusable(error) from None


def _unusable(error: Exception) -> UserError:
    return UserError(
        "portraits need the extra [photo] (pip install 'stereotalker[photo]')"
        f" and the system libraries libEGL and libGLESv2: {error}. Note: {TELEMETRY}"
    )


def copy_from(source: Path, folder: Path) -> list[Path]:
    """Copy the model files from another folder, and return the copies.

    Raises UserError unless all files are there with an accepted SHA-256; one hand model is enough.
    """
    accepted_names = [
        name
        for name, (_, accepted) in FILES.items()
        if (source / name).is_file() and file_digest(source / name) in accepted
    ]
    has_hands = bool(set(HAND_MODELS) & set(accepted_names))
    missing = [name for name in FILES if name not in accepted_names and not (name in HAND_MODELS and has_hands)]
    if missing:
        raise UserError(f"{source} does not hold {', '.join(missing)} with a known SHA-256")
    folder.mkdir(parents=True, exist_ok=True)
    for name in accepted_names:
        write_atomic(folder / name, (source / name).read_bytes())
    return [folder / name for name in accepted_names]


def model_digests(folder: Path) -> list[str]:
    """SHA-256 digests of the model files in a folder, in the order of FILES, for a store key."""
    return [file_digest(folder / name) for name in FILES if (folder / name).is_file()]


def fetch(folder: Path) -> list[Path]:
    """Download the model files that are missing in `folder`, and return their paths.

    Raises UserError if a file cannot be downloaded or its SHA-256 is not accepted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in _missing(folder):
        path, accepted = FILES[name]
        url = f"{_SOURCE}/{path}/{name}"
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                content = response.read()
        except OSError as error:
            raise UserError(f"{url} cannot be fetched: {error}; fetch it elsewhere and put it into {folder}") from None
        digest = hashlib.sha256(content).hexdigest()
        if digest not in accepted:
            raise UserError(f"{url}: SHA-256 {digest} is not the expected {accepted[0]}; nothing was written")
        write_atomic(folder / name, content)
        paths.append(folder / name)
    return paths


def _missing(folder: Path) -> list[str]:
    """Names of the model files that a folder lacks; one hand model is enough."""
    hands = next((name for name in HAND_MODELS if (folder / name).is_file()), HAND_MODELS[0])
    return [name for name in FILES if not (folder / name).is_file() and (name == hands or name not in HAND_MODELS)]


def check_usable(folder: Path) -> None:
    """Raise UserError, which says what to do, if the package or model files are missing. Loads nothing."""
    detector_version()
    if missing := _missing(folder):
        raise UserError(
            f"the detector's model files {', '.join(missing)} are not in {folder};"
            " `stereotalker avatar detector` fetches them (or set avatar.detectors in params.yaml to a folder"
            " that holds them, or give --landmarks FILE.json to `stereotalker avatar add`)"
        )


class MediaPipe:
    """The detector that portraits are fitted with. It takes 0.1 s for a picture on two cores.

    It finds 478 face points with the head's rotation, 33 body points, 21 points for each hand, and the person mask.
    folder: where the model files are. Raises UserError if package, model files or system libraries are missing.
    """

    def __init__(self, folder: Path):
        make, self._image = load_mediapipe(folder)
        hands = next(name for name in HAND_MODELS if (folder / name).is_file())
        self.name = detector_version()
        self._face = make(
            "FaceLandmarker",
            "face_landmarker.task",
            output_facial_transformation_matrixes=True,
            num_faces=4,
            min_face_detection_confidence=_MIN_CONFIDENCE,
        )
        self._pose = make(
            "PoseLandmarker", "pose_landmarker_lite.task", num_poses=4, min_pose_detection_confidence=_MIN_CONFIDENCE
        )
        self._hand = make(
            "HandLandmarker",
            hands,
            num_hands=4,
            min_hand_detection_confidence=_MIN_CONFIDENCE,
            min_hand_presence_confidence=_MIN_CONFIDENCE,
        )
        self._person = make("ImageSegmenter", "selfie_segmenter.tflite", output_confidence_masks=True)

    def __enter__(self) -> MediaPipe:
        return self

    def __exit__(self, *_) -> None:
        """Close the tasks now, because their own destructors run too late when the interpreter ends."""
        with silence_stderr():
            for task in (self._face, self._pose, self._hand, self._person):
                task.close()

    def __call__(self, picture: np.ndarray) -> Landmarks:
        """Detect the landmarks of a picture u8 [H, W, 3] sRGB."""
        with silence_stderr():
            return self._detect(picture)

    def _detect(self, picture: np.ndarray) -> Landmarks:
        H, W = picture.shape[:2]
        square = pad_to_square(picture)
        image, side = self._image(square), len(square)
        faces, poses = self._face.detect(image), self._pose.detect(image)
        segmented = self._person.segment(image)  # kept until the mask, a view of its memory, is copied
        person = np.squeeze(segmented.confidence_masks[0].numpy_view())[:H, :W].copy()
        widest = max(
            range(len(faces.face_landmarks)),
            key=lambda k: np.ptp(to_pixels(faces.face_landmarks[k], side)[:, 0]),
            default=None,
        )
        face = head = pose = visible = world = None
        if widest is not None:
            face = to_pixels(faces.face_landmarks[widest], side)
            head = np.asarray(faces.facial_transformation_matrixes[widest], np.float32)[:3, :3]
            head = head / np.cbrt(np.linalg.det(head))  # the matrix also holds a scale
        if poses.pose_landmarks:

            def distance_to_face(k):
                if face is None:
                    return k
                return np.linalg.norm(to_pixels(poses.pose_landmarks[k], side)[POSE["nose"]] - face.mean(0))

            nearest = min(range(len(poses.pose_landmarks)), key=distance_to_face)
            pose = to_pixels(poses.pose_landmarks[nearest], side)
            world = _to_world(poses.pose_world_landmarks[nearest])
            visible = np.array([p.visibility for p in poses.pose_landmarks[nearest]], np.float32)
        people = 0
        if pose is not None:
            shoulders = [POSE["left_shoulder"], POSE["right_shoulder"]]
            centers = [to_pixels(p, side)[shoulders].mean(0) for p in poses.pose_landmarks]
            limit = _OTHER_PERSON * np.linalg.norm(np.subtract(*pose[shoulders]))
            people = 1 + sum(np.linalg.norm(center - centers[nearest]) > limit for center in centers)
        hands, hands_world = self._detect_hands(square, pose, visible)
        return Landmarks(
            size=(H, W), faces=len(faces.face_landmarks), face=face, head=head, people=people, pose=pose,
            visible=visible, pose_world=world, hands=hands, hands_world=hands_world, person=person.astype(np.float32),
        )  # fmt: skip

    def _detect_hands(
        self, square: np.ndarray, pose: np.ndarray | None, visible: np.ndarray | None
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Detect hands in the whole picture, then around visible wrists that have none yet.

        square u8 [S, S, 3]; pose f32 [33, 2] px and visible f32 [33] of the body. Returns side -> f32 [21, 2] px and
        side -> f32 [21, 3] m. The side is that of the nearest wrist, because the detector's own is often wrong.
        """
        hands: dict[str, np.ndarray] = {}
        world: dict[str, np.ndarray] = {}
        if pose is None or visible is None:
            return hands, world
        wrists = {side: pose[POSE[f"{side}_wrist"]] for side in SIDES}
        shoulder_width = float(np.linalg.norm(np.subtract(*pose[[POSE["left_shoulder"], POSE["right_shoulder"]]])))

        def assign(detections, offset: np.ndarray, side_px: int, sides: list[str]) -> None:
            """Give each side that has no hand yet the detection nearest to its wrist."""
            candidates = []
            for k in range(len(detections.hand_landmarks)):
                points = to_pixels(detections.hand_landmarks[k], side_px) + offset
                candidates += [(np.linalg.norm(points[0] - wrists[side]), side, k, points) for side in sides]
            assigned: set[int] = set()
            for distance, side, k, points in sorted(candidates, key=lambda c: c[0]):
                is_same_hand = any(
                    np.linalg.norm(points - other, axis=1).mean() < _SAME_HAND * shoulder_width
                    for other in hands.values()
                )
                is_near = distance < _MAX_WRIST_DISTANCE * shoulder_width
                if side not in hands and k not in assigned and is_near and not is_same_hand:
                    hands[side], world[side] = points, _to_world(detections.hand_world_landmarks[k])
                    assigned.add(k)

        assign(self._hand.detect(self._image(square)), np.zeros(2, np.float32), len(square), list(SIDES))
        for side in SIDES:
            if side in hands or visible[POSE[f"{side}_wrist"]] < MIN_VISIBILITY:
                continue
            center = pose[[POSE[f"{side}_{name}"] for name in ("wrist", "index", "pinky")]].mean(0)
            half = int(_HAND_CROP * shoulder_width)
            x, y = (int(np.clip(c - half, 0, max(len(square) - 2 * half, 0))) for c in center)
            crop = square[y : y + 2 * half, x : x + 2 * half]
            if min(crop.shape[:2]) > _MIN_CROP_PX:
                detections = self._hand.detect(self._image(pad_to_square(crop)))
                assign(detections, np.array([x, y], np.float32), max(crop.shape[:2]), [side])
        return hands, world


def load_mediapipe(folder: Path) -> tuple[Callable, Callable]:
    """Check the model files and import MediaPipe.

    Returns make(kind, model's file name, **options), which makes a task, and a function that wraps a picture
    u8 [H, W, 3] for tasks. Raises UserError if package, model files or system libraries are missing, or if a model file
    has an unknown SHA-256.
    """
    check_usable(folder)
    for name in FILES:
        if (folder / name).is_file() and file_digest(folder / name) not in FILES[name][1]:
            raise UserError(
                f"{folder / name}: SHA-256 {file_digest(folder / name)} is none that is known for {name};"
                " remove it and fetch it again"
            )
    try:
        import mediapipe
        from mediapipe.tasks.python import BaseOptions, vision
    except (ImportError, OSError) as error:
        raise _unusable(error) from None

    def make(kind: str, name: str, **options):
        base = BaseOptions(model_asset_path=str(folder / name))
        try:
            with silence_stderr():
                task_options = getattr(vision, kind + "Options")(base_options=base, **options)
                return getattr(vision, kind).create_from_options(task_options)
        except (OSError, RuntimeError) as error:  # MediaPipe loads its system libraries only here
            raise _unusable(error) from None

    def wrap(picture: np.ndarray):
        # A picture of another kind would end the task for every later picture.
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3, picture.shape
        return mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(picture))

    return make, wrap


@contextmanager
def silence_stderr() -> Iterator[None]:
    """Suppress the dozens of lines that the tasks' C++ code writes to standard error at every log level."""
    sys.stderr.flush()
    stderr, devnull = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(devnull)


def pad_to_square(picture: np.ndarray) -> np.ndarray:
    """Pad a picture to the right and below, because the tasks return correct keypoints for squares only."""
    H, W = picture.shape[:2]
    side = max(H, W)
    return picture if H == W else np.pad(picture, ((0, side - H), (0, side - W), (0, 0)), mode="edge")


def to_pixels(landmarks, side: int) -> np.ndarray:
    """Keypoints of a square picture with `side` px, as f32 [N, 2] px."""
    return np.array([[p.x * side, p.y * side] for p in landmarks], np.float32)


def _to_world(landmarks) -> np.ndarray:
    """Keypoints in world axes, f32 [N, 3] m. The detector's y points down and its z away from the camera."""
    return np.array([[p.x, -p.y, -p.z] for p in landmarks], np.float32)
