"""Which letters the voices of a language read."""

from __future__ import annotations

import re
import unicodedata

from stereotalker.errors import ClipError

# Scripts that the voice of a language reads, by the first word of the Unicode names of their letters.
_SCRIPTS = {
    "ru": {"CYRILLIC"},
    "el": {"GREEK"},
    "hi": {"DEVANAGARI"},
    "ar": {"ARABIC"},
    "ko": {"HANGUL"},
    "cmn": {"CJK"},
    "ja": {"HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"},  # espeak-ng calls each kanji "Chinese letter"
}
_MOST_SIGNS = 2  # letters beside each other that may be signs of a formula
# Scripts in which a word may be a single letter, or falls into such between its vowel signs.
_SIGNS_ARE_WORDS = {
    "CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "DEVANAGARI", "BENGALI",
    "GURMUKHI", "GUJARATI", "ORIYA", "TAMIL", "TELUGU", "KANNADA", "MALAYALAM", "SINHALA",
}  # fmt: skip
_NO_SCRIPT = {"MODIFIER", "COMBINING", "FULLWIDTH", "IDEOGRAPHIC", "FEMININE", "MASCULINE", "MICRO"}
# Languages of espeak-ng that are written in Latin letters, so that a text in others is in another language.
_LATIN_LANGUAGES = frozenset(
    "af ca cs cy da de en es et eu fi fr ga gd hr hu id is it lt lv ms mt nb nl pl pt ro sk sl sq sv sw tr vi".split()
)


def unreadable_scripts(text: str, language: str, reads_kanji: bool = False) -> set[str]:
    """Names of the scripts in a text that the voice of a language does not read.

    language: espeak-ng's code; the voices of languages that are not in _SCRIPTS read Latin letters.
    """
    scripts = {unicodedata.name(c, "UNKNOWN").split()[0] for c in text if c.isalpha()}
    kanji = {"CJK"} if reads_kanji and language == "ja" else set[str]()
    return scripts - _SCRIPTS.get(language, {"LATIN"}) - _NO_SCRIPT - kanji


def check_letters(text: str, language: str, reads_kanji: bool = False) -> None:
    """Raise ClipError for a script with words in letters that the voice of a language does not read.

    reads_kanji: whether the Japanese voice does. One or two letters, such as those of units and formulas, and words in
    Latin letters are let through. So are all languages whose letters are not known here.
    """
    if language not in _SCRIPTS and language.split("-")[0] not in _LATIN_LANGUAGES:
        return
    for word in unicodedata.normalize("NFKC", text).split():
        scripts: set[str] = set()
        for letters in re.findall(r"[^\W\d_]+", word):
            others = [c for c in letters if unreadable_scripts(c, language, reads_kanji) - {"LATIN"}]
            found = unreadable_scripts("".join(others), language, reads_kanji)
            if len(others) > _MOST_SIGNS or found & _SIGNS_ARE_WORDS:
                scripts |= found
        if scripts:
            names = ", ".join(sorted(scripts)).lower()
            hint = (
                "write it in kana, or install [voices-more]"
                if language == "ja"
                else "set `language` to that of the script"
            )
            raise ClipError(f"script {word[:20]!r} is in {names} letters, which no voice of {language} reads; {hint}")
