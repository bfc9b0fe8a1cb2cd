"""Which vertices belong to which part of the body, and which regions of the portrait may lie on them. V: vertices."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import grey_erosion

from stereotalker.body.free_body import PARTS
from stereotalker.body.model import Body
from stereotalker.smplx_layout import JOINT, REGION

# A surface at most this far behind the portrait's depth map counts as visible, m. Fingers are 15 mm thick, so that
# their backs stay hidden.
VISIBILITY_TOLERANCE_M = 0.006
# Distance of the ears behind the eyes, m.
_EARS_BEHIND_EYES_M = 0.08
# How far colors of a region may be mixed into its neighbors, as a fraction of the picture's height.
_MIXING_RADIUS = 1 / 200
_TRUNK_JOINTS = (
    "pelvis", "spine1", "spine2", "spine3", "neck", "left_collar", "right_collar", "left_hip", "right_hip",
)  # fmt: skip
_HEAD_JOINTS = ("head", "jaw", "left_eye", "right_eye")


def hand_vertices(body: Body) -> np.ndarray:
    """Whether a vertex belongs to a hand, bool [V]."""
    return body.hand_weight() > 0.5


def forearm_vertices(body: Body) -> np.ndarray:
    """Whether a vertex belongs to a forearm, bool [V]."""
    return (body.weights[:, [JOINT["left_elbow"], JOINT["right_elbow"]]].sum(1) > 0.5) & ~hand_vertices(body)


def joint_reach(body: Body, name: str) -> float:
    """Distance of a joint ("wrist" or "elbow") of the mean body from its midplane in the rest pose, m."""
    return abs(float(body.joints(np.zeros(body.betas, np.float32))[JOINT[f"left_{name}"], 0]))


def back_of_head_vertices(body: Body) -> np.ndarray:
    """Whether a vertex of the head lies behind the ears and above the lips, bool [V]."""
    eyes = body.template[body.weights[:, [JOINT["left_eye"], JOINT["right_eye"]]].sum(1) > 0.5].mean(0)
    lips = body.template[body.masks["lips"] > 0.5].mean(0)
    return (
        (body.weights[:, JOINT["head"]] > 0.5)
        & (body.template[:, 2] < eyes[2] - _EARS_BEHIND_EYES_M)
        & (body.template[:, 1] > lips[1])
    )


def in_mouth(body: Body) -> np.ndarray:
    """Whether a closed mouth hides a vertex: tongue, teeth and the lining of the mouth. bool [V]."""
    return np.isin(body.part, [PARTS[name][0] for name in ("tongue", "teeth")]) | (
        (body.masks["inner_mouth"] > 0.5) & (body.part == PARTS["body"][0])
    )


def head_vertices(body: Body) -> np.ndarray:
    """Whether a vertex belongs to the head, bool [V]."""
    return body.weights[:, [JOINT[name] for name in _HEAD_JOINTS]].sum(1) > 0.5


def may_show(body: Body, vertices: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Whether vertices i64 [N] may show regions u8 [N] of the portrait, by anatomy alone, bool [N].

    Hands never show hair, face, mouth, torso or legs; trunk and head never show hands; nothing shows the background.
    """
    is_hand = hand_vertices(body)[vertices]
    is_trunk_or_head = body.weights[:, [JOINT[name] for name in (*_TRUNK_JOINTS, *_HEAD_JOINTS)]].sum(1)[vertices] > 0.5
    never_hand = np.isin(regions, [REGION[name] for name in ("hair", "face", "mouth", "torso", "legs")])
    return (
        (regions != REGION["background"]) & ~(is_hand & never_hand) & ~(is_trunk_or_head & (regions == REGION["hands"]))
    )


def shown_vertices(body: Body, pixels: np.ndarray, depth: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Whether the portrait shows a vertex: in the picture, hidden by nothing, and where its part may lie. bool [V].

    pixels f32 [V, 3]: x px, y px, depth m of the fitted body; depth f32 [H, W] m of the body; regions u8 [H, W].
    """
    H, W = regions.shape
    columns, rows = (np.clip(pixels[:, k].astype(int), 0, (W, H)[k] - 1) for k in (0, 1))
    is_inside = (pixels[:, 0] >= 0) & (pixels[:, 0] < W) & (pixels[:, 1] >= 0) & (pixels[:, 1] < H)
    is_front = np.abs(depth[rows, columns] - pixels[:, 2]) < VISIBILITY_TOLERANCE_M
    return is_inside & is_front & may_show(body, np.arange(len(pixels)), regions[rows, columns])


def inner_person_mask(regions: np.ndarray) -> np.ndarray:
    """Where regions u8 [H, W] show the person without any background color mixed in, bool [H, W]."""
    radius = max(1, round(regions.shape[0] * _MIXING_RADIUS))
    return grey_erosion((regions != REGION["background"]).astype(np.uint8), size=2 * radius + 1) > 0
