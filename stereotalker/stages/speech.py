"""Stage `speech`: the corpus of speech."""

from __future__ import annotations

from stereotalker.dataset.speech_corpus import build_corpus
from stereotalker.params import Params
from stereotalker.runtime.stage_log import Log
from stereotalker.stages.paths import SPEECH, TEST_SET


def run(params: Params, log: Log) -> None:
    """Build the corpus, without the voices and sentences of the test set."""
    build_corpus(SPEECH, params.speech, params.audio, test=TEST_SET / "speech")
