"""How a user wants words to be pronounced: names and terms, in IPA, for voices and for forced alignment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from stereotalker.audio.phonemes import is_ipa
from stereotalker.errors import UserError

Lexicon = Mapping[str, str]  # word, in any capitals -> its sounds in IPA, such as {"Siobhan": "ʃɪvˈɔːn"}
NO_LEXICON: Lexicon = MappingProxyType({})

_STRESS, _LENGTH = "ˈˌ", "ːˑ"
# Sounds that are written with two letters.
_PAIRS = ("eɪ", "aɪ", "aʊ", "oʊ", "əʊ", "ɔɪ", "dʒ", "tʃ", "ts", "dz", "pf")


def check_lexicon(lexicon: Lexicon) -> None:
    """Raise UserError for a word with spaces, and for sounds that are not IPA."""
    for word, ipa in lexicon.items():
        if not re.fullmatch(r"[^\W_]+(?:['’-][^\W_]+)*", word):
            raise UserError(f"lexicon: {word!r} is not one word")
        wrong = [symbol for symbol in ipa_symbols(ipa) if not is_ipa(symbol.strip(_STRESS + _LENGTH))]
        if wrong or not ipa_symbols(ipa):
            what = f"{wrong[0]!r} is no sound in IPA" if wrong else "it has no sounds"
            raise UserError(f"lexicon: {word}: {ipa!r}: {what}; expected IPA such as ʃɪvˈɔːn")


def pronunciation(word: str, lexicon: Lexicon) -> str | None:
    """The sounds of a word in IPA, if the lexicon has it."""
    wanted = word.lower().replace("’", "'")
    return next((ipa for name, ipa in lexicon.items() if name.lower().replace("’", "'") == wanted), None)


def ipa_symbols(ipa: str) -> list[str]:
    """The sounds of a word, each with its marks of stress and length."""
    symbols: list[str] = []
    marks, position = "", 0
    text = "".join(ipa.split())
    while position < len(text):
        letter = text[position]
        if letter in _STRESS:
            marks, position = marks + letter, position + 1
        elif letter in _LENGTH and symbols:
            symbols[-1], position = symbols[-1] + letter, position + 1
        else:
            size = 2 if text[position : position + 2] in _PAIRS else 1
            symbols.append(marks + text[position : position + size])
            marks, position = "", position + size
    return symbols
