"""The log of a stage: values with names and steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

Log = Callable[[str, float, int], None]  # name, value, step


def print_log(stage: str, path: Path | None = None) -> Log:
    """A Log that prints every value and appends it to `path` (None: no file) as a line of JSON."""

    def log(name: str, value: float, step: int) -> None:
        print(f"{stage} step {step:6d}  {name} {value:.5f}", flush=True)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"stage": stage, "step": step, name: value}) + "\n")

    return log
