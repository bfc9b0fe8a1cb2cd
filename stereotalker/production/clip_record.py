"""The record of a clip: what it was made from and with, as JSON beside the video.

Its part `made` is the same whenever the same clip is made from the same inputs. The digest of that part is in the
video's content credentials, so record and video belong together. The part `delivered` says what happened to the file.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path

from stereotalker.avatar.background_plate import Background
from stereotalker.media.photos import is_picture
from stereotalker.production.clip import FinishedClip
from stereotalker.production.clip_stages import ChangedFile, ClipMaker, StageTimings
from stereotalker.production.manifest import REST_POSE, Clip
from stereotalker.production.motion_controls import clip_seed
from stereotalker.releases.release import libraries
from stereotalker.store.code import code_version
from stereotalker.store.digests import bytes_digest, file_digest

FORMAT = 1


def sign_with_record(
    maker: ClipMaker, clip: Clip, finished: FinishedClip, inputs: dict, timings: StageTimings
) -> tuple[Path, dict]:
    """Sign a finished clip. Returns the signed video, and the part `made` of the record that its credentials name.

    inputs: `describe_inputs` before the clip was made. Raises ChangedFile if one of them was replaced meanwhile.
    """
    if describe_inputs(maker, clip) != inputs:
        raise ChangedFile(f"a file or the consent of clip {clip.id} was replaced while it was made")
    made = inputs | describe_result(maker, clip, finished)
    return maker.sign(clip, finished.file, record_digest(made), timings), made


def describe_inputs(maker: ClipMaker, clip: Clip) -> dict:
    """What a clip is made from: plain values for JSON. Raises ClipError or OSError if an input cannot be read."""
    inputs = {
        "clip": clip.id,
        "row": clip.model_dump(mode="json", exclude={"priority", "deadline"}),
        "background": Background.read(clip.background).digest,
    }
    if not clip.scene:
        return inputs | _describe_person(maker, clip)
    people = [
        {"name": person.label} | _describe_person(maker, alone)
        for person, alone in zip(clip.scene, clip.people, strict=True)
    ]
    font = clip.captions.font if clip.captions else None
    return inputs | {"people": people, "files": _with_digests({"font": font})}


def people_of(made: dict) -> list[dict]:
    """Who is in a clip: `avatar`, `consent` and `files` of each, and `name` in a scene. made: part of its record."""
    return made.get("people") or [{name: made[name] for name in ("avatar", "consent", "files")}]


def _describe_person(maker: ClipMaker, clip: Clip) -> dict:
    """What a person of a clip is made from. clip: of this person alone."""
    consent = maker.library.consent(clip.avatar, clip.consent)
    return {
        "files": _with_digests(_files(clip)),
        "avatar": _avatar(maker, clip),
        "consent": consent and consent.model_dump(mode="json"),
    }


def _with_digests(files: dict[str, Path | None]) -> dict:
    """Paths and digests of files, by their use."""
    return {name: {"path": os.path.abspath(path), "sha256": file_digest(path)} for name, path in files.items() if path}


def describe_result(maker: ClipMaker, clip: Clip, finished: FinishedClip) -> dict:
    """What a clip was made with, and what came out: plain values for JSON."""
    params, models, measures = maker.params, maker.models, finished.verdict.measures
    return {
        "release": {"number": models.release_number, "digest": models.release},
        "recognized": _recognized(maker, clip, finished),
        "models": models.digests,
        "code": code_version(),
        "libraries": libraries(),
        "arithmetic": models.arithmetic,
        "params": params.of_models() | {"threads": params.produce.worker.threads},
        "seeds": _seeds(clip),
        "store": finished.keys,
        "frames": finished.frames,
        "verdict": finished.verdict.verdict,
        "reasons": list(finished.verdict.reasons),
        "cues": [asdict(cue) for cue in finished.verdict.cues],
        "measures": {name: value if math.isfinite(value) else None for name, value in measures.items()},
        "video": {"sha256": file_digest(finished.file), "signed": maker.signer is not None},
    }


def _seeds(clip: Clip) -> dict:
    """The seeds of a clip, or those of each person of a scene."""

    def of_one(alone: Clip) -> dict:
        return {"clip": clip_seed(alone), "retakes": [clip_seed(alone, retake.seed) for retake in alone.retakes]}

    people = {person.label: of_one(alone) for person, alone in zip(clip.scene, clip.people, strict=False)}
    return people or of_one(clip)


def _recognized(maker: ClipMaker, clip: Clip, finished: FinishedClip) -> dict | None:
    """What was heard in a recording without a transcript, and by which models."""
    recognizer = maker.models.recognizer if any(alone.is_recognized for alone in clip.people) else None
    if recognizer is None:
        return None
    return {
        "text": finished.recognized,
        "language": finished.recognized_language,
        "models": recognizer.description,
        "digest": recognizer.digest,
    }


def _files(clip: Clip) -> dict[str, Path | None]:
    """The files that a row names, apart from its portrait, by their use."""
    poses = {name: getattr(clip, name) for name in ("start_pose", "end_pose")}
    font = clip.captions.font if clip.captions else None
    return {"audio": clip.audio, **{name: None if p == REST_POSE else p for name, p in poses.items()}, "font": font}


def _avatar(maker: ClipMaker, clip: Clip) -> dict:
    """Where the face comes from: a portrait's file, or an avatar of the library with its card."""
    if is_picture(clip.avatar):
        return {
            "portrait": os.path.abspath(clip.avatar),
            "sha256": file_digest(Path(clip.avatar)),
            "origin": "portrait",
        }
    path, card = maker.library.find(clip.avatar), maker.library.card(clip.avatar)
    found = {"name": clip.avatar, "sha256": file_digest(path), "origin": "portrait" if card else "synthetic"}
    return found | ({"portrait_sha256": card.sha256, "fit": card.key} if card else {})


def record_digest(made: dict) -> str:
    """SHA-256 of the part `made`, as canonical JSON."""
    return bytes_digest(_canonical(made))


def complete(made: dict, file: str, signed: Path, batch: str, manifest: str) -> dict:
    """The whole record of a delivered clip. file: its name in the outputs; signed: the delivered bytes."""
    delivered = {
        "file": file,
        "sha256": file_digest(signed),
        "bytes": signed.stat().st_size,
        "entry": signed.parent.name,  # key of its entry in the store
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "batch": batch,
        "manifest": manifest,
        "machine": f"{platform.node()}, {platform.platform()}, Python {platform.python_version()}",
    }
    return {"format": FORMAT, "made": made, "digest": record_digest(made), "delivered": delivered}


def to_json(record: dict) -> bytes:
    """The bytes of the file."""
    return (json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _canonical(made: dict) -> bytes:
    return json.dumps(made, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
