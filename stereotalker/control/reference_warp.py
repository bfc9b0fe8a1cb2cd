"""The reference warp: the body mesh carries the portrait's pixels to another pose and camera.

`reference(avatar, body)` runs once per avatar; `control(...)` then makes the control maps of every frame. A pixel of
the person gets its color, in this order, from the portrait where the portrait shows that surface, from the hair
plane, or from the texture atlas. V: vertices of the body, M: vertices of the mesh that is drawn (body and hand
fringe), G: its triangles, R: regions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numba
import numpy as np
from scipy.spatial import cKDTree

from stereotalker.body.free_body import PARTS
from stereotalker.body.model import Body
from stereotalker.control import hair_plane, mipmaps
from stereotalker.control.background_plate import background_plate, bilinear_sample
from stereotalker.control.frame_maps import FrameMaps
from stereotalker.control.hair_plane import HairPlane
from stereotalker.control.light import PortraitLight, Surface, read_light
from stereotalker.control.mesh import Mesh, make_mesh
from stereotalker.control.mipmaps import MipPair, mixed_sample
from stereotalker.control.region_sources import (
    FRINGE,
    anatomically_allowed,
    back_of_head_vertices,
    forearm_vertices,
    hand_vertices,
    in_mouth,
    initial_source_labels,
    inner_person_mask,
)
from stereotalker.control.sleeves import SourceLabels, detect_sleeve_end
from stereotalker.control.texture import (
    MIRRORED_TEXEL,
    VISIBILITY_TOLERANCE_M,
    VISIBLE_TEXEL,
    Texture,
    make_texture,
    texel_corners,
)
from stereotalker.geometry.camera import project
from stereotalker.geometry.rasterizer import majority_pool, rasterize
from stereotalker.records import Avatar, Camera, Control, Motion
from stereotalker.smplx_layout import REGION

# Values of Control.visibility on the person; 0 is outside. Higher values mean more reliable colors.
SEEN = 255  # the portrait shows this surface
FROM_TEXTURE = 192  # a texel that the portrait shows, where the direct lookup in the portrait was refused
MIRRORED = 128  # a texel whose color comes from the other side of the body
FROM_HAIR_PLANE = 96  # hair on the hair plane, beside the body
GUESSED = 64  # a texel whose color is a guess

# Samples per pixel and axis: maps are drawn this much larger, then reduced.
_SUPERSAMPLING = 2
# Share of the vertices visible in the portrait that must be hair for the back of the head to be hair as well.
_MIN_HAIR_SHARE = 0.01


@dataclass(frozen=True)
class Reference:
    """An avatar prepared for warping. H x W: size of the portrait."""

    avatar: Avatar
    # Mip maps (each level u8 [h, w, 3], the finest first) of the portrait and of the background.
    portrait_levels: tuple[np.ndarray, ...]
    background_levels: tuple[np.ndarray, ...]
    # The mesh that is drawn, with M vertices.
    mesh: Mesh
    # f32 [H, W] m, depth of the mesh in the portrait, infinite beside it.
    portrait_depth: np.ndarray
    source_labels: SourceLabels
    # bool [M, R + 2]: whether a vertex may take its color from portrait pixels of a source label.
    allowed_sources: np.ndarray
    # Texture atlas of the whole surface, for what the portrait does not show.
    texture: Texture
    # u8 [M] index into smplx_layout.REGIONS.
    region: np.ndarray
    light: PortraitLight
    # f32 [M], shading of every vertex in the portrait, around 1.
    shading: np.ndarray
    # None where the portrait shows no hair.
    plane_of_hair: HairPlane | None


def reference(avatar: Avatar, body: Body) -> Reference:
    """Prepare an avatar: project the fitted body into the portrait and read regions, light and texture from it."""
    H, W = avatar.regions.shape
    still = Motion.still(avatar.poses, avatar.expression)
    surface = Surface.of(body.pose(still, avatar.betas, avatar.surface)[0], body.faces)
    pixels = project(surface.vertices, avatar.intrinsics, avatar.extrinsics)
    body_fragments = rasterize(pixels, body.faces, (H, W))
    labels = detect_sleeve_end(
        avatar, body, body_fragments, initial_source_labels(avatar.regions), anatomically_allowed(body)
    )
    mesh = make_mesh(avatar, body, pixels, body_fragments, labels.regions)
    fragments = mesh.draw(mesh.places, (H, W))

    columns, rows = (np.clip(pixels[:, k].astype(int), 0, (W, H)[k] - 1) for k in (0, 1))
    is_inside = (pixels[:, 0] >= 0) & (pixels[:, 0] < W) & (pixels[:, 1] >= 0) & (pixels[:, 1] < H)
    is_visible = (
        is_inside
        & (np.abs(fragments.depth[rows, columns] - pixels[:, 2]) < VISIBILITY_TOLERANCE_M)
        & (body.part == PARTS["body"][0])
        & ~in_mouth(body)
    )
    is_visible &= labels.allowed_sources[np.arange(len(pixels)), labels.pixels[rows, columns]]
    region = _vertex_regions(body, is_visible, labels.regions[rows, columns], labels.allowed_sources)

    # The fringe of a hand has the hand's colors mixed in, so it belongs to the hand's group of colors.
    color_groups = np.where(labels.pixels == FRINGE, REGION["hands"], labels.pixels)
    person = inner_person_mask(avatar.regions)
    light = read_light(avatar.portrait, color_groups, person, surface, body_fragments, avatar.target)
    shading, portrait_levels = _vertex_shading(light, surface, body), mipmaps.levels(avatar)
    texture = make_texture(avatar, body, portrait_levels[0], pixels, fragments, region, labels, shading)

    # Vertices of the hand fringe are hands, and take only colors of hands.
    fringe_region = np.full(len(mesh.hand_fringe.beside), REGION["hands"], np.uint8)
    fringe_sources = fringe_region[:, None] == np.arange(labels.allowed_sources.shape[1])
    return Reference(
        avatar=avatar,
        portrait_levels=portrait_levels,
        background_levels=mipmaps.halved(avatar.background),
        mesh=mesh,
        portrait_depth=fragments.depth,
        source_labels=labels,
        allowed_sources=np.concatenate([labels.allowed_sources, fringe_sources]),
        texture=texture,
        region=np.concatenate([region, fringe_region]),
        light=light,
        shading=shading[mesh.like],
        plane_of_hair=hair_plane.make_hair_plane(avatar, body),
    )


def _vertex_shading(light: PortraitLight, surface: Surface, body: Body) -> np.ndarray:
    """Shading of every vertex, f32 [V]. It is 1 in the mouth, whose fixed colors contain their shading already."""
    return np.where(in_mouth(body), np.float32(1), light.shading(surface))


def _vertex_regions(
    body: Body, is_visible: np.ndarray, portrait_region: np.ndarray, allowed_sources: np.ndarray
) -> np.ndarray:
    """Assign a region to every vertex, u8 [V].

    A visible vertex has the region that the portrait shows. Of the others, hands, forearms and the inside of the
    mouth are known from the body, and the back of the head is hair if the portrait shows hair. The rest takes the
    region of the nearest visible vertex, on this side of the body or mirrored from the other.

    is_visible bool [V]; portrait_region u8 [V]: the region at the vertex' pixel; allowed_sources bool [V, R + 2].
    """
    hands = hand_vertices(body)
    region = np.where(hands, REGION["hands"], REGION["torso"]).astype(np.uint8)
    rows, visible = np.flatnonzero(~hands), np.flatnonzero(~hands & is_visible)
    if len(visible):
        mirrored = body.template[visible] * np.array([-1, 1, 1], np.float32)
        tree = cKDTree(np.concatenate([body.template[visible], mirrored]))
        nearest = np.tile(visible, 2)[tree.query(body.template[rows])[1]]
        is_allowed = allowed_sources[rows, portrait_region[nearest]]
        region[rows] = np.where(is_allowed, portrait_region[nearest], region[rows])
    region[forearm_vertices(body)] = REGION["arms"]
    if (portrait_region[is_visible] == REGION["hair"]).mean() > _MIN_HAIR_SHARE:
        region[back_of_head_vertices(body)] = REGION["hair"]
    region[is_visible] = portrait_region[is_visible]
    region[in_mouth(body)] = REGION["mouth"]
    return region


def control(ref: Reference, body: Body, motion: Motion, camera: Camera) -> Control:
    """Make the control maps of every frame of a motion, seen by a camera.

    Raises ValueError if motion and camera differ in their number of frames.
    """
    if len(motion.poses) != len(camera.azimuth):
        raise ValueError(f"motion has {len(motion.poses)} frames, the camera {len(camera.azimuth)}")
    avatar, mesh, (H, W) = ref.avatar, ref.mesh, camera.size
    vertices, V = mesh.pose(avatar, body, motion), len(body.template)
    T = len(vertices)
    fine_size = (_SUPERSAMPLING * H, _SUPERSAMPLING * W)
    warp, normals, plate = (np.zeros((T, H, W, 3), np.uint8) for _ in range(3))
    visibility, labels = (np.zeros((T, H, W), np.uint8) for _ in range(2))
    portrait = _PortraitSource(
        places=mesh.places,
        is_usable=~in_mouth(body)[mesh.like],
        depth=ref.portrait_depth,
        regions=ref.source_labels.regions,
        source_labels=ref.source_labels.pixels,
        allowed_sources=ref.allowed_sources,
    )
    atlas = _AtlasSource(mesh.texture_faces, texel_corners(body), ref.texture.colour, ref.texture.seen)
    heads = None if ref.plane_of_hair is None else hair_plane.heads(avatar, body, motion)
    for t in range(T):
        K, E = camera.intrinsics[t], camera.extrinsics[t]
        if t and np.array_equal(E, camera.extrinsics[t - 1]) and np.array_equal(K, camera.intrinsics[t - 1]):
            plate[t] = plate[t - 1]
        else:
            wall = mipmaps.background_level(avatar, ref.background_levels, K, E)
            plate[t] = background_plate(avatar, K, E, (H, W), wall)

        # From here on, everything is drawn at the supersampled size.
        K = K * np.array([[_SUPERSAMPLING], [_SUPERSAMPLING], [1]], np.float32)
        fragments = mesh.draw(project(vertices[t], K, E), fine_size)
        maps = FrameMaps(
            warp=plate[t].repeat(_SUPERSAMPLING, 0).repeat(_SUPERSAMPLING, 1),
            visibility=np.zeros(fine_size, np.uint8),
            labels=np.zeros(fine_size, np.uint8),
            normals=np.zeros((*fine_size, 3), np.uint8),
        )
        drawn = _DrawnMesh(fragments.face, fragments.bary, mesh.faces)
        surface = Surface.of(vertices[t, :V], body.faces)
        shading = _vertex_shading(ref.light, surface, body)[mesh.like]
        camera_normals = (surface.normals @ E[:3, :3].T).astype(np.float32)[mesh.like]
        _draw_normals_and_labels(drawn, camera_normals, ref.region, maps)
        levels = mipmaps.pair(avatar, ref.portrait_levels, K, E)
        _warp_portrait(drawn, shading / ref.shading, portrait, levels, maps)
        if heads is not None:
            assert ref.plane_of_hair is not None
            positions, rotations = heads
            gain = ref.light.change(
                ref.plane_of_hair.normal(ref.plane_of_hair.head_rotation), ref.plane_of_hair.normal(rotations[t])
            )
            camera_to_portrait = ref.plane_of_hair.from_pixels(positions[t], rotations[t], K, E)
            hair_plane.draw(
                camera_to_portrait, fragments.depth, avatar.regions, levels, gain, FROM_HAIR_PLANE, SEEN, maps
            )
        _fill_from_atlas(drawn, shading, atlas, maps)

        warp[t] = cv2.resize(maps.warp, (W, H), interpolation=cv2.INTER_AREA)
        labels[t] = majority_pool(maps.labels, _SUPERSAMPLING)
        # Visibility values and u8 normals cannot be averaged, so one sample near the pixel's center stands for it.
        center = slice(_SUPERSAMPLING // 2, None, _SUPERSAMPLING)
        normals[t], visibility[t] = maps.normals[center, center], maps.visibility[center, center]
    return Control(warp, visibility, normals, labels, plate, camera.azimuth, camera.elevation)


# ---- numba kernels and the records they take ----
# H x W: the supersampled frame; PH x PW: the portrait; S: side of the texture atlas.


class _DrawnMesh(NamedTuple):
    """The rasterized mesh of a frame: `Fragments` and the triangles they index, in a form that numba takes."""

    face: np.ndarray  # i32 [H, W] triangle that a pixel shows, -1: none
    bary: np.ndarray  # f32 [H, W, 3] barycentric coordinates, perspective-correct
    faces: np.ndarray  # i32 [G, 3] vertices of every triangle


class _PortraitSource(NamedTuple):
    """What decides whether a point of the mesh may take its color from the portrait, and where it lies there."""

    # f32 [M, 3]: where every vertex is in the portrait, x px, y px, depth m.
    places: np.ndarray
    # bool [M]: false in the mouth, which the portrait shows at best in part.
    is_usable: np.ndarray
    # f32 [PH, PW] m, depth of the mesh in the portrait.
    depth: np.ndarray
    # u8 [PH, PW] regions, and u8 [PH, PW] source labels in 0..R + 1.
    regions: np.ndarray
    source_labels: np.ndarray
    # bool [M, R + 2]: source labels that a vertex may take its color from.
    allowed_sources: np.ndarray


class _AtlasSource(NamedTuple):
    """The texture atlas and the mesh's texture coordinates in it."""

    faces: np.ndarray  # i32 [G, 3] index into `corners`
    corners: np.ndarray  # f32 [N, 2] x and y in texels
    color: np.ndarray  # f32 [S, S, 3] sRGB in 0..255 without shading, which may put it beyond 255
    origin: np.ndarray  # u8 [S, S] VISIBLE_TEXEL, MIRRORED_TEXEL or 0 for a guess


