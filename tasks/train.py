"""Stages of the data and training pipeline, with their curves and files in MLflow."""

from __future__ import annotations

import json
from pathlib import Path

from stereotalker import models, pipeline
from stereotalker.errors import UserError
from stereotalker.params import Params
from stereotalker.runtime.home import Home
from stereotalker.tasks.tracking import CHALLENGER, Tracker
from stereotalker.training.loop import Log, print_log

_SECTIONLESS = {"body", "speech", "people", "avatar"}  # data stages: no curves worth a run


def run_stage(name: str, params: Params, home: Home, part: str = "all") -> None:
    """Run a stage; training and evaluation become MLflow runs. part: "motion", "avatar" or "all" of an evaluation. Raises UserError for an unknown stage."""
    if name not in pipeline.STAGES:
        raise UserError(f"stage {name!r} is unknown; expected one of {', '.join(pipeline.STAGES)}")
    if name in _SECTIONLESS:
        pipeline.run(name, params)
        return
    tracker = Tracker(home, "evaluation" if name == "evaluate" else "training")
    run = tracker.start(f"{name}-{params.scale}", tags={"stage": name, "scale": params.scale, "part": part})
    section = getattr(params, name).model_dump(mode="json")
    tracker.note(run, params={key: json.dumps(value) for key, value in section.items()})
    try:
        log = _both(print_log(name, pipeline.DATA / "logs" / f"{name}.jsonl"), tracker, run)
        pipeline.evaluate(params, log, part) if name == "evaluate" else pipeline.run(name, params, log)
    except BaseException:
        tracker.end(run, "FAILED")
        raise
    tracker.end(run)


def register_all(tracker: Tracker, weights: Path, metrics: dict[str, float]) -> dict[str, str]:
    """Register the weights of every trained stage as challengers. Returns stage -> version."""
    run = tracker.start("register", tags={"stage": "register"})
    tracker.note(run, metrics=metrics)
    versions = {stage: tracker.register(stage, weights, run, CHALLENGER) for stage in models.STAGES}
    tracker.end(run)
    return versions


def _both(first: Log, tracker: Tracker, run: str) -> Log:
    def log(name: str, value: float, step: int) -> None:
        first(name, value, step)
        tracker.note(run, metrics={name: value}, step=step)

    return log
