"""Retraining: DVC brings data, weights and evaluation up to date, MLflow registers the weights.

The weights are promoted if every gate in params.yaml holds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from stereotalker.errors import UserError
from stereotalker.params import Params
from stereotalker.pipeline import WEIGHTS
from stereotalker.runtime.home import Home
from stereotalker.tasks.tracking import Tracker
from stereotalker.tasks.train import register_all

METRICS = Path("metrics")  # where `evaluate` writes


@task(name="dvc repro", cache_policy=NO_CACHE, persist_result=False)
def repro() -> None:
    """Run the whole pipeline as one task, because DVC decides what is stale and has its own lock. Raises UserError."""
    # dvc.yaml calls `stereotalker`, which is beside this Python.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path}
    if subprocess.run([sys.executable, "-m", "dvc", "repro"], env=environment).returncode != 0:
        raise UserError("dvc repro failed; its output is above")


@task(name="register", cache_policy=NO_CACHE, persist_result=False)
def register(home: Home, metrics: dict[str, float]) -> dict[str, str]:
    """Register the weights as challengers. Returns stage -> version."""
    return register_all(Tracker(home, "training"), WEIGHTS, metrics)


@task(name="promote", cache_policy=NO_CACHE, persist_result=False)
def promote(home: Home, versions: dict[str, str]) -> None:
    """Make these versions the champions."""
    tracker = Tracker(home, "training")
    for stage, version in versions.items():
        tracker.promote(stage, version)


def gates(params: Params, metrics: dict[str, float]) -> list[str]:
    """A line for every gate of params.yaml that does not hold. A metric that is missing or nan fails its gate."""
    return [
        f"{name} is {metrics.get(name, float('nan')):.4g}, the gate asks {minimum:g}"
        for name, minimum in params.evaluate.gates.items()
        if not metrics.get(name, float("-inf")) >= minimum
    ]


def read_metrics(folder: Path = METRICS) -> dict[str, float]:
    """All numbers that `evaluate` wrote, by "file.key"."""
    return {
        f"{path.stem}.{key}": value
        for path in sorted(folder.glob("*.json"))
        for key, value in json.loads(path.read_text(encoding="utf-8")).items()
        if isinstance(value, int | float)
    }


def retrain(params: Params, home: Home) -> list[str]:
    """Retrain as a Prefect flow. Returns the gates that did not hold; empty if the new weights became champions."""

    @flow(name="retrain", persist_result=False)
    def run() -> list[str]:
        repro()
        metrics = read_metrics()
        versions = register(home, metrics)
        failed = gates(params, metrics)
        if not failed:
            promote(home, versions)
        return failed

    failed = run()
    print("\n".join(["not promoted:", *failed]) if failed else "promoted to champion")
    return failed