@numba.njit(cache=True)
def _interpolate(triangle: np.ndarray, weights: np.ndarray, values: np.ndarray, out: np.ndarray) -> int:
    """Interpolate vertex values [V, C] in a triangle [3] with barycentric weights [3], into out f64 [C].

    Returns the index of the nearest of the three vertices.
    """
    out[:] = 0.0
    for i in range(3):
        for k in range(len(out)):
            out[k] += weights[i] * values[triangle[i], k]
    return triangle[np.argmax(weights)]


@numba.njit(cache=True)
def _write_color(
    color: np.ndarray, triangle: np.ndarray, weights: np.ndarray, factor: np.ndarray, pixel: np.ndarray
) -> None:
    """Write a color f64 [3], multiplied by a factor interpolated from the vertices f32 [M], to a pixel u8 [3]."""
    gain = weights[0] * factor[triangle[0]] + weights[1] * factor[triangle[1]] + weights[2] * factor[triangle[2]]
    for k in range(3):
        pixel[k] = np.uint8(min(color[k] * gain + 0.5, 255.0))


@numba.njit(cache=True)
def _draw_normals_and_labels(
    drawn: _DrawnMesh, vertex_normals: np.ndarray, region: np.ndarray, maps: FrameMaps
) -> None:
    """Draw normals and region labels of the mesh. vertex_normals f32 [M, 3] in camera space; region u8 [M]."""
    face, bary, faces = drawn.face, drawn.bary, drawn.faces
    labels, normals = maps.labels, maps.normals
    H, W = face.shape
    n = np.zeros(3)
    for y in range(H):
        for x in range(W):
            if face[y, x] < 0:
                continue
            labels[y, x] = region[_interpolate(faces[face[y, x]], bary[y, x], vertex_normals, n)]
            length = max(np.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]), 1e-6)
            for k in range(3):
                normals[y, x, k] = np.uint8(min(max(127.5 + 127.5 * n[k] / length, 0), 255))


