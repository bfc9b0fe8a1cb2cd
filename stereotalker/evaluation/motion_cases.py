"""What the motion model is evaluated on: voices, sentences and words that no training has used."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stereotalker.acting.gestures import HELD_OUT_WORDS, LEXICON
from stereotalker.acting.reference_acting import STYLES, act
from stereotalker.audio.marks import Speaker
from stereotalker.audio.speech import from_script
from stereotalker.audio.text_to_speech import Voice
from stereotalker.dataset.speech_corpus import Utterance, read_corpus, read_index, read_sentences
from stereotalker.params import ASSETS
from stereotalker.records import SAMPLE_RATE, Motion, Speech

_TEST_VOICE = Voice("en-us", "m8", 150)  # the same, for the words of the test set
_VOICE = Voice("en-us", "m5", 150)  # speaks the held-out words; no training uses this voice


# The sentence around a held-out word, and the silence before it, s. Nothing is spoken before the word, because a beat
# there would keep the acting from making the word's gesture.
_CARRIER, _LEAD_S = "{}, he said.", 0.8


_WIDE_STYLES = (0, 4, 8, 13)  # acting styles that gesture widely


# s from the start of a word to the time around which its gesture is compared; NearestGesture's references use the same.
_WORD_DELAY_S = 0.12


SPOKEN = ("hi", "ar", "cmn")  # languages without recordings: held-out voices of espeak-ng speak them


_UNHEARD = ASSETS / "unheard"  # their sentences, which no training uses


@dataclass(frozen=True)
class Case:
    """A held-out utterance, and the reference acting of it."""

    speech: Speech
    kind: str  # synthetic, real
    language: str  # without its region: en, not en-us
    style: int  # index into STYLES
    seed: int
    reference: Motion
    voice: str  # who speaks


@dataclass(frozen=True)
class WordCases:
    """Sentences around held-out words, one list entry per word."""

    cases: list[Case]
    gestures: list[str]  # gesture class that the word asks for
    times: list[float]  # when the gesture is expected, s


def read_cases(folder: Path, fps: float, seed: int) -> list[Case]:
    """Every held-out utterance of a corpus folder that has phoneme times, with the reference acting of it."""
    pairs = zip(read_corpus(folder), read_index(folder), strict=True)
    return [_case(speech, row, k, fps, seed) for k, (speech, row) in enumerate(pairs) if speech.phonemes]


def _case(speech: Speech, row: Utterance, k: int, fps: float, seed: int) -> Case:
    style = k % len(STYLES)
    return Case(
        speech,
        row.kind,
        row.language.split("-")[0],
        style,
        seed + k,
        act(speech, STYLES[style], seed + k, fps),
        row.voice,
    )


def synthetic_language_cases(loudness: float, fps: float, seed: int) -> list[Case]:
    """Sentences that no training uses, in the languages SPOKEN, by held-out voices. loudness: LUFS."""
    texts = read_sentences(_UNHEARD, list(SPOKEN))[0]
    cases: list[Case] = []
    for language, lines in sorted(texts.items()):
        for k, text in enumerate(lines):
            speech = from_script(text, Voice(language, ("m5", "linda")[k % 2]), loudness)
            cases.append(
                _case(speech, Utterance("", "synthetic", language, "", text, speech.seconds), len(cases), fps, seed)
            )
    return cases


def held_out_words(
    loudness: float, fps: float, seed: int, count: int, is_test: bool = False, voice: Speaker | None = None
) -> WordCases:
    """About `count` words of HELD_OUT_WORDS, evenly picked, each in a sentence.

    is_test: the half of the words that judges challengers, in a voice of its own; else the half that serves the choice
    of numbers. voice: another voice that speaks them.

    Words that contain a word of the lexicon, or lie within one, are left out. The reference acting gets a word of the
    lexicon with the same gesture class in the held-out word's place. Styles are four that gesture widely.
    """
    cases, gestures, times = [], [], []
    lexicon_word = {gesture: word for word, gesture in reversed(LEXICON.items())}
    unrelated = [
        (word, gesture)
        for word, gesture in HELD_OUT_WORDS.items()
        if not any(w in word or word in w for w in LEXICON if len(w) > 2) and zlib.crc32(word.encode()) % 2 == is_test
    ]
    for k, (word, gesture) in enumerate(unrelated[:: max(len(unrelated) // count, 1)]):
        speaker = voice or (_TEST_VOICE if is_test else _VOICE)
        speech = _delayed(from_script(_CARRIER.format(word), speaker, loudness), _LEAD_S)
        spoken_word = next(w for w in speech.words if w.text.lower().strip(",.") == word)
        style = _WIDE_STYLES[k % len(_WIDE_STYLES)]
        acted = replace(
            speech,
            words=tuple(replace(w, text=lexicon_word[gesture]) if w is spoken_word else w for w in speech.words),
        )
        cases.append(Case(speech, "synthetic", "en", style, seed + k, act(acted, STYLES[style], seed + k, fps), word))
        gestures.append(gesture)
        times.append(spoken_word.start + _WORD_DELAY_S)
    return WordCases(cases, gestures, times)


def _delayed(speech: Speech, seconds: float) -> Speech:
    """The speech after so many seconds of silence."""
    words, phonemes = (
        tuple(replace(t, start=t.start + seconds, end=t.end + seconds) for t in timed)
        for timed in (speech.words, speech.phonemes)
    )
    return Speech(np.pad(speech.samples, (round(seconds * SAMPLE_RATE), 0)), speech.loudness, words, phonemes)
