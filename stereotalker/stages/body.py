"""Stage `body`: the free body model, in the format of SMPL-X."""

from __future__ import annotations

from stereotalker.body.free_body import build
from stereotalker.params import FREE_BODY, Params
from stereotalker.runtime.stage_log import Log
from stereotalker.stages.paths import BODY


def run(params: Params, log: Log) -> None:
    """Build the body. It is never `body.file` of the parameters, which may be a licensed model of the user."""
    section = params.body
    build(BODY / FREE_BODY, BODY / "FACES_FREE.npz", section.adults, section.betas, section.seed)
