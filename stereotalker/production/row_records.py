"""The records inside a row of the manifest: part, captions, emotion, cues and retakes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from stereotalker.acting.cues import parse_cue
from stereotalker.audio.lexicon import check_lexicon
from stereotalker.errors import UserError
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.media.burnt_captions import BurntCaptions
from stereotalker.validation import StrictModel


class Retake(StrictModel):
    """A stretch of the clip that is rendered again with another seed or camera; the rest stays as it was."""

    start: float = Field(ge=0, description="where the stretch begins, s from the clip's start")
    end: float = Field(gt=0, description="where it ends, s")
    seed: int | None = Field(None, ge=0, description="another seed for this stretch")
    camera: CameraPath | None = Field(None, description="another camera for this stretch")

    @model_validator(mode="after")
    def _agree(self):
        if self.end <= self.start:
            raise ValueError(f"retake must end after its start, got {self.start:g} to {self.end:g} s")
        if self.seed is None and self.camera is None:
            raise ValueError("retake needs a seed or a camera, or both")
        return self

    def frames(self, fps: float, frames: int) -> tuple[int, int]:
        """First frame of the retake, and the frame behind its last one. frames: number of frames of the clip."""
        return round(self.start * fps), min(round(self.end * fps), frames)


class Part(StrictModel):
    """The part of a recording that a clip is made of."""

    start: float = Field(0.0, ge=0, description="where it begins, s from the recording's start")
    seconds: float | None = Field(None, ge=0.2, description="how long it is; null: to the recording's end")


class EmotionKey(StrictModel):
    """From `time` on, the face shows the emotion `name`."""

    time: float = Field(0.0, ge=0, description="s from the clip's start")
    name: Literal["neutral", "happy", "serious"] = Field(description="what the face shows from `time` on")
    amount: float = Field(1.0, ge=0, le=1, description="how strongly the face shows it")


def emotion_keys(value):
    """One name stands for the whole clip."""
    return [{"name": value}] if isinstance(value, str) else value


class Captions(BurntCaptions):
    """Files with captions, and how they are drawn into the pictures."""

    burn: bool = Field(False, description="whether they are drawn into the pictures, too")

    @model_validator(mode="after")
    def _agree(self):
        if not self.burn and (unused := self.model_fields_set - {"burn"}):
            raise ValueError(f"{', '.join(sorted(unused))}: only for captions in the pictures; add burn: true")
        return self


def caption_settings(value):
    """A word for the usual settings; YAML makes a truth value of `yes` and `no`."""
    words = {"files": {}, "true": {}, "burnt": {"burn": True}, "none": None, "false": None}
    name = str(value).lower() if isinstance(value, str | bool) else ""
    if name and name not in words:
        raise ValueError(f"captions {value!r}; expected files, burnt, none, or settings such as {{burn: true}}")
    return words[name] if name else value


def checked_lexicon(lexicon: dict[str, str]) -> dict[str, str]:
    """A lexicon with words and IPA."""
    try:
        check_lexicon(lexicon)
    except UserError as error:
        raise ValueError(str(error).removeprefix("lexicon: ")) from None
    return lexicon


def cue_list(value):
    """A list of cues."""
    if not isinstance(value, list | tuple) or not all(isinstance(key, dict | CueKey) for key in value):
        raise ValueError(f"expected a list such as [{{gesture: nod, word: 3}}], got {value!r}")
    return value


def _existing_cue(text: str) -> str:
    """The text of a cue that exists. YAML makes truth values of the cues `yes` and `no`."""
    text = {True: "yes", False: "no"}.get(text, text) if isinstance(text, bool) else text
    if not isinstance(text, str):
        raise ValueError(f"expected the name of a cue such as nod, got {text!r}")
    try:
        return parse_cue(text).text
    except UserError as error:
        raise ValueError(str(error)) from None


def _word(value):
    """The number of a word, or the word."""
    if isinstance(value, bool):
        raise ValueError(f'YAML reads yes, no, on and off as {value}; put the word in quotes, such as "yes"')
    if (isinstance(value, int) and value < 1) or (isinstance(value, str) and not any(c.isalnum() for c in value)):
        raise ValueError(f"expected a number from 1, or a word, got {value!r}")
    return value


class CueKey(StrictModel):
    """A cue at a word or a time; in a script it can also stand in square brackets before its word."""

    gesture: Annotated[str, BeforeValidator(_existing_cue)] = Field(
        description="what the speaker does, as in a script's brackets: nod, `point: left`, `smile 0.8`"
    )
    word: Annotated[int | str | None, BeforeValidator(_word)] = Field(
        None, description="the word it falls on: its number, from 1, or the word itself, where it is said first"
    )
    time: float | None = Field(None, ge=0, description="s from the clip's start, in place of a word")

    @model_validator(mode="after")
    def _agree(self):
        if (self.word is None) == (self.time is None):
            raise ValueError(f"cue {self.gesture!r}: give its word or its time, one of them")
        return self
