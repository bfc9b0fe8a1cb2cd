"""The pictures of a scene: the people, each filmed alone and transparent, laid over one background by depth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np

from stereotalker.avatar.background_plate import Background, background_picture
from stereotalker.production.scene import Box
from stereotalker.records import Avatar


def scene_background(background: Background, first: Avatar, size: tuple[int, int]) -> np.ndarray | None:
    """What the people of a scene stand before, u8 [H, W, 3]; None: nothing, the scene is transparent.

    first: the person whose own background is used if none is named; size: (height, width) px. Raises ClipError.
    """
    if background.name == "transparent":
        return None
    plate = background_picture(first, background, size)
    return cv2.resize(plate, size[::-1], interpolation=cv2.INTER_AREA) if plate.shape[:2] != size else plate


def compose(
    people: Sequence[tuple[Box, Iterable[np.ndarray]]], background: np.ndarray | None, size: tuple[int, int]
) -> Iterator[np.ndarray]:
    """Yield the frames of a scene, u8 [1, H, W, 3], or [1, H, W, 4] with straight alpha without a background.

    people: from the back to the front, where each is, and chunks u8 [T, h, w, 4] of the pictures; size: (H, W) px.
    """
    boxes = [box for box, _ in people]
    streams = [(frame for chunk in chunks for frame in chunk) for _, chunks in people]
    empty = np.zeros((*size, 4), np.float32)
    if background is not None:
        empty[..., :3], empty[..., 3] = background, 255
    for frames in zip(*streams, strict=True):
        scene = empty.copy()
        for box, frame in zip(boxes, frames, strict=True):
            _lay_over(scene, box, frame)
        yield (_straight(scene) if background is None else _rounded(scene[..., :3]))[None]


def _lay_over(scene: np.ndarray, box: Box, frame: np.ndarray) -> None:
    """Lay a picture u8 [h, w, 4] with straight alpha over a scene f32 [H, W, 4] with premultiplied colors, in place."""
    height, width = scene.shape[:2]
    columns = np.flatnonzero(frame[..., 3].any(0))
    columns = columns[(columns + box.left >= 0) & (columns + box.left < width)]
    if not len(columns):
        return
    left, right = columns[0], columns[-1] + 1
    top = max(0, -box.top)
    part = frame[top : top + height - max(box.top, 0), left:right].astype(np.float32)
    y, x = max(box.top, 0), box.left + left
    below = scene[y : y + len(part), x : x + right - left]
    alpha = part[..., 3:] / 255
    below *= 1 - alpha
    below[..., :3] += part[..., :3] * alpha
    below[..., 3:] += part[..., 3:]


def _straight(scene: np.ndarray) -> np.ndarray:
    """u8 [H, W, 4] with straight alpha of premultiplied f32 [H, W, 4]."""
    alpha = scene[..., 3:] / 255
    colors = scene[..., :3] / np.maximum(alpha, 1 / 255)
    return _rounded(np.concatenate([np.minimum(colors, 255), scene[..., 3:]], 2))


def _rounded(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray((picture + 0.5).astype(np.uint8))
