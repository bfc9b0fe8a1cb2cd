"""Stage `people`: the data set of synthetic people, its data card, and avatars."""

from __future__ import annotations

from stereotalker.body.model import read_body
from stereotalker.dataset.build import build_people
from stereotalker.dataset.card import write_card
from stereotalker.params import Params
from stereotalker.runtime.stage_log import Log
from stereotalker.stages.paths import AVATARS, METRICS, PEOPLE, SPEECH


def run(params: Params, log: Log) -> None:
    """Build the people."""
    build_people(PEOPLE, AVATARS, params.body, params.people, SPEECH)
    write_card(METRICS / "people", PEOPLE, SPEECH, read_body(params.body), params.people)
