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
    """Put figures into results.json beside the others, with what this part was measured on."""
    old = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps(old | found | {f"measured.{name}": machine()}, indent=2) + "\n")


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), platform.processor())
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {"machine": f"{os.cpu_count()} cores, {model}", "commit": commit}
