"""How a user wants words to be pronounced: names and terms, in IPA, for voices and for forced alignment."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from types import MappingProxyType

from stereotalker.audio.phonemes import IPA_DIACRITICS, arpabet, is_ipa, phoneme_class
from stereotalker.audio.text_to_speech import PUNCTUATION
from stereotalker.errors import UserError

Lexicon = Mapping[str, str]  # word, in any capitals -> its sounds in IPA, such as {"Siobhan": "ʃɪvˈɔːn"}
NO_LEXICON: Lexicon = MappingProxyType({})

_STRESS, _LENGTH = "ˈˌ", "ːˑ"
_IGNORED = str.maketrans("", "", "." + IPA_DIACRITICS)
# Sounds that are written with two letters.
_PAIRS = ("eɪ", "aɪ", "aʊ", "oʊ", "əʊ", "ɔɪ", "dʒ", "tʃ", "ts", "dz", "pf")


def check_lexicon(lexicon: Lexicon) -> None:
    """Raise UserError for what is not one word, for a word twice, and for sounds that are not IPA."""
    names = [_folded(word) for word in lexicon]
    for word, ipa in lexicon.items():
        letters = _folded(word).replace("'", "")
        if not letters or any(unicodedata.category(c)[0] not in "LM" for c in letters):
            raise UserError(f"lexicon: {word!r} is not one word of letters")
        if names.count(_folded(word)) > 1:
            raise UserError(f"lexicon: {word!r} stands in it twice; capitals make no difference")
        sounds = ipa_symbols(ipa)
        wrong = [s for s in sounds if not is_ipa(s) or not arpabet(s)]
        if wrong or not sounds:
            what = f"{wrong[0]!r} is no sound in IPA" if wrong else "it has no sounds"
            raise UserError(f"lexicon: {word}: {ipa!r}: {what}; expected IPA such as ʃɪvˈɔːn, without slashes")


def pronunciation(word: str, lexicon: Lexicon) -> str | None:
    """The sounds of a word in IPA, if the lexicon has it, or has it without a possessive 's."""
    wanted = _folded(word)
    by_name = {_folded(name): ipa for name, ipa in lexicon.items()}
    if wanted in by_name:
        return by_name[wanted]
    ipa = by_name.get(wanted.removesuffix("'s")) if wanted.endswith("'s") else None
    if ipa is None:
        return None
    last = phoneme_class(ipa_symbols(ipa)[-1])
    return ipa + ("ɪz" if last in ("s", "sh") else "s" if ipa.endswith(("p", "t", "k", "f", "θ")) else "z")


def words_of(lexicon: Lexicon, text: str) -> Lexicon:
    """The part of a lexicon whose words a text has."""
    said = {_folded(token.strip(PUNCTUATION)) for token in re.split(r"[\s*\[\]<>–—-]+", text)}
    return {name: ipa for name, ipa in lexicon.items() if {_folded(name), _folded(name) + "'s"} & said}


def _folded(word: str) -> str:
    return unicodedata.normalize("NFC", word).casefold().replace("’", "'")


def ipa_symbols(ipa: str) -> list[str]:
    """The sounds of a word, each with its marks of stress and length."""
    symbols: list[str] = []
    marks, position = "", 0
    text = unicodedata.normalize("NFD", "".join(ipa.split())).translate(_IGNORED)
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
