"""Stage `people`: renders identities that act real and synthetic speech before several cameras, and writes shards.

It also makes the shipped avatars, and a list of what was refused. A shard is a function of (params, identity, corpus):
its bytes depend neither on the number of processes nor on interruptions.
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

from stereotalker.body.model import load_body
from stereotalker.body.shape_space import SHAPE_SPACE_FILE
from stereotalker.dataset.shards import write_or_log, write_shard
from stereotalker.dataset.speech_corpus import PARTS, REJECTED, Utterance, read_corpus, read_index
from stereotalker.errors import ClipError, UserError, shared_fault
from stereotalker.params import PACKAGE, BodyParams, PeopleParams, resolve
from stereotalker.records import Speech, save
from stereotalker.runtime.process_pool import pool
from stereotalker.synthetic.actor import build_actor
from stereotalker.synthetic.backgrounds import PICTURES, read_picture
from stereotalker.synthetic.fit_silhouette import fit_silhouette
from stereotalker.synthetic.takes import CaptureSetup, capture_take

# Source files that decide what a shard holds. After a change to any of them all shards are made again.
_SHARD_CODE = (
    "synthetic/*.py",
    "acting/*.py",
    "body/*.py",
    "geometry/*.py",
    "smplx_layout.py",
    "avatar/clothed_surface.py",
    "avatar/hair_depth.py",
    "control/background_plate.py",
    "dataset/build.py",
    "dataset/shards.py",
    "media/audio_files.py",
)


@dataclass(frozen=True)
class IdentityJob:
    """What a worker process needs to make one shard."""

    path: Path  # of the shard
    identity: int
    body: BodyParams
    people: PeopleParams
    speeches: Path  # corpus folder of the identity's part, train or held_out
    pictures: tuple[Path, ...]  # background pictures


def build_people(
    folder: Path,
    avatars: Path,
    body: BodyParams,
    params: PeopleParams,
    speeches: Path,
    processes: int | None = None,
    log: Callable[[str], None] = print,
) -> None:
    """Write `folder`/{train,held_out}/people-NNNNNN.tar and rejected.jsonl, and the shipped avatars to `avatars`.

    speeches: folder of the stage `speech`. Shards that exist already are kept. An identity that cannot be made, because
    an input is broken or the disk is full, is refused with its reason. Raises UserError where no identity could be
    made.
    """
    pictures, rejected = _backgrounds(params)
    _start_over_if_changed(folder, _recipe(body, params, speeches, pictures))
    jobs = []
    for identity in (*range(params.identities), *range(params.first_held_out, params.first_held_out + params.held_out)):
        part = PARTS[identity >= params.first_held_out]
        (folder / part).mkdir(parents=True, exist_ok=True)
        path = folder / part / f"people-{identity:06d}.tar"
        if not path.exists():  # a shard gets its name when it is complete, so an existing one is complete
            jobs.append(IdentityJob(path, identity, body, params, speeches / part, pictures))
    with pool(__name__, processes) as workers:
        for count, (job, reason) in enumerate(zip(jobs, workers.map(write_identity, jobs), strict=True), 1):
            if reason:
                rejected.append({"identity": job.identity, "reason": reason})
                log(f"people: identity {job.identity} refused: {reason}")
            elif count % 10 == 0 or count == len(jobs):
                log(f"people: {count} of {len(jobs)} shards written")
    write_or_log(folder / REJECTED, "".join(json.dumps(row) + "\n" for row in rejected), log)
    if not any(folder.glob("*/people-*.tar")):
        count, reason = params.identities + params.held_out, rejected[0]["reason"]
        raise UserError(f"people: not one of {count} identities could be made; the first reason: {reason}")
    torch.set_num_threads(1)  # as in the worker processes, so that results are the same
    model = load_body(resolve(body.file), body.file_reader, body.betas)
    avatars.mkdir(parents=True, exist_ok=True)
    for name, offset in params.avatars.items():
        # Hands that rest beside the trunk hide least of it, so the reference warp has least to inpaint.
        shipped = build_actor(params.identities + offset, model, params.avatar_size, 2, name, rest="open").avatar
        save(fit_silhouette(shipped, model), avatars / f"{name}.safetensors")


def _recipe(body: BodyParams, params: PeopleParams, speeches: Path, pictures: tuple[Path, ...]) -> str:
    """Digest of all that shards are made from: parameters, body, faces, speech, background pictures, source code."""
    values = params.model_dump(mode="json", exclude={"avatars", "avatar_size", "wrong"})
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    code = sorted(path for pattern in _SHARD_CODE for path in PACKAGE.glob(pattern))
    corpus = [path for part in PARTS for path in sorted((speeches / part).glob("*"))]
    for path in (resolve(body.file), SHAPE_SPACE_FILE, *corpus, *pictures, *code):
        digest.update(path.name.encode() + path.read_bytes() if path.is_file() else b"absent")
    return digest.hexdigest()


def _start_over_if_changed(folder: Path, recipe: str) -> None:
    """Remove shards that were made from other inputs, and keep those of an interrupted run with the same inputs."""
    recipe_file = folder / "recipe"
    if folder.exists() and not (recipe_file.is_file() and recipe_file.read_text(encoding="utf-8") == recipe):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    recipe_file.write_text(recipe, encoding="utf-8")


def _backgrounds(params: PeopleParams) -> tuple[tuple[Path, ...], list[dict]]:
    """The user's background pictures that can be read, and rows of rejected.jsonl for the others."""
    if params.backgrounds is None:
        return (), []
    folder = resolve(params.backgrounds)
    if not folder.is_dir():
        raise UserError(f"people.backgrounds: {folder} is not a folder; expected one of pictures, or null")
    readable, rejected = [], []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES):
        try:
            read_picture(path, (64, 64))
            readable.append(path)
        except UserError as error:
            rejected.append({"file": path.name, "reason": str(error)})
    return tuple(readable), rejected


