"""Loads the trained models, and says which file of weights belongs to which stage."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from stereotalker.audio.encoder import EncoderConfig, SpeechEncoder
from stereotalker.body.model import Body, load_body
from stereotalker.control.masks import MaskConfig, MaskPredictor
from stereotalker.errors import Unavailable
from stereotalker.motion.denoiser import MotionConfig, MotionDenoiser
from stereotalker.motion.synthesize import Synthesizer
from stereotalker.params import BodyParams, Params, resolve
from stereotalker.render.denoiser import DenoiserConfig, RenderDenoiser
from stereotalker.render.renderer import Renderer
from stereotalker.runtime.device import arithmetic, check_device
from stereotalker.store.digests import bytes_digest, digest, file_digest
from stereotalker.weights import FOLDER, load_weights, read_file

# Stages whose weights production loads. They are some of pipeline.TRAINING_STAGES, which train and save the weights.
PRODUCTION_WEIGHTS = ("audio", "motion", "masks", "render")


def weights_file(stage: str, folder: Path = FOLDER) -> Path:
    """Path of a stage's weights in `folder`."""
    return folder / f"{stage}.safetensors"


def read_body(params: BodyParams) -> Body:
    """The body model that the parameters name. Raises UserError if it cannot be read."""
    return load_body(resolve(params.file), params.file_reader, params.betas)


def read_encoder(folder: Path = FOLDER, data: bytes | None = None) -> SpeechEncoder:
    """The audio encoder, in evaluation mode, as all models below.

    data: the bytes of the file, if they are read already. Raises UserError if the weights are missing or do not match.
    """
    return load_weights(SpeechEncoder, EncoderConfig, weights_file("audio", folder), data)


def read_motion(folder: Path = FOLDER, data: bytes | None = None) -> MotionDenoiser:
    """The motion denoiser with its language prior. Raises UserError like `read_encoder`."""
    return load_weights(MotionDenoiser, MotionConfig, weights_file("motion", folder), data)


def read_masks(folder: Path = FOLDER, data: bytes | None = None) -> MaskPredictor:
    """The mask predictor. Raises UserError like `read_encoder`."""
    return load_weights(MaskPredictor, MaskConfig, weights_file("masks", folder), data)


def read_denoiser(file: Path, data: bytes | None = None) -> RenderDenoiser:
    """The renderer's denoiser in a file. Raises UserError like `read_encoder`."""
    return load_weights(RenderDenoiser, DenoiserConfig, file, data)


@dataclass(frozen=True)
class Models:
    """The models of one process. Each of them is loaded on first use and then kept.

    The files of weights are read once. So the digests are those of the models that are used, even if a file is replaced
    while a batch waits for its time.
    """

    params: Params
    folder: Path = FOLDER

    @cached_property
    def body(self) -> Body:
        """The body model. Raises Unavailable if its file is not the one of `digests` any more."""
        body, path = read_body(self.params.body), resolve(self.params.body.file)
        if file_digest(path) != self.digests["body"]:
            raise Unavailable(f"{path} was replaced since the batch began; run the batch again")
        return body

    @cached_property
    def synthesizer(self) -> Synthesizer:
        encoder, motion = (self._files[stage] for stage in ("audio", "motion"))
        return Synthesizer(read_encoder(self.folder, encoder), read_motion(self.folder, motion), self.params.motion)

    @cached_property
    def renderer(self) -> Renderer:
        masks = read_masks(self.folder, self._files["masks"])
        denoiser = read_denoiser(weights_file("render", self.folder), self._files["render"])
        return Renderer(self.body, masks, denoiser, self.params.render, check_device(self._device))

    @property
    def arithmetic(self) -> str:
        """Device and precision of the renderer, see runtime.device. Workers with a share of a GPU use the GPU."""
        return arithmetic(self._device)

    @property
    def _device(self) -> str:
        return "cuda" if self.params.produce.worker.gpus else "cpu"

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of every file of weights, and of the body model: the files on which the output depends.

        Raises Unavailable if one of them does not exist.
        """
        return {stage: bytes_digest(data) for stage, data in self._files.items()} | {"body": self._body_digest}

    @property
    def body_version(self) -> str:
        """Digest of all that the body model depends on: its file, its reader, and the number of its coefficients."""
        body = self.params.body
        return digest(self.digests["body"], body.file_reader, body.betas)

    @cached_property
    def _files(self) -> dict[str, bytes]:
        return {stage: read_file(weights_file(stage, self.folder)) for stage in PRODUCTION_WEIGHTS}

    @cached_property
    def _body_digest(self) -> str:
        path = resolve(self.params.body.file)
        try:
            return file_digest(path)
        except OSError as error:
            raise Unavailable(f"body model {path} cannot be read ({error.strerror}); see body.file") from None
