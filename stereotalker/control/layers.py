"""Splits a portrait into layers, one per part of the body that moves on its own, and completes the picture of each.

The layers are trunk and head, each arm, and each hand. A layer's picture shows its part where the portrait does, and is
filled everywhere else: beside the part with the part's own colors, and on the trunk, where arms and hands hide it, with
the cloth around them. So whatever a part uncovers when it moves is already painted, and no part carries pixels of
another. V: vertices, F: triangles of the body, H x W: the portrait.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

from stereotalker.body.model import Body
from stereotalker.control.body_parts import joint_reach
from stereotalker.control.limb_materials import LimbMaterials, limb_materials
from stereotalker.geometry.rasterizer import rasterize
from stereotalker.media.inpainting import CLOTHES, inpaint
from stereotalker.media.morphology import disk_kernel
from stereotalker.media.pull_push import extrapolate_colors
from stereotalker.records import Avatar
from stereotalker.smplx_layout import JOINT, REGION, SIDES

# Index of every layer; an arm's and a hand's is that of its side added.
TRUNK, ARM, HAND = 0, 1, 3
COUNT = 5
# A layer also owns the surface of its neighbors this many edges beyond its own vertices, so that the pictures of two
# layers agree where their parts meet.
_SEAM_EDGES = 2
# Colors of neighboring parts are mixed up to this distance from a part's outline; share of the longer side.
MIXED_RIM = 1 / 400
# Long sleeves end this far beyond the wrist, m.
_CUFF_M = 0.012
# Beyond this distance from an edge colors are free of a neighbor's shadow; share of the longer side. An edge is also
# where the depth of neighboring pixels differs so much, m.
_SHADOWED_RIM, _MIN_DEPTH_JUMP_M = 1 / 130, 0.015
# Colors of a hand are used so far beside what the portrait shows of it; share of the longer side.
_USABLE_RIM = 0.012
# So near to a hand, an arm's colors may be those of the hand; share of the longer side.
_HAND_RIM = 1 / 128
# Cloth this near to a hand, or to an arm, is filled as well: it lies in the shadow or has the limb's colors mixed in.
# Shares of the longer side.
_HAND_SHADOW, _ARM_SHADOW = 1 / 60, 1 / 80
# The trunk is filled in a picture that is scaled down to this length of the longer side, px.
_FILL_PX = 224
# Nothing is filled farther from visible cloth than this, as a share of the longer side.
_FILL_REACH = 1 / 3
# Part of the trunk around the hole from which it is filled, as a share of the hole's size.
_FILL_MARGIN = 0.35


@dataclass(frozen=True)
class Layer:
    """One part of the body, as the portrait shows it."""

    picture: np.ndarray  # u8 [H, W, 3], completed
    depth: np.ndarray  # f32 [H, W] m of this part alone, infinite beside it
    shading: np.ndarray  # f32 [H, W] the light's shading of this part, continued beside it
    is_shown: np.ndarray  # bool [H, W] pixels in which the portrait shows this part
    # bool [H, W] pixels whose colors may be used: all but those of a hand far from what is shown of it, which the
    # texture continues over the surface.
    may_sample: np.ndarray
    # f32 [H, W] in 0..1: 0 at the edge of what the portrait shows without a jump in depth, 1 well inside. Near an edge
    # colors are mixed with a neighbor's or lie in its shadow. On hands it is 1 wherever
    # they are shown in a color of their own.
    interior: np.ndarray


def vertex_layers(body: Body) -> np.ndarray:
    """The layer of every vertex, u8 [V]."""
    layer = np.full(len(body.template), TRUNK, np.uint8)
    for k, side in enumerate(SIDES):
        arm = body.weights[:, [JOINT[f"{side}_shoulder"], JOINT[f"{side}_elbow"]]].sum(1)
        hand = body.hand_weight(side)
        layer[arm + hand > 0.5] = ARM + k
        layer[hand > 0.5] = HAND + k
    return layer


def triangle_layers(vertex_layer: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The layer of every triangle, u8 [F]: the highest of its vertices', so that hands are closed."""
    return vertex_layer[faces].max(1)


