"""Words as a text writes them, at the times at which they are said."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from stereotalker.audio.text_to_speech import NO_SPACES, PUNCTUATION
from stereotalker.records import Timed

_MAX_UNTIMED = 4  # words without a time that may follow one with a time
# A word with its punctuation; in scripts without spaces between words, a character.
_TOKEN = re.compile(rf"{NO_SPACES.pattern}[^\w\s]*|(?:(?!{NO_SPACES.pattern})\S)+")


def written_words(words: Sequence[Timed], text: str) -> list[Timed]:
    """The words as the text writes them, with capitals and punctuation.

    A word that the text does not have stays as it is. A few words of the text without a time share that of the word
    before them: espeak-ng speaks some words as one. More of them are left out: nobody knows when they are said.
    """
    return [word for word, _ in _located(words, text)]


def count_words(text: str) -> int:
    """How many words a text has. Signs that stand alone, such as a dash, are none."""
    return sum(map(_is_word, _TOKEN.findall(text)))


def word_at(words: Sequence[Timed], text: str, index: int) -> Timed | None:
    """Word number `index` of a text, from 0; None if nobody knows when it is said.

    A word whose time is not known has that of the next one, if that follows soon.
    """
    tokens = _TOKEN.findall(text)
    numbered = [k for k, token in enumerate(tokens) if _is_word(token)]
    if not 0 <= index < len(numbered):
        return None
    wanted = numbered[index]
    near = [(k, word) for word, k in _located(words, text) if k is not None and wanted <= k <= wanted + _MAX_UNTIMED]
    return near[0][1] if near else None


def find_word(text: str, word: str) -> int | None:
    """The number of the first word of a text that is `word`, from 0, whatever its capitals; None if there is none.

    word: may be several words; then the first of them counts.
    """
    plain, wanted = ([_folded(token) for token in _TOKEN.findall(part) if _is_word(token)] for part in (text, word))
    return next((k for k in range(len(plain)) if wanted and plain[k : k + len(wanted)] == wanted), None)


def _folded(token: str) -> str:
    return unicodedata.normalize("NFC", token).strip(PUNCTUATION).casefold().replace("’", "'")


def _is_word(token: str) -> bool:
    return any(c.isalnum() for c in token)


def _located(words: Sequence[Timed], text: str) -> list[tuple[Timed, int | None]]:
    """The words of `written_words`, each with the number of its token in the text; None for words it does not have."""
    words = [part for word in words for part in _shared(_TOKEN.findall(word.text), word.start, word.end)]
    written = _TOKEN.findall(text)
    plain = [token.strip(PUNCTUATION).lower() for token in written]
    spoken = [word.text.strip(PUNCTUATION).lower() for word in words]
    result: list[tuple[Timed, int | None]] = []
    for kind, first, last, begin, end in difflib.SequenceMatcher(None, plain, spoken, False).get_opcodes():
        numbers = range(first, last)
        if kind == "equal":
            pairs = zip(written[first:last], words[begin:end], numbers, strict=True)
            result += [(Timed(token, word.start, word.end), k) for token, word, k in pairs]
        elif kind == "replace":
            shared = _shared(written[first:last], words[begin].start, words[end - 1].end)
            result += zip(shared, numbers, strict=True)
        elif kind == "insert":
            result += [(word, None) for word in words[begin:end]]
        elif result and not any(plain[first:last]):  # signs that nobody speaks, such as a dash
            before, k = result[-1]
            result[-1] = Timed(" ".join([before.text, *written[first:last]]), before.start, before.end), k
        elif result and last - first <= _MAX_UNTIMED:
            before, k = result.pop()
            shared = _shared([before.text, *written[first:last]], before.start, before.end)
            result += zip(shared, [k, *numbers], strict=True)
    return result


def _shared(tokens: Sequence[str], start: float, end: float) -> list[Timed]:
    """Words that share a time by their letters."""
    if not tokens:
        return []
    letters = [len(token) for token in tokens]
    borders = [start + (end - start) * sum(letters[:k]) / sum(letters) for k in range(len(tokens) + 1)]
    return [Timed(token, *span) for token, span in zip(tokens, pairwise(borders), strict=True)]
