"""Text to speech with word and phoneme times, by espeak-ng. Its library and its voices come from a wheel.

espeak-ng keeps a state from one utterance to the next, so the same text twice in a process gives two different sounds.
`speak` uses the process it is called in, so its samples depend on what was spoken before. `speak_in_fresh_process`
gives every utterance a fresh process, so its samples depend on the text and the voice only.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import threading
from bisect import bisect_right
from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np

from stereotalker.audio.letters import check_letters
from stereotalker.errors import ClipError
from stereotalker.records import Timed

# Constants of espeak-ng's C interface, speak_lib.h: output mode and options, event types, text encoding and position
# type, voice parameters.
_SYNCHRONOUS, _PHONEME_EVENTS, _PHONEME_IPA, _DONT_EXIT = 2, 0x0001, 0x0002, 0x8000
_WORD, _PHONEME = 1, 7
_CHARS_UTF8, _POS_CHARACTER = 1, 1
_RATE, _PITCH, _RANGE = 1, 3, 4
# What is cut off at both ends of a word. Signs that are spoken, such as $ and %, are no part of it.
PUNCTUATION = " .,;:!?¡¿…()[]{}<>\"'`´‘’‚‛“”„‟«»‹›*_~|/\\–—―-،؛؟।॥。、，．！？；：「」『』（）【】《》"
# Scripts that do not part words with spaces: Thai to Tibetan, Myanmar, Khmer, kana, Han.
NO_SPACES = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_LOCK = threading.Lock()  # espeak-ng has one global voice for all threads


class _EventId(ctypes.Union):
    """The member `id` of espeak_EVENT."""

    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    """espeak_EVENT: a word or a phoneme begins, or the list of events ends (type 0)."""

    _fields_ = [
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("id", _EventId),
    ]  # fmt: skip


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


# espeak-ng's names of the languages for which they differ from the usual codes.
_ESPEAK_LANGUAGES = {"en": "en-us", "fr": "fr-fr", "pt": "pt-br", "zh": "cmn", "no": "nb", "nn": "nb"}


def espeak_code(language: str) -> str:
    """espeak-ng's code of a language that may have its usual code, such as fr."""
    return _ESPEAK_LANGUAGES.get(language, language)


def check_language(language: str) -> None:
    """Raise ClipError for a language that espeak-ng does not know."""
    with _LOCK:
        _voice_file(espeak_code(language))


@dataclass(frozen=True)
class SpokenText:
    """Synthesized speech with the times of its words and phonemes."""

    samples: np.ndarray  # f32 [S] in -1..1
    sample_rate: int  # Hz
    words: tuple[Timed, ...]
    phonemes: tuple[Timed, ...]


@dataclass(frozen=True)
class Voice:
    """A voice of espeak-ng."""

    language: str = "en-us"  # espeak-ng's code, such as "en-us" or "de"
    variant: str = ""  # such as "f2" or "m3"; "" for none
    rate: int = 165  # words a minute
    pitch: int = 50  # 0-99
    range: int = 50  # of the pitch, 0-99

    @property
    def label(self) -> str:
        """What messages call it."""
        return "espeak-ng"

    @property
    def reads_ipa(self) -> bool:
        """Whether it takes a lexicon and stresses words."""
        return False

    def identity(self) -> list:
        """What its sound depends on beside the text, for store keys."""
        return ["espeak-ng", *asdict(self).values()]

    def check(self, text: str) -> None:
        """Raise ClipError for a text in letters that the voice does not read."""
        check_letters(text, self.language)

    def spelled_out(self, text: str) -> str:
        """The text itself: espeak-ng does not tell how it spells numbers out."""
        return " ".join(text.split())

    def speak(self, text: str, stressed: Collection[int] = ()) -> SpokenText:
        """As `speak_in_fresh_process`. espeak-ng stresses no words."""
        return speak_in_fresh_process(text, self)


