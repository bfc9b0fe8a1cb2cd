"""How far hair stands off the head under it, in front of it and behind it.

A single picture shows no depth. But it shows how far hair stands out at the head's outline, and hair stands out by
about as much everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.ndimage import distance_transform_edt
from scipy.sparse.linalg import splu

from stereotalker.avatar.clothed_surface import ProjectedBody, bilaplacian, submesh_triangles
from stereotalker.body.free_body import PARTS
from stereotalker.body.model import Body
from stereotalker.geometry.rasterizer import vertex_normals
from stereotalker.smplx_layout import JOINT, REGION

# Fewest hair pixels, as a share of the pixels of face, mouth and neck. Less is not hair but glasses and shadows.
_MIN_HAIR_SHARE = 0.03
# Largest component of a normal along the view for which the surface is seen edge-on.
_EDGE_ON = 0.3
# A vertex this near to the person's silhouette is on the outline, share of the picture's longer side.
_RIM_WIDTH = 0.012
# Weight of smoothness of the hair's depth.
_SMOOTHNESS = 0.2
# Distance from the skin over which hair rises to its full depth, m.
_HAIRLINE_M = 0.04
# Largest depth of hair, m.
_MAX_DEPTH_M = 0.06
# Surface this far behind the head's outline is the back of the head; nearer are the ears, m.
_EARS_M = 0.025
# Skinning weight of the head below which a vertex is near the neck, whose surface is not changed.
_MIN_HEAD_WEIGHT = 0.9


@dataclass(frozen=True)
class HairRule:
    """Depth of hair off the head = scale x how far it stands out at the outline + offset."""

    scale: float
    offset: float  # m


# Both rules were chosen on synthetic people: the first on eight who were held out then (140 to 147) and are trained on
# now, the second on eleven who were rendered and fitted.
BARE_HEAD = HairRule(4.0, -0.02)  # for a head whose true shape under the hair is known
FITTED_HEAD = HairRule(1.6, 0.015)  # for a head that was fitted to the picture and took some of the hair for skull


def hair_depth(
    projected: ProjectedBody, shift: np.ndarray, fixed: np.ndarray, regions: np.ndarray, body: Body, rule: HairRule
) -> np.ndarray:
    """How much nearer to the camera hair is than the head under it, f32 [V] m; negative at the back of the head.

    shift [V, 2] px: offsets in the view plane, and fixed [V] in 0..1: how firmly vertices keep their place, both as in
    `clothed_surface.align_silhouette`; regions u8 [H, W] of the portrait. Skin and neck are not moved. All zeros if
    there is too little hair, or no outline or face to measure from.
    """
    person, hair = regions != REGION["background"], regions == REGION["hair"]
    skin = np.isin(regions, [REGION["face"], REGION["mouth"]])
    nearer = np.zeros(len(shift), np.float32)
    if person.all() or not skin.any() or hair.sum() < _MIN_HAIR_SHARE * skin.sum():
        return nearer
    (H, W), side = regions.shape, max(regions.shape)
    head_weight = body.weights[:, JOINT["head"]]
    head = np.flatnonzero((head_weight > 0.5) & (body.part == PARTS["body"][0]))
    columns, rows = (
        np.clip((projected.pixels[head, k] + shift[head, k]).astype(int), 0, (W, H)[k] - 1) for k in (0, 1)
    )
    normals = vertex_normals(projected.vertices, body.faces)[head] @ projected.rotation.T
    away = normals[:, 2]  # in camera axes, where z points away from the camera
    is_near_edge = distance_transform_edt(person)[rows, columns] < max(_RIM_WIDTH * side, 1.5)
    is_rim = (np.abs(away) < _EDGE_ON) & (fixed[head] < 0.1) & is_near_edge
    m_per_px = projected.pixels[head, 2] / projected.intrinsics[0, 0]
    outward = (shift[head] * normals[:, :2]).sum(1) * m_per_px
    if not is_rim.any():
        return nearer
    depth = np.clip(rule.scale * float(np.median(outward[is_rim])) + rule.offset, 0, _MAX_DEPTH_M)
    rise = np.clip(distance_transform_edt(~skin)[rows, columns] * m_per_px / _HAIRLINE_M, 0, 1)
    is_front = hair[rows, columns] & (away < 0) & ~is_rim
    behind_rim = projected.pixels[head, 2] - np.median(projected.pixels[head[is_rim], 2])
    is_back = (away > _EDGE_ON) & (head_weight[head] > _MIN_HEAD_WEIGHT) & (behind_rim > _EARS_M)
    goal = depth * np.where(is_front, rise * (2 - rise), -away * is_back)
    anchor = np.maximum(fixed[head], (skin[rows, columns] & ~is_back) | (head_weight[head] < _MIN_HEAD_WEIGHT))
    smoothness = bilaplacian(submesh_triangles(body.faces, head), len(head))
    system = sparse.diags(is_front + is_back + is_rim + 1e3 * anchor + 1e-3) + _SMOOTHNESS * smoothness
    nearer[head] = splu(system.tocsc()).solve((is_front + is_back) * goal)
    return nearer