@lru_cache(maxsize=1)
def _corpus(folder: Path) -> tuple[list[Speech], list[Utterance]]:
    """The corpus of a folder; a worker process keeps the last one, because its jobs share it."""
    return read_corpus(folder), read_index(folder)


def write_identity(job: IdentityJob) -> str:
    """Make one identity's shard. Returns why it could not be made, or '' where it could."""
    torch.set_num_threads(1)
    params = job.people
    body = load_body(resolve(job.body.file), job.body.file_reader, job.body.betas)
    try:
        speeches, rows = _corpus(job.speeches)
        usable = [k for k, speech in enumerate(speeches) if speech.phonemes]
        if not usable:
            raise UserError(f"{job.speeches} holds no speech with phoneme times; run the stage `speech` first")
        # Hair is drawn per sample, so it is equally thick in portrait and frames only if their samples are equally
        # large.
        samples = params.supersample * params.size // params.portrait_size
        actor = build_actor(job.identity, body, params.portrait_size, samples, pictures=job.pictures)
        actor = replace(actor, avatar=fit_silhouette(actor.avatar, body))
        rng = np.random.default_rng([params.seed, job.identity])
        setup = CaptureSetup(params.size, params.cameras, params.frames, params.fps, params.swing, params.supersample)
        if job.path.parent.name == PARTS[True]:
            setup = replace(
                setup,
                azimuths=tuple(params.evaluation.azimuths),
                frames=params.evaluation.frames,
                fps=params.evaluation.fps,
            )
        picks = [usable[rng.integers(len(usable))] for _ in range(params.takes)]
        takes = [capture_take(actor, body, speeches[k], number, params.seed, setup) for number, k in enumerate(picks)]
        write_shard(job.path, takes, [{"utterance": rows[k].__dict__} for k in picks])
    except (UserError, ClipError) as error:
        return str(error)
    except OSError as error:
        if not shared_fault(error):
            raise
        return f"{job.path} cannot be written: {error.strerror}"
    return ""
