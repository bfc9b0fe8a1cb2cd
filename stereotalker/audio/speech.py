"""Stage `audio`: a clip's audio file or script -> Speech at a stated loudness, with words and phonemes where they are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from stereotalker.audio import io
from stereotalker.audio.speak import Spoken, Voice, speak_alone
from stereotalker.errors import ClipError
from stereotalker.records import Speech

LETTERLESS = "script has no letters or digits; expected words to speak"


def from_file(path: Path, loudness: float) -> tuple[Speech, np.ndarray]:
    """A recording. Returns the Speech and the sound of the clip, f32 [2, N] at io.OUTPUT_RATE."""
    sound, level = io.normalise(io.decode(path), loudness)
    return Speech(io.to_speech_samples(sound), level), sound


def from_script(
    text: str, voice: Voice, loudness: float, speaker: Callable[[str, Voice], Spoken] = speak_alone
) -> tuple[Speech, np.ndarray]:
    """A script spoken by espeak-ng, with word and phoneme times. Raises ClipError for a script nobody can speak."""
    if not any(c.isalnum() for c in text):
        raise ClipError(LETTERLESS)
    spoken = speaker(text, voice)
    sound, level = io.normalise(io.from_mono(spoken.samples, spoken.sample_rate), loudness)
    return Speech(io.to_speech_samples(sound), level, spoken.words, spoken.phonemes), sound
