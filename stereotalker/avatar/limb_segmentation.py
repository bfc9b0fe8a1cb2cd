"""Segmentation of a portrait's hands and bare arms by color. The fit places them a few pixels off.

The reference warp moves pixels of a limb with the limb, and all other pixels without it. A finger that is labeled as a
sleeve would be torn off, and cloth that is labeled as a forearm would be carried away. Detected hands are segmented
once more after this, see `hand_segmentation`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

from stereotalker.avatar import color_segmentation
from stereotalker.avatar.color_segmentation import SAME_MATERIAL_SD
from stereotalker.control.sleeves import sleeve_end
from stereotalker.media.morphology import disk_kernel
from stereotalker.smplx_layout import REGION

# How far outside the fitted limb the limb may be, share of the picture's longer side.
_SEARCH_BAND = 0.025
# Pixels of the limb's color that are this far inside the fitted limb certainly belong to it. Share of the longer side,
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
# Smallest and largest plausible size of the result, as shares of the fitted limb's pixels.
_MIN_SIZE, _MAX_SIZE = 0.4, 1.6
# A hand with fewer pixels than this share of its arm's, at the picture's edge, decides nothing about the color of skin.
_MIN_HAND_SHARE = 0.1
_CLOTH_REGIONS = REGION["arms"], REGION["torso"], REGION["legs"]
# Reach up to which an arm is its upper third, m.
_UPPER_ARM_M = 0.27
# Share of an arm's pixels that an end of its own must set right before the two sleeves may differ.
_MIN_OWN_GAIN = 0.15
# Distance along the arm that a sleeve's end leaves undecided, because hems are slanted, m.
_HEM_M = 0.02
# A loose sleeve hangs at most this far beyond its end on the fitted arm, m.
_LOOSE_SLEEVE_M = 0.06


@dataclass(frozen=True)
class FittedLimb:
    """One arm of the fitted body in the picture."""

    hand: np.ndarray  # bool [H, W] its hand
    arm: np.ndarray  # bool [H, W] upper arm and forearm
    reach: np.ndarray  # f32 [H, W] m along the arm from the body's midplane, where `arm` or `hand`
    others: np.ndarray  # bool [H, W] the other arm and its hand, and the head
    # u8 [H, W]: the region that the body shows without this hand. It is 0 outside the body, and the label of hands
    # where the head is behind the hand.
    behind_hand: np.ndarray


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


def find_sleeve_ends(
    limbs: dict[str, FittedLimb], regions: np.ndarray, lab: np.ndarray, skin: np.ndarray
) -> dict[str, float]:
    """Where the sleeve of every limb ends, m along the arm from the body's midplane: 0 if the whole arm is bare.

    Infinite if the sleeve reaches the hand, if the colors of skin and cloth do not decide, or if the arm is not
    visible. Both sleeves end at one place, unless an arm alone clearly says otherwise. regions u8 [H, W]; lab:
    `color_segmentation.cielab` of the picture; skin f32 [H, W]: standard deviations from the face's colors.
    """
    samples = {}
    for side, limb in limbs.items():
        is_arm = limb.arm & np.isin(regions, _CLOTH_REGIONS)
        colors = _limb_colors(limb, regions, lab, skin)
        if is_arm.any() and colors is not None:
            to_skin, to_cloth = colors
            is_upper = is_arm & (limb.reach < _UPPER_ARM_M)
            # Sleeves may have another color than the trunk's cloth.
            if is_upper.any() and np.median(to_skin[is_upper]) > SAME_MATERIAL_SD:
                to_cloth = np.minimum(to_cloth, color_segmentation.distance(lab, lab[is_upper]))
            samples[side] = limb.reach[is_arm], (to_skin < to_cloth)[is_arm]
    result = dict.fromkeys(limbs, np.inf)
    if not samples:
        return result
    both = sleeve_end(*(np.concatenate(parts) for parts in zip(*samples.values(), strict=True)))
    for side, (reach, is_bare) in samples.items():
        own = sleeve_end(reach, is_bare)
        gain = ((reach > both) != is_bare).mean() - ((reach > own) != is_bare).mean()
        result[side] = own if gain > _MIN_OWN_GAIN else both
    return result


def segment_limb(
    regions: np.ndarray, limb: FittedLimb, bare_from: float, picture: np.ndarray, lab: np.ndarray, skin: np.ndarray
) -> np.ndarray:
    """Region labels u8 [H, W] with the hand and the bare arm where their colors are.

    Unchanged if the colors cannot decide. regions u8 [H, W]; bare_from: see `find_sleeve_ends`; picture u8 [H, W, 3];
    lab: its `color_segmentation.cielab`; skin f32 [H, W]: standard deviations from the face's colors.
    """
    side, person = max(regions.shape), regions > 0
    is_bare_arm = limb.arm & (limb.reach > bare_from + _HEM_M)
    shape = limb.hand | is_bare_arm
    fitted = shape & person
    colors = _limb_colors(limb, regions, lab, skin)
    if not fitted.any() or colors is None:
        return regions
    band = disk_kernel(max(2, round(_SEARCH_BAND * side)))
    may_change = np.isin(regions, (REGION["hands"], *_CLOTH_REGIONS)) & ~(limb.others & ~shape)
    zone = (cv2.dilate(fitted.astype(np.uint8), band) > 0) & may_change
    if not zone.any():
        return regions
    window = _window(zone)
    to_skin, to_cloth = (a[window] for a in colors)
    core = cv2.erode(fitted.astype(np.uint8), disk_kernel(max(1, round(_CORE_DEPTH * side)))) > 0
    rows, columns = distance_transform_edt(~shape[window], return_distances=False, return_indices=True)
    # The background may have the color of skin, so it gets the color of cloth.
    cloth = person & ~zone & np.isin(regions, _CLOTH_REGIONS)
    without_wall = np.where(person[..., None], picture, np.median(picture[cloth], 0).astype(np.uint8))
    person, zone, core, without_wall = (a[window] for a in (person, zone, core, without_wall))
    is_hand_side = limb.hand[window][rows, columns]
    before = zone & ((regions[window] == REGION["hands"]) | fitted[window])
    is_limb_color = (to_skin < SAME_MATERIAL_SD) & (to_skin < to_cloth)
    choices = [~person, is_limb_color & core, is_limb_color], [cv2.GC_BGD, cv2.GC_FGD, cv2.GC_PR_FGD]
    marks = np.select(*choices, cv2.GC_PR_BGD).astype(np.uint8)
    cut = color_segmentation.grab_cut(without_wall, marks).astype(np.uint8)
    after = (cv2.medianBlur(cut, 2 * max(1, round(_SPECK_RADIUS * side)) + 1) > 0) & zone
    # What lies above the sleeve's end is no bare arm, whatever its color.
    above = limb.arm[window] & (limb.reach[window] <= bare_from)
    after &= ~above | is_hand_side
    if not _MIN_SIZE * before.sum() < after.sum() < _MAX_SIZE * before.sum():
        return regions
    # Nails and shadows do not have the limb's color but stay. A pixel is removed only if it is more like cloth. Where
    # the body shows nothing behind it, it must have the color of cloth.
    behind = limb.behind_hand[window]
    removed = before & ~after & (to_cloth < to_skin) & ((behind > 0) | (to_cloth < SAME_MATERIAL_SD))
    # Cloth beside a bare arm is the trunk's; beside a hand it may be the sleeve, or a wall of the sleeve's color.
    beside = np.where(_is_wall(lab[window], person, lab[cloth]), REGION["background"], REGION["arms"])
    cloth_label = np.where(is_hand_side, np.where(behind > 0, behind, beside), REGION["torso"])
    result = regions.copy()
    is_far_beyond = (limb.hand | limb.arm) & (limb.reach > bare_from + _LOOSE_SLEEVE_M)
    _label_cloth_beside_bare_arm(result, limb, is_far_beyond, *colors)
    result[window][removed] = cloth_label[removed]
    result[window][after] = np.where(is_hand_side, REGION["hands"], REGION["arms"])[after]
    return result


def _label_cloth_beside_bare_arm(
    regions: np.ndarray, limb: FittedLimb, bare_arm: np.ndarray, to_skin: np.ndarray, to_cloth: np.ndarray
) -> None:
    """Label cloth that counts as arm or hand, but lies where the nearest part of all limbs is bare, in place.

    It is the trunk's or hangs from the sleeve, whichever is nearer. bare_arm bool [H, W]: the part of the fitted limb
    that no sleeve can reach; to_skin and to_cloth f32 [H, W], see `_limb_colors`.
    """
    limbs = limb.hand | limb.arm | limb.others
    rows, columns = distance_transform_edt(~limbs, return_distances=False, return_indices=True)
    is_near_bare = bare_arm[rows, columns]
    is_limb = np.isin(regions, (REGION["arms"], REGION["hands"]))
    is_cloth = is_limb & ~limb.hand & is_near_bare & (to_cloth < to_skin) & (to_skin > SAME_MATERIAL_SD)
    # What a hand holds is nearer to cloth than to skin as well, but it has not the cloth's color.
    is_cloth &= (regions != REGION["hands"]) | (to_cloth < SAME_MATERIAL_SD)
    is_trunk, is_sleeve = np.isin(regions, (REGION["torso"], REGION["legs"])), limb.arm & ~bare_arm & (regions > 0)
    to_trunk, to_sleeve = (
        distance_transform_edt(~part) if part.any() else np.full(regions.shape, np.inf)
        for part in (is_trunk, is_sleeve & ~is_cloth)
    )
    regions[is_cloth] = np.where(to_sleeve < to_trunk, REGION["arms"], REGION["torso"])[is_cloth]


def _limb_colors(
    limb: FittedLimb, regions: np.ndarray, lab: np.ndarray, skin: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Standard deviations of every pixel from the limb's skin and from the cloth beside it, f32 [H, W] each.

    None where the trunk shows too little cloth, or a hand too little skin.
    """
    person, side = regions > 0, max(regions.shape)
    hand = limb.hand & person
    near = cv2.dilate((limb.hand | limb.arm).astype(np.uint8), disk_kernel(max(2, round(_SEARCH_BAND * side)))) > 0
    outside = ~near & np.isin(regions, _CLOTH_REGIONS)
    clothes, bare = outside & (skin > SAME_MATERIAL_SD), hand & (skin < _MAX_SKIN_SD)
    has_cloth = clothes.sum() > _MIN_CLOTH_SHARE * outside.sum()
    has_hand = hand.sum() > _MIN_HAND_SHARE * limb.arm.sum()
    has_skin = not has_hand or bare.sum() > _MIN_SKIN_SHARE * hand.sum()
    if not has_cloth or not has_skin:
        return None
    return np.minimum(skin, color_segmentation.distance(lab, lab[bare])), color_segmentation.distance(lab, lab[clothes])


def _is_wall(lab: np.ndarray, person: np.ndarray, cloth: np.ndarray) -> np.ndarray:
    """Whether a pixel's color is nearer to that of the background next to it than to the cloth's, bool [h, w].

    lab f32 [h, w, 3]; person bool [h, w]; cloth f32 [N, 3]: colors of the cloth.
    """
    if person.all():
        return np.zeros_like(person)
    rows, columns = distance_transform_edt(person, return_distances=False, return_indices=True)
    to_wall = np.linalg.norm(lab - cv2.blur(lab, (3, 3))[rows, columns], axis=-1)
    return to_wall < np.linalg.norm(lab - np.median(cloth, 0), axis=-1)


def _window(zone: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns around a zone bool [H, W], with a margin that shows what lies beside the limb."""
    margin = round(_SEARCH_BAND * max(zone.shape))
    rows, columns = (slice(max(i.min() - margin, 0), i.max() + 1 + margin) for i in np.nonzero(zone))
    return rows, columns
