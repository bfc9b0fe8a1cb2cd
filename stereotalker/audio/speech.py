"""Stage `audio`: a clip's audio file or script -> Speech at a stated loudness, with words and phonemes where they are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from stereotalker.audio.forced_alignment import align
from stereotalker.audio.text_to_speech import SpokenText, Voice, speak_alone
from stereotalker.errors import ClipError
from stereotalker.media import audio_files
from stereotalker.records import Speech

ALIGNABLE_S = 600.0  # of a recording with a transcript
LETTERLESS = "script has no letters or digits; expected words to speak"


def from_file(
    path: Path, loudness: float, transcript: str | None = None, language: str = "en-us"
) -> tuple[Speech, np.ndarray]:
    """A recording. Returns the Speech and the sound of the clip, f32 [2, N] at io.OUTPUT_RATE.

    With a transcript, words and phonemes are known where it is what is said, and unknown where it is not. Raises ClipError for one whose
    recording is longer than ALIGNABLE_S.
    """
    sound, level = audio_files.normalise(audio_files.decode(path), loudness)
    samples = audio_files.to_speech_samples(sound)
    if transcript is None:
        return Speech(samples, level), sound
    check_alignable(path, sound.shape[1] / audio_files.OUTPUT_RATE)
    return Speech(samples, level, *(align(samples, transcript, language) or ())), sound


def check_alignable(path: Path, seconds: float) -> None:
    """Raises ClipError for a recording that is too long to be aligned with its transcript."""
    if seconds > ALIGNABLE_S:
        raise ClipError(
            f"{path} lasts {seconds / 60:.0f} min; expected at most {ALIGNABLE_S / 60:.0f} min with a transcript: cut it, or leave the transcript out"
        )


def from_script(
    text: str, voice: Voice, loudness: float, speaker: Callable[[str, Voice], SpokenText] = speak_alone
) -> tuple[Speech, np.ndarray]:
    """A script spoken by espeak-ng, with word and phoneme times. Raises ClipError for a script nobody can speak."""
    if not any(c.isalnum() for c in text):
        raise ClipError(LETTERLESS)
    spoken = speaker(text, voice)
    sound, level = audio_files.normalise(audio_files.from_mono(spoken.samples, spoken.sample_rate), loudness)
    return Speech(audio_files.to_speech_samples(sound), level, spoken.words, spoken.phonemes), sound
