"""Gestures of fitted portraits: are hands, arms, shoulders, sleeves and background those of the portrait?

An independent detector looks for the driven hands in the rendered frames. The rest is measured on the control maps and
the motion. T frames of H x W pixels.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from stereotalker.avatar import color_segmentation
from stereotalker.avatar.detector_calibration import HAND_JOINTS
from stereotalker.avatar.frame_detectors import HandFinder
from stereotalker.avatar.limb_segmentation import find_sleeve_ends
from stereotalker.avatar.segmentation import project_limbs
from stereotalker.body.model import Body
from stereotalker.control.reference_warp import control, reference
from stereotalker.control.warp_kernels import FROM_TEXTURE, SEEN, SMOOTHED
from stereotalker.diffusion.windows import Window
from stereotalker.geometry import camera
from stereotalker.geometry.camera import project
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.params import ASSETS
from stereotalker.records import Avatar, Camera, Control, Motion
from stereotalker.render.renderer import Renderer
from stereotalker.smplx_layout import JOINT, REGION, SIDES

# Every so many frames of a clip are rendered.
_FRAME_STEP = 6
# The crop around a hand has this many times the hand's extent, and is scaled to so many px a side.
_CROP, _CROP_PX = 2.6, 384
# Hands whose extent is a smaller share of the frame's longer side are not judged.
_MIN_HAND = 0.035
# Values of Control.visibility of surfaces that the portrait shows.
_VISIBLE = (SEEN, SMOOTHED, FROM_TEXTURE)
# Rows of the 21 hand points that are joints: without the finger tips.
_JOINT_ROWS = [k for k in range(21) if k == 0 or k % 4 != 0]
_MIDDLE_KNUCKLE = 9
_SHEET_FRAMES = 6
# A sleeve's end is right within this share of the arm; a sleeve within it of the wrist is a long one.
_SLEEVE_TOLERANCE = 0.05


@dataclass(frozen=True)
class GestureScores:
    """What is measured in a clip of one portrait; nan where there is nothing to measure."""

    name: str
    hands_found: float  # share of the driven hands that the detector finds
    finger_joint_error: float  # median distance of its joints from the driven ones, in lengths of the palm
    portrait_joint_error: float  # the same in the photograph itself
    unseen_hands: float  # share of the hands' pixels that the portrait does not show
    unseen_arms: float  # the same for the arms
    wrist_range: float  # m, mean over the wrists of the length of their 5th to 95th percentile
    shoulder_rise: float  # half shoulder widths by which the shoulders stand higher than in the portrait
    background_hands: int  # hands and faces found in the background
    background_person: float  # share of the background's pixels that show a person
    sleeves_right: float  # 1 where both sleeves end where the label says, else 0; nan without a label
    frames: np.ndarray  # u8 [N, H, W, 3] some of the rendered frames


def examine(
    renderer: Renderer, avatar: Avatar, motion: Motion, finder: HandFinder, body: Body, size: int = 512
) -> GestureScores:
    """Render every _FRAME_STEP-th frame of a motion from the front and measure it. size: longer side, px."""
    H, W = avatar.regions.shape
    shape = tuple(2 * round(extent * size / max(H, W) / 2) for extent in (H, W))
    rows = np.arange(0, len(motion.poses), _FRAME_STEP)
    sampled = Motion(motion.poses[rows], motion.expression[rows], motion.trans[rows], motion.fps)
    view = camera.avatar_camera(avatar, CameraPath(), len(rows), motion.fps, shape)
    frames, labels, visibility = _render(renderer, avatar, sampled, view, body)
    joints = body.posed_joints(sampled, avatar.betas, avatar.surface)[0]
    found, errors = _find_hands(frames, joints, view, finder)
    still = Motion.still(avatar.poses, avatar.expression)
    own_joints = body.posed_joints(still, avatar.betas, avatar.surface)[0]
    own_view = camera.avatar_camera(avatar, CameraPath(), 1, motion.fps, (H, W))
    _, own_errors = _find_hands(avatar.portrait[None], own_joints, own_view, finder)
    is_shown = np.isin(visibility, _VISIBLE)

    def unseen(region: str) -> float:
        pixels = labels == REGION[region]
        return float((pixels & ~is_shown).sum() / pixels.sum()) if pixels.any() else np.nan

    chosen = frames[np.linspace(0, len(frames) - 1, _SHEET_FRAMES).astype(int)]
    label = read_sleeve_labels().get(avatar.name)
    background = cv2.resize(avatar.background, shape[::-1], interpolation=cv2.INTER_AREA)
    return GestureScores(
        name=avatar.name,
        hands_found=float(np.mean(found)) if found else np.nan,
        finger_joint_error=float(np.median(errors)) if errors else np.nan,
        portrait_joint_error=float(np.median(own_errors)) if own_errors else np.nan,
        unseen_hands=unseen("hands"),
        unseen_arms=unseen("arms"),
        wrist_range=wrist_range(motion, body, avatar.betas, avatar.surface),
        shoulder_rise=_shoulder_rise(avatar, sampled, joints, body),
        background_hands=_count_background(background, finder),
        background_person=finder.person_share(background),
        sleeves_right=np.nan if label is None else float(are_sleeves_right(avatar, body, label)),
        frames=chosen,
    )


def _render(
    renderer: Renderer, avatar: Avatar, motion: Motion, view: Camera, body: Body
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames u8 [T, H, W, 3] of a motion, and labels and visibility u8 [T, H, W] of their control maps."""
    ref, tokens, count = reference(avatar, body), renderer.tokens(avatar.portrait), len(motion.poses)

    def maps_of(start: int, stop: int) -> Control:
        return control(ref, body, motion.frames(start, stop), view.frames(start, stop))

    frames, labels, visibility = [], [], []
    for pictures, maps in renderer.runs(maps_of, tokens, Window(0, 0, count, 0), count, 0):
        frames.append(pictures)
        labels.append(maps.labels)
        visibility.append(maps.visibility)
    return np.concatenate(frames), np.concatenate(labels), np.concatenate(visibility)


