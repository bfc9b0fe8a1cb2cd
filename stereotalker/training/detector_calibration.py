"""Stage `avatar`: calibrates a landmark detector on rendered synthetic people.

It measures where the detector's keypoints lie on the body, and takes priors of the pose from the reference acting. What
the arrays of the file mean is said at `stereotalker.avatar.detector_calibration.Calibration`, which reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from stereotalker.acting.face import resting_expression
from stereotalker.acting.reference_acting import STYLES, act
from stereotalker.audio.speech import from_script
from stereotalker.audio.text_to_speech import Voice
from stereotalker.avatar.detector_calibration import (
    ARM_JOINTS,
    FACE_HEIGHT_M,
    FINGERS,
    MIRROR_X,
    OFFSET_FRAMES,
    TRUNK_JOINTS,
)
from stereotalker.avatar.landmarks import FACE_POINTS, POSE, Detector, Landmarks
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

# Position of the detector's fingertip keypoints, as a share of the way from the last joint to the tip of the finger.
_FINGERTIP_SHARE = 0.9
_ARM_EXAMPLES = 60  # poses of the arms that the file keeps
# Pictures of heads: size in px, zoom beyond `look_at`'s focal length, and distance of the camera in m.
_HEAD_PX, _HEAD_ZOOM, _HEAD_DISTANCE = 512, 2.2, 1.6
# Jaw opening in rad; yaw and pitch of the head in degrees.
_VIEWS = (
    (0.0, 0, 0),
    (0.12, 0, 0),
    (0.0, 15, 0),
    (0.0, -15, 0),
    (0.06, 0, 10),
    (0.0, 0, -10),
)
# Standard deviation, rad, that is added to every joint of arms and hands: people move more widely than the acting does.
_ARM_SD, _HAND_SD = 0.40, 0.15
# The reference acting of this sentence gives the priors of the pose.
_SENTENCE = "Good evening, my name is nobody. We have three big questions for you, and one small answer."


def build_calibration(path: Path, body: Body, detector: Detector, params: AvatarParams, log=print) -> None:
    """Render people, run the detector on them, and write the calibration to `path`.

    It takes about four seconds per identity. Raises UserError if the detector finds less than half of the rendered
    heads.
    """
    heads, portraits = [], []
    for number in range(params.calibrated):
        actor = build_actor(params.first_identity + number, body, 768, 1, rest="open" if number % 2 else "")
        heads += [head for view in _VIEWS if (head := _detect_head(actor, body, detector, *view)) is not None]
        portraits.append((actor.avatar, detector(actor.avatar.portrait)))
        if (number + 1) % 6 == 0:
            log(
                f"avatar: {number + 1} of {params.calibrated} people looked at, "
                f"{len(heads)} of {len(_VIEWS) * (number + 1)} heads found"
            )
    if len(heads) < len(_VIEWS) * params.calibrated / 2:
        raise UserError(
            f"the detector {detector.name} found {len(heads)} of {len(_VIEWS) * params.calibrated} rendered heads; "
            "expected most of them"
        )
    points = np.stack([head.points for head in heads])
    triangle, weights, template = _onto_surface(np.nanmedian(points, 0), body)
    spread = np.nanmedian(np.linalg.norm(points - template, axis=-1), 0) / FACE_HEIGHT_M
    rotations = Rotation.from_matrix(
        np.stack([head.body_rotation.T @ head.detected_rotation for head in heads if head.is_level])
    )
    pose_offsets = [_offset(name, frame, portraits, body) for name, frame in OFFSET_FRAMES.items()]
    write_arrays(
        path,
        {
            "face_triangle": triangle,
            "face_weights": weights.astype(np.float32),
            "face_spread": spread.astype(np.float32),
            "face_template": template.astype(np.float32),
            "head_offset": rotations.mean().inv().as_matrix().astype(np.float32),
            "pose_offsets": np.stack(pose_offsets).astype(np.float32),
            "tips": _finger_tips(body),
            **_priors(),
        },
    )


class _Head(NamedTuple):
    """What the detector found on one rendered head."""

    points: np.ndarray  # f32 [478, 3] m: its keypoints on the mean body at rest; NaN where the ray missed the body
    body_rotation: np.ndarray  # [3, 3] of the head joint
    detected_rotation: np.ndarray  # [3, 3] of the head, as the detector estimates it
    # False if jaw or pitch are not 0. The detector reports only four fifths of a nod, so such heads do not calibrate
    # the rotation.
    is_level: bool


def _detect_head(actor: Actor, body: Body, detector: Detector, jaw: float, yaw: float, pitch: float) -> _Head | None:
    """Render a head close up and detect its keypoints; None if the detector finds no face. See _VIEWS for the units."""
    avatar, size = actor.avatar, (_HEAD_PX, _HEAD_PX)
    poses = avatar.poses.copy()
    poses[JOINT["jaw"], 0] = jaw
    for joint, share in (("neck", 0.4), ("head", 0.6)):
        poses[JOINT[joint], :2] = share * np.radians([pitch, yaw])
    posed = body.posed(Motion.still(poses, avatar.expression), actor.dressed_person.betas, actor.dressed_person.face)
    vertices, is_head = posed.vertices[0], body.weights[:, JOINT["head"]] > 0.5
    center = vertices[is_head].mean(0).astype(np.float32)
    view = cameras.look_at(np.zeros(1), np.zeros(1), np.full(1, _HEAD_DISTANCE), center, size)
    K, E = view.intrinsics[0].copy(), view.extrinsics[0]
    K[[0, 1], [0, 1]] *= _HEAD_ZOOM
    wall = np.full((*size, 3), 150, np.uint8)
    landmarks = detector(render(actor.dressed_person.figure, vertices, posed.turn[0], K, E, actor.light, wall, 1).image)
    if landmarks.face is None or landmarks.head is None:
        return None
    hit = rasterize(cameras.project(vertices, K, E), body.faces, size)
    x, y = np.clip(landmarks.face.astype(int), 0, _HEAD_PX - 1).T
    triangle, barycentric = hit.face[y, x], hit.bary[y, x]
    points = (body.template[body.faces[triangle]] * barycentric[..., None]).sum(1)
    points[triangle < 0] = np.nan
    return _Head(
        points,
        posed.turn[0][body.weights[:, JOINT["head"]] > 0.9].mean(0),
        landmarks.head,
        is_level=not jaw and not pitch,
    )


def _onto_surface(points: np.ndarray, body: Body) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Project keypoints [N, 3] onto the nearest point of the mean body: eyeballs for the iris, skin for all others.

    Returns the triangle i64 [N], barycentric weights f64 [N, 3] and the surface point [N, 3] m.
    """
    parts = np.where(np.arange(FACE_POINTS) >= 468, PARTS["eye"][0], PARTS["body"][0])
    triangle, weights = np.zeros(FACE_POINTS, np.int64), np.zeros((FACE_POINTS, 3))
    for part in np.unique(parts):
        rows = np.flatnonzero((body.part[body.faces] == part).all(1))
        corners = body.template[body.faces[rows]]
        near = cKDTree(corners.mean(1)).query(points[parts == part], k=24)[1]
        for n, point, candidates in zip(np.flatnonzero(parts == part), points[parts == part], near, strict=True):
            barycentric = np.stack([_barycentric(point, corners[c]) for c in candidates])
            surface_points = (corners[candidates] * barycentric[..., None]).sum(1)
            best = np.linalg.norm(surface_points - point, axis=1).argmin()
            triangle[n], weights[n] = rows[candidates[best]], barycentric[best]
    return triangle, weights, (body.template[body.faces[triangle]] * weights[..., None]).sum(1)


