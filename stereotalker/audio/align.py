"""Forced alignment of English recordings with their text: pocketsphinx and the acoustic model in its wheel (extra [dev])."""

from __future__ import annotations

import re

import numpy as np

from stereotalker.records import Timed

_FRAME_S = 0.01


def align(samples: np.ndarray, text: str) -> tuple[tuple[Timed, ...], tuple[Timed, ...]] | None:
    """Word and ARPAbet phoneme times of speech f32 [S] at 16 kHz, or None where the text does not fit or holds unknown words."""
    from pocketsphinx import Decoder

    plain = text.lower().replace("-", " ").replace("’", "'")
    words = re.sub(r"[^a-z' ]", " ", plain).split()
    if any(c.isalnum() and not "a" <= c <= "z" for c in plain):  # digits, or letters of no English word
        return None
    decoder = Decoder(samprate=16000, loglevel="FATAL")
    if not words or any(decoder.lookup_word(word) is None for word in words):
        return None
    raw = np.rint(samples * 32767).astype(np.int16).tobytes()
    decoder.set_align_text(" ".join(words))
    try:
        _decode(decoder, raw)
        decoder.set_alignment()
        _decode(decoder, raw)
        found = decoder.get_alignment()
    except RuntimeError:
        return None
    if found is None:
        return None
    spoken: list[Timed] = []
    phonemes: list[Timed] = []
    for word in found:
        if not word.name.startswith(("<", "[")):
            spoken.append(_timed(re.sub(r"\(\d+\)$", "", word.name), word))
        phonemes += [_timed(phone.name, phone) for phone in word]
    return (tuple(spoken), tuple(phonemes)) if len(spoken) == len(words) else None  # it may give up in the middle


def _decode(decoder, raw: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(raw, full_utt=True)
    decoder.end_utt()


def _timed(name: str, entry) -> Timed:
    return Timed(name, entry.start * _FRAME_S, (entry.start + entry.duration) * _FRAME_S)
