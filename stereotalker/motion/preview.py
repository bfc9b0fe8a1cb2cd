"""A clothed mannequin from the front: a motion to look at before anybody is rendered."""

from __future__ import annotations

import tempfile
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

SIZE = (288, 288)  # px
_DISTANCE = 1.8  # m: the head and the hands' reach
_CHUNK = 50  # frames posed at once
_SKIN, _LIPS, _HAIR, _CLOTH = (
    np.array(c) for c in ((214.0, 178.0, 156.0), (176.0, 92.0, 90.0), (70.0, 54.0, 46.0), (86.0, 108.0, 128.0))
)
_PAPER = np.array([238.0, 238.0, 234.0])
_LIGHT = np.array([0.35, 0.55, 0.76])
_MODEL = "ben"  # the shipped avatar whose clothes the body wears
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
    """What is drawn: betas f32 [B], surface f16 [V, 3] m (None on a body that the avatar's clothes do not fit), colours f64 [V, 3] sRGB."""

    betas: np.ndarray
    surface: np.ndarray | None
    colours: np.ndarray
    target: np.ndarray  # f32 [3] m, the middle of the picture


def mannequin(body: Body) -> Mannequin:
    """The body of a shipped avatar in its clothes; every part but head and hands is cloth."""
    avatar = read_avatar(SHIPPED / f"{_MODEL}.safetensors")
    fits = len(avatar.surface) == len(body.template) and len(avatar.betas) == body.betas
    bare = body.weights[:, _BARE].sum(1, keepdims=True) > 0.5
    colours = np.where(bare, _SKIN, _CLOTH) + body.masks["lips"][:, None] * (_LIPS - _SKIN)
    if fits:
        far = np.linalg.norm(avatar.surface.astype(np.float32), axis=1) > 0.012  # a shell of hair; faces differ by less
        colours[far & (body.weights[:, JOINT["head"]] > 0.5)] = _HAIR
        return Mannequin(avatar.betas, avatar.surface, colours, avatar.target)
    zeros = np.zeros(body.betas, np.float32)
    return Mannequin(zeros, None, colours, body.joints(zeros)[JOINT["spine3"]])


def write_preview(path: Path, motion: Motion, body: Body, wav: bytes, params: VideoParams, title: str) -> None:
    """An mp4 of the mannequin with the sound."""
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "sound.wav"
        sound.write_bytes(wav)
        write_video(path, _chunks(motion, body), SIZE, motion.fps, sound, len(motion.poses) / motion.fps, params, title)


def _chunks(motion: Motion, body: Body) -> Iterator[np.ndarray]:
    worn = mannequin(body)
    for start in range(0, len(motion.poses), _CHUNK):
        yield draw(motion.frames(start, start + _CHUNK), body, worn)


def draw(motion: Motion, body: Body, worn: Mannequin, size: tuple[int, int] = SIZE) -> np.ndarray:
    """u8 [T, H, W, 3]."""
    view = look_at(np.zeros(1), np.zeros(1), np.array([_DISTANCE]), worn.target, size)
    vertices = body.posed(motion, worn.betas, worn.surface).vertices
    return np.stack(
        [_picture(points, body, worn.colours, view.intrinsics[0], view.extrinsics[0], size) for points in vertices]
    )


def _picture(
    vertices: np.ndarray, body: Body, colours: np.ndarray, K: np.ndarray, E: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    seen = rasterize(project(vertices, K, E), body.faces, size)
    facing = np.clip(vertex_normals(vertices, body.faces) @ _LIGHT, 0, 1)
    cloth = (colours == _CLOTH).all(1)  # shaded softly: thick stuff shows less of what is under it
    light = np.where(cloth, 0.7 + 0.3 * facing, 0.35 + 0.65 * facing)
    shaded = seen.interpolate(body.faces, (colours * light[:, None]).astype(np.float32))
    return np.where((seen.face >= 0)[..., None], shaded, _PAPER).clip(0, 255).astype(np.uint8)
