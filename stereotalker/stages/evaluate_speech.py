"""Stage `evaluate_speech`: measures recordings without a transcript with the weights that the trainings wrote."""

from __future__ import annotations

from stereotalker.evaluation.stage import evaluate_speech
from stereotalker.params import Params
from stereotalker.runtime.stage_log import Log
from stereotalker.stages.paths import WEIGHTS


def run(params: Params, log: Log) -> None:
    """Write metrics/speech.json and metrics/speech.md."""
    evaluate_speech(params, WEIGHTS, log)
