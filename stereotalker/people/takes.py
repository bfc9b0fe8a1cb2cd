"""A take: one identity speaking one utterance before several cameras, and everything that is known of it, without error.

C cameras, T frames, H x W picture, K key points (the 55 joints, then iBUG's inner 51 face points).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stereotalker.body import camera as cameras
from stereotalker.body.layout import JOINT
from stereotalker.body.model import Body
from stereotalker.control.plate import background_plate
from stereotalker.errors import ClipError
from stereotalker.people.acting import STYLES, Style, act, gesture_plan
from stereotalker.people.anatomy import anatomy
from stereotalker.people.backdrops import draw_backdrop
from stereotalker.people.clearance import buried, girth_of
from stereotalker.people.face import resting
from stereotalker.people.figure import Dressed, build
from stereotalker.people.gestures import Gesture
from stereotalker.people.population import draw_person
from stereotalker.people.shading import Light, draw_light, render
from stereotalker.records import Avatar, Camera, Motion, Speech

ACTED_FPS = 25.0  # at which people act, whatever the film's rate
HEADROOM_M = 0.07  # between the crown and the upper edge of a portrait
TOUCH_M = 0.006  # hands this deep in the clothes' surface only touch it


@dataclass(frozen=True)
class Take:
    """What a shard holds of one take."""

    identity: int
    number: int  # of the take
    person: dict[str, str | int]  # Person.attributes
    avatar: Avatar  # exact: portrait, betas, shell, pose, camera, background
    motion: Motion  # of the frames
    start: float  # s into the speech at which the first frame's interval begins: frame t is at start + (t + 0.5) / fps
    speech: Speech
    gestures: tuple[Gesture, ...]
    camera: tuple[Camera, ...]  # C, of T frames each
    image: np.ndarray  # u8 [C, T, H, W, 3] sRGB
    regions: np.ndarray  # u8 [C, T, H, W]
    depth: np.ndarray  # f32 [C, T, H, W] m, infinite on the background
    keypoints: np.ndarray  # f32 [C, T, K, 3]: x px, y px, depth m


@dataclass(frozen=True)
class Cast:
    """An identity ready to perform."""

    dressed: Dressed
    avatar: Avatar
    light: Light
    backdrop: str
    girth: float


def cast(identity: int, body: Body, size: int, supersample: int, name: str = "", pictures: tuple[Path, ...] = (), rest: str = "") -> Cast:
    """Draw, dress and portray an identity. size px of its square portrait; rest: how it holds its hands, a key of gestures.RESTS, else its own way."""
    dressed = build(draw_person(identity, len(STYLES)), body)
    light = draw_light(identity)
    background, kind = draw_backdrop(identity, (size, size), pictures)
    girth = girth_of(anatomy(body), body.rest(dressed.betas) + dressed.shell.astype(np.float32))
    still = _still(dressed, body, girth, rest)
    return Cast(dressed, _portray(dressed, body, still, light, background, size, supersample, name or f"synthetic-{identity:06d}"), light, kind, girth)


def _still(dressed: Dressed, body: Body, girth: float, rest: str) -> Motion:
    """One frame of the person at rest, looking into the camera, hands clear of the body."""
    silence, person = Speech(np.zeros(1600, np.float32), -np.inf), dressed.person
    style = STYLES[person.personality]
    for _ in range(4):
        still = act(silence, replace(style, rest=rest or style.rest), person.seed, 10.0, girth=girth).frames(0, 1)
        calm = still.poses.copy()
        calm[:, [JOINT[n] for n in ("head", "neck", "left_eye", "right_eye")]] = 0
        still = replace(still, poses=calm, expression=resting(style.smile)[None].astype(np.float32), trans=np.zeros_like(still.trans))
        deepest = _deepest(body, still, dressed.betas, dressed.shell)
        if deepest < TOUCH_M:
            break
        girth += deepest + 0.002
    return still


def _portray(dressed: Dressed, body: Body, still: Motion, light: Light, background: np.ndarray, size: int, supersample: int, name: str) -> Avatar:
    """The exact avatar, square, from the front."""
    person = dressed.person
    crown = float((body.rest(dressed.betas) + dressed.shell)[:, 1].max())
    extent = cameras.DISTANCE_M / cameras.FOCAL_IN_HEIGHTS
    target = np.array([0, crown + HEADROOM_M - extent / 2, 0], np.float32)
    front = cameras.look_at(np.zeros(1), np.zeros(1), np.full(1, cameras.DISTANCE_M), target, (size, size))
    K, E = front.intrinsics[0], front.extrinsics[0]
    posed = body.posed(still, dressed.betas, dressed.face)
    picture = render(dressed.figure, posed.vertices[0], posed.turn[0], K, E, light, background, supersample)
    return Avatar(
        name=name, portrait=picture.image, background=background, regions=picture.regions, betas=dressed.betas, surface=dressed.shell,
        poses=still.poses[0], expression=still.expression[0], intrinsics=K, extrinsics=E, target=target, style=person.personality, origin="synthetic", arms=True,
    )  # fmt: skip


def perform(cast: Cast, body: Body, speech: Speech, number: int, seed: int, shot: Shot) -> Take:
    """Act a speech and film a stretch of it. The first camera stands where the portrait's stood."""
    person = cast.dressed.person
    rng = np.random.default_rng([seed, person.number, number])
    style, act_seed, strength = STYLES[person.personality], int(rng.integers(1 << 30)), float(rng.uniform(0.7, 1.3))
    count = max(round(speech.seconds * shot.fps), 1)
    first = int(rng.integers(max(count - shot.frames, 0) + 1))
    motion = _untouched(cast, body, speech, style, act_seed, strength, shot, first)
    camera = _cameras(cast.avatar, shot, len(motion.poses), rng)
    posed = body.posed(motion, cast.dressed.betas, cast.dressed.face)
    T, H, W = len(motion.poses), shot.size, shot.size
    C = len(camera)
    image, regions = np.zeros((C, T, H, W, 3), np.uint8), np.zeros((C, T, H, W), np.uint8)
    depth, keypoints = np.zeros((C, T, H, W), np.float32), []
    points = key_points(body, motion, cast.dressed)
    for c, view in enumerate(camera):
        K, E = view.intrinsics[0], view.extrinsics[0]
        plate = background_plate(cast.avatar, K, E, (H, W))
        for t in range(T):
            picture = render(cast.dressed.figure, posed.vertices[t], posed.turn[t], K, E, cast.light, plate, shot.supersample)
            image[c, t], regions[c, t], depth[c, t] = picture.image, picture.regions, picture.depth
        keypoints.append([cameras.project(points[t], K, E) for t in range(T)])
    return Take(
        identity=person.number, number=number, person=person.attributes() | {"background": cast.backdrop}, avatar=cast.avatar, motion=motion,
        start=first / shot.fps, speech=speech, gestures=tuple(gesture_plan(speech, style, act_seed)), camera=camera, image=image, regions=regions,
        depth=depth, keypoints=np.array(keypoints, np.float32),
    )  # fmt: skip


