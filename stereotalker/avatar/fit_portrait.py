"""A portrait becomes an avatar: key points, body, regions, shell, background. Refuses what it cannot do well, with the reason."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from stereotalker.avatar.background import fill_background, without_fringe
from stereotalker.avatar.body_fit import Fit, fit, hand_pixels
from stereotalker.avatar.clothed_surface import Seen, clothe, held_vertices, snap
from stereotalker.avatar.detector_calibration import Calibration
from stereotalker.avatar.hair_depth import FITTED_HEAD, hair_depth
from stereotalker.avatar.hand_segmentation import fingers
from stereotalker.avatar.landmarks import FACE_INNER, Detector, Landmarks
from stereotalker.avatar.segmentation import outline, regions
from stereotalker.body.model import Body
from stereotalker.errors import ClipError
from stereotalker.geometry.camera import project
from stereotalker.geometry.rasterizer import rasterize
from stereotalker.records import Avatar, Motion
from stereotalker.smplx_layout import JOINT

SMALLEST_PX = 256  # of the picture's shorter side
_FACE_PX = 48  # chin to forehead
_TURNED = 40.0  # degrees of the head away from the camera
_FACE_ERROR, _IOU = 0.02, 0.88  # beyond these the fit is refused
WRIST_GOAL, IOU_GOAL = 0.04, 0.97  # beyond these it is noted
_WHOLE_FACE = 0.98  # share of the face's points that must be in the picture
_SOMEBODY = 0.05  # share of the picture that is a person, if there is one


@dataclass(frozen=True)
class Residuals:
    """How well an avatar fits its portrait; None where there was nothing to compare."""

    face: float  # median distance of the face's points, share of face height
    face_fit: float  # the same before the last pixel was snapped
    wrist: float | None  # the worse one, share of shoulder width
    hand: float | None  # median of all hand points, share of shoulder width
    arm: float | None  # median of shoulders and elbows, share of shoulder width
    silhouette_iou: float
    silhouette_iou_bare: float

    def as_dict(self) -> dict[str, float | None]:
        return {name: None if value is None else round(value, 5) for name, value in asdict(self).items()}


IN_WORDS = {
    "face": "face points off, of the face's height", "face_fit": "the same before the last pixel", "wrist": "worse wrist off, of the shoulders' width",
    "hand": "hand points off, of the shoulders' width", "arm": "shoulders and elbows off, of their width", "silhouette_iou": "outline covered (IoU)",
    "silhouette_iou_bare": "the same of the bare body",
}  # fmt: skip


@dataclass(frozen=True)
class FittedPortrait:
    avatar: Avatar
    residuals: Residuals
    notes: tuple[str, ...]  # what a user should know, in words


def fit_portrait(picture: np.ndarray, name: str, detector: Detector, body: Body, known: Calibration) -> FittedPortrait:
    """u8 [H, W, 3] sRGB -> avatar. Five to ten seconds on one core at 1024 px. Raises ClipError with the reason."""
    H, W = picture.shape[:2]
    if min(H, W) < SMALLEST_PX:
        raise ClipError(f"the picture is {W} x {H} px; expected at least {SMALLEST_PX} px on the shorter side")
    marks = detector(picture)
    _check(marks)
    found = fit(marks, body, known)
    if found.face_error > _FACE_ERROR:
        raise ClipError(
            f"the face does not fit a human head: its points are off by {100 * found.face_error:.1f} % of its height in the median (at most {100 * _FACE_ERROR:g} %); is it a photo of a face, seen from the front?"
        )
    mask = outline(picture, marks.person, fingers(marks.hands, (H, W)))
    seen = _seen(found, found.surface, body)
    labels = regions(picture, mask, marks, body, seen.pixels)
    hands = hand_pixels(found, marks, body, known)
    held = held_vertices(body, known)
    shift = clothe(seen, mask, body, snap(seen, marks, hands, body, known), held)
    nearer = hair_depth(seen, shift, held, labels, body, FITTED_HEAD)
    surface = (found.surface + seen.to_rest(shift, nearer)).astype(np.float16)
    dressed = _seen(found, surface, body)
    residuals = _measure(found, marks, mask, seen, dressed, body, known)
    if residuals.silhouette_iou < _IOU:
        raise ClipError(
            f"the person's outline covers only {100 * residuals.silhouette_iou:.0f} % of what the body under it does (at least {100 * _IOU:g} %):"
            " something bulky is worn or held, or stands before the person"
        )
    middle = found.extrinsics[:3, :3].T @ (np.array([0, 0, _distance(found, body)]) - found.extrinsics[:3, 3])
    avatar = Avatar(
        name=name, portrait=without_fringe(picture, mask), background=fill_background(picture, mask), regions=labels, betas=found.betas, surface=surface,
        poses=found.poses, expression=found.expression, intrinsics=found.intrinsics, extrinsics=found.extrinsics, target=middle.astype(np.float32),
        style=0, origin="portrait", arms=bool(marks.hands),
    )  # fmt: skip
    return FittedPortrait(avatar, residuals, tuple(_notes(found, avatar, residuals)))


def _check(marks: Landmarks) -> None:
    H, W = marks.size
    share = float((marks.person > 0.5).mean())
    if marks.face is None:
        if share > _SOMEBODY:
            raise ClipError(
                "a person, but no face was found: seen from behind, covered, drawn or out of focus; expected a photo with the face to the camera"
            )
        raise ClipError(
            "no person was found; expected a photo of one person from the front, head and shoulders or more"
        )
    if marks.faces > 1:
        raise ClipError(f"{marks.faces} faces were found; expected one person: crop the picture")
    if marks.people > 1:
        raise ClipError(f"{marks.people} people were found; expected one: crop the picture")
    if marks.face_height < _FACE_PX:
        raise ClipError(
            f"the face is {marks.face_height:.0f} px high in a picture of {W} x {H}; expected at least {_FACE_PX}: crop closer or give a larger picture"
        )
    inside = (marks.face >= 0).all(1) & (marks.face < (W, H)).all(1)
    if inside.mean() < _WHOLE_FACE:
        raise ClipError("the face is cut off by the picture's edge; expected the whole head")
    x, y = np.clip(marks.face.mean(0).astype(int), 0, (W - 1, H - 1))
    if marks.person[y, x] < 0.5:
        raise ClipError("where the face is, the detector sees no person: is it drawn, or on a poster or a screen?")
    if marks.head is not None:
        turned = np.degrees(np.arccos(np.clip(marks.head[2, 2], -1, 1)))
        if turned > _TURNED:
            raise ClipError(f"the head is turned {turned:.0f} degrees away from the camera; at most {_TURNED:g}")


def _seen(found: Fit, surface: np.ndarray, body: Body) -> Seen:
    posed = body.posed(Motion.still(found.poses, found.expression), found.betas, surface)
    pixels = project(posed.vertices[0], found.intrinsics, found.extrinsics)
    return Seen(pixels, posed.vertices[0], posed.turn[0], found.extrinsics[:3, :3], found.intrinsics)


def _measure(
    found: Fit, marks: Landmarks, mask: np.ndarray, bare: Seen, dressed: Seen, body: Body, known: Calibration
) -> Residuals:
    off = np.linalg.norm(known.face_points(dressed.pixels[:, :2], body.faces) - marks.face, axis=1)[FACE_INNER]

    def iou(seen: Seen) -> float:
        covered = rasterize(seen.pixels, body.faces, mask.shape).face >= 0
        return float((covered & mask).sum() / (covered | mask).sum())

    return Residuals(
        float(np.median(off)) / marks.face_height,
        found.face_error,
        found.wrist_error,
        found.hand_error,
        found.arm_error,
        iou(dressed),
        iou(bare),
    )


def _distance(found: Fit, body: Body) -> float:
    """Depth of the chest, m: cameras turn about the point at the picture's middle that is as far away."""
    chest = body.joints(found.betas)[JOINT["spine3"]]
    return float((found.extrinsics[:3, :3] @ chest + found.extrinsics[:3, 3])[2])


def _notes(found: Fit, avatar: Avatar, residuals: Residuals) -> list[str]:
    notes = []
    if not avatar.arms:
        notes.append("no hand is in the picture: the arms stay as they are, but in clips that ask for `arms: invent`")
    elif missing := [side for side, there in found.seen.items() if not there]:
        notes.append(f"the {missing[0]} hand was not found: it is placed by the arm alone")
    if found.wrist_error is not None and found.wrist_error > WRIST_GOAL:
        notes.append(f"a wrist is {100 * found.wrist_error:.0f} % of the shoulders' width off")
    if residuals.silhouette_iou < IOU_GOAL:
        notes.append(
            f"the body covers {100 * residuals.silhouette_iou:.0f} % of the outline: look for torn edges in the card's views"
        )
    return notes
