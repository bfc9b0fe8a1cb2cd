"""Pulls the clothed surface of a synthetic portrait onto the person's silhouette, as for real portraits.

The surface moves in the view plane. So masks and renderer are trained on the warps that production gives them, and hair
that stands off the head is carried along.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.spatial import cKDTree

from stereotalker.avatar.clothed_surface import ProjectedBody, align_silhouette
from stereotalker.avatar.hair_depth import BARE_HEAD, hair_depth
from stereotalker.body.model import Body
from stereotalker.geometry.camera import project
from stereotalker.geometry.rasterizer import majority_pool
from stereotalker.records import Avatar, Motion
from stereotalker.smplx_layout import REGION

_SILHOUETTE_PX = (
    256  # height or width of the portrait whose silhouette is followed; a larger one would follow single hairs
)
_FIXED_FACE_M = 0.02  # distance from a landmark of the face within which the surface stays


def fit_silhouette(avatar: Avatar, body: Body) -> Avatar:
    """The avatar with a surface that covers its portrait's silhouette, hair standing off the skull. Takes 0.8 s."""
    shrink = max(round(max(avatar.regions.shape) / _SILHOUETTE_PX), 1)
    regions = majority_pool(avatar.regions, shrink)
    view, fixed = view_in_portrait(avatar, body, shrink), _fixed_weight(body)
    shift = align_silhouette(view, regions != REGION["background"], body, np.zeros((len(view.pixels), 2)), fixed)
    nearer = hair_depth(view, shift, fixed, regions, body, BARE_HEAD)
    return replace(avatar, surface=(avatar.surface + view.to_rest(shift, nearer)).astype(np.float16))


def view_in_portrait(avatar: Avatar, body: Body, shrink: int = 1) -> ProjectedBody:
    """The avatar's body as the portrait's camera sees it, in pixels of a portrait that is `shrink` times smaller."""
    posed = body.posed(Motion.still(avatar.poses, avatar.expression), avatar.betas, avatar.surface)
    intrinsics = avatar.intrinsics / np.array([[shrink], [shrink], [1]], np.float32)
    pixels = project(posed.vertices[0], intrinsics, avatar.extrinsics)
    return ProjectedBody(pixels, posed.vertices[0], posed.turn[0], avatar.extrinsics[:3, :3], intrinsics)


def _fixed_weight(body: Body) -> np.ndarray:
    """1 on the face, fading to 0 around it, f32 [V], from the body file's 51 inner face landmarks of iBUG."""
    with np.load(body.path, allow_pickle=False) as file:
        triangles, weights = file["lmk_faces_idx"], file["lmk_bary_coords"]
    points = (body.template[body.faces[triangles]] * weights[..., None]).sum(1)
    return np.clip(1.5 - cKDTree(points).query(body.template)[0] / _FIXED_FACE_M, 0, 1).astype(np.float32)
