"""What the stage `motion` and the ablations of its evaluation share: the performances, made by many processes, and the prior's training."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import torch

from stereotalker.audio.corpus import read_corpus, read_index
from stereotalker.audio.encoder import SpeechEncoder
from stereotalker.models import read_encoder
from stereotalker.motion.performances import Performance, perform
from stereotalker.motion.prior import LanguagePrior
from stereotalker.motion.semantics import training_loss
from stereotalker.params import MotionParams
from stereotalker.processes import pool
from stereotalker.records import Speech
from stereotalker.training import Log, fit


def acted(speech: Path, weights: Path, params: MotionParams, processes: int | None = None) -> list[Performance]:
    """What the motion model is trained on; the same however many processes make it. Raises UserError where there is no speech."""
    read_index(speech)
    with pool(processes) as workers:
        return list(workers.map(partial(_performance, speech, weights, params.fps), range(params.training.seed, params.training.seed + params.performances), chunksize=4))


def _performance(speech: Path, weights: Path, fps: float, seed: int) -> Performance:
    torch.set_num_threads(1)
    return perform(*_cast(speech, weights), fps, seed)


@cache
def _cast(speech: Path, weights: Path) -> tuple[list[Speech], SpeechEncoder]:
    return read_corpus(speech), read_encoder(weights)


def train_prior(prior: LanguagePrior, performances: list[Performance], params: MotionParams, checkpoint: Path, log: Log) -> None:
    """Train the language model's adapter in place."""
    loss = training_loss(prior, [p.said for p in performances], params.prior.batch, params.fps)
    fit(prior, loss, params.prior, checkpoint, lambda name, value, step: log(f"prior_{name}", value, step))
