"""Stage `evaluate_portraits`: measures how portraits gesture with the weights that the trainings wrote."""

from __future__ import annotations

from stereotalker.evaluation.stage import evaluate_portraits
from stereotalker.params import Params
from stereotalker.runtime.stage_log import Log
from stereotalker.stages.paths import DATA, WEIGHTS


def run(params: Params, log: Log) -> None:
    """Write metrics/portraits.json."""
    evaluate_portraits(params, DATA, WEIGHTS, log)
