"""The reference warp: the body mesh carries the portrait's pixels to another pose and camera.

`reference(avatar, body)` runs once per avatar; `control(...)` then makes the control maps of every frame. Every part of
the body that moves on its own takes its colors from its own layer of the portrait (see `layers`), at the place where
the fitted body lies in the portrait. What the portrait does not show, or shows slantwise, takes colors from the texture
atlas, and beside the head from the hair plane. Hands that the portrait shows well are drawn over the rest, as pieces of
the portrait (see `hand_reliefs`). V: vertices of the body, F: its triangles.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree

from stereotalker.body.free_body import PARTS
from stereotalker.body.model import Body
from stereotalker.control import hair_plane, layers, mipmaps
from stereotalker.control.atlas import texel_corners
from stereotalker.control.background_plate import background_plate
from stereotalker.control.body_parts import (
    back_of_head_vertices,
    forearm_vertices,
    hand_vertices,
    head_vertices,
    in_mouth,
    inner_person_mask,
    may_show,
    shown_vertices,
)
from stereotalker.control.cloth_gaps import close_gaps, cloth_contacts
from stereotalker.control.foreshortened_arms import SmoothedArms
from stereotalker.control.frame_maps import FrameMaps
from stereotalker.control.hair_plane import HairPlane, HairSource
from stereotalker.control.hand_reliefs import HandRelief, draw_relief, make_reliefs
from stereotalker.control.layers import Layer
from stereotalker.control.light import PortraitLight, Surface, read_light
from stereotalker.control.loose_sleeves import pose_clothed, round_sleeves
from stereotalker.control.texture import Texture, make_texture
from stereotalker.control.warp_kernels import (
    GUESSED,
    SAMPLED,
    SHOWN,
    SUPERSAMPLING,
    AtlasSource,
    DrawnMesh,
    PortraitSource,
    draw_frame,
)
from stereotalker.geometry.camera import project
from stereotalker.geometry.rasterizer import rasterize
from stereotalker.records import Avatar, Camera, Control, Motion
from stereotalker.smplx_layout import REGION

# Share of the vertices visible in the portrait that must be hair for the back of the head to be hair as well.
_MIN_HAIR_SHARE = 0.01
# Cosine of the angle to the viewer below which the portrait shows a surface too slantwise to count as seen (65
# degrees), if the frame shows it this many times less slantwise.
_MIN_FACING, _MAX_STRETCH = 0.42, 2.5
# On arms and hands, the portrait's color gives way to the atlas' between these cosines, and between these multiples, so
# that no edge is left.
_LIMB_FACING, _LIMB_STRETCH = (0.25, 0.5), (1.3, 2.0)
# Largest shading factor of arms and hands. Its inverse is the smallest.
_MAX_LIMB_SHADING = 1.15
# How much darker a limb is whose surface is seen from the edge, and the facing below which it gets no darker.
_LIMB_FALLOFF, _MIN_LIMB_FACING = 0.45, 0.15


@dataclass(frozen=True)
class Reference:
    """An avatar prepared for warping."""

    avatar: Avatar
    # Mip maps, the finest level first: of the portrait (each u8 [1, h, w, 3]), of its layers' pictures (u8 [L, h, w,
    # 3]), and of the background (u8 [h, w, 3]).
    portrait_levels: tuple[np.ndarray, ...]
    layer_levels: tuple[np.ndarray, ...]
    background_levels: tuple[np.ndarray, ...]
    portrait: PortraitSource
    # f32 [V, 3]: the body in the portrait, x px, y px, depth m.
    places: np.ndarray
    # f32 [V] cosine of the angle between the surface and the portrait's camera.
    facing: np.ndarray
    # bool [V] vertices of arms and hands.
    is_limb: np.ndarray
    # Parts of arms that get smooth colors when they turn.
    smoothed: SmoothedArms
    # Texture atlas of the whole surface, for what the portrait does not show.
    texture: Texture
    atlas: AtlasSource
    light: PortraitLight
    # None where the portrait shows no hair.
    plane_of_hair: HairPlane | None
    # f16 [V, 3] m: the clothed surface with round sleeves.
    round_surface: np.ndarray
    # bool [2, F] triangles beside the seam at which either arm's sleeve continues into the trunk's cloth.
    cloth_contacts: np.ndarray
    # Hands that are drawn as the portrait shows them. Others are meshes, as the rest of the body.
    reliefs: tuple[HandRelief, ...]


def reference(avatar: Avatar, body: Body) -> Reference:
    """Prepare an avatar: project the fitted body into the portrait and read layers, light and texture from it."""
    H, W = avatar.regions.shape
    still = Motion.still(avatar.poses, avatar.expression)
    surface = Surface.of(body.pose(still, avatar.betas, avatar.surface)[0], body.faces)
    pixels = project(surface.vertices, avatar.intrinsics, avatar.extrinsics)
    fragments = rasterize(pixels, body.faces, (H, W))

    columns, rows = (np.clip(pixels[:, k].astype(int), 0, (W, H)[k] - 1) for k in (0, 1))
    portrait_region = avatar.regions[rows, columns]
    is_visible = shown_vertices(body, pixels, fragments.depth, avatar.regions)
    is_visible &= (body.part == PARTS["body"][0]) & ~in_mouth(body)
    region = _vertex_regions(body, is_visible, portrait_region)
    light = read_light(
        avatar.portrait, avatar.regions, inner_person_mask(avatar.regions), surface, fragments, avatar.target
    )
    vertex_layer, is_outside_mouth = layers.vertex_layers(body), ~in_mouth(body)
    facing = _facing(surface, avatar.extrinsics)
    shading = _vertex_shading(light, surface, facing, vertex_layer != layers.TRUNK, is_outside_mouth)
    portrait_layers, materials = layers.make_layers(avatar, body, pixels, shading)
    smoothed = SmoothedArms(avatar, body, materials.sleeve_end)
    texture = make_texture(avatar, body, pixels, portrait_layers, materials, region, shading, facing, smoothed)
    pyramids = [
        mipmaps.halved(mipmaps.at_photo_size(avatar, layer.picture, layer.is_shown)) for layer in portrait_layers
    ]
    return Reference(
        avatar=avatar,
        portrait_levels=tuple(level[None] for level in mipmaps.levels(avatar)),
        layer_levels=tuple(np.stack(level) for level in zip(*pyramids, strict=True)),
        background_levels=mipmaps.halved(avatar.background),
        portrait=PortraitSource(
            faces=body.faces,
            layer=layers.triangle_layers(vertex_layer, body.faces),
            region=region,
            is_outside_mouth=is_outside_mouth,
            is_head=head_vertices(body),
            regions=avatar.regions,
            layers=np.stack([_layer_table(part) for part in portrait_layers]),
        ),
        places=pixels,
        facing=facing,
        is_limb=vertex_layer != layers.TRUNK,
        smoothed=smoothed,
        texture=texture,
        atlas=AtlasSource(body.texture_faces, texel_corners(body), texture.colour[None], texture.seen),
        light=light,
        plane_of_hair=hair_plane.make_hair_plane(avatar, body),
        round_surface=round_sleeves(avatar, body),
        cloth_contacts=np.any(cloth_contacts(body, portrait_layers, pixels)[:, body.faces], -1),
        reliefs=make_reliefs(avatar, body, pixels, materials.sleeve_end),
    )


def _layer_table(layer: Layer) -> np.ndarray:
    """The maps of a layer as the kernel reads them, f32 [PH, PW, 4]; see `PortraitSource.layers`."""
    use = np.where(layer.is_shown, SHOWN, SAMPLED) * layer.may_sample
    return np.stack([layer.depth, layer.shading, layer.interior, use], -1).astype(np.float32)


def _facing(surface: Surface, extrinsics: np.ndarray) -> np.ndarray:
    """Cosine of the angle between every vertex' normal and the direction to the camera, f32 [V]."""
    R, translation = extrinsics[:3, :3], extrinsics[:3, 3]
    positions, normals = surface.vertices @ R.T + translation, surface.normals @ R.T
    distance = np.maximum(np.linalg.norm(positions, axis=1), 1e-6)
    return (-(positions * normals).sum(1) / distance).astype(np.float32)


