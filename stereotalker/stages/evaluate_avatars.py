"""Stage `evaluate_avatars`: measures the fits of portraits and of rendered people."""

from __future__ import annotations

from stereotalker.evaluation.stage import evaluate_avatar
from stereotalker.params import Params
from stereotalker.runtime.stage_log import Log
from stereotalker.weights import FOLDER


def run(params: Params, log: Log) -> None:
    """Write metrics/avatar.json. Fits use the body and the calibration of the package, and no trained weights."""
    evaluate_avatar(params, FOLDER, log)
