"""How much of what a clip shows of hands and arms the portrait never showed, estimated from small pictures of the mesh.

It takes milliseconds for a frame, so that motions can be compared before any is rendered.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stereotalker.body.model import Body
from stereotalker.control.body_parts import shown_vertices
from stereotalker.control.layers import ARM, HAND, vertex_layers
from stereotalker.control.shown_hands import find_hands
from stereotalker.geometry.camera import project
from stereotalker.geometry.rasterizer import rasterize
from stereotalker.records import Avatar, Camera, Motion
from stereotalker.smplx_layout import SIDES

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
        depth = rasterize(pixels, body.faces, avatar.regions.shape).depth
        # A hand that the fit guesses before the trunk is not shown there.
        self.is_shown = shown_vertices(body, pixels, depth, avatar.regions)  # of every vertex
        self.hands = find_hands(avatar, body, pixels)
        self.hand_vertices = {side: self.layer == HAND + k for k, side in enumerate(SIDES)}

    def unseen(self, motion: Motion, camera: Camera) -> Unseen:
        """The shares over some frames of a motion, seen by a camera with as many frames."""
        rows = np.unique(np.linspace(0, len(motion.poses) - 1, _SAMPLED_FRAMES).round().astype(int))
        sampled = Motion(motion.poses[rows], motion.expression[rows], motion.trans[rows], motion.fps)
        vertices = self.body.pose(sampled, self.avatar.betas, self.avatar.surface)
        positions, rotations = self.body.posed_joints(sampled, self.avatar.betas, self.avatar.surface)
        shown, total = np.zeros(2), np.zeros(2)
        scale = _SIDE_PX / max(camera.size)
        size = (round(camera.size[0] * scale), round(camera.size[1] * scale))
        for t, row in enumerate(rows):
            pixels = project(vertices[t], camera.intrinsics[row], camera.extrinsics[row])
            pixels[:, :2] *= scale
            vertex = rasterize(pixels, self.body.faces, size).vertices(self.body.faces)
            vertex = vertex[vertex >= 0]
            is_shown = self.is_shown.copy()
            for hand in self.hands:  # what is drawn as the portrait shows it
                if hand.weight(positions[t], rotations[t], camera.extrinsics[row]) > 0.5:
                    for side in hand.sides:
                        is_shown |= self.hand_vertices[side]
            for k, layers in enumerate(((HAND, HAND + 1), (ARM, ARM + 1))):
                is_part = np.isin(self.layer[vertex], layers)
                total[k] += is_part.sum()
                shown[k] += is_shown[vertex[is_part]].sum()
        return Unseen(*(1 - s / t if t else np.nan for s, t in zip(shown.tolist(), total.tolist(), strict=True)))