def speak_in_fresh_process(text: str, voice: Voice) -> SpokenText:
    """Synthesize `text` in a fresh process, which takes 0.3 s and makes the samples reproducible.

    Raises ClipError as `speak` does.
    """
    request = json.dumps({"text": text, "voice": asdict(voice)}).encode()
    process = subprocess.run(
        [sys.executable, "-P", "-m", "stereotalker.audio.text_to_speech"], input=request, capture_output=True
    )
    if process.returncode != 0:
        raise ClipError(
            f"espeak-ng failed on script {text[:40]!r}: {process.stderr.decode(errors='replace').strip()[-200:]}"
        )
    line, _, raw = process.stdout.partition(b"\n")
    header = json.loads(line)
    if "error" in header:
        raise ClipError(header["error"])
    words, phonemes = (tuple(Timed(*item) for item in header[name]) for name in ("words", "phonemes"))
    return SpokenText(np.frombuffer(raw, np.float32), header["sample_rate"], words, phonemes)


def _serve() -> None:
    """The process that `speak_in_fresh_process` starts.

    It reads a JSON request from standard input and writes a JSON line and then the raw samples to standard output.
    """
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no part of the answer
    request = json.loads(sys.stdin.buffer.read())
    try:
        spoken = speak(request["text"], Voice(**request["voice"]))
    except ClipError as error:
        answer.write(json.dumps({"error": str(error)}).encode() + b"\n")
        answer.close()
        return
    header = {"sample_rate": spoken.sample_rate} | {
        n: [[t.text, t.start, t.end] for t in getattr(spoken, n)] for n in ("words", "phonemes")
    }
    answer.write(json.dumps(header).encode() + b"\n" + spoken.samples.tobytes())
    answer.close()


def speak(text: str, voice: Voice) -> SpokenText:
    """Synthesize `text`. Raises ClipError if the voice is unknown or the result is silent."""
    with _LOCK:
        library, sample_rate = _library()
        file = _voice_file(voice.language)
        # espeak-ng ignores an unknown variant without an error.
        is_known = not voice.variant or voice.variant in variants()
        if not is_known or library.espeak_SetVoiceByName(f"{file}+{voice.variant}".rstrip("+").encode()) != 0:
            raise ClipError(f"voice {voice.variant!r} is not one of espeak-ng's; expected e.g. f2, m3, klatt")
        for parameter, value in ((_RATE, voice.rate), (_PITCH, voice.pitch), (_RANGE, voice.range)):
            library.espeak_SetParameter(parameter, value, 0)
        chunks: list[np.ndarray] = []
        events: list[tuple[int, int, int, int, str]] = []

        def collect(wave, count, event):
            if wave and count > 0:
                chunks.append(np.ctypeslib.as_array(wave, (count,)).copy())
            while event.contents.type != 0:
                e = event.contents
                symbol = bytes(e.id.string).split(b"\0")[0].decode("utf-8", "ignore") if e.type == _PHONEME else ""
                events.append((e.type, e.audio_position, e.text_position, e.length, symbol))
                event = ctypes.cast(ctypes.addressof(e) + ctypes.sizeof(_Event), ctypes.POINTER(_Event))
            return 0

        callback = _CALLBACK(collect)
        library.espeak_SetSynthCallback(callback)
        data = text.encode()
        library.espeak_Synth(data, len(data) + 1, 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None)
        library.espeak_Synchronize()
    samples = np.concatenate(chunks).astype(np.float32) / 32768 if chunks else np.zeros(0, np.float32)
    if not np.any(samples):
        raise ClipError(
            f"script {text[:40]!r} gives no sound in language {voice.language!r}; expected words of that language"
        )
    end = len(samples) / sample_rate
    phonemes = _spans([(ms / 1000, symbol) for kind, ms, _, _, symbol in events if kind == _PHONEME], end)
    words = words_of(text, [(ms / 1000, start - 1, n) for kind, ms, start, n, _ in events if kind == _WORD], end)
    # Symbols in parentheses, such as "(en)", mark a change of language.
    phonemes = tuple(p for p in phonemes if p.text.strip() and not p.text.startswith("("))
    return SpokenText(samples, sample_rate, words, phonemes)