def make_layers(
    avatar: Avatar, body: Body, pixels: np.ndarray, shading: np.ndarray
) -> tuple[tuple[Layer, ...], LimbMaterials]:
    """Make all layers of an avatar, in the order of their indices, and find the materials of its limbs.

    pixels f32 [V, 3]: the body in the portrait, x px, y px, depth m; shading f32 [V] of the surface in the portrait.
    """
    size = avatar.regions.shape
    vertex_layer = vertex_layers(body)
    triangle_layer = triangle_layers(vertex_layer, body.faces)
    vertex = _shown_vertex(avatar.regions, body, pixels, vertex_layer)
    is_arm, is_hand = (avatar.regions == REGION[name] for name in ("arms", "hands"))
    reach = np.abs(body.template[vertex, 0])
    materials = limb_materials(avatar, reach, is_arm & (vertex >= 0), is_hand, joint_reach(body, "wrist") + _CUFF_M)
    rim = max(1, round(max(size) * MIXED_RIM))
    owned = [_with_seam(body, vertex_layer == k)[vertex] & (vertex >= 0) for k in range(COUNT)]
    near_hands = _dilated(avatar.regions == REGION["hands"], max(1, round(max(size) * _HAND_RIM)))
    result, usable = [], max(1, round(max(size) * _USABLE_RIM))
    for k in range(COUNT):
        faces = body.faces[triangle_layer == k]
        is_own = owned[k] if k == TRUNK else owned[k] & ~materials.is_foreign
        fragments = rasterize(pixels, faces, size)
        is_unmixed = _eroded(owned[k], rim)
        if ARM <= k < HAND:
            is_unmixed &= ~near_hands
        picture = (
            _trunk_picture(avatar, is_unmixed, owned) if k == TRUNK else extrapolate_colors(avatar.portrait, is_unmixed)
        )
        part_shading = fragments.interpolate(faces, shading[:, None])[..., 0]
        # Without a single pixel of its own a limb's picture says nothing, and the texture's colors are used.
        may_sample = _dilated(owned[k], usable) if k >= HAND else np.full(size, k == TRUNK or bool(is_unmixed.any()))
        part_shading = _nearest_known(part_shading, np.isfinite(fragments.depth))
        # Fingers are too narrow to lose their rims. Their picture has the hand's own colors there.
        interior = is_own.astype(np.float32) if k >= HAND else _interior(is_own, fragments.depth)
        result.append(Layer(picture, fragments.depth, part_shading, owned[k], may_sample, interior))
    return tuple(result), materials


def _interior(is_shown: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """`Layer.interior` of a part that is shown where bool [H, W], at a depth f32 [H, W] m."""
    depth = np.where(np.isfinite(depth), depth, 1e3).astype(np.float32)
    kernel = np.ones((3, 3), np.uint8)
    is_edge = ~is_shown | (cv2.dilate(depth, kernel) - cv2.erode(depth, kernel) > _MIN_DEPTH_JUMP_M)
    near, far = (max(is_shown.shape) * rim for rim in (MIXED_RIM, _SHADOWED_RIM))
    return np.clip((distance_transform_edt(~is_edge) - near) / (far - near), 0, 1).astype(np.float32)


def _shown_vertex(regions: np.ndarray, body: Body, pixels: np.ndarray, vertex_layer: np.ndarray) -> np.ndarray:
    """The vertex of the body that every pixel of the person shows, i64 [H, W]; -1 on the background.

    The labels decide between hand, arm and the rest, because the fit is a few pixels off: a pixel takes the vertex of
    the nearest pixel at which the body shows the part that the label names.
    """
    drawn = rasterize(pixels, body.faces, regions.shape).vertices(body.faces)
    drawn_layer = np.where(drawn >= 0, vertex_layer[drawn], COUNT)
    result = np.full(regions.shape, -1)
    is_hand, is_arm = regions == REGION["hands"], regions == REGION["arms"]
    is_rest = ~is_hand & ~is_arm & (regions != REGION["background"])
    for label, low, high in ((is_hand, HAND, COUNT), (is_arm, ARM, HAND), (is_rest, TRUNK, ARM)):
        is_drawn = (drawn_layer >= low) & (drawn_layer < high)
        if label.any() and is_drawn.any():
            rows, columns = distance_transform_edt(~is_drawn, return_distances=False, return_indices=True)
            result[label] = drawn[rows, columns][label]
    return result


def _with_seam(body: Body, is_part: np.ndarray) -> np.ndarray:
    """The vertices of a part and those within _SEAM_EDGES edges of it, bool [V]."""
    owned = is_part.copy()
    for _ in range(_SEAM_EDGES):
        owned[body.faces[owned[body.faces].any(1)]] = True
    return owned


def _eroded(mask: np.ndarray, radius: int) -> np.ndarray:
    """A mask without its rim of `radius` px. The border of the picture is no rim."""
    return cv2.erode(mask.astype(np.uint8), disk_kernel(radius), borderValue=1) > 0


def _dilated(mask: np.ndarray, radius: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), disk_kernel(radius), borderValue=0) > 0