def _find_hands(
    frames: np.ndarray, joints: np.ndarray, view: Camera, finder: HandFinder
) -> tuple[list[bool], list[float]]:
    """Look for every driven hand that is large enough and wholly inside the frame.

    frames u8 [T, H, W, 3]; joints f32 [T, 55, 3] m. Returns whether each was found, and the joint error of those that
    were: the mean distance of its joints from the driven ones, over the length from the wrist to the middle knuckle
    as it would look if the hand were parallel to the picture.
    """
    found, errors = [], []
    H, W = frames.shape[1:3]
    for t, frame in enumerate(frames):
        for side in SIDES:
            hand = joints[t, [JOINT[f"{side}_{name}"] for name in HAND_JOINTS]]
            projected = project(hand, view.intrinsics[t], view.extrinsics[t])
            pixels = projected[:, :2]
            low, high = pixels.min(0), pixels.max(0)
            extent = float((high - low).max())
            if extent < _MIN_HAND * max(H, W) or (low < 0).any() or (high >= (W, H)).any():
                continue
            side_px = _CROP * extent
            corner = (low + high) / 2 - side_px / 2
            scale = _CROP_PX / side_px
            to_crop = np.array([[scale, 0, -scale * corner[0]], [0, scale, -scale * corner[1]]])
            crop = cv2.warpAffine(frame, to_crop, (_CROP_PX, _CROP_PX), borderMode=cv2.BORDER_REPLICATE)
            points = finder.hand(crop)
            found.append(points is not None)
            if points is not None:
                distance = np.linalg.norm(points / scale + corner - pixels, axis=1)[_JOINT_ROWS].mean()
                palm_m = np.linalg.norm(hand[_MIDDLE_KNUCKLE] - hand[0])
                errors.append(float(distance * projected[0, 2] / (palm_m * view.intrinsics[t, 0, 0])))
    return found, errors


def wrist_range(motion: Motion, body: Body, betas: np.ndarray, surface: np.ndarray | None) -> float:
    """Mean over the wrists of the length of the box that holds them from the 5th to the 95th percentile, m.

    Positions are relative to the trunk.
    """
    positions, rotations = body.posed_joints(motion, betas, surface)
    trunk = JOINT["spine3"]
    wrists = positions[:, [JOINT[f"{side}_wrist"] for side in SIDES]] - positions[:, trunk, None]
    wrists = np.einsum("tji,tnj->tni", rotations[:, trunk], wrists)
    low, high = np.percentile(wrists, (5, 95), axis=0)
    return float(np.linalg.norm(high - low, axis=1).mean())


def _shoulder_rise(avatar: Avatar, motion: Motion, joints: np.ndarray, body: Body) -> float:
    """By how much the shoulders stand higher below the neck than in the portrait, in half shoulder widths.

    The mean over the frames in which both wrists are below the chest; joints f32 [T, 55, 3] m.
    """
    portrait = body.posed_joints(Motion.still(avatar.poses, avatar.expression), avatar.betas, avatar.surface)[0]

    def drop(places: np.ndarray) -> np.ndarray:
        shoulders = places[:, [JOINT[f"{side}_shoulder"] for side in SIDES]]
        width = np.linalg.norm(shoulders[:, 0] - shoulders[:, 1], axis=1)
        return (places[:, JOINT["neck"], 1] - shoulders[..., 1].mean(1)) / (width / 2)

    wrists = joints[:, [JOINT[f"{side}_wrist"] for side in SIDES], 1]
    is_low = (wrists < joints[:, JOINT["spine3"], None, 1]).all(1)
    return float((drop(portrait)[0] - drop(joints)[is_low]).mean()) if is_low.any() else np.nan


