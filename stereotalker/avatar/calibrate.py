"""Where a detector's points lie on our body, and how people hold themselves: measured on rendered synthetic people.

The detector runs on rendered heads and its points are cast back onto the surface; its body points become offsets from our joints;
the acting of all personalities gives the prior of arms and fingers. Stage `avatar` writes the file, fits only read it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from stereotalker.audio.speak import Voice
from stereotalker.audio.speech import from_script
from stereotalker.avatar.landmarks import FACE_POINTS, POSE, VISIBLE, Detector, Landmarks
from stereotalker.body import camera as cameras
from stereotalker.body.build import PARTS
from stereotalker.body.layout import ACTIONS, JOINT, LEFT_HAND, RIGHT_HAND, SIDES
from stereotalker.body.model import Body
from stereotalker.body.raster import rasterize
from stereotalker.errors import UserError
from stereotalker.params import ROOT, AvatarParams
from stereotalker.people.acting import STYLES, act
from stereotalker.people.face import resting
from stereotalker.people.shading import render
from stereotalker.people.takes import Cast, cast
from stereotalker.records import Avatar, Motion
from stereotalker.store import write_arrays

FACE_M = 0.165  # from the chin to the upper edge of the forehead, of the mean shape
FILE = ROOT / "stereotalker" / "assets" / "DETECTOR_FREE.npz"
ARM_JOINTS = tuple(f"{side}_{name}" for side in SIDES for name in ("collar", "shoulder", "elbow", "wrist"))
TRUNK_JOINTS = ("spine1", "spine2", "spine3")
_FRAMES = {"shoulder": "{side}_collar", "elbow": "{side}_shoulder", "wrist": "{side}_elbow", "hip": "pelvis"}  # that offsets turn with
_FINGERS = ("thumb", "index", "middle", "ring", "pinky")  # as the detector counts them
_UNDER_NAIL = 0.9  # of the way to the tip, where the detector's points of tips lie
HAND_JOINTS = ("wrist", *(f"{finger}{k}" for finger in _FINGERS for k in (1, 2, 3, 3)))  # the last of each is its tip
MIRROR = {"left": 1.0, "right": -1.0}
_EXAMPLES = 60
_HEAD_PX, _HEAD_ZOOM, _HEAD_M = 512, 2.2, 1.6
_VIEWS = ((0.0, 0, 0), (0.12, 0, 0), (0.0, 15, 0), (0.0, -15, 0), (0.06, 0, 10), (0.0, 0, -10))  # jaw rad; yaw, pitch of the head, degrees
_ARM_SD, _HAND_SD = 0.40, 0.15  # rad that every joint may deviate beyond what the acting does
_SAYING = "Good evening, my name is nobody. We have three big questions for you, and one small answer."


class PosePoint(NamedTuple):
    """A body point of the detector: how far it lies from our joint, in the frame of a joint. Left side; the right one mirrors x."""

    frame: str
    offset: np.ndarray  # f32 [3] m


@dataclass(frozen=True)
class Calibration:
    face_triangle: np.ndarray  # i64 [478]
    face_weights: np.ndarray  # f32 [478, 3] barycentric
    face_spread: np.ndarray  # f32 [478] median distance of single casts, in face heights
    face_template: np.ndarray  # f32 [478, 3] m, on the mean body at rest
    head_offset: np.ndarray  # f32 [3, 3] takes the detector's head rotation to ours
    pose_offsets: np.ndarray  # f32 [shoulder elbow wrist hip, 3] m
    tips: np.ndarray  # f32 [5, 3] from the last joint of each finger, in lengths of the bone before it; left hand, the right one mirrors x
    arm_examples: np.ndarray  # f32 [N, 24] rad: arms of the acting that differ
    trunk_mean: np.ndarray  # f32 [3, 3] rad
    arm_mean: np.ndarray  # f32 [24]
    arm_scale: np.ndarray  # f32 [24, 24] Cholesky factor of the covariance
    hand_mean: np.ndarray  # f32 [2, 45]
    hand_scale: np.ndarray  # f32 [2, 45, 45]
    expression_mean: np.ndarray  # f32 [52]

    @property
    def pose_points(self) -> dict[str, PosePoint]:
        return {name: PosePoint(frame, offset) for (name, frame), offset in zip(_FRAMES.items(), self.pose_offsets, strict=True)}

    @property
    def arm_joints(self) -> list[int]:
        return [JOINT[name] for name in ARM_JOINTS]


    def face_points(self, values: np.ndarray, faces: np.ndarray) -> np.ndarray:
        """Values [V, C] of a body's vertices (places, pixels) at the face's points, [478, C]; faces i32 [F, 3] the body's."""
        return (values[faces[self.face_triangle]] * self.face_weights[..., None]).sum(1)


