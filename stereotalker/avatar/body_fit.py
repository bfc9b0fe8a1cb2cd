"""SMPL-X parameters and a camera under a portrait's key points, after SMPLify-X (Pavlakos et al. 2019).

The trunk stands as the acting stands and the camera turns around it, so that a clip's motion starts from the portrait's own posture.
Every unknown is whitened by its prior (mean + scale x z), so the prior's energy is z squared over two. Residuals are in units of
what the detector is known to be off, measured on rendered people (see `calibrate`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from stereotalker.avatar.detector_calibration import FACE_M, HAND_JOINTS, MIRROR, TRUNK_JOINTS, Calibration
from stereotalker.avatar.landmarks import FACE_INNER, FACE_OVAL, POSE, VISIBLE, Landmarks
from stereotalker.body.model import Body, load_body
from stereotalker.body.shape_space import FACES, load_variety
from stereotalker.body.skinning import Skinned
from stereotalker.errors import ClipError
from stereotalker.geometry.camera import project
from stereotalker.geometry.rotations import axis_angle_to_matrix
from stereotalker.smplx_layout import ACTION, ACTIONS, JOINT, JOINTS, LEFT_HAND, PARENTS, RIGHT_HAND, SIDES

FOCAL_IN_LONGER_SIDES = 2.0  # a mild portrait lens: the picture itself does not tell
_EYE_STEP = 0.1  # of the distance: the unit in which the camera's place is looked for
_EDGE = 0.96  # of the picture's height, below which a wrist without a hand is taken to be outside

# One standard deviation of what the detector says, in shares of face height or shoulder width.
_SD_FACE, _SD_OVAL, _SD_POSE, _SD_WRIST, _SD_HAND = 0.010, 0.06, 0.05, 0.006, 0.03
_SD_DIRECTION, _SD_HAND_SHAPE, _SD_HEAD = 0.35, 0.12, np.radians(1.5)
# And of the unknowns, rad.
_SD_TURN, _SD_TRUNK, _SD_NECK, _SD_EYE, _SD_JAW = np.radians([3.0, 8.0, 4.0]), 0.03, 0.25, 0.25, 0.05
_SD_LIMBS = (0.12, 0.12, 0.10)  # shares of the mean body's lengths
_SD_CHANGE = 0.3  # of the full local change of a face
_SD_ACTION, _SD_STILL_ACTION = 0.25, 0.02
_SD_BEYOND = 0.02  # of actions below 0 and above 1
_SPREAD_COUNTS = 0.6  # how much of a point's spread over rendered heads is its own error
_ALIKE = 0.2  # neighbouring points of the face err alike: five count as one
_KNUCKLES = [5, 9, 13, 17]  # of the hand's points
_TOLERANT, _STRICT = 60.0, 5.0  # standard deviations beyond which a point counts as an outlier
_STILL_ACTIONS = (
    "jawOpen",
    "tongueOut",
    "cheekPuff",
    "jawForward",
    "jawLeft",
    "jawRight",
    *(f"eyeLook{way}{side}" for way in ("Up", "Down", "In", "Out") for side in ("Left", "Right")),
)


@dataclass(frozen=True)
class Fit:
    """The body under a portrait, and how well it fits: medians over points."""

    betas: np.ndarray  # f32 [B]
    surface: np.ndarray  # f32 [V, 3] m: what lengths of limbs add in the rest pose
    poses: np.ndarray  # f32 [55, 3]
    expression: np.ndarray  # f32 [52]
    intrinsics: np.ndarray  # f32 [3, 3] px
    extrinsics: np.ndarray  # f32 [4, 4]
    face_error: float  # share of face height
    wrist_error: float | None  # share of shoulder width, against the hand model; None without hands
    hand_error: float | None  # the same, of all hand points
    arm_error: float | None  # share of shoulder width: shoulders and elbows
    seen: dict[str, bool] = field(default_factory=dict)  # side -> its hand was found


_FLIP = torch.diag(
    torch.tensor([1.0, -1.0, -1.0])
)  # between the camera's axes (x right, y down, z away) and the world's


class _Unknowns(NamedTuple):
    """Whitened; see `_Problem.decode`."""

    eye: torch.Tensor  # [3]
    turn: torch.Tensor  # [3] camera
    betas: torch.Tensor  # [B]
    more: torch.Tensor  # [K] shapes that the betas leave out: limbs, then faces
    trunk: torch.Tensor  # [3 spines, 3]
    head: torch.Tensor  # [neck and head, 3]
    eyes: torch.Tensor  # [2, 2]
    jaw: torch.Tensor  # [1]
    arms: torch.Tensor  # [24]
    hands: torch.Tensor  # [2, 45]
    actions: torch.Tensor  # [52]


_TRUNK, _HEAD, _EYES = (
    [JOINT[n] for n in names] for names in (TRUNK_JOINTS, ("neck", "head"), ("left_eye", "right_eye"))
)


def fit(marks: Landmarks, body: Body, known: Calibration) -> Fit:
    """Find the body under key points. One to three seconds. Raises ClipError where nothing sensible fits."""
    problem = _Problem(marks, body, known)
    start = problem.start()
    first = _minimise(problem, start, ("eye", "turn", "head"), 25, _TOLERANT)
    rough = _minimise(
        problem, problem.place_arms(first), ("eye", "turn", "head", "betas", "more", "arms", "trunk"), 50, _TOLERANT
    )
    close = _minimise(problem, rough, _Unknowns._fields, 80, _TOLERANT)
    return problem.result(_minimise(problem, close, _Unknowns._fields, 80, _STRICT))


def further_shapes(body: Body) -> np.ndarray:
    """What people differ by beside the betas, one standard deviation each. f32 [K, V, 3] m."""
    return _further_shapes(body.path, body.reader, body.betas)


@lru_cache(maxsize=1)
def _further_shapes(path, reader, betas) -> np.ndarray:
    body = load_body(path, reader, betas)
    variety = load_variety(FACES)
    changes = np.full(len(variety.shapes()), _SD_CHANGE, np.float32)
    changes[: len(variety.finer)] = 1.0
    return np.concatenate(
        [np.float32(_SD_LIMBS)[:, None, None] * limb_shapes(body), changes[:, None, None] * variety.shapes()]
    )


def limb_shapes(body: Body) -> np.ndarray:
    """Upper arms, forearms and hands twice as long, both sides alike: f32 [3, V, 3] m on the body in its T-pose."""
    joints, out = body.joints(np.zeros(body.betas, np.float32)), np.zeros((3, len(body.template), 3), np.float32)
    for side in SIDES:
        arm = [JOINT[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist")]
        beyond = [_descendants(joint) for joint in arm]
        for k in (0, 1):
            bone = joints[arm[k + 1]] - joints[arm[k]]
            along = np.clip((body.template - joints[arm[k]]) @ bone / (bone @ bone), 0, 1)
            out[k] += (body.weights[:, beyond[k]].sum(1) * along)[:, None] * bone
        out[2] += body.weights[:, beyond[2]].sum(1)[:, None] * (body.template - joints[arm[2]])
    return out


def _descendants(joint: int) -> list[int]:
    """A joint and all that hangs on it."""
    found = [joint]
    for child in range(joint + 1, len(JOINTS)):
        if PARENTS[child] in found:
            found.append(child)
    return found


def hand_pixels(found: Fit, marks: Landmarks, body: Body, known: Calibration) -> dict[str, np.ndarray]:
    """Where a fit puts the points of the hands that were seen: side -> f32 [21, 2] px."""
    with torch.no_grad():
        given = (
            torch.from_numpy(a)
            for a in (found.poses[None], found.expression[None], found.betas, np.zeros((1, 3), np.float32))
        )
        skinned = body.skinning.clothed(found.surface).of(np.zeros(0))(*given)
        return {
            side: project(hand_points(skinned, side, known)[0].numpy(), found.intrinsics, found.extrinsics)[:, :2]
            for side in marks.hands
        }


def pose_point(skinned: Skinned, name: str, side: str, known: Calibration) -> torch.Tensor:
    """A body point where the detector would put it. [T, 3] m."""
    point = known.pose_points[name]
    offset = torch.from_numpy(point.offset) * torch.tensor([MIRROR[side], 1.0, 1.0])
    return (
        skinned.joints[:, JOINT[f"{side}_{name}"]]
        + skinned.joint_turn[:, JOINT[point.frame.format(side=side)]] @ offset
    )


def hand_points(skinned: Skinned, side: str, known: Calibration) -> torch.Tensor:
    """The 21 points of a hand where the detector would put them. [T, 21, 3] m."""
    joints = [JOINT[f"{side}_{name}"] for name in HAND_JOINTS]
    points = skinned.joints[:, joints]
    last, before = points[:, 3::4], points[:, 2::4]
    way = torch.from_numpy(known.tips) * torch.tensor([MIRROR[side], 1.0, 1.0])
    turned = (skinned.joint_turn[:, joints][:, 3::4] @ way[..., None])[..., 0]
    tips = last + turned * (last - before).norm(dim=-1, keepdim=True)
    fingers = torch.cat([points[:, 1:].unflatten(1, (5, 4))[:, :, :3], tips[:, :, None]], 2)
    return torch.cat([points[:, :1], fingers.flatten(1, 2)], 1)


def _minimise(problem: _Problem, start: _Unknowns, names: tuple[str, ...], rounds: int, outlier: float) -> _Unknowns:
    free = [getattr(start, name).clone().requires_grad_() for name in names]
    search = torch.optim.LBFGS(
        free, max_iter=rounds, history_size=20, tolerance_change=1e-7, line_search_fn="strong_wolfe"
    )

    def energy() -> torch.Tensor:
        search.zero_grad()
        value = problem.energy(start._replace(**dict(zip(names, free, strict=True))), outlier)
        value.backward()
        return value

    search.step(energy)
    return start._replace(**{name: value.detach() for name, value in zip(names, free, strict=True)})


class _Problem:
    """Key points on one side, the body's own on the other."""

    def __init__(self, marks: Landmarks, body: Body, known: Calibration):
        self.marks, self.body, self.known = marks, body, known
        H, W = marks.size
        self.focal = FOCAL_IN_LONGER_SIDES * max(H, W)
        self.middle = torch.tensor([W / 2, H / 2])
        self.turn_sd = torch.tensor(_SD_TURN, dtype=torch.float32)
        triangles = body.faces[known.face_triangle]
        used, place = np.unique(triangles, return_inverse=True)
        self.shapes = further_shapes(body)
        self.skinning = body.skinning.shaped_also(body.betas, self.shapes).of(used)
        self.corners = torch.from_numpy(place.reshape(-1, 3))
        self.shares = torch.from_numpy(known.face_weights)
        self.face = torch.from_numpy(marks.face)
        sd = np.hypot(_SD_FACE, _SPREAD_COUNTS * known.face_spread)
        sd[list(FACE_OVAL)] = _SD_OVAL
        self.face_sd = torch.from_numpy((sd * marks.face_height).astype(np.float32))
        self.shoulders = marks.shoulder_width
        self.head = torch.from_numpy(marks.head @ known.head_offset) if marks.head is not None else None
        self.arm_mean, self.arm_scale = (torch.from_numpy(a) for a in (known.arm_mean, known.arm_scale))
        self.hand_mean, self.hand_scale = (torch.from_numpy(a) for a in (known.hand_mean, known.hand_scale))
        self.trunk = torch.from_numpy(known.trunk_mean)
        self.expression = torch.from_numpy(known.expression_mean)
        self.action_sd = torch.full((len(ACTIONS),), _SD_ACTION)
        self.action_sd[[ACTION[name] for name in _STILL_ACTIONS]] = _SD_STILL_ACTION

    def start(self) -> _Unknowns:
        """The mean person, as far away as the face is large, with the middle of the face where it is seen."""
        distance = self.focal * FACE_M / self.marks.face_height
        nose = self.known.face_template.mean(0)
        offset = (self.face.mean(0) - self.middle).numpy() / self.focal * distance
        self.distance = float(distance)
        self.place = torch.tensor([nose[0] - offset[0], nose[1] + offset[1], nose[2] + distance], dtype=torch.float32)
        shapes = {
            "eye": 3,
            "turn": 3,
            "betas": self.body.betas,
            "more": len(self.shapes),
            "trunk": (3, 3),
            "head": (2, 3),
            "eyes": (2, 2),
            "jaw": 1,
            "arms": 24,
            "hands": (2, 45),
            "actions": len(ACTIONS),
        }
        return _Unknowns(**{name: torch.zeros(shape) for name, shape in shapes.items()})

    def decode(self, z: _Unknowns) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """poses [55, 3], expression [52], eye [3] m, rotation [3, 3] of the camera."""
        poses = torch.zeros(len(JOINTS), 3)
        arms = (self.arm_mean + self.arm_scale @ z.arms).reshape(-1, 3)
        hands = (self.hand_mean + torch.einsum("sij,sj->si", self.hand_scale, z.hands)).reshape(2, 15, 3)
        parts = {
            tuple(_TRUNK): self.trunk + _SD_TRUNK * z.trunk, tuple(_HEAD): _SD_NECK * z.head,
            tuple(_EYES): functional.pad(_SD_EYE * z.eyes, (0, 1)), (JOINT["jaw"],): functional.pad(_SD_JAW * z.jaw, (0, 2))[None],
            tuple(self.known.arm_joints): arms, tuple(range(len(JOINTS))[LEFT_HAND]): hands[0], tuple(range(len(JOINTS))[RIGHT_HAND]): hands[1],
        }  # fmt: skip
        for joints, values in parts.items():
            poses = poses.index_put((torch.tensor(joints),), values)
        expression = self.expression + self.action_sd * z.actions
        eye = self.place + self.distance * _EYE_STEP * z.eye
        rotation = axis_angle_to_matrix(self.turn_sd * z.turn) @ _FLIP
        return poses, expression, eye, rotation

    def energy(self, z: _Unknowns, outlier: float) -> torch.Tensor:
        poses, expression, eye, rotation = self.decode(z)
        skinned = self._skinned(poses, expression, z)
        total = (
            _robust(
                (self._project(self._face_points(skinned), eye, rotation) - self.face) / self.face_sd[:, None], outlier
            ).sum()
            * _ALIKE
        )
        total = total + sum(self._arm(skinned, side, eye, rotation, outlier)[0] for side in SIDES)
        if self.head is not None:
            seen = _FLIP @ rotation @ skinned.joint_turn[0, JOINT["head"]]
            total = total + ((seen - self.head) ** 2).sum() / (4 * _SD_HEAD**2)
        over = functional.relu(-expression) + functional.relu(expression - 1)
        total = total + 0.5 * (over / _SD_BEYOND).square().sum()
        prior = sum((value**2).sum() for name, value in zip(_Unknowns._fields, z, strict=True) if name != "eye")
        return total + 0.5 * prior

    def _skinned(self, poses: torch.Tensor, expression: torch.Tensor, z: _Unknowns) -> Skinned:
        """poses [55, 3] or [T, 55, 3]."""
        poses = poses.reshape(-1, len(JOINTS), 3)
        return self.skinning(
            poses, expression.expand(len(poses), -1), torch.cat([z.betas, z.more]), torch.zeros(len(poses), 3)
        )

    def _face_points(self, skinned: Skinned) -> torch.Tensor:
        return (skinned.vertices[0][self.corners] * self.shares[..., None]).sum(1)

    def _project(self, points: torch.Tensor, eye: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
        """[..., 3] m -> [..., 2] px."""
        seen = (points - eye) @ rotation.T
        return seen[..., :2] / seen[..., 2:].clamp(min=0.05) * self.focal + self.middle

    def _arm(
        self, skinned: Skinned, side: str, eye: torch.Tensor, rotation: torch.Tensor, outlier: float
    ) -> torch.Tensor:
        """What the detector says against an arm and its hand, [T]."""
        marks, total = self.marks, torch.zeros(len(skinned.joints))
        if marks.pose is None:
            return total
        places = {name: pose_point(skinned, name, side, self.known) for name in self.known.pose_points}
        seen = {name: marks.visible[POSE[f"{side}_{name}"]] >= VISIBLE for name in places}
        below = side not in marks.hands and not self._wrist_inside(side)
        if below:  # a hand that nobody found is where the picture does not reach
            high = functional.relu(
                marks.size[0] - self._project(skinned.joints[:, JOINT[f"{side}_wrist"]], eye, rotation)[:, 1]
            )
            total = total + _robust(high / (_SD_POSE * self.shoulders), _TOLERANT)
        for name, place in places.items():
            if seen[name] and not (name == "wrist" and (below or side in marks.hands)):
                off = self._project(place, eye, rotation) - torch.from_numpy(marks.pose[POSE[f"{side}_{name}"]])
                total = total + _robust(off / (_SD_POSE * self.shoulders), outlier).sum(-1)
        if marks.pose_world is not None:
            told = {name: torch.from_numpy(marks.pose_world[POSE[f"{side}_{name}"]]) for name in places}
            for start, end in (("shoulder", "elbow"), ("elbow", "wrist")):
                if seen[start] and seen[end] and not (below and end == "wrist"):
                    off = functional.normalize(places[end] - places[start], dim=-1) - functional.normalize(
                        told[end] - told[start], dim=-1
                    )
                    total = total + _robust(off / _SD_DIRECTION, outlier).sum(-1)
        if side in marks.hands:
            points = hand_points(skinned, side, self.known)
            off = (self._project(points, eye, rotation) - torch.from_numpy(marks.hands[side])) / self.shoulders
            total = (
                total
                + _robust(off[:, 1:] / _SD_HAND, outlier).sum((-1, -2))
                + _robust(off[:, 0] / _SD_WRIST, _TOLERANT).sum(-1)
            )  # its wrist is trusted
        if side in marks.hands_world:
            told, ours = torch.from_numpy(marks.hands_world[side]), points @ (_FLIP @ rotation).T

            def size(p):
                return (p[..., _KNUCKLES, :] - p[..., :1, :]).norm(dim=-1).mean(-1)[..., None, None]

            off = (ours - ours[:, :1]) / size(ours) - (told - told[:1]) / size(told)
            total = total + _robust(off / _SD_HAND_SHAPE, outlier).sum((-1, -2))
        return total

    def _wrist_inside(self, side: str) -> bool:
        row = POSE[f"{side}_wrist"]
        H, W = self.marks.size
        x, y = self.marks.pose[row]
        return bool(self.marks.visible[row] >= VISIBLE and 0 <= x < W and 0 <= y < _EDGE * H)

    def _sees_arm(self, side: str) -> bool:
        return side in self.marks.hands or (
            self.marks.pose is not None and self.marks.visible[POSE[f"{side}_elbow"]] >= VISIBLE
        )

    def place_arms(self, z: _Unknowns) -> _Unknowns:
        """Each arm as in that example of the acting which the detector's points speak for most."""
        poses, expression, eye, rotation = self.decode(z)
        own = self.known.arm_examples.reshape(-1, 2, 4, 3)
        other = own[:, ::-1] * np.array([1, -1, -1], np.float32)  # the left arm as the right one's mirror image
        examples = torch.from_numpy(np.concatenate([own, other]))
        T, best = len(examples), []
        crowd = poses.expand(T, -1, -1).index_put(
            (torch.arange(T)[:, None], torch.tensor(self.known.arm_joints)[None]), examples.flatten(1, 2)
        )
        skinned = self._skinned(crowd, expression, z)
        for k, side in enumerate(SIDES):
            against = self._arm(skinned, side, eye, rotation, _TOLERANT)
            if not self._sees_arm(side):
                against = skinned.joints[
                    :, JOINT[f"{side}_wrist"], 1
                ]  # of arms that nobody saw, those that hang lowest
            best.append(examples[against.argmin(), k])
        arms = torch.linalg.solve_triangular(
            self.arm_scale, (torch.stack(best).reshape(-1) - self.arm_mean)[:, None], upper=False
        )[:, 0]
        return z._replace(arms=arms)

    def result(self, z: _Unknowns) -> Fit:
        with torch.no_grad():
            poses, expression, eye, rotation = self.decode(z)
            skinned = self._skinned(poses, expression, z)

            def off(points, truth):
                return (self._project(points, eye, rotation) - torch.from_numpy(truth)).norm(dim=1).numpy()

            face = off(self._face_points(skinned)[FACE_INNER], self.marks.face[FACE_INNER]) / self.marks.face_height
            hands = {
                side: off(hand_points(skinned, side, self.known)[0], seen) / self.shoulders
                for side, seen in self.marks.hands.items()
            }
            arms = [
                float(off(pose_point(skinned, name, side, self.known), self.marks.pose[[row]])[0] / self.shoulders)
                for name in ("shoulder", "elbow") for side in SIDES for row in [POSE[f"{side}_{name}"]]
                if self.marks.pose is not None and self.marks.visible[row] >= VISIBLE
            ]  # fmt: skip
            extrinsics = torch.eye(4)
            extrinsics[:3, :3], extrinsics[:3, 3] = rotation, -rotation @ eye
            intrinsics = np.array(
                [[self.focal, 0, self.middle[0]], [0, self.focal, self.middle[1]], [0, 0, 1]], np.float32
            )
        fitted = Fit(
            betas=z.betas.numpy(), surface=np.tensordot(z.more.numpy(), self.shapes, 1), poses=poses.numpy(), expression=expression.clamp(0, 1).numpy(), intrinsics=intrinsics, extrinsics=extrinsics.numpy(),
            face_error=float(np.median(face)), wrist_error=max((float(e[0]) for e in hands.values()), default=None),
            hand_error=float(np.median(np.concatenate(list(hands.values())))) if hands else None, arm_error=float(np.median(arms)) if arms else None,
            seen={side: side in self.marks.hands for side in SIDES},
        )  # fmt: skip
        if not np.isfinite(fitted.poses).all() or not np.isfinite(fitted.face_error):
            raise ClipError("the body could not be brought under the picture's key points: the search diverged")
        return fitted


def _robust(residual: torch.Tensor, outlier: float) -> torch.Tensor:
    """Geman and McClure's: squared near zero, flat beyond `outlier` standard deviations."""
    squared = residual.square()
    return 0.5 * squared / (1 + squared / outlier**2)
