"""The stages of dvc.yaml.

Each stage is a function of (params, log). It reads its own section of params.yaml and its inputs under data/, and
writes the outputs that dvc.yaml lists. All paths are relative to the working directory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from stereotalker.acting.reference_acting import STYLES, act
from stereotalker.audio.encoder import EncoderConfig, SpeechEncoder
from stereotalker.avatar.detector_calibration import FILE as CALIBRATION
from stereotalker.avatar.mediapipe_detector import MediaPipe
from stereotalker.control.masks import MaskConfig, MaskPredictor
from stereotalker.dataset.build import build_people
from stereotalker.dataset.card import write_card
from stereotalker.dataset.speech_corpus import build_corpus, read_corpus
from stereotalker.errors import UserError
from stereotalker.evaluation.motion_metrics import GestureAutoencoder, GestureConfig, gesture_autoencoder_loss
from stereotalker.models import Models, read_body, read_denoiser, read_encoder, read_masks, weights_file
from stereotalker.motion.denoiser import MotionConfig, MotionDenoiser
from stereotalker.params import Params, Training, resolve
from stereotalker.production.avatars import detector_folder, fitted_portraits
from stereotalker.render.denoiser import DenoiserConfig, RenderDenoiser, upcycle
from stereotalker.runtime.device import to_channels_last, training_device
from stereotalker.training.audio_encoder import training_loss as audio_loss
from stereotalker.training.critic import PatchCritic
from stereotalker.training.crops import draw_mixed
from stereotalker.training.detector_calibration import build_calibration
from stereotalker.training.loop import Log, fit, print_log
from stereotalker.training.masks import training_loss as masks_loss
from stereotalker.training.motion import training_loss as motion_loss
from stereotalker.training.motion_examples import make_examples, train_prior
from stereotalker.training.photographs import build_photographs, read_photographs
from stereotalker.training.renderer import finish_denoiser, train_denoiser
from stereotalker.training.samples import Sample, read_people
from stereotalker.weights import Model, save_weights

DATA = Path("data")
CARD = Path("metrics/people")
AVATARS = Path("stereotalker/assets/avatars")
WEIGHTS = Path("stereotalker/weights")
ABLATED = DATA / "ablation"  # weights of the denoisers with other experts
DENSE = DATA / "dense.safetensors"
EXPERTS = DATA / "render.safetensors"  # the denoiser with experts, which `finish` continues from
PHOTOGRAPHS = DATA / "photographs"
FACES = Path("stereotalker/assets/FACES_FREE.npz")
# The body that stage `body` writes. It is never `body.file` of the parameters, which may be a licensed model of the
# user.
BODY = Path("stereotalker/assets/SMPLX_FREE.npz")


def body(params: Params, log: Log) -> None:
    """Build the free body model."""
    from stereotalker.body.free_body import build

    build(BODY, FACES, params.body.adults, params.body.betas, params.body.seed)


def speech(params: Params, log: Log) -> None:
    """Build the corpus of speech."""
    build_corpus(DATA / "speech", params.speech, params.audio)


def people(params: Params, log: Log) -> None:
    """Build the data set of synthetic people and its data card."""
    build_people(DATA / "people", AVATARS, params.body, params.people, DATA / "speech")
    write_card(CARD, DATA / "people", DATA / "speech", read_body(params.body), params.people)


def audio(params: Params, log: Log) -> None:
    """Train the audio encoder."""
    section = params.audio
    config = EncoderConfig(section.pretrained, section.hidden, section.layers, section.convolution)
    model = _seeded(section.training, lambda: SpeechEncoder(config))
    corpus = read_corpus(DATA / "speech" / "train")
    fit(model, audio_loss(model, corpus, section), section.training, DATA / "audio.checkpoint", log)
    save_weights(model, weights_file("audio", WEIGHTS))


def motion(params: Params, log: Log) -> None:
    """Train the language prior, then the motion denoiser with the prior frozen."""
    section, encoder = params.motion, read_encoder(WEIGHTS)
    config = MotionConfig(
        encoder.features,
        section.window,
        section.hidden,
        section.layers,
        section.body,
        section.lora_rank,
        section.language_model,
    )
    model = _seeded(section.training, lambda: MotionDenoiser(config))
    examples = make_examples(DATA / "speech" / "train", WEIGHTS, section)
    train_prior(model.prior, examples, section, DATA / "prior.checkpoint", log)
    fit(
        model, motion_loss(model, examples, section), section.training, DATA / "motion.checkpoint", log, frozen="prior."
    )
    save_weights(model, weights_file("motion", WEIGHTS))


def gestures(params: Params, log: Log) -> None:
    """Train the autoencoder whose features the Frechet gesture distance compares."""
    section = params.gestures
    config = GestureConfig(section.width, section.features, section.window)
    model = _seeded(section.training, lambda: GestureAutoencoder(config))
    corpus = [speech for speech in read_corpus(DATA / "speech" / "train") if speech.words]
    motions = [
        act(speech, STYLES[k % len(STYLES)], section.training.seed + k, params.motion.fps)
        for k, speech in enumerate(corpus[: section.motions])
    ]
    loss = gesture_autoencoder_loss(model, motions, section.training.batch)
    fit(model, loss, section.training, DATA / "gestures.checkpoint", log)
    save_weights(model, weights_file("gestures", WEIGHTS))


def photographs(params: Params, log: Log) -> None:
    """Fit open portraits and turn them into samples for training and evaluation."""
    section = params.photographs
    if section.folder is None:
        build_photographs(PHOTOGRAPHS, (), read_body(params.body), [], section)
        return
    if not resolve(section.folder).is_dir():
        raise UserError(f"photographs.folder: {section.folder} is not a folder; expected one of pictures, or null")
    models, speeches = Models(params, WEIGHTS), read_corpus(DATA / "speech" / "train")
    avatars = fitted_portraits(resolve(section.folder), models, "photographs")
    build_photographs(PHOTOGRAPHS, avatars, models.body, speeches, section)


def masks(params: Params, log: Log) -> None:
    """Train the mask predictor."""
    section = params.masks
    model = _seeded(section.training, lambda: MaskPredictor(MaskConfig(tuple(section.channels), params.render.patch)))
    people = read_people(DATA / "people" / "train", params.body, params.people)
    pictures = read_photographs(PHOTOGRAPHS / "train")
    model = to_channels_last(model, training_device())
    draw = partial(
        draw_mixed, people, pictures, params.photographs.share, runs=section.training.batch, frames=1, size=section.crop
    )
    fit(model, masks_loss(model), section.training, DATA / "masks.checkpoint", log, draw=draw)
    save_weights(model, weights_file("masks", WEIGHTS))


def dense(params: Params, log: Log) -> None:
    """Train the renderer's denoiser without experts; `render` and `ablation` continue from it."""
    section, options = params.render, params.dense.training
    config = DenoiserConfig(
        section.pretrained,
        section.patch,
        tuple(section.channels),
        section.heads,
        section.reference_width,
        section.view_experts,
        "none",
    )
    model = _seeded(options, lambda: RenderDenoiser(config))
    save_weights(
        train_denoiser(model, *_denoiser_inputs(params), section.scheduler, options, log, DATA / "dense.checkpoint"),
        DENSE,
    )


