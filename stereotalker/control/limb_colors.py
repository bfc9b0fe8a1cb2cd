"""Colors of arms and hands that the portrait does not show: those that it shows, continued smoothly over the surface.

Hidden vertices get the solution of a screened Poisson equation on the mesh. It equals the shown colors where the
portrait shows them, so no seam is left there, and tends to the colors of the other arm where only that one is shown,
and to the material's color out of the shadow. On smoothed arms it follows the shown colors loosely. Skin and cloth are
solved apart, and meet at the sleeve's end. Folds of cloth are mirrored at the edge of what is shown.
V: vertices of the body, N: texels on it.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from stereotalker.body.model import Body
from stereotalker.control.atlas import Atlas
from stereotalker.control.layers import ARM, TRUNK, vertex_layers
from stereotalker.smplx_layout import JOINT, SIDES

# Distance, m, over which a solution leaves a shown color; on arms with smooth colors it leaves it sooner.
_SHOWN_REACH_M, _SMOOTHED_REACH_M = 0.003, 0.02
# The same for a color of the other arm.
_OTHER_ARM_REACH_M = 0.02
# The same for the material's color out of the shadow, to which all others tend.
_LIT_REACH_M = 0.04
# Largest distance between a vertex and its mirror image on the other arm, m.
_MAX_MIRROR_DISTANCE_M = 0.01
# So many percent of the shown colors of a material, the darkest ones, count as shadow.
_SHADOWED_PERCENT = 40.0
_LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114])
# An arm is unrolled with this radius, m.
_ARM_RADIUS_M = 0.045
# Detail is what differs from the mean of so many texels around, by this factor at most. With fewer texels shown, there
# is none.
_MEAN_TEXELS, _MAX_DETAIL, _MIN_TEXELS = 60, 1.2, 60
# So many texels at a mirrored place are mixed.
_MIXED_TEXELS = 4
# Cloth and skin are mixed over this width at a sleeve's end, m.
_HEM_WIDTH_M = 0.008
# Edges of the mesh count as at least so long, m.
_MIN_EDGE_M = 1e-3


def complete_limbs(
    body: Body,
    atlas: Atlas,
    color: np.ndarray,
    is_source: np.ndarray,
    is_smoothed: np.ndarray,
    sleeve_end: float,
    skin: np.ndarray,
    cloth: np.ndarray,
) -> np.ndarray:
    """Colors f32 [N, 3] of those texels of arms and hands that the portrait does not show, or not well.

    color f32 [N, 3] and is_source bool [N]: colors of the texels and where the portrait shows them; is_smoothed bool
    [N]: see `SmoothedArms`. Texels that are on no limb are passed over. sleeve_end: m along the arm from the body's
    midplane, where cloth ends; skin and cloth f32 [3]: colors that stand where no limb shows the material.
    """
    layer, vertex = vertex_layers(body), atlas.nearest_vertex
    is_limb = layer > TRUNK
    beyond, beyond_texel = (np.abs(places[:, 0]) - sleeve_end for places in (body.template, atlas.positions))
    is_smooth = np.bincount(vertex[is_smoothed], minlength=len(layer)) > 0
    shown_reach = np.where(is_smooth, _SMOOTHED_REACH_M, _SHOWN_REACH_M)
    targets = np.flatnonzero(is_limb[vertex])
    mixed = []
    for is_material, texels, typical in ((beyond <= 0, beyond_texel <= 0, cloth), (beyond > 0, beyond_texel > 0, skin)):
        vertices = np.flatnonzero(is_limb & is_material)
        sources = np.flatnonzero(is_source & texels & (is_limb & is_material)[vertex])
        typical = _lit_color(color[sources], typical)
        count = np.bincount(vertex[sources], minlength=len(layer)).astype(np.float64)
        total = np.stack([np.bincount(vertex[sources], color[sources, k], len(layer)) for k in range(3)], 1)
        shown = total / np.maximum(count, 1)[:, None]
        solved = np.tile(typical.astype(np.float64), (len(layer), 1))
        weight = (count > 0) / shown_reach**2
        if len(vertices):
            of_material = _solve_screened_poisson(body, vertices, shown[vertices], weight[vertices], typical)
            # Beyond its end, a material has the colors of its end.
            nearest = cKDTree(body.template[vertices]).query(body.template[is_limb])[1]
            solved[is_limb] = of_material[nearest]
        weights = atlas.weights[targets] * is_limb[atlas.corners[targets]] + 1e-9
        weights /= weights.sum(1, keepdims=True)
        mixed.append((solved[atlas.corners[targets]] * weights[..., None]).sum(1))
    # A hem that follows whole texels would have steps.
    bare = np.clip(beyond_texel[targets] / _HEM_WIDTH_M + 0.5, 0, 1)[:, None]
    result = color.copy()
    result[targets] = (1 - bare) * mixed[0] + bare * mixed[1]
    for k in range(len(SIDES)):  # cloth has folds, skin hardly any
        on_arm = (layer[vertex] == ARM + k) & (beyond_texel <= 0)
        own = np.flatnonzero(is_source & on_arm & ~is_smoothed)
        hidden = np.flatnonzero(on_arm & (~is_source | is_smoothed))
        result[hidden] *= _reflected_detail(_unrolled(body, atlas, k), color, own, hidden)
    return result


def _unrolled(body: Body, atlas: Atlas, side: int) -> np.ndarray:
    """Places of all texels on an arm that is unrolled, f64 [N, 2] m: along the arm, and around it.

    side: an index into SIDES.
    """
    joints = body.joints(np.zeros(body.betas, np.float32))
    shoulder, wrist = (joints[JOINT[f"{SIDES[side]}_{name}"]].astype(np.float64) for name in ("shoulder", "wrist"))
    axis = (wrist - shoulder) / np.linalg.norm(wrist - shoulder)
    up = np.array([0, 1.0, 0]) - axis[1] * axis
    up /= np.linalg.norm(up)
    offset = atlas.positions - shoulder
    angle = np.arctan2(offset @ up, offset @ np.cross(axis, up))
    return np.column_stack([offset @ axis, _ARM_RADIUS_M * angle])


def _reflected_detail(places: np.ndarray, color: np.ndarray, shown: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Factors f32 [B, 1] on the colors of hidden texels: the texture of what is shown, mirrored at its edge.

    places f64 [N, 2] m: see `_unrolled`; color f32 [N, 3]; shown i64 [A] and hidden i64 [B]: texels of one arm. Folds
    and creases go on over the edge that way.
    """
    if len(shown) < _MIN_TEXELS or not len(hidden):
        return np.ones((len(hidden), 1), np.float32)
    around = 2 * np.pi * _ARM_RADIUS_M
    turned = np.concatenate([places[shown] + (0, k * around) for k in (-1, 0, 1)])
    tree, texel = cKDTree(turned), np.tile(shown, 3)
    _, near = cKDTree(places[shown]).query(places[shown], k=min(_MEAN_TEXELS, len(shown)))
    smooth = color[shown][near].mean(1)
    detail = np.ones(len(color), np.float32)
    lightness = (color[shown] @ _LUMA_WEIGHTS) / np.maximum(smooth @ _LUMA_WEIGHTS, 1)
    detail[shown] = np.clip(lightness, 1 / _MAX_DETAIL, _MAX_DETAIL)
    edge = turned[tree.query(places[hidden])[1]]
    mirrored = tree.query(2 * edge - places[hidden], k=_MIXED_TEXELS)[1]
    return detail[texel[mirrored]].mean(1, keepdims=True)


