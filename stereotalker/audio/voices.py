"""Which voice speaks a script: a natural one for English and Japanese where it is installed, else one of espeak-ng."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from stereotalker.audio.japanese_pronunciation import JAPANESE
from stereotalker.audio.marks import MarkedVoice
from stereotalker.audio.natural_voices import ENGLISH, LANGUAGES, MODELS, OWN, NaturalVoice, is_available
from stereotalker.audio.piper_voices import PiperVoice
from stereotalker.audio.text_to_speech import Voice, check_language, espeak_code, variants
from stereotalker.errors import ClipError

DEFAULT_LANGUAGE = "en-us"  # of scripts and transcripts
ESPEAK = "espeak"  # the name of espeak-ng's plain voice
_DEFAULT_VOICES = {ENGLISH: "heart", JAPANESE: "alpha"}  # where they are installed
PIPER = "piper:"  # begins the name of a voice of the user's own, a file of Piper

AnyVoice = Voice | NaturalVoice | PiperVoice
Pronunciations = tuple[tuple[str, str], ...]  # words and their sounds in IPA, see lexicon.py


def script_voice(
    name: str, language: str | None, rate: int, pitch: int | None = None, lexicon: Pronunciations = ()
) -> MarkedVoice:
    """The voice of a script with marks. Passages in other languages are spoken by the best voice there is for those.

    Raises ClipError as `find_voice` does; for other languages only when it speaks them.
    """
    own = find_voice(name, language, rate, pitch, lexicon)

    def voice_of(other: str | None) -> AnyVoice:
        if other is None:
            return own
        code = espeak_code(other)
        if isinstance(own, NaturalVoice) and code in LANGUAGES.get(own.name, (ENGLISH, JAPANESE)):
            return replace(own, language=code)
        found = find_voice("", other, rate, None, lexicon)
        return replace(found, pitch=pitch) if isinstance(found, Voice) and pitch is not None else found

    return MarkedVoice(voice_of)


def find_voice(
    name: str, language: str | None, rate: int, pitch: int | None = None, lexicon: Pronunciations = ()
) -> AnyVoice:
    """The voice of a script.

    name: one of MODELS; ESPEAK, or a variant of its voices, such as m3; PIPER or OWN, and a path; empty: the best there
    is for the language.
    language: as espeak-ng names it, None: DEFAULT_LANGUAGE. rate: words a minute. pitch: 0 to 99, of espeak-ng's voices
    alone; None: their own. lexicon: for the natural voices alone. Raises ClipError for an unknown voice or language,
    and for a voice that does not speak the language or has no pitch.
    """
    if name.startswith(PIPER):
        return _piper_voice(name, language, rate, pitch)
    language = espeak_code(language or DEFAULT_LANGUAGE)
    check_language(language)
    is_natural = name in MODELS or name.startswith(OWN)
    if is_natural and language not in (spoken := LANGUAGES.get(name, (ENGLISH, JAPANESE))):
        raise ClipError(f"voice {name!r} speaks {' and '.join(spoken)}, not {language!r}; leave one of them out")
    natural = _DEFAULT_VOICES.get(language, "")
    if not name and natural and is_available(natural):
        name = natural
    if name in MODELS or is_natural:
        if pitch is not None:
            raise ClipError(f"pitch: the voice {name!r} has its own; leave pitch out, or choose voice: {ESPEAK}")
        return NaturalVoice(name, rate, lexicon, language)
    if name not in ("", ESPEAK) and name not in variants():
        names = ", ".join((*MODELS, ESPEAK, f"{PIPER}FILE", f"{OWN}FILE"))
        raise ClipError(f"voice {name!r} is unknown; expected {names}, or a variant of espeak-ng's, such as f4 or m3")
    voice = Voice(language, "" if name == ESPEAK else name, rate)
    return voice if pitch is None else replace(voice, pitch=pitch)


def voice_file(name: str) -> tuple[str, Path] | None:
    """What stands before the path in the name of a voice of the user's own, and the path; None for other voices."""
    kind = next((kind for kind in (PIPER, OWN) if name.startswith(kind)), None)
    return (kind, Path(name.removeprefix(kind))) if kind else None


def _piper_voice(name: str, language: str | None, rate: int, pitch: int | None) -> PiperVoice:
    """A voice of Piper. Raises ClipError if it speaks another language, and for a pitch."""
    voice = PiperVoice(Path(name.removeprefix(PIPER)), rate)
    if pitch is not None:
        raise ClipError(f"pitch: the voice {name!r} has its own; leave pitch out, or choose voice: {ESPEAK}")
    if language and espeak_code(language).split("-")[0] != espeak_code(voice.language).split("-")[0]:
        raise ClipError(f"voice {name!r} speaks {voice.language}, not {language!r}; leave one of them out")
    return voice
