"""Loads the trained models, and says which file of weights belongs to which stage."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from stereotalker.audio.encoder import EncoderConfig, SpeechEncoder
from stereotalker.body.model import Body, load_body
from stereotalker.control.masks import MaskConfig, MaskPredictor
from stereotalker.errors import UserError
from stereotalker.motion.denoiser import MotionConfig, MotionDenoiser
from stereotalker.motion.synthesize import Synthesizer
from stereotalker.params import BodyParams, Params, resolve
from stereotalker.render.denoiser import DenoiserConfig, RenderDenoiser
from stereotalker.render.renderer import Renderer
from stereotalker.store.digests import file_digest
from stereotalker.weights import FOLDER, load_weights

# Stages whose weights production loads. They are some of pipeline.TRAINING_STAGES, which train and save the weights.
PRODUCTION_WEIGHTS = ("audio", "motion", "masks", "render")


def weights_file(stage: str, folder: Path = FOLDER) -> Path:
    """Path of a stage's weights in `folder`."""
    return folder / f"{stage}.safetensors"


def read_body(params: BodyParams) -> Body:
    """The body model that the parameters name. Raises UserError if it cannot be read."""
    return load_body(resolve(params.file), params.file_reader, params.betas)


def read_encoder(folder: Path = FOLDER) -> SpeechEncoder:
    """The audio encoder, in evaluation mode, as all models below.

    Raises UserError if the weights are missing or do not match.
    """
    return load_weights(SpeechEncoder, EncoderConfig, weights_file("audio", folder))


def read_motion(folder: Path = FOLDER) -> MotionDenoiser:
    """The motion denoiser with its language prior. Raises UserError like `read_encoder`."""
    return load_weights(MotionDenoiser, MotionConfig, weights_file("motion", folder))


def read_masks(folder: Path = FOLDER) -> MaskPredictor:
    """The mask predictor. Raises UserError like `read_encoder`."""
    return load_weights(MaskPredictor, MaskConfig, weights_file("masks", folder))


def read_denoiser(file: Path) -> RenderDenoiser:
    """The renderer's denoiser in a file. Raises UserError like `read_encoder`."""
    return load_weights(RenderDenoiser, DenoiserConfig, file)


def read_render(folder: Path = FOLDER) -> RenderDenoiser:
    """The denoiser of the stage `render`. Raises UserError like `read_encoder`."""
    return read_denoiser(weights_file("render", folder))


@dataclass(frozen=True)
class Models:
    """The models of one process. Each of them is loaded on first use and then kept."""

    params: Params
    folder: Path = FOLDER

    @cached_property
    def body(self) -> Body:
        return read_body(self.params.body)

    @cached_property
    def synthesizer(self) -> Synthesizer:
        return Synthesizer(read_encoder(self.folder), read_motion(self.folder), self.params.motion)

    @cached_property
    def renderer(self) -> Renderer:
        return Renderer(self.body, read_masks(self.folder), read_render(self.folder), self.params.render)

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of every file of weights, and of the body model: the files on which the output depends.

        Raises UserError if one of them does not exist.
        """
        files = {stage: weights_file(stage, self.folder) for stage in PRODUCTION_WEIGHTS}
        files["body"] = resolve(self.params.body.file)
        for stage, path in files.items():
            if not path.is_file():
                raise UserError(
                    f"{stage}: {path} not found; install the package again, or in a checkout restore the file "
                    "or run `dvc repro`"
                )
        return {stage: file_digest(path) for stage, path in files.items()}
