"""What the tests of avatars, control maps and synthetic people share."""

import numpy as np

from stereotalker.body.model import Body
from stereotalker.geometry.camera import project
from stereotalker.geometry.rasterizer import Fragments, rasterize
from stereotalker.records import Avatar, Camera, Motion
from stereotalker.synthetic.takes import CaptureSetup

SMALL_CAPTURE = CaptureSetup(size=96, cameras=3, frames=2, fps=5.0, swing=20.0, supersample=1)


def still_motion(avatar: Avatar, frames=1) -> Motion:
    """The posture of the portrait, held for `frames` frames at 25 frames a second."""
    return Motion(
        np.repeat(avatar.poses[None], frames, 0),
        np.repeat(avatar.expression[None], frames, 0),
        np.zeros((frames, 3), np.float32),
        25.0,
    )


def own_view(avatar: Avatar, frames=1) -> Camera:
    """The camera that took the portrait, for `frames` frames."""
    zeros = np.zeros(frames, np.float32)
    return Camera(
        np.repeat(avatar.intrinsics[None], frames, 0),
        np.repeat(avatar.extrinsics[None], frames, 0),
        zeros,
        zeros,
        avatar.regions.shape,
    )


def draw_body(avatar: Avatar, body: Body) -> Fragments:
    """The avatar's body as the portrait's camera sees it, at the size of the portrait."""
    vertices = body.pose(Motion.still(avatar.poses, avatar.expression), avatar.betas, avatar.surface)[0]
    return rasterize(project(vertices, avatar.intrinsics, avatar.extrinsics), body.faces, avatar.regions.shape)