def _portrait_share(in_portrait: np.ndarray, in_frame: np.ndarray, is_limb: np.ndarray) -> np.ndarray:
    """How much of every vertex' color comes from the portrait, f32 [V] in 0..1.

    in_portrait and in_frame f32 [V]: `_facing` there; is_limb bool [V].
    """
    stretch = in_frame / np.maximum(in_portrait, 1e-3)
    is_too_slanted = (in_portrait < _MIN_FACING) & (stretch > _MAX_STRETCH)
    facing = (in_portrait - _LIMB_FACING[0]) / np.ptp(_LIMB_FACING)
    unstretched = (_LIMB_STRETCH[1] - stretch) / np.ptp(_LIMB_STRETCH)
    return np.where(is_limb, np.maximum(facing, unstretched).clip(0, 1), ~is_too_slanted).astype(np.float32)


def _vertex_shading(
    light: PortraitLight, surface: Surface, facing: np.ndarray, is_limb: np.ndarray, is_outside_mouth: np.ndarray
) -> np.ndarray:
    """Shading of every vertex, f32 [V]. It is 1 in the mouth, whose fixed colors contain their shading already.

    facing f32 [V]: see `_facing`. On arms and hands the range of the portrait's light is narrow: their fit is rougher
    than that of the trunk, and so is the light on them. They are darker where they face away from the camera.
    """
    shading = light.shading(surface)
    limb = np.clip(shading, 1 / _MAX_LIMB_SHADING, _MAX_LIMB_SHADING)
    limb = limb * (1 - _LIMB_FALLOFF * (1 - np.clip(facing, _MIN_LIMB_FACING, 1)))
    shading = np.where(is_limb, limb, shading)
    return np.where(is_outside_mouth, shading, np.float32(1)).astype(np.float32)