def words_of(text: str, events: list[tuple[float, int, int]], end: float) -> tuple[Timed, ...]:
    """The words of a text as they are written, at the times when espeak-ng speaks them.

    events: time in s, position and length in characters of everything that espeak-ng calls a word. Those are parts of
    words where it spells something out: "$1,234.50" has nine, and "can't" has one, for "can". end: s. In scripts
    without spaces between words, such as Chinese, its parts are kept.
    """
    tokens = [(match.start(), match.end()) for match in re.finditer(r"\S+", text)]
    begins = [begin for begin, _ in tokens]
    spoken: list[list[tuple[float, int, int]]] = [[] for _ in tokens]
    for event in events:
        if tokens:
            spoken[max(bisect_right(begins, event[1]) - 1, 0)].append(event)
    written = [text[begin:stop].strip(PUNCTUATION) for begin, stop in tokens]
    for k in range(1, len(tokens)):
        # espeak-ng misplaces words behind accents and signs: the second word of "déjà vu" lies in the first.
        spare = len(spoken[k - 1]) > 1 or (spoken[k - 1] and not written[k - 1])
        if spare and not spoken[k] and any(c.isalnum() for c in written[k]):
            spoken[k] = [spoken[k - 1].pop()]
    starts: list[tuple[float, str]] = []
    for k, parts in enumerate(spoken):
        if NO_SPACES.search(written[k]):
            starts += [(time, text[start : start + length].strip(PUNCTUATION)) for time, start, length in parts]
        elif written[k] and parts:
            starts.append((parts[0][0], written[k]))
        elif starts and any(c.isalnum() for c in written[k]):
            # espeak-ng speaks some pairs, such as "of the", as one: their time is divided by their letters.
            following = next((later[0][0] for later in spoken[k + 1 :] if later), end)
            time, before = starts[-1]
            share = len(before) / (len(before) + len(written[k]))
            starts.append((time + (following - time) * share, written[k]))
    return _spans(starts, end)


def _spans(starts: list[tuple[float, str]], end: float) -> tuple[Timed, ...]:
    """Items with start and end from (start s, text): each lasts until the next begins. Empty ones are left out."""
    stops = [*(start for start, _ in starts[1:]), end][: len(starts)]
    return tuple(Timed(text, start, stop) for (start, text), stop in zip(starts, stops, strict=True) if stop > start)


class _VoiceEntry(ctypes.Structure):
    """The first members of espeak_VOICE."""

    _fields_ = [("name", ctypes.c_char_p), ("languages", ctypes.c_char_p), ("identifier", ctypes.c_char_p)]


@cache
def _languages() -> dict[str, str]:
    """Language code -> voice file, as espeak-ng lists them. The first voice of a language counts."""
    library, _ = _library()
    library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_VoiceEntry))
    voices, index = library.espeak_ListVoices(None), 0
    files: dict[str, str] = {}
    while voices[index]:
        entry = voices[index].contents
        files.setdefault(entry.languages[1:].decode(), entry.identifier.decode())  # the first byte is a priority
        index += 1
    return files


def _voice_file(language: str) -> str:
    """The file of a language's voice. Raises ClipError for an unknown language."""
    if (file := _languages().get(language)) is None:
        examples = "en-us, en-gb, de, fr-fr, es, cmn, ja"
        raise ClipError(f"language {language!r} is not one of espeak-ng's; expected e.g. {examples}")
    return file


@cache
def variants() -> frozenset[str]:
    """Names of espeak-ng's voice variants."""
    import espeakng_loader

    return frozenset(path.name for path in Path(espeakng_loader.get_data_path()).glob("**/voices/!v/*"))


@cache
def _library() -> tuple[ctypes.CDLL, int]:
    """The initialized library and the sample rate of its output in Hz."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint,
        ctypes.c_void_p, ctypes.c_void_p,
    ]  # fmt: skip
    options = _PHONEME_EVENTS | _PHONEME_IPA | _DONT_EXIT
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), options)
    if rate <= 0:
        raise RuntimeError("espeak-ng did not start; the wheel espeakng-loader is damaged: install it again")
    return library, rate


if __name__ == "__main__":
    _serve()