def render(params: Params, log: Log) -> None:
    """Add experts to the dense denoiser and train it further."""
    section = params.render
    model = upcycle(read_denoiser(DENSE), section.experts)
    inputs, checkpoint = _denoiser_inputs(params), DATA / "render.checkpoint"
    save_weights(
        train_denoiser(model, *inputs, section.scheduler, section.training, log, checkpoint),
        EXPERTS,
    )


def finish(params: Params, log: Log) -> None:
    """Train the denoiser with experts further, on people and photographs, against a critic of patches."""
    section, training = params.finish, params.finish.training
    model, critic = read_denoiser(EXPERTS), _seeded(training, PatchCritic)
    predictor, samples = _denoiser_inputs(params)
    draw = partial(
        draw_mixed,
        samples,
        read_photographs(PHOTOGRAPHS / "train"),
        params.photographs.share,
        runs=training.batch,
        frames=training.run,
        size=training.crop,
    )
    checkpoint = DATA / "finish.checkpoint"
    finish_denoiser(model, critic, predictor, draw, params.render.scheduler, section, log, checkpoint)
    save_weights(model, weights_file("render", WEIGHTS))


def ablation(params: Params, log: Log) -> None:
    """Train the same dense denoiser with other experts or none, as `render` does, for comparison."""
    section, inputs = params.render, _denoiser_inputs(params)
    for kinds in params.ablation.experts:

        def log_with_kinds(name, value, step, kinds=kinds):
            return log(f"{kinds}.{name}", value, step)

        model = upcycle(read_denoiser(DENSE), kinds)
        save_weights(
            train_denoiser(
                model, *inputs, section.scheduler, section.training, log_with_kinds, DATA / f"{kinds}.checkpoint"
            ),
            ABLATED / f"{kinds}.safetensors",
        )


def _denoiser_inputs(params: Params) -> tuple[MaskPredictor, list[Sample]]:
    """The mask predictor and the samples with which every denoiser of the renderer is trained."""
    return read_masks(WEIGHTS), read_people(DATA / "people" / "train", params.body, params.people)


def avatar(params: Params, log: Log) -> None:
    """Calibrate the landmark detector."""
    with MediaPipe(detector_folder(params)) as detector:
        build_calibration(CALIBRATION, read_body(params.body), detector, params.avatar)


def evaluate(params: Params, log: Log, part: str = "all") -> None:
    """Measure the models and write the reports. `part`: "motion", "avatar", "portraits", "render" or "all"."""
    from stereotalker.evaluation.stage import (
        evaluate_all,
        evaluate_avatar,
        evaluate_motion,
        evaluate_portraits,
        evaluate_render,
    )

    if part == "avatar":
        evaluate_avatar(params, log)
    elif part == "portraits":
        evaluate_portraits(params, DATA, log)
    else:
        {"motion": evaluate_motion, "render": evaluate_render, "all": evaluate_all}[part](params, DATA, WEIGHTS, log)


Stage = Callable[[Params, Log], None]

# Stages that build data. They have no training curves.
DATA_STAGES: dict[str, Stage] = {
    "body": body,
    "speech": speech,
    "people": people,
    "photographs": photographs,
    "avatar": avatar,
}

TRAINING_STAGES: dict[str, Stage] = {
    "audio": audio,
    "motion": motion,
    "gestures": gestures,
    "masks": masks,
    "dense": dense,
    "render": render,
    "finish": finish,
    "ablation": ablation,
}

# Every stage of dvc.yaml.
PIPELINE_STAGES: dict[str, Stage] = {**DATA_STAGES, **TRAINING_STAGES, "evaluate": evaluate}


def run(stage: str, params: Params, log: Log | None = None) -> None:
    """Run one stage in the working directory, as dvc does. `log` None: print, and write data/logs/STAGE.jsonl."""
    PIPELINE_STAGES[stage](params, log or print_log(stage, DATA / "logs" / f"{stage}.jsonl"))


def _seeded(training: Training, make: Callable[[], Model]) -> Model:
    """Build a model with initial weights that depend on the seed of its training alone."""
    torch.manual_seed(training.seed)
    return make()
