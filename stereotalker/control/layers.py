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
from stereotalker.control.mipmaps import halved
from stereotalker.geometry.rasterizer import rasterize
from stereotalker.media.inpainting import inpaint
from stereotalker.records import Avatar
from stereotalker.smplx_layout import JOINT, REGION, SIDES

# Index of every layer; an arm's and a hand's is that of its side added.
TRUNK, ARM, HAND = 0, 1, 3
COUNT = 5
# A layer also owns the surface of its neighbors this many edges beyond its own vertices, so that the pictures of two
# layers agree where their parts meet.
_SEAM_EDGES = 2
# Colors of neighboring parts are mixed up to this distance from a part's outline; share of the longer side.
_MIXED_RIM = 1 / 400
# Colors of a hand are used so far beside what the portrait shows of it; share of the longer side.
_USABLE_RIM = 0.012
# Distance over which the nearest color gives way to a smooth mean of all; share of the longer side.
_NEAREST_COLOR_REACH = 1 / 150
# So near to a hand, an arm's colors may be those of the hand; share of the longer side.
_HAND_RIM = 1 / 128
# Cloth this near to a hand, or to an arm, is filled as well: it lies in the shadow or has the limb's colors mixed in.
# Shares of the longer side.
_HAND_SHADOW, _ARM_SHADOW = 1 / 60, 1 / 150
# The trunk is filled in a picture that is scaled down to this length of the longer side, px.
_FILL_PX = 224
# Nothing is filled farther from visible cloth than this, as a share of the longer side.
_FILL_REACH = 1 / 3
# Part of the trunk around the hole from which it is filled, as a share of the hole's size.
_FILL_MARGIN = 0.35


@dataclass(frozen=True)
class Layer:
    """One part of the body, as the portrait shows it."""

    levels: tuple[np.ndarray, ...]  # mip map of the completed picture: u8 [H, W, 3], then halved
    depth: np.ndarray  # f32 [H, W] m of this part alone, infinite beside it
    shading: np.ndarray  # f32 [H, W] the light's shading of this part, continued beside it
    is_shown: np.ndarray  # bool [H, W] pixels in which the portrait shows this part
    # bool [H, W] pixels whose colors may be used: all but those of a hand far from what is shown of it. Where a hand
    # hides another, the texture's copy of the other hand knows more than continued colors.
    may_sample: np.ndarray


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


def make_layers(avatar: Avatar, body: Body, pixels: np.ndarray, shading: np.ndarray) -> tuple[Layer, ...]:
    """Make all layers of an avatar, in the order of their indices.

    pixels f32 [V, 3]: the body in the portrait, x px, y px, depth m; shading f32 [V] of the surface in the portrait.
    """
    size = avatar.regions.shape
    vertex_layer = vertex_layers(body)
    triangle_layer = triangle_layers(vertex_layer, body.faces)
    vertex = _shown_vertex(avatar.regions, body, pixels, vertex_layer)
    rim = max(1, round(max(size) * _MIXED_RIM))
    owned = [_with_seam(body, vertex_layer == k)[vertex] & (vertex >= 0) for k in range(COUNT)]
    near_hands = _dilated(avatar.regions == REGION["hands"], max(1, round(max(size) * _HAND_RIM)))
    result, reach = [], max(1, round(max(size) * _USABLE_RIM))
    for k in range(COUNT):
        faces = body.faces[triangle_layer == k]
        fragments = rasterize(pixels, faces, size)
        is_unmixed = _eroded(owned[k], rim)
        if ARM <= k < HAND:
            is_unmixed &= ~near_hands
        picture = _trunk_picture(avatar, is_unmixed, owned) if k == TRUNK else _completed(avatar.portrait, is_unmixed)
        part_shading = fragments.interpolate(faces, shading[:, None])[..., 0]
        # Without a single pixel of its own a limb's picture says nothing, and the texture's guess is used.
        may_sample = _dilated(owned[k], reach) if k >= HAND else np.full(size, k == TRUNK or bool(is_unmixed.any()))
        part_shading = _continued(part_shading, np.isfinite(fragments.depth))
        result.append(Layer(halved(picture), fragments.depth, part_shading, owned[k], may_sample))
    return tuple(result)


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
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.erode(mask.astype(np.uint8), kernel, borderValue=1) > 0


