"""Forced alignment of recordings with their text by pocketsphinx and the English acoustic model in its wheel.

Words that its dictionary lacks, and other languages, are pronounced by espeak-ng and written in the nearest ARPAbet symbols; recordings
without a text are transcribed first. Phonemes come out in ARPAbet.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from stereotalker.audio.phonemes import VOWELS, arpabet, phoneme_class
from stereotalker.audio.text_to_speech import Voice, speak_alone
from stereotalker.errors import ClipError
from stereotalker.records import SAMPLE_RATE, Timed

_FRAME_S = 0.01
# The usual beams lose foreign speakers in the middle of a sentence. Those below take any text: the score says whether it fits.
_WIDE = {"beam": 1e-200, "pbeam": 1e-200, "wbeam": 1e-150, "fwdflat": False, "bestpath": False}
# Mean acoustic score of a 10 ms frame of sound. Measured: English texts that fit -12 to -25, other sentences -58 to -78; other languages
# -23 to -48 and -61 to -84.
_FITS, _FOREIGN_FITS = -40, -55
_VOICES = {
    "en": "en-us",
    "fr": "fr-fr",
    "pt": "pt-br",
    "zh": "cmn",
}  # espeak-ng's names of languages that are called otherwise
Alignment = tuple[tuple[Timed, ...], tuple[Timed, ...]]  # words, phonemes


def align(samples: np.ndarray, text: str, language: str = "en-us") -> Alignment | None:
    """Word and phoneme times of speech f32 [S] at 16 kHz, or None where the text is not what is said.

    Raises ClipError for a language that espeak-ng does not speak.
    """
    language = _VOICES.get(language, language)
    decoder, english = _decoder(**_WIDE), language.startswith("en")
    words = _english(decoder, text) if english else _foreign(decoder, text, language)
    if not words:
        return None
    decoder.set_align_text(" ".join(name for name, _ in words))
    try:
        _decode(decoder, samples)
        decoder.set_alignment()
        _decode(decoder, samples)
        found = decoder.get_alignment()
    except RuntimeError:
        return None
    spoken = [] if found is None else [word for word in found if not word.name.startswith(("<", "["))]
    if len(spoken) != len(words):  # it may give up in the middle
        return None
    sounds = [phone for word in found for phone in word]
    loud = [phone for phone in sounds if phone.name != "SIL"]
    if sum(p.score for p in loud) < (_FITS if english else _FOREIGN_FITS) * sum(p.duration for p in loud):
        return None
    phonemes = with_stress(tuple(_timed(phone.name, phone) for phone in sounds), samples)
    return tuple(_timed(shown, word) for (_, shown), word in zip(words, spoken, strict=True)), phonemes


def with_stress(phonemes: tuple[Timed, ...], samples: np.ndarray) -> tuple[Timed, ...]:
    """Vowels that are heard most, marked as ARPAbet marks stress ("AE1"): louder and longer than any other within 0.3 s.

    The aligner's dictionary knows no stress, and hands and brows follow it.
    """
    vowels = [k for k, p in enumerate(phonemes) if phoneme_class(p.text) in VOWELS]
    weight = np.array([_energy(samples, phonemes[k]) for k in vowels])
    middle = np.array([(phonemes[k].start + phonemes[k].end) / 2 for k in vowels])
    near = np.abs(middle[:, None] - middle[None]) < 0.3
    strongest = weight >= np.where(near, weight[None], 0).max(1, initial=0)
    marked = {k for k, top, w in zip(vowels, strongest, weight, strict=True) if top and w > 0.6 * np.median(weight)}
    return tuple(replace(p, text=p.text.rstrip("012") + "1") if k in marked else p for k, p in enumerate(phonemes))


def _energy(samples: np.ndarray, phoneme: Timed) -> float:
    """Loudness times the root of the length."""
    part = samples[int(phoneme.start * SAMPLE_RATE) : int(phoneme.end * SAMPLE_RATE)]
    return float(np.sqrt((part**2).sum())) if len(part) else 0.0


def transcribe(samples: np.ndarray) -> Alignment | None:
    """What pocketsphinx makes of English speech without a text: a fifth of the words are wrong, but wrong ones sound alike.

    The words are therefore left out: () and the phonemes; None where nothing is heard.
    """
    decoder = _decoder()
    _decode(decoder, samples)
    heard = decoder.hyp()
    found = align(samples, heard.hypstr) if heard is not None and heard.hypstr else None
    return ((), found[1]) if found else None


def _decoder(**options):
    """A new one for every recording: it adapts to what it has heard before."""
    from pocketsphinx import Decoder

    return Decoder(samprate=16000, loglevel="FATAL", **options)


def _english(decoder, text: str) -> list[tuple[str, str]]:
    """(name in the dictionary, word) of every word; [] where one cannot be pronounced."""
    words = re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("’", "'"))
    if any(not c.isascii() for word in words for c in word):  # letters of no English word
        return []
    for word in words:
        if decoder.lookup_word(word) is None and not _add_word(decoder, word):
            return []
    return [(word, word) for word in words]


def _foreign(decoder, text: str, language: str) -> list[tuple[str, str]]:
    spoken = speak_alone(text, Voice(language))
    named = []
    for index, word in enumerate(spoken.words):
        sounds = [symbol for p in spoken.phonemes if word.start <= p.start < word.end for symbol in arpabet(p.text)]
        if sounds:
            named.append((f"w{index}", word.text))
            decoder.add_word(f"w{index}", " ".join(sounds), True)
    return named


def _add_word(decoder, word: str) -> bool:
    """Give the dictionary an English word as espeak-ng says it; False where it cannot."""
    try:
        sounds = [symbol for p in speak_alone(word, Voice()).phonemes for symbol in arpabet(p.text)]
    except ClipError:
        return False
    if sounds:
        decoder.add_word(word, " ".join(sounds), True)
    return bool(sounds)


def _decode(decoder, samples: np.ndarray) -> None:
    decoder.start_utt()
    decoder.process_raw(np.rint(samples * 32767).astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()


def _timed(name: str, entry) -> Timed:
    return Timed(name, entry.start * _FRAME_S, (entry.start + entry.duration) * _FRAME_S)
