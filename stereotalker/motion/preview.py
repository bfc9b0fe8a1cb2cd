"""Draws a clothed mannequin from the front, to check a motion before a person is rendered.

T frames of H x W, V vertices, B shape coefficients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stereotalker.avatar.library import SHIPPED, read_avatar
from stereotalker.body.model import Body
from stereotalker.geometry.camera import look_at, project
from stereotalker.geometry.rasterizer import rasterize, vertex_normals
from stereotalker.media.video_files import write_video
from stereotalker.params import VideoParams
from stereotalker.records import Motion
from stereotalker.smplx_layout import JOINT, JOINTS

SIZE = (288, 288)  # (height, width) px
_DISTANCE = 1.8  # m, from the camera to the middle of the picture: head and hands stay inside it
_CHUNK = 50  # frames that are posed at once, which bounds the memory
# sRGB colors in 0..255.
_SKIN, _LIPS, _HAIR, _CLOTH = (
    np.array(c) for c in ((214.0, 178.0, 156.0), (176.0, 92.0, 90.0), (70.0, 54.0, 46.0), (86.0, 108.0, 128.0))
)
_BACKGROUND = np.array([238.0, 238.0, 234.0])
_LIGHT = np.array([0.35, 0.55, 0.76])  # direction to the light in world axes
_CLOTHED_AVATAR = "ben"  # name of the shipped avatar whose clothes the mannequin wears
# Joints whose skin is drawn bare: head, eyes, jaw, neck, wrists and fingers.
_BARE = [
    k
    for k, name in enumerate(JOINTS)
    if name in ("head", "jaw", "left_eye", "right_eye", "neck")
    or name.endswith("wrist")
    or name[-1] in "123"
    and "spine" not in name
]


@dataclass(frozen=True)
class Mannequin:
    """Shape, clothes and colors of the figure that `draw` shows."""

    betas: np.ndarray  # f32 [B]
    surface: np.ndarray | None  # f16 [V, 3] m, clothes over the body; None if the body's vertices are not the avatar's
    colours: np.ndarray  # f64 [V, 3] sRGB in 0..255
    target: np.ndarray  # f32 [3] m, the point in the middle of the picture


def mannequin(body: Body) -> Mannequin:
    """The body of a shipped avatar in its clothes. Everything but head and hands has the color of cloth.

    If the avatar does not fit the body model, it is the mean body without clothes.
    """
    avatar = read_avatar(SHIPPED / f"{_CLOTHED_AVATAR}.safetensors")
    fits_body = len(avatar.surface) == len(body.template) and len(avatar.betas) == body.betas
    is_bare = body.weights[:, _BARE].sum(1, keepdims=True) > 0.5
    colours = np.where(is_bare, _SKIN, _CLOTH) + body.masks["lips"][:, None] * (_LIPS - _SKIN)
    if fits_body:
        # On the head, only the shell of hair lies more than 12 mm above the body; faces differ by less.
        is_raised = np.linalg.norm(avatar.surface.astype(np.float32), axis=1) > 0.012
        colours[is_raised & (body.weights[:, JOINT["head"]] > 0.5)] = _HAIR
        return Mannequin(avatar.betas, avatar.surface, colours, avatar.target)
    zeros = np.zeros(body.betas, np.float32)
    return Mannequin(zeros, None, colours, body.joints(zeros)[JOINT["spine3"]])


def write_preview(path: Path, motion: Motion, body: Body, sound: Path, params: VideoParams, title: str) -> None:
    """Write an mp4 of the mannequin. sound: a WAV file."""
    write_video(path, _chunks(motion, body), SIZE, motion.fps, sound, len(motion.poses) / motion.fps, params, title)


def _chunks(motion: Motion, body: Body) -> Iterator[np.ndarray]:
    """Pictures u8 [t, H, W, 3] of the motion, some frames at a time."""
    figure = mannequin(body)
    for start in range(0, len(motion.poses), _CHUNK):
        yield draw(motion.frames(start, start + _CHUNK), body, figure)


def draw(motion: Motion, body: Body, figure: Mannequin, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Pictures u8 [T, H, W, 3] sRGB of the mannequin; `size` is (height, width) px."""
    view = look_at(np.zeros(1), np.zeros(1), np.array([_DISTANCE]), figure.target, size)
    vertices = body.posed(motion, figure.betas, figure.surface).vertices
    return np.stack(
        [_picture(points, body, figure.colours, view.intrinsics[0], view.extrinsics[0], size) for points in vertices]
    )


def _picture(
    vertices: np.ndarray, body: Body, colours: np.ndarray, K: np.ndarray, E: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """One picture u8 [H, W, 3] of the posed vertices f32 [V, 3]."""
    hit = rasterize(project(vertices, K, E), body.faces, size)
    facing = np.clip(vertex_normals(vertices, body.faces) @ _LIGHT, 0, 1)
    # Cloth is shaded softly, because thick cloth shows less of the body under it.
    is_cloth = (colours == _CLOTH).all(1)
    light = np.where(is_cloth, 0.7 + 0.3 * facing, 0.35 + 0.65 * facing)
    shaded = hit.interpolate(body.faces, (colours * light[:, None]).astype(np.float32))
    return np.where((hit.face >= 0)[..., None], shaded, _BACKGROUND).clip(0, 255).astype(np.uint8)
