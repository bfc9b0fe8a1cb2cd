"""Marks in a script: pauses, stress, passages in another language, and cues for the speaker.

`[pause 0.5]` is a silence of half a second. `*this*` is stressed by the natural voices. `<lang xml:lang="de">Guten
Morgen</lang>`, as in SSML, is spoken by the voice of that language. Anything else in square brackets is a cue such as
`[nod]`, which is not spoken: see `acting.cues`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from scipy.signal import resample_poly

from stereotalker.audio.text_to_speech import SpokenText
from stereotalker.audio.written_words import count_words
from stereotalker.errors import ClipError

MAX_PAUSE_S = 30.0
_MARK = re.compile(r"\[\s*pause\b([^\]]*)\]|<\s*lang\b([^>]*)>|<\s*/\s*lang\s*>", re.IGNORECASE)
_CUE = re.compile(r"\[(?!\s*pause\b)([^\[\]]*)\]", re.IGNORECASE)
_SPACED_CUE = re.compile(rf"([ \t]*){_CUE.pattern}([ \t]*)", re.IGNORECASE)
# What stands at a word without a space: behind it, before it, and signs that may do either.
_CLOSING, _OPENING, _EITHER = ".,;:!?…)”»", "(“«¿¡", "*\"'"
_STRESS = re.compile(r"(?<![\w*])\*([^\s*](?:[^*]*[^\s*])?)\*(?![\w*])")
_LANGUAGE = re.compile(r"""\s*xml:lang\s*=\s*["']([\w-]+)["']\s*""")


class Speaker(Protocol):
    """What speaks a text: a voice of espeak-ng, a natural one, or one of the user's own."""

    @property
    def label(self) -> str:
        """What messages call it."""

    @property
    def reads_ipa(self) -> bool:
        """Whether it takes a lexicon and stresses words."""

    def identity(self) -> list:
        """What its sound depends on beside the text, for store keys."""

    def check(self, text: str) -> None:
        """Raise ClipError for a text that it cannot speak, as far as the text's letters tell."""

    def spelled_out(self, text: str) -> str:
        """The text as it is spoken, with numbers and signs as words where the voice tells."""

    def speak(self, text: str, stressed: Collection[int] = ()) -> SpokenText:
        """Synthesize a text. Raises ClipError if it cannot be spoken.

        stressed: numbers of its words, from 0, that are stressed if the voice can; words are parted by spaces.
        """


@dataclass(frozen=True)
class Passage:
    """A part of a script that one voice speaks."""

    text: str
    language: str | None  # None: that of the script
    pause: float  # s of silence before it
    stressed: tuple[int, ...] = ()  # numbers of its words, from 0, that are stressed


@dataclass(frozen=True)
class MarkedVoice:
    """Speaks a script with marks: each passage by the voice of its language."""

    voice_of: Callable[[str | None], Speaker]  # language -> its voice; None: that of the script

    def identity(self, text: str) -> list:
        """What the sound of a text depends on beside it, for store keys. Raises ClipError for a faulty mark."""
        return [self.voice_of(passage.language).identity() for passage in passages(text)]

    def check(self, text: str) -> None:
        """Raise ClipError for a faulty mark, and for a passage that its voice does not speak."""
        for passage in passages(text):
            self.voice_of(passage.language).check(passage.text)

    def spelled_out(self, text: str) -> str:
        """The text as it is spoken, without marks."""
        return " ".join(self.voice_of(p.language).spelled_out(p.text) for p in passages(text) if p.text)

    def speak(self, text: str) -> SpokenText:
        """The passages one after the other, equally loud, at the sample rate of the first."""
        spoken: SpokenText | None = None
        for passage in passages(text):
            if not any(c.isalnum() for c in passage.text):
                part = SpokenText(np.zeros(0, np.float32), spoken.sample_rate if spoken else 24_000, (), ())
            else:
                part = self.voice_of(passage.language).speak(passage.text, passage.stressed)
            spoken = _joined(spoken, part, passage.pause)
        assert spoken is not None
        return spoken


def passages(script: str) -> list[Passage]:
    """The passages of a script, at least one. Raises ClipError for a faulty mark."""
    result: list[Passage] = []
    script, position, pause, language = without_cues(script), 0, 0.0, None
    for mark in [*_MARK.finditer(script), None]:
        text = script[position : mark.start() if mark else None].strip()
        if bracket := re.search(r"[\[\]].{0,20}", text):
            raise ClipError(f"script: {bracket[0]!r}: a square bracket that pairs with none; write a round one")
        if text or (mark is None and (pause or not result)):
            result.append(_stressed(text, language, pause))
            pause = 0.0
        if mark is None:
            break
        position = mark.end()
        if mark[1] is not None:
            pause += _pause_seconds(mark)
        elif mark[2] is None:
            if language is None:
                raise ClipError(f"script: {mark[0]} closes no <lang>")
            language = None
        else:
            if language is not None:
                raise ClipError(f"script: {mark[0]} stands within another <lang>; close that first")
            found = _LANGUAGE.fullmatch(mark[2])
            if found is None:
                raise ClipError(f'script: {mark[0]}; expected <lang xml:lang="de">')
            language = found[1]
    if language is not None:
        raise ClipError(f"script: <lang> of {language!r} is not closed; expected </lang>")
    return result


@dataclass(frozen=True)
class CueMark:
    """A cue in a script."""

    text: str  # what stands in the brackets
    word: int  # how many words of the script stand before it


def cue_marks(script: str) -> list[CueMark]:
    """The cues of a script. Raises ClipError for a faulty mark."""
    passages(script)
    return [
        CueMark(mark[1].strip(), count_words(_MARK.sub(" ", _CUE.sub("", script[: mark.start()]))))
        for mark in _CUE.finditer(script)
    ]


def without_cues(script: str) -> str:
    """The script as if it had no cues."""
    return _SPACED_CUE.sub(_space_of_cue, script).strip() if _CUE.search(script) else script


def _space_of_cue(cue: re.Match) -> str:
    """What stands in the place of a cue: a space, if its words have one."""
    before, after = cue.string[: cue.start()][-1:], cue.string[cue.end() :][:1]
    has_left, has_right = bool(cue[1]), bool(cue[3])
    is_behind_opening = before in _OPENING or (before in _EITHER and not has_left)
    is_before_closing = after in _CLOSING or (after in _EITHER and not has_right)
    if before.isspace() or after.isspace() or is_behind_opening or is_before_closing:
        return ""
    return " " if has_left or has_right else ""


def without_marks(script: str) -> str:
    """The words of a script, as captions show them. Raises ClipError for a faulty mark."""
    return " ".join(passage.text for passage in passages(script) if passage.text)


def _stressed(text: str, language: str | None, pause: float) -> Passage:
    """A passage whose text may have words in asterisks."""
    parts = _STRESS.split(text)  # every second one stands in asterisks
    stressed: list[int] = []
    count = 0
    for k, part in enumerate(parts):
        words = len(part.split())
        joins_word = k > 0 and count > 0 and part[:1].strip() != "" and parts[k - 1][-1:].strip() != ""
        count -= joins_word  # what follows an asterisk without a space belongs to the word before it
        stressed += range(count, count + words) if k % 2 else ()
        count += words
    return Passage("".join(parts), language, pause, tuple(stressed))


def _pause_seconds(mark: re.Match) -> float:
    try:
        seconds = float(mark[1])
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= MAX_PAUSE_S:
        raise ClipError(f"script: {mark[0]}; expected seconds up to {MAX_PAUSE_S:g}, such as [pause 0.5]")
    return seconds


def _joined(first: SpokenText | None, second: SpokenText, pause: float) -> SpokenText:
    """Two passages, with silence between them; None: there is nothing before the second."""
    rate = first.sample_rate if first else second.sample_rate
    samples = second.samples
    if rate != second.sample_rate:
        common = int(np.gcd(rate, second.sample_rate))
        samples = resample_poly(samples, rate // common, second.sample_rate // common).astype(np.float32)
    before = first.samples if first else np.zeros(0, np.float32)
    if level := _level(before):
        samples = samples * min(level / max(_level(samples), 1e-6), 1 / max(np.abs(samples).max(initial=0), 1e-6))
    silence = np.zeros(round(pause * rate), np.float32)
    start = (len(before) + len(silence)) / rate
    words, phonemes = (
        (*before_items, *(replace(item, start=item.start + start, end=item.end + start) for item in items))
        for before_items, items in (
            (first.words if first else (), second.words),
            (first.phonemes if first else (), second.phonemes),
        )
    )
    return SpokenText(np.concatenate([before, silence, samples]).astype(np.float32), rate, words, phonemes)


def _level(samples: np.ndarray) -> float:
    """Root mean square of the sound that is not silence; 0 for none."""
    loud = samples[np.abs(samples) > 0.01]
    return float(np.sqrt((loud**2).mean())) if len(loud) else 0.0