@lru_cache(maxsize=1)
def read_calibration(path: Path = FILE) -> Calibration:
    if not path.is_file():
        raise UserError(f"{path} not found; run the stage `avatar`, or restore the repository's file")
    with np.load(path, allow_pickle=False) as file:
        return Calibration(**{field.name: file[field.name] for field in fields(Calibration)})


def build_calibration(path: Path, body: Body, detector: Detector, params: AvatarParams, log=print) -> None:
    """Write the file. Some four seconds an identity. Raises UserError where the detector finds hardly any face."""
    casts, heads, portraits = [], [], []
    for number in range(params.calibrated):
        actor = cast(params.first_identity + number, body, 768, 1, rest="open" if number % 2 else "")
        heads += [head for view in _VIEWS if (head := _look_at_head(actor, body, detector, *view)) is not None]
        portraits.append((actor.avatar, detector(actor.avatar.portrait)))
        casts.append(actor)
        if (number + 1) % 6 == 0:
            log(f"avatar: {number + 1} of {params.calibrated} people looked at, {len(heads)} of {len(_VIEWS) * (number + 1)} heads found")
    if len(heads) < len(_VIEWS) * params.calibrated / 2:
        raise UserError(f"the detector {detector.name} found {len(heads)} of {len(_VIEWS) * params.calibrated} rendered heads; expected most of them")
    points = np.stack([head.points for head in heads])
    triangle, weights, template = _onto_surface(np.nanmedian(points, 0), body)
    spread = np.nanmedian(np.linalg.norm(points - template, axis=-1), 0) / FACE_M
    rotations = Rotation.from_matrix(np.stack([head.ours.T @ head.told for head in heads if head.level]))
    write_arrays(path, {
        "face_triangle": triangle, "face_weights": weights.astype(np.float32), "face_spread": spread.astype(np.float32),
        "face_template": template.astype(np.float32), "head_offset": rotations.mean().inv().as_matrix().astype(np.float32),
        "pose_offsets": np.stack([_offset(name, frame, portraits, body) for name, frame in _FRAMES.items()]).astype(np.float32),
        "tips": _finger_tips(body),
        **_priors(),
    })  # fmt: skip


class _Head(NamedTuple):
    points: np.ndarray  # f32 [478, 3] m on the mean body at rest; NaN where the cast missed
    ours: np.ndarray  # [3, 3]
    told: np.ndarray  # [3, 3]
    level: bool  # of heads that nod, the detector tells only four fifths


def _look_at_head(actor: Cast, body: Body, detector: Detector, jaw: float, yaw: float, pitch: float) -> _Head | None:
    avatar, size = actor.avatar, (_HEAD_PX, _HEAD_PX)
    poses = avatar.poses.copy()
    poses[JOINT["jaw"], 0] = jaw
    for joint, share in (("neck", 0.4), ("head", 0.6)):
        poses[JOINT[joint], :2] = share * np.radians([pitch, yaw])
    posed = body.posed(Motion.still(poses, avatar.expression), actor.dressed.betas, actor.dressed.face)
    vertices, head = posed.vertices[0], body.weights[:, JOINT["head"]] > 0.5
    centre = vertices[head].mean(0).astype(np.float32)
    view = cameras.look_at(np.zeros(1), np.zeros(1), np.full(1, _HEAD_M), centre, size)
    K, E = view.intrinsics[0].copy(), view.extrinsics[0]
    K[[0, 1], [0, 1]] *= _HEAD_ZOOM
    wall = np.full((*size, 3), 150, np.uint8)
    found = detector(render(actor.dressed.figure, vertices, posed.turn[0], K, E, actor.light, wall, 1).image)
    if found.face is None or found.head is None:
        return None
    hit = rasterize(cameras.project(vertices, K, E), body.faces, size)
    x, y = np.clip(found.face.astype(int), 0, _HEAD_PX - 1).T
    triangle, shares = hit.face[y, x], hit.bary[y, x]
    points = (body.template[body.faces[triangle]] * shares[..., None]).sum(1)
    points[triangle < 0] = np.nan
    return _Head(points, posed.turn[0][body.weights[:, JOINT["head"]] > 0.9].mean(0), found.head, level=not jaw and not pitch)


def _onto_surface(points: np.ndarray, body: Body) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nearest place of the mean body's skin, or of an eye: triangle [N], barycentric [N, 3], the place [N, 3]."""
    parts = np.where(np.arange(FACE_POINTS) >= 468, PARTS["eye"][0], PARTS["body"][0])
    triangle, weights = np.zeros(FACE_POINTS, np.int64), np.zeros((FACE_POINTS, 3))
    for part in np.unique(parts):
        rows = np.flatnonzero((body.part[body.faces] == part).all(1))
        corners = body.template[body.faces[rows]]
        near = cKDTree(corners.mean(1)).query(points[parts == part], k=24)[1]
        for n, point, candidates in zip(np.flatnonzero(parts == part), points[parts == part], near, strict=True):
            shares = np.stack([_barycentric(point, corners[c]) for c in candidates])
            places = (corners[candidates] * shares[..., None]).sum(1)
            best = np.linalg.norm(places - point, axis=1).argmin()
            triangle[n], weights[n] = rows[candidates[best]], shares[best]
    return triangle, weights, (body.template[body.faces[triangle]] * weights[..., None]).sum(1)


