"""The speech of a clip, as its row in the manifest asks for it: a script, or a recording."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stereotalker.audio.lexicon import Lexicon, words_of
from stereotalker.audio.marks import MarkedVoice, passages, without_cues, without_marks
from stereotalker.audio.recognition import Recognizer
from stereotalker.audio.speech import from_file, from_script
from stereotalker.audio.voices import DEFAULT_LANGUAGE, script_voice
from stereotalker.media.audio_files import SoundPart
from stereotalker.media.burnt_captions import Caption, line_columns
from stereotalker.media.video_files import frame_count
from stereotalker.production.captions import MAX_LINE, faults, make_captions
from stereotalker.production.manifest import Clip
from stereotalker.records import Speech

_SOUND_ALONE = "lips and gestures follow the sound alone"


def make_speech(clip: Clip, loudness: float, recognizer: Recognizer | None, sound: Path) -> Speech:
    """Speak the script or read the recording of a clip, and write its sound.

    loudness: target in LUFS, unless the row has its own; recognizer: of the words of a recording without a transcript,
    None: there is none. Raises ClipError if the speech cannot be used.
    """
    loudness = target_loudness(clip, loudness)
    if clip.script is not None:
        return from_script(clip.script, clip_voice(clip), loudness, sound)
    used = recognizer if clip.transcript != "none" else None
    lexicon = _recording_lexicon(clip)
    return from_file(
        clip.recording, loudness, clip.given_transcript, clip.language, sound, used, clip_part(clip), lexicon
    )


def _recording_lexicon(clip: Clip) -> Lexicon:
    """What of its lexicon the recording of a clip can need."""
    return clip.lexicon if clip.is_recognized else words_of(clip.lexicon, clip.given_transcript or "")


def clip_voice(clip: Clip) -> MarkedVoice:
    """The voice of a clip with a script. Raises ClipError, see `find_voice`."""
    lexicon = words_of(clip.lexicon, clip.script or "")
    return script_voice(clip.voice, clip.language, clip.rate, clip.pitch, tuple(sorted(lexicon.items())))


def clip_part(clip: Clip) -> SoundPart:
    """What of its recording a clip uses."""
    start, seconds = (clip.part.start, clip.part.seconds) if clip.part else (0.0, None)
    return SoundPart(start, seconds, clip.speaker)


def target_loudness(clip: Clip, loudness: float) -> float:
    """The loudness in LUFS that a clip shall have. loudness: that of clips that ask for none."""
    return loudness if clip.loudness is None else clip.loudness


def speech_source(clip: Clip, sha256: str, recognizer: Recognizer | None) -> tuple[str | list | None, ...]:
    """What the speech of a clip is made from, for its key in the store. sha256: of the recording; else unused."""
    if clip.script is not None:
        script = without_cues(clip.script)
        return "script", script, clip_voice(clip).identity(script)
    recording = [sha256, *clip_part(clip), sorted(_recording_lexicon(clip).items())]
    if clip.given_transcript is not None:
        language = clip.language or (recognizer.digest if recognizer else DEFAULT_LANGUAGE)
        return "transcribed", recording, clip.given_transcript, language
    if clip.is_recognized and recognizer:
        return "recognized", recording, clip.language, recognizer.digest
    return "sound", recording


def clip_captions(clip: Clip, speech: Speech, are_burnt: bool = False) -> tuple[Caption, ...]:
    """The captions of a clip that asks for them, for files or for its pictures; none if its words are not known."""
    if clip.captions is None or not speech.words:
        return ()
    max_line = min(MAX_LINE, line_columns(clip.captions, (clip.height, clip.width))) if are_burnt else MAX_LINE
    return make_captions(speech.words, spoken_text(clip, speech), clip_seconds(clip, speech), max_line)


def spoken_text(clip: Clip, speech: Speech) -> str:
    """What is said in a clip, as it is written; empty if nobody knows."""
    return without_marks(clip.script) if clip.script else clip.given_transcript or speech.recognized


def clip_seconds(clip: Clip, speech: Speech) -> float:
    """Length of the pictures of a clip."""
    return frame_count(speech.seconds, clip.fps) / clip.fps


def speech_notes(clip: Clip, speech: Speech, recognizer: Recognizer | None) -> tuple[str, ...]:
    """What the author of a row should know of its words and captions; nothing if all is well."""
    notes = _notes_on_voice(clip)
    if clip.captions:
        notes = (*notes, *caption_notes(clip_captions(clip, speech), clip_seconds(clip, speech)))
    return (*notes, *_notes_on_words(clip, speech, recognizer))


def caption_notes(captions: Sequence[Caption], seconds: float) -> tuple[str, ...]:
    """What is wrong with the captions that a clip of `seconds` s asks for; nothing if all is well."""
    wrong = "; ".join(faults(captions, seconds)[:3])
    return (f"captions: {wrong}",) if wrong else () if captions else ("no captions: its words are not known",)


def _notes_on_voice(clip: Clip) -> tuple[str, ...]:
    """What of a script its voice cannot do."""
    if clip.script is None:
        return ()
    voice, notes = clip_voice(clip), []
    for passage in passages(clip.script):
        spoken_by = voice.voice_of(passage.language)
        if spoken_by.reads_ipa:
            continue
        if passage.stressed:
            notes.append(f"{spoken_by.label} stresses no words: asterisks in what it speaks change nothing")
        if words_of(clip.lexicon, passage.text):
            notes.append(f"{spoken_by.label} reads no IPA: the lexicon changes nothing in what it speaks")
    return tuple(dict.fromkeys(notes))


def _notes_on_words(clip: Clip, speech: Speech, recognizer: Recognizer | None) -> tuple[str, ...]:
    """What the author of a row should know of recognized words."""
    if not clip.is_recognized:
        return ()
    if recognizer is None:
        return (f"its words are not known: no speech recognition is installed, see `doctor`; {_SOUND_ALONE}",)
    if not speech.unaligned:
        return () if speech.words else (f"no words were heard in it; {_SOUND_ALONE}",)
    heard = f" ({speech.recognized[:80]!r})" if speech.recognized and not speech.words else ""
    spans = ", ".join(f"{start:.1f} to {end:.1f}" for start, end in speech.unaligned[:5])
    more = f" and {len(speech.unaligned) - 5} more" if len(speech.unaligned) > 5 else ""
    return (f"the words at {spans} s{more} are not known: {speech.unaligned_reason}{heard}; {_SOUND_ALONE} there",)
