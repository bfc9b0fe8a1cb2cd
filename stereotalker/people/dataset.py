"""The synthetic training data: identities with portraits, and frames of them acting, seen from other cameras.

Every sample is a function of (seed, identity, frame); the avatar that a sample is warped from is deliberately a little wrong
(shape, joints, surface), because a fitted portrait will be.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from stereotalker.audio.corpus import read_corpus
from stereotalker.body import camera as cameras
from stereotalker.body.layout import ACTIONS, JOINT, JOINTS
from stereotalker.body.model import Body, load_body
from stereotalker.control.warp import background_plate, control, reference
from stereotalker.params import BodyParams, PeopleParams, resolve
from stereotalker.people.acting import STYLES, act
from stereotalker.people.appearance import draw_look, surface
from stereotalker.people.shading import draw_background, draw_light, materials, render
from stereotalker.records import Avatar, Motion, Speech, save

HEADROOM_M = 0.07  # between the crown and the upper edge of a portrait


@dataclass(frozen=True)
class Sample:
    """Frames of one identity. N frames of H x W; all u8 but the angles."""

    identity: int
    portrait: np.ndarray  # [H, W, 3]
    image: np.ndarray  # [N, H, W, 3] truth
    regions: np.ndarray  # [N, H, W] truth
    warp: np.ndarray  # [N, H, W, 3]
    visibility: np.ndarray  # [N, H, W]
    normals: np.ndarray  # [N, H, W, 3]
    labels: np.ndarray  # [N, H, W] of the body surface
    plate: np.ndarray  # [N, H, W, 3]
    angles: np.ndarray  # f32 [N, 2] azimuth and elevation, degrees

    def save(self, path: Path) -> None:
        np.savez(path, **self.__dict__)

    @classmethod
    def load(cls, path: Path) -> Sample:
        with np.load(path, allow_pickle=False) as file:
            return cls(**{name: file[name] for name in file.files if name != "identity"}, identity=int(file["identity"]))


def make_avatar(identity: int, body: Body, size: int, name: str = "") -> Avatar:
    """The exact avatar of an identity: portrait in a rest pose, square, `size` px."""
    look = draw_look(identity, body.betas, len(STYLES))
    skin = surface(look, body)
    silence = Speech(np.zeros(1600, np.float32), -np.inf)
    still = act(silence, STYLES[look.style], identity, fps=10.0).frames(0, 1)
    still = replace(still, trans=np.zeros_like(still.trans), expression=still.expression * 0)
    crown = float((body.rest(look.betas) + skin)[:, 1].max())
    extent = cameras.DISTANCE_M / cameras.FOCAL_IN_HEIGHTS
    target = np.array([0, crown + HEADROOM_M - extent / 2, 0], np.float32)
    front = cameras.look_at(np.zeros(1), np.zeros(1), np.full(1, cameras.DISTANCE_M), target, (size, size))
    K, E = front.intrinsics[0], front.extrinsics[0]
    background = draw_background(identity, (size, size))
    vertices = body.pose(still, look.betas, skin)[0]
    portrait, regions = render(materials(look, body), vertices, K, E, draw_light(identity), background)
    return Avatar(
        name=name or f"synthetic-{identity:04d}", portrait=portrait, background=background, regions=regions, betas=look.betas,
        surface=skin, poses=still.poses[0], expression=still.expression[0], intrinsics=K, extrinsics=E, target=target,
        style=look.style, origin="synthetic",
    )  # fmt: skip


def wrong_fit(avatar: Avatar, body: Body, seed: int, amount: float = 1.0) -> Avatar:
    """The avatar as an imperfect fit would give it: betas +-0.3 sd, joints +-2 degrees (trunk 0.5), surface uneven.

    The head stays where the portrait shows it, as any fit to face landmarks would keep it.
    """
    rng = np.random.default_rng([seed, 13])
    betas = avatar.betas + amount * rng.normal(0, 0.3, avatar.betas.shape).astype(np.float32)
    joints = amount * rng.normal(0, np.radians(2.0), avatar.poses.shape).astype(np.float32)
    joints[[JOINT[name] for name in ("pelvis", "spine1", "spine2", "spine3", "left_hip", "right_hip")]] *= 0.25
    skin = avatar.surface * (1 + amount * rng.normal(0, 0.15))
    head = body.weights[:, JOINT["head"]] > 0.5
    skin = skin + (body.rest(avatar.betas)[head] - body.rest(betas)[head]).mean(0)
    return replace(avatar, betas=betas, poses=avatar.poses + joints, surface=skin.astype(np.float16))


def make_sample(
    identity: int, body: Body, speeches: list[Speech], frames: int, size: int, seed: int, swing: float, wrong: float
) -> Sample:
    """`frames` moments of one identity speaking, from cameras within +-swing degrees. wrong: size of the fit's errors."""
    rng = np.random.default_rng([seed, identity])
    exact = make_avatar(identity, body, size)
    look = draw_look(identity, body.betas, len(STYLES))
    person, light = materials(look, body), draw_light(identity)
    motion = _moments(speeches, look.style, frames, rng)
    azimuth = rng.uniform(-swing, swing, frames) * (rng.random(frames) < 0.75)
    elevation = rng.uniform(-0.4, 0.4, frames) * swing * (azimuth != 0)
    distance = cameras.DISTANCE_M * rng.uniform(0.85, 1.1, frames)
    camera = cameras.look_at(azimuth, elevation, distance, exact.target, (size, size))
    vertices = body.pose(motion, look.betas, exact.surface)
    pictures = [
        render(person, v, K, E, light, background_plate(exact, K, E, (size, size), np.inf))
        for v, K, E in zip(vertices, camera.intrinsics, camera.extrinsics, strict=True)
    ]
    fitted = wrong_fit(exact, body, int(rng.integers(1 << 30)), wrong * rng.uniform(0, 1.2)) if wrong else exact
    maps = control(reference(fitted, body), body, motion, camera, np.inf)  # a far background moves most
    return Sample(
        identity=identity, portrait=exact.portrait, image=np.stack([p for p, _ in pictures]),
        regions=np.stack([r for _, r in pictures]), warp=maps.warp, visibility=maps.visibility, normals=maps.normals,
        labels=maps.labels, plate=maps.plate, angles=np.stack([camera.azimuth, camera.elevation], 1),
    )  # fmt: skip


