"""Stage `test_set`: what challengers are judged on."""

from __future__ import annotations

from stereotalker.dataset.test_set import build_test_set
from stereotalker.params import Params
from stereotalker.runtime.stage_log import Log
from stereotalker.stages.paths import TEST_SET


def run(params: Params, log: Log) -> None:
    """Build the test set."""
    build_test_set(TEST_SET, params.test_set, params.speech, params.audio, params.body, params.people)
