"""Remembers which clips are finished, so that a finished batch is confirmed without looking up every stage.

A store entry of the stage `clip` says what a clip became. Its key holds everything that the stages depend on, before
any of them is made.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stereotalker.avatar.background_plate import Background
from stereotalker.errors import UserError
from stereotalker.media.photos import is_picture
from stereotalker.production.avatars import fit_key
from stereotalker.production.clip_cues import CueOutcome
from stereotalker.production.clip_speech import speech_source
from stereotalker.production.clip_stages import ClipMaker
from stereotalker.production.conversation import turns_of
from stereotalker.production.manifest import REST_POSE, Clip
from stereotalker.store.code import code_version
from stereotalker.store.digests import digest, file_digest

_STAGE, _FILE = "clip", "clip.json"


@dataclass(frozen=True)
class FinishedRecord:
    """The video that a clip became."""

    sha256: str
    bytes: int
    verdict: str
    reasons: tuple[str, ...]
    measures: dict[str, float]
    frames: int
    clip_record: dict  # see clip_record.py
    captions: dict[str, str] = field(default_factory=dict)  # of their files, by ending
    cues: tuple[CueOutcome, ...] = ()


def remember(maker: ClipMaker, clip: Clip, key: str, record: FinishedRecord) -> None:
    """Write down that a clip is finished and delivered.

    key: its `clip_key` before it was made. If an input was replaced meanwhile, nothing is written.
    """
    if clip_key(maker, clip) != key:
        return
    maker.store.discard(_STAGE, key)  # it was made anew, and judged otherwise

    def write(folder: Path) -> None:
        (folder / _FILE).write_text(json.dumps(asdict(record)), encoding="utf-8")

    maker.store.make(_STAGE, key, write)


def recall(maker: ClipMaker, clip: Clip) -> FinishedRecord | None:
    """What a clip became; None if it was not finished with these inputs, models, code and parameters."""
    try:
        return _read(maker, clip_key(maker, clip))
    except (UserError, OSError):  # an input is missing or refused: the usual way says so in the clip's row
        return None


def _read(maker: ClipMaker, key: str) -> FinishedRecord | None:
    folder = maker.store.find(_STAGE, key)
    if folder is None:
        return None
    values = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    cues = tuple(CueOutcome(**cue) for cue in values["cues"])
    return FinishedRecord(**values | {"reasons": tuple(values["reasons"]), "cues": cues})


def clip_key(maker: ClipMaker, clip: Clip) -> str:
    """Store key of what a clip becomes. Raises UserError or OSError if an input cannot be read."""
    models, params = maker.models, maker.params
    font = clip.captions.font if clip.captions else None
    sections = (params.audio, params.motion, params.render, params.video, params.quality, params.body)
    return digest(
        _STAGE,
        code_version(),
        clip.model_dump(mode="json", exclude={"priority", "deadline"}),
        [_person(maker, alone) for alone in clip.people],
        Background.read(clip.background).digest,
        font and file_digest(font),
        models.digests,
        models.arithmetic,
        # A voice or a recognizer that was installed meanwhile speaks or hears otherwise.
        [_speech(maker, turn.clip) for turn in turns_of(clip)],
        [section.model_dump(mode="json") for section in sections],
        params.produce.worker.threads,
        maker.signer and maker.signer.identity,
    )


def _person(maker: ClipMaker, clip: Clip) -> list:
    """What a person of a clip is made from, apart from the row. clip: of this person alone."""
    if is_picture(clip.avatar):
        avatar = fit_key(Path(clip.avatar), Path(clip.avatar).read_bytes(), maker.models)
    else:
        avatar = file_digest(maker.library.find(clip.avatar))
    consent = maker.library.consent(clip.avatar, clip.consent)
    poses = [pose for pose in (clip.start_pose, clip.end_pose) if pose not in (None, REST_POSE)]
    return [avatar, consent and consent.model_dump(mode="json"), [file_digest(path) for path in poses]]


def _speech(maker: ClipMaker, clip: Clip) -> tuple:
    return speech_source(clip, file_digest(clip.audio) if clip.audio else "", maker.models.recognizer)
