"""Stage avatar: measures where a detector's points lie on the body, on rendered synthetic people."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from stereotalker.acting.face import resting
from stereotalker.acting.reference_acting import STYLES, act
from stereotalker.audio.speech import from_script
from stereotalker.audio.text_to_speech import Voice
from stereotalker.avatar.detector_calibration import ARM_JOINTS, FACE_M, FINGERS, MIRROR, OFFSET_FRAMES, TRUNK_JOINTS
from stereotalker.avatar.landmarks import FACE_POINTS, POSE, VISIBLE, Detector, Landmarks
from stereotalker.body.free_body import PARTS
from stereotalker.body.model import Body
from stereotalker.errors import UserError
from stereotalker.geometry import camera as cameras
from stereotalker.geometry.rasterizer import rasterize
from stereotalker.params import AvatarParams
from stereotalker.records import Avatar, Motion
from stereotalker.smplx_layout import ACTIONS, JOINT, LEFT_HAND, RIGHT_HAND, SIDES
from stereotalker.store.files import write_arrays
from stereotalker.synthetic.actor import Actor, build_actor
from stereotalker.synthetic.shading import render

_UNDER_NAIL = 0.9  # of the way to the tip, where the detector's points of tips lie


_EXAMPLES = 60


_HEAD_PX, _HEAD_ZOOM, _HEAD_M = 512, 2.2, 1.6


_VIEWS = (
    (0.0, 0, 0),
    (0.12, 0, 0),
    (0.0, 15, 0),
    (0.0, -15, 0),
    (0.06, 0, 10),
    (0.0, 0, -10),
)  # jaw rad; yaw, pitch of the head, degrees


_ARM_SD, _HAND_SD = 0.40, 0.15  # rad that every joint may deviate beyond what the acting does


_SAYING = "Good evening, my name is nobody. We have three big questions for you, and one small answer."


def build_calibration(path: Path, body: Body, detector: Detector, params: AvatarParams, log=print) -> None:
    """Write the file. Some four seconds an identity. Raises UserError where the detector finds hardly any face."""
    casts, heads, portraits = [], [], []
    for number in range(params.calibrated):
        actor = build_actor(params.first_identity + number, body, 768, 1, rest="open" if number % 2 else "")
        heads += [head for view in _VIEWS if (head := _look_at_head(actor, body, detector, *view)) is not None]
        portraits.append((actor.avatar, detector(actor.avatar.portrait)))
        casts.append(actor)
        if (number + 1) % 6 == 0:
            log(
                f"avatar: {number + 1} of {params.calibrated} people looked at, {len(heads)} of {len(_VIEWS) * (number + 1)} heads found"
            )
    if len(heads) < len(_VIEWS) * params.calibrated / 2:
        raise UserError(
            f"the detector {detector.name} found {len(heads)} of {len(_VIEWS) * params.calibrated} rendered heads; expected most of them"
        )
    points = np.stack([head.points for head in heads])
    triangle, weights, template = _onto_surface(np.nanmedian(points, 0), body)
    spread = np.nanmedian(np.linalg.norm(points - template, axis=-1), 0) / FACE_M
    rotations = Rotation.from_matrix(np.stack([head.ours.T @ head.told for head in heads if head.level]))
    write_arrays(path, {
        "face_triangle": triangle, "face_weights": weights.astype(np.float32), "face_spread": spread.astype(np.float32),
        "face_template": template.astype(np.float32), "head_offset": rotations.mean().inv().as_matrix().astype(np.float32),
        "pose_offsets": np.stack([_offset(name, frame, portraits, body) for name, frame in OFFSET_FRAMES.items()]).astype(np.float32),
        "tips": _finger_tips(body),
        **_priors(),
    })  # fmt: skip


class _Head(NamedTuple):
    points: np.ndarray  # f32 [478, 3] m on the mean body at rest; NaN where the cast missed
    ours: np.ndarray  # [3, 3]
    told: np.ndarray  # [3, 3]
    level: bool  # of heads that nod, the detector tells only four fifths


def _look_at_head(actor: Actor, body: Body, detector: Detector, jaw: float, yaw: float, pitch: float) -> _Head | None:
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
    return _Head(
        points, posed.turn[0][body.weights[:, JOINT["head"]] > 0.9].mean(0), found.head, level=not jaw and not pitch
    )


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
            if (
                marks.pose is not None
                and marks.people == 1
                and marks.visible[at] >= VISIBLE
                and (marks.pose[at] < marks.size[::-1]).all()
            ):
                seen.append((avatar, side, f"{side}_{name}", frame.format(side=side), marks.pose[at]))
    return _mean_offset(seen, body)


def _finger_tips(body: Body) -> np.ndarray:
    """From the last joint of every finger to its tip, in lengths of the bone before it: anatomy, as rendered hands are found too badly. f32 [5, 3]."""
    joints, out = body.joints(np.zeros(body.betas, np.float32)), np.zeros((len(FINGERS), 3), np.float32)
    for f, finger in enumerate(FINGERS):
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
    poses = np.concatenate(
        [act(speech, style, 40 + k, 5.0, 1.2).poses for k, style in enumerate(STYLES) for _ in range(2)]
    )
    arms = poses[:, [JOINT[name] for name in ARM_JOINTS]].reshape(len(poses), -1)
    hands = np.stack([poses[:, part].reshape(len(poses), -1) for part in (LEFT_HAND, RIGHT_HAND)])

    def spread(rows, floor):
        return np.linalg.cholesky(np.cov(rows.T) + floor**2 * np.eye(rows.shape[1]))

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
