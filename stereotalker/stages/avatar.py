"""Stage `avatar`: the calibration of the landmark detector."""

from __future__ import annotations

from stereotalker.avatar.detector_calibration import FILE
from stereotalker.avatar.mediapipe_detector import MediaPipe
from stereotalker.body.model import read_body
from stereotalker.params import Params
from stereotalker.production.avatars import detector_folder
from stereotalker.runtime.stage_log import Log
from stereotalker.stages.paths import CALIBRATION
from stereotalker.training.detector_calibration import build_calibration


def run(params: Params, log: Log) -> None:
    """Calibrate the detector."""
    with MediaPipe(detector_folder(params)) as detector:
        build_calibration(CALIBRATION / FILE.name, read_body(params.body), detector, params.avatar)
