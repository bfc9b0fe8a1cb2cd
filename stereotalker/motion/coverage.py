"""How much of what a clip shows of hands and arms the portrait never showed, estimated from small pictures of the mesh.

It takes milliseconds for a frame, so that motions can be compared before any is rendered.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stereotalker.body.model import Body
from stereotalker.control.body_parts import may_show
from stereotalker.control.layers import ARM, HAND, vertex_layers
from stereotalker.control.texture import VISIBILITY_TOLERANCE_M
from stereotalker.geometry.camera import project
from stereotalker.geometry.rasterizer import rasterize
from stereotalker.records import Avatar, Camera, Motion

# Frames of a motion that are looked at, evenly spread, and the length of their longer side, px.
_SAMPLED_FRAMES, _SIDE_PX = 24, 160


@dataclass(frozen=True)
class Unseen:
    """Shares, 0 to 1, of the visible surface that the portrait does not show; nan where none is visible."""

    hands: float
    arms: float


class Coverage:
    """What the portrait of an avatar shows of hands and arms."""

    def __init__(self, avatar: Avatar, body: Body):
        self.avatar, self.body = avatar, body
        self.layer = vertex_layers(body)
        still = Motion.still(avatar.poses, avatar.expression)
        vertices = body.pose(still, avatar.betas, avatar.surface)[0]
        pixels = project(vertices, avatar.intrinsics, avatar.extrinsics)
        H, W = avatar.regions.shape
        depth = rasterize(pixels, body.faces, (H, W)).depth
        columns, rows = (np.clip(pixels[:, k].astype(int), 0, (W, H)[k] - 1) for k in (0, 1))
        is_inside = (pixels[:, 0] >= 0) & (pixels[:, 0] < W) & (pixels[:, 1] >= 0) & (pixels[:, 1] < H)
        is_front = np.abs(depth[rows, columns] - pixels[:, 2]) < VISIBILITY_TOLERANCE_M
        # A hand that the fit guesses before the trunk is not shown there.
        is_own = may_show(body, np.arange(len(pixels)), avatar.regions[rows, columns])
        self.is_shown = is_inside & is_front & is_own  # of every vertex

    def unseen(self, motion: Motion, camera: Camera) -> Unseen:
        """The shares over some frames of a motion, seen by a camera with as many frames."""
        rows = np.unique(np.linspace(0, len(motion.poses) - 1, _SAMPLED_FRAMES).round().astype(int))
        sampled = Motion(motion.poses[rows], motion.expression[rows], motion.trans[rows], motion.fps)
        vertices = self.body.pose(sampled, self.avatar.betas, self.avatar.surface)
        shown, total = np.zeros(2), np.zeros(2)
        scale = _SIDE_PX / max(camera.size)
        size = (round(camera.size[0] * scale), round(camera.size[1] * scale))
        for t, row in enumerate(rows):
            pixels = project(vertices[t], camera.intrinsics[row], camera.extrinsics[row])
            pixels[:, :2] *= scale
            vertex = rasterize(pixels, self.body.faces, size).vertices(self.body.faces)
            vertex = vertex[vertex >= 0]
            for k, layers in enumerate(((HAND, HAND + 1), (ARM, ARM + 1))):
                is_part = np.isin(self.layer[vertex], layers)
                total[k] += is_part.sum()
                shown[k] += self.is_shown[vertex[is_part]].sum()
        return Unseen(*(1 - s / t if t else np.nan for s, t in zip(shown.tolist(), total.tolist(), strict=True)))
