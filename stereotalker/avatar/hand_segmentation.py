"""Where a portrait shows hands. A fit has fingers a few pixels beside their place; their colour tells where they are.

Warps carry what is a hand with the hand, and all else without it: a finger that counts as sleeve is torn off.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

from stereotalker.avatar import color_segmentation
from stereotalker.avatar.background import disc
from stereotalker.smplx_layout import REGION

_BAND = 0.025  # of the picture's longer side: how far beside the fit a hand may be
_SURE = 0.008  # of the longer side, half a finger: so far within the fit's outline what looks like the hand is it
_FINGER = 0.15  # of the palm's length: how wide a finger is at least
_GRAIN = 1 / 500  # of the longer side: smaller specks are noise
_NEARLY = 1.5  # times ALIKE from the face's colours: hands are redder, and lit from elsewhere
_DRESSED, _BARE = (
    0.1,
    0.3,
)  # shares of clothes and of the fit's hand: with less cloth and skin in sight, colours tell nothing
_LIKELY = 0.4, 1.6  # of the fit's pixels: of fewer or more, colours do not tell a hand from what lies beside it
_CLOTH = REGION["arms"], REGION["torso"], REGION["legs"]


@dataclass(frozen=True)
class FittedHand:
    """A hand of the body as the fit has it in the picture."""

    drawn: np.ndarray  # bool [H, W]
    fingers: np.ndarray  # bool [H, W]: of them, without palm and wrist
    behind: (
        np.ndarray
    )  # u8 [H, W]: the region that the body shows without this hand; 0 outside it, a hand where that is the head


def fingers(hands: dict[str, np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Where the detector's fingers are, bool [H, W]: its outline of the person at times lacks thumbs. hands: side -> f32 [21, 2] px."""
    drawn = np.zeros(shape, np.uint8)
    for points in hands.values():
        width = max(1, round(_FINGER * float(np.linalg.norm(points[9] - points[0]))))
        for first in range(1, 21, 4):  # a thumb and four fingers, four points each
            cv2.polylines(drawn, [np.rint(points[first : first + 4]).astype(np.int32)], False, 1, width)
    return drawn > 0


def segment_hand(
    regions: np.ndarray, hand: FittedHand, picture: np.ndarray, lab: np.ndarray, skin: np.ndarray
) -> np.ndarray:
    """Regions u8 [H, W] with one hand where its colours are; as they are where colours do not tell.

    picture u8 [H, W, 3]; lab: its `color_segmentation.cielab`; skin f32 [H, W]: standard deviations from the face's colours. Beside palm and wrist arms
    stay arms: bare ones have the hand's colours.
    """
    person, side = regions > 0, max(regions.shape)
    drawn = hand.drawn & person
    zone = (cv2.dilate(drawn.astype(np.uint8), disc(max(2, round(_BAND * side)))) > 0) & np.isin(
        regions, (REGION["hands"], *_CLOTH)
    )
    beyond = ~zone & np.isin(regions, _CLOTH)
    clothes, bare = beyond & (skin > color_segmentation.ALIKE), drawn & (skin < _NEARLY * color_segmentation.ALIKE)
    if not zone.any() or clothes.sum() <= _DRESSED * beyond.sum() or bare.sum() <= _BARE * drawn.sum():
        return regions
    window = _window(zone)
    sleeve, own = (
        color_segmentation.distance(lab[window], lab[clothes]),
        np.minimum(skin[window], color_segmentation.distance(lab[window], lab[bare])),
    )
    sure = cv2.erode(drawn.astype(np.uint8), disc(max(1, round(_SURE * side)))) > 0
    rows, columns = distance_transform_edt(~hand.drawn[window], return_distances=False, return_indices=True)
    dressed = np.where(
        person[..., None], picture, np.median(picture[clothes], 0).astype(np.uint8)
    )  # a wall may have the skin's colours
    person, zone, sure, behind, dressed = (a[window] for a in (person, zone, sure, hand.behind, dressed))
    before = zone & (regions[window] == REGION["hands"])
    alike = (own < color_segmentation.ALIKE) & (own < sleeve)
    marks = np.select([~person, alike & sure, alike], [cv2.GC_BGD, cv2.GC_FGD, cv2.GC_PR_FGD], cv2.GC_PR_BGD).astype(
        np.uint8
    )
    found = (
        cv2.medianBlur(color_segmentation.cut(dressed, marks).astype(np.uint8), 2 * max(1, round(_GRAIN * side)) + 1)
        > 0
    ) & zone
    found &= before | hand.drawn[window] | hand.fingers[window][rows, columns]
    if not _LIKELY[0] * before.sum() < found.sum() < _LIKELY[1] * before.sum():
        return regions
    # Of what is no hand by its colour, nails and shadows stay hands: it must be like cloth, the more so where the body has nothing but the hand.
    lost = before & ~found & (sleeve < own) & ((behind > 0) | (sleeve < color_segmentation.ALIKE))
    out = regions.copy()
    out[window][lost] = np.where(behind > 0, behind, REGION["arms"])[lost]
    out[window][found] = REGION["hands"]
    return out


def _window(zone: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns around a zone bool [H, W], as far again as hands may be off, so that what lies beside them is seen."""
    beyond = round(_BAND * max(zone.shape))
    return tuple(slice(max(at.min() - beyond, 0), at.max() + 1 + beyond) for at in np.nonzero(zone))
