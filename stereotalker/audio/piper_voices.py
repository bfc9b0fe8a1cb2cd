"""Voices of the user's own that were trained with Piper: FILE.onnx with FILE.onnx.json beside it.

Only the network is used. espeak-ng, which Piper's voices were trained with, makes their phonemes; Piper itself, under
the GPL, is not needed. The network predicts how long each symbol lasts, which gives the times of words and phonemes.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import ConfigDict, Field, ValidationError

from stereotalker.audio.letters import check_letters
from stereotalker.audio.misaki import STRESS_MARKS
from stereotalker.audio.onnx_models import open_network
from stereotalker.audio.text_to_speech import PUNCTUATION, SpokenText, Voice, speak_in_fresh_process
from stereotalker.audio.written_words import written_words
from stereotalker.errors import ClipError
from stereotalker.records import Timed
from stereotalker.store.digests import file_digest
from stereotalker.validation import StrictModel, explain

_NORMAL_RATE = 165  # words a minute that count as a network's own pace
_HOP = 256  # samples of one unit of the predicted durations
_DURATIONS = "/Ceil_output_0"  # tensor of the graph that holds them
_LEAD_S = 0.025  # the durations run late against the sound
_PEAK = 0.9  # highest sample of an utterance
_BEGIN, _END, _PAD, _SPACE, _PUNCTUATION = "^", "$", "_", " ", ".,;:!?"
_SENTENCE_ENDS, _CLOSING = tuple(".!?"), "\"'”’»)"
_ABBREVIATION = re.compile(r"[b-df-hj-np-tv-xz]{1,4}\.", re.IGNORECASE)  # such as Dr. and Mrs.
_LOCK = threading.Lock()  # onnxruntime has one random seed for all threads


class _Lenient(StrictModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class _Audio(_Lenient):
    sample_rate: int = Field(ge=8_000, le=48_000)


class _Espeak(_Lenient):
    voice: str


class _Inference(_Lenient):
    noise_scale: float = 0.667
    length_scale: float = Field(1.0, gt=0)
    noise_w: float = 0.8


class _Config(_Lenient):
    """What is needed of a voice's .json."""

    audio: _Audio
    espeak: _Espeak
    inference: _Inference = _Inference()
    phoneme_id_map: dict[str, list[int]]
    num_speakers: int = Field(1, ge=1)


class _Symbol(NamedTuple):
    """A symbol that the network speaks."""

    text: str
    word: int = -1  # number of the word that it belongs to; -1: none
    is_sound: bool = False


@dataclass(frozen=True)
class PiperVoice:
    """A voice of the user's own. Of networks with several speakers the first one speaks."""

    file: Path
    rate: int = _NORMAL_RATE  # words a minute, roughly

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"the voice 'piper:{self.file}'"

    @property
    def language(self) -> str:
        """The language that it speaks, as espeak-ng names it. Raises ClipError if its files cannot be read."""
        return self._config.espeak.voice

    @property
    def reads_ipa(self) -> bool:
        """Whether it takes a lexicon and stresses words."""
        return False

    @property
    def _config(self) -> _Config:
        path = self.file.with_name(self.file.name + ".json")
        try:
            return _Config.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise ClipError(f"voice: {path} cannot be read: {error.strerror}") from None
        except ValidationError as error:
            raise ClipError(f"voice: {path}: {explain(error.errors()[0])}; expected a voice of Piper") from None
        except ValueError as error:
            raise ClipError(f"voice: {path}: {error}; expected the JSON of a voice of Piper") from None

    def identity(self) -> list:
        """What its sound depends on beside the text, for store keys. Raises ClipError if a file cannot be read."""
        try:
            digests = [file_digest(path) for path in (self.file, self.file.with_name(self.file.name + ".json"))]
        except OSError as error:
            raise ClipError(f"voice: {self.file} cannot be read: {error.strerror}") from None
        return ["piper", *digests, self.rate]

    def check(self, text: str) -> None:
        """Raise ClipError if the files cannot be read, or for a text in letters that the voice does not read."""
        check_letters(text, self.language)
        if not self.file.is_file():
            raise ClipError(f"voice: {self.file} not found; expected a voice of Piper")

    def spelled_out(self, text: str) -> str:
        """The text itself: espeak-ng does not tell how it spells numbers out."""
        return " ".join(text.split())

    def speak(self, text: str, stressed: Collection[int] = ()) -> SpokenText:
        """Speak a text; the same text always has the same samples. It stresses no words.

        Raises ClipError if a file or the text cannot be used.
        """
        self.check(text)
        config, identity = self._config, self.identity()
        network = _Network(self.file, tuple(identity[1:3]), config, _NORMAL_RATE / self.rate)
        spoken = speak_in_fresh_process(text, Voice(config.espeak.voice))
        samples: list[np.ndarray] = []
        words: list[Timed] = []
        phonemes: list[Timed] = []
        start = 0.0
        for written, sounds in _sentences(written_words(spoken.words, text), spoken.phonemes):
            symbols = _symbols(written, sounds, config.phoneme_id_map)
            sound, ends = network.synthesize(symbols)
            new_words, new_phonemes = _times(written, symbols, ends, start)
            words += new_words
            phonemes += new_phonemes
            samples.append(sound)
            start += len(sound) / config.audio.sample_rate
        whole = np.concatenate(samples)
        peak = float(np.abs(whole).max(initial=0))
        if not phonemes or peak < 1e-4:
            raise ClipError(f"script {text[:40]!r} gives no sound with {self.label}")
        return SpokenText(whole * (_PEAK / peak), config.audio.sample_rate, tuple(words), tuple(phonemes))


