"""The reference warp: the portrait's pixels carried by the body to another pose and view, with what the portrait saw.

`reference(avatar)` runs once per avatar; `control(...)` makes the maps of every frame from it. V vertices.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numba
import numpy as np
from scipy.spatial import cKDTree

from stereotalker.body.build import PARTS
from stereotalker.body.camera import project
from stereotalker.body.layout import REGION
from stereotalker.body.model import Body
from stereotalker.body.raster import rasterize, vertex_normals, voted
from stereotalker.control.parts import allowed, back_of_head, claimed, forearms_of, hands_of, in_mouth
from stereotalker.control.plate import background_plate, sample
from stereotalker.control.sleeves import Claims, tell_sleeves
from stereotalker.control.texture import KNOWN, MIRRORED_TEXEL, SEEN_M, Texture, make_texture, texel_corners
from stereotalker.records import Avatar, Camera, Control, Motion

SEEN, FROM_TEXTURE, MIRRORED, GUESSED = 255, 192, 128, 64  # values of visibility on the body
_SMALLEST_LEVEL = 32  # px
_FINER = 2  # samples a pixel and axis
_SOME_HAIR = 0.01  # of the vertices that the portrait shows: the back of the head has hair, too


@dataclass(frozen=True)
class Reference:
    """An avatar prepared for warping."""

    avatar: Avatar
    levels: tuple[np.ndarray, ...]  # the portrait, then halved again and again
    places: np.ndarray  # f32 [V, 3] x px, y px, depth m in the portrait
    depth_map: np.ndarray  # f32 [H, W] m of the portrait
    claims: Claims  # of the portrait's pixels, hands a little wider
    texture: Texture  # of the whole surface, for what the portrait did not see
    region: np.ndarray  # u8 [V]


def reference(avatar: Avatar, body: Body) -> Reference:
    """Project the fitted body into the portrait and read texture, regions and depths off it."""
    H, W = avatar.regions.shape
    still = Motion.still(avatar.poses, avatar.expression)
    places = project(body.pose(still, avatar.betas, avatar.surface)[0], avatar.intrinsics, avatar.extrinsics)
    picture = rasterize(places, body.faces, (H, W))
    claims = tell_sleeves(avatar, body, picture, claimed(avatar.regions), allowed(body))
    columns, rows = (np.clip(places[:, k].astype(int), 0, (W, H)[k] - 1) for k in (0, 1))
    inside = (places[:, 0] >= 0) & (places[:, 0] < W) & (places[:, 1] >= 0) & (places[:, 1] < H)
    seen = inside & (np.abs(picture.depth[rows, columns] - places[:, 2]) < SEEN_M) & (body.part == PARTS["body"][0]) & ~in_mouth(body)
    seen &= claims.may_show[np.arange(len(places)), claims.pixels[rows, columns]]
    region = _regions(body, seen, claims.shown[rows, columns], claims.may_show)
    texture = make_texture(avatar, body, places, picture, region, claims)
    return Reference(avatar, _levels(avatar.portrait), places, picture.depth, claims, texture, region)


def _regions(body: Body, seen: np.ndarray, shown: np.ndarray, may: np.ndarray) -> np.ndarray:
    """The region of every vertex, u8 [V]: as shown; else hands are hands, forearms arms, the back of a head with hair is hair, and the rest is like the nearest seen vertex, on this side or the other."""
    hands = hands_of(body)
    found = np.where(hands, REGION["hands"], REGION["torso"]).astype(np.uint8)
    rows, known = np.flatnonzero(~hands), np.flatnonzero(~hands & seen)
    if len(known):
        both = np.concatenate([body.template[known], body.template[known] * np.array([-1, 1, 1], np.float32)])
        nearest = np.tile(known, 2)[cKDTree(both).query(body.template[rows])[1]]
        found[rows] = np.where(may[rows, shown[nearest]], shown[nearest], found[rows])
    found[forearms_of(body)] = REGION["arms"]
    if (shown[seen] == REGION["hair"]).mean() > _SOME_HAIR:
        found[back_of_head(body)] = REGION["hair"]
    found[seen] = shown[seen]
    found[in_mouth(body)] = REGION["mouth"]
    return found


def _levels(portrait: np.ndarray) -> tuple[np.ndarray, ...]:
    levels = [portrait]
    while min(levels[-1].shape[:2]) >= 2 * _SMALLEST_LEVEL:
        H, W = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (W // 2, H // 2), interpolation=cv2.INTER_AREA))
    return tuple(levels)


def control(ref: Reference, body: Body, motion: Motion, camera: Camera) -> Control:
    """Control maps of every frame of `motion` seen by `camera` (the same number of frames)."""
    if len(motion.poses) != len(camera.azimuth):
        raise ValueError(f"motion has {len(motion.poses)} frames, the camera {len(camera.azimuth)}")
    avatar, (H, W) = ref.avatar, camera.size
    vertices = body.pose(motion, avatar.betas, avatar.surface)
    T, fine = len(vertices), (_FINER * H, _FINER * W)
    warp, normal_map, plate = (np.zeros((T, H, W, 3), np.uint8) for _ in range(3))
    visibility, labels = (np.zeros((T, H, W), np.uint8) for _ in range(2))
    texels = texel_corners(body)
    from_portrait = ~in_mouth(body)
    for t in range(T):
        K, E = camera.intrinsics[t], camera.extrinsics[t]
        moved = t == 0 or not (np.array_equal(E, camera.extrinsics[t - 1]) and np.array_equal(K, camera.intrinsics[t - 1]))
        plate[t] = background_plate(avatar, K, E, (H, W)) if moved else plate[t - 1]
        K = K * np.array([[_FINER], [_FINER], [1]], np.float32)
        picture = rasterize(project(vertices[t], K, E), body.faces, fine)
        colours = plate[t].repeat(_FINER, 0).repeat(_FINER, 1)
        facing, (seen, shown) = np.zeros_like(colours), np.zeros((2, *fine), np.uint8)
        normals = (vertex_normals(vertices[t], body.faces) @ E[:3, :3].T).astype(np.float32)
        _normals_and_labels(picture.face, picture.bary, body.faces, normals, ref.region, facing, shown)
        _carry(
            picture.face, picture.bary, body.faces, ref.places, from_portrait, ref.depth_map, ref.claims.regions, ref.claims.pixels, ref.claims.may_show,
            *_pair(ref, K, E), colours, seen, shown,
        )  # fmt: skip
        _fill(picture.face, picture.bary, body.texture_faces, texels, ref.texture.colour, ref.texture.seen, colours, seen)
        warp[t] = cv2.resize(colours, (W, H), interpolation=cv2.INTER_AREA)
        labels[t] = voted(shown, _FINER)
        for small, large in ((normal_map, facing), (visibility, seen)):  # kinds and directions have no mean
            small[t] = large[_FINER // 2 :: _FINER, _FINER // 2 :: _FINER]
    return Control(warp, visibility, normal_map, labels, plate, camera.azimuth, camera.elevation)


def _pair(ref: Reference, intrinsics: np.ndarray, extrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The two levels of the portrait between which a camera's pixels lie, and the share of the coarser (mip mapping, Williams 1983)."""
    avatar = ref.avatar

    def density(K: np.ndarray, E: np.ndarray) -> float:
        """px a metre at the point that cameras look at."""
        return float(K[1, 1] / max((E[:3, :3] @ avatar.target + E[:3, 3])[2], 1e-3))

    level = np.clip(np.log2(density(avatar.intrinsics, avatar.extrinsics) / density(intrinsics, extrinsics)), 0, len(ref.levels) - 1)
    fine = int(level + 1e-3)
    return ref.levels[fine], ref.levels[min(fine + 1, len(ref.levels) - 1)], max(float(level) - fine, 0.0)


