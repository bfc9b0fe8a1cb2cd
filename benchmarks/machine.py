"""Where benchmark figures are kept, and on which machine and commit they were measured."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path

import torch

from stereotalker.params import ROOT
from stereotalker.runtime.device import arithmetic

RESULTS = ROOT / "benchmarks" / "results.json"


def save_figures(name: str, figures: dict) -> None:
    """Write the figures of one benchmark to results.json, in place of its former ones, with machine and commit.

    The key measured.NAME holds machine, commit, and the names of the figures that belong to this benchmark.
    """
    old, part = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}, f"measured.{name}"
    former = old.get(part, {}).get("figures", ())
    others = {key: value for key, value in old.items() if key not in former}
    entry = {part: machine_info() | {"figures": list(figures)}}
    RESULTS.write_text(json.dumps(others | figures | entry, indent=2) + "\n")


def machine_info() -> dict[str, str]:
    """Number of cores, processor and precision of this machine, and the commit of this checkout.

    Processors of one name differ several times in speed, because only some of them multiply bfloat16.
    """
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    precision = f"{torch.backends.cpu.get_cpu_capability()}, {arithmetic('cpu').removeprefix('cpu ')}"
    return {"machine": f"{os.cpu_count()} cores, {model}, {precision}", "commit": commit}
