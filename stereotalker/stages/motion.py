"""Stage `motion`: the language prior, then the motion denoiser with the prior frozen."""

from __future__ import annotations

from stereotalker.audio.encoder import read_encoder
from stereotalker.motion.denoiser import MotionConfig, MotionDenoiser
from stereotalker.params import Params
from stereotalker.runtime.stage_log import Log
from stereotalker.stages.inputs import checkpoint, seeded
from stereotalker.stages.paths import SPEECH, WEIGHTS
from stereotalker.training.loop import fit
from stereotalker.training.motion import training_loss
from stereotalker.training.motion_examples import make_examples, train_prior
from stereotalker.weights import save_weights, weights_file


def run(params: Params, log: Log) -> None:
    """Train both."""
    section, encoder, corpus = params.motion, read_encoder(WEIGHTS), SPEECH / "train"
    config = MotionConfig(
        encoder.features,
        section.window,
        section.hidden,
        section.layers,
        section.body,
        section.lora_rank,
        section.language_model,
    )
    model = seeded(section.training, lambda: MotionDenoiser(config))
    examples = make_examples(corpus, WEIGHTS, section)
    prior, whole = (
        checkpoint("motion", name, [section], [corpus, weights_file("audio", WEIGHTS)]) for name in ("prior", "motion")
    )
    train_prior(model.prior, examples, section, prior, log)
    fit(model, training_loss(model, examples, section), section.training, whole, log, frozen="prior.")
    save_weights(model, weights_file("motion", WEIGHTS))
    for start in (prior, whole):
        start.remove()
