"""Quality of fitted avatars: residuals on real pictures, and errors against the truth on rendered people."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from stereotalker.avatar.body_fit import Fit, fit
from stereotalker.avatar.card_image import draw_card
from stereotalker.avatar.detector_calibration import Calibration
from stereotalker.avatar.fit_portrait import FittedPortrait, fit_portrait
from stereotalker.avatar.landmarks import Detector
from stereotalker.body.model import Body
from stereotalker.control.reference_warp import control, reference
from stereotalker.dataset.shards import picture_bytes
from stereotalker.errors import ClipError
from stereotalker.geometry import camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.media.contact_sheet import grid, labelled_tile, split_into_rows
from stereotalker.media.photos import PICTURES, read_photo
from stereotalker.records import Avatar, Motion
from stereotalker.smplx_layout import JOINT
from stereotalker.synthetic.actor import build_actor

FIRST_IDENTITY = 2000  # identity of the first rendered person; neither training nor calibration uses it or later ones
_COMPARED_JOINTS = (
    "neck",
    "head",
    *(f"{side}_{name}" for side in ("left", "right") for name in ("shoulder", "elbow", "wrist")),
)
_SHEET_COLUMNS = 2  # avatar cards beside each other on the contact sheet
_SHEET_GRAY = 30  # gray level between cards of different sizes


@dataclass(frozen=True)
class PortraitResult:
    """One picture with its fitted avatar, or with the reason why it was refused."""

    name: str
    fitted: FittedPortrait | None
    refusal: str  # empty where the picture was fitted
    seconds: float  # wall time of the fit
    warp_psnr: float  # dB, see `warp_psnr`; nan where the picture was refused


def fit_portraits(
    folder: Path, size: int, detector: Detector, body: Body, calibration: Calibration, log: Callable[[str], None]
) -> tuple[list[PortraitResult], bytes]:
    """Fit every picture of a folder, read at `size` px. Returns the results and a JPEG contact sheet of the cards.

    The JPEG is empty where no picture could be fitted.
    """
    results, cards = [], []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES):
        started = time.monotonic()
        picture = read_photo(path, size)
        try:
            fitted, refusal = fit_portrait(picture, path.stem, detector, body, calibration), ""
        except ClipError as error:
            fitted, refusal = None, str(error)
        seconds = time.monotonic() - started
        results.append(
            PortraitResult(
                path.stem, fitted, refusal, seconds, warp_psnr(fitted.avatar, picture, body) if fitted else np.nan
            )
        )
        if fitted is None:
            log(f"{path.stem}: refused: {refusal}")
        else:
            psnr = results[-1].warp_psnr
            log(f"{path.stem}: {seconds:.1f} s, {fitted.residuals.as_dict()}, warp {psnr:.1f} dB")
            card = cv2.resize(draw_card(fitted.avatar, body), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            cards.append(labelled_tile(card, path.stem))
    if not cards:
        return results, b""
    sheet = grid(split_into_rows(cards, _SHEET_COLUMNS), fill=_SHEET_GRAY)
    return results, picture_bytes(sheet, "JPEG", quality=85)


def warp_psnr(avatar: Avatar, picture: np.ndarray, body: Body) -> float:
    """PSNR in dB of the reference warp against the portrait u8 [H, W, 3] itself, over the person's pixels.

    The warp is drawn in the portrait's own pose and view, so that every error comes from the fit.
    """
    still = Motion.still(avatar.poses, avatar.expression)
    view = camera.around(avatar, CameraPath(), 1, 25.0, avatar.regions.shape)
    warp = control(reference(avatar, body), body, still, view).warp[0].astype(float)
    error = ((warp - picture)[avatar.regions > 0] ** 2).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def evaluate_rendered_people(
    count: int, size: int, detector: Detector, body: Body, calibration: Calibration
) -> dict[str, float]:
    """Fit portraits of rendered people of `size` px and compare with the truth.

    joint_error_mm: median distance of joints in the view plane; head_error_degrees: median angle between the heads'
    orientations; rendered_people and rendered_missed: portraits with and without a detected face.
    """
    joint_errors, head_errors, missed = [], [], 0
    for number in range(count):
        actor = build_actor(FIRST_IDENTITY + number, body, size, 1, rest="open" if number % 2 else "")
        landmarks = detector(actor.avatar.portrait)
        if landmarks.face is None:
            missed += 1
            continue
        result = fit(landmarks, body, calibration)
        truth, ours = _joints(actor.avatar, actor.avatar.surface * 0, body), _joints(result, result.surface, body)
        rows = [JOINT[name] for name in _COMPARED_JOINTS]
        depth = truth.positions[rows, 2]
        # Pixels become metres in the view plane at the true depth of the joint.
        error = np.linalg.norm(ours.pixels[rows] - truth.pixels[rows], axis=1) * depth / actor.avatar.intrinsics[0, 0]
        joint_errors.append(1000 * error)
        head_errors.append(np.degrees(Rotation.from_matrix(ours.head @ truth.head.T).magnitude()))
    return {
        "joint_error_mm": float(np.median(joint_errors)),
        "head_error_degrees": float(np.median(head_errors)),
        "rendered_people": len(head_errors),
        "rendered_missed": missed,
    }


@dataclass(frozen=True)
class _Joints:
    """All joints of a person, as the portrait's camera sees them."""

    pixels: np.ndarray  # [55, 2] px
    positions: np.ndarray  # [55, 3] m, camera space
    head: np.ndarray  # [3, 3] rotation of the head, camera space


def _joints(record: Avatar | Fit, surface: np.ndarray, body: Body) -> _Joints:
    """Pose the person of a record with the given surface offsets [V, 3] m and project the joints."""
    still = Motion.still(record.poses, record.expression)
    positions, rotations = body.posed_joints(still, record.betas, surface)
    in_camera = positions[0] @ record.extrinsics[:3, :3].T + record.extrinsics[:3, 3]
    homogeneous = in_camera @ record.intrinsics.T
    return _Joints(
        homogeneous[:, :2] / homogeneous[:, 2:], in_camera, record.extrinsics[:3, :3] @ rotations[0, JOINT["head"]]
    )


def summary(results: list[PortraitResult]) -> dict[str, float]:
    """The keys of metrics/avatar.json that come from pictures: median and worst (suffix _worst) over the fitted ones.

    Values are nan where nothing was fitted. A refused picture counts as not fitted.
    """
    fitted = [p for p in results if p.fitted]

    def median_and_worst(values: list[float], worst=max) -> tuple[float, float]:
        return (float(np.median(values)), float(worst(values))) if values else (np.nan, np.nan)

    def residuals(name):
        return [v for p in fitted if (v := getattr(p.fitted.residuals, name)) is not None]

    table: dict[str, float] = {"portraits": len(results), "fitted": len(fitted)}
    columns = {
        "face_error": (residuals("face"), max),
        "face_error_before_snap": (residuals("face_fit"), max),
        "wrist_error": (residuals("wrist"), max),
        "silhouette_iou": (residuals("silhouette_iou"), min),
        "silhouette_iou_bare": (residuals("silhouette_iou_bare"), min),
        "seconds": ([p.seconds for p in fitted], max),
        "selfwarp_psnr": ([p.warp_psnr for p in fitted], min),
    }
    for name, (values, worst) in columns.items():
        table[name], table[f"{name}_worst"] = median_and_worst(values, worst)
    return table
