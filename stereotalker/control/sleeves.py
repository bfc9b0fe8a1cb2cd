"""Where sleeves end. Skin and cloth of arms are one region of a portrait, and cuffs between fingers look like hands; a forearm that points
at the camera is a few pixels of all three. What the portrait shows there, and what is guessed of the rest, must not mix them.

A sleeve ends all around the arm at once, so one place along the arm is looked for, the same on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stereotalker.body.model import Body
from stereotalker.control.region_sources import BARE, FRINGE, hands_of
from stereotalker.geometry.rasterizer import Fragments
from stereotalker.records import Avatar
from stereotalker.smplx_layout import JOINT, REGION, SIDES

_LIMBS = [JOINT[f"{side}_{name}"] for side in SIDES for name in ("shoulder", "elbow", "wrist")]
_WHOLLY = 0.9  # of a vertex' weights: hand, and not wrist
_LIGHTNESS = 0.5  # weight of lightness beside the two colours: skin lies in shadow, too
_APART = 12.0  # distance of colours, CIELAB as OpenCV's u8: closer, skin and cloth are not told apart
_CUFF = 6.0  # so near the sleeves' colour, what the regions call a hand is a cuff
_UPPER = 0.3  # of an arm that is seen, from the shoulder: its colour is the sleeve's
_GRAIN = 1 / 400  # of the picture's height: smaller specks are noise
_TELLS = 0.03  # an end must put right this share of the arms' pixels, and more of them than it leaves wrong
_MIXED = 0.15  # sleeves that reach the hands may look like skin in so many of their pixels; shipped people in 0.1, a chequered shirt in 0.23
_SLACK_M = 0.03  # to either side of where sleeves or hands end, where either may show


@dataclass(frozen=True)
class SourceLabels:
    """What a portrait's pixels are of, and where on the body that may show. R regions, BARE and FRINGE."""

    pixels: np.ndarray  # u8 [H, W] in 0..R + 1
    regions: np.ndarray  # u8 [H, W] of the portrait, without cuffs among the hands
    allowed_sources: np.ndarray  # bool [V, R + 2]
    beyond: (
        np.ndarray
    )  # f32 [V] m of an arm beyond the end of the sleeves; -1 before it, off the arms and where nothing is known


def detect_sleeve_end(
    avatar: Avatar, body: Body, picture: Fragments, claimed: np.ndarray, allowed: np.ndarray
) -> SourceLabels:
    """Claims of a portrait's pixels u8 [H, W], without BARE yet, and of what regions a vertex is allowed to show, bool [V, R]. picture: the body as the portrait shows it."""
    pixels, regions, reach = claimed.copy(), avatar.regions.copy(), _along_arm(body)
    hands_from = reach[hands_of(body) & (reach > 0)].min(initial=np.inf)
    beside_hands = allowed[:, REGION["hands"]] & (
        reach < hands_from + _SLACK_M
    )  # or what a hand lies on is carried along on its fingers
    may = np.concatenate([allowed, allowed[:, REGION["arms"], None], beside_hands[:, None]], 1)
    at = picture.interpolate(body.faces, reach[:, None])[..., 0]
    arms, hands = (claimed == REGION["arms"]) & (at > 0), regions == REGION["hands"]
    for side in SIDES:
        hand = body.hand_weight(side)
        if (
            hands & (picture.interpolate(body.faces, hand[:, None])[..., 0] > 0.5)
        ).any():  # a hand that was not found is called an arm
            may[hand > _WHOLLY, REGION["arms"]] = False
    told = (
        _colours(avatar, arms, hands, at) if avatar.arms else None
    )  # arms that keep still show what the portrait shows
    if told is None or (end := _end_of_sleeves(at[arms], (told[0] < told[1])[arms])) is None:
        return SourceLabels(pixels, regions, may, np.full(len(reach), -1, np.float32))
    to_skin, to_sleeve = told
    skin = arms & (to_skin < to_sleeve)
    cuffs = hands & (to_sleeve < np.minimum(to_skin, _CUFF))
    pixels[cuffs] = regions[cuffs] = REGION["arms"]
    cloth = (reach > 0) & (reach < min(end, hands_from) - _SLACK_M)
    may[cloth, REGION["hands"]] = may[cloth, FRINGE] = False
    if np.isfinite(end):
        pixels[skin & (at > end - _SLACK_M)] = BARE
        may[reach > end + _SLACK_M, REGION["arms"]] = False
        may[cloth, BARE] = False
    else:  # a hand's rim: shown where it is, but no other place of the sleeve is guessed from it
        pixels[skin] = BARE
    return SourceLabels(pixels, regions, may, np.where(reach > end, reach - end, -1).astype(np.float32))


def _along_arm(body: Body) -> np.ndarray:
    """How far from the body's middle a vertex of an arm or hand is at rest, where arms are stretched out, f32 [V] m; 0 of all others."""
    limb = np.maximum(body.weights[:, _LIMBS].sum(1), body.hand_weight())
    return np.where(limb > 0.5, np.abs(body.template[:, 0]), 0).astype(np.float32)


def _colours(
    avatar: Avatar, arms: np.ndarray, hands: np.ndarray, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """How far pixels' colours are from the face's or the hands', and from the upper arms', f32 [H, W] each; None where these are alike or not seen."""
    colour = cv2.cvtColor(avatar.portrait, cv2.COLOR_RGB2LAB) * np.array([_LIGHTNESS, 1, 1], np.float32)
    skins = [np.median(colour[where], 0) for where in (avatar.regions == REGION["face"], hands) if where.any()]
    if not arms.any() or not skins:
        return None
    sleeve = np.median(colour[arms & (at <= np.quantile(at[arms], _UPPER))], 0)
    if min(np.linalg.norm(skin - sleeve) for skin in skins) < _APART:
        return None
    to_skin, to_sleeve = (
        np.min([np.linalg.norm(colour - skin, axis=-1) for skin in skins], 0),
        np.linalg.norm(colour - sleeve, axis=-1),
    )
    return tuple(
        cv2.GaussianBlur(away.astype(np.float32), (0, 0), max(arms.shape[0] * _GRAIN, 0.5))
        for away in (to_skin, to_sleeve)
    )


def _end_of_sleeves(at: np.ndarray, skin: np.ndarray) -> float | None:
    """The place that parts cloth from skin [N] with the fewest pixels on the wrong side, m.

    Infinity where sleeves reach the hands, None where colours do not tell.
    """
    order, count = np.argsort(at, kind="stable"), len(at)
    wrong = np.concatenate([[0], np.cumsum(skin[order])]) + np.concatenate([np.cumsum(~skin[order][::-1])[::-1], [0]])
    best = int(wrong.argmin())
    if best < count and wrong[-1] - wrong[best] > max(wrong[best], _TELLS * count):
        return float(at[order][best])
    return np.inf if wrong[-1] < _MIXED * count else None
