"""How far a dressed person reaches forward, and how deep a hand lies in the body."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from stereotalker.body.model import Body
from stereotalker.geometry.rasterizer import vertex_normals
from stereotalker.records import Motion
from stereotalker.synthetic.anatomy import Anatomy, anatomy


def girth_of(anatomy: Anatomy, rest: np.ndarray) -> float:
    """How much farther forward than the mean body's a dressed front reaches, m. rest [V, 3] with its clothes."""
    template = anatomy.body.template
    trunk = anatomy.skin & (anatomy.torso > 0.6) & (template[:, 1] > 0.2) & (template[:, 1] < 0.56)
    return float(max(np.percentile(rest[trunk, 2], 99) - np.percentile(template[trunk, 2], 99) - 0.010, 0.0))


def buried(anatomy: Anatomy, vertices: np.ndarray) -> float:
    """How deep (m) a hand lies in the trunk or the face in one frame; 0 where it does not. vertices f32 [V, 3] posed and dressed."""
    body = anatomy.body
    solid = np.flatnonzero(
        anatomy.skin
        & (anatomy.torso + anatomy.head > 0.7)
        & (body.template[:, 1] > 0.1)
        & (body.masks["inner_mouth"] < 0.3)
    )
    hand = np.flatnonzero(anatomy.skin & (anatomy.hand > 0.9))
    normals = vertex_normals(vertices, body.faces)[solid]
    distance, near = cKDTree(vertices[solid]).query(vertices[hand], distance_upper_bound=0.10)
    found = np.isfinite(distance)
    depth = -((vertices[hand][found] - vertices[solid][near[found]]) * normals[near[found]]).sum(1)
    return float(max(depth.max(initial=0.0), 0.0))


TOUCH_M = 0.006  # hands this deep in the clothes' surface only touch it


def deepest_contact(body: Body, motion: Motion, betas: np.ndarray, surface: np.ndarray) -> float:
    known = anatomy(body)
    return max(buried(known, v) for v in body.posed(motion, betas, surface).vertices)
