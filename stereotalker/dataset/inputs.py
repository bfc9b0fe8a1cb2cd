"""Inputs that lie elsewhere and were brought under DVC's control by `dvc import-url`, with their licences.

They lie in data/inputs/KIND/NAME, and data/inputs/licences.csv has a row for each.
"""

from __future__ import annotations

import csv
from pathlib import Path

from stereotalker.errors import UserError
from stereotalker.releases.release import Source

INPUTS = Path("data/inputs")
LICENCES = INPUTS / "licences.csv"
_COLUMNS = ("input", "use", "licence", "consent")


def imports(root: Path) -> list[str]:
    """The imports of a checkout, as `data/inputs/KIND/NAME`, sorted."""
    pointers = (root / INPUTS).glob("*/*.dvc")
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in pointers)


def input_sources(root: Path) -> list[Source]:
    """The imports of a checkout with their use and licence. Raises UserError if one has no complete row of LICENCES."""
    names, rows = imports(root), {}
    if (root / LICENCES).is_file():
        with open(root / LICENCES, encoding="utf-8", newline="") as lines:
            rows = {row.get("input"): row for row in csv.DictReader(lines)}
    for name in names:
        if not all((rows.get(name, {}).get(column) or "").strip() for column in _COLUMNS):
            raise UserError(
                f"{name} has no licence: expected a committed row of {LICENCES} with something in each of the columns "
                f"{', '.join(_COLUMNS)}"
            )
    return [
        Source(f"{name}; consent: {rows[name]['consent']}", rows[name]["use"], rows[name]["licence"]) for name in names
    ]
