"""Manifest files: YAML, JSON lines or CSV -> rows of plain values, which production/manifest.py checks."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import yaml

from stereotalker.errors import UserError

Rows = list[tuple[int, dict]]  # number of the row in the file, and its keys and values
_JSON_COLUMNS = ("camera.points", "retakes", "emotion")  # columns of a CSV file that may hold JSON


def read_rows(path: Path) -> tuple[Rows, list[str]]:
    """The rows of a manifest file, and the faults of those that cannot be read.

    Raises UserError if the file is not there, has another ending, or is not of the format that its ending says.
    """
    readers = {".yaml": _yaml_rows, ".yml": _yaml_rows, ".jsonl": _jsonl_rows, ".csv": _csv_rows}
    if not path.is_file():
        raise UserError(f"{path}: manifest not found; expected a .yaml, .jsonl or .csv file")
    if path.suffix.lower() not in readers:
        raise UserError(f"{path}: a manifest ends in .yaml, .jsonl or .csv, not {path.suffix!r}")
    try:
        return readers[path.suffix.lower()](path)
    except (yaml.YAMLError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not readable as {path.suffix[1:]}: {' '.join(str(error).split())}") from None


def _yaml_rows(path: Path) -> tuple[Rows, list[str]]:
    content = yaml.safe_load(path.read_text())
    if not isinstance(content, dict) or not isinstance(content.get("clips"), list):
        return [], [f"{path}: expected a mapping with `clips:` (a list) and, if wanted, `defaults:`"]
    defaults = content.get("defaults") or {}
    faults = [
        f"{path}: unknown key {key!r} beside defaults and clips" for key in content if key not in ("defaults", "clips")
    ]
    if not isinstance(defaults, dict):
        return [], [*faults, f"{path}: defaults must be a mapping"]
    rows = []
    for number, entry in enumerate(content["clips"], 1):
        if isinstance(entry, dict):
            rows.append((number, {**{k: v for k, v in defaults.items() if not _is_overruled(k, entry)}, **entry}))
        else:
            faults.append(f"{path}, row {number}: expected a mapping of a clip's keys, got {entry!r}")
    return rows, faults


def _is_overruled(key: str, entry: dict) -> bool:
    """Whether a clip's own script replaces a default audio, or its audio a default script."""
    return (key == "audio" and "script" in entry) or (key == "script" and "audio" in entry)


def _jsonl_rows(path: Path) -> tuple[Rows, list[str]]:
    rows, faults = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            faults.append(f"{path}, row {number}: not JSON: {error.msg} at column {error.colno}")
            continue
        if isinstance(entry, dict):
            rows.append((number, entry))
        else:
            faults.append(f"{path}, row {number}: expected an object of a clip's keys, got {line.strip()[:40]!r}")
    return rows, faults


def _csv_rows(path: Path) -> tuple[Rows, list[str]]:
    """Columns are keys of a clip; `camera.azimuth` is a key inside `camera`; an empty cell takes the key's default."""
    rows, faults = [], []
    with open(path, newline="", encoding="utf-8-sig") as file:
        for number, cells in enumerate(csv.DictReader(file), 2):
            if cells.pop(None, None) is not None or None in cells.values():
                faults.append(
                    f"{path}, row {number}, clip {cells.get('id')!r}: the number of cells differs from the header's"
                )
                continue
            values: dict[str, Any] = {}
            for column, cell in cells.items():
                if cell == "" and column != "script":
                    continue
                if cell == "" and cells.get("audio"):
                    continue
                try:
                    value = json.loads(cell) if column in _JSON_COLUMNS and cell.lstrip()[:1] in "[{" else cell
                except json.JSONDecodeError as error:
                    faults.append(f"{path}, row {number}, clip {cells.get('id')!r}: {column}: not JSON: {error.msg}")
                    continue
                first, _, second = column.partition(".")
                if second and isinstance(values.setdefault(first, {}), dict):
                    values[first][second] = value
                else:
                    values[first] = value
            rows.append((number, values))
    return rows, faults
