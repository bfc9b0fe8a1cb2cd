"""Cameras: a camera path -> intrinsics and extrinsics of every frame, and the projection of points.

Camera axes are OpenCV's: x to the right, y down, z forward. T frames.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numba
import numpy as np
from scipy.interpolate import CubicHermiteSpline, PchipInterpolator

from stereotalker.geometry.camera_path import CameraPath
from stereotalker.records import Avatar, Camera

# Focal length over image height: a mild portrait lens with a vertical field of view of 28 degrees.
FOCAL_IN_HEIGHTS = 2.0
# Distance of the camera for half-body framing, m: the height of the picture shows 0.8 m of the person.
DISTANCE_M = 1.6


def avatar_camera(avatar: Avatar, move: CameraPath, frames: int, fps: float, size: tuple[int, int]) -> Camera:
    """The camera of every frame of an avatar's clip.

    A path at its default values keeps the camera of the portrait and shows the portrait's full height. size (height,
    width) px: if its aspect ratio differs from the portrait's, the frames show more or less to the sides.
    """
    portrait, to_camera = avatar.regions.shape, avatar.extrinsics[:3, :3]
    distance = float((to_camera @ avatar.target + avatar.extrinsics[:3, 3])[2])
    angles = angles_along(move, frames, fps)
    level = look_at(
        angles.azimuth,
        angles.elevation,
        angles.distance * distance,
        np.zeros(3, np.float32),
        size,
        float(avatar.intrinsics[1, 1]) / portrait[0],
    )
    height = size[0]
    level.intrinsics[:, :2, :2] *= angles.zoom[:, None, None].astype(np.float32)
    level.intrinsics[:, 1, 2] += (angles.vertical_shift * height).astype(np.float32)
    # Rotation of the portrait's camera against a level camera straight in front of the person.
    tilt = np.diag([1.0, -1.0, -1.0]) @ to_camera
    extrinsics = level.extrinsics.astype(np.float64)
    extrinsics[:, :3, :3] = extrinsics[:, :3, :3] @ tilt
    extrinsics[:, :3, 3] -= extrinsics[:, :3, :3] @ avatar.target.astype(np.float64)
    return replace(level, extrinsics=extrinsics.astype(np.float32))


def stereo_pair(camera: Camera, ipd_mm: float, screen: np.ndarray) -> tuple[Camera, Camera]:
    """The cameras of the left and of the right eye, half of ipd_mm beside a camera.

    Their axes are parallel. Their principal points are shifted so that the point `screen` f32 [3] m has no parallax.
    """
    depth = (camera.extrinsics[:, :3, :3] @ screen + camera.extrinsics[:, :3, 3])[:, 2]
    pair = []
    for side in (-0.5, 0.5):
        shift = side * ipd_mm / 1000
        extrinsics, intrinsics = camera.extrinsics.copy(), camera.intrinsics.copy()
        extrinsics[:, 0, 3] -= shift
        intrinsics[:, 0, 2] += camera.intrinsics[:, 0, 0] * shift / depth
        pair.append(replace(camera, extrinsics=extrinsics, intrinsics=intrinsics))
    return pair[0], pair[1]


class Angles(NamedTuple):
    """Where the camera is in every frame, f64 [T] each."""

    azimuth: np.ndarray  # degrees
    elevation: np.ndarray  # degrees
    distance: np.ndarray  # in units of the portrait's distance
    zoom: np.ndarray  # focal length over the portrait's
    vertical_shift: np.ndarray  # how much higher the frame lies, in picture heights


def angles_along(move: CameraPath, frames: int, fps: float) -> Angles:
    """Evaluate a camera path at every frame.

    Positive azimuth moves the camera towards the speaker's left hand, positive elevation moves it upwards. Key frames
    are joined by monotone cubics, which do not overshoot. Before the first and after the last key frame the camera
    rests; its speed is zero at both.
    """
    seconds = np.arange(frames) / fps
    if move.kind == "keyframes" and len(move.points) > 1:
        times = np.array([key.time for key in move.points])
        clipped = np.clip(seconds, times[0], times[-1])
        splines = (_ease(times, np.array([getattr(key, name) for key in move.points])) for name in Angles._fields)
        return Angles(*(spline(clipped) for spline in splines))
    view = move.points[0] if move.kind == "keyframes" else move
    angles = Angles(*(np.full(frames, getattr(view, name)) for name in Angles._fields))
    if move.kind == "orbit":
        return angles._replace(azimuth=move.azimuth + move.swing * np.sin(2 * np.pi * seconds / move.period))
    return angles


def _ease(times: np.ndarray, values: np.ndarray) -> CubicHermiteSpline:
    """Monotone cubic interpolation (Fritsch and Butland 1984) whose slope is zero at both ends."""
    slopes = PchipInterpolator(times, values).derivative()(times)
    slopes[[0, -1]] = 0
    return CubicHermiteSpline(times, values, slopes)


def look_at(
    azimuth: np.ndarray,
    elevation: np.ndarray,
    distance: np.ndarray,
    target: np.ndarray,
    size: tuple[int, int],
    focal_in_heights: float = FOCAL_IN_HEIGHTS,
) -> Camera:
    """Level cameras that look at `target` [3] m from azimuth, elevation [T] degrees and distance [T] m.

    size (height, width) px. focal_in_heights: focal length over image height.
    """
    height, width = size
    a, e = np.radians(azimuth), np.radians(elevation)
    direction = np.stack([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)], -1)  # target -> camera, y up
    eye = target + distance[:, None] * direction
    forward = -direction
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    down = np.cross(forward, right)
    rotation = np.stack([right, down, forward], axis=1)
    extrinsics = np.tile(np.eye(4, dtype=np.float32), (len(a), 1, 1))
    extrinsics[:, :3, :3] = rotation
    extrinsics[:, :3, 3] = -np.einsum("tij,tj->ti", rotation, eye)
    focal = focal_in_heights * height
    intrinsics = np.tile(
        np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], np.float32), (len(a), 1, 1)
    )
    return Camera(
        intrinsics=intrinsics, extrinsics=extrinsics,
        azimuth=azimuth.astype(np.float32), elevation=elevation.astype(np.float32), size=size,
    )  # fmt: skip


def project(vertices: np.ndarray, intrinsics: np.ndarray, extrinsics: np.ndarray) -> np.ndarray:
    """Pinhole projection of one frame. vertices f32 [V, 3] m -> f32 [V, 3]: x px, y px, depth m.

    intrinsics [3, 3] px, extrinsics [4, 4] world -> camera. Depths below 1 mm, also behind the camera, become 1 mm.
    """
    return _project(
        np.ascontiguousarray(vertices, np.float32), intrinsics.astype(np.float64), extrinsics.astype(np.float64)
    )


@numba.njit(cache=True, nogil=True)
def _project(vertices, K, E):
    out = np.empty((len(vertices), 3), np.float32)
    for v in range(len(vertices)):
        x, y, z = vertices[v, 0], vertices[v, 1], vertices[v, 2]
        depth = max(E[2, 0] * x + E[2, 1] * y + E[2, 2] * z + E[2, 3], 1e-3)
        out[v, 0] = (E[0, 0] * x + E[0, 1] * y + E[0, 2] * z + E[0, 3]) / depth * K[0, 0] + K[0, 2]
        out[v, 1] = (E[1, 0] * x + E[1, 1] * y + E[1, 2] * z + E[1, 3]) / depth * K[1, 1] + K[1, 2]
        out[v, 2] = depth
    return out


def orthographic_view(
    points: np.ndarray, direction: np.ndarray, center: np.ndarray, extent: float, side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Orthographic projection of points [M, 3] m, such as the view from a distant light.

    direction f64 [3]: unit vector from the points to the viewer; it must not point straight up. The picture is a square
    of side x side px and `extent` m. The point `center` [3] m is in its middle, at a depth of 2 m.
    Returns the axes [3, 3] of the view (right, up, away from the viewer), its corner [3] m along these axes, and the
    projected points f32 [M, 3]: x px, y px upwards, depth m.
    """
    right = np.cross([0.0, 1.0, 1e-3], direction)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(direction, right), -direction])
    corner = np.append(axes[:2] @ center - extent / 2, axes[2] @ center - 2.0)
    return axes, corner, project_orthographic(points, axes, corner, side / extent)


@numba.njit(cache=True, nogil=True)
def project_orthographic(points, axes, corner, scale):
    """Project points [M, 3] m into the view that `orthographic_view` returned: f32 [M, 3], x px, y px, depth m.

    scale: pixels in a meter.
    """
    out = np.empty((len(points), 3), np.float32)
    for p in range(len(points)):
        x, y, z = points[p, 0], points[p, 1], points[p, 2]
        out[p, 0] = (axes[0, 0] * x + axes[0, 1] * y + axes[0, 2] * z - corner[0]) * scale
        out[p, 1] = (axes[1, 0] * x + axes[1, 1] * y + axes[1, 2] * z - corner[1]) * scale
        out[p, 2] = axes[2, 0] * x + axes[2, 1] * y + axes[2, 2] * z - corner[2]
    return out