def _nearest_known(values: np.ndarray, is_known: np.ndarray) -> np.ndarray:
    """Values f32 [H, W] where they are known, and the nearest known value elsewhere; 1 if none is known."""
    if not is_known.any():
        return np.ones_like(values)
    rows, columns = distance_transform_edt(~is_known, return_distances=False, return_indices=True)
    return np.maximum(values[rows, columns], 1e-3)


def _trunk_picture(avatar: Avatar, is_unmixed: np.ndarray, owned: list[np.ndarray]) -> np.ndarray:
    """The picture of trunk and head: what arms and hands hide is inpainted from the cloth around it. u8 [H, W, 3]."""
    side = max(is_unmixed.shape)
    hole = np.zeros_like(is_unmixed)
    for part, rim in ((owned[ARM:HAND], _ARM_SHADOW), (owned[HAND:], _HAND_SHADOW)):
        hole |= _dilated(np.any(part, 0) & ~owned[TRUNK], max(2, round(rim * side)))
    is_cloth = np.isin(avatar.regions, (REGION["torso"], REGION["legs"])) & ~hole
    # The head keeps its pixels beside an arm: hair and face are no cloth.
    is_kept = is_unmixed & (is_cloth | ~np.isin(avatar.regions, (REGION["torso"], REGION["legs"])))
    picture = extrapolate_colors(avatar.portrait, is_kept)
    if not is_cloth.any():
        return picture
    rows, columns = np.nonzero(hole & (distance_transform_edt(~is_cloth) < _FILL_REACH * side))
    if not len(rows):
        return picture
    window = tuple(
        slice(max(0, i.min() - round(_FILL_MARGIN * np.ptp(i))), i.max() + 1 + round(_FILL_MARGIN * np.ptp(i)))
        for i in (rows, columns)
    )
    cropped, cloth, hidden = picture[window], is_cloth[window], (hole & ~is_kept)[window]
    scale = min(1.0, _FILL_PX / max(cloth.shape))
    size = (max(16, round(cloth.shape[1] * scale)), max(16, round(cloth.shape[0] * scale)))
    small = cv2.resize(cropped, size, interpolation=cv2.INTER_AREA)
    small_hole = cv2.resize(hidden.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
    small_cloth = cv2.resize(cloth.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.99
    filled = inpaint(small, small_hole, small, CLOTHES, small_cloth)
    large = cv2.resize(filled, cloth.shape[::-1], interpolation=cv2.INTER_CUBIC)
    blend = np.maximum(cv2.GaussianBlur(hidden.astype(np.float32), (0, 0), max(side / 500, 0.5)), hidden)[..., None]
    blend = blend * ~(is_kept & ~is_cloth)[window][..., None]
    result = picture.copy()
    result[window] = np.rint(large * blend + cropped * (1 - blend)).astype(np.uint8)
    return result
