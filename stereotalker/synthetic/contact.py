"""Measures how far a dressed person reaches forward, and how deep a hand lies in the body. V vertices of the body."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from stereotalker.body.model import Body
from stereotalker.geometry.rasterizer import vertex_normals
from stereotalker.records import Motion
from stereotalker.synthetic.anatomy import Anatomy, anatomy

TOUCH_M = 0.006  # A hand this deep in the surface of the clothes only touches it.
RETREAT_M = 0.002  # added to a contact's depth when hands are moved away from the body and acting is tried again
_SEARCH_M = 0.10  # Hand vertices farther than this from the body's surface are free.


def girth_of(anatomy: Anatomy, rest: np.ndarray) -> float:
    """How much farther forward than the mean body's front a dressed front reaches, in m, at least 0.

    rest [V, 3] m is the rest pose with its clothes. The result is 1 cm less than the difference.
    """
    template = anatomy.body.template
    trunk = anatomy.skin & (anatomy.torso > 0.6) & (template[:, 1] > 0.2) & (template[:, 1] < 0.56)
    return float(max(np.percentile(rest[trunk, 2], 99) - np.percentile(template[trunk, 2], 99) - 0.010, 0.0))


def buried(anatomy: Anatomy, vertices: np.ndarray) -> float:
    """How deep (m) a hand lies in the trunk or the face in one frame, 0 where it does not.

    vertices f32 [V, 3] m are posed and dressed.
    """
    body = anatomy.body
    solid = np.flatnonzero(
        anatomy.skin
        & (anatomy.torso + anatomy.head > 0.7)
        & (body.template[:, 1] > 0.1)
        & (body.masks["inner_mouth"] < 0.3)
    )
    hand = np.flatnonzero(anatomy.skin & (anatomy.hand > 0.9))
    normals = vertex_normals(vertices, body.faces)[solid]
    distance, nearest = cKDTree(vertices[solid]).query(vertices[hand], distance_upper_bound=_SEARCH_M)
    is_near = np.isfinite(distance)
    depth = -((vertices[hand][is_near] - vertices[solid][nearest[is_near]]) * normals[nearest[is_near]]).sum(1)
    return float(max(depth.max(initial=0.0), 0.0))


def deepest_contact(body: Body, motion: Motion, betas: np.ndarray, surface: np.ndarray) -> float:
    """The largest `buried` depth (m) of a motion's frames. betas f32 [B], surface [V, 3] m as in an Avatar."""
    mean = anatomy(body)
    return max(buried(mean, v) for v in body.posed(motion, betas, surface).vertices)
