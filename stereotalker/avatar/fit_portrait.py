"""Make an avatar of a portrait: keypoints, body fit, region labels, clothed surface and background.

`fit_portrait` refuses a picture that it cannot fit well, and gives the reason.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import cv2
import numpy as np

from stereotalker.avatar.background import extend_person_colors, fill_background
from stereotalker.avatar.body_fit import Fit, fit, hand_pixels
from stereotalker.avatar.clothed_surface import ProjectedBody, align_silhouette, face_fixed_weights, snap_to_keypoints
from stereotalker.avatar.detector_calibration import Calibration
from stereotalker.avatar.hair_depth import FITTED_HEAD, hair_depth
from stereotalker.avatar.landmarks import FACE_INNER, Detector, Landmarks
from stereotalker.avatar.limb_segmentation import fingers
from stereotalker.avatar.segmentation import label_regions, outline
from stereotalker.body.model import Body
from stereotalker.errors import ClipError
from stereotalker.geometry.camera import project
from stereotalker.geometry.rasterizer import rasterize
from stereotalker.records import Avatar, Motion
from stereotalker.smplx_layout import JOINT, REGION, SIDES

# Smallest accepted length of the picture's shorter side, px.
MIN_SIDE_PX = 256
# Smallest accepted distance from the chin to the upper edge of the forehead, px.
_MIN_FACE_PX = 48
# Largest accepted angle between the direction of the head and the direction to the camera, degrees.
_MAX_HEAD_ANGLE_DEG = 40.0
# A fit is refused if its median face residual (share of the face height) is above the first limit, or if the IoU
# of its silhouette is below the second.
_MAX_FACE_ERROR, _MIN_IOU = 0.02, 0.88
# A fit gets a note if its wrist residual (share of the shoulder width) is above the first limit, or if the IoU of
# its silhouette is below the second.
WRIST_GOAL, IOU_GOAL = 0.04, 0.97
# A fit gets a note if more than this share of the hands' pixels differs from the face's median by more than these
# CIELAB distances: lightness, because hands lie in shadow, and chroma. Of 32 open portraits it is at most 0.14.
_MAX_FOREIGN_HANDS, _MAX_HAND_LIGHTNESS, _MAX_HAND_CHROMA = 0.35, 45.0, 16.0
# Arms are crossed if each wrist is this far on the other one's side, as a share of the shoulder width.
_CROSSED = 0.15
# A hand of which more than this share of the points is outside the picture is cut off.
_MAX_OUTSIDE_HAND = 0.2
# Share of the face points that must lie within the picture.
_MIN_FACE_INSIDE = 0.98
# Share of the picture above which its person pixels count as a person, and not as noise of the detector.
_MIN_PERSON_SHARE = 0.05


@dataclass(frozen=True)
class Residuals:
    """How well an avatar fits its portrait; a value is None if there was nothing to compare."""

    face: float  # median distance of the face points, share of the face height
    face_fit: float  # the same before the face is snapped to its keypoints
    wrist: float | None  # the worse wrist, share of the shoulder width
    hand: float | None  # median over all hand points, share of the shoulder width
    arm: float | None  # median over shoulders and elbows, share of the shoulder width
    silhouette_iou: float  # silhouettes of the clothed body and of the person
    silhouette_iou_bare: float  # silhouettes of the bare body and of the person

    def as_dict(self) -> dict[str, float | None]:
        """All values by name, rounded to five decimal places."""
        return {name: None if value is None else round(value, 5) for name, value in asdict(self).items()}


# What the fields of `Residuals` mean, in words for the user.
RESIDUAL_LABELS = {
    "face": "distance of the face points, share of the face's height",
    "face_fit": "the same before the face was snapped to its keypoints",
    "wrist": "distance of the worse wrist, share of the shoulders' width",
    "hand": "distance of the hand points, share of the shoulders' width",
    "arm": "distance of shoulders and elbows, share of the shoulders' width",
    "silhouette_iou": "overlap of the silhouettes of the clothed body and the person (IoU)",
    "silhouette_iou_bare": "the same for the bare body",
}


@dataclass(frozen=True)
class FittedPortrait:
    """An avatar and how well it fits its portrait."""

    avatar: Avatar
    residuals: Residuals
    notes: tuple[str, ...]  # sentences about the fit for the user


def fit_portrait(
    picture: np.ndarray, name: str, detector: Detector, body: Body, calibration: Calibration
) -> FittedPortrait:
    """Fit an avatar to a portrait, u8 [H, W, 3] sRGB. Some ten seconds on two cores at 1024 px.

    Raises ClipError with the reason if the picture does not show one person well enough or the fit is not good enough.
    """
    H, W = picture.shape[:2]
    if min(H, W) < MIN_SIDE_PX:
        raise ClipError(f"the picture is {W} x {H} px; expected at least {MIN_SIDE_PX} px on the shorter side")
    landmarks = detector(picture)
    _check_landmarks(landmarks)
    body_fit = fit(landmarks, body, calibration)
    if body_fit.face_error > _MAX_FACE_ERROR:
        raise ClipError(
            f"the face does not fit a human head: the median distance of its points is"
            f" {100 * body_fit.face_error:.1f} % of its height (at most {100 * _MAX_FACE_ERROR:g} %);"
            " is it a photo of a face, seen from the front?"
        )
    mask = outline(picture, landmarks.person, fingers(landmarks.hands, (H, W)))
    bare = _project_body(body_fit, body_fit.surface, body)
    hands = hand_pixels(body_fit, landmarks, body, calibration)
    snapped = snap_to_keypoints(bare, landmarks, hands, body, calibration)
    snapped_pixels = bare.pixels + np.pad(snapped, ((0, 0), (0, 1))).astype(np.float32)
    regions = label_regions(picture, mask, landmarks, body, snapped_pixels)
    mask = regions != REGION["background"]
    fixed = face_fixed_weights(body, calibration)
    shift = align_silhouette(bare, regions, body, snapped, fixed)
    nearer = hair_depth(bare, shift, fixed, regions, body, FITTED_HEAD)
    surface = (body_fit.surface + bare.to_rest(shift, nearer)).astype(np.float16)
    clothed = _project_body(body_fit, surface, body)
    residuals = _measure(body_fit, landmarks, mask, bare, clothed, body, calibration)
    if residuals.silhouette_iou < _MIN_IOU:
        raise ClipError(
            f"the silhouettes of the person and of the fitted body overlap by only"
            f" {100 * residuals.silhouette_iou:.0f} % (IoU, at least {100 * _MIN_IOU:g} %):"
            " something bulky is worn or held, or stands before the person"
        )
    rotation, translation = body_fit.extrinsics[:3, :3], body_fit.extrinsics[:3, 3]
    target = rotation.T @ (np.array([0, 0, _chest_depth(body_fit, body)]) - translation)
    avatar = Avatar(
        name=name,
        portrait=extend_person_colors(picture, mask),
        background=fill_background(picture, mask),
        regions=regions,
        betas=body_fit.betas,
        surface=surface,
        poses=body_fit.poses,
        expression=body_fit.expression,
        intrinsics=body_fit.intrinsics,
        extrinsics=body_fit.extrinsics,
        target=target.astype(np.float32),
        style=0,
        origin="portrait",
        arms=bool(landmarks.hands) and not _are_arms_crossed(landmarks),
    )
    return FittedPortrait(avatar, residuals, tuple(_notes(body_fit, landmarks, avatar, residuals)))


def _check_landmarks(landmarks: Landmarks) -> None:
    """Raise ClipError unless the landmarks are those of one person whose whole face is turned to the camera."""
    H, W = landmarks.size
    person_share = float((landmarks.person > 0.5).mean())
    if landmarks.face is None:
        if person_share > _MIN_PERSON_SHARE:
            raise ClipError(
                "a person, but no face was found: seen from behind, covered, drawn or out of focus;"
                " expected a photo with the face to the camera"
            )
        raise ClipError(
            "no person was found; expected a photo of one person from the front, head and shoulders or more"
        )
    if landmarks.faces > 1:
        raise ClipError(f"{landmarks.faces} faces were found; expected one person: crop the picture")
    if landmarks.people > 1:
        raise ClipError(f"{landmarks.people} people were found; expected one: crop the picture")
    if landmarks.face_height < _MIN_FACE_PX:
        raise ClipError(
            f"the face is {landmarks.face_height:.0f} px high in a picture of {W} x {H};"
            f" expected at least {_MIN_FACE_PX}: crop closer or give a larger picture"
        )
    is_inside = (landmarks.face >= 0).all(1) & (landmarks.face < (W, H)).all(1)
    if is_inside.mean() < _MIN_FACE_INSIDE:
        raise ClipError("the face is cut off by the picture's edge; expected the whole head")
    x, y = np.clip(landmarks.face.mean(0).astype(int), 0, (W - 1, H - 1))
    if landmarks.person[y, x] < 0.5:
        raise ClipError("where the face is, the detector sees no person: is it drawn, or on a poster or a screen?")
    if landmarks.head is not None:
        angle = np.degrees(np.arccos(np.clip(landmarks.head[2, 2], -1, 1)))
        if angle > _MAX_HEAD_ANGLE_DEG:
            raise ClipError(
                f"the head is turned {angle:.0f} degrees away from the camera; at most {_MAX_HEAD_ANGLE_DEG:g}"
            )


def _project_body(body_fit: Fit, surface: np.ndarray, body: Body) -> ProjectedBody:
    """The body with a surface (offsets [V, 3] m in the rest pose), as the fitted camera shows it."""
    posed = body.posed(Motion.still(body_fit.poses, body_fit.expression), body_fit.betas, surface)
    pixels = project(posed.vertices[0], body_fit.intrinsics, body_fit.extrinsics)
    return ProjectedBody(pixels, posed.vertices[0], posed.turn[0], body_fit.extrinsics[:3, :3], body_fit.intrinsics)


def _measure(
    body_fit: Fit,
    landmarks: Landmarks,
    mask: np.ndarray,
    bare: ProjectedBody,
    clothed: ProjectedBody,
    body: Body,
    calibration: Calibration,
) -> Residuals:
    face_points = calibration.face_points(clothed.pixels[:, :2], body.faces)
    distances = np.linalg.norm(face_points - landmarks.face, axis=1)[FACE_INNER]

    def iou(projected: ProjectedBody) -> float:
        covered = rasterize(projected.pixels, body.faces, mask.shape).face >= 0
        return float((covered & mask).sum() / (covered | mask).sum())

    return Residuals(
        face=float(np.median(distances)) / landmarks.face_height,
        face_fit=body_fit.face_error,
        wrist=body_fit.wrist_error,
        hand=body_fit.hand_error,
        arm=body_fit.arm_error,
        silhouette_iou=iou(clothed),
        silhouette_iou_bare=iou(bare),
    )


def _chest_depth(body_fit: Fit, body: Body) -> float:
    """Depth of the chest, m. A clip's cameras turn about the point of that depth at the picture's center."""
    chest = body.joints(body_fit.betas)[JOINT["spine3"]]
    return float((body_fit.extrinsics[:3, :3] @ chest + body_fit.extrinsics[:3, 3])[2])


def _are_arms_crossed(landmarks: Landmarks) -> bool:
    """Whether each wrist is on the other one's side. Clasped hands are not crossed."""
    if set(landmarks.hands) != set(SIDES):
        return False
    left, right = (float(landmarks.hands[side][0, 0]) for side in SIDES)
    return right - left > _CROSSED * landmarks.shoulder_width  # the person's right is on the left


