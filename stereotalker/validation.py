"""Checks of records that users write, and explanations of their faults."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import yaml
from pydantic import BaseModel, ConfigDict
from pydantic_core import ErrorDetails


class StrictModel(BaseModel):
    """A frozen record that refuses unknown keys, NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def as_utf8(text: str) -> str:
    """The text with \\udc.. in place of what UTF-8 cannot hold, as in names of files that are not UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def is_text(value: object) -> bool:
    """Whether every string in the value can be written as UTF-8 and holds no control characters but white space."""
    return not invalid_character(value)


def invalid_character(value: object) -> str:
    """The first character of a value that no text should hold, as text for a person; empty if there is none."""
    if isinstance(value, dict):
        return next(filter(None, map(invalid_character, [*value, *value.values()])), "")
    if isinstance(value, list | tuple):
        return next(filter(None, map(invalid_character, value)), "")
    for character in value if isinstance(value, str) else "":
        category = unicodedata.category(character)
        if category == "Cs":
            return f"half a character (U+{ord(character):04X})"
        if category == "Cc" and not character.isspace():
            return f"the control character U+{ord(character):04X}"
    return ""


def repeated_keys(node: yaml.Node) -> Iterator[str]:
    """A text for every key that stands twice in a mapping of a YAML document. YAML's loader would keep the last one."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                yield f"line {line}: the key {key.value!r} stands in line {seen[key.value]} already; remove one"
            seen.setdefault(key.value, line)
            yield from repeated_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from repeated_keys(item)


def explain(fault: ErrorDetails) -> str:
    """One line for one entry of a pydantic ValidationError.errors(): the key, what was expected, and what came."""
    field = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown key {field!r}"
    if fault["type"] == "missing":
        return f"{field} is missing"
    got = "" if isinstance(fault.get("input"), dict) else f" (got {fault.get('input')!r})"
    expected = (
        "expected keys and their values"
        if fault["type"] == "model_type"
        else fault["msg"].removeprefix("Value error, ")
    )
    return f"{field + ': ' if field else ''}{expected}{got}"