def _moments(speeches: list[Speech], style: int, frames: int, rng) -> Motion:
    """Random frames of random performances; one in four has the mouth and the brows at random instead."""
    poses, expression, trans = [], [], []
    for _ in range(frames):
        speech = speeches[rng.integers(len(speeches))]
        acting = STYLES[style if rng.random() < 0.5 else rng.integers(len(STYLES))]
        motion = act(speech, acting, int(rng.integers(1 << 30)), fps=12.5, strength=rng.uniform(0.5, 1.6))
        at = int(rng.integers(len(motion.poses)))
        poses.append(motion.poses[at].copy())
        expression.append(motion.expression[at].copy())
        trans.append(motion.trans[at])
        if rng.random() < 0.25:
            poses[-1][JOINT["jaw"], 0] = rng.uniform(0, 0.3)
            expression[-1][rng.integers(len(ACTIONS), size=4)] = rng.uniform(0, 0.6, 4)
    assert np.shape(poses)[1:] == (len(JOINTS), 3)
    return Motion(np.stack(poses), np.stack(expression), np.stack(trans), fps=12.5)



def build_people(folder: Path, avatars: Path, body_params: BodyParams, params: PeopleParams, speeches: Path, processes: int | None = None) -> None:
    """Stage `people`: write `folder`/{train,held_out}/NNNN.npz and the shipped avatars. The bytes do not depend on `processes`."""
    for part in ("train", "held_out"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    jobs = []
    for identity in range(params.identities):
        part = "held_out" if identity >= params.identities - params.held_out else "train"
        path = folder / part / f"{identity:04d}.npz"
        if not path.exists():  # a sample is renamed into place when whole, so what is there is done
            jobs.append((path, identity, body_params, params, speeches / part))
    with ProcessPoolExecutor(processes or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for done in pool.map(_write_sample, *zip(*jobs, strict=True)) if jobs else ():
            print(f"people: {done}", flush=True)
    body = load_body(resolve(body_params.file), body_params.reader, body_params.betas)
    avatars.mkdir(parents=True, exist_ok=True)
    for name, offset in params.avatars.items():
        avatar = make_avatar(params.identities + offset, body, params.avatar_size, name)
        save(avatar, avatars / f"{name}.safetensors")


def _write_sample(path: Path, identity: int, body_params: BodyParams, params: PeopleParams, speeches: Path) -> str:
    torch.set_num_threads(1)
    body = load_body(resolve(body_params.file), body_params.reader, body_params.betas)
    sample = make_sample(
        identity, body, read_corpus(speeches), params.frames, params.size, params.seed, params.swing, params.wrong
    )  # fmt: skip
    temporary = path.with_suffix(".tmp.npz")
    sample.save(temporary)
    os.replace(temporary, path)
    return path.name


def read_people(folder: Path) -> list[Sample]:
    """Every identity of a folder, in the order of names."""
    return [Sample.load(path) for path in sorted(folder.glob("[0-9]*[0-9].npz"))]
