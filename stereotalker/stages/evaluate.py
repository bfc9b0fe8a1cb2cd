"""Stage `evaluate`: measures the weights that the trainings wrote, on held-out data."""

from __future__ import annotations

from stereotalker.evaluation.stage import evaluate_all
from stereotalker.params import Params
from stereotalker.runtime.stage_log import Log
from stereotalker.stages.paths import DATA, WEIGHTS


def run(params: Params, log: Log) -> None:
    """Write metrics/."""
    evaluate_all(params, DATA, WEIGHTS, log)
