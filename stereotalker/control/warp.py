"""The reference warp: the portrait's pixels carried by the body to another pose and view, with what the portrait saw.

`reference(avatar)` runs once per avatar; `control(...)` makes the maps of every frame from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from scipy.spatial import cKDTree

from stereotalker.body.camera import project
from stereotalker.body.layout import REGION
from stereotalker.body.model import Body
from stereotalker.body.raster import rasterize, vertex_normals
from stereotalker.control.texture import IN_MOUTH, SEEN_M, Texture, make_texture, texel_corners
from stereotalker.records import Avatar, Camera, Control, Motion

BACKGROUND_M = 1.2  # how far behind the speaker the background hangs


@dataclass(frozen=True)
class Reference:
    """An avatar prepared for warping. V vertices."""

    avatar: Avatar
    uv: np.ndarray  # f32 [V, 2] px in the portrait
    depth: np.ndarray  # f32 [V] m in the portrait's camera
    depth_map: np.ndarray  # f32 [H, W] m of the portrait
    texture: Texture  # of the whole surface, for what the portrait did not see
    region: np.ndarray  # u8 [V]


def reference(avatar: Avatar, body: Body) -> Reference:
    """Project the fitted body into the portrait and read texture, regions and depths off it."""
    H, W = avatar.regions.shape
    still = Motion(avatar.poses[None], avatar.expression[None], np.zeros((1, 3), np.float32), 25.0)
    pixels = project(body.pose(still, avatar.betas, avatar.surface)[0], avatar.intrinsics, avatar.extrinsics)
    picture = rasterize(pixels, body.faces, (H, W))
    columns, rows = (np.clip(pixels[:, k].astype(int), 0, (W, H)[k] - 1) for k in (0, 1))
    inside = (pixels[:, 0] >= 0) & (pixels[:, 0] < W) & (pixels[:, 1] >= 0) & (pixels[:, 1] < H)
    seen = inside & (np.abs(picture.depth[rows, columns] - pixels[:, 2]) < SEEN_M)
    seen &= (avatar.regions[rows, columns] != REGION["background"]) & (body.part == 0) & (body.masks["inner_mouth"] < 0.5)
    # What was not seen takes its region from the nearest seen point of the body or of its mirror image.
    canonical = body.template
    known = np.concatenate([canonical[seen], canonical[seen] * np.array([-1, 1, 1], np.float32)])
    source = np.tile(np.flatnonzero(seen), 2)
    nearest = cKDTree(known).query(canonical)[1]
    region = np.where(seen, avatar.regions[rows, columns], avatar.regions[rows, columns][source[nearest]])
    inner = (body.masks["inner_mouth"] > 0.5) & (body.part == 0)
    region = np.where(inner | np.isin(body.part, IN_MOUTH), REGION["mouth"], region)
    texture = make_texture(avatar, body, pixels, picture, region)
    return Reference(avatar, pixels[:, :2], pixels[:, 2], picture.depth, texture, region.astype(np.uint8))


def control(ref: Reference, body: Body, motion: Motion, camera: Camera, background_m: float = BACKGROUND_M) -> Control:
    """Control maps of every frame of `motion` seen by `camera` (the same number of frames)."""
    if len(motion.poses) != len(camera.azimuth):
        raise ValueError(f"motion has {len(motion.poses)} frames, the camera {len(camera.azimuth)}")
    avatar, (H, W) = ref.avatar, camera.size
    vertices = body.pose(motion, avatar.betas, avatar.surface)
    T = len(vertices)
    warp, normal_map, plate = (np.zeros((T, H, W, 3), np.uint8) for _ in range(3))
    visibility, labels = (np.zeros((T, H, W), np.uint8) for _ in range(2))
    attributes = np.concatenate([ref.uv, ref.depth[:, None]], 1).astype(np.float32)
    texels = texel_corners(body)
    for t in range(T):
        K, E = camera.intrinsics[t], camera.extrinsics[t]
        moved = t == 0 or not (np.array_equal(E, camera.extrinsics[t - 1]) and np.array_equal(K, camera.intrinsics[t - 1]))
        plate[t] = background_plate(avatar, K, E, (H, W), background_m) if moved else plate[t - 1]
        picture = rasterize(project(vertices[t], K, E), body.faces, (H, W))
        normals = (vertex_normals(vertices[t], body.faces) @ E[:3, :3].T).astype(np.float32)
        warp[t] = plate[t]
        _resample(
            picture.face, picture.bary, body.faces, attributes, normals, ref.region, ref.depth_map, avatar.portrait,
            avatar.regions, body.part, ref.texture.colour, texels, body.texture_faces, warp[t], visibility[t], labels[t], normal_map[t],
        )  # fmt: skip
    return Control(warp, visibility, normal_map, labels, plate, camera.azimuth, camera.elevation)


def background_plate(
    avatar: Avatar, intrinsics: np.ndarray, extrinsics: np.ndarray, size: tuple[int, int], depth_m: float = BACKGROUND_M
) -> np.ndarray:
    """The background seen by a camera, as a wall `depth_m` behind the speaker (may be infinite); edges mirror. u8 [H, W, 3]."""
    if np.isinf(depth_m):
        turn = avatar.intrinsics @ avatar.extrinsics[:3, :3] @ extrinsics[:3, :3].T @ np.linalg.inv(intrinsics)
    else:
        then = _wall_to_pixels(avatar.intrinsics, avatar.extrinsics, depth_m)
        turn = then @ np.linalg.inv(_wall_to_pixels(intrinsics, extrinsics, depth_m))
    out = np.zeros((*size, 3), np.uint8)
    _homography(avatar.background, turn.astype(np.float64), out)
    return out


def _wall_to_pixels(intrinsics: np.ndarray, extrinsics: np.ndarray, depth_m: float) -> np.ndarray:
    """Homography [3, 3] from a point (x, y, 1) of the wall z = -depth_m, in m, to pixels."""
    rotation, shift = extrinsics[:3, :3].astype(np.float64), extrinsics[:3, 3]
    return intrinsics @ np.stack([rotation[:, 0], rotation[:, 1], shift - depth_m * rotation[:, 2]], 1)


@numba.njit(cache=True)
def _sample(image, x, y, out):
    """Bilinear sample at pixel-centre coordinates, edges clamped."""
    H, W = image.shape[0], image.shape[1]
    x = min(max(x - 0.5, 0.0), W - 1.001)
    y = min(max(y - 0.5, 0.0), H - 1.001)
    c, r = int(x), int(y)
    fx, fy = x - c, y - r
    for k in range(3):
        top = image[r, c, k] * (1 - fx) + image[r, c + 1, k] * fx
        bottom = image[r + 1, c, k] * (1 - fx) + image[r + 1, c + 1, k] * fx
        out[k] = top * (1 - fy) + bottom * fy


@numba.njit(cache=True)
def _mirror(x, size):
    x = abs(x) % (2.0 * size)
    return 2.0 * size - x if x > size else x


@numba.njit(cache=True)
def _homography(image, turn, out):
    H, W = image.shape[0], image.shape[1]
    colour = np.zeros(3)
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            px, py = x + 0.5, y + 0.5
            w = turn[2, 0] * px + turn[2, 1] * py + turn[2, 2]
            u = (turn[0, 0] * px + turn[0, 1] * py + turn[0, 2]) / w
            v = (turn[1, 0] * px + turn[1, 1] * py + turn[1, 2]) / w
            _sample(image, _mirror(u, W), _mirror(v, H), colour)
            for k in range(3):
                out[y, x, k] = np.uint8(colour[k] + 0.5)


@numba.njit(cache=True)
def _resample(
    face, bary, faces, attributes, normals, region, depth_map, portrait, regions, part, texture, texels, texture_faces, warp, visibility, labels, normal_map
):
    H, W = face.shape
    PH, PW = regions.shape
    value = np.zeros(5)
    colour = np.zeros(3)
    for y in range(H):
        for x in range(W):
            f = face[y, x]
            if f < 0:
                continue
            value[:] = 0.0
            length = 0.0
            best, corner = -1.0, 0
            nx, ny, nz = 0.0, 0.0, 0.0
            for i in range(3):
                v, b = faces[f, i], bary[y, x, i]
                for k in range(3):
                    value[k] += b * attributes[v, k]
                for k in range(2):
                    value[3 + k] += b * texels[texture_faces[f, i], k]
                nx += b * normals[v, 0]
                ny += b * normals[v, 1]
                nz += b * normals[v, 2]
                if b > best:
                    best, corner = b, v
            length = max(np.sqrt(nx * nx + ny * ny + nz * nz), 1e-6)
            normal_map[y, x, 0] = np.uint8(min(max(127.5 + 127.5 * nx / length, 0), 255))
            normal_map[y, x, 1] = np.uint8(min(max(127.5 + 127.5 * ny / length, 0), 255))
            normal_map[y, x, 2] = np.uint8(min(max(127.5 + 127.5 * nz / length, 0), 255))
            u, v2 = value[0], value[1]
            c, r = int(u), int(v2)
            labels[y, x] = region[corner]
            seen = False
            if 0 <= c < PW and 0 <= r < PH and part[corner] != 1 and part[corner] != 4:
                seen = abs(depth_map[r, c] - value[2]) < SEEN_M and regions[r, c] != 0
            if seen:
                _sample(portrait, u, v2, colour)
                visibility[y, x] = 255
                labels[y, x] = regions[r, c]
                for k in range(3):
                    warp[y, x, k] = np.uint8(colour[k] + 0.5)
            else:
                _sample(texture, value[3], value[4], colour)
                for k in range(3):
                    warp[y, x, k] = np.uint8(colour[k] + 0.5)
