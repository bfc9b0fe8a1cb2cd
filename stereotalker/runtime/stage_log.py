"""The log of a stage: values with names and steps, and what its model does while it trains."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from stereotalker.store.files import write_atomic


class Log:
    """A log that keeps nothing. Others inherit from it."""

    def __call__(self, name: str, value: float, step: int) -> None:
        """Note a value."""

    def preview(self, name: str, model: nn.Module, step: int) -> None:
        """Show what a model in training does. It is in evaluation mode, with its averaged weights, during the call."""


@dataclass(frozen=True)
class FileLog(Log):
    """Prints every value, and keeps the curve of each name in `folder`/NAME.tsv, from which `dvc plots` draws.

    A training that goes on from a checkpoint repeats some steps, and one with other inputs begins again. So the first
    value that is noted here ends the older part of the curve at its step.
    """

    stage: str
    folder: Path
    _open: set[str] = field(default_factory=set)  # names that have a value of this process

    def __call__(self, name: str, value: float, step: int) -> None:
        print(f"{self.stage} step {step:6d}  {name} {value:.5f}", flush=True)
        path = self.folder / f"{name}.tsv"
        if name not in self._open:
            write_atomic(path, "".join([f"step\t{name}\n", *_rows_before(path, step)]).encode())
            self._open.add(name)
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{step}\t{value:.6g}\n")


def _rows_before(path: Path, step: int) -> list[str]:
    """The lines of a curve before a step; none if there is no file. A line that was cut off by a crash is left out."""
    try:
        _, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except (FileNotFoundError, ValueError):
        return []
    return [row for row in rows if row.endswith("\n") and int(row.partition("\t")[0]) < step]


@dataclass(frozen=True)
class PrefixedLog(Log):
    """Notes every value in `log`, with a prefix before its name."""

    log: Log
    prefix: str

    def __call__(self, name: str, value: float, step: int) -> None:
        self.log(self.prefix + name, value, step)

    def preview(self, name: str, model: nn.Module, step: int) -> None:
        self.log.preview(name, model, step)