def _lit_color(color: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Median f32 [3] of colors f32 [M, 3] that do not lie in a shadow, or `other` without any color."""
    if not len(color):
        return other
    luma = color @ _LUMA_WEIGHTS
    return np.median(color[luma >= np.percentile(luma, _SHADOWED_PERCENT)], 0).astype(np.float32)


def _solve_screened_poisson(
    body: Body, vertices: np.ndarray, shown: np.ndarray, shown_weight: np.ndarray, typical: np.ndarray
) -> np.ndarray:
    """Colors [M, 3] of `vertices` i64 [M], from those that are shown: shown [M, 3] with weights [M], 0 where not."""
    is_shown = shown_weight > 0
    row = np.full(len(body.template), -1)
    row[vertices] = np.arange(len(vertices))
    pairs = row[np.concatenate([body.faces[:, [0, 1]], body.faces[:, [1, 2]], body.faces[:, [2, 0]]])]
    pairs = pairs[(pairs >= 0).all(1)]
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)
    places = body.template[vertices].astype(np.float64)  # f32 would round the weakest weights away
    stiffness = 1 / np.maximum(np.linalg.norm(places[pairs[:, 0]] - places[pairs[:, 1]], axis=1), _MIN_EDGE_M) ** 2
    links = sparse.coo_matrix((stiffness, pairs.T), shape=(len(vertices), len(vertices)))
    links = links + links.T
    laplacian = sparse.diags(np.asarray(links.sum(1)).ravel()) - links
    distance, twin = cKDTree(places * np.array([-1, 1, 1], np.float32)).query(places)
    has_twin = ~is_shown & is_shown[twin] & (distance < _MAX_MIRROR_DISTANCE_M)
    weight = np.where(is_shown, shown_weight, np.where(has_twin, _OTHER_ARM_REACH_M**-2, 0))
    goal = np.where(is_shown[:, None], shown, shown[twin])
    system = laplacian + sparse.diags(weight + _LIT_REACH_M**-2)
    return splu(system.tocsc()).solve(weight[:, None] * goal + _LIT_REACH_M**-2 * typical)