@numba.njit(cache=True)
def _warp_portrait(
    drawn: _DrawnMesh, gain: np.ndarray, portrait: _PortraitSource, levels: MipPair, maps: FrameMaps
) -> None:
    """Draw what the portrait shows of the mesh: its colors and its region labels; visibility becomes SEEN.

    gain f32 [M]: shading of a vertex in this frame over that in the portrait; levels: of the portrait's mip map.
    """
    face, bary, faces = drawn.face, drawn.bary, drawn.faces
    places, is_usable, depth = portrait.places, portrait.is_usable, portrait.depth
    regions, source_labels, allowed_sources = portrait.regions, portrait.source_labels, portrait.allowed_sources
    warp, visibility, labels = maps.warp, maps.visibility, maps.labels
    H, W = face.shape
    PH, PW = regions.shape
    color, place = np.zeros((2, 3)), np.zeros(3)
    for y in range(H):
        for x in range(W):
            if face[y, x] < 0:
                continue
            vertex = _interpolate(faces[face[y, x]], bary[y, x], places, place)
            if not is_usable[vertex] or not (0 <= place[0] < PW and 0 <= place[1] < PH):
                continue
            column, row = int(place[0]), int(place[1])
            if (
                regions[row, column] == 0
                or not allowed_sources[vertex, source_labels[row, column]]
                or abs(depth[row, column] - place[2]) >= VISIBILITY_TOLERANCE_M
            ):
                continue
            visibility[y, x] = SEEN
            labels[y, x] = regions[row, column]
            mixed_sample(levels, place[0] / PW, place[1] / PH, color)
            _write_color(color[0], faces[face[y, x]], bary[y, x], gain, warp[y, x])


