"""The stages of dvc.yaml: each reads its own section of params.yaml, its inputs under data/, and writes its outs."""

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
from stereotalker.evaluation.motion_metrics import GestureAutoencoder, GestureConfig, gestures_loss
from stereotalker.models import read_body, read_denoiser, read_encoder, read_masks, weights_file
from stereotalker.motion.denoiser import MotionConfig, MotionDenoiser
from stereotalker.params import Params, Training
from stereotalker.production.avatars import detector_folder
from stereotalker.render.denoiser import DenoiserConfig, RenderDenoiser, upcycled
from stereotalker.runtime.device import device
from stereotalker.training.audio_encoder import training_loss as audio_loss
from stereotalker.training.crops import draw_crops
from stereotalker.training.detector_calibration import build_calibration
from stereotalker.training.loop import Log, fit, print_log
from stereotalker.training.masks import training_loss as masks_loss
from stereotalker.training.motion import training_loss as motion_loss
from stereotalker.training.motion_examples import acted, train_prior
from stereotalker.training.renderer import train_denoiser
from stereotalker.training.samples import Sample, read_people
from stereotalker.weights import save_weights

DATA = Path("data")
CARD = Path("metrics/people")
AVATARS = Path("stereotalker/assets/avatars")
WEIGHTS = Path("stereotalker/weights")
ABLATED = DATA / "ablation"
DENSE = DATA / "dense.safetensors"
FACES = Path("stereotalker/assets/FACES_FREE.npz")
BODY = Path("stereotalker/assets/SMPLX_FREE.npz")  # never body.file, which may be somebody's licensed model


def body(params: Params, log: Log) -> None:
    from stereotalker.body.free_body import build

    build(BODY, FACES, params.body.adults, params.body.betas, params.body.seed)


def speech(params: Params, log: Log) -> None:
    build_corpus(DATA / "speech", params.speech, params.audio)


def people(params: Params, log: Log) -> None:
    build_people(DATA / "people", AVATARS, params.body, params.people, DATA / "speech")
    write_card(CARD, DATA / "people", DATA / "speech", read_body(params.body), params.people)


def audio(params: Params, log: Log) -> None:
    own = params.audio
    model = _seeded(
        own.training, lambda: SpeechEncoder(EncoderConfig(own.pretrained, own.hidden, own.layers, own.convolution))
    )
    corpus = read_corpus(DATA / "speech" / "train")
    fit(model, audio_loss(model, corpus, own), own.training, DATA / "audio.checkpoint", log)
    save_weights(model, weights_file("audio", WEIGHTS))


def motion(params: Params, log: Log) -> None:
    own, encoder = params.motion, read_encoder(WEIGHTS)
    config = MotionConfig(
        encoder.features, own.window, own.hidden, own.layers, own.body, own.lora_rank, own.language_model
    )
    model = _seeded(own.training, lambda: MotionDenoiser(config))
    examples = acted(DATA / "speech" / "train", WEIGHTS, own)
    train_prior(model.prior, examples, own, DATA / "prior.checkpoint", log)
    fit(model, motion_loss(model, examples, own), own.training, DATA / "motion.checkpoint", log, frozen="prior.")
    save_weights(model, weights_file("motion", WEIGHTS))


def gestures(params: Params, log: Log) -> None:
    own = params.gestures
    model = _seeded(own.training, lambda: GestureAutoencoder(GestureConfig(own.width, own.features, own.window)))
    corpus = [speech for speech in read_corpus(DATA / "speech" / "train") if speech.words]
    motions = [
        act(speech, STYLES[k % len(STYLES)], own.training.seed + k, params.motion.fps)
        for k, speech in enumerate(corpus[: own.motions])
    ]
    fit(model, gestures_loss(model, motions, own.training.batch), own.training, DATA / "gestures.checkpoint", log)
    save_weights(model, weights_file("gestures", WEIGHTS))


def masks(params: Params, log: Log) -> None:
    own = params.masks
    model = _seeded(own.training, lambda: MaskPredictor(MaskConfig(tuple(own.channels), params.render.patch)))
    crowd = read_people(DATA / "people" / "train", params.body, params.people)
    model = model.to(device(), memory_format=torch.channels_last)
    draw = partial(draw_crops, crowd, runs=own.training.batch, frames=1, size=own.crop)
    fit(model, masks_loss(model), own.training, DATA / "masks.checkpoint", log, draw=draw)
    save_weights(model, weights_file("masks", WEIGHTS))


def dense(params: Params, log: Log) -> None:
    own, options = params.render, params.dense.training
    config = DenoiserConfig(
        own.pretrained, own.patch, tuple(own.channels), own.heads, own.reference_width, own.view_experts, "none"
    )
    model = _seeded(options, lambda: RenderDenoiser(config))
    save_weights(
        train_denoiser(model, *_classroom(params), own.scheduler, options, log, DATA / "dense.checkpoint"), DENSE
    )


def render(params: Params, log: Log) -> None:
    own = params.render
    model = upcycled(read_denoiser(DENSE), own.experts)
    save_weights(
        train_denoiser(model, *_classroom(params), own.scheduler, own.training, log, DATA / "render.checkpoint"),
        weights_file("render", WEIGHTS),
    )


def ablation(params: Params, log: Log) -> None:
    """The same dense denoiser with other experts or none, trained as `render` does."""
    own, classroom = params.render, _classroom(params)
    for kinds in params.ablation.experts:

        def named(name, value, step, kinds=kinds):
            return log(f"{kinds}.{name}", value, step)

        model = upcycled(read_denoiser(DENSE), kinds)
        save_weights(
            train_denoiser(model, *classroom, own.scheduler, own.training, named, DATA / f"{kinds}.checkpoint"),
            ABLATED / f"{kinds}.safetensors",
        )


def _classroom(params: Params) -> tuple[MaskPredictor, list[Sample]]:
    """What every denoiser is trained with."""
    return read_masks(WEIGHTS), read_people(DATA / "people" / "train", params.body, params.people)


def avatar(params: Params, log: Log) -> None:
    with MediaPipe(detector_folder(params)) as detector:
        build_calibration(CALIBRATION, read_body(params.body), detector, params.avatar)


def evaluate(params: Params, log: Log, part: str = "all") -> None:
    """part: "motion", "avatar", "render" or "all"."""
    from stereotalker.evaluation.stage import evaluate_all, evaluate_avatar, evaluate_motion, evaluate_render

    if part == "avatar":
        evaluate_avatar(params, log)
    else:
        {"motion": evaluate_motion, "render": evaluate_render, "all": evaluate_all}[part](params, DATA, WEIGHTS, log)


STAGES: dict[str, Callable[[Params, Log], None]] = {
    "body": body, "speech": speech, "people": people, "audio": audio, "motion": motion, "gestures": gestures, "masks": masks, "dense": dense, "render": render,
    "ablation": ablation, "avatar": avatar, "evaluate": evaluate,
}  # fmt: skip


def run(stage: str, params: Params, log: Log | None = None) -> None:
    """Run one stage in the working directory, as dvc does."""
    STAGES[stage](params, log or print_log(stage, DATA / "logs" / f"{stage}.jsonl"))


def _seeded(training: Training, make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    torch.manual_seed(training.seed)
    return make()
