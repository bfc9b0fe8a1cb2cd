"""The figures of metrics/ and benchmarks/, and a row of a table of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

MET, MISSED = "met", "**missed**"


@dataclass(frozen=True)
class Row:
    """One measure, and whether it reaches what was asked; None: nothing was asked, or the figure cannot tell.

    A target that only a part of the cases reaches is given as {"case": whether it does, ...}.
    """

    measure: str
    asked: str
    measured: tuple[str, ...]  # a cell a column
    met: bool | dict[str, bool] | None

    @property
    def verdict(self) -> str:
        if self.met is None:
            return ""
        cases = self.met if isinstance(self.met, dict) else {"": self.met}
        if len(set(cases.values())) == 1:
            return MET if all(cases.values()) else MISSED
        return ", ".join(f"{MET if good else MISSED} {case}" for case, good in cases.items())


def copied(file: Path, heading: str) -> str:
    """The first table of a Markdown file, or the first below a heading or a line that begins with `heading`."""
    lines = file.read_text().splitlines()
    start = 0
    if heading:
        start = next(k for k, line in enumerate(lines) if line.lstrip("# ").startswith(heading))
    first = next(k for k in range(start, len(lines)) if lines[k].startswith("|"))
    stop = next((k for k in range(first, len(lines)) if not lines[k].startswith("|")), len(lines))
    return "\n".join(lines[first:stop])


class Figures:
    """The measurements, by file and key: figures["render", "psnr_front"]; and cells of the tables beside them."""

    def __init__(self, root: Path):
        self._root, self._files = root, {}

    def __getitem__(self, name: tuple[str, str]) -> float:
        file, key = name
        if file not in self._files:
            folder = "benchmarks" if file in ("results", "chaos", "portraits_before") else "metrics"
            self._files[file] = json.loads((self._root / folder / f"{file}.json").read_text())
        return self._files[file][key]

    def cell(self, file: str, heading: str, row: str, column: str) -> float:
        """A number of a table in metrics/FILE.md."""
        lines = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in copied(self._root / "metrics" / f"{file}.md", heading).splitlines()
        ]
        return float(next(line for line in lines if line[0] == row)[lines[0].index(column)])
