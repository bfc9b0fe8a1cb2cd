"""Speech recognition: the words of recordings that have no transcript.

Silero finds the passages with speech, Whisper writes their text, and forced alignment gives the times of words and
phonemes. Whisper's own times are of no use for lips: those of tiny.en are 110 ms late, those of base 50 ms early.
Silero keeps Whisper from inventing words in music and noise. The models lie in wheels, and nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from stereotalker.audio import whisper_models
from stereotalker.audio.forced_alignment import Alignment, align
from stereotalker.audio.lexicon import NO_LEXICON, Lexicon
from stereotalker.audio.phonemes import phoneme_class
from stereotalker.audio.whisper_models import ENGLISH, Whisper, repeats_itself
from stereotalker.errors import ClipError
from stereotalker.records import SAMPLE_RATE, Timed
from stereotalker.store.digests import digest

Span = tuple[float, float]  # start and end, s

_VAD_CHUNK_S = 600  # seconds of sound in which Silero looks for speech at once: it copies them several times
_MAX_PASSAGE_S = 28.0  # Whisper reads 30 s at once
_MAX_PAUSE_S = 3.0  # longest pause within a passage: every passage costs as much as 30 s of speech
_MIN_PAUSE_MS, _MARGIN_MS = 500, 200  # a shorter pause parts no speech; sound that is kept around speech
_MIN_SPEECH_MS = 200  # what is shorter is no speech: in a minute of jazz Silero takes 100 ms for some
# Lowest acoustic score at which a recognized text counts as aligned. Texts that Whisper hears rightly in voices of
# espeak-ng score -45 to -50, other sentences less than -55.
_MIN_SCORE = -55
_MIN_SKIPPED_S = 1.5  # speech without phonemes for so long was skipped by Whisper; shorter, it is a breath or a laugh
# Whisper's names of the languages for which it differs from the first part of espeak-ng's.
_WHISPER_LANGUAGES = {"cmn": "zh", "nb": "no"}


@dataclass
class Recognition:
    """What a recording says."""

    language: str = ""  # as Whisper names it; empty without speech
    text: str = ""  # of all passages; empty if there are no words
    words: list[Timed] = field(default_factory=list)
    phonemes: list[Timed] = field(default_factory=list)  # as of `align`
    unaligned: list[Span] = field(default_factory=list)  # speech whose words have no times
    reason: str = ""  # why they have none, for people


class Recognizer:
    """The speech recognition of one process. Several threads may use it at once; each model then serves one of them."""

    def __init__(self, english: Whisper | None, multilingual: Whisper | None):
        """english: a model for English alone, which is faster; multilingual: for all other languages."""
        self._english, self._multilingual = english, multilingual

    @cached_property
    def digest(self) -> str:
        """Digest of all files of the models. Raises UserError if they are not what they should be."""
        return digest([whisper.digest for whisper in self._models])

    def check(self) -> None:
        """Load all models. Raises UserError if one of them cannot be used."""
        for whisper in self._models:
            whisper.check()

    @property
    def description(self) -> str:
        """The names of the models, for people."""
        return ", ".join(whisper.name for whisper in self._models)

    @property
    def _models(self) -> list[Whisper]:
        return [whisper for whisper in (self._english, self._multilingual) if whisper]

    def recognize(self, samples: np.ndarray, language: str | None = None, lexicon: Lexicon = NO_LEXICON) -> Recognition:
        """The words of speech f32 [S] at 16 kHz. Memory holds the samples, and ten minutes of them some times more.

        language: what espeak-ng calls it; None: it is recognized. lexicon: words that are likely to be said, with their
        sounds.
        """
        spoken = speech_spans(samples)
        if not spoken:
            return Recognition()
        passages = joined(spoken)
        found = Recognition(_whisper_language(language) if language else self._detect_language(samples, passages))
        whisper, texts = self._model_for(found.language), []
        for start, end in passages:
            part = samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
            text = whisper.text(part, found.language, tuple(lexicon)) if whisper else ""
            times = None
            if whisper is None:
                found.reason = f"no installed model reads {found.language!r}, see `doctor`"
            elif not has_words(text):
                found.reason = found.reason or "nothing was understood"
            elif repeats_itself(text):
                found.reason = "the recognition repeated itself"
            else:
                texts.append(text)
                times, found.reason = self._align(part, text, language or found.language, lexicon, found.reason)
            if times is None:
                found.unaligned.append((start, end))
                continue
            words, phonemes = (_shifted(items, start) for items in times)
            found.words += words
            found.phonemes += phonemes
            if skipped := _without_phonemes([s for s in spoken if start <= s[0] < end], phonemes):
                found.unaligned += skipped
                found.reason = found.reason or "the recognition skipped them"
        found.text = " ".join(texts)
        return found

    def language(self, samples: np.ndarray) -> str:
        """Whisper's name of the language of speech f32 [S] at 16 kHz; empty if nobody speaks."""
        passages = joined(speech_spans(samples))
        return self._detect_language(samples, passages) if passages else ""

    def _align(
        self, samples: np.ndarray, text: str, language: str, lexicon: Lexicon, reason: str
    ) -> tuple[Alignment | None, str]:
        """The times of a text, and why there are none, or `reason`."""
        try:
            times = align(samples, text, language, _MIN_SCORE, lexicon)
        except ClipError:
            return None, f"espeak-ng does not pronounce {language!r}"
        return times, reason if times else "what was heard does not fit the sound"

    def _model_for(self, language: str) -> Whisper | None:
        """The model that reads a language best; None if there is none."""
        if language == ENGLISH and self._english:
            return self._english
        return self._multilingual if self._multilingual and self._multilingual.reads(language) else None

    def _detect_language(self, samples: np.ndarray, passages: list[Span]) -> str:
        """Whisper's name of the language of the longest passage. Without a multilingual model it is English."""
        if not self._multilingual:
            return ENGLISH
        start, end = max(passages, key=lambda passage: passage[1] - passage[0])
        return self._multilingual.detect_language(samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)])


