"""Fit SMPL-X parameters and a camera to a portrait's keypoints, after SMPLify-X (Pavlakos et al. 2019).

The trunk stands as in the motion examples and the camera turns around it, so that a clip's motion starts from the
portrait's own posture. `fit_problem` defines the energy that is minimized here, and its priors.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from stereotalker.avatar.detector_calibration import Calibration
from stereotalker.avatar.fit_problem import LOOSE_OUTLIER_SD, Fit, FitProblem, Unknowns, hand_points
from stereotalker.avatar.landmarks import Landmarks
from stereotalker.body.model import Body, load_body
from stereotalker.body.shape_space import SHAPE_SPACE_FILE, load_shape_space
from stereotalker.geometry.camera import project
from stereotalker.smplx_layout import JOINT, JOINTS, PARENTS, SIDES

# Residuals beyond this many standard deviations count as outliers in the last rounds.
_STRICT_OUTLIER_SD = 5.0
# One standard deviation of the lengths of upper arms, forearms and hands, as shares of the mean body's lengths.
_SD_LIMBS = (0.12, 0.12, 0.10)
# One standard deviation of a local face change, as a share of the full change.
_SD_FACE_CHANGE = 0.3


def fit(landmarks: Landmarks, body: Body, calibration: Calibration) -> Fit:
    """Find the body and the camera that explain the keypoints. One to three seconds.

    Raises ClipError if the optimization diverges. The caller must judge the residuals of the result.
    """
    problem = FitProblem(landmarks, body, calibration, extra_shapes(body))
    start = problem.start()
    head = _minimize(problem, start, ("eye", "turn", "head"), 25, LOOSE_OUTLIER_SD)
    start = problem.place_arms(head)
    rough = _minimize(problem, start, ("eye", "turn", "head", "betas", "extra", "arms", "spine"), 50, LOOSE_OUTLIER_SD)
    close = _minimize(problem, rough, Unknowns._fields, 80, LOOSE_OUTLIER_SD)
    return problem.result(_minimize(problem, close, Unknowns._fields, 80, _STRICT_OUTLIER_SD))


def _minimize(
    problem: FitProblem, start: Unknowns, names: tuple[str, ...], iterations: int, outlier_sd: float
) -> Unknowns:
    """Minimize the energy over the named unknowns by L-BFGS; the other unknowns stay as in `start`."""
    free = [getattr(start, name).clone().requires_grad_() for name in names]
    optimizer = torch.optim.LBFGS(
        free, max_iter=iterations, history_size=20, tolerance_change=1e-7, line_search_fn="strong_wolfe"
    )

    def energy() -> torch.Tensor:
        optimizer.zero_grad()
        value = problem.energy(start._replace(**dict(zip(names, free, strict=True))), outlier_sd)
        value.backward()
        return value

    optimizer.step(energy)
    return start._replace(**{name: value.detach() for name, value in zip(names, free, strict=True)})


def extra_shapes(body: Body) -> np.ndarray:
    """Shapes of people that the betas cannot represent, each scaled to one standard deviation. f32 [K, V, 3] m.

    First come the lengths of limbs, then finer shapes of the body, then local changes of the face.
    """
    return _extra_shapes(body.path, body.reader, body.betas)


@lru_cache(maxsize=1)
def _extra_shapes(path, reader, betas) -> np.ndarray:
    body = load_body(path, reader, betas)
    shape_space = load_shape_space(SHAPE_SPACE_FILE)
    face_sd = np.full(len(shape_space.shapes()), _SD_FACE_CHANGE, np.float32)
    face_sd[: len(shape_space.finer)] = 1.0
    return np.concatenate(
        [
            np.array(_SD_LIMBS, np.float32)[:, None, None] * limb_shapes(body),
            face_sd[:, None, None] * shape_space.shapes(),
        ]
    )


def limb_shapes(body: Body) -> np.ndarray:
    """Offsets that double the length of upper arms, forearms and hands, both sides alike. f32 [3, V, 3] m, T-pose."""
    joints, shapes = body.joints(np.zeros(body.betas, np.float32)), np.zeros((3, len(body.template), 3), np.float32)
    for side in SIDES:
        arm = [JOINT[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist")]
        descendants = [_descendants(joint) for joint in arm]
        for k in (0, 1):
            bone = joints[arm[k + 1]] - joints[arm[k]]
            along = np.clip((body.template - joints[arm[k]]) @ bone / (bone @ bone), 0, 1)
            shapes[k] += (body.weights[:, descendants[k]].sum(1) * along)[:, None] * bone
        shapes[2] += body.weights[:, descendants[2]].sum(1)[:, None] * (body.template - joints[arm[2]])
    return shapes


def _descendants(joint: int) -> list[int]:
    """A joint and all joints below it in the kinematic tree."""
    joints = [joint]
    for child in range(joint + 1, len(JOINTS)):
        if PARENTS[child] in joints:
            joints.append(child)
    return joints


def hand_pixels(body_fit: Fit, landmarks: Landmarks, body: Body, calibration: Calibration) -> dict[str, np.ndarray]:
    """Project the fitted body's points of every hand that was detected: side -> f32 [21, 2] px."""
    with torch.no_grad():
        params = (
            torch.from_numpy(a)
            for a in (body_fit.poses[None], body_fit.expression[None], body_fit.betas, np.zeros((1, 3), np.float32))
        )
        skinned = body.skinning.clothed(body_fit.surface).of(np.zeros(0))(*params)
        points = {side: hand_points(skinned, side, calibration)[0].numpy() for side in landmarks.hands}
        return {side: project(hand, body_fit.intrinsics, body_fit.extrinsics)[:, :2] for side, hand in points.items()}
