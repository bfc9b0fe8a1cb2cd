"""Stage `audio`: the audio encoder."""

from __future__ import annotations

from stereotalker.audio.encoder import EncoderConfig, SpeechEncoder
from stereotalker.dataset.speech_corpus import read_corpus
from stereotalker.params import Params
from stereotalker.runtime.stage_log import Log
from stereotalker.stages.inputs import checkpoint, seeded
from stereotalker.stages.paths import SPEECH, WEIGHTS
from stereotalker.training.audio_encoder import training_loss
from stereotalker.training.loop import fit
from stereotalker.weights import save_weights, weights_file


def run(params: Params, log: Log) -> None:
    """Train the audio encoder."""
    section, corpus = params.audio, SPEECH / "train"
    config = EncoderConfig(section.pretrained, section.hidden, section.layers, section.convolution)
    model = seeded(section.training, lambda: SpeechEncoder(config))
    loss = training_loss(model, read_corpus(corpus), section)
    start = checkpoint("audio", "audio", [section], [corpus])
    fit(model, loss, section.training, start, log)
    save_weights(model, weights_file("audio", WEIGHTS))
    start.remove()
