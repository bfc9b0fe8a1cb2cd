"""Stage `people`: identities acting real and synthetic speech before several cameras, in shards; the shipped avatars; and what is refused.

A shard is a function of (params, identity, corpus): the bytes depend on neither the number of processes nor on interruptions. Training
reads takes as `Sample`s: control maps from a deliberately wrong fit, because a fitted portrait will be a little wrong.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from stereotalker.audio.corpus import PARTS, REJECTED, Utterance, read_corpus, read_index
from stereotalker.body.layout import JOINT
from stereotalker.body.model import Body, load_body
from stereotalker.control.warp import control, reference
from stereotalker.errors import ClipError, UserError
from stereotalker.params import ROOT, BodyParams, PeopleParams, resolve
from stereotalker.people.backdrops import PICTURES, read_picture
from stereotalker.people.figure import FACES
from stereotalker.people.shards import FULL_DISK, read_shards, try_writing, write_shard
from stereotalker.people.takes import Shot, Take, cast, perform
from stereotalker.processes import pool
from stereotalker.records import Avatar, Camera, Motion, Speech, save

_NOT_IN_SHARDS = frozenset({"card.py", "ingest.py"})  # code that makes no shard of people


@dataclass(frozen=True)
class Sample:
    """A take as masks and renderer are trained on it. N = C x T frames of H x W; all u8 but the angles."""

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


def to_sample(take: Take, body: Body, seed: int, wrong: float) -> Sample:
    """Control maps of a take as an imperfect fit would give them. wrong: size of the fit's errors, 0 for none."""
    rng = np.random.default_rng([seed, take.identity, take.number, 17])
    C, T = take.image.shape[:2]
    fitted = wrong_fit(take.avatar, body, int(rng.integers(1 << 30)), wrong * rng.uniform(0, 1.2)) if wrong else take.avatar
    motion = Motion(*(np.concatenate([a] * C) for a in (take.motion.poses, take.motion.expression, take.motion.trans)), take.motion.fps)
    camera = Camera(*(np.concatenate([getattr(view, name) for view in take.camera]) for name in ("intrinsics", "extrinsics", "azimuth", "elevation")), take.camera[0].size)
    maps = control(reference(fitted, body), body, motion, camera, np.inf)  # a far background moves most
    flat = lambda a: a.reshape(C * T, *a.shape[2:])  # noqa: E731
    return Sample(
        identity=take.identity, portrait=take.avatar.portrait, image=flat(take.image), regions=flat(take.regions), warp=maps.warp,
        visibility=maps.visibility, normals=maps.normals, labels=maps.labels, plate=maps.plate, angles=np.stack([camera.azimuth, camera.elevation], 1),
    )  # fmt: skip


def read_people(folder: Path, body: Body, params: PeopleParams, most: int | None = None) -> list[Sample]:
    """Takes of a folder as samples, in the order of names; `most` identities at the most."""
    samples: list[Sample] = []
    for take in read_shards(folder):
        if most is not None and len({s.identity for s in samples} | {take.identity}) > most:
            break
        samples.append(to_sample(take, body, params.seed, params.wrong))
    if not samples:
        raise UserError(f"{folder} holds no shard of takes; run the stage `people` with more identities than it holds out")
    return samples


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


# ---- the stage -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    path: Path
    identity: int
    body: BodyParams
    people: PeopleParams
    speeches: Path
    pictures: tuple[Path, ...]


