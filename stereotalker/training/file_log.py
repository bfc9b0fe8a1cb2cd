"""The log of a stage in files: a curve for each value."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from stereotalker.runtime.stage_log import Log
from stereotalker.store.files import write_atomic

_CURVE = ".tsv"


class FileLog(Log):
    """Prints every value, and keeps the curve of each name in `folder`/NAME.tsv, a line for each step."""

    def __init__(self, stage: str, folder: Path, prefix: str = ""):
        """prefix: of the names that are printed. Of a part, it is the part's name and a dot."""
        self.stage, self.folder, self.prefix = stage, folder, prefix
        self._parts: list[FileLog] = []
        self._has_reported = False

    def begin(self, step: int) -> None:
        """Drop what lies after `step` in the curves, because it comes again. At step 0, drop all files."""
        for path in [path for path in self.folder.glob("*") if path.is_file()]:
            if path.suffix == _CURVE and step:
                write_atomic(path, "".join(_rows_until(path, step)).encode())
            elif not step:
                path.unlink()

    def __call__(self, name: str, value: float, step: int) -> None:
        print(f"{self.stage} step {step:6d}  {self.prefix}{name} {value:.5f}", flush=True)
        path = self.folder / f"{name}{_CURVE}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(path, "a", encoding="utf-8") as file:
                file.write(("" if file.tell() else f"step\t{name}\n") + f"{step}\t{value:.6g}\n")
        except OSError as error:  # a training of hours does not end because its curve cannot be written
            if not self._has_reported:
                print(f"{path} was not written, the stage goes on: {error.strerror}", file=sys.stderr, flush=True)
            self._has_reported = True

    def part(self, name: str) -> FileLog:
        """The log of a part, with curves in a folder of its own."""
        self._parts.append(FileLog(self.stage, self.folder / name, f"{self.prefix}{name}."))
        return self._parts[-1]

    def copy_curves(self, target: Path) -> None:
        """Copy the curves, and those of parts of this run, to a folder in the place of what it holds."""
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for path in sorted(self.folder.glob(f"*{_CURVE}")):
            shutil.copyfile(path, target / path.name)
        for part in self._parts:
            part.copy_curves(target / part.folder.name)


def _rows_until(path: Path, step: int) -> list[str]:
    """The head of a curve, and its rows up to a step. A row that a crash damaged is left out."""
    head, *rows = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) or [""]
    steps = (row.partition("\t")[0] for row in rows)
    return [head, *(row for row, at in zip(rows, steps, strict=True) if at.isdecimal() and int(at) <= step)]
