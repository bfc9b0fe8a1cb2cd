"""Forced alignment of recordings with their transcripts, by pocketsphinx and the English acoustic model in its wheel.

Words that its dictionary lacks, and words of other languages, are pronounced by espeak-ng and written in the nearest
ARPAbet symbols. Phonemes are returned in ARPAbet.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace

import numpy as np

from stereotalker.audio.japanese_pronunciation import JAPANESE, japanese_sentences, japanese_words, reads_japanese
from stereotalker.audio.lexicon import NO_LEXICON, Lexicon, ipa_symbols, pronunciation
from stereotalker.audio.misaki import IPA
from stereotalker.audio.phonemes import VOWELS, arpabet, phoneme_class
from stereotalker.audio.text_to_speech import Voice, espeak_code, speak_in_fresh_process
from stereotalker.errors import ClipError
from stereotalker.records import SAMPLE_RATE, Timed

_FRAME_S = 0.01  # length of pocketsphinx's frames, s
# pocketsphinx's default beams lose foreign speakers in the middle of a sentence. These beams accept any text; whether
# it fits the recording is decided by the acoustic score.
_WIDE_BEAMS = {"beam": 1e-200, "pbeam": 1e-200, "wbeam": 1e-150, "fwdflat": False, "bestpath": False}
# Lowest mean acoustic score of a 10 ms frame at which a text counts as what is said, for English and for other
# languages. Measured: English texts that fit score -12 to -25, other sentences -58 to -78; in other languages texts
# that fit score -23 to -48 and other sentences -61 to -84.
_MIN_SCORE_ENGLISH, _MIN_SCORE_FOREIGN = -40, -55
Alignment = tuple[tuple[Timed, ...], tuple[Timed, ...]]  # words, phonemes


def align(
    samples: np.ndarray,
    text: str,
    language: str = "en-us",
    min_score: float | None = None,
    lexicon: Lexicon = NO_LEXICON,
) -> Alignment | None:
    """Word and phoneme times of speech f32 [S] at 16 kHz, or None if the text is not what is said.

    min_score: lowest mean acoustic score of a frame at which the text counts as what is said; None: that of the
    language; lexicon: how words are pronounced. Raises ClipError for a language that espeak-ng does not speak.
    """
    language = espeak_code(language)
    decoder, is_english = _decoder(**_WIDE_BEAMS), language.startswith("en")
    if is_english:
        words = _english(decoder, text, lexicon)
    elif language == JAPANESE and reads_japanese():
        words = _japanese(decoder, text)
    else:
        words = _foreign(decoder, text, language, lexicon)
    if not words:
        return None
    decoder.set_align_text(" ".join(name for name, _ in words))
    try:
        _decode(decoder, samples)
        decoder.set_alignment()
        _decode(decoder, samples)
        alignment = decoder.get_alignment()
    except RuntimeError:
        return None
    spoken = [] if alignment is None else [word for word in alignment if not word.name.startswith(("<", "["))]
    if len(spoken) != len(words):  # pocketsphinx may give up in the middle
        return None
    phones = [phone for word in alignment for phone in word]
    voiced = [phone for phone in phones if phone.name != "SIL"]
    if min_score is None:
        min_score = _MIN_SCORE_ENGLISH if is_english else _MIN_SCORE_FOREIGN
    if sum(p.score for p in voiced) < min_score * sum(p.duration for p in voiced):
        return None
    phonemes = mark_stress(tuple(_timed(phone.name, phone) for phone in phones), samples)
    return tuple(_timed(text, word) for (_, text), word in zip(words, spoken, strict=True)), phonemes


def mark_stress(phonemes: tuple[Timed, ...], samples: np.ndarray) -> tuple[Timed, ...]:
    """The same phonemes with primary stress on the most prominent vowels, as ARPAbet marks it ("AE1").

    A vowel is prominent if it is louder and longer than any other within 0.3 s. The aligner's dictionary has no stress,
    but gestures and brows need it. samples f32 [S] at 16 kHz.
    """
    vowels = [k for k, p in enumerate(phonemes) if phoneme_class(p.text) in VOWELS]
    prominence = np.array([_prominence(samples, phonemes[k]) for k in vowels])
    middle = np.array([(phonemes[k].start + phonemes[k].end) / 2 for k in vowels])
    is_near = np.abs(middle[:, None] - middle[None]) < 0.3
    is_strongest = prominence >= np.where(is_near, prominence[None], 0).max(1, initial=0)
    stressed = {
        k
        for k, strongest, p in zip(vowels, is_strongest, prominence, strict=True)
        if strongest and p > 0.6 * np.median(prominence)
    }
    return tuple(replace(p, text=p.text.rstrip("012") + "1") if k in stressed else p for k, p in enumerate(phonemes))


def _prominence(samples: np.ndarray, phoneme: Timed) -> float:
    """Level of a phoneme times the square root of its length."""
    part = samples[int(phoneme.start * SAMPLE_RATE) : int(phoneme.end * SAMPLE_RATE)]
    return float(np.sqrt((part**2).sum())) if len(part) else 0.0


def _decoder(**options):
    """A new decoder. Every recording needs its own, because a decoder adapts to what it has decoded before."""
    from pocketsphinx import Decoder

    return Decoder(samprate=16000, loglevel="FATAL", **options)


def _english(decoder, text: str, lexicon: Lexicon = NO_LEXICON) -> list[tuple[str, str]]:
    """(name in the dictionary, word) of every word of an English text; [] if one of them cannot be pronounced."""
    words = re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("’", "'"))
    names = [_user_word(decoder, word, lexicon) or _without_accents(word) for word in words]
    if any(not c.isascii() for name in names for c in name):  # no English word has other letters
        return []
    for name in names:
        if decoder.lookup_word(name) is None and not _add_word(decoder, name):
            return []
    return list(zip(names, words, strict=True))


def _user_word(decoder, word: str, lexicon: Lexicon) -> str:
    """The name in the dictionary of a word that the user pronounces, which is added to it; empty if there is none."""
    sounds = [symbol for sound in ipa_symbols(pronunciation(word, lexicon) or "") for symbol in arpabet(sound)]
    if not sounds:
        return ""
    name = "user-" + word.encode("ascii", "xmlcharrefreplace").decode()
    if decoder.lookup_word(name) is None:
        decoder.add_word(name, " ".join(sounds), True)
    return name


def _without_accents(word: str) -> str:
    """The word without accents, as the dictionary has it: "cafe" for "café"."""
    return "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))


def _japanese(decoder, text: str) -> list[tuple[str, str]]:
    """(name in the dictionary, word) of every word of a Japanese text, kanji and all."""
    words: list[tuple[str, str]] = []
    for sentence in japanese_sentences(text):
        for word in japanese_words(sentence):
            sounds = [symbol for letter in word.symbols for symbol in arpabet(IPA.get(letter, letter))]
            if word.text and sounds:
                words.append((f"japanese-{len(words)}", word.text))
                decoder.add_word(words[-1][0], " ".join(sounds), True)
    return words


def _foreign(decoder, text: str, language: str, lexicon: Lexicon) -> list[tuple[str, str]]:
    """(name in the dictionary, word) of every word of a text in another language, as espeak-ng pronounces it."""
    spoken = speak_in_fresh_process(text, Voice(language))
    words = []
    for index, word in enumerate(spoken.words):
        sounds = [symbol for p in spoken.phonemes if word.start <= p.start < word.end for symbol in arpabet(p.text)]
        if name := _user_word(decoder, word.text, lexicon):
            words.append((name, word.text))
        elif sounds:
            words.append((f"w{index}", word.text))
            decoder.add_word(f"w{index}", " ".join(sounds), True)
    return words


def _add_word(decoder, word: str) -> bool:
    """Add an English word to the dictionary as espeak-ng pronounces it; False if espeak-ng cannot pronounce it."""
    try:
        sounds = [symbol for p in speak_in_fresh_process(word, Voice()).phonemes for symbol in arpabet(p.text)]
    except ClipError:
        return False
    if sounds:
        decoder.add_word(word, " ".join(sounds), True)
    return bool(sounds)


def _decode(decoder, samples: np.ndarray) -> None:
    """Run the decoder over a whole utterance f32 [S] in -1..1."""
    decoder.start_utt()
    decoder.process_raw(np.rint(samples * 32767).astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()


def _timed(name: str, entry) -> Timed:
    return Timed(name, entry.start * _FRAME_S, (entry.start + entry.duration) * _FRAME_S)
