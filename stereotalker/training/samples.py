"""Takes as masks and renderer are trained on them: control maps from a deliberately wrong fit, because a fitted portrait will be a little wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from stereotalker.body.free_body import JOINT_PART
from stereotalker.body.model import Body, load_body
from stereotalker.control.reference_warp import control, reference
from stereotalker.dataset.shards import read_shard
from stereotalker.errors import UserError
from stereotalker.params import BodyParams, PeopleParams, resolve
from stereotalker.records import Avatar, Camera, Motion
from stereotalker.runtime.process_pool import pool
from stereotalker.smplx_layout import JOINT
from stereotalker.synthetic.fit_silhouette import seen_in_portrait
from stereotalker.synthetic.takes import Take

_FEW = 6  # shards that are not worth starting processes
_UNEVEN = 0.1  # share of a wrong fit's errors in the portrait that stay


@dataclass(frozen=True)
class Sample:
    """A take as masks and renderer are trained on it. N = C x T frames of H x W; all u8 but the angles."""

    identity: int
    portrait: np.ndarray  # [H, W, 3], made as small as the frames
    image: np.ndarray  # [N, H, W, 3] truth
    regions: np.ndarray  # [N, H, W] truth
    warp: np.ndarray  # [N, H, W, 3]
    visibility: np.ndarray  # [N, H, W]
    normals: np.ndarray  # [N, H, W, 3]
    labels: np.ndarray  # [N, H, W] of the body surface
    plate: np.ndarray  # [N, H, W, 3]
    angles: np.ndarray  # f32 [N, 2] azimuth and elevation, degrees
    frames: int  # T, of every camera's run


def to_sample(take: Take, body: Body, seed: int, wrong: float) -> Sample:
    """Control maps of a take as an imperfect fit would give them. wrong: size of the fit's errors, 0 for none.

    Who takes the portrait's elbow for 2 degrees too straight takes it so in every frame: the body is driven in its fit's own angles.
    """
    rng = np.random.default_rng([seed, take.identity, take.number, 17])
    C, T = take.image.shape[:2]
    fitted = wrong_fit(take.avatar, body, int(rng.integers(1 << 30)), wrong) if wrong else take.avatar
    driven = take.motion.poses + (fitted.poses - take.avatar.poses)
    motion = Motion(
        *(np.concatenate([a] * C) for a in (driven, take.motion.expression, take.motion.trans)), take.motion.fps
    )
    camera = Camera(
        *(
            np.concatenate([getattr(view, name) for view in take.camera])
            for name in ("intrinsics", "extrinsics", "azimuth", "elevation")
        ),
        take.camera[0].size,
    )
    maps = control(reference(fitted, body), body, motion, camera)

    def flat(a):
        return a.reshape(C * T, *a.shape[2:])

    portrait = cv2.resize(take.avatar.portrait, camera.size[::-1], interpolation=cv2.INTER_AREA)
    return Sample(
        identity=take.identity, portrait=portrait, image=flat(take.image), regions=flat(take.regions), warp=maps.warp,
        visibility=maps.visibility, normals=maps.normals, labels=maps.labels, plate=maps.plate, angles=np.stack([camera.azimuth, camera.elevation], 1), frames=T,
    )  # fmt: skip


def read_people(
    folder: Path, body: BodyParams, params: PeopleParams, most: int | None = None, wrong: float | None = None
) -> list[Sample]:
    """Takes of a folder as samples, in the order of names; `most` identities at the most.

    wrong: size of the fits' errors, None for another one every take, mostly small, up to 1.2 times params.wrong. 0.7 s a take, on every core.
    """
    shards = sorted(folder.glob("people-*.tar"))[:most]
    if not shards:
        raise UserError(
            f"{folder} holds no shard of takes; run the stage `people`, for held-out ones with people.held_out above 0"
        )
    jobs = [(shard, body, params.seed, params.wrong, wrong) for shard in shards]
    if len(shards) < _FEW:
        return [sample for job in jobs for sample in _read(job)]
    with pool() as workers:
        return [sample for samples in workers.map(_read_alone, jobs) for sample in samples]


def _read_alone(job: tuple[Path, BodyParams, int, float, float | None]) -> list[Sample]:
    torch.set_num_threads(1)
    return _read(job)


def _read(job: tuple[Path, BodyParams, int, float, float | None]) -> list[Sample]:
    shard, params, seed, most_wrong, wrong = job
    body = load_body(resolve(params.file), params.reader, params.betas)
    takes = read_shard(shard)
    amounts = [
        1.2 * most_wrong * np.random.default_rng([seed, t.identity, t.number]).uniform() ** 2
        if wrong is None
        else wrong
        for t in takes
    ]
    return [to_sample(take, body, seed, amount) for take, amount in zip(takes, amounts, strict=True)]


def wrong_fit(avatar: Avatar, body: Body, seed: int, amount: float = 1.0) -> Avatar:
    """The avatar as an imperfect fit would give it: betas 0.3 sd off, joints turned by 2 degrees (trunk and hips 0.5), depth of the clothes 15 %.

    In the portrait it still looks as the exact one does, but for _UNEVEN: faces, hands and outlines are pulled onto the picture
    by every fit (avatar.shell). What is wrong shows when body or camera move. 2 degrees: standard deviation of the angle.
    Meant to be driven in its own angles, see `to_sample`.
    """
    rng = np.random.default_rng([seed, 13])
    betas = avatar.betas + amount * rng.normal(0, 0.3, avatar.betas.shape).astype(np.float32)
    joints = amount * rng.normal(0, np.radians(2.0) / np.sqrt(3), avatar.poses.shape).astype(np.float32)
    joints[[JOINT[name] for name in ("pelvis", "spine1", "spine2", "spine3", "left_hip", "right_hip")]] *= 0.25
    surface = (avatar.surface * (1 + amount * rng.normal(0, 0.15))).astype(np.float16)
    wrong = replace(avatar, betas=betas, poses=avatar.poses + joints, surface=surface)
    seen = seen_in_portrait(wrong, body)
    shift = seen_in_portrait(avatar, body).pixels[:, :2] - seen.pixels[:, :2]
    shift *= 1 + amount * rng.normal(0, _UNEVEN)
    shift[body.part == JOINT_PART] = 0
    return replace(wrong, surface=(surface + seen.to_rest(shift)).astype(np.float16))
