"""Which voice speaks a script: a natural one for English where it is installed, else one of espeak-ng."""

from __future__ import annotations

from stereotalker.audio.natural_voices import MODELS, NaturalVoice, is_available
from stereotalker.audio.text_to_speech import Voice
from stereotalker.errors import ClipError

DEFAULT_LANGUAGE = "en-us"  # of scripts and transcripts
ESPEAK = "espeak"  # the name of espeak-ng's plain voice
_DEFAULT_ENGLISH = "heart"
_AMERICAN = ("en", "en-us")  # with other accents, such as en-gb, espeak-ng's voice has that accent


def find_voice(name: str, language: str | None, rate: int) -> Voice | NaturalVoice:
    """The voice of a script.

    name: one of MODELS; ESPEAK, or a variant of its voices, such as m3; empty: the best there is for the language.
    language: as espeak-ng names it, None: DEFAULT_LANGUAGE. rate: words a minute. Raises ClipError for an English voice
    in another language.
    """
    language = language or DEFAULT_LANGUAGE
    if name in MODELS:
        if not language.startswith("en"):
            raise ClipError(f"voice {name!r} speaks English, and `language` is {language!r}; leave `voice` out")
        return NaturalVoice(name, rate)
    if not name and language in _AMERICAN and is_available(_DEFAULT_ENGLISH):
        return NaturalVoice(_DEFAULT_ENGLISH, rate)
    return Voice(language, "" if name == ESPEAK else name, rate)
