"""Rows of a manifest that are spoken in several languages: one row becomes a clip for each of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stereotalker.production.manifest_files import Row

# What may be given for each language.
_KEYS = ("script", "audio", "transcript", "voice", "rate", "pitch", "cues", "lexicon")
_LANGUAGES = "languages"


def _is_by_language(key: str, value: Any) -> bool:
    """Whether a key has a value for each language. A lexicon is a mapping itself."""
    return isinstance(value, dict) and (key != "lexicon" or any(isinstance(v, dict) for v in value.values()))


def by_language(row: Row) -> tuple[list[Row], list[str]]:
    """The rows of a row, and its faults.

    A row with `script: {en-us: ..., de: ...}`, or `audio` like that, becomes rows with the ids ID-en-us and ID-de, each
    with its `language`. `languages: [de]` chooses some of them. Other keys may name a value for each language, too.
    """
    values: dict[str, Any] = row.values
    named = {key: values[key] for key in _KEYS if _is_by_language(key, values.get(key))}
    spoken = [key for key in ("script", "audio") if key in named]
    if not named and _LANGUAGES not in values:
        return [row], []
    if len(spoken) != 1:
        return [], [f"{_LANGUAGES}: expected a script or an audio for each, such as script: {{en-us: ..., de: ...}}"]
    if "language" in values:
        return [], [f"language stands beside {spoken[0]} by language; leave it out"]
    languages = values.get(_LANGUAGES, list(named[spoken[0]]))
    if not isinstance(languages, list) or not languages or not all(isinstance(name, str) for name in languages):
        return [], [f"{_LANGUAGES}: expected a list of languages such as [en-us, de], got {languages!r}"]
    faults = [f"{spoken[0]} has nothing for {name!r}" for name in languages if name not in named[spoken[0]]]
    others = {key: value for key, value in values.items() if key not in named and key != _LANGUAGES}
    rows = []
    for language in languages:
        own = {key: by_name[language] for key, by_name in named.items() if language in by_name}
        name = f"{values.get('id')}-{language}"
        rows.append(replace(row, values=others | own | {"id": name, "language": language}))
    return ([], faults) if faults else (rows, [])
