"""How English text is spoken by the natural voices: words, their symbols in misaki's alphabet, and stress.

The rules and the lexicon are those of hibari.
"""

from __future__ import annotations

import difflib
import json
import re
import threading
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

from stereotalker.audio.lexicon import NO_LEXICON, Lexicon, ipa_symbols, pronunciation
from stereotalker.audio.misaki import IPA, LONG, MAX_SYMBOLS, SPACE, STRESS_MARKS, SpokenWord
from stereotalker.audio.phonemes import VOWELS, phoneme_class
from stereotalker.audio.text_to_speech import PUNCTUATION

# What hibari reads wrongly, and how it is spoken: billions, ranges of times, units by time.
_SPOKEN = (
    (re.compile(r"([$£€]\s?[\d.,]+)\s?bn\b"), r"\1 billion"),
    (re.compile(r"([$£€]\s?[\d.,]+)\s?mn?\b"), r"\1 million"),
    (re.compile(r"(\d{1,2}:\d{2})\s?[-–]\s?(?=\d{1,2}:\d{2})"), r"\1 to "),
    (re.compile(r"(?<=\d)(\s?[A-Za-z]+)/s\b"), r"\1 per second"),
    (re.compile(r"(?<=\d)(\s?[A-Za-z]+)/h\b"), r"\1 per hour"),
    (re.compile(r"\b24/7\b"), "twenty-four seven"),
)
_MOST_DIGITS = 30  # hibari has no names for longer numbers; their digits are read one by one
_RULES_LOCK = threading.Lock()  # the rules of pronunciation keep a state while they read


def spelled_out(text: str) -> str:
    """English text with numbers, dates, money, units and abbreviations as words."""
    from hibari import Hibari
    from hibari.g2p import normalize

    with _RULES_LOCK:
        return " ".join(normalize(_plain(sentence)) for sentence in Hibari.split_sentences(text))


def spoken_words(sentence: str, lexicon: Lexicon = NO_LEXICON, stressed: Collection[int] = ()) -> list[SpokenWord]:
    """The words of a sentence with numbers, dates and units spelled out, and their phonemes.

    stressed: numbers of the sentence's written words that are stressed.
    """
    from hibari.g2p import normalize

    words: list[SpokenWord] = []
    with _RULES_LOCK:
        rules, known, text, symbols = _pronunciation(), alphabet(), "", ""
        tokens = rules.tokenize(normalize(_plain(sentence)))
        for token in tokens:
            if ipa := pronunciation(token.text, lexicon):
                token.phonemes, token.rating = to_misaki(ipa), 5
        spoken = rules.phonemize_tokens(tokens)
        bears_stress = _stressed_tokens(sentence, [token.text for token in spoken], stressed)
        for k, token in enumerate(spoken):
            text += token.text
            sounds = "".join(symbol for symbol in token.phonemes or "" if symbol in known)
            symbols += _with_stress(sounds) if k in bears_stress else sounds
            if token.whitespace:
                words += _in_parts(text, symbols + SPACE)
                text = symbols = ""
        words += _in_parts(text, symbols)
    return [word for word in words if word.symbols.strip()]


def _stressed_tokens(sentence: str, tokens: list[str], stressed: Collection[int]) -> set[int]:
    """Numbers of the tokens that stand for stressed words. What is spoken otherwise than written shares the stress."""
    if not stressed:
        return set()
    written, spoken = ([word.strip(PUNCTUATION).lower() for word in words] for words in (sentence.split(), tokens))
    result: set[int] = set()
    for kind, first, last, begin, end in difflib.SequenceMatcher(None, written, spoken, False).get_opcodes():
        if kind == "equal":
            result |= {begin + k - first for k in range(first, last) if k in stressed}
        elif kind == "replace" and any(k in stressed for k in range(first, last)):
            result |= set(range(begin, end))
    return result


def to_misaki(ipa: str) -> str:
    """Sounds in misaki's alphabet, without the marks of articulation and ties that it does not have."""
    ipa = "".join(ipa_symbols(ipa))
    for letter, sound in IPA.items():
        if len(sound) == 2:
            ipa = ipa.replace(sound, letter)
    return ipa.replace("r", "ɹ").replace("g", "ɡ")


def _with_stress(sounds: str) -> str:
    """The sounds of a word with a longer vowel that bears the main stress."""
    vowels = [
        k for k, c in enumerate(sounds) if phoneme_class(IPA.get(c, c)) in VOWELS and c not in STRESS_MARKS + LONG
    ]
    if not vowels:
        return sounds
    marked = sounds.find(STRESS_MARKS[0])
    main = next((k for k in vowels if k > marked), vowels[-1]) if marked >= 0 else vowels[0]
    before = sounds[:main] if marked >= 0 else sounds[:main] + STRESS_MARKS[0]
    return before + sounds[main] + LONG * 2 + sounds[main + 1 :]


def _plain(sentence: str) -> str:
    """The sentence without what hibari's rules read wrongly: its own markup, very long numbers, and _SPOKEN."""
    sentence = sentence.replace("](", "] (")
    for pattern, spoken in _SPOKEN:
        sentence = pattern.sub(spoken, sentence)
    return re.sub(rf"\d{{{_MOST_DIGITS},}}", lambda found: " ".join(found.group()), sentence)


def _in_parts(text: str, symbols: str) -> list[SpokenWord]:
    """A word, or several if it is too long to be spoken at once, such as an address. Only the first has the text."""
    parts = [symbols[k : k + MAX_SYMBOLS] for k in range(0, len(symbols), MAX_SYMBOLS)]
    return [SpokenWord(text.strip(PUNCTUATION) if k == 0 else "", part) for k, part in enumerate(parts)]


@cache
def _pronunciation() -> Any:
    """hibari's rules of American pronunciation, a hibari.g2p.G2P."""
    from hibari.g2p import G2P

    return G2P()


@cache
def alphabet() -> dict[str, int]:
    """The symbols that both networks know, with their numbers in hibari."""
    from hibari.tts import ASSETS

    return json.loads((Path(ASSETS) / "vocab.json").read_text(encoding="utf-8"))
