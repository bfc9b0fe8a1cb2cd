"""What one person of a clip is and does: the keys that a row of the manifest shares with the people of a scene."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from stereotalker.acting.reference_acting import STYLE_INDEX
from stereotalker.avatar.consent import Consent
from stereotalker.media.photos import is_picture
from stereotalker.production.row_records import (
    CueKey,
    EmotionKey,
    Part,
    checked_lexicon,
    cue_list,
    emotion_keys,
)
from stereotalker.validation import StrictModel


def _auto(value):
    """An empty transcript is recognized, too."""
    return "auto" if value is None else value


class Performance(StrictModel):
    """A speaker, what is said, and how the body moves to it. Paths are relative to the manifest's folder."""

    avatar: str = Field(description="a name of the avatar library, or a portrait's file, which is fitted once")
    consent: Consent | None = Field(None, description="for a portrait's file; an avatar of the library has its own")
    arms: Literal["auto", "invent"] = Field(
        "auto", description="auto: arms whose hands the portrait does not show hardly move; invent: they gesture"
    )
    rest: Literal["portrait", "clasped", "sides"] = Field(
        "portrait", description="where the arms rest between gestures: as in the portrait, clasped, or at the sides"
    )
    audio: Path | None = Field(None, description="a file with speech; any format that ffmpeg reads")
    part: Part | None = Field(None, description="the part of `audio` that is used; null: all of it")
    speaker: int | None = Field(
        None,
        ge=1,
        description="which sound track of `audio` speaks, or which channel in a file with one track; null: all",
    )
    script: str | None = Field(None, description="words to speak, instead of `audio`")
    transcript: Annotated[str, BeforeValidator(_auto)] = Field(
        "auto", description="what is said in `audio`; auto or null: it is recognized; none: the sound alone is used"
    )
    language: str | None = Field(
        None,
        description="language of the speech, as espeak-ng names it; null: en-us for a script, and recognized in "
        "recordings; that of a transcript is en-us if this fits",
    )
    voice: str = Field(
        "",
        description="who speaks `script`: heart (English), kumo (English, Japanese), alpha (Japanese), piper:FILE or "
        "kokoro:FILE of your own, espeak or a variant of its voices, such as m3; empty: heart for American English and "
        "alpha for Japanese if they are installed, else espeak",
    )
    rate: int = Field(165, ge=80, le=400, description="words a minute")
    pitch: int | None = Field(
        None, ge=0, le=99, description="0 (low) to 99 (high), of espeak-ng's voices; null: their own, 50"
    )
    lexicon: Annotated[dict[str, str], AfterValidator(checked_lexicon)] = Field(
        {}, description="words and how they sound in IPA, for the natural voices and for the alignment of recordings"
    )
    seed: int = Field(0, ge=0, description="another seed gives another take")
    gesture: float = Field(1.0, ge=0, le=2, description="size of gestures; 0: still arms")
    style: str | None = Field(None, description="a personality, such as presenter; null: the avatar's own")
    gaze: Literal["free", "camera"] = Field("free", description="camera: the eyes stay on the clip's camera")
    body: Literal["moving", "still"] = Field("moving", description="still: only head and face move")
    emotion: Annotated[tuple[EmotionKey, ...], BeforeValidator(emotion_keys)] = Field(
        (), description="one name for the whole clip, or key frames of the face's emotion"
    )
    cues: Annotated[tuple[CueKey, ...], BeforeValidator(cue_list)] = Field(
        (), description="what the speaker does at a word or a time, beside the cues in the script's brackets"
    )
    start_pose: Path | None = Field(
        None, description="`rest` or null: it begins at rest; or a motion .npz, in its last frame"
    )
    end_pose: Path | None = Field(
        None, description="`rest` or null: it ends at rest; or a motion .npz, in its first frame"
    )

    @model_validator(mode="after")
    def _check_performance(self):
        if self.audio is not None and self.script is not None:
            raise ValueError("give audio or script, one of them")
        if self.given_transcript is not None and self.audio is None:
            raise ValueError("transcript is what is said in an audio file; a script needs none")
        if self.part is not None and self.audio is None:
            raise ValueError("part is of an audio file; a script is spoken whole")
        if self.speaker is not None and self.audio is None:
            raise ValueError("speaker is a track of an audio file; a script has one voice")
        if self.pitch is not None and self.audio is not None:
            raise ValueError("pitch is of the voice that speaks a script; a recording has its own")
        if self.given_transcript is not None and not any(c.isalnum() for c in self.given_transcript):
            raise ValueError(
                f"transcript {self.transcript[:40]!r} has no letters or digits; expected what is said, auto or none"
            )
        if self.consent is not None and not is_picture(self.avatar):
            raise ValueError(
                "consent beside an avatar of the library, which has its own; give it with a portrait's file"
            )
        if self.style is not None and self.style not in STYLE_INDEX:
            raise ValueError(f"style {self.style!r} is unknown; expected one of {', '.join(STYLE_INDEX)}")
        if self.body == "still" and self.end_pose is not None:
            raise ValueError("a body that is still keeps the pose it begins in: give end_pose or body still, not both")
        if any(b.time <= a.time for a, b in pairwise(self.emotion)):
            raise ValueError("emotion key frames must have rising times")
        return self

    @property
    def recording(self) -> Path:
        """The file of recorded speech of somebody who has no script."""
        assert self.audio is not None
        return self.audio

    @property
    def given_transcript(self) -> str | None:
        """What is said in the recording, if the row tells it."""
        return None if self.transcript in ("auto", "none") else self.transcript

    @property
    def is_recognized(self) -> bool:
        """Whether the words of the recording are to be recognized."""
        return self.audio is not None and self.transcript == "auto"
