"""Manifest files: YAML, JSON lines or CSV -> rows of plain values, which production/manifest.py checks.

Files are UTF-8 whatever the system's locale is; a spreadsheet's CSV may also be UTF-16, begin with a byte order mark,
and have semicolons or tabs between its cells.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stereotalker.errors import UserError
from stereotalker.validation import repeated_keys

_JSON_COLUMNS = (
    "camera.points",
    "retakes",
    "emotion",
    "cues",
    "lexicon",
    "scene",
)  # columns of a CSV file that may hold JSON
_DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Row:
    """A clip of a manifest file."""

    number: int  # in YAML that of the clip, else that of the line, from 1
    values: dict[str, Any]
    # Values as the file spells them, by key, where YAML makes something else of them: `no` is a truth value, 12:30 a
    # number.
    spelled: dict[str, str] = field(default_factory=dict)


def read_rows(path: Path) -> tuple[list[Row], list[str]]:
    """The rows of a manifest file, and the faults of those that cannot be read.

    Raises UserError if the file cannot be read at all.
    """
    readers = {".yaml": _yaml_rows, ".yml": _yaml_rows, ".jsonl": _jsonl_rows, ".csv": _csv_rows}
    if not path.is_file():
        raise UserError(f"{path}: manifest not found; expected a .yaml, .jsonl or .csv file")
    if path.suffix.lower() not in readers:
        raise UserError(f"{path}: a manifest ends in .yaml, .jsonl or .csv, not {path.suffix!r}")
    try:
        return readers[path.suffix.lower()](path, _text_of(path.read_bytes()))
    except (yaml.YAMLError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not readable as {path.suffix[1:]}: {' '.join(str(error).split())}") from None


def _text_of(data: bytes) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte order mark. Raises UnicodeDecodeError."""
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_utf16 else "utf-8-sig")


# ---- YAML ----

# libyaml's parser, which the wheels of PyYAML contain, is four times as fast as the one in Python.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _yaml_rows(path: Path, text: str) -> tuple[list[Row], list[str]]:
    if bad := yaml.reader.Reader.NON_PRINTABLE.search(text):
        line, column = text.count("\n", 0, bad.start()) + 1, bad.start() - text.rfind("\n", 0, bad.start())
        raise UserError(
            f"{path}, line {line}, column {column}: the character U+{ord(bad[0]):04X} cannot stand in YAML; remove it"
        )
    loader = _LOADER(text)
    try:
        node = loader.get_single_node()
        faults = [f"{path}, {fault}" for fault in repeated_keys(node)] if node else []
        content = loader.construct_document(node) if node else None
    finally:
        loader.dispose()
    if not isinstance(content, dict) or not isinstance(content.get("clips"), list):
        return [], [f"{path}: expected a mapping with `clips:` (a list) and, if wanted, `defaults:`"]
    defaults = content.get("defaults") or {}
    faults += [
        f"{path}: unknown key {key!r} beside defaults and clips" for key in content if key not in ("defaults", "clips")
    ]
    if not isinstance(defaults, dict):
        return [], [*faults, f"{path}: defaults must be a mapping"]
    nodes = {key.value: value for key, value in node.value}
    rows = []
    for number, (entry, entry_node) in enumerate(zip(content["clips"], nodes["clips"].value, strict=True), 1):
        if isinstance(entry, dict):
            inherited = {key: value for key, value in defaults.items() if not _is_overruled(key, entry)}
            rows.append(Row(number, {**inherited, **entry}, _spelled(entry_node)))
        else:
            faults.append(f"{path}, row {number}: expected a mapping of a clip's keys, got {entry!r}")
    return rows, faults


def _spelled(node: yaml.Node) -> dict[str, str]:
    """The scalars of a mapping as the file spells them, by key."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return {key.value: value.value for key, value in pairs if isinstance(value, yaml.ScalarNode)}


def _is_overruled(key: str, entry: dict) -> bool:
    """Whether a clip's own script replaces a default audio, its audio a default script, or its scene an avatar."""
    replaced_by = {"audio": "script", "script": "audio", "avatar": "scene", "consent": "scene"}
    return key in replaced_by and replaced_by[key] in entry


# ---- JSON lines ----


def _jsonl_rows(path: Path, text: str) -> tuple[list[Row], list[str]]:
    """A line ends at \\n only: other characters that Unicode counts as ends of lines may stand in a script."""
    rows, faults = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line, object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            faults.append(f"{path}, row {number}: not JSON: {error.msg.removesuffix(' at')} at column {error.colno}")
            continue
        except _Repeated as error:
            faults.append(f"{path}, row {number}: the key {error} stands twice; remove one")
            continue
        if isinstance(entry, dict):
            rows.append(Row(number, entry))
        else:
            faults.append(f"{path}, row {number}: expected an object of a clip's keys, got {line.strip()[:40]!r}")
    return rows, faults


class _Repeated(Exception):
    """A JSON object has a key twice. The text is the key."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1:
            raise _Repeated(repr(key))
    return dict(pairs)


# ---- CSV ----


def _csv_rows(path: Path, text: str) -> tuple[list[Row], list[str]]:
    """Columns are keys of a clip; `camera.azimuth` is a key inside `camera`; an empty cell takes the key's default.

    Rows whose cells are all empty, as spreadsheets leave them, are passed over.
    """
    lines = text.split("\n")
    skipped = 0
    if lines[0].strip().strip('"').lower().startswith("sep="):  # Excel's own first line
        delimiter = lines[0].strip().strip('"')[4:5] or ","
        skipped = 1
    else:
        delimiter = max(_DELIMITERS, key=lines[0].count)
    reader = csv.reader(io.StringIO("\n".join(lines[skipped:]), newline=""), delimiter=delimiter)
    columns = [name.strip().lower() for name in next(reader, [])]
    if repeated := [name for name, count in Counter(columns).items() if count > 1 and name]:
        return [], [f"{path}: the column {', '.join(map(repr, repeated))} stands twice; remove one"]
    rows, faults = [], []
    for cells in reader:
        number = reader.line_num + skipped
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{path}, row {number}"
        if len(cells) != len(columns):
            given = dict(zip(columns, cells, strict=False)).get("id")
            faults.append(
                f"{where}, clip {given!r}: the number of cells differs from the header's: {len(cells)} in place of "
                f"{len(columns)}; put texts with {delimiter!r} in quotes"
            )
            continue
        values, cell_faults = _cell_values(dict(zip(columns, cells, strict=True)))
        faults += [f"{where}, clip {values.get('id')!r}: {fault}" for fault in cell_faults]
        rows.append(Row(number, values))
    return rows, faults


def _cell_values(cells: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The keys of a clip from the cells of its row, by column; and the faults of cells that should hold JSON."""
    values: dict[str, Any] = {}
    faults = []
    for column, cell in cells.items():
        if cell == "" and (column != "script" or cells.get("audio") or cells.get("scene")):
            continue
        try:
            value = json.loads(cell) if column in _JSON_COLUMNS and cell.lstrip()[:1] in "[{" else cell
        except json.JSONDecodeError as error:
            faults.append(f"{column}: not JSON: {error.msg}")
            continue
        first, _, second = column.partition(".")
        if second and isinstance(values.setdefault(first, {}), dict):
            values[first][second] = value
        else:
            values[first] = value
    return values, faults
