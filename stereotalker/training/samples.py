"""Turns takes into training samples for the mask predictor and the renderer.

The control maps of a sample come from a deliberately imperfect fit of the portrait, because fits in production are
imperfect, too.
"""

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
from stereotalker.synthetic.fit_silhouette import view_in_portrait
from stereotalker.synthetic.takes import Take

_MIN_SHARDS_FOR_POOL = 6  # with fewer shards, starting processes takes longer than reading
_RESIDUAL_SHARE = 0.1  # standard deviation of the share of an imperfect fit's errors that stay visible in the portrait


@dataclass(frozen=True)
class Sample:
    """One take as mask predictor and renderer are trained on it.

    N = C x T frames of H x W px from C cameras. All arrays are u8 but `angles`.
    """

    identity: int
    portrait: np.ndarray  # [H, W, 3], scaled down to the size of the frames
    image: np.ndarray  # [N, H, W, 3] truth
    regions: np.ndarray  # [N, H, W] truth
    warp: np.ndarray  # [N, H, W, 3]
    visibility: np.ndarray  # [N, H, W]
    normals: np.ndarray  # [N, H, W, 3]
    labels: np.ndarray  # [N, H, W] of the body surface
    plate: np.ndarray  # [N, H, W, 3]
    angles: np.ndarray  # f32 [N, 2] azimuth and elevation, degrees
    frames: int  # T, frames per camera


def to_sample(take: Take, body: Body, seed: int, wrong: float) -> Sample:
    """The sample of a take, with control maps as an imperfect fit would give them.

    `wrong` scales the errors of the fit; 0 means none. The errors of the portrait's joint angles are added to every
    frame of the motion, as production does it: a fit that takes the elbow for 2 degrees too straight does so in every
    frame.
    """
    rng = np.random.default_rng([seed, take.identity, take.number, 17])
    C, T = take.image.shape[:2]
    fitted = imperfect_fit(take.avatar, body, int(rng.integers(1 << 30)), wrong) if wrong else take.avatar
    poses = take.motion.poses + (fitted.poses - take.avatar.poses)
    poses, expression, trans = (np.concatenate([a] * C) for a in (poses, take.motion.expression, take.motion.trans))
    motion = Motion(poses, expression, trans, take.motion.fps)
    camera = Camera(
        size=take.camera[0].size,
        **{
            name: np.concatenate([getattr(view, name) for view in take.camera])
            for name in ("intrinsics", "extrinsics", "azimuth", "elevation")
        },
    )
    maps = control(reference(fitted, body), body, motion, camera)

    def flat(a):
        """[C, T, ...] -> [C x T, ...]."""
        return a.reshape(C * T, *a.shape[2:])

    portrait = cv2.resize(take.avatar.portrait, camera.size[::-1], interpolation=cv2.INTER_AREA)
    return Sample(
        identity=take.identity,
        portrait=portrait,
        image=flat(take.image),
        regions=flat(take.regions),
        warp=maps.warp,
        visibility=maps.visibility,
        normals=maps.normals,
        labels=maps.labels,
        plate=maps.plate,
        angles=np.stack([camera.azimuth, camera.elevation], 1),
        frames=T,
    )


def read_people(
    folder: Path, body: BodyParams, params: PeopleParams, most: int | None = None, wrong: float | None = None
) -> list[Sample]:
    """Read the takes in a folder as samples, in the order of the shards' names.

    `most`: largest number of shards, with one identity each. `wrong`: size of the fits' errors; None draws one for
    every take, mostly small, up to 1.2 times params.wrong. A take costs 0.7 s of a core; all cores are used. Raises
    UserError if there is no shard.
    """
    shards = sorted(folder.glob("people-*.tar"))[:most]
    if not shards:
        raise UserError(
            f"{folder} holds no shard of takes; run the stage `people`, for held-out ones with people.held_out above 0"
        )
    jobs = [(shard, body, params.seed, params.wrong, wrong) for shard in shards]
    if len(shards) < _MIN_SHARDS_FOR_POOL:
        return [sample for job in jobs for sample in _read_shard_samples(job)]
    with pool(__name__) as workers:
        return [sample for samples in workers.map(_read_in_worker, jobs) for sample in samples]


def _read_in_worker(job: tuple[Path, BodyParams, int, float, float | None]) -> list[Sample]:
    torch.set_num_threads(1)  # every core already runs a process
    return _read_shard_samples(job)


def _read_shard_samples(job: tuple[Path, BodyParams, int, float, float | None]) -> list[Sample]:
    """The samples of one shard. A job is (shard, body, seed, params.wrong, wrong), see `read_people`."""
    shard, params, seed, max_wrong, wrong = job
    body = load_body(resolve(params.file), params.file_reader, params.betas)
    takes = read_shard(shard)
    amounts = [
        1.2 * max_wrong * np.random.default_rng([seed, t.identity, t.number]).uniform() ** 2 if wrong is None else wrong
        for t in takes
    ]
    return [to_sample(take, body, seed, amount) for take, amount in zip(takes, amounts, strict=True)]


def imperfect_fit(avatar: Avatar, body: Body, seed: int, amount: float = 1.0) -> Avatar:
    """The avatar as an imperfect fit would give it; `amount` scales the errors.

    Standard deviations at amount 1: betas 0.3, joint rotations 2 degrees (trunk and hips 0.5), thickness of the clothes
    15 %. In the portrait the avatar still looks like the exact one, up to _RESIDUAL_SHARE, because every fit pulls
    face, hands and silhouette onto the picture (avatar.clothed_surface). The errors show when body or camera move. The
    motion must be driven in the fit's own angles, see `to_sample`.
    """
    rng = np.random.default_rng([seed, 13])
    betas = avatar.betas + amount * rng.normal(0, 0.3, avatar.betas.shape).astype(np.float32)
    joints = amount * rng.normal(0, np.radians(2.0) / np.sqrt(3), avatar.poses.shape).astype(np.float32)
    joints[[JOINT[name] for name in ("pelvis", "spine1", "spine2", "spine3", "left_hip", "right_hip")]] *= 0.25
    surface = (avatar.surface * (1 + amount * rng.normal(0, 0.15))).astype(np.float16)
    imperfect = replace(avatar, betas=betas, poses=avatar.poses + joints, surface=surface)
    view = view_in_portrait(imperfect, body)
    shift = view_in_portrait(avatar, body).pixels[:, :2] - view.pixels[:, :2]  # px
    shift *= 1 + amount * rng.normal(0, _RESIDUAL_SHARE)
    shift[body.part == JOINT_PART] = 0
    return replace(imperfect, surface=(surface + view.to_rest(shift)).astype(np.float16))
