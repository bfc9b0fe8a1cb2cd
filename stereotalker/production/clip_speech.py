"""The speech of a clip, as its row in the manifest asks for it: a script, or a recording."""

from __future__ import annotations

from pathlib import Path

from stereotalker.audio.recognition import Recognizer
from stereotalker.audio.speech import from_file, from_script
from stereotalker.audio.voices import DEFAULT_LANGUAGE, find_voice
from stereotalker.production.manifest import Clip
from stereotalker.records import Speech

_SOUND_ALONE = "lips and gestures follow the sound alone"


def make_speech(clip: Clip, loudness: float, recognizer: Recognizer | None, sound: Path) -> Speech:
    """Speak the script or read the recording of a clip, and write its sound.

    loudness: target in LUFS; recognizer: of the words of a recording without a transcript, None: there is none. Raises
    ClipError if the speech cannot be used.
    """
    if clip.script is not None:
        return from_script(clip.script, find_voice(clip.voice, clip.language, clip.rate), loudness, sound)
    used = recognizer if clip.is_recognized else None
    return from_file(clip.recording, loudness, clip.given_transcript, clip.language, sound, used)


def speech_source(clip: Clip, sha256: str, recognizer: Recognizer | None) -> tuple[str | list | None, ...]:
    """What the speech of a clip is made from, for its key in the store. sha256: of the recording; else unused."""
    if clip.script is not None:
        return "script", clip.script, find_voice(clip.voice, clip.language, clip.rate).identity()
    if clip.given_transcript is not None:
        return "transcribed", sha256, clip.given_transcript, clip.language or DEFAULT_LANGUAGE
    if clip.is_recognized and recognizer:
        return "recognized", sha256, clip.language, recognizer.digest
    return "sound", sha256


def speech_notes(clip: Clip, speech: Speech, recognizer: Recognizer | None) -> tuple[str, ...]:
    """What the author of a row should know of its words; nothing if they are known, or not wanted."""
    if not clip.is_recognized:
        return ()
    if recognizer is None:
        return (f"its words are not known: no speech recognition is installed, see `doctor`; {_SOUND_ALONE}",)
    if not speech.words:
        language = speech.recognized_language
        if speech.recognized:
            return (f"what was heard ({language}) does not fit its sound: {speech.recognized[:80]!r}; {_SOUND_ALONE}",)
        if speech.unaligned:
            return (f"its words are not known: no installed model reads {language!r}, see `doctor`; {_SOUND_ALONE}",)
        return (f"no words were heard in it; {_SOUND_ALONE}",)
    spans = ", ".join(f"{start:.1f} to {end:.1f}" for start, end in speech.unaligned[:5])
    more = f" and {len(speech.unaligned) - 5} more" if len(speech.unaligned) > 5 else ""
    return (f"the words at {spans} s{more} are not known; {_SOUND_ALONE} there",) if spans else ()
