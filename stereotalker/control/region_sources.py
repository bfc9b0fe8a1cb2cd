"""Which of a picture's regions may lie on which part of the body: a fit is a pixel off, and a hand's fringe must not stay on the belly."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import grey_dilation, grey_erosion

from stereotalker.body.free_body import PARTS
from stereotalker.body.model import Body
from stereotalker.smplx_layout import JOINT, REGION, REGIONS

# What a portrait's pixel may be of beside the regions: skin of arms, and what lies beside hands and has their colours mixed in.
BARE, FRINGE = len(REGIONS), len(REGIONS) + 1
_EARS_M = 0.08  # behind the eyes
_REACH = 1 / 200  # of the picture's height: how far colours may reach beyond their region
_TRUNK = ("pelvis", "spine1", "spine2", "spine3", "neck", "left_collar", "right_collar", "left_hip", "right_hip")
_HEAD = ("head", "jaw", "left_eye", "right_eye")


def hands_of(body: Body) -> np.ndarray:
    """Whether a vertex is of a hand, bool [V]."""
    return body.hand_weight() > 0.5


def forearms_of(body: Body) -> np.ndarray:
    """Whether a vertex is of a forearm, bool [V]."""
    return (body.weights[:, [JOINT["left_elbow"], JOINT["right_elbow"]]].sum(1) > 0.5) & ~hands_of(body)


def back_of_head(body: Body) -> np.ndarray:
    """Whether a vertex of the head lies behind the ears and above the lips, bool [V]."""
    eyes = body.template[body.weights[:, [JOINT["left_eye"], JOINT["right_eye"]]].sum(1) > 0.5].mean(0)
    lips = body.template[body.masks["lips"] > 0.5].mean(0)
    return (
        (body.weights[:, JOINT["head"]] > 0.5)
        & (body.template[:, 2] < eyes[2] - _EARS_M)
        & (body.template[:, 1] > lips[1])
    )


def in_mouth(body: Body) -> np.ndarray:
    """Whether a vertex is of what a closed mouth hides: tongue, teeth, the mouth's own lining. bool [V]."""
    return np.isin(body.part, [PARTS[name][0] for name in ("tongue", "teeth")]) | (
        (body.masks["inner_mouth"] > 0.5) & (body.part == PARTS["body"][0])
    )


def allowed(body: Body) -> np.ndarray:
    """Whether a vertex may show a region, bool [V, R]. What may, is decided by the portrait."""
    may = np.ones((len(body.weights), len(REGIONS)), bool)
    may[:, REGION["background"]] = False
    hand = hands_of(body)
    for name in ("hair", "face", "mouth", "torso", "legs"):
        may[hand, REGION[name]] = False
    fixed = body.weights[:, [JOINT[name] for name in (*_TRUNK, *_HEAD)]].sum(1) > 0.5
    may[fixed, REGION["hands"]] = False
    return may


def inner(regions: np.ndarray) -> np.ndarray:
    """Where the portrait's regions u8 [H, W] show the person, and nothing of the background mixed in, bool [H, W]."""
    reach = max(1, round(regions.shape[0] * _REACH))
    return grey_erosion((regions != REGION["background"]).astype(np.uint8), size=2 * reach + 1) > 0


def claimed(regions: np.ndarray) -> np.ndarray:
    """The portrait's regions u8 [H, W], and FRINGE of the person beside hands."""
    reach = max(1, round(regions.shape[0] * _REACH))
    wide = grey_dilation((regions == REGION["hands"]).astype(np.uint8), size=2 * reach + 1)
    return np.where((wide > 0) & ~np.isin(regions, [REGION["hands"], REGION["background"]]), FRINGE, regions).astype(
        np.uint8
    )
