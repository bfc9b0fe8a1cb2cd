"""Captures a take: one identity that speaks one utterance before several cameras, with exact labels of everything.

Shapes: C cameras, T frames, H x W picture, K keypoints (the 55 joints, then iBUG's inner 51 face points).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stereotalker.acting.gesture_planning import Gesture
from stereotalker.acting.reference_acting import STYLES, Style, act, gesture_plan
from stereotalker.body.model import Body
from stereotalker.control.background_plate import background_plate
from stereotalker.errors import ClipError
from stereotalker.geometry import camera as cameras
from stereotalker.records import Avatar, Camera, Motion, Speech
from stereotalker.synthetic.actor import Actor
from stereotalker.synthetic.contact import RETREAT_M, TOUCH_M, deepest_contact
from stereotalker.synthetic.figure import DressedPerson
from stereotalker.synthetic.population import Attributes
from stereotalker.synthetic.shading import render

ACTED_FPS = 25.0  # frame rate of the acting, whatever the frame rate of the take


@dataclass(frozen=True)
class Take:
    """What a shard holds of one take."""

    identity: int
    number: int  # of the take among the identity's takes
    person: Attributes  # Person.attributes, and the background's kind
    avatar: Avatar  # exact: portrait, betas, shell, pose, camera, background
    motion: Motion  # of the T frames
    start: float  # s into the speech at which the first frame's interval begins: frame t is at start + (t + 0.5) / fps
    speech: Speech
    gestures: tuple[Gesture, ...]
    camera: tuple[Camera, ...]  # C, of T frames each
    image: np.ndarray  # u8 [C, T, H, W, 3] sRGB
    regions: np.ndarray  # u8 [C, T, H, W]
    depth: np.ndarray  # f32 [C, T, H, W] m, infinite on the background
    keypoints: np.ndarray  # f32 [C, T, K, 3]: x px, y px, depth m


@dataclass(frozen=True)
class CaptureSetup:
    """How takes are captured."""

    size: int  # px, edge of the square frames
    cameras: int  # used where no azimuths are given
    frames: int  # of a take at most; a shorter speech gives fewer
    fps: float  # of the frames that are kept
    swing: float  # degrees of azimuth to either side, within which cameras are drawn where no azimuths are given
    supersample: int  # samples per pixel and axis
    azimuths: tuple[float, ...] = ()  # degrees, of level cameras at the distance of the portrait's camera


def capture_take(actor: Actor, body: Body, speech: Speech, number: int, seed: int, setup: CaptureSetup) -> Take:
    """Act a speech and render a stretch of it.

    The first camera stands where the portrait's camera stood, unless azimuths are given. Deterministic in identity,
    `number` and `seed`. Raises ClipError where the hands cannot be kept out of the body.
    """
    person = actor.dressed_person.person
    rng = np.random.default_rng([seed, person.number, number])
    style, act_seed, strength = STYLES[person.personality], int(rng.integers(1 << 30)), float(rng.uniform(0.7, 1.3))
    count = max(round(speech.seconds * setup.fps), 1)
    first = int(rng.integers(max(count - setup.frames, 0) + 1))
    motion = _act_without_contact(actor, body, speech, style, act_seed, strength, setup, first)
    camera = _draw_cameras(actor.avatar, setup, len(motion.poses), rng)
    posed = body.posed(motion, actor.dressed_person.betas, actor.dressed_person.face)
    T, H, W = len(motion.poses), setup.size, setup.size
    C = len(camera)
    image, regions = np.zeros((C, T, H, W, 3), np.uint8), np.zeros((C, T, H, W), np.uint8)
    depth, keypoints = np.zeros((C, T, H, W), np.float32), []
    points = compute_keypoints(body, motion, actor.dressed_person)
    for c, view in enumerate(camera):
        K, E = view.intrinsics[0], view.extrinsics[0]
        plate = background_plate(actor.avatar, K, E, (H, W))
        for t in range(T):
            picture = render(
                actor.dressed_person.figure,
                posed.vertices[t],
                posed.turn[t],
                K,
                E,
                actor.light,
                plate,
                setup.supersample,
            )
            image[c, t], regions[c, t], depth[c, t] = picture.image, picture.regions, picture.depth
        keypoints.append([cameras.project(points[t], K, E) for t in range(T)])
    return Take(
        identity=person.number,
        number=number,
        person=person.attributes() | {"background": actor.background_kind},
        avatar=actor.avatar,
        motion=motion,
        start=first / setup.fps,
        speech=speech,
        gestures=tuple(gesture_plan(speech, style, act_seed)),
        camera=camera,
        image=image,
        regions=regions,
        depth=depth,
        keypoints=np.array(keypoints, np.float32),
    )


def _act_without_contact(
    actor: Actor, body: Body, speech: Speech, style: Style, seed: int, strength: float, setup: CaptureSetup, first: int
) -> Motion:
    """The acted frames from `first` on, with hands that do not reach into the body.

    Where they would, they are first held farther off, then moved less. Raises ClipError where neither helps.
    """
    times = (first + np.arange(min(setup.frames, max(round(speech.seconds * setup.fps) - first, 1))) + 0.5) / setup.fps
    girth = actor.girth
    for try_strength in (strength, strength, strength, strength, 0.5 * strength, 0.0):
        acted = act(speech, style, seed, ACTED_FPS, try_strength, girth)
        # Frames are picked and not filtered, so the acting is the same at every frame rate of the take.
        rows = np.clip((times * ACTED_FPS).astype(int), 0, len(acted.poses) - 1)
        motion = Motion(acted.poses[rows], acted.expression[rows], acted.trans[rows], setup.fps)
        deepest = deepest_contact(body, motion, actor.dressed_person.betas, actor.dressed_person.shell)
        if deepest < TOUCH_M:
            return motion
        girth += deepest + RETREAT_M
    raise ClipError(
        f"identity {actor.dressed_person.person.number}: a hand stays {1000 * deepest:.0f} mm inside the body; "
        f"expected less than {1000 * TOUCH_M:.0f}"
    )


def _draw_cameras(avatar: Avatar, setup: CaptureSetup, T: int, rng: np.random.Generator) -> tuple[Camera, ...]:
    """The cameras of a take, each at rest for T frames."""
    azimuth = np.array(setup.azimuths or [0.0, *rng.uniform(-setup.swing, setup.swing, setup.cameras - 1)])
    elevation, distance = np.zeros(len(azimuth)), np.full(len(azimuth), cameras.DISTANCE_M)
    if not setup.azimuths:
        elevation[1:] = rng.uniform(-0.4, 0.4, setup.cameras - 1) * setup.swing
        distance[1:] *= rng.uniform(0.7, 1.1, setup.cameras - 1)
    return tuple(
        cameras.look_at(np.full(T, a), np.full(T, e), np.full(T, d), avatar.target, (setup.size, setup.size))
        for a, e, d in zip(azimuth, elevation, distance, strict=True)
    )


def compute_keypoints(body: Body, motion: Motion, dressed_person: DressedPerson) -> np.ndarray:
    """The joints and iBUG's inner 51 face points of every frame on the undressed body, f32 [T, K, 3] m."""
    with np.load(body.path, allow_pickle=False) as file:
        triangles, weights, regressor = file["lmk_faces_idx"], file["lmk_bary_coords"], file["J_regressor"]
    vertices = body.posed(motion, dressed_person.betas, dressed_person.face).vertices
    joints = vertices[:, regressor.argmax(1)]  # joints of the free body are vertices
    face = (vertices[:, body.faces[triangles]] * weights[None, :, :, None]).sum(2)
    return np.concatenate([joints, face], 1).astype(np.float32)