@dataclass(frozen=True)
class Shot:
    """How takes are filmed. size: px of the square frames; swing: degrees of azimuth to either side, where no `azimuths` are given; fps of the frames that are kept."""

    size: int
    cameras: int
    frames: int
    fps: float
    swing: float
    supersample: int
    azimuths: tuple[float, ...] = ()  # degrees of level cameras as far off as the portrait's


def _untouched(cast: Cast, body: Body, speech: Speech, style: Style, seed: int, strength: float, shot: Shot, first: int) -> Motion:
    """The acted frames; where hands would reach into this person they are held farther off, then moved less. Raises ClipError."""
    times = (first + np.arange(min(shot.frames, max(round(speech.seconds * shot.fps) - first, 1))) + 0.5) / shot.fps
    girth = cast.girth
    for strength_now in (strength, strength, strength, strength, 0.5 * strength, 0.0):
        acted = act(speech, style, seed, ACTED_FPS, strength_now, girth)
        at = np.clip((times * ACTED_FPS).astype(int), 0, len(acted.poses) - 1)  # acting is never filtered to the film's own rate
        motion = Motion(acted.poses[at], acted.expression[at], acted.trans[at], shot.fps)
        deepest = _deepest(body, motion, cast.dressed.betas, cast.dressed.shell)
        if deepest < TOUCH_M:
            return motion
        girth += deepest + 0.002
    raise ClipError(f"identity {cast.dressed.person.number}: a hand stays {1000 * deepest:.0f} mm inside the body; expected less than {1000 * TOUCH_M:.0f}")


def _deepest(body: Body, motion: Motion, betas: np.ndarray, surface: np.ndarray) -> float:
    known = anatomy(body)
    return max(buried(known, v) for v in body.posed(motion, betas, surface).vertices)


def _cameras(avatar: Avatar, shot: Shot, T: int, rng) -> tuple[Camera, ...]:
    azimuth = np.array(shot.azimuths or [0.0, *rng.uniform(-shot.swing, shot.swing, shot.cameras - 1)])
    elevation, distance = np.zeros(len(azimuth)), np.full(len(azimuth), cameras.DISTANCE_M)
    if not shot.azimuths:
        elevation[1:] = rng.uniform(-0.4, 0.4, shot.cameras - 1) * shot.swing
        distance[1:] *= rng.uniform(0.7, 1.1, shot.cameras - 1)
    seen = [cameras.look_at(np.full(T, a), np.full(T, e), np.full(T, d), avatar.target, (shot.size, shot.size)) for a, e, d in zip(azimuth, elevation, distance, strict=True)]
    return tuple(seen)


def key_points(body: Body, motion: Motion, dressed: Dressed) -> np.ndarray:
    """The joints and iBUG's inner 51 face points of every frame on the undressed body, f32 [T, K, 3] m."""
    with np.load(body.path, allow_pickle=False) as file:
        triangles, weights, regressor = file["lmk_faces_idx"], file["lmk_bary_coords"], file["J_regressor"]
    vertices = body.posed(motion, dressed.betas, dressed.face).vertices
    joints = vertices[:, regressor.argmax(1)]  # joints are vertices of the free body
    face = (vertices[:, body.faces[triangles]] * weights[None, :, :, None]).sum(2)
    return np.concatenate([joints, face], 1).astype(np.float32)