def build_people(
    folder: Path, avatars: Path, body: BodyParams, params: PeopleParams, speeches: Path, processes: int | None = None, log: Callable[[str], None] = print
) -> None:  # fmt: skip
    """Write `folder`/{train,held_out}/people-NNNNNN.tar, rejected.jsonl and the shipped avatars. Shards that are there are kept.

    An identity that cannot be made, for whatever it needs that is broken or a disk that is full, is refused with its reason.
    Raises UserError where not one could be made.
    """
    pictures, rejected = _backgrounds(params)
    _start_over_if_changed(folder, _recipe(body, params, speeches, pictures))
    jobs = []
    for identity in range(params.identities):
        part = PARTS[identity >= params.identities - params.held_out]
        (folder / part).mkdir(parents=True, exist_ok=True)
        path = folder / part / f"people-{identity:06d}.tar"
        if not path.exists():  # renamed into place when whole, so what is there is done
            jobs.append(_Job(path, identity, body, params, speeches / part, pictures))
    with pool(processes) as workers:
        for count, (job, reason) in enumerate(zip(jobs, workers.map(_write_shard, jobs), strict=True), 1):
            if reason:
                rejected.append({"identity": job.identity, "reason": reason})
                log(f"people: identity {job.identity} refused: {reason}")
            elif count % 10 == 0 or count == len(jobs):
                log(f"people: {count} of {len(jobs)} shards written")
    try_writing(folder / REJECTED, "".join(json.dumps(row) + "\n" for row in rejected), log)
    if not any(folder.glob("*/people-*.tar")):
        raise UserError(f"people: not one of {params.identities} identities could be made; the first reason: {rejected[0]['reason']}")
    torch.set_num_threads(1)  # as in the workers
    model = load_body(resolve(body.file), body.reader, body.betas)
    avatars.mkdir(parents=True, exist_ok=True)
    for name, offset in params.avatars.items():
        # Hands beside the trunk hide least of it, so that the warp has least to invent.
        save(cast(params.identities + offset, model, params.avatar_size, 2, name, rest="open").avatar, avatars / f"{name}.safetensors")


def _recipe(body: BodyParams, params: PeopleParams, speeches: Path, pictures: tuple[Path, ...]) -> str:
    """Digest of all that shards are made from: numbers, body, faces, speech, pictures and our own code."""
    own = params.model_dump(mode="json", exclude={"avatars", "avatar_size", "wrong"})
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode())
    code = sorted(path for name in ("people", "body", "control") for path in (ROOT / "stereotalker" / name).glob("*.py") if path.name not in _NOT_IN_SHARDS)
    spoken = [path for part in PARTS for path in sorted((speeches / part).glob("*"))]
    for path in (resolve(body.file), FACES, *spoken, *pictures, *code):
        digest.update(path.name.encode() + path.read_bytes() if path.is_file() else b"absent")
    return digest.hexdigest()


def _start_over_if_changed(folder: Path, recipe: str) -> None:
    """Shards made from something else are removed; those of an interrupted run stay."""
    note = folder / "recipe"
    if folder.exists() and not (note.is_file() and note.read_text() == recipe):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(recipe)


def _backgrounds(params: PeopleParams) -> tuple[tuple[Path, ...], list[dict]]:
    """The user's background pictures that can be read, and the others with reasons."""
    if params.backgrounds is None:
        return (), []
    folder = resolve(params.backgrounds)
    if not folder.is_dir():
        raise UserError(f"people.backgrounds: {folder} is not a folder; expected one of pictures, or null")
    good, rejected = [], []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES):
        try:
            read_picture(path, (64, 64))
            good.append(path)
        except UserError as error:
            rejected.append({"file": path.name, "reason": str(error)})
    return tuple(good), rejected


@lru_cache(maxsize=1)
def _corpus(folder: Path) -> tuple[list[Speech], list[Utterance]]:
    return read_corpus(folder), read_index(folder)


def _write_shard(job: _Job) -> str:
    """Make one identity's shard. Returns why it could not be made, '' where it could."""
    torch.set_num_threads(1)
    params = job.people
    body = load_body(resolve(job.body.file), job.body.reader, job.body.betas)
    try:
        speeches, rows = _corpus(job.speeches)
        usable = [k for k, speech in enumerate(speeches) if speech.phonemes]
        if not usable:
            raise UserError(f"{job.speeches} holds no speech with phoneme times; run the stage `speech` first")
        actor = cast(job.identity, body, params.size, params.supersample, pictures=job.pictures)
        rng = np.random.default_rng([params.seed, job.identity])
        shot = Shot(params.cameras, params.frames, params.fps, params.swing, params.supersample)
        picks = [usable[rng.integers(len(usable))] for _ in range(params.takes)]
        takes = [perform(actor, body, speeches[k], number, params.seed, shot) for number, k in enumerate(picks)]
        write_shard(job.path, takes, [{"utterance": rows[k].__dict__} for k in picks])
    except (UserError, ClipError) as error:
        return str(error)
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        return f"{job.path} cannot be written: {error.strerror}"
    return ""