def _cut_hands(landmarks: Landmarks) -> list[str]:
    """The sides whose hand lies partly outside the picture."""
    H, W = landmarks.size
    return [
        side
        for side, points in landmarks.hands.items()
        if ((points < 0) | (points >= (W, H))).any(1).mean() > _MAX_OUTSIDE_HAND
    ]


def _notes(body_fit: Fit, landmarks: Landmarks, avatar: Avatar, residuals: Residuals) -> list[str]:
    notes = []
    if not avatar.arms:
        why = "the arms are crossed" if landmarks.hands else "no hand is in the picture"
        notes.append(f"{why}: the arms hardly move, except in clips that ask for `arms: invent`")
    elif missing := [side for side, is_detected in body_fit.seen.items() if not is_detected]:
        notes.append(f"the {missing[0]} hand was not found: it is placed by the arm alone")
    notes += [
        f"the {side} hand is cut off by the picture's edge: what is missing is invented"
        for side in _cut_hands(landmarks)
    ]
    if body_fit.wrist_error is not None and body_fit.wrist_error > WRIST_GOAL:
        notes.append(f"a wrist is {100 * body_fit.wrist_error:.0f} % of the shoulders' width off")
    if (share := _foreign_hand_share(avatar)) > _MAX_FOREIGN_HANDS:
        notes.append(
            f"{100 * share:.0f} % of the hands do not have the face's color: a glove, or an object, moves with the hand"
        )
    if residuals.silhouette_iou < IOU_GOAL:
        notes.append(
            f"the silhouettes of the body and the person overlap by {100 * residuals.silhouette_iou:.0f} % (IoU):"
            " look for torn edges in the card's views"
        )
    return notes


def _foreign_hand_share(avatar: Avatar) -> float:
    """Share of the hands' pixels whose color is not that of the face, 0 to 1."""
    lab = cv2.cvtColor(avatar.portrait.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    face, hands = (lab[avatar.regions == REGION[name]] for name in ("face", "hands"))
    if not len(face) or not len(hands):
        return 0.0
    difference = hands - np.median(face, 0)
    is_foreign = np.abs(difference[:, 0]) > _MAX_HAND_LIGHTNESS
    return float((is_foreign | (np.hypot(difference[:, 1], difference[:, 2]) > _MAX_HAND_CHROMA)).mean())
