"""Stage `audio` of a clip: an audio file or a script -> Speech at a given loudness.

The Speech has words and phonemes if there is a script, or a transcript that fits the recording.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from stereotalker.audio.forced_alignment import align
from stereotalker.audio.text_to_speech import SpokenText, Voice, speak_in_fresh_process
from stereotalker.errors import ClipError
from stereotalker.media import audio_files
from stereotalker.records import Speech

MAX_ALIGNMENT_S = 600.0  # longest recording that is aligned with its transcript, s
EMPTY_SCRIPT_MESSAGE = "script has no letters or digits; expected words to speak"


def from_file(
    path: Path, loudness: float, transcript: str | None = None, language: str = "en-us"
) -> tuple[Speech, np.ndarray]:
    """Read a recording. Returns the Speech and the sound of the clip, f32 [2, N] at audio_files.OUTPUT_RATE.

    loudness: target in LUFS. The Speech has words and phonemes only if there is a transcript and it is what is said.
    Raises ClipError for a recording with a transcript that is longer than MAX_ALIGNMENT_S.
    """
    sound, level = audio_files.normalise(audio_files.decode(path), loudness)
    samples = audio_files.to_speech_samples(sound)
    if transcript is None:
        return Speech(samples, level), sound
    check_alignable(path, sound.shape[1] / audio_files.OUTPUT_RATE)
    return Speech(samples, level, *(align(samples, transcript, language) or ())), sound


def check_alignable(path: Path, seconds: float) -> None:
    """Raise ClipError if a recording of this length in s is too long to be aligned with its transcript."""
    if seconds > MAX_ALIGNMENT_S:
        raise ClipError(
            f"{path} lasts {seconds / 60:.0f} min; expected at most {MAX_ALIGNMENT_S / 60:.0f} min with a transcript: "
            "cut it, or leave the transcript out"
        )


def from_script(
    text: str, voice: Voice, loudness: float, speaker: Callable[[str, Voice], SpokenText] = speak_in_fresh_process
) -> tuple[Speech, np.ndarray]:
    """Speak a script with espeak-ng. Returns the Speech with word and phoneme times, and the sound as `from_file` does.

    loudness: target in LUFS. speaker: the function that synthesizes. Raises ClipError for a script without letters and
    digits, and as `text_to_speech.speak` does.
    """
    if not any(c.isalnum() for c in text):
        raise ClipError(EMPTY_SCRIPT_MESSAGE)
    spoken = speaker(text, voice)
    sound, level = audio_files.normalise(audio_files.from_mono(spoken.samples, spoken.sample_rate), loudness)
    return Speech(audio_files.to_speech_samples(sound), level, spoken.words, spoken.phonemes), sound