def _barycentric(point: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Of the projection onto the triangle's plane, pulled inside it."""
    a, b, c = corners
    w = np.linalg.lstsq(np.stack([b - a, c - a], 1), point - a, rcond=None)[0]
    shares = np.clip([1 - w.sum(), *w], 0, 1)
    return shares / shares.sum()


def _offset(name: str, frame: str, portraits: list[tuple[Avatar, Landmarks]], body: Body) -> np.ndarray:
    """Mean offset [3] m of a body point from our joint."""
    seen = []
    for avatar, marks in portraits:
        for side in SIDES:
            at = POSE[f"{side}_{name}"]
            if marks.pose is not None and marks.people == 1 and marks.visible[at] >= VISIBLE and (marks.pose[at] < marks.size[::-1]).all():
                seen.append((avatar, side, f"{side}_{name}", frame.format(side=side), marks.pose[at]))
    return _mean_offset(seen, body)


def _finger_tips(body: Body) -> np.ndarray:
    """From the last joint of every finger to its tip, in lengths of the bone before it: anatomy, as rendered hands are found too badly. f32 [5, 3]."""
    joints, out = body.joints(np.zeros(body.betas, np.float32)), np.zeros((len(_FINGERS), 3), np.float32)
    for f, finger in enumerate(_FINGERS):
        last, before = JOINT[f"left_{finger}3"], JOINT[f"left_{finger}2"]
        near = (body.weights[:, last] > 0.4) & (body.part == PARTS["body"][0])
        tip = body.template[np.argmax(np.where(near, body.template @ [1.0, 0, 0.5 * (finger == "thumb")], -np.inf))]
        out[f] = _UNDER_NAIL * (tip - joints[last]) / np.linalg.norm(joints[last] - joints[before])
    return out


def _mean_offset(seen: list[tuple[Avatar, str, str, str, np.ndarray]], body: Body) -> np.ndarray:
    """By least squares in the view plane, both sides together: (avatar, side, joint, joint whose frame it is in, px)."""
    rows, values = [1e2 * np.eye(3)], [np.zeros(3)]  # a little pull to zero: depth is hardly seen
    for avatar, side, joint, frame, pixel in seen:
        joints, turns = body.posed_joints(Motion.still(avatar.poses, avatar.expression), avatar.betas)
        E, K = avatar.extrinsics, avatar.intrinsics
        at = E[:3, :3] @ joints[0, JOINT[joint]] + E[:3, 3]
        turn = E[:3, :3] @ turns[0, JOINT[frame]] * np.array([MIRROR[side], 1, 1])
        rows.append((turn * K[0, 0] / at[2])[:2])
        values.append(pixel - (K @ (at / at[2]))[:2])
    return np.linalg.lstsq(np.concatenate(rows), np.concatenate(values), rcond=None)[0]


def _priors() -> dict[str, np.ndarray]:
    """How people stand, hold their arms and their fingers, from the acting of every personality."""
    speech = from_script(_SAYING, Voice(), -20.0)[0]
    poses = np.concatenate([act(speech, style, 40 + k, 5.0, 1.2).poses for k, style in enumerate(STYLES) for _ in range(2)])
    arms = poses[:, [JOINT[name] for name in ARM_JOINTS]].reshape(len(poses), -1)
    hands = np.stack([poses[:, part].reshape(len(poses), -1) for part in (LEFT_HAND, RIGHT_HAND)])
    spread = lambda rows, floor: np.linalg.cholesky(np.cov(rows.T) + floor**2 * np.eye(rows.shape[1]))  # noqa: E731
    priors = {
        "arm_examples": _spread_out(arms, _EXAMPLES), "trunk_mean": poses[:, [JOINT[name] for name in TRUNK_JOINTS]].mean(0), "arm_mean": arms.mean(0), "arm_scale": spread(arms, _ARM_SD),
        "hand_mean": hands.mean(1), "hand_scale": np.stack([spread(rows, _HAND_SD) for rows in hands]), "expression_mean": resting(),
    }  # fmt: skip
    assert len(priors["expression_mean"]) == len(ACTIONS)
    return {name: value.astype(np.float32) for name, value in priors.items()}


def _spread_out(rows: np.ndarray, count: int) -> np.ndarray:
    """Rows far from each other: each the farthest from those before it."""
    picked, distance = [0], np.linalg.norm(rows - rows[0], axis=1)
    while len(picked) < count:
        picked.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(rows - rows[picked[-1]], axis=1))
    return rows[picked]
