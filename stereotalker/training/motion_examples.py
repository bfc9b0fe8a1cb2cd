"""What the stage `motion` and the ablations of its evaluation share: the performances, made by many processes, and the prior's training."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import torch

from stereotalker.audio.encoder import SpeechEncoder
from stereotalker.dataset.speech_corpus import read_corpus, read_index
from stereotalker.models import read_encoder
from stereotalker.motion.language_prior import LanguagePrior
from stereotalker.params import MotionParams
from stereotalker.records import Speech
from stereotalker.runtime.process_pool import pool
from stereotalker.training.language_prior import training_loss
from stereotalker.training.loop import Log, fit
from stereotalker.training.motion import MotionExample, make_example


def acted(speech: Path, weights: Path, params: MotionParams, processes: int | None = None) -> list[MotionExample]:
    """What the motion model is trained on; the same however many processes make it. Raises UserError where there is no speech."""
    read_index(speech)
    with pool(processes) as workers:
        return list(
            workers.map(
                partial(_performance, speech, weights, params.fps),
                range(params.training.seed, params.training.seed + params.examples),
                chunksize=4,
            )
        )


def _performance(speech: Path, weights: Path, fps: float, seed: int) -> MotionExample:
    torch.set_num_threads(1)
    return make_example(*_cast(speech, weights), fps, seed)


@cache
def _cast(speech: Path, weights: Path) -> tuple[list[Speech], SpeechEncoder]:
    return read_corpus(speech), read_encoder(weights)


def train_prior(
    prior: LanguagePrior, examples: list[MotionExample], params: MotionParams, checkpoint: Path, log: Log
) -> None:
    """Train the language model's adapter in place."""
    loss = training_loss(prior, [p.said for p in examples], params.prior.batch, params.fps)
    fit(prior, loss, params.prior, checkpoint, lambda name, value, step: log(f"prior_{name}", value, step))
