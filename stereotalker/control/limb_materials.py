"""Skin and cloth on the arms and hands of a portrait: where the sleeves end, and which pixels cannot belong to a limb.

The fit is a few pixels off, and a loose sleeve hangs before an arm that is bare. Such pixels would be carried away by
the limb, and spread over all of it that the portrait does not show. H x W: the portrait.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stereotalker.control.sleeves import sleeve_end
from stereotalker.media.morphology import disk_kernel
from stereotalker.media.pull_push import extrapolate_colors
from stereotalker.records import Avatar
from stereotalker.smplx_layout import REGION

# Weights of lightness and the two chroma channels in a distance of CIELAB colors; lightness counts less, because skin
# lies in shadow, too. Skin and cloth that are nearer than the distance cannot be distinguished.
_LAB_WEIGHTS = np.array([0.5, 1, 1], np.float32)
_MIN_SKIN_CLOTH_DISTANCE = 10.0
# Hems are slanted: so near to a sleeve's end, m, both materials may be.
_MAX_SLANT_M = 0.04
# With a larger share of an arm's clear pixels on the wrong side, the sleeve's end is not known.
_MAX_FOREIGN = 0.3
# A color is one thing and not another if it is so many times nearer to it.
_CLEAR_RATIO = 1.5
# Colors of a hand vary by less than this.
_MIN_FOREIGN_DISTANCE = 15.0
# What is narrower than this is the shadow between two fingers, or noise; share of the longer side.
_MIN_WIDTH = 1 / 250
# So near to a foreign pixel, colors are mixed with it; share of the longer side.
_MIXED_RIM = 1 / 400


@dataclass(frozen=True)
class LimbMaterials:
    """What the portrait tells of skin and cloth on arms and hands."""

    # m along the arm from the body's midplane: cloth before it, skin beyond. It is the end of long sleeves where no arm
    # is seen, and where the colors do not decide.
    sleeve_end: float
    # bool [H, W]: pixels of arms and hands whose color is that of something else.
    is_foreign: np.ndarray


def limb_materials(
    avatar: Avatar, reach: np.ndarray, is_arm: np.ndarray, is_hand: np.ndarray, longest_sleeve: float
) -> LimbMaterials:
    """Find the sleeves' end and the foreign pixels of a portrait.

    reach f32 [H, W]: m along the arm at every pixel of a limb; is_arm, is_hand bool [H, W]: where the portrait shows
    arms and hands, by its labels; longest_sleeve: where sleeves end that reach the hands, m.
    """
    lab, regions = weighted_lab(avatar.portrait), avatar.regions
    skin = lab[is_hand] if is_hand.any() else lab[regions == REGION["face"]]
    cloth = lab[np.isin(regions, (REGION["torso"], REGION["legs"]))]
    end, is_foreign = longest_sleeve, np.zeros(regions.shape, bool)
    if not len(skin):
        return LimbMaterials(end, is_foreign)
    to_skin = np.linalg.norm(lab - np.median(skin, 0), axis=-1)
    if len(cloth) and np.linalg.norm(np.median(skin, 0) - np.median(cloth, 0)) > _MIN_SKIN_CLOTH_DISTANCE:
        to_cloth = np.linalg.norm(lab - np.median(cloth, 0), axis=-1)
        is_skin, is_cloth = to_skin * _CLEAR_RATIO < to_cloth, to_cloth * _CLEAR_RATIO < to_skin
        is_clear = is_arm & (is_skin | is_cloth)
        end = min(sleeve_end(reach[is_clear], is_skin[is_clear]), longest_sleeve)
        is_foreign = is_arm & (((reach > end + _MAX_SLANT_M) & is_cloth) | ((reach < end - _MAX_SLANT_M) & is_skin))
        if is_foreign.sum() > _MAX_FOREIGN * is_clear.sum():
            is_foreign[:] = False
    # A hand has the color of what lies beside it where the label is wrong.
    rim = max(1, round(max(regions.shape) * _MIXED_RIM))
    beside = cv2.dilate(is_hand.astype(np.uint8), disk_kernel(rim)) == 0
    if is_hand.any() and beside.any():
        to_beside = np.linalg.norm(lab - weighted_lab(extrapolate_colors(avatar.portrait, beside)), axis=-1)
        is_foreign |= is_hand & (to_skin > _MIN_FOREIGN_DISTANCE) & (to_beside * _CLEAR_RATIO < to_skin)
    width = disk_kernel(max(1, round(max(regions.shape) * _MIN_WIDTH / 2)))
    is_foreign = cv2.morphologyEx(is_foreign.astype(np.uint8), cv2.MORPH_OPEN, width)
    return LimbMaterials(end, (cv2.dilate(is_foreign, disk_kernel(rim)) > 0) & (is_arm | is_hand))


def weighted_lab(picture: np.ndarray) -> np.ndarray:
    """A picture u8 [H, W, 3] in weighted CIELAB, f32 [H, W, 3]."""
    return cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) * _LAB_WEIGHTS
