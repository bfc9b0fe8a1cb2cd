"""Stage `gestures`: the autoencoder whose features the Frechet gesture distance compares."""

from __future__ import annotations

from stereotalker.acting.reference_acting import STYLES, act
from stereotalker.dataset.speech_corpus import read_corpus
from stereotalker.evaluation.motion_metrics import GestureAutoencoder, GestureConfig, gesture_autoencoder_loss
from stereotalker.params import Params
from stereotalker.runtime.stage_log import Log
from stereotalker.stages.inputs import checkpoint, seeded
from stereotalker.stages.paths import SPEECH, WEIGHTS
from stereotalker.training.loop import fit
from stereotalker.weights import save_weights, weights_file


def run(params: Params, log: Log) -> None:
    """Train the autoencoder."""
    section, corpus = params.gestures, SPEECH / "train"
    config = GestureConfig(section.width, section.features, section.window)
    model = seeded(section.training, lambda: GestureAutoencoder(config))
    speeches = [speech for speech in read_corpus(corpus) if speech.words]
    motions = [
        act(speech, STYLES[k % len(STYLES)], section.training.seed + k, params.motion.fps)
        for k, speech in enumerate(speeches[: section.motions])
    ]
    loss = gesture_autoencoder_loss(model, motions, section.training.batch)
    start = checkpoint("gestures", "gestures", [section, params.motion], [corpus])
    fit(model, loss, section.training, start, log)
    save_weights(model, weights_file("gestures", WEIGHTS))
    start.remove()