def _dilated(mask: np.ndarray, radius: int) -> np.ndarray:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(mask.astype(np.uint8), kernel, borderValue=0) > 0


def _completed(picture: np.ndarray, is_unmixed: np.ndarray) -> np.ndarray:
    """The picture u8 [H, W, 3] where `is_unmixed`, with its colors continued smoothly everywhere else."""
    if not is_unmixed.any():
        return picture
    distance, (rows, columns) = distance_transform_edt(~is_unmixed, return_indices=True)
    smooth = _pull_push(picture.astype(np.float32), is_unmixed)
    near = np.exp(-distance / max(1.0, max(is_unmixed.shape) * _NEAREST_COLOR_REACH))[..., None]
    continued = near * picture[rows, columns] + (1 - near) * smooth
    return np.where(is_unmixed[..., None], picture, np.clip(np.rint(continued), 0, 255)).astype(np.uint8)


def _continued(values: np.ndarray, is_known: np.ndarray) -> np.ndarray:
    """Values f32 [H, W] where they are known, and the nearest known value elsewhere; 1 if none is known."""
    if not is_known.any():
        return np.ones_like(values)
    rows, columns = distance_transform_edt(~is_known, return_distances=False, return_indices=True)
    return np.maximum(values[rows, columns], 1e-3)


def _pull_push(picture: np.ndarray, is_known: np.ndarray) -> np.ndarray:
    """Fill unknown pixels from ever coarser means of the known ones (Gortler et al. 1996). f32 [H, W, 3]."""
    weight = is_known.astype(np.float32)
    if min(weight.shape) < 4 or is_known.all():
        mean = (picture * weight[..., None]).sum((0, 1)) / max(float(weight.sum()), 1e-6)
        return np.where(is_known[..., None], picture, mean)
    size = (-(-weight.shape[1] // 2), -(-weight.shape[0] // 2))
    coarse_weight = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    coarse = cv2.resize(picture * weight[..., None], size, interpolation=cv2.INTER_AREA)
    coarse = coarse / np.maximum(coarse_weight, 1e-6)[..., None]
    filled = _pull_push(coarse, coarse_weight > 1e-3)
    return np.where(
        is_known[..., None], picture, cv2.resize(filled, weight.shape[::-1], interpolation=cv2.INTER_LINEAR)
    )


def _trunk_picture(avatar: Avatar, is_unmixed: np.ndarray, owned: list[np.ndarray]) -> np.ndarray:
    """The picture of trunk and head: what arms and hands hide is inpainted from the cloth around it. u8 [H, W, 3]."""
    side = max(is_unmixed.shape)
    hole = np.zeros_like(is_unmixed)
    for part, rim in ((owned[ARM:HAND], _ARM_SHADOW), (owned[HAND:], _HAND_SHADOW)):
        hole |= _dilated(np.any(part, 0) & ~owned[TRUNK], max(2, round(rim * side)))
    is_cloth = np.isin(avatar.regions, (REGION["torso"], REGION["legs"])) & ~hole
    # The head keeps its pixels beside an arm: hair and face are no cloth.
    is_kept = is_unmixed & (is_cloth | ~np.isin(avatar.regions, (REGION["torso"], REGION["legs"])))
    picture = _completed(avatar.portrait, is_kept)
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
    filled = inpaint(small, small_hole, small, small_cloth)
    large = cv2.resize(filled, cloth.shape[::-1], interpolation=cv2.INTER_CUBIC)
    blend = np.maximum(cv2.GaussianBlur(hidden.astype(np.float32), (0, 0), max(side / 500, 0.5)), hidden)[..., None]
    blend = blend * ~(is_kept & ~is_cloth)[window][..., None]
    result = picture.copy()
    result[window] = np.rint(large * blend + cropped * (1 - blend)).astype(np.uint8)
    return result
