"""Stage `audio` of a clip: an audio file or a script -> Speech at a given loudness.

The Speech has words and phonemes if there is a script, a transcript that fits the recording, or words that were
recognized in it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from stereotalker.audio.forced_alignment import align
from stereotalker.audio.lexicon import NO_LEXICON, Lexicon
from stereotalker.audio.marks import MarkedVoice, Speaker, without_marks
from stereotalker.audio.recognition import Recognition, Recognizer
from stereotalker.audio.voices import DEFAULT_LANGUAGE
from stereotalker.audio.whisper_models import ENGLISH
from stereotalker.errors import ClipError
from stereotalker.media import audio_files
from stereotalker.records import SAMPLE_RATE, Speech

MAX_ALIGNMENT_S = 600.0  # longest recording that is aligned with its transcript, s
EMPTY_SCRIPT_MESSAGE = "script has no letters or digits; expected words to speak"


def from_file(
    path: Path,
    loudness: float,
    transcript: str | None = None,
    language: str | None = None,
    sound: Path | None = None,
    recognizer: Recognizer | None = None,
    part: audio_files.SoundPart = audio_files.ALL,
    lexicon: Lexicon = NO_LEXICON,
) -> Speech:
    """Read a recording, or the sound of a video.

    loudness: target in LUFS; transcript: what is said; language: of the speech, as espeak-ng names it, None: it is
    recognized, and that of a transcript is DEFAULT_LANGUAGE if it fits; sound, part: where the sound of the clip is
    written, and what is read, see audio_files.write_normalized; recognizer: gives the words if there is no transcript;
    lexicon: how words are pronounced. A transcript that is not what is said gives no words. Raises ClipError for a
    recording with a transcript that is longer than MAX_ALIGNMENT_S.
    """
    with _sound_file(sound) as file:
        level = audio_files.write_normalized(path, loudness, file, part)
        samples = audio_files.speech_samples(file)
    if transcript is not None:
        check_alignable(path, len(samples) / SAMPLE_RATE)
        times = align(samples, transcript, language or DEFAULT_LANGUAGE, lexicon=lexicon)
        if times is None and language is None and recognizer:
            heard = recognizer.language(samples)
            times = align(samples, transcript, heard, lexicon=lexicon) if heard not in ("", ENGLISH) else None
        return Speech(samples, level, *(times or ()))
    if recognizer is None:
        return Speech(samples, level)
    found = recognizer.recognize(samples, language, lexicon)
    return recognized_speech(Speech(samples, level), found)


def recognized_speech(sound: Speech, found: Recognition) -> Speech:
    """A recording with the words that were recognized in it."""
    return replace(
        sound,
        words=tuple(found.words),
        phonemes=tuple(found.phonemes),
        recognized=found.text,
        recognized_language=found.language,
        unaligned=tuple(found.unaligned),
        unaligned_reason=found.reason,
    )


@contextmanager
def _sound_file(path: Path | None) -> Iterator[Path]:
    """The path, or that of a temporary file."""
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "sound.wav"


def check_alignable(path: Path, seconds: float) -> None:
    """Raise ClipError if a recording of this length in s is too long to be aligned with its transcript."""
    if seconds > MAX_ALIGNMENT_S:
        raise ClipError(
            f"{path} lasts {seconds / 60:.0f} min; expected at most {MAX_ALIGNMENT_S / 60:.0f} min with a transcript: "
            "cut it, or leave the transcript out"
        )


def check_script(text: str, voice: Speaker | MarkedVoice) -> None:
    """Raise ClipError for a script without letters and digits, and as the voice does."""
    voice.check(text)
    if not any(c.isalnum() for c in without_marks(text)):
        raise ClipError(EMPTY_SCRIPT_MESSAGE)


def from_script(text: str, voice: Speaker | MarkedVoice, loudness: float, sound: Path | None = None) -> Speech:
    """Speak a script. Returns the Speech with the times of words and phonemes.

    loudness: target in LUFS; sound: as of `from_file`. Raises ClipError as `check_script` does, and as the voice does.
    """
    check_script(text, voice)
    spoken = voice.speak(text)
    with tempfile.TemporaryDirectory() as folder, _sound_file(sound) as file:
        raw = Path(folder) / "spoken.wav"
        raw.write_bytes(audio_files.wav_bytes(spoken.samples, spoken.sample_rate))
        level = audio_files.write_normalized(raw, loudness, file)
        samples = audio_files.speech_samples(file)
    return Speech(samples, level, spoken.words, spoken.phonemes)