def _barycentric(point: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Barycentric weights [3] of a point projected onto a triangle's plane, clipped to the inside of the triangle."""
    a, b, c = corners
    w = np.linalg.lstsq(np.stack([b - a, c - a], 1), point - a, rcond=None)[0]
    weights = np.clip([1 - w.sum(), *w], 0, 1)
    return weights / weights.sum()


def _offset(name: str, frame: str, portraits: list[tuple[Avatar, Landmarks]], body: Body) -> np.ndarray:
    """Mean offset [3] m of the detector's body keypoint `name` from our joint, in the axes of the joint `frame`."""
    observations = []
    for avatar, landmarks in portraits:
        for side in SIDES:
            index = POSE[f"{side}_{name}"]
            if (
                landmarks.pose is not None
                and landmarks.people == 1
                and landmarks.is_visible(f"{side}_{name}")
                and (landmarks.pose[index] < landmarks.size[::-1]).all()
            ):
                observations.append((avatar, side, f"{side}_{name}", frame.format(side=side), landmarks.pose[index]))
    return _mean_offset(observations, body)


def _finger_tips(body: Body) -> np.ndarray:
    """Offset f32 [5, 3] from the last joint of every finger to its tip, in lengths of the bone before that joint.

    It comes from the body's mesh, because the detector finds rendered hands too badly.
    """
    joints, tips = body.joints(np.zeros(body.betas, np.float32)), np.zeros((len(FINGERS), 3), np.float32)
    for f, finger in enumerate(FINGERS):
        last, before = JOINT[f"left_{finger}3"], JOINT[f"left_{finger}2"]
        is_fingertip = (body.weights[:, last] > 0.4) & (body.part == PARTS["body"][0])
        tip = body.template[
            np.argmax(np.where(is_fingertip, body.template @ [1.0, 0, 0.5 * (finger == "thumb")], -np.inf))
        ]
        tips[f] = _FINGERTIP_SHARE * (tip - joints[last]) / np.linalg.norm(joints[last] - joints[before])
    return tips


def _mean_offset(observations: list[tuple[Avatar, str, str, str, np.ndarray]], body: Body) -> np.ndarray:
    """The offset [3] m that fits all observations best, by least squares in the image plane.

    Both sides of the body are fitted together; the right side mirrors x.

    An observation is (avatar, side, joint, joint in whose axes the offset is, keypoint [2] px).
    """
    # A weak prior pulls the offset to zero, because pictures hardly show its depth.
    rows, values = [1e2 * np.eye(3)], [np.zeros(3)]
    for avatar, side, joint, frame, pixel in observations:
        joints, turns = body.posed_joints(Motion.still(avatar.poses, avatar.expression), avatar.betas)
        E, K = avatar.extrinsics, avatar.intrinsics
        position = E[:3, :3] @ joints[0, JOINT[joint]] + E[:3, 3]
        axes = E[:3, :3] @ turns[0, JOINT[frame]] * np.array([MIRROR_X[side], 1, 1])
        rows.append((axes * K[0, 0] / position[2])[:2])
        values.append(pixel - (K @ (position / position[2]))[:2])
    return np.linalg.lstsq(np.concatenate(rows), np.concatenate(values), rcond=None)[0]


def _priors() -> dict[str, np.ndarray]:
    """Priors of trunk, arms, fingers and face, from the reference acting of one sentence in every style."""
    speech = from_script(_SENTENCE, Voice(), -20.0)
    poses = np.concatenate(
        [act(speech, style, 40 + k, 5.0, 1.2).poses for k, style in enumerate(STYLES) for _ in range(2)]
    )
    arms = poses[:, [JOINT[name] for name in ARM_JOINTS]].reshape(len(poses), -1)
    hands = np.stack([poses[:, part].reshape(len(poses), -1) for part in (LEFT_HAND, RIGHT_HAND)])

    def scale(rows, floor):
        """Cholesky factor of the covariance of `rows`, plus a standard deviation `floor` on every coordinate."""
        return np.linalg.cholesky(np.cov(rows.T) + floor**2 * np.eye(rows.shape[1]))

    priors = {
        "arm_examples": _farthest_points(arms, _ARM_EXAMPLES),
        "trunk_mean": poses[:, [JOINT[name] for name in TRUNK_JOINTS]].mean(0),
        "arm_mean": arms.mean(0),
        "arm_scale": scale(arms, _ARM_SD),
        "hand_mean": hands.mean(1),
        "hand_scale": np.stack([scale(rows, _HAND_SD) for rows in hands]),
        "expression_mean": resting_expression(),
    }
    assert len(priors["expression_mean"]) == len(ACTIONS)
    return {name: value.astype(np.float32) for name, value in priors.items()}


def _farthest_points(rows: np.ndarray, count: int) -> np.ndarray:
    """Farthest point sampling: `count` rows, each of them the farthest from those before it."""
    selected, distance = [0], np.linalg.norm(rows - rows[0], axis=1)
    while len(selected) < count:
        selected.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(rows - rows[selected[-1]], axis=1))
    return rows[selected]
