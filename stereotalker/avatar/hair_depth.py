"""How far hair stands off the head that is under it, before it and behind it.

A single picture shows no depth, but it shows how far hair stands out at the head's outline, and it stands out about as much all over.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.ndimage import distance_transform_edt
from scipy.sparse.linalg import splu

from stereotalker.avatar.clothed_surface import Seen, bending, renumbered
from stereotalker.body.free_body import PARTS
from stereotalker.body.model import Body
from stereotalker.geometry.rasterizer import vertex_normals
from stereotalker.smplx_layout import JOINT, REGION

_SOME = 0.03  # as many pixels as skin of head and neck: less is no hair, but glasses and shadows
_EDGE_ON = 0.3  # of a normal along the view: smaller, and the surface is seen edge-on
_RIM = 0.012  # of the longer side: so near the person's edge a vertex is on the outline
_ROUND = 0.2  # weight of smoothness of hair's depth
_HAIRLINE_M = 0.04  # from the skin, over which hair rises to its depth
_DEEPEST_M = 0.06
_EARS_M = 0.025  # behind the head's outline, no longer ears but the back of the head
_NECK = 0.9  # of a vertex' weights: with less of the head's it is near the neck, which stays


@dataclass(frozen=True)
class HairRule:
    """Hair stands `times` as far off the head as it stands out at the outline, and `more` [m] on top."""

    times: float
    more: float


# Chosen on synthetic people: the first on eight who were held out then (140 to 147) and are trained on now, the second on eleven rendered and fitted ones.
BARE_HEAD = HairRule(4.0, -0.02)  # the head under the hair is known
FITTED_HEAD = HairRule(1.6, 0.015)  # the head was fitted to what the picture shows, and took some of the hair for skull


def hair_depth(
    seen: Seen, shift: np.ndarray, held: np.ndarray, regions: np.ndarray, body: Body, rule: HairRule
) -> np.ndarray:
    """How much nearer to the camera hair is than the head under it, f32 [V] m; negative at the back of the head.

    seen, shift [V, 2] px and `held` [V] as `shell.clothe` knows them; regions u8 [H, W] of the portrait. Skin stays, as does the neck.
    """
    person, hairy = regions != REGION["background"], regions == REGION["hair"]
    skin = np.isin(regions, [REGION["face"], REGION["mouth"]])
    nearer = np.zeros(len(shift), np.float32)
    if person.all() or not skin.any() or hairy.sum() < _SOME * skin.sum():
        return nearer
    (H, W), side = regions.shape, max(regions.shape)
    of_head = body.weights[:, JOINT["head"]]
    moved = np.flatnonzero((of_head > 0.5) & (body.part == PARTS["body"][0]))
    columns, rows = (np.clip((seen.pixels[moved, k] + shift[moved, k]).astype(int), 0, (W, H)[k] - 1) for k in (0, 1))
    normals = vertex_normals(seen.vertices, body.faces)[moved] @ seen.rotation.T  # camera axes: z points away
    away = normals[:, 2]
    rim = (
        (np.abs(away) < _EDGE_ON)
        & (held[moved] < 0.1)
        & (distance_transform_edt(person)[rows, columns] < max(_RIM * side, 1.5))
    )
    metres = seen.pixels[moved, 2] / seen.intrinsics[0, 0]  # of a pixel
    out = (shift[moved] * normals[:, :2]).sum(1) * metres
    if not rim.any():
        return nearer
    depth = np.clip(rule.times * float(np.median(out[rim])) + rule.more, 0, _DEEPEST_M)
    vertical_shift = np.clip(distance_transform_edt(~skin)[rows, columns] * metres / _HAIRLINE_M, 0, 1)
    before = hairy[rows, columns] & (away < 0) & ~rim
    beyond = seen.pixels[moved, 2] - np.median(seen.pixels[moved[rim], 2])
    behind = (away > _EDGE_ON) & (of_head[moved] > _NECK) & (beyond > _EARS_M)
    wanted = depth * np.where(before, vertical_shift * (2 - vertical_shift), -away * behind)
    still = np.maximum(held[moved], (skin[rows, columns] & ~behind) | (of_head[moved] < _NECK))
    system = sparse.diags(before + behind + rim + 1e3 * still + 1e-3) + _ROUND * bending(
        renumbered(body.faces, moved), len(moved)
    )
    nearer[moved] = splu(system.tocsc()).solve((before + behind) * wanted)
    return nearer