def _vertex_regions(body: Body, is_visible: np.ndarray, portrait_region: np.ndarray) -> np.ndarray:
    """Assign a region to every vertex, u8 [V].

    A visible vertex has the region that the portrait shows. Of the others, hands, forearms and the inside of the
    mouth are known from the body, and the back of the head is hair if the portrait shows hair. The rest takes the
    region of the nearest visible vertex, on this side of the body or mirrored from the other.

    is_visible bool [V]; portrait_region u8 [V]: the region at the vertex' pixel.
    """
    hands = hand_vertices(body)
    region = np.where(hands, REGION["hands"], REGION["torso"]).astype(np.uint8)
    rows, visible = np.flatnonzero(~hands), np.flatnonzero(~hands & is_visible)
    if len(visible):
        mirrored = body.template[visible] * np.array([-1, 1, 1], np.float32)
        tree = cKDTree(np.concatenate([body.template[visible], mirrored]))
        nearest = portrait_region[np.tile(visible, 2)[tree.query(body.template[rows])[1]]]
        region[rows] = np.where(may_show(body, rows, nearest), nearest, region[rows])
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
    avatar, (H, W) = ref.avatar, camera.size
    vertices, departure = pose_clothed(avatar, body, ref.round_surface, motion)
    T = len(vertices)
    warp, normals, plate = (np.empty((T, H, W, 3), np.uint8) for _ in range(3))
    visibility, labels, coverage = (np.empty((T, H, W), np.uint8) for _ in range(3))
    heads = None if ref.plane_of_hair is None else hair_plane.heads(avatar, body, motion)
    positions, rotations = body.posed_joints(motion, avatar.betas, avatar.surface)
    smooth = ref.smoothed.share((positions, rotations), camera.extrinsics)

    def draw(t: int) -> None:
        """Draw frame t over its plate."""
        K, E = camera.intrinsics[t], camera.extrinsics[t]
        K = K * np.array([[SUPERSAMPLING], [SUPERSAMPLING], [1]], np.float32)
        weights = [relief.hand.weight(positions[t], rotations[t], E) for relief in ref.reliefs]
        is_kept, portrait_share = np.ones(len(body.faces), bool), 1 - smooth[t]
        for relief, weight in zip(ref.reliefs, weights, strict=True):
            is_kept &= ~(relief.replaced & (weight == 1))
            # What is left of a hand's mesh under its relief continues the arm, or the cuff, in the atlas' colors.
            portrait_share[relief.hand_vertices] *= 1 - weight * departure[t][relief.hand_vertices]
        kept = np.flatnonzero(is_kept)
        size = (SUPERSAMPLING * H, SUPERSAMPLING * W)
        fragments = rasterize(project(vertices[t], K, E), body.faces[kept], size)
        surface = Surface.of(vertices[t], body.faces)
        facing = _facing(surface, E)
        drawn = DrawnMesh(
            face=np.where(fragments.face >= 0, kept[fragments.face], -1).astype(np.int32),
            bary=fragments.bary,
            depth=fragments.depth,
            vertices=np.column_stack(
                [
                    ref.places,
                    surface.normals @ E[:3, :3].T,
                    _vertex_shading(ref.light, surface, facing, ref.is_limb, ref.portrait.is_outside_mouth),
                    _portrait_share(ref.facing, facing, ref.is_limb) * portrait_share,
                    departure[t],
                ]
            ).astype(np.float32),
        )
        maps = FrameMaps(warp[t], visibility[t], labels[t], normals[t], coverage[t], face=np.empty((H, W), np.int32))
        hair = _hair(ref, None if heads is None else (heads[0][t], heads[1][t]), K, E)
        draw_frame(drawn, ref.portrait, mipmaps.pair(avatar, ref.layer_levels, K, E), ref.atlas, hair, plate[t], maps)
        shown_layer = np.where(maps.face >= 0, ref.portrait.layer[maps.face], layers.COUNT)
        close_gaps(maps, maps.face >= 0, shown_layer, ref.cloth_contacts[:, maps.face])
        coverage[t][(maps.face < 0) & (visibility[t] == GUESSED)] = 255  # the gaps
        depth_of_reliefs = np.full(size, np.inf, np.float32)
        for relief, weight in zip(ref.reliefs, weights, strict=True):
            if weight:
                levels = mipmaps.pair(avatar, relief.levels, K, E)
                hand = relief.posed(positions[t], rotations[t])
                draw_relief(maps, relief, hand, weight, drawn, depth_of_reliefs, levels, K, E)

    for t in range(T):
        K, E = camera.intrinsics[t], camera.extrinsics[t]
        if t and np.array_equal(E, camera.extrinsics[t - 1]) and np.array_equal(K, camera.intrinsics[t - 1]):
            plate[t] = plate[t - 1]
        else:
            wall = mipmaps.background_level(avatar, ref.background_levels, K, E)
            plate[t] = background_plate(avatar, K, E, (H, W), wall)
    # Most of the work is done in kernels that release the interpreter's lock.
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(draw, range(T)))
    return Control(warp, visibility, normals, labels, plate, coverage, camera.azimuth, camera.elevation)


def _hair(
    ref: Reference, head: tuple[np.ndarray, np.ndarray] | None, intrinsics: np.ndarray, extrinsics: np.ndarray
) -> HairSource:
    """The hair plane in a frame whose camera has these intrinsics [3, 3] px and extrinsics [3 or 4, 4].

    head: its position and rotation, see `hair_plane.heads`; None without hair.
    """
    plane, levels = ref.plane_of_hair, mipmaps.pair(ref.avatar, ref.portrait_levels, intrinsics, extrinsics)
    if plane is None or head is None:
        return HairSource(False, np.zeros((3, 3)), 1.0, levels)
    position, rotation = head
    gain = ref.light.change(plane.normal(plane.head_rotation), plane.normal(rotation))
    return HairSource(True, plane.from_pixels(position, rotation, intrinsics, extrinsics), gain, levels)
