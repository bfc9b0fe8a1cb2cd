"""The background plate of an avatar: the portrait's own, blurred, a color, or a picture of the user's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from stereotalker.errors import ClipError, UserError
from stereotalker.media.photos import read_photo
from stereotalker.records import Avatar
from stereotalker.store.digests import bytes_digest

BACKGROUNDS = ("portrait", "blur", "transparent")
_BLUR_SIGMA = 0.02  # standard deviation of a blurred background, relative to the picture's longer side
# Longest side at which the user's picture is kept, px. Frames are not larger.
_MAX_SIDE_PX = 2160


@dataclass(frozen=True)
class Background:
    """What the manifest asks for, and the bytes of the picture's file that it names.

    The bytes are read once, so that the digest is that of the picture that is used.
    """

    name: str  # one of BACKGROUNDS, #rrggbb, or the path of a picture
    picture: bytes | None = None

    @classmethod
    def read(cls, name: str) -> Background:
        """Raises ClipError if a picture's file cannot be read."""
        if name in BACKGROUNDS or name.startswith("#"):
            return cls(name)
        try:
            return cls(name, Path(name).read_bytes())
        except OSError as error:
            raise ClipError(f"background {name}: {error.strerror}") from None

    @property
    def digest(self) -> str:
        """The part of a store key that stands for this background."""
        return self.name if self.picture is None else bytes_digest(self.picture)


def with_background(avatar: Avatar, background: Background) -> Avatar:
    """The avatar with another background plate. "portrait" and "transparent" keep its own. Raises ClipError."""
    if background.name in ("portrait", "transparent"):
        return avatar
    return replace(avatar, background=background_picture(avatar, background, avatar.background.shape[:2]))


def background_picture(avatar: Avatar, background: Background, size: tuple[int, int]) -> np.ndarray:
    """The picture of a background for an aspect ratio of (height, width) px. Raises ClipError.

    u8 [H, W, 3]: of that size, or as large as the user's picture or the portrait's background if that is larger.
    """
    if background.name.startswith("#"):
        return np.broadcast_to(np.array(list(bytes.fromhex(background.name[1:])), np.uint8), (*size, 3)).copy()
    if background.picture is not None:
        try:
            return _scale_to_fill(read_photo(Path(background.name), data=background.picture), size)
        except UserError as error:
            raise ClipError(f"background {error}") from None
    plate = avatar.background
    if background.name == "blur":
        plate = cv2.GaussianBlur(plate, (0, 0), _BLUR_SIGMA * max(plate.shape[:2]))
    return _scale_to_fill(plate, size)


def _scale_to_fill(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture, scaled to the aspect ratio of (height, width) px, and cropped at both ends where it is too long.

    u8 [H, W, 3]: of that size, or as large as the picture itself if it is larger, up to _MAX_SIDE_PX.
    """
    enlargement = min(picture.shape[0] / size[0], picture.shape[1] / size[1], _MAX_SIDE_PX / max(size))
    if enlargement > 1:
        size = round(size[0] * enlargement), round(size[1] * enlargement)
    scale = max(size[0] / picture.shape[0], size[1] / picture.shape[1])
    scaled_size = (max(size[1], round(picture.shape[1] * scale)), max(size[0], round(picture.shape[0] * scale)))
    large = cv2.resize(picture, scaled_size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (large.shape[0] - size[0]) // 2, (large.shape[1] - size[1]) // 2
    return np.ascontiguousarray(large[top : top + size[0], left : left + size[1]])
