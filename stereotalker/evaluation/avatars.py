"""How well portraits become avatars: on real pictures by their residuals, on rendered people against the truth."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from stereotalker.avatar.body_fit import Fit, fit
from stereotalker.avatar.card_image import draw_card
from stereotalker.avatar.detector_calibration import Calibration
from stereotalker.avatar.fit_portrait import FittedPortrait, fit_portrait
from stereotalker.avatar.landmarks import Detector
from stereotalker.body.model import Body
from stereotalker.control.reference_warp import control, reference
from stereotalker.errors import ClipError
from stereotalker.geometry import camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.media.photos import PICTURES, read_photo
from stereotalker.records import Avatar, Motion
from stereotalker.smplx_layout import JOINT
from stereotalker.synthetic.actor import build_actor

FIRST = 2000  # identity of the first rendered person: nobody whom training or calibration saw
_COMPARED = (
    "neck",
    "head",
    *(f"{side}_{name}" for side in ("left", "right") for name in ("shoulder", "elbow", "wrist")),
)
_COLUMNS = 2  # cards of a contact sheet beside each other


@dataclass(frozen=True)
class Portrait:
    """One picture: its avatar or why it was refused."""

    name: str
    made: FittedPortrait | None
    refusal: str
    seconds: float
    warp_psnr: float  # dB of the reference warp at the portrait's own pose and view, on the person


def portraits(
    folder: Path, size: int, detector: Detector, body: Body, known: Calibration, log: Callable[[str], None]
) -> tuple[list[Portrait], bytes]:
    """Every picture of a folder, and a contact sheet of the cards as JPEG."""
    found, cards = [], []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES):
        started = time.monotonic()
        picture = read_photo(path, size)
        try:
            made, refusal = fit_portrait(picture, path.stem, detector, body, known), ""
        except ClipError as error:
            made, refusal = None, str(error)
        seconds = time.monotonic() - started
        found.append(
            Portrait(path.stem, made, refusal, seconds, warp_psnr(made.avatar, picture, body) if made else np.nan)
        )
        log(
            f"{path.stem}: {f'{seconds:.1f} s, {made.residuals.as_dict()}, warp {found[-1].warp_psnr:.1f} dB' if made else 'refused: ' + refusal}"
        )
        if made:
            card = draw_card(made.avatar, body)
            cv2.putText(card, path.stem, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 2, cv2.LINE_AA)
            cv2.putText(card, path.stem, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (20, 20, 20), 1, cv2.LINE_AA)
            cards.append(cv2.resize(card, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return found, _sheet(cards)


def warp_psnr(avatar: Avatar, picture: np.ndarray, body: Body) -> float:
    """dB of the warped portrait u8 [H, W, 3] against itself, where the person is."""
    still = Motion.still(avatar.poses, avatar.expression)
    view = camera.around(avatar, CameraPath(), 1, 25.0, avatar.regions.shape)
    warp = control(reference(avatar, body), body, still, view).warp[0].astype(float)
    error = ((warp - picture)[avatar.regions > 0] ** 2).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def rendered_people(count: int, size: int, detector: Detector, body: Body, known: Calibration) -> dict[str, float]:
    """Fits of rendered people against the truth: medians of joints in the view plane (mm) and of the head's turn (degrees)."""
    joints, heads, missed = [], [], 0
    for number in range(count):
        actor = build_actor(FIRST + number, body, size, 1, rest="open" if number % 2 else "")
        marks = detector(actor.avatar.portrait)
        if marks.face is None:
            missed += 1
            continue
        found = fit(marks, body, known)
        truth, ours = _joints(actor.avatar, actor.avatar.surface * 0, body), _joints(found, found.surface, body)
        rows = [JOINT[name] for name in _COMPARED]
        depth = truth.seen[rows, 2]
        off = np.linalg.norm(ours.pixels[rows] - truth.pixels[rows], axis=1) * depth / actor.avatar.intrinsics[0, 0]
        joints.append(1000 * off)
        heads.append(np.degrees(Rotation.from_matrix(ours.head @ truth.head.T).magnitude()))
    return {
        "joint_error_mm": float(np.median(joints)),
        "head_error_degrees": float(np.median(heads)),
        "rendered_people": len(heads),
        "rendered_missed": missed,
    }


@dataclass(frozen=True)
class _Joints:
    pixels: np.ndarray  # [55, 2]
    seen: np.ndarray  # [55, 3] m, in the camera
    head: np.ndarray  # [3, 3] in the camera


def _joints(record: Avatar | Fit, surface: np.ndarray, body: Body) -> _Joints:
    still = Motion.still(record.poses, record.expression)
    places, turns = body.posed_joints(still, record.betas, surface)
    seen = places[0] @ record.extrinsics[:3, :3].T + record.extrinsics[:3, 3]
    flat = seen @ record.intrinsics.T
    return _Joints(flat[:, :2] / flat[:, 2:], seen, record.extrinsics[:3, :3] @ turns[0, JOINT["head"]])


def summary(found: list[Portrait]) -> dict[str, float]:
    """The figures of metrics/avatar.json; medians and worst over those fitted, nan where there are none. What was refused counts as not fitted."""
    made = [p for p in found if p.made]

    def spread(values: list[float], worst=max) -> tuple[float, float]:
        return (float(np.median(values)), float(worst(values))) if values else (np.nan, np.nan)

    def known(name):
        return [v for p in made if (v := getattr(p.made.residuals, name)) is not None]

    table: dict[str, float] = {"portraits": len(found), "fitted": len(made)}
    columns = {
        "face_error": (known("face"), max), "face_error_before_snap": (known("face_fit"), max), "wrist_error": (known("wrist"), max),
        "silhouette_iou": (known("silhouette_iou"), min), "silhouette_iou_bare": (known("silhouette_iou_bare"), min),
        "seconds": ([p.seconds for p in made], max), "selfwarp_psnr": ([p.warp_psnr for p in made], min),
    }  # fmt: skip
    for name, (values, worst) in columns.items():
        table[name], table[f"{name}_worst"] = spread(values, worst)
    return table


def _sheet(cards: list[np.ndarray]) -> bytes:
    if not cards:
        return b""
    size = tuple(max(card.shape[k] for card in cards) for k in (0, 1))
    padded = [
        np.pad(card, ((0, size[0] - card.shape[0]), (0, size[1] - card.shape[1]), (0, 0)), constant_values=30)
        for card in cards
    ]
    padded += [np.full_like(padded[0], 30)] * (-len(padded) % _COLUMNS)
    rows = [np.concatenate(padded[k : k + _COLUMNS], 1) for k in range(0, len(padded), _COLUMNS)]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
