"""Makes the motion examples in parallel and trains the language prior on them.

The stage `motion` and the ablations of its evaluation share this module."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import torch

from stereotalker.audio.encoder import SpeechEncoder, read_encoder
from stereotalker.dataset.speech_corpus import read_corpus, read_index
from stereotalker.motion.language_prior import LanguagePrior
from stereotalker.params import MotionParams
from stereotalker.records import Speech
from stereotalker.runtime.process_pool import pool
from stereotalker.runtime.stage_log import Log
from stereotalker.training.language_prior import training_loss
from stereotalker.training.loop import Checkpoint, fit
from stereotalker.training.motion import MotionExample, make_example


def make_examples(
    speech: Path, weights: Path, params: MotionParams, processes: int | None = None
) -> list[MotionExample]:
    """The examples on which the motion model is trained, made by `processes` processes (None: one per core).

    The result does not depend on the number of processes. `speech` is the folder of the corpus, `weights` the folder of
    the audio encoder's weights. Raises UserError if there is no speech.
    """
    read_index(speech)
    with pool(__name__, processes) as workers:
        return list(
            workers.map(
                partial(_example, speech, weights, params.fps),
                range(params.training.seed, params.training.seed + params.examples),
                chunksize=4,
            )
        )


def _example(speech: Path, weights: Path, fps: float, seed: int) -> MotionExample:
    torch.set_num_threads(1)  # every core already runs a process
    return make_example(*_corpus_and_encoder(speech, weights), fps, seed)


@cache
def _corpus_and_encoder(speech: Path, weights: Path) -> tuple[list[Speech], SpeechEncoder]:
    """Read once per process."""
    return read_corpus(speech), read_encoder(weights)


def train_prior(
    prior: LanguagePrior, examples: list[MotionExample], params: MotionParams, checkpoint: Checkpoint, log: Log
) -> None:
    """Train the prior in place; of its language model, only the adapter. `checkpoint`: see training.loop.fit."""
    loss = training_loss(prior, [example.utterance for example in examples], params.prior.batch, params.fps)
    fit(prior, loss, params.prior, checkpoint, log.part("prior"))
