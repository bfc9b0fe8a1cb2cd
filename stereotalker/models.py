"""Loads the trained models of production, each on first use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from stereotalker.audio.recognition import Recognizer, find_recognizer
from stereotalker.avatar.detector_calibration import FILE as CALIBRATION_FILE
from stereotalker.body.model import Body, load_body
from stereotalker.control.masks import read_masks
from stereotalker.errors import Unavailable
from stereotalker.params import FREE_BODY, Params, resolve
from stereotalker.render.denoiser import read_denoiser
from stereotalker.render.renderer import Renderer
from stereotalker.runtime.device import arithmetic, check_device
from stereotalker.store.digests import bytes_digest, digest, file_digest
from stereotalker.store.public_models import MINILM, NO_MODEL, fingerprint
from stereotalker.weights import FOLDER, PRODUCTION_WEIGHTS, read_file, read_header, weights_file

if TYPE_CHECKING:
    from stereotalker.motion.synthesize import Synthesizer

# Stage -> the entry of its model's config that names public weights, which are not in our files.
PUBLIC_SETTINGS = {"audio": "pretrained", "motion": "language_model", "render": "pretrained"}


@dataclass(frozen=True)
class Models:
    """The models of one process. Each of them is loaded on first use and then kept.

    The files of weights are read once. So the digests are those of the models that are used, even if a file is replaced
    while a batch waits for its time.
    """

    params: Params
    folder: Path = FOLDER
    release: str = ""  # digest of the release that the folder belongs to; empty if it belongs to none
    release_number: int = 0  # of that release; 0 for the package
    store: str = ""  # folder or URL where other machines find that release

    @cached_property
    def body(self) -> Body:
        """The body model. Raises Unavailable if its file is not the one of `digests` any more."""
        path, body_params = self._body_file, self.params.body
        body = load_body(path, body_params.file_reader, body_params.betas)
        if file_digest(path) != self.digests["body"]:
            raise Unavailable(f"{path} was replaced since the batch began; run the batch again")
        return body

    @cached_property
    def synthesizer(self) -> Synthesizer:
        # Workers render only, and the libraries behind these modules take seconds to import.
        from stereotalker.audio.encoder import read_encoder
        from stereotalker.motion.denoiser import read_motion
        from stereotalker.motion.synthesize import Synthesizer

        encoder, motion = (self._files[stage] for stage in ("audio", "motion"))
        return Synthesizer(read_encoder(self.folder, encoder), read_motion(self.folder, motion), self.params.motion)

    @cached_property
    def recognizer(self) -> Recognizer | None:
        """The recognizer of the words of recordings; None if there is none. Raises UserError if it cannot be used."""
        source = self.params.produce.recognizer
        return find_recognizer(source if source in ("auto", "none") else str(resolve(Path(source))))

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
        found = {stage: bytes_digest(data) for stage, data in self._files.items()} | {"body": self._body_digest}
        return found | {f"public.{stage}": fingerprint(*public) for stage, public in self._public.items()}

    def version(self, stage: str) -> str:
        """Digest of a stage's weights, and of the public weights that they stand on."""
        public = self.digests.get(f"public.{stage}")
        return self.digests[stage] if public is None else digest(self.digests[stage], public)

    @property
    def body_version(self) -> str:
        """Digest of all that the body model depends on: its file, its reader, and the number of its coefficients."""
        body = self.params.body
        return digest(self.digests["body"], body.file_reader, body.betas)

    @cached_property
    def _public(self) -> dict[str, tuple[str, str]]:
        """Stage -> source of the public weights that its weights stand on, and the name of the setting."""
        found = {}
        for stage, setting in PUBLIC_SETTINGS.items():
            source = read_header(self._files[stage])["config"].get(setting)
            if source not in (None, MINILM, NO_MODEL):
                found[stage] = (source, f"{stage}.{setting}")
        return found

    @cached_property
    def _files(self) -> dict[str, bytes]:
        return {stage: read_file(weights_file(stage, self.folder)) for stage in PRODUCTION_WEIGHTS}

    @property
    def _body_file(self) -> Path:
        """File of the body: the one of the release, unless the parameters name another body than the free one."""
        path = self.folder / FREE_BODY
        is_free = self.params.body.file.name == FREE_BODY
        return path if is_free and path.is_file() else resolve(self.params.body.file)

    @property
    def calibration_file(self) -> Path:
        """File of the detector calibration: the one of the release, or else of the package."""
        path = self.folder / CALIBRATION_FILE.name
        return path if path.is_file() else CALIBRATION_FILE

    @cached_property
    def _body_digest(self) -> str:
        path = self._body_file
        try:
            return file_digest(path)
        except OSError as error:
            raise Unavailable(f"body model {path} cannot be read ({error.strerror}); see body.file") from None