def _count_background(background: np.ndarray, finder: HandFinder) -> int:
    """Hands and faces in a background u8 [H, W, 3]: in the whole, and in overlapping halves of it."""
    H, W = background.shape[:2]
    half_h, half_w = H // 2, W // 2
    tiles = [background[y : y + half_h, x : x + half_w] for y in (0, H // 4, half_h) for x in (0, W // 4, half_w)]
    return sum(finder.count_hands_and_faces(tile) for tile in [background, *tiles])


@dataclass(frozen=True)
class SleeveLabel:
    """Where the sleeves of a portrait end. The label was made by eye, on the portrait with a fitted arm in tenths."""

    end: float  # share of the arm from shoulder to wrist, 1 for long sleeves
    # side -> f64 [2] where the middle of the upper arm is at the end, as shares of the picture's width and height.
    # Other fits place the arm a little differently. Empty for an end that does not lie on the upper arm.
    places: dict[str, np.ndarray]

    def of_arm(self, side: str, shoulder: np.ndarray, elbow: np.ndarray, upper_share: float) -> float:
        """The end as a share of a fitted arm whose shoulder and elbow are at these places, each f64 [2] as `places`.

        upper_share: the upper arm's share of the arm.
        """
        if side not in self.places:
            return self.end
        bone = elbow - shoulder
        return float((self.places[side] - shoulder) @ bone / (bone @ bone)) * upper_share


@cache
def read_sleeve_labels() -> dict[str, SleeveLabel]:
    """The labels of the evaluated portraits, by name."""
    with open(ASSETS / "sleeve_labels.csv", encoding="utf-8", newline="") as lines:
        return {row["portrait"]: _sleeve_label(row) for row in csv.DictReader(lines)}


def _sleeve_label(row: dict[str, str]) -> SleeveLabel:
    places = {side: np.array([float(row[f"{side}_x"]), float(row[f"{side}_y"])]) for side in SIDES if row[f"{side}_x"]}
    return SleeveLabel(float(row["end"]), places)


def are_sleeves_right(avatar: Avatar, body: Body, label: SleeveLabel) -> bool:
    """Whether both sleeves of a portrait end where its label says, to 5 % of the arm."""
    still = Motion.still(avatar.poses, avatar.expression)
    vertices = body.pose(still, avatar.betas, avatar.surface)[0]
    pixels = project(vertices, avatar.intrinsics, avatar.extrinsics)
    limbs = project_limbs(SIDES, avatar.regions.shape, body, pixels, np.zeros(len(pixels)))
    lab = color_segmentation.cielab(avatar.portrait)
    skin = color_segmentation.distance(lab, lab[avatar.regions == REGION["face"]])
    joints = body.posed_joints(still, avatar.betas, avatar.surface)[0][0]
    places = project(joints, avatar.intrinsics, avatar.extrinsics)[:, :2] / avatar.regions.shape[::-1]
    names = ("shoulder", "elbow", "wrist")
    start, middle, last = np.abs(body.joints(np.zeros(body.betas, np.float32))[[JOINT[f"left_{n}"] for n in names], 0])
    for side, end in find_sleeve_ends(limbs, avatar.regions, lab, skin).items():
        if not limbs[side].arm.any():
            continue
        shoulder, elbow = (places[JOINT[f"{side}_{name}"]] for name in names[:2])
        right = label.of_arm(side, shoulder, elbow, (middle - start) / (last - start))
        # 1 - 0.95 is more than 0.05 in floating point.
        if not abs(np.clip((end - start) / (last - start), 0, 1) - right) <= _SLEEVE_TOLERANCE + 1e-6:
            return False
    return True


def summary(scores: list[GestureScores], ranges_before: list[float]) -> dict[str, float]:
    """The keys of metrics/portraits.json: means over the portraits, of hands and arms over those in which hands show.

    ranges_before: `wrist_range` of every clip's motion before it was fitted to the portrait.
    """
    if not scores:
        return {}
    has_hands = [np.isfinite(s.hands_found) for s in scores]

    def mean(name: str) -> float:
        values = np.array([getattr(s, name) for s, shows in zip(scores, has_hands, strict=True) if shows], float)
        return float(np.nanmean(values)) if np.isfinite(values).any() else np.nan

    ratios = [s.wrist_range / b for s, b, shows in zip(scores, ranges_before, has_hands, strict=True) if shows and b]
    means = (
        "hands_found",
        "finger_joint_error",
        "portrait_joint_error",
        "unseen_hands",
        "unseen_arms",
        "shoulder_rise",
    )
    return {
        "portraits": len(scores),
        **{name: mean(name) for name in means},
        "wrist_range_over_before": float(np.mean(ratios)) if ratios else np.nan,
        "background_hands": float(sum(s.background_hands for s in scores)),
        "background_person": float(np.mean([s.background_person for s in scores])),
        "sleeves_right": float(np.nansum([s.sleeves_right for s in scores])),
        "sleeves_labelled": float(np.isfinite([s.sleeves_right for s in scores]).sum()),
    }


def sheet_row(avatar: Avatar, scores: GestureScores) -> list[np.ndarray]:
    """A row of the contact sheet: the portrait and frames of the clip, u8 [H, W, 3] each."""
    size = scores.frames.shape[2], scores.frames.shape[1]
    return [cv2.resize(avatar.portrait, size, interpolation=cv2.INTER_AREA), *scores.frames]
