"""Stage `photographs`: open portraits, fitted and warped, as samples for training and evaluation."""

from __future__ import annotations

from stereotalker.body.model import read_body
from stereotalker.dataset.speech_corpus import read_corpus
from stereotalker.errors import UserError
from stereotalker.models import Models
from stereotalker.params import Params, resolve
from stereotalker.production.avatars import fitted_portraits
from stereotalker.runtime.stage_log import Log
from stereotalker.stages.paths import PHOTOGRAPHS, SPEECH
from stereotalker.training.photographs import build_photographs


def run(params: Params, log: Log) -> None:
    """Fit the portraits and make the samples."""
    section = params.photographs
    if section.folder is None:
        build_photographs(PHOTOGRAPHS, (), read_body(params.body), [], section)
        return
    if not resolve(section.folder).is_dir():
        raise UserError(f"photographs.folder: {section.folder} is not a folder; expected one of pictures, or null")
    models, speeches = Models(params), read_corpus(SPEECH / "train")
    avatars = fitted_portraits(resolve(section.folder), models, "photographs")
    build_photographs(PHOTOGRAPHS, avatars, models.body, speeches, section)