def find_recognizer(source: str) -> Recognizer | None:
    """The recognizer that `produce.recognizer` names; None if there is none.

    source: auto, for the models of the extras `words` and `words-all`, as far as they are installed; none; or the
    folder of a Whisper model of CTranslate2. Raises UserError if it cannot be used.
    """
    if source == "none":
        return None
    if source != "auto":
        return Recognizer(None, whisper_models.own_model(Path(source)))
    english, multilingual = whisper_models.tiny_en(), whisper_models.base()
    return Recognizer(english, multilingual) if english or multilingual else None


def speech_spans(samples: np.ndarray) -> list[Span]:
    """Where somebody speaks in sound f32 [S] at 16 kHz, in the order of time, each at most _MAX_PASSAGE_S long."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    options = VadOptions(
        max_speech_duration_s=_MAX_PASSAGE_S,
        min_speech_duration_ms=_MIN_SPEECH_MS,
        min_silence_duration_ms=_MIN_PAUSE_MS,
        speech_pad_ms=_MARGIN_MS,
    )
    size, found = _VAD_CHUNK_S * SAMPLE_RATE, []
    for first in range(0, len(samples), size):
        for span in get_speech_timestamps(samples[first : first + size], options):
            found.append(((first + span["start"]) / SAMPLE_RATE, (first + span["end"]) / SAMPLE_RATE))
    return found


def joined(spans: Iterable[Span]) -> list[Span]:
    """The spans as passages: joined where the pause between them is short and together they are not too long."""
    passages: list[Span] = []
    for start, end in spans:
        if passages and start - passages[-1][1] <= _MAX_PAUSE_S and end - passages[-1][0] <= _MAX_PASSAGE_S:
            passages[-1] = passages[-1][0], end
        else:
            passages.append((start, end))
    return passages


def has_words(text: str) -> bool:
    """Whether a recognized text has letters or digits. Whisper writes a full stop, or notes, for what is no speech."""
    return any(c.isalnum() for c in text)


def _without_phonemes(spoken: Iterable[Span], phonemes: Sequence[Timed]) -> list[Span]:
    """The parts of spans with speech that have no phonemes for at least _MIN_SKIPPED_S."""
    sounds = [(p.start, p.end) for p in phonemes if phoneme_class(p.text) != "sil"]
    gaps: list[Span] = []
    for start, end in spoken:
        position = start
        for sound_start, sound_end in sounds:
            if sound_end <= start or sound_start >= end:
                continue
            gaps.append((position, sound_start))
            position = max(position, sound_end)
        gaps.append((position, end))
    return [(start, end) for start, end in gaps if end - start >= _MIN_SKIPPED_S]


def _shifted(items: Iterable[Timed], seconds: float) -> list[Timed]:
    return [replace(item, start=item.start + seconds, end=item.end + seconds) for item in items]


def _whisper_language(language: str) -> str:
    """Whisper's name of a language of espeak-ng, such as "en" for "en-us"."""
    name = language.split("-")[0]
    return _WHISPER_LANGUAGES.get(name, name)
