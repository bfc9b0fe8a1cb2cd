"""What a figure was measured on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path

from stereotalker.params import ROOT

RESULTS = ROOT / "benchmarks" / "results.json"


def keep(name: str, found: dict) -> None:
    """Put a part's figures into results.json in place of its former ones, with what they were measured on."""
    old, part = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}, f"measured.{name}"
    former = old.get(part, {}).get("figures", ())
    others = {key: value for key, value in old.items() if key not in former}
    RESULTS.write_text(json.dumps(others | found | {part: machine() | {"figures": list(found)}}, indent=2) + "\n")


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    return {"machine": f"{os.cpu_count()} cores, {model}", "commit": commit}
