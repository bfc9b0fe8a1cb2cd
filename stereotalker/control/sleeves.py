"""Detects where the sleeves end, and labels portrait pixels as sleeve or bare skin.

The portrait's regions do not separate skin from cloth of the arms, and cuffs between fingers look like hands; a
forearm that points at the camera is a few pixels of all three. Neither the colors that the portrait shows there nor
the guesses for the rest may mix them. A sleeve ends all around the arm at once, so one distance along the arm is
searched, the same on both sides. V: vertices of the body, R: regions.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stereotalker.body.model import Body
from stereotalker.control.region_sources import BARE, FRINGE, hand_vertices
from stereotalker.geometry.rasterizer import Fragments
from stereotalker.records import Avatar
from stereotalker.smplx_layout import JOINT, REGION, SIDES

_LIMBS = [JOINT[f"{side}_{name}"] for side in SIDES for name in ("shoulder", "elbow", "wrist")]
# Skinning weight above which a vertex belongs to the hand rather than to the wrist.
_MIN_HAND_WEIGHT = 0.9
# Weight of lightness beside the two chroma channels in a color distance; less than 1, because skin lies in shadow, too.
_LIGHTNESS_WEIGHT = 0.5
# Distance of colors (CIELAB as OpenCV's u8, lightness weighted) between skin and sleeve below which they are not
# separable.
_MIN_SKIN_SLEEVE_DISTANCE = 12.0
# Pixels labeled as a hand whose color is closer than this to the sleeve's are a cuff; the same distance.
_MAX_CUFF_DISTANCE = 6.0
# Fraction of the visible arm pixels, counted from the shoulder, whose median is the sleeve's color.
_UPPER_ARM_FRACTION = 0.3
# Blur of the color distances as a fraction of the picture's height: smaller specks are noise.
_BLUR_SIGMA = 1 / 400
# Fraction of the arm pixels that an end of the sleeves must put on the right side, compared with sleeves that have no
# end. It must also put more pixels on the right side than it leaves on the wrong one.
_MIN_SKIN_FRACTION = 0.03
# Fraction of the arm pixels up to which sleeves that reach the hands may look like skin. The shipped people have at
# most 0.1, a chequered shirt had 0.23.
_MAX_SKIN_IN_SLEEVE = 0.15
# Distance to both sides of where sleeves or hands end within which either may be shown, m.
_TRANSITION_M = 0.03


@dataclass(frozen=True)
class SourceLabels:
    """Source labels of a portrait's pixels, and which of them a vertex may take its color from.

    A source label is a region in 0..R - 1, or BARE or FRINGE of `region_sources`. H x W: the portrait.
    """

    pixels: np.ndarray  # u8 [H, W] in 0..R + 1
    regions: np.ndarray  # u8 [H, W] regions of the portrait, with cuffs among the hands relabeled as arms
    allowed_sources: np.ndarray  # bool [V, R + 2]
    # f32 [V]: distance of an arm's vertex beyond the sleeve's end, m; -1 before it, off the arms, and where the end
    # is unknown.
    beyond: np.ndarray


def detect_sleeve_end(
    avatar: Avatar, body: Body, fragments: Fragments, initial_source_labels: np.ndarray, allowed: np.ndarray
) -> SourceLabels:
    """Detect where the sleeves end, and label the portrait's pixels accordingly.

    fragments: the body rasterized in the portrait; initial_source_labels u8 [H, W]: source labels without BARE, see
    `region_sources.initial_source_labels`; allowed bool [V, R]: regions that a vertex may show, see
    `region_sources.anatomically_allowed`.
    """
    pixels, regions, reach = initial_source_labels.copy(), avatar.regions.copy(), _distance_along_arm(body)
    hand_start = reach[hand_vertices(body) & (reach > 0)].min(initial=np.inf)
    # Only the root of a hand may show FRINGE. Else the fingers would carry along what the hand lies on.
    fringe_allowed = allowed[:, REGION["hands"]] & (reach < hand_start + _TRANSITION_M)
    allowed_sources = np.concatenate([allowed, allowed[:, REGION["arms"], None], fringe_allowed[:, None]], 1)
    reach_at_pixel = fragments.interpolate(body.faces, reach[:, None])[..., 0]
    is_arm, is_hand = (initial_source_labels == REGION["arms"]) & (reach_at_pixel > 0), regions == REGION["hands"]
    for side in SIDES:
        hand_weight = body.hand_weight(side)
        # A hand that the segmentation missed is labeled as arm. Only where it found the hand, fingers may not show
        # arms.
        if (is_hand & (fragments.interpolate(body.faces, hand_weight[:, None])[..., 0] > 0.5)).any():
            allowed_sources[hand_weight > _MIN_HAND_WEIGHT, REGION["arms"]] = False

    # If the portrait shows no hands, clips keep the arms still, and they show what the portrait shows.
    distances = _color_distances(avatar, is_arm, is_hand, reach_at_pixel) if avatar.arms else None
    end = None
    if distances is not None:
        to_skin, to_sleeve = distances
        end = _find_sleeve_end(reach_at_pixel[is_arm], (to_skin < to_sleeve)[is_arm])
    if end is None:
        return SourceLabels(pixels, regions, allowed_sources, np.full(len(reach), -1, np.float32))

    is_skin = is_arm & (to_skin < to_sleeve)
    is_cuff = is_hand & (to_sleeve < np.minimum(to_skin, _MAX_CUFF_DISTANCE))
    pixels[is_cuff] = regions[is_cuff] = REGION["arms"]
    is_cloth = (reach > 0) & (reach < min(end, hand_start) - _TRANSITION_M)
    allowed_sources[is_cloth, REGION["hands"]] = allowed_sources[is_cloth, FRINGE] = False
    if np.isfinite(end):
        pixels[is_skin & (reach_at_pixel > end - _TRANSITION_M)] = BARE
        allowed_sources[reach > end + _TRANSITION_M, REGION["arms"]] = False
        allowed_sources[is_cloth, BARE] = False
    else:
        # The sleeves reach the hands, and the skin is a hand's rim. It is shown where it is, but as BARE pixels it is
        # no source for guesses of other places of the sleeve.
        pixels[is_skin] = BARE
    beyond = np.where(reach > end, reach - end, -1).astype(np.float32)
    return SourceLabels(pixels, regions, allowed_sources, beyond)


def _distance_along_arm(body: Body) -> np.ndarray:
    """Distance of arm and hand vertices from the body's midplane in the rest pose, f32 [V] m; 0 for all others.

    In the rest pose the arms are stretched out sideways.
    """
    limb = np.maximum(body.weights[:, _LIMBS].sum(1), body.hand_weight())
    return np.where(limb > 0.5, np.abs(body.template[:, 0]), 0).astype(np.float32)


def _color_distances(
    avatar: Avatar, is_arm: np.ndarray, is_hand: np.ndarray, reach_at_pixel: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Distance of every pixel's color from skin (of face or hands, the nearer) and from the sleeve, f32 [H, W] each.

    The sleeve's color is that of the upper arms. None where skin and sleeve look alike, or where either is not visible.
    """
    color = cv2.cvtColor(avatar.portrait, cv2.COLOR_RGB2LAB) * np.array([_LIGHTNESS_WEIGHT, 1, 1], np.float32)
    skins = [np.median(color[mask], 0) for mask in (avatar.regions == REGION["face"], is_hand) if mask.any()]
    if not is_arm.any() or not skins:
        return None
    is_upper_arm = is_arm & (reach_at_pixel <= np.quantile(reach_at_pixel[is_arm], _UPPER_ARM_FRACTION))
    sleeve = np.median(color[is_upper_arm], 0)
    if min(np.linalg.norm(skin - sleeve) for skin in skins) < _MIN_SKIN_SLEEVE_DISTANCE:
        return None
    to_skin = np.min([np.linalg.norm(color - skin, axis=-1) for skin in skins], 0)
    to_sleeve = np.linalg.norm(color - sleeve, axis=-1)
    sigma = max(is_arm.shape[0] * _BLUR_SIGMA, 0.5)
    return tuple(cv2.GaussianBlur(distance.astype(np.float32), (0, 0), sigma) for distance in (to_skin, to_sleeve))


def _find_sleeve_end(reach: np.ndarray, is_skin: np.ndarray) -> float | None:
    """The distance along the arm that separates cloth from skin with the fewest arm pixels on the wrong side, m.

    reach f32 [N] m and is_skin bool [N]: of the arm pixels. Infinity where sleeves reach the hands, None where the
    colors give no clear answer.
    """
    order, count = np.argsort(reach, kind="stable"), len(reach)
    skin_before = np.concatenate([[0], np.cumsum(is_skin[order])])
    cloth_after = np.concatenate([np.cumsum(~is_skin[order][::-1])[::-1], [0]])
    # errors[k]: pixels on the wrong side if the first k pixels are cloth and the rest is skin.
    errors = skin_before + cloth_after
    best = int(errors.argmin())
    if best < count and errors[-1] - errors[best] > max(errors[best], _MIN_SKIN_FRACTION * count):
        return float(reach[order][best])
    return np.inf if errors[-1] < _MAX_SKIN_IN_SLEEVE * count else None
