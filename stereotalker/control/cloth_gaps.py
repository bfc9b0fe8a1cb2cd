"""Closes narrow gaps between arm and trunk where the portrait shows the cloth of a loose sleeve without any.

The body's mesh has no surface between arm and trunk. When an arm leaves the trunk, the background would show through a
slit along a seam that is whole in the portrait, or through a small hole beside it. V: vertices, F: triangles of the
body, H x W: a frame.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import binary_fill_holes, distance_transform_edt

from stereotalker.body.model import Body
from stereotalker.control.frame_maps import FrameMaps
from stereotalker.control.layers import ARM, TRUNK, Layer, vertex_layers
from stereotalker.control.warp_kernels import GUESSED
from stereotalker.smplx_layout import JOINT, REGION, SIDES

# Arm and trunk touch where they are at most so far apart in the portrait; share of its longer side.
_CONTACT = 0.006
# Their cloth is the same where its colors, blurred by so much, differ at most so much in CIELAB.
_COLOR_BLUR, _MAX_COLOR_DIFFERENCE = 0.008, 14.0
# A vertex belongs to the contact within this distance of it; share of the longer side.
_CONTACT_REACH = 0.02
# Widest gap that is closed; share of the frame's longer side.
_MAX_GAP = 0.04
# What is shorter than this is noise along an outline and no gap, at any size of the frame, px.
_MIN_SLIT_PX = 4
_NEIGHBORS = np.ones((3, 3), np.uint8)
# What is narrower than this between gap and mesh belongs to the gap.
_REST = np.ones((5, 5), np.uint8)
# Colors are not taken from pixels that are so near to the edge of a part.
_RIM = np.ones((5, 5), np.uint8)
# Smallest share of a vertex' skinning weights that the shoulder has on the upper arm.
_MIN_SHOULDER_WEIGHT = 0.5


def cloth_contacts(body: Body, layers: tuple[Layer, ...], places: np.ndarray) -> np.ndarray:
    """Where each arm's sleeve is one with the cloth of the trunk: the vertices of both beside that seam, bool [2, V].

    layers: of the portrait; places f32 [V, 3]: the body in the portrait, x px, y px, depth m.
    """
    H, W = layers[TRUNK].is_shown.shape
    side, layer = max(H, W), vertex_layers(body)
    columns, rows = (np.clip(places[:, k].astype(int), 0, (W, H)[k] - 1) for k in (0, 1))
    result = np.zeros((len(SIDES), len(places)), bool)
    trunk = _lab(layers[TRUNK].picture, side)
    for k, name in enumerate(SIDES):
        arm = layers[ARM + k]
        reach = _CONTACT * side
        contact = (_distance(layers[TRUNK].is_shown) < reach) & (_distance(arm.is_shown) < reach)
        contact &= np.linalg.norm(trunk - _lab(arm.picture, side), axis=-1) < _MAX_COLOR_DIFFERENCE
        is_beside = (_distance(contact) < _CONTACT_REACH * side)[rows, columns]
        is_upper_arm = body.weights[:, JOINT[f"{name}_shoulder"]] > _MIN_SHOULDER_WEIGHT
        result[k] = is_beside & (is_upper_arm | (layer == TRUNK))
    return result


def close_gaps(maps: FrameMaps, is_covered: np.ndarray, layer: np.ndarray, contacts: np.ndarray) -> None:
    """Close the gaps of a frame's finished maps, in place. Hair that hangs in a gap stays.

    is_covered bool [H, W]: pixels that the mesh covers wholly; layer i64 [H, W]: the layer that they show; contacts
    bool [2, H, W]: pixels of `cloth_contacts` of either arm.
    """
    H, W = is_covered.shape
    widest = _MAX_GAP * max(H, W)
    for k in range(len(SIDES)):
        parts = [is_covered & contacts[k] & (layer == part) for part in (ARM + k, TRUNK)]
        if not all(part.any() for part in parts):
            continue
        rows, columns = np.nonzero(parts[0])
        margin = int(widest) + 1
        window = np.s_[
            max(rows.min() - margin, 0) : rows.max() + margin + 1,
            max(columns.min() - margin, 0) : columns.max() + margin + 1,
        ]
        arm_part, trunk_part = (part[window] for part in parts)
        if not trunk_part.any():
            continue
        (to_arm, arm), (to_trunk, trunk) = (
            distance_transform_edt(~part, return_indices=True) for part in (arm_part, trunk_part)
        )
        here = np.indices(to_arm.shape)
        is_between = ((arm - here) * (trunk - here)).sum(0) < 0
        # Closing by a disk gives the cloth a concave hem between arm and trunk.
        bridged = _distance(_distance(arm_part | trunk_part) > margin) > margin
        gap = ~is_covered[window] & is_between & (to_arm + to_trunk < widest) & bridged
        gap = _without_specks(gap, is_covered[window])
        gap |= _small_holes(is_covered[window] | gap, arm_part | trunk_part, widest)
        gap &= maps.labels[window] != REGION["hair"]
        # Colors at the edge of the mesh are mixed with what is behind it.
        inner_arm, inner_trunk = (
            distance_transform_edt(~_inner(part), return_distances=False, return_indices=True)
            for part in (arm_part, trunk_part)
        )
        share = (to_arm / np.maximum(to_arm + to_trunk, 1e-6))[gap][:, None]
        for picture in (maps.warp, maps.normals):
            inside = picture[window]
            of_arm, of_trunk = (inside[tuple(place[:, gap])] for place in (inner_arm, inner_trunk))
            inside[gap] = np.rint((1 - share) * of_arm + share * of_trunk).astype(np.uint8)
        maps.labels[window][gap] = REGION["torso"]
        maps.visibility[window][gap] = GUESSED


def _inner(part: np.ndarray) -> np.ndarray:
    """A part bool [h, w] without its rim, or the part itself where it is all rim."""
    inner = cv2.erode(part.astype(np.uint8), _RIM, borderValue=1) > 0
    return inner if inner.any() else part


def _small_holes(is_covered: np.ndarray, beside: np.ndarray, widest: float) -> np.ndarray:
    """Holes in the drawn pixels, without specks, which are noise along an outline. bool [h, w].

    is_covered bool [h, w]: pixels that are drawn; beside bool [h, w]: pixels of the contact, of which a hole must touch
    one; widest: extent of a hole from which on it stays open, px.
    """
    holes = binary_fill_holes(is_covered) & ~is_covered
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(holes.astype(np.uint8), connectivity=8)
    extent = np.max(stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]], axis=1)
    is_small = (extent >= _MIN_SLIT_PX) & (extent < widest)
    is_beside = np.isin(np.arange(len(stats)), pieces[cv2.dilate(beside.astype(np.uint8), _NEIGHBORS) > 0])
    return holes & (is_small & is_beside)[pieces]


def _without_specks(gap: np.ndarray, is_covered: np.ndarray) -> np.ndarray:
    """A gap bool [h, w] without its specks, and extended over what is narrow between it and the covered pixels.

    A slit stays, and so does the thin end of a gap.
    """
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(gap.astype(np.uint8), connectivity=8)
    is_speck = np.max(stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]], axis=1) < _MIN_SLIT_PX
    kept = (gap & ~is_speck[pieces]).astype(np.uint8)
    closed = cv2.morphologyEx(kept | is_covered.astype(np.uint8), cv2.MORPH_CLOSE, _REST)
    return (closed > 0) & ~is_covered & (cv2.dilate(kept, _NEIGHBORS, iterations=2) > 0)


def _distance(mask: np.ndarray) -> np.ndarray:
    """Distance of every pixel from the mask, px; infinite without any pixel in it."""
    if not mask.any():
        return np.full(mask.shape, np.inf)
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)


def _lab(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture u8 [H, W, 3] in CIELAB, blurred, f32 [H, W, 3]."""
    blurred = cv2.GaussianBlur(picture.astype(np.float32) / 255, (0, 0), _COLOR_BLUR * side)
    return cv2.cvtColor(blurred, cv2.COLOR_RGB2LAB)
