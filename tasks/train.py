"""Runs stages of the data and training pipeline and writes their curves to MLflow. Registers trained weights."""

from __future__ import annotations

import json
from pathlib import Path

from stereotalker import models, pipeline
from stereotalker.errors import UserError
from stereotalker.params import Params
from stereotalker.runtime.home import Home
from stereotalker.tasks.tracking import CHALLENGER, Tracker
from stereotalker.training.loop import Log, print_log


def run_stage(name: str, params: Params, home: Home, part: str = "all") -> None:
    """Run a stage. A training or an evaluation becomes a run in MLflow.

    part: what is evaluated, "motion", "render", "avatar", "portraits" or "all". Raises UserError for an unknown stage.
    """
    if name not in pipeline.PIPELINE_STAGES:
        raise UserError(f"stage {name!r} is unknown; expected one of {', '.join(pipeline.PIPELINE_STAGES)}")
    if name in pipeline.DATA_STAGES:
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
    """Register the weights that production loads as challengers. Returns stage -> version."""
    run = tracker.start("register", tags={"stage": "register"})
    tracker.note(run, metrics=metrics)
    versions = {stage: tracker.register(stage, weights, run, CHALLENGER) for stage in models.PRODUCTION_WEIGHTS}
    tracker.end(run)
    return versions


def _both(first: Log, tracker: Tracker, run: str) -> Log:
    """A log that writes to `first` and to a run in MLflow."""

    def log(name: str, value: float, step: int) -> None:
        first(name, value, step)
        tracker.note(run, metrics={name: value}, step=step)

    return log
