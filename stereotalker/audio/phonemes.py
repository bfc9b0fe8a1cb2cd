"""Phoneme classes: the common alphabet of synthetic speech (IPA), forced alignment (ARPAbet) and the audio encoder.

A class is a set of sounds that look alike on the lips or sound alike to the ear. The classes cover the languages that
espeak-ng speaks.
"""

from __future__ import annotations

# Class -> its IPA symbols without marks for length, tone and stress, and its ARPAbet symbols.
_TABLE: dict[str, tuple[str, str]] = {
    "sil": ("_ Л ʔ", "SIL +SPN+ +NSN+"),
    "p": ("p b ɓ ʙ", "P B"),
    "m": ("m ɱ", "M"),
    "f": ("f v ɸ β ʋ pf", "F V"),
    "th": ("θ ð", "TH DH"),
    "t": ("t d ʈ ɖ ɗ", "T D"),
    "n": ("n ɲ ɳ ŋ ɴ", "N NG"),
    "s": ("s z ts dz ɕ ʑ tɕ dʑ", "S Z"),
    "sh": ("ʃ ʒ tʃ dʒ ʂ ʐ tʂ", "SH ZH CH JH"),
    "k": ("k ɡ g q ɢ c ɟ", "K G"),
    "h": ("h ɦ x ɣ χ ʁ ħ ʕ ç", "HH"),
    "l": ("l ɫ ʎ ɭ ɬ", "L"),
    "r": ("r ɹ ɾ ɽ ɻ ʀ", "R"),
    "w": ("w ʍ ɥ", "W"),
    "j": ("j ʝ", "Y"),
    "i": ("i ɪ ɨ y ʏ", "IY IH"),
    "e": ("e ɛ ø œ", "EY EH"),
    "ae": ("æ a ɐ", "AE AY AW"),
    "aa": ("ɑ ɒ", "AA"),
    "ah": ("ʌ ə ɘ ᵻ ɜ", "AH"),
    "er": ("ɝ ɚ", "ER"),
    "o": ("o ɔ ɵ ɤ", "OW OY AO"),
    "u": ("u ʊ ʉ ɯ", "UW UH"),
}
CLASSES: tuple[str, ...] = tuple(_TABLE)  # the order of the audio encoder's outputs
CLASS_INDEX: dict[str, int] = {name: i for i, name in enumerate(CLASSES)}
# Classes whose sounds close the lips.
BILABIAL = frozenset({"p", "m"})
VOWELS = frozenset({"i", "e", "ae", "aa", "ah", "er", "o", "u"})

_FROM_IPA = {symbol: name for name, (ipa, _) in _TABLE.items() for symbol in ipa.split()}
_FROM_ARPABET = {symbol: name for name, (_, arpabet) in _TABLE.items() for symbol in arpabet.split()}
# Marks of articulation and ties.
IPA_DIACRITICS = "̩̃̊̈̚ʰʲʷˠ̪͡‿"
# Deletes what a symbol carries besides its letters: the same, marks for length, stress and tone, and digits.
_REMOVE_MARKS = str.maketrans("", "", IPA_DIACRITICS + "ːˑˈˌ^|~'-.0123456789 ")


def phoneme_class(symbol: str) -> str:
    """Class of an IPA or ARPAbet symbol.

    The longest beginning of the symbol that is in the table decides. An unknown symbol is "ah", an empty one silence.
    """
    if symbol.rstrip("012") in _FROM_ARPABET:
        return _FROM_ARPABET[symbol.rstrip("012")]
    letters = symbol.translate(_REMOVE_MARKS)
    for length in range(len(letters), 0, -1):
        if letters[:length] in _FROM_IPA:
            return _FROM_IPA[letters[:length]]
    return "sil" if not letters else "ah"


def is_ipa(symbol: str) -> bool:
    """Whether the table has an IPA symbol, or both letters of a diphthong or an affricate."""
    letters = symbol.strip("ˈˌːˑ")
    return letters in _FROM_IPA or (len(letters) == 2 and all(letter in _FROM_IPA for letter in letters))


# IPA symbol -> the nearest ARPAbet symbols, for classes with several of them. Any other IPA symbol takes the first
# ARPAbet symbol of its class.
_NEAREST_ARPABET = {
    "b": "B", "v": "V", "β": "V", "ʋ": "V", "ð": "DH", "d": "D", "ɖ": "D", "ɗ": "D",
    "ŋ": "NG", "z": "Z", "ts": "T S", "dz": "D Z", "pf": "P F",
    "ʒ": "ZH", "ʐ": "ZH", "tʃ": "CH", "tʂ": "CH", "tɕ": "CH", "dʒ": "JH", "dʑ": "JH",
    "ɡ": "G", "g": "G", "ɢ": "G", "ɪ": "IH", "ɛ": "EH", "œ": "EH", "ʊ": "UH",
    "ɔ": "AO", "a": "AA", "ɐ": "AH", "æ": "AE", "ʁ": "R", "aɪ": "AY", "aʊ": "AW",
    "ɔɪ": "OY", "ɔʏ": "OY", "eɪ": "EY", "oʊ": "OW", "əʊ": "OW",
}  # fmt: skip


def arpabet(symbol: str) -> list[str]:
    """The ARPAbet symbols of the English sounds nearest to an IPA symbol; an empty list for silence."""
    letters = symbol.translate(_REMOVE_MARKS)
    for length in range(len(letters), 0, -1):
        if letters[:length] in _NEAREST_ARPABET:
            return _NEAREST_ARPABET[letters[:length]].split()
    name = phoneme_class(symbol)
    return [] if name == "sil" else [_TABLE[name][1].split()[0]]
