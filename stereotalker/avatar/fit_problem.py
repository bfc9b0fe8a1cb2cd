"""The energy that a body fit minimizes: how badly SMPL-X parameters and a camera explain a portrait's keypoints.

It follows SMPLify-X (Pavlakos et al. 2019). Every unknown is whitened by its prior (value = mean + scale x z), so that
the energy of the prior is z squared over two. Residuals are divided by the standard deviation of the detector's error,
which was measured on rendered people (see `detector_calibration`).

V vertices, B shape coefficients (betas), K extra shapes, T poses that are evaluated together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from stereotalker.avatar.detector_calibration import FACE_HEIGHT_M, HAND_JOINTS, MIRROR_X, TRUNK_JOINTS, Calibration
from stereotalker.avatar.landmarks import FACE_INNER, FACE_OVAL, POSE, Landmarks
from stereotalker.avatar.silhouette import arm_vertices, distance_outside
from stereotalker.body.model import Body
from stereotalker.body.skinning import SkinningResult
from stereotalker.errors import ClipError
from stereotalker.geometry.rotations import axis_angle_to_matrix
from stereotalker.smplx_layout import ACTION, ACTIONS, JOINT, JOINTS, LEFT_HAND, RIGHT_HAND, SIDES

# Assumed focal length over the picture's longer side: a mild portrait lens. One picture does not reveal its own.
FOCAL_IN_LONGER_SIDES = 2.0
# Unit in which the camera's position is optimized, as a share of its distance from the face.
_POSITION_STEP = 0.1
# Share of the picture's height. A wrist below it whose hand was not detected counts as outside the picture.
_LOWER_EDGE = 0.96
# Such a wrist is at least so far below the picture, share of the shoulder width, so that nothing of its hand shows.
_BELOW_EDGE = 0.2

# Standard deviations of the detector's errors.
_SD_FACE, _SD_OVAL = 0.010, 0.06  # shares of the face height
_SD_POSE, _SD_WRIST, _SD_HAND = 0.05, 0.006, 0.03  # shares of the shoulder width; the wrist is that of a detected hand
_SD_DIRECTION = 0.35  # difference of two unit vectors along an arm bone
_SD_HAND_SHAPE = 0.12  # share of the hand's size, which is the mean distance from the wrist to the knuckles
_SD_HEAD = np.radians(1.5)  # rad
_SD_OUTSIDE = 0.01  # of the silhouette, share of the shoulder width

# Standard deviations of the unknowns.
_SD_CAMERA_ROTATION = np.radians([3.0, 8.0, 4.0])  # rad about the camera's x, y and z axes
_SD_SPINE, _SD_NECK, _SD_EYE, _SD_JAW = 0.03, 0.25, 0.25, 0.05  # rad
_SD_ACTION, _SD_RESTING_ACTION = 0.25, 0.02  # facial actions, which lie in 0..1
_SD_OUT_OF_RANGE = 0.02  # how far a facial action lies below 0 or above 1

# Share of a face point's spread over rendered heads that counts as the detector's own error.
_SPREAD_SHARE = 0.6
# Neighboring face points have similar errors, so five of them count as one.
_FACE_POINT_WEIGHT = 0.2
# Neighboring points of an arm lie outside the silhouette together, so ten of them count as one.
_ARM_POINT_WEIGHT = 0.1
# Residuals beyond this many standard deviations count as outliers; the value is for early rounds with large errors.
LOOSE_OUTLIER_SD = 60.0
# Rows of the knuckles of four fingers among the 21 hand points.
_KNUCKLES = [5, 9, 13, 17]
# Facial actions that the prior keeps close to their mean.
_RESTING_ACTIONS = (
    "jawOpen",
    "tongueOut",
    "cheekPuff",
    "jawForward",
    "jawLeft",
    "jawRight",
    *(f"eyeLook{way}{side}" for way in ("Up", "Down", "In", "Out") for side in ("Left", "Right")),
)
_SPINE_JOINTS, _HEAD_JOINTS, _EYE_JOINTS = (
    [JOINT[n] for n in names] for names in (TRUNK_JOINTS, ("neck", "head"), ("left_eye", "right_eye"))
)
# Converts between the camera's axes (x right, y down, z away from the camera) and the world's (y up, z towards it).
_FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0]))


@dataclass(frozen=True)
class Fit:
    """The body that was fitted to a portrait, the camera, and the fit residuals (medians over points)."""

    betas: np.ndarray  # f32 [B]
    surface: np.ndarray  # f32 [V, 3] m, offsets in the rest pose: the extra shapes times their coefficients
    poses: np.ndarray  # f32 [55, 3] axis-angle rad
    expression: np.ndarray  # f32 [52] in 0..1
    intrinsics: np.ndarray  # f32 [3, 3] px
    extrinsics: np.ndarray  # f32 [4, 4] world -> camera
    face_error: float  # share of the face height
    wrist_error: float | None  # worse wrist against the hand detector, share of the shoulder width; None without hands
    hand_error: float | None  # share of the shoulder width, over all hand points; None without hands
    arm_error: float | None  # share of the shoulder width, over shoulders and elbows; None if neither is visible
    seen: dict[str, bool] = field(default_factory=dict)  # side -> whether its hand was detected


class Unknowns(NamedTuple):
    """What the fit searches for, whitened by the priors; `FitProblem.decode` gives their values."""

    eye: torch.Tensor  # [3] camera position
    turn: torch.Tensor  # [3] camera rotation
    betas: torch.Tensor  # [B]
    extra: torch.Tensor  # [K] coefficients of `body_fit.extra_shapes`
    spine: torch.Tensor  # [3, 3] the three spine joints
    head: torch.Tensor  # [2, 3] neck and head
    eyes: torch.Tensor  # [2, 2] rotations about x and y
    jaw: torch.Tensor  # [1] rotation about x
    arms: torch.Tensor  # [24]
    hands: torch.Tensor  # [2, 45]
    actions: torch.Tensor  # [52]


def pose_point(skinned: SkinningResult, name: str, side: str, calibration: Calibration) -> torch.Tensor:
    """Where the detector would find a body point of the skinned body. [T, 3] m.

    name: a key of `Calibration.pose_points`, such as "elbow"; side: left or right.
    """
    point = calibration.pose_points[name]
    offset = torch.from_numpy(point.offset) * torch.tensor([MIRROR_X[side], 1.0, 1.0])
    return (
        skinned.joints[:, JOINT[f"{side}_{name}"]]
        + skinned.joint_rotations[:, JOINT[point.frame.format(side=side)]] @ offset
    )


def hand_points(skinned: SkinningResult, side: str, calibration: Calibration) -> torch.Tensor:
    """Where the detector would find the 21 points of a hand of the skinned body. [T, 21, 3] m."""
    joints = [JOINT[f"{side}_{name}"] for name in HAND_JOINTS]
    points = skinned.joints[:, joints]
    last, before = points[:, 3::4], points[:, 2::4]
    direction = torch.from_numpy(calibration.tips) * torch.tensor([MIRROR_X[side], 1.0, 1.0])
    rotated = (skinned.joint_rotations[:, joints][:, 3::4] @ direction[..., None])[..., 0]
    tips = last + rotated * (last - before).norm(dim=-1, keepdim=True)
    fingers = torch.cat([points[:, 1:].unflatten(1, (5, 4))[:, :, :3], tips[:, :, None]], 2)
    return torch.cat([points[:, :1], fingers.flatten(1, 2)], 1)


class FitProblem:
    """The energy of unknowns, given a portrait's landmarks, and the conversions into and out of unknowns.

    extra_shapes f32 [K, V, 3] m: see `body_fit.extra_shapes`.
    """

    def __init__(self, landmarks: Landmarks, body: Body, calibration: Calibration, extra_shapes: np.ndarray):
        self.landmarks, self.body, self.calibration = landmarks, body, calibration
        H, W = landmarks.size
        self.focal = FOCAL_IN_LONGER_SIDES * max(H, W)
        self.center = torch.tensor([W / 2, H / 2])
        self.turn_sd = torch.tensor(_SD_CAMERA_ROTATION, dtype=torch.float32)
        self.extra_shapes = extra_shapes
        # Only the vertices that carry face points, and some of the arms, are skinned.
        corners, arms = body.faces[calibration.face_triangle].ravel(), arm_vertices(body)
        vertices, rows = np.unique(np.concatenate([corners, arms]), return_inverse=True)
        self.skinning = body.skinning.shaped_also(body.betas, extra_shapes).of(vertices)
        self.face_corners, self.arm_rows = torch.from_numpy(rows[: len(corners)].reshape(-1, 3)), rows[len(corners) :]
        self.outside = distance_outside(landmarks)
        self.face_weights = torch.from_numpy(calibration.face_weights)
        self.face = torch.from_numpy(landmarks.face)
        sd = np.hypot(_SD_FACE, _SPREAD_SHARE * calibration.face_spread)
        sd[list(FACE_OVAL)] = _SD_OVAL
        self.face_sd = torch.from_numpy((sd * landmarks.face_height).astype(np.float32))
        self.shoulder_width = landmarks.shoulder_width
        has_head = landmarks.head is not None
        self.head_rotation = torch.from_numpy(landmarks.head @ calibration.head_offset) if has_head else None
        self.arm_mean, self.arm_scale = (torch.from_numpy(a) for a in (calibration.arm_mean, calibration.arm_scale))
        self.hand_mean, self.hand_scale = (torch.from_numpy(a) for a in (calibration.hand_mean, calibration.hand_scale))
        self.spine_mean = torch.from_numpy(calibration.trunk_mean)
        self.expression_mean = torch.from_numpy(calibration.expression_mean)
        self.action_sd = torch.full((len(ACTIONS),), _SD_ACTION)
        self.action_sd[[ACTION[name] for name in _RESTING_ACTIONS]] = _SD_RESTING_ACTION

    def start(self) -> Unknowns:
        """The mean person: the size of the face sets the distance, the center of the face the position."""
        distance = self.focal * FACE_HEIGHT_M / self.landmarks.face_height
        face_center = self.calibration.face_template.mean(0)
        offset = (self.face.mean(0) - self.center).numpy() / self.focal * distance
        self.distance = float(distance)
        self.eye_start = torch.tensor(
            [face_center[0] - offset[0], face_center[1] + offset[1], face_center[2] + distance], dtype=torch.float32
        )
        shapes: dict[str, tuple[int, ...]] = {
            "eye": (3,),
            "turn": (3,),
            "betas": (self.body.betas,),
            "extra": (len(self.extra_shapes),),
            "spine": (3, 3),
            "head": (2, 3),
            "eyes": (2, 2),
            "jaw": (1,),
            "arms": (24,),
            "hands": (2, 45),
            "actions": (len(ACTIONS),),
        }
        return Unknowns(**{name: torch.zeros(shape) for name, shape in shapes.items()})

    def decode(self, z: Unknowns) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Poses [55, 3] rad, expression [52], camera position [3] m, camera rotation [3, 3] (world -> camera)."""
        poses = torch.zeros(len(JOINTS), 3)
        arms = (self.arm_mean + self.arm_scale @ z.arms).reshape(-1, 3)
        hands = (self.hand_mean + torch.einsum("sij,sj->si", self.hand_scale, z.hands)).reshape(2, 15, 3)
        parts = {
            tuple(_SPINE_JOINTS): self.spine_mean + _SD_SPINE * z.spine,
            tuple(_HEAD_JOINTS): _SD_NECK * z.head,
            tuple(_EYE_JOINTS): functional.pad(_SD_EYE * z.eyes, (0, 1)),
            (JOINT["jaw"],): functional.pad(_SD_JAW * z.jaw, (0, 2))[None],
            tuple(self.calibration.arm_joints): arms,
            tuple(range(len(JOINTS))[LEFT_HAND]): hands[0],
            tuple(range(len(JOINTS))[RIGHT_HAND]): hands[1],
        }
        for joints, values in parts.items():
            poses = poses.index_put((torch.tensor(joints),), values)
        expression = self.expression_mean + self.action_sd * z.actions
        eye = self.eye_start + self.distance * _POSITION_STEP * z.eye
        rotation = axis_angle_to_matrix(self.turn_sd * z.turn) @ _FLIP
        return poses, expression, eye, rotation

    def energy(self, z: Unknowns, outlier_sd: float) -> torch.Tensor:
        """The robust energy of all residuals plus the energy of the priors, a scalar.

        outlier_sd: number of standard deviations beyond which a residual counts as an outlier.
        """
        poses, expression, eye, rotation = self.decode(z)
        skinned = self._skin(poses, expression, z)
        residual = (self._project(self._face_points(skinned), eye, rotation) - self.face) / self.face_sd[:, None]
        total = _robust(residual, outlier_sd).sum() * _FACE_POINT_WEIGHT
        total = total + sum(self._arm_energy(skinned, side, eye, rotation, outlier_sd)[0] for side in SIDES)
        total = total + self._outside_energy(skinned, eye, rotation)
        if self.head_rotation is not None:
            head_rotation = _FLIP @ rotation @ skinned.joint_rotations[0, JOINT["head"]]
            # The squared difference of two rotation matrices is about twice the squared angle between them.
            total = total + ((head_rotation - self.head_rotation) ** 2).sum() / (4 * _SD_HEAD**2)
        out_of_range = functional.relu(-expression) + functional.relu(expression - 1)
        total = total + 0.5 * (out_of_range / _SD_OUT_OF_RANGE).square().sum()
        prior = sum((value**2).sum() for name, value in zip(Unknowns._fields, z, strict=True) if name != "eye")
        return total + 0.5 * prior

    def _skin(self, poses: torch.Tensor, expression: torch.Tensor, z: Unknowns) -> SkinningResult:
        """Skin the face's vertices and all joints. poses [55, 3] or [T, 55, 3]."""
        poses = poses.reshape(-1, len(JOINTS), 3)
        return self.skinning(
            poses, expression.expand(len(poses), -1), torch.cat([z.betas, z.extra]), torch.zeros(len(poses), 3)
        )

    def _face_points(self, skinned: SkinningResult) -> torch.Tensor:
        """The 478 face points of the first pose. [478, 3] m."""
        return (skinned.vertices[0][self.face_corners] * self.face_weights[..., None]).sum(1)

    def _project(self, points: torch.Tensor, eye: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
        """[..., 3] m -> [..., 2] px."""
        in_camera = (points - eye) @ rotation.T
        return in_camera[..., :2] / in_camera[..., 2:].clamp(min=0.05) * self.focal + self.center

    def _arm_energy(
        self, skinned: SkinningResult, side: str, eye: torch.Tensor, rotation: torch.Tensor, outlier_sd: float
    ) -> torch.Tensor:
        """The energy of the residuals of one arm and its hand, [T]; zero if the detector found no body."""
        landmarks, total = self.landmarks, torch.zeros(len(skinned.joints))
        if landmarks.pose is None:
            return total
        points = {name: pose_point(skinned, name, side, self.calibration) for name in self.calibration.pose_points}
        is_visible = {name: landmarks.is_visible(f"{side}_{name}") for name in points}
        has_hand = side in landmarks.hands
        is_below = not has_hand and not self._is_wrist_inside(side)
        if is_below:  # A hand that was not detected is assumed to be below the picture.
            wrist_y = self._project(skinned.joints[:, JOINT[f"{side}_wrist"]], eye, rotation)[:, 1]
            inside_px = functional.relu(landmarks.size[0] + _BELOW_EDGE * self.shoulder_width - wrist_y)
            total = total + _robust(inside_px / (_SD_POSE * self.shoulder_width), LOOSE_OUTLIER_SD)
        for name, point in points.items():
            if is_visible[name] and not (name == "wrist" and (is_below or has_hand)):
                detected = torch.from_numpy(landmarks.pose[POSE[f"{side}_{name}"]])
                residual = self._project(point, eye, rotation) - detected
                total = total + _robust(residual / (_SD_POSE * self.shoulder_width), outlier_sd).sum(-1)
        if landmarks.pose_world is not None:
            world = {name: torch.from_numpy(landmarks.pose_world[POSE[f"{side}_{name}"]]) for name in points}
            for start, end in (("shoulder", "elbow"), ("elbow", "wrist")):
                if is_visible[start] and is_visible[end] and not (is_below and end == "wrist"):
                    direction = functional.normalize(points[end] - points[start], dim=-1)
                    residual = direction - functional.normalize(world[end] - world[start], dim=-1)
                    total = total + _robust(residual / _SD_DIRECTION, outlier_sd).sum(-1)
        if has_hand:
            hand = hand_points(skinned, side, self.calibration)
            detected = torch.from_numpy(landmarks.hands[side])
            residual = (self._project(hand, eye, rotation) - detected) / self.shoulder_width
            total = total + _robust(residual[:, 1:] / _SD_HAND, outlier_sd).sum((-1, -2))
            # The wrist of a detected hand is reliable, so its outlier limit stays loose.
            total = total + _robust(residual[:, 0] / _SD_WRIST, LOOSE_OUTLIER_SD).sum(-1)
        if side in landmarks.hands_world:
            detected, fitted = torch.from_numpy(landmarks.hands_world[side]), hand @ (_FLIP @ rotation).T

            def hand_size(points):
                return (points[..., _KNUCKLES, :] - points[..., :1, :]).norm(dim=-1).mean(-1)[..., None, None]

            residual = (fitted - fitted[:, :1]) / hand_size(fitted) - (detected - detected[:1]) / hand_size(detected)
            total = total + _robust(residual / _SD_HAND_SHAPE, outlier_sd).sum((-1, -2))
        return total

    def _outside_energy(self, skinned: SkinningResult, eye: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
        """The energy of arms that lie outside the person's silhouette: clothes only make a body wider."""
        H, W = self.landmarks.size
        points = self._project(skinned.vertices[0][self.arm_rows], eye, rotation)
        is_above_edge = points.detach()[:, 1] < H  # nothing is known of what lies below the picture
        grid = (2 * points / torch.tensor([W, H]) - 1)[None, None]
        distance = functional.grid_sample(self.outside, grid, padding_mode="border", align_corners=False)[0, 0, 0]
        residual = distance[is_above_edge] / (_SD_OUTSIDE * self.shoulder_width)
        return _robust(residual, LOOSE_OUTLIER_SD).sum() * _ARM_POINT_WEIGHT

    def _is_wrist_inside(self, side: str) -> bool:
        assert self.landmarks.pose is not None
        H, W = self.landmarks.size
        x, y = self.landmarks.pose[POSE[f"{side}_wrist"]]
        return self.landmarks.is_visible(f"{side}_wrist") and bool(0 <= x < W and 0 <= y < _LOWER_EDGE * H)

    def _is_arm_visible(self, side: str) -> bool:
        return side in self.landmarks.hands or self.landmarks.is_visible(f"{side}_elbow")

    def place_arms(self, z: Unknowns) -> Unknowns:
        """Start each arm from the motion example that fits the detector's points best.

        An arm that is not visible starts from the example whose wrist is lowest.
        """
        poses, expression, eye, rotation = self.decode(z)
        original = self.calibration.arm_examples.reshape(-1, 2, 4, 3)
        # The left arm may do what the right one does, and the other way round, so examples are mirrored, too.
        mirrored = original[:, ::-1] * np.array([1, -1, -1], np.float32)
        examples = torch.from_numpy(np.concatenate([original, mirrored]))
        T, best = len(examples), []
        candidates = poses.expand(T, -1, -1).index_put(
            (torch.arange(T)[:, None], torch.tensor(self.calibration.arm_joints)[None]), examples.flatten(1, 2)
        )
        skinned = self._skin(candidates, expression, z)
        for k, side in enumerate(SIDES):
            cost = self._arm_energy(skinned, side, eye, rotation, LOOSE_OUTLIER_SD)
            if not self._is_arm_visible(side):
                cost = skinned.joints[:, JOINT[f"{side}_wrist"], 1]
            best.append(examples[cost.argmin(), k])
        deviation = (torch.stack(best).reshape(-1) - self.arm_mean)[:, None]
        arms = torch.linalg.solve_triangular(self.arm_scale, deviation, upper=False)[:, 0]
        return z._replace(arms=arms)

    def result(self, z: Unknowns) -> Fit:
        """The fit that the unknowns stand for, with its residuals. Raises ClipError if it is not finite."""
        landmarks = self.landmarks
        assert landmarks.face is not None
        with torch.no_grad():
            poses, expression, eye, rotation = self.decode(z)
            skinned = self._skin(poses, expression, z)

            def distances(points, detected):
                return (self._project(points, eye, rotation) - torch.from_numpy(detected)).norm(dim=1).numpy()

            face = distances(self._face_points(skinned)[FACE_INNER], landmarks.face[FACE_INNER]) / landmarks.face_height
            hands = {
                side: distances(hand_points(skinned, side, self.calibration)[0], detected) / self.shoulder_width
                for side, detected in landmarks.hands.items()
            }
            arms = []
            for name in ("shoulder", "elbow"):
                for side in SIDES:
                    if landmarks.pose is not None and landmarks.is_visible(f"{side}_{name}"):
                        point = pose_point(skinned, name, side, self.calibration)
                        arms.append(
                            float(distances(point, landmarks.pose[[POSE[f"{side}_{name}"]]])[0] / self.shoulder_width)
                        )
            extrinsics = torch.eye(4)
            extrinsics[:3, :3], extrinsics[:3, 3] = rotation, -rotation @ eye
            intrinsics = np.array(
                [[self.focal, 0, self.center[0]], [0, self.focal, self.center[1]], [0, 0, 1]], np.float32
            )
        fit = Fit(
            betas=z.betas.numpy(),
            surface=np.tensordot(z.extra.numpy(), self.extra_shapes, 1),
            poses=poses.numpy(),
            expression=expression.clamp(0, 1).numpy(),
            intrinsics=intrinsics,
            extrinsics=extrinsics.numpy(),
            face_error=float(np.median(face)),
            wrist_error=max((float(errors[0]) for errors in hands.values()), default=None),
            hand_error=float(np.median(np.concatenate(list(hands.values())))) if hands else None,
            arm_error=float(np.median(arms)) if arms else None,
            seen={side: side in landmarks.hands for side in SIDES},
        )
        if not np.isfinite(fit.poses).all() or not np.isfinite(fit.face_error):
            raise ClipError("the body could not be fitted to the picture's keypoints: the optimization diverged")
        return fit


def _robust(residual: torch.Tensor, outlier_sd: float) -> torch.Tensor:
    """The robust error function of Geman and McClure: quadratic near zero, flat beyond `outlier_sd`."""
    squared = residual.square()
    return 0.5 * squared / (1 + squared / outlier_sd**2)
