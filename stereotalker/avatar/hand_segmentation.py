"""Segmentation of a portrait's hands at full resolution, around the detector's key points.

The fit places fingers a few pixels off, and the person's outline is rougher than a finger is wide. The key points say
where the fingers are, and a graph cut finds their edges.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

from stereotalker.avatar import color_segmentation
from stereotalker.avatar.color_segmentation import SAME_MATERIAL_SD
from stereotalker.media.morphology import disk_kernel
from stereotalker.smplx_layout import REGION

# Widths of the middle of a finger, which is certainly the hand, and of a whole finger; and how far beyond that the
# hand may reach. Shares of the length from the wrist to the knuckle of the middle finger.
_CERTAIN, _FINGER, _SEARCH = 0.08, 0.2, 0.14
# The width of a wrist, and how far behind its middle the hand ends; shares of the same length.
_WRIST_WIDTH, _WRIST = 0.55, 0.15
# The distance between the outer knuckles, times this, is the least that length can be. Hands that point at the camera
# look shorter.
_KNUCKLES = 1.15
# A palm that looks shorter than this share of it does not say where the forearm is.
_MIN_PALM = 0.6
# Where more of the surroundings than this share has the color of the hand, color says nothing.
_MAX_ALIKE = 0.8
# Colors this far from the hand's, in standard deviations, are clearly none of it.
_CLEAR_SD = 2 * SAME_MATERIAL_SD
# Smallest and largest plausible size of the result, as shares of the drawn hand's.
_MIN_SIZE, _MAX_SIZE = 0.6, 1.6
# Radius of the median filter that removes specks, as a share of the length.
_SPECK = 0.015
_CLOTH = [REGION[name] for name in ("arms", "torso", "legs")]
_PALM = (0, 1, 5, 9, 13, 17)
_KNUCKLE_POINTS = (5, 9, 13, 17)


def segment_hands(picture: np.ndarray, regions: np.ndarray, hands: dict[str, np.ndarray]) -> np.ndarray:
    """Region labels u8 [H, W] with the hands where the picture shows them.

    picture u8 [H, W, 3]; regions u8 [H, W]; hands: side -> f32 [21, 2] px.
    """
    result = regions.copy()
    for side, points in hands.items():
        others = [other for name, other in hands.items() if name != side]
        is_head = np.isin(regions, [REGION[name] for name in ("face", "hair", "mouth")])
        found = _segment_hand(picture, points, others, is_head)
        if found is None:
            continue
        window, is_hand = found
        labels = result[window]
        is_old = (labels == REGION["hands"]) & _is_nearer(labels.shape, window, points, others)
        if not others:  # a second hand may be in the picture that was not detected
            is_old = _connected_to(is_old, is_hand)
        is_lost = is_old & ~is_hand
        is_beside = ~is_hand & (labels != REGION["hands"])
        if is_lost.any() and is_beside.any():
            rows, columns = distance_transform_edt(~is_beside, return_distances=False, return_indices=True)
            labels[is_lost] = labels[rows, columns][is_lost]
            # Skin beside a hand is the forearm's.
            lab = color_segmentation.cielab(picture[window])
            is_skin = color_segmentation.distance(lab, lab[is_hand]) < SAME_MATERIAL_SD
            labels[is_lost & is_skin & np.isin(labels, _CLOTH)] = REGION["arms"]
        labels[is_hand] = REGION["hands"]
    return result


def _segment_hand(
    picture: np.ndarray, points: np.ndarray, others: list[np.ndarray], is_head: np.ndarray
) -> tuple[tuple[slice, slice], np.ndarray] | None:
    """The hand with these key points f32 [21, 2] px: a window of the picture, and where in it the hand is, bool.

    others: key points of the other hand; is_head bool [H, W]: where hair and skin of the head are. None if the cut
    finds no hand, or the hand is not inside the picture.
    """
    H, W = picture.shape[:2]
    across = float(np.linalg.norm(points[5] - points[17]))
    length = max(float(np.linalg.norm(points[9] - points[0])), _KNUCKLES * across)
    margin = round((_FINGER + 2 * _SEARCH) * length)
    (x0, y0), (x1, y1) = np.floor(points.min(0)).astype(int) - margin, np.ceil(points.max(0)).astype(int) + margin
    window = np.s_[max(y0, 0) : max(min(y1, H), 0), max(x0, 0) : max(min(x1, W), 0)]
    crop = picture[window]
    if min(crop.shape[:2]) < 8:
        return None
    local = points - (window[1].start, window[0].start)
    certain, drawn = (
        _draw(local, crop.shape[:2], _CERTAIN * length),
        _draw(local, crop.shape[:2], _FINGER * length, _WRIST_WIDTH * length),
    )
    possible = cv2.dilate(drawn.astype(np.uint8), disk_kernel(max(1, round(_SEARCH * length)))) > 0
    is_forearm = ~drawn & _is_behind_wrist(local, crop.shape[:2], length)
    if not certain.any():
        return None
    lab = color_segmentation.cielab(crop)
    to_hand = color_segmentation.distance(lab, lab[certain])
    if (to_hand[possible & ~drawn & ~is_forearm] < SAME_MATERIAL_SD).mean() > _MAX_ALIKE:
        return None
    is_own = _is_nearer(crop.shape[:2], window, points, others)
    marks = np.where(drawn, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    marks[~possible | is_forearm | ~is_own | is_head[window]] = cv2.GC_BGD
    marks[certain & is_own] = cv2.GC_FGD
    # Shadows between the fingers stay, but not what has the color of the cloth or the wall behind them.
    is_other = (to_hand > _CLEAR_SD) & (color_segmentation.distance(lab, lab[~possible]) < SAME_MATERIAL_SD)
    rough = (color_segmentation.grab_cut(crop, marks) & ~is_other).astype(np.uint8)
    cut = cv2.medianBlur(rough, 2 * max(1, round(_SPECK * length)) + 1) > 0
    cut = _connected_to(cut, certain)
    if not _MIN_SIZE * drawn.sum() < cut.sum() < _MAX_SIZE * drawn.sum():
        return None
    return window, cut


def _is_behind_wrist(points: np.ndarray, shape: tuple[int, int], length: float) -> np.ndarray:
    """Where the forearm may be, bool [h, w]: nowhere if the palm is seen from its edge or its end.

    points f32 [21, 2] px; length: of the palm, px.
    """
    forward = points[list(_KNUCKLE_POINTS)].mean(0) - points[0]
    distance = float(np.linalg.norm(forward))
    if distance < _MIN_PALM * length:
        return np.zeros(shape, bool)
    y, x = np.indices(shape)
    return ((x - points[0, 0]) * forward[0] + (y - points[0, 1]) * forward[1]) / distance < -_WRIST * length


def _draw(points: np.ndarray, shape: tuple[int, int], width: float, wrist: float = 1) -> np.ndarray:
    """Draw the palm, and fingers and a wrist with these widths, px. points f32 [21, 2] px; bool [h, w]."""
    mask = np.zeros(shape, np.uint8)
    thick = max(1, round(width))
    cv2.fillPoly(mask, [np.rint(points[list(_PALM)]).astype(np.int32)], 1)
    cv2.circle(mask, tuple(np.rint(points[0]).astype(int).tolist()), round(wrist / 2), 1, -1)
    for first in range(1, 21, 4):
        knuckle = 0 if first == 1 else first
        line = np.rint(points[[knuckle, *range(first, first + 4)]]).astype(np.int32)
        cv2.polylines(mask, [line], False, 1, thick)
    return mask > 0


def _is_nearer(
    shape: tuple[int, int], window: tuple[slice, slice], points: np.ndarray, others: list[np.ndarray]
) -> np.ndarray:
    """Whether a pixel of a window is nearer to one hand than to the others, bool [h, w]."""
    if not others:
        return np.ones(shape, bool)
    corner = (window[1].start, window[0].start)
    own, other = (np.min([_distance(_draw(p - corner, shape, 1)) for p in group], 0) for group in ([points], others))
    return own <= other


def _distance(mask: np.ndarray) -> np.ndarray:
    """Distance of every pixel from a mask bool [h, w], px; infinite where the mask is empty."""
    return distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, np.inf)


def _connected_to(mask: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """The connected pieces of a mask that contain a pixel of another one. bool [h, w]."""
    _, pieces = cv2.connectedComponents(mask.astype(np.uint8))
    kept = np.unique(pieces[seed & mask])
    return np.isin(pieces, kept[kept > 0])
