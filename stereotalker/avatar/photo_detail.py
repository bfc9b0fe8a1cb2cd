"""Gives an avatar the photo that its portrait was scaled down from, so that large frames show the photo's own detail.

The portrait is fitted at a smaller size, because everything that is fitted, filled and labelled then takes a quarter of
the time and memory.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from stereotalker.avatar.background import fill_background
from stereotalker.records import Avatar
from stereotalker.smplx_layout import REGION


def with_photo(avatar: Avatar, photo: np.ndarray) -> Avatar:
    """The avatar with a photo u8 [PH, PW, 3] that shows what its portrait shows, and with a background of that size.

    A photo that is not larger than the portrait adds nothing, and is left out.
    """
    if max(photo.shape[:2]) <= max(avatar.portrait.shape[:2]):
        return avatar
    is_person = (avatar.regions != REGION["background"]).astype(np.float32)
    mask = cv2.resize(is_person, photo.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    return replace(avatar, photo=photo, background=fill_background(photo, mask))
