"""Turns photographs into training samples: each is warped to a gesture, and from there back to its own pose.

The way back starts from a picture in which arms and hands lie elsewhere and hide other things, so its control maps have
the faults of production: limbs that were hidden, cloth that was uncovered, outlines that a fit misses. The truth is the
photograph itself, with real skin, hair and cloth. H x W: the photograph, N gestures.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from stereotalker.acting.reference_acting import STYLES, act
from stereotalker.body.model import Body
from stereotalker.control.reference_warp import Reference, control, reference
from stereotalker.control.warp_kernels import SEEN
from stereotalker.geometry.camera import avatar_camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.motion.retargeting import Retargeting
from stereotalker.records import Avatar, Motion, Speech, load, save
from stereotalker.training.samples import Sample

# Largest azimuth and elevation of the camera that sees the gesture, degrees.
_MAX_AZIMUTH, _MAX_ELEVATION = 18.0, 6.0
# Share of the gestures that a camera sees from the side; the others are seen by the portrait's own.
_TURNED_SHARE = 0.5
_FPS = 25.0  # of the motions that the gestures are taken from
_STRENGTH = 1.5  # of those motions' gestures


def photograph_sample(avatar: Avatar, body: Body, speech: Speech, gestures: int, size: int, seed: int) -> Sample:
    """The sample of a fitted photograph, from `gestures` moments of a motion to a speech. The rest as below."""
    acted = act(speech, STYLES[avatar.style], seed, _FPS, _STRENGTH)
    motion = Retargeting.of_speaker(avatar, body, avatar.style).apply(acted)
    moments = np.linspace(0, len(motion.poses) - 1, gestures + 2)[1:-1].astype(int)
    chosen = Motion(motion.poses[moments], motion.expression[moments], np.zeros_like(motion.trans[moments]), motion.fps)
    return gesture_and_back(avatar, body, chosen, size, seed)


def gesture_and_back(avatar: Avatar, body: Body, gestures: Motion, size: int, seed: int) -> Sample:
    """A sample with one frame for every frame of `gestures`, all in the portrait's own pose and camera.

    avatar: the fitted photograph; gestures: N poses of this person. size: longer side of the frames, px. The `identity`
    of the sample is `seed`.
    """
    rng = np.random.default_rng([seed, 23])
    shape = _scaled(avatar.regions.shape, size)
    ref = reference(avatar, body)
    there = [_seen_gesturing(ref, avatar, body, gestures.frames(n, n + 1), rng) for n in range(len(gestures.poses))]
    still = Motion.still(avatar.poses, avatar.expression)
    own_view = avatar_camera(avatar, CameraPath(), 1, _FPS, shape)
    back = [control(reference(gesturing, body), body, still, own_view) for gesturing in there]

    def stacked(name: str) -> np.ndarray:
        return np.concatenate([getattr(maps, name) for maps in back])

    N, portrait = len(back), cv2.resize(avatar.portrait, shape[::-1], interpolation=cv2.INTER_AREA)
    regions = cv2.resize(avatar.regions, shape[::-1], interpolation=cv2.INTER_NEAREST)
    return Sample(
        identity=seed,
        portrait=cv2.resize(there[0].portrait, shape[::-1], interpolation=cv2.INTER_AREA),
        image=np.repeat(portrait[None], N, 0),
        regions=np.repeat(regions[None], N, 0),
        **{name: stacked(name) for name in ("warp", "visibility", "normals", "labels", "plate")},
        angles=np.zeros((N, 2), np.float32),
        frames=1,
    )


def _seen_gesturing(ref: Reference, avatar: Avatar, body: Body, gesture: Motion, rng: np.random.Generator) -> Avatar:
    """The avatar whose portrait is the warp of `gesture`, one frame, from a random camera.

    Where the photograph did not show what the warp draws, the new portrait is labeled as background, so that no warp
    takes colors from there. The reference picture still holds them.
    """
    azimuth, elevation = rng.uniform(-1, 1, 2) * (_MAX_AZIMUTH, _MAX_ELEVATION) * (rng.random() < _TURNED_SHARE)
    path = CameraPath(azimuth=float(azimuth), elevation=float(elevation))
    view = avatar_camera(avatar, path, 1, _FPS, avatar.regions.shape)
    maps = control(ref, body, gesture, view)
    return replace(
        avatar,
        portrait=maps.warp[0],
        background=maps.plate[0],
        regions=np.where(maps.visibility[0] == SEEN, maps.labels[0], 0).astype(np.uint8),
        poses=gesture.poses[0],
        expression=gesture.expression[0],
        intrinsics=view.intrinsics[0],
        extrinsics=view.extrinsics[0],
    )


def _scaled(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Height and width with a longer side of `size`, both even."""
    H, W = shape
    return 2 * round(H * size / max(H, W) / 2), 2 * round(W * size / max(H, W) / 2)


def write_photograph(sample: Sample, path: Path) -> None:
    """Save a sample under its final name once it is complete."""
    partial = path.with_suffix(".partial")
    save(sample, partial)
    partial.replace(path)


def read_photographs(folder: Path) -> list[Sample]:
    """The samples of a folder, in the order of their names; none where the folder holds none."""
    return [load(Sample, path) for path in sorted(folder.glob("*.safetensors"))]
