"""The alphabet of misaki, in which the networks of hibari and Kokoro read how words sound."""

from __future__ import annotations

from dataclasses import dataclass

MAX_SYMBOLS = 400  # in one call of a network; both were trained on fewer than 510
# What misaki writes -> IPA. Some of its letters mean other sounds in ARPAbet.
IPA = {
    "A": "eɪ", "I": "aɪ", "W": "aʊ", "O": "oʊ", "Y": "ɔɪ", "Q": "əʊ", "ʤ": "dʒ", "ʧ": "tʃ", "T": "ɾ",
    "ᵊ": "ə", "ᵻ": "ɪ", "ʣ": "dz", "ʦ": "ts", "ʥ": "dʑ", "ʨ": "tɕ", "β": "w",
}  # fmt: skip
STRESS_MARKS, LONG, SPACE = "ˈˌ", "ː", " "
MODIFIERS = LONG + "ʲᵝ"  # belong to the sound before them


@dataclass(frozen=True)
class SpokenWord:
    """What stands between two spaces of a text that is spelled out, such as "twelve" or "$1,234.50,"."""

    text: str  # without punctuation at its ends
    symbols: str  # phonemes and punctuation in misaki's alphabet, with the space behind it