@numba.njit(cache=True)
def _mixed(triangle, shares, values, out):
    """Vertex values [V, C] at a place of a triangle, into out [C]. Returns the nearest corner."""
    out[:] = 0.0
    for i in range(3):
        for k in range(len(out)):
            out[k] += shares[i] * values[triangle[i], k]
    return triangle[np.argmax(shares)]


@numba.njit(cache=True)
def _normals_and_labels(face, bary, faces, normals, region, normal_map, labels):
    H, W = face.shape
    n = np.zeros(3)
    for y in range(H):
        for x in range(W):
            if face[y, x] < 0:
                continue
            labels[y, x] = region[_mixed(faces[face[y, x]], bary[y, x], normals, n)]
            length = max(np.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]), 1e-6)
            for k in range(3):
                normal_map[y, x, k] = np.uint8(min(max(127.5 + 127.5 * n[k] / length, 0), 255))


@numba.njit(cache=True)
def _carry(face, bary, faces, places, from_portrait, depth_map, regions, claims, may_show, fine, coarse, blend, warp, visibility, labels):
    """What the portrait saw: its pixels and its labels."""
    H, W = face.shape
    PH, PW = regions.shape
    near, far, at = np.zeros(3), np.zeros(3), np.zeros(3)
    fine_y, fine_x, coarse_y, coarse_x = fine.shape[0] / PH, fine.shape[1] / PW, coarse.shape[0] / PH, coarse.shape[1] / PW
    for y in range(H):
        for x in range(W):
            if face[y, x] < 0:
                continue
            corner = _mixed(faces[face[y, x]], bary[y, x], places, at)
            if not from_portrait[corner] or not (0 <= at[0] < PW and 0 <= at[1] < PH):
                continue
            c, r = int(at[0]), int(at[1])
            if regions[r, c] == 0 or not may_show[corner, claims[r, c]] or abs(depth_map[r, c] - at[2]) >= SEEN_M:
                continue
            visibility[y, x] = SEEN
            labels[y, x] = regions[r, c]
            sample(fine, at[0] * fine_x, at[1] * fine_y, near)
            if blend > 0:
                sample(coarse, at[0] * coarse_x, at[1] * coarse_y, far)
            for k in range(3):
                warp[y, x, k] = np.uint8((1 - blend) * near[k] + blend * far[k] + 0.5)


@numba.njit(cache=True)
def _fill(face, bary, faces, texels, texture, known, warp, visibility):
    """The rest of the body from its texture."""
    H, W = face.shape
    at, colour = np.zeros(2), np.zeros(3)
    for y in range(H):
        for x in range(W):
            if face[y, x] < 0 or visibility[y, x] == SEEN:
                continue
            _mixed(faces[face[y, x]], bary[y, x], texels, at)
            how = known[min(max(int(at[1]), 0), known.shape[0] - 1), min(max(int(at[0]), 0), known.shape[1] - 1)]
            visibility[y, x] = FROM_TEXTURE if how == KNOWN else (MIRRORED if how == MIRRORED_TEXEL else GUESSED)
            sample(texture, at[0], at[1], colour)
            for k in range(3):
                warp[y, x, k] = np.uint8(colour[k] + 0.5)
