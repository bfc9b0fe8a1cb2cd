"""The reference warp: the portrait's pixels carried by the body to another pose and view, with what the portrait saw.

`reference(avatar)` runs once per avatar; `control(...)` makes the maps of every frame from it. V vertices of the body, M of the mesh that
is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numba
import numpy as np
from scipy.spatial import cKDTree

from stereotalker.body.free_body import PARTS
from stereotalker.body.model import Body
from stereotalker.control import hair_plane, mipmaps
from stereotalker.control.background_plate import background_plate, sample
from stereotalker.control.hair_plane import HairPlane
from stereotalker.control.light import PortraitLight, Surface, read_light
from stereotalker.control.mesh import Mesh, make_mesh
from stereotalker.control.mipmaps import mixed_sample
from stereotalker.control.region_sources import (
    FRINGE,
    allowed,
    back_of_head,
    claimed,
    forearms_of,
    hands_of,
    in_mouth,
    inner,
)
from stereotalker.control.sleeves import SourceLabels, detect_sleeve_end
from stereotalker.control.texture import KNOWN, MIRRORED_TEXEL, SEEN_M, Texture, make_texture, texel_corners
from stereotalker.geometry.camera import project
from stereotalker.geometry.rasterizer import majority_pool, rasterize
from stereotalker.records import Avatar, Camera, Control, Motion
from stereotalker.smplx_layout import REGION

SEEN, FROM_TEXTURE, MIRRORED, BESIDE, GUESSED = (
    255,
    192,
    128,
    96,
    64,
)  # values of visibility on the person; BESIDE: hair that hangs beside the body
_FINER = 2  # samples a pixel and axis
_SOME_HAIR = 0.01  # of the vertices that the portrait shows: the back of the head has hair, too


@dataclass(frozen=True)
class Reference:
    """An avatar prepared for warping."""

    avatar: Avatar
    levels: tuple[np.ndarray, ...]  # the portrait, then halved again and again
    walls: tuple[np.ndarray, ...]  # the background, likewise
    mesh: Mesh  # what is drawn: M vertices
    depth_map: np.ndarray  # f32 [H, W] m of the portrait
    claims: SourceLabels  # of the portrait's pixels
    allowed_sources: np.ndarray  # bool [M, R + 2] what of them, see Claims
    texture: Texture  # of the whole surface, for what the portrait did not see
    region: np.ndarray  # u8 [M]
    light: PortraitLight
    shading: np.ndarray  # f32 [M] in the portrait
    curtain: HairPlane | None  # hair beside the body


def reference(avatar: Avatar, body: Body) -> Reference:
    """Project the fitted body into the portrait and read texture, regions and depths off it."""
    H, W = avatar.regions.shape
    still = Motion.still(avatar.poses, avatar.expression)
    surface = Surface.of(body.pose(still, avatar.betas, avatar.surface)[0], body.faces)
    places = project(surface.vertices, avatar.intrinsics, avatar.extrinsics)
    bare = rasterize(places, body.faces, (H, W))
    claims = detect_sleeve_end(avatar, body, bare, claimed(avatar.regions), allowed(body))
    mesh = make_mesh(avatar, body, places, bare, claims.regions)
    picture = mesh.draw(mesh.places, (H, W))
    columns, rows = (np.clip(places[:, k].astype(int), 0, (W, H)[k] - 1) for k in (0, 1))
    inside = (places[:, 0] >= 0) & (places[:, 0] < W) & (places[:, 1] >= 0) & (places[:, 1] < H)
    seen = (
        inside
        & (np.abs(picture.depth[rows, columns] - places[:, 2]) < SEEN_M)
        & (body.part == PARTS["body"][0])
        & ~in_mouth(body)
    )
    seen &= claims.allowed_sources[np.arange(len(places)), claims.pixels[rows, columns]]
    region = _regions(body, seen, claims.regions[rows, columns], claims.allowed_sources)
    lit = np.where(claims.pixels == FRINGE, REGION["hands"], claims.pixels)  # has their colours mixed in
    light = read_light(avatar.portrait, lit, inner(avatar.regions), surface, bare, avatar.target)
    shading, levels = _shading(light, surface, body), mipmaps.levels(avatar)
    texture = make_texture(avatar, body, levels[0], places, picture, region, claims, shading)
    hung = np.full(len(mesh.hung.beside), REGION["hands"], np.uint8)
    allowed_sources = np.concatenate(
        [claims.allowed_sources, hung[:, None] == np.arange(claims.allowed_sources.shape[1])]
    )
    return Reference(
        avatar, levels, mipmaps.halved(avatar.background), mesh, picture.depth, claims, allowed_sources, texture, np.concatenate([region, hung]),
        light, shading[mesh.like], hair_plane.hang(avatar, body),
    )  # fmt: skip


def _shading(light: PortraitLight, surface: Surface, body: Body) -> np.ndarray:
    """Of every vertex, f32 [V]; 1 in the mouth, whose colours are told as they look there."""
    return np.where(in_mouth(body), np.float32(1), light.shading(surface))


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


def control(ref: Reference, body: Body, motion: Motion, camera: Camera) -> Control:
    """Control maps of every frame of `motion` seen by `camera` (the same number of frames)."""
    if len(motion.poses) != len(camera.azimuth):
        raise ValueError(f"motion has {len(motion.poses)} frames, the camera {len(camera.azimuth)}")
    avatar, mesh, (H, W) = ref.avatar, ref.mesh, camera.size
    vertices, V = mesh.pose(avatar, body, motion), len(body.template)
    T, fine = len(vertices), (_FINER * H, _FINER * W)
    warp, normal_map, plate = (np.zeros((T, H, W, 3), np.uint8) for _ in range(3))
    visibility, labels = (np.zeros((T, H, W), np.uint8) for _ in range(2))
    texels, from_portrait = texel_corners(body), ~in_mouth(body)[mesh.like]
    heads = None if ref.curtain is None else hair_plane.heads(avatar, body, motion)
    for t in range(T):
        K, E = camera.intrinsics[t], camera.extrinsics[t]
        moved = t == 0 or not (
            np.array_equal(E, camera.extrinsics[t - 1]) and np.array_equal(K, camera.intrinsics[t - 1])
        )
        plate[t] = (
            background_plate(avatar, K, E, (H, W), mipmaps.wall(avatar, ref.walls, K, E)) if moved else plate[t - 1]
        )
        K = K * np.array([[_FINER], [_FINER], [1]], np.float32)
        picture = mesh.draw(project(vertices[t], K, E), fine)
        colours = plate[t].repeat(_FINER, 0).repeat(_FINER, 1)
        facing, (seen, shown) = np.zeros_like(colours), np.zeros((2, *fine), np.uint8)
        surface = Surface.of(vertices[t, :V], body.faces)
        shading = _shading(ref.light, surface, body)[mesh.like]
        _normals_and_labels(
            picture.face,
            picture.bary,
            mesh.faces,
            (surface.normals @ E[:3, :3].T).astype(np.float32)[mesh.like],
            ref.region,
            facing,
            shown,
        )
        pair = mipmaps.pair(avatar, ref.levels, K, E)
        _carry(
            picture.face, picture.bary, mesh.faces, mesh.places, shading / ref.shading, from_portrait, ref.depth_map,
            ref.claims.regions, ref.claims.pixels, ref.allowed_sources, *pair, colours, seen, shown,
        )  # fmt: skip
        if heads is not None:
            at, turn = heads
            gain = ref.light.change(ref.curtain.normal(ref.curtain.turn), ref.curtain.normal(turn[t]))
            from_pixels = ref.curtain.from_pixels(at[t], turn[t], K, E)
            hair_plane.draw(
                from_pixels, picture.depth, avatar.regions, *pair, gain, BESIDE, SEEN, colours, seen, shown, facing
            )
        _fill(
            picture.face,
            picture.bary,
            mesh.faces,
            shading,
            mesh.texture_faces,
            texels,
            ref.texture.colour,
            ref.texture.seen,
            colours,
            seen,
        )
        warp[t] = cv2.resize(colours, (W, H), interpolation=cv2.INTER_AREA)
        labels[t] = majority_pool(shown, _FINER)
        for small, large in ((normal_map, facing), (visibility, seen)):  # kinds and directions have no mean
            small[t] = large[_FINER // 2 :: _FINER, _FINER // 2 :: _FINER]
    return Control(warp, visibility, normal_map, labels, plate, camera.azimuth, camera.elevation)


@numba.njit(cache=True)
def _mixed(triangle, shares, values, out):
    """Vertex values [V, C] at a place of a triangle, into out [C]. Returns the nearest corner."""
    out[:] = 0.0
    for i in range(3):
        for k in range(len(out)):
            out[k] += shares[i] * values[triangle[i], k]
    return triangle[np.argmax(shares)]


@numba.njit(cache=True)
def _put(colour, triangle, shares, factor, pixel):
    """A colour f64 [3], times a factor of vertices f32 [V], into a pixel u8 [3]."""
    times = shares[0] * factor[triangle[0]] + shares[1] * factor[triangle[1]] + shares[2] * factor[triangle[2]]
    for k in range(3):
        pixel[k] = np.uint8(min(colour[k] * times + 0.5, 255.0))


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
def _carry(
    face,
    bary,
    faces,
    places,
    gain,
    from_portrait,
    depth_map,
    regions,
    claims,
    allowed_sources,
    fine,
    coarse,
    blend,
    warp,
    visibility,
    labels,
):
    """What the portrait saw: its pixels, times the vertices' gain in shading, and its labels."""
    H, W = face.shape
    PH, PW = regions.shape
    colour, at = np.zeros((2, 3)), np.zeros(3)
    for y in range(H):
        for x in range(W):
            if face[y, x] < 0:
                continue
            corner = _mixed(faces[face[y, x]], bary[y, x], places, at)
            if not from_portrait[corner] or not (0 <= at[0] < PW and 0 <= at[1] < PH):
                continue
            c, r = int(at[0]), int(at[1])
            if (
                regions[r, c] == 0
                or not allowed_sources[corner, claims[r, c]]
                or abs(depth_map[r, c] - at[2]) >= SEEN_M
            ):
                continue
            visibility[y, x] = SEEN
            labels[y, x] = regions[r, c]
            mixed_sample(fine, coarse, blend, at[0] / PW, at[1] / PH, colour)
            _put(colour[0], faces[face[y, x]], bary[y, x], gain, warp[y, x])


@numba.njit(cache=True)
def _fill(face, bary, faces, shading, texel_faces, texels, texture, known, warp, visibility):
    """The rest of the body from its texture, times the vertices' shading."""
    H, W = face.shape
    at, colour = np.zeros(2), np.zeros(3)
    for y in range(H):
        for x in range(W):
            if face[y, x] < 0 or visibility[y, x] > 0:
                continue
            _mixed(texel_faces[face[y, x]], bary[y, x], texels, at)
            how = known[min(max(int(at[1]), 0), known.shape[0] - 1), min(max(int(at[0]), 0), known.shape[1] - 1)]
            visibility[y, x] = FROM_TEXTURE if how == KNOWN else (MIRRORED if how == MIRRORED_TEXEL else GUESSED)
            sample(texture, at[0], at[1], colour)
            _put(colour, faces[face[y, x]], bary[y, x], shading, warp[y, x])
