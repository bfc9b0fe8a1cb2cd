"""Segmentation of a portrait's hands. The fit places fingers a few pixels off; their color shows where they are.

The reference warp moves pixels of a hand with the hand, and all other pixels without it. A finger that is labeled as a
sleeve would be torn off.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

from stereotalker.avatar import color_segmentation
from stereotalker.avatar.background import disk_kernel
from stereotalker.avatar.color_segmentation import SAME_MATERIAL_SD
from stereotalker.smplx_layout import REGION

# How far outside the fitted hand the hand may be, share of the picture's longer side.
_SEARCH_BAND = 0.025
# Pixels of the hand's color that are this far inside the fitted hand are certainly hand. Share of the longer side,
# about half a finger.
_CORE_DEPTH = 0.008
# Width of a finger, as a share of the distance from the wrist to the knuckle of the middle finger.
_FINGER_WIDTH = 0.15
# Radius of the median filter that removes specks, as a share of the longer side.
_SPECK_RADIUS = 1 / 500
# Pixels of the fitted hand up to this many standard deviations from the face's colors are its sample. The limit is
# wider than that of one material, because hands are redder than faces and lit differently.
_MAX_SKIN_SD = 1.5 * SAME_MATERIAL_SD
# Colors decide nothing if clothes make up less than the first share of the clothed regions outside the search band,
# or if skin makes up less than the second share of the fitted hand.
_MIN_CLOTH_SHARE, _MIN_SKIN_SHARE = 0.1, 0.3
# Smallest and largest plausible size of the result, as shares of the fitted hand's pixels.
_MIN_SIZE, _MAX_SIZE = 0.4, 1.6
_CLOTH_REGIONS = REGION["arms"], REGION["torso"], REGION["legs"]


@dataclass(frozen=True)
class FittedHand:
    """One hand of the fitted body in the picture."""

    mask: np.ndarray  # bool [H, W]
    finger_mask: np.ndarray  # bool [H, W], without palm and wrist
    # u8 [H, W]: the region that the body shows without this hand. It is 0 outside the body, and the label of hands
    # where the head is behind the hand.
    region_behind: np.ndarray


def fingers(hands: dict[str, np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Draw the detected fingers, bool [H, W]. The detector's person mask sometimes lacks a thumb.

    hands: side -> f32 [21, 2] px; shape: (height, width) px.
    """
    mask = np.zeros(shape, np.uint8)
    for points in hands.values():
        width = max(1, round(_FINGER_WIDTH * float(np.linalg.norm(points[9] - points[0]))))
        for first in range(1, 21, 4):  # a thumb and four fingers, four points each
            cv2.polylines(mask, [np.rint(points[first : first + 4]).astype(np.int32)], False, 1, width)
    return mask > 0


def segment_hand(
    regions: np.ndarray, hand: FittedHand, picture: np.ndarray, lab: np.ndarray, skin: np.ndarray
) -> np.ndarray:
    """Region labels u8 [H, W] with one hand where its colors are; unchanged if the colors cannot decide.

    regions u8 [H, W]; picture u8 [H, W, 3]; lab: its `color_segmentation.cielab`; skin f32 [H, W]: standard deviations
    from the face's colors. Arms beside palm and wrist stay arms, because bare ones have the hand's colors.
    """
    person, side = regions > 0, max(regions.shape)
    fitted = hand.mask & person
    band = disk_kernel(max(2, round(_SEARCH_BAND * side)))
    zone = (cv2.dilate(fitted.astype(np.uint8), band) > 0) & np.isin(regions, (REGION["hands"], *_CLOTH_REGIONS))
    outside = ~zone & np.isin(regions, _CLOTH_REGIONS)
    clothes, bare = outside & (skin > SAME_MATERIAL_SD), fitted & (skin < _MAX_SKIN_SD)
    has_cloth = clothes.sum() > _MIN_CLOTH_SHARE * outside.sum()
    has_skin = bare.sum() > _MIN_SKIN_SHARE * fitted.sum()
    if not zone.any() or not has_cloth or not has_skin:
        return regions
    window = _window(zone)
    cloth_distance = color_segmentation.distance(lab[window], lab[clothes])
    hand_distance = np.minimum(skin[window], color_segmentation.distance(lab[window], lab[bare]))
    core = cv2.erode(fitted.astype(np.uint8), disk_kernel(max(1, round(_CORE_DEPTH * side)))) > 0
    rows, columns = distance_transform_edt(~hand.mask[window], return_distances=False, return_indices=True)
    # The background may have the color of skin, so it gets the color of cloth.
    without_wall = np.where(person[..., None], picture, np.median(picture[clothes], 0).astype(np.uint8))
    person, zone, core, behind, without_wall = (
        a[window] for a in (person, zone, core, hand.region_behind, without_wall)
    )
    before = zone & (regions[window] == REGION["hands"])
    is_hand_color = (hand_distance < SAME_MATERIAL_SD) & (hand_distance < cloth_distance)
    choices = [~person, is_hand_color & core, is_hand_color], [cv2.GC_BGD, cv2.GC_FGD, cv2.GC_PR_FGD]
    marks = np.select(*choices, cv2.GC_PR_BGD).astype(np.uint8)
    cut = color_segmentation.grab_cut(without_wall, marks).astype(np.uint8)
    after = (cv2.medianBlur(cut, 2 * max(1, round(_SPECK_RADIUS * side)) + 1) > 0) & zone
    after &= before | hand.mask[window] | hand.finger_mask[window][rows, columns]
    if not _MIN_SIZE * before.sum() < after.sum() < _MAX_SIZE * before.sum():
        return regions
    # Nails and shadows do not have the hand's color but stay hand. A pixel is removed only if it is more like cloth.
    # Where the body shows nothing behind the hand, it must have the color of cloth.
    removed = before & ~after & (cloth_distance < hand_distance) & ((behind > 0) | (cloth_distance < SAME_MATERIAL_SD))
    result = regions.copy()
    result[window][removed] = np.where(behind > 0, behind, REGION["arms"])[removed]
    result[window][after] = REGION["hands"]
    return result


def _window(zone: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns around a zone bool [H, W], with a margin that shows what lies beside the hand."""
    margin = round(_SEARCH_BAND * max(zone.shape))
    rows, columns = (slice(max(i.min() - margin, 0), i.max() + 1 + margin) for i in np.nonzero(zone))
    return rows, columns