@numba.njit(cache=True)
def _fill_from_atlas(drawn: _DrawnMesh, shading: np.ndarray, atlas: _AtlasSource, maps: FrameMaps) -> None:
    """Draw the rest of the body, where visibility is still 0, from the texture atlas. shading f32 [M] in this frame."""
    face, bary, faces = drawn.face, drawn.bary, drawn.faces
    texture_faces, corners, origin = atlas.faces, atlas.corners, atlas.origin
    warp, visibility = maps.warp, maps.visibility
    H, W = face.shape
    texel, color = np.zeros(2), np.zeros(3)
    for y in range(H):
        for x in range(W):
            if face[y, x] < 0 or visibility[y, x] > 0:
                continue
            _interpolate(texture_faces[face[y, x]], bary[y, x], corners, texel)
            row = min(max(int(texel[1]), 0), origin.shape[0] - 1)
            column = min(max(int(texel[0]), 0), origin.shape[1] - 1)
            if origin[row, column] == VISIBLE_TEXEL:
                visibility[y, x] = FROM_TEXTURE
            elif origin[row, column] == MIRRORED_TEXEL:
                visibility[y, x] = MIRRORED
            else:
                visibility[y, x] = GUESSED
            bilinear_sample(atlas.color, texel[0], texel[1], color)
            _write_color(color, faces[face[y, x]], bary[y, x], shading, warp[y, x])
