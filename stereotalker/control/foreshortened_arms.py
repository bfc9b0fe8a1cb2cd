"""Smooth colors of arms that turn: of bare ones, and of forearms that the portrait shows foreshortened.

A forearm that points at the camera is short in the portrait. A fit that is some pixels off is centimeters off along the
arm there, and the hand hides or shadows much of it. Such a forearm gets the smooth colors of the texture atlas
alone (see `limb_colors`) when it turns. The same is true of all bare arms: skin hardly has any detail, but every shadow
on it would be taken for a stain. V: vertices of the body, N: points on it, T: frames.
"""

from __future__ import annotations

import numpy as np

from stereotalker.body.model import Body
from stereotalker.control.body_parts import joint_reach
from stereotalker.control.layers import ARM, HAND, vertex_layers
from stereotalker.records import Avatar, Motion
from stereotalker.smplx_layout import JOINT, SIDES

# Positions f32 [T, 55, 3] m and world rotations [T, 55, 3, 3] of the joints.
PosedJoints = tuple[np.ndarray, np.ndarray]

# Sleeves on forearms of which the portrait shows less than this share of their length count as foreshortened.
_SHORT = 0.5
# Limits of |side - portrait's side| / |portrait's side|^2, without unit; see `_seen_side`. Below the first one the
# portrait's pixels are kept, above the second one none are. The square, because the fit puts pixels the more wrong
# along an arm the shorter it is seen, and a change magnifies that the more, the shorter it was.
_CHANGED = (0.6, 1.0)
# Along the arm, the portrait's pixels give way over this distance, m, so that no edge has steps.
_FADE_M = 0.03
# A bare forearm decides for the upper arm as well up to this distance from the elbow, m, with less and less weight.
_ONTO_UPPER_ARM_M = 0.1
# A bare arm goes on over the hand up to this distance from the wrist, m, and fades over as much again.
ONTO_HAND_M = 0.03


class SmoothedArms:
    """The parts of an avatar's arms that have smooth colors in the atlas."""

    def __init__(self, avatar: Avatar, body: Body, sleeve_end: float):
        """sleeve_end: m along the arm from the body's midplane, see `LimbMaterials`."""
        self.body, self.sleeve_end = body, sleeve_end
        own = body.posed_joints(Motion.still(avatar.poses, avatar.expression), avatar.betas, avatar.surface)
        # What the portrait shows of upper arms and forearms, f64 [3] each; see `_seen_side`.
        bones = [bone for side in SIDES for bone in _bones(side)]
        self._own = {bone: _seen_side(own, avatar.extrinsics[None], *bone)[0] for bone in bones}
        self._is_short = {side: np.linalg.norm(self._own[_bones(side)[1]]) < _SHORT for side in SIDES}
        self._elbow, self._wrist = (joint_reach(body, name) for name in ("elbow", "wrist"))
        self._is_bare = sleeve_end < self._wrist

    def contains(self, layer: np.ndarray, reach: np.ndarray) -> np.ndarray:
        """Which points lie on such a part, bool [N].

        layer u8 [N]: see `layers`; reach f32 [N]: distances from the body's midplane in the rest pose, m.
        """
        result = (layer >= ARM) & (reach > self.sleeve_end) & (reach < self._wrist + ONTO_HAND_M) & self._is_bare
        return result | self.in_foreshortened_sleeve(layer, reach)

    def in_foreshortened_sleeve(self, layer: np.ndarray, reach: np.ndarray) -> np.ndarray:
        """Which points lie on the sleeve of a foreshortened forearm, bool [N]. Arguments as of `contains`."""
        short = [part + k for k, side in enumerate(SIDES) for part in (ARM, HAND) if self._is_short[side]]
        return np.isin(layer, short) & (reach > self._elbow) & (reach < self.sleeve_end)

    def share(self, posed: PosedJoints, extrinsics: np.ndarray) -> np.ndarray:
        """How much of a vertex' color the atlas gives instead of the portrait, f32 [T, V] in 0..1.

        It is 0 away from these parts. extrinsics f32 [T, 4, 4] of the camera.
        """
        body, layer, reach = self.body, vertex_layers(self.body), np.abs(self.body.template[:, 0])
        is_bare = self._is_bare * np.clip((reach - self.sleeve_end) / _FADE_M, 0, 1)
        beyond_elbow = np.clip((reach - self._elbow) / _FADE_M, 0, 1)
        near_elbow = is_bare * np.clip(1 - (self._elbow - reach) / _ONTO_UPPER_ARM_M, 0, 1)
        of_hand = self._is_bare * np.clip(2 - (reach - self._wrist) / ONTO_HAND_M, 0, 1)
        result = np.zeros((len(extrinsics), len(layer)), np.float32)
        for k, side in enumerate(SIDES):
            upper_arm, forearm = _bones(side)
            on_upper_arm, on_forearm = (body.weights[:, bone[0]] for bone in (upper_arm, forearm))
            on_forearm = on_forearm + on_upper_arm * near_elbow + body.hand_weight(side) * of_hand
            of_upper_arm = on_upper_arm * (1 - near_elbow) * is_bare
            of_forearm = on_forearm * np.maximum(is_bare, self._is_short[side] * beyond_elbow)
            changes = [self._change(posed, extrinsics, bone)[:, None] for bone in (upper_arm, forearm)]
            is_side = np.isin(layer, (ARM + k, HAND + k))
            result += is_side * (changes[0] * of_upper_arm + changes[1] * of_forearm)
        return np.minimum(result, 1)

    def _change(self, posed: PosedJoints, extrinsics: np.ndarray, bone: tuple[int, int]) -> np.ndarray:
        """How far a bone shows another side than in the portrait, f64 [T] in 0..1."""
        own = self._own[bone]
        change = np.linalg.norm(_seen_side(posed, extrinsics, *bone) - own, axis=1) / max(float(own @ own), 1e-6)
        return np.clip((change - _CHANGED[0]) / (_CHANGED[1] - _CHANGED[0]), 0, 1)


def _bones(side: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Upper arm and forearm of a side: first and last joint of each."""
    shoulder, elbow, wrist = (JOINT[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist"))
    return (shoulder, elbow), (elbow, wrist)


def _seen_side(posed: PosedJoints, extrinsics: np.ndarray, start: int, end: int) -> np.ndarray:
    """The side of a bone that faces the camera, f64 [T, 3]: a vector across the bone in the frame of its first joint.

    Its length is how long the bone is seen, as a share of its true length.
    """
    positions, rotations = (values.astype(np.float64) for values in posed)
    camera = -np.einsum("tji,tj->ti", extrinsics[:, :3, :3], extrinsics[:, :3, 3])
    bone = np.einsum("tji,tj->ti", rotations[:, start], positions[:, end] - positions[:, start])
    to_camera = np.einsum("tji,tj->ti", rotations[:, start], camera - positions[:, [start, end]].mean(1))
    bone, to_camera = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (bone, to_camera))
    return to_camera - (to_camera * bone).sum(1, keepdims=True) * bone