def _sentences(words: list[Timed], phonemes: tuple[Timed, ...]) -> list[tuple[list[Timed], list[list[str]]]]:
    """The words of each sentence, and the phonemes of each word. All have the times of espeak-ng's own voice."""
    starts = np.array([word.start for word in words])
    owners = np.searchsorted(starts, [(p.start + p.end) / 2 for p in phonemes], side="right") - 1
    sounds: list[list[str]] = [[] for _ in words]
    for phoneme, owner in zip(phonemes, owners, strict=True):
        sounds[max(int(owner), 0)].append(phoneme.text)
    result: list[tuple[list[Timed], list[list[str]]]] = []
    first = 0
    for k, word in enumerate(words):
        if _mark(word.text) in _SENTENCE_ENDS or k == len(words) - 1:
            result.append((words[first : k + 1], sounds[first : k + 1]))
            first = k + 1
    return result


def _mark(word: str) -> str:
    """The punctuation behind a word that the network reads; empty for none."""
    mark = word.rstrip(_CLOSING)[-1:]
    return mark if mark in tuple(_PUNCTUATION) and not _ABBREVIATION.fullmatch(word) else ""


def _symbols(words: list[Timed], sounds: list[list[str]], known: dict[str, list[int]]) -> list[_Symbol]:
    """What the network speaks: phonemes letter by letter, punctuation and spaces, with pads between all of them."""
    found = []
    for k, (word, phonemes) in enumerate(zip(words, sounds, strict=True)):
        found += [_Symbol(letter, k, is_sound=True) for phoneme in phonemes for letter in phoneme]
        if mark := _mark(word.text):
            found.append(_Symbol(mark))
        found += [_Symbol(_SPACE)] if k < len(words) - 1 else []
    padded = [_Symbol(_BEGIN), _Symbol(_PAD)]
    for symbol in found:
        if symbol.text in known:
            padded += [symbol, _Symbol(_PAD)]
    return [*padded, _Symbol(_END)]


def _times(
    words: list[Timed], symbols: list[_Symbol], ends: np.ndarray, start: float
) -> tuple[list[Timed], list[Timed]]:
    """The words and their phonemes at their times. ends [N]: when each symbol ends, s from `start`."""
    starts, ends = np.concatenate([[0.0], ends[:-1]]) + start, ends + start
    phonemes: list[Timed] = []
    spans: dict[int, tuple[float, float]] = {}
    marks = ""
    for k, symbol in enumerate(symbols):
        if not symbol.is_sound:
            continue
        if symbol.text in STRESS_MARKS:
            marks += symbol.text
            continue
        end = float(ends[k + 1]) if k + 1 < len(ends) and symbols[k + 1].text == _PAD else float(ends[k])
        begin, end = (max(moment - _LEAD_S, 0.0) for moment in (float(starts[k]), end))
        if phonemes and not symbol.text.isalpha():  # a mark of length, or of how the sound before is made
            phonemes[-1] = Timed(phonemes[-1].text + symbol.text, phonemes[-1].start, end)
        else:
            phonemes.append(Timed(marks + symbol.text, begin, end))
        marks = ""
        first, _ = spans.get(symbol.word, (begin, end))
        spans[symbol.word] = first, end
    return [Timed(word.text.strip(PUNCTUATION), *spans[k]) for k, word in enumerate(words) if k in spans], phonemes


class _Network:
    """The network of a voice."""

    def __init__(self, file: Path, digests: tuple[str, ...], config: _Config, length: float):
        """digests: of its files; length: 1 is the network's own pace, more is slower."""
        self._file, self._digest, self._config, self._length = file, digests[0], config, length

    def synthesize(self, symbols: list[_Symbol]) -> tuple[np.ndarray, np.ndarray]:
        """Samples f32 [S] of symbols, and when each of them ends, f64 [N], s. Raises ClipError."""
        config, known = self._config, self._config.phoneme_id_map
        counts = [len(known.get(symbol.text, ())) for symbol in symbols]
        ids = np.array([[number for symbol in symbols for number in known.get(symbol.text, ())]], np.int64)
        scales = (config.inference.noise_scale, config.inference.length_scale * self._length, config.inference.noise_w)
        inputs: dict[str, Any] = {
            "input": ids,
            "input_lengths": np.array([ids.shape[1]], np.int64),
            "scales": np.array(scales, np.float32),
        }
        if config.num_speakers > 1:
            inputs["sid"] = np.zeros(1, np.int64)
        try:
            with _LOCK:
                # A network that has spoken goes on with other random numbers, so each sentence gets a new one.
                samples, durations = open_network(_model(self._file, self._digest), _DURATIONS).run(None, inputs)
        except ClipError:
            raise
        except Exception as error:  # onnxruntime's errors have no common class
            reason = str(error).splitlines()[0][:160]
            raise ClipError(f"voice: {self._file} cannot be used: {reason}; expected a voice of Piper") from None
        frames = durations.ravel()
        ends = np.cumsum(frames)[np.maximum(np.cumsum(counts) - 1, 0)] * _HOP / config.audio.sample_rate
        return np.asarray(samples, np.float32).ravel(), ends


@lru_cache(maxsize=2)
def _model(file: Path, digest: str) -> bytes:
    """The bytes of a network. digest: of the file, so that another one is read anew."""
    return file.read_bytes()
