"""Pictures and clips of a model in training, by which a person sees whether it learns. They show held-out data."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn

from stereotalker.acting.reference_acting import STYLES, act
from stereotalker.audio.encoder import SpeechEncoder, frame_times, phoneme_classes_at, read_encoder
from stereotalker.audio.phonemes import CLASSES
from stereotalker.avatar.library import Library, read_avatar
from stereotalker.body.model import read_body
from stereotalker.control.masks import MaskPredictor, read_masks
from stereotalker.control.reference_warp import control, reference
from stereotalker.dataset.shards import picture_bytes
from stereotalker.dataset.speech_corpus import read_corpus
from stereotalker.errors import UserError
from stereotalker.evaluation.motion_metrics import GestureAutoencoder
from stereotalker.evaluation.rendering import contact_sheet, control_of
from stereotalker.geometry import camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.media.audio_files import wav_bytes
from stereotalker.media.contact_sheet import grid, labelled_tile
from stereotalker.media.video_files import write_video
from stereotalker.motion.denoiser import MotionDenoiser
from stereotalker.motion.language_prior import GESTURE_NAMES, GestureClassifier, LanguagePrior
from stereotalker.motion.synthesize import MotionControls, Synthesizer
from stereotalker.params import Params
from stereotalker.records import SAMPLE_RATE, Motion, Speech
from stereotalker.render.denoiser import RenderDenoiser
from stereotalker.render.renderer import Renderer
from stereotalker.runtime.device import training_device
from stereotalker.smplx_layout import REGION_COLORS
from stereotalker.training.samples import Sample, read_people

_SECONDS = 6.0  # longest stretch of speech that is shown, s
_MIN_SECONDS = 2.0  # shorter utterances are not chosen, if there are longer ones
_CLIP_PX = 320  # longer side of a clip of motion, px
_ZOOM = 6  # side of one value of a heat map, and the space between two maps, px
_NAME_PX = 28  # height of the name above a heat map, px
_ROW_PX, _ROW_NAME_PX = 12, 40  # height of a row that has a name, and the width of the name, px
_PEOPLE = 3  # held-out people on a sheet


class Previews:
    """Draws previews, on data that is read when it is first needed.

    corpus, people: folders of the stages `speech` and `people`; weights: where the stages write theirs.
    """

    def __init__(self, params: Params, corpus: Path, people: Path, weights: Path):
        self.params, self._corpus, self._people, self._weights = params, corpus, people, weights

    def draw(self, model: nn.Module) -> tuple[str, bytes]:
        """The ending and the bytes of a file that shows what `model`, in evaluation mode, does.

        Raises ValueError for a model of an unknown kind, UserError if there is no held-out data.
        """
        match model:
            case SpeechEncoder():
                return "png", self._phonemes(model)
            case LanguagePrior():
                return "md", self._gesture_classes(model)
            case MotionDenoiser():
                return "mp4", self._clip(model)
            case GestureAutoencoder():
                return "png", self._reconstruction(model)
            case MaskPredictor():
                return "jpg", self._regions(model)
            case RenderDenoiser():
                return "jpg", self._pictures(model)
            case nn.ModuleDict() if "denoiser" in model:  # with its critic
                return self.draw(model["denoiser"])
        raise ValueError(f"there is no preview of a {type(model).__name__}")

    def _phonemes(self, model: SpeechEncoder) -> bytes:
        """Posteriors of the phoneme classes over time, above the true ones."""
        posteriors = model.encode(self._speech.samples)[:, -len(CLASSES) :]
        truth = np.eye(len(CLASSES))[phoneme_classes_at(self._speech, frame_times(len(posteriors)))]
        maps = {"posteriors of phoneme classes": posteriors, "true classes": truth}
        return picture_bytes(grid([[_heat_map(name, values.T, CLASSES)] for name, values in maps.items()]), "PNG")

    def _gesture_classes(self, model: LanguagePrior) -> bytes:
        """A table of words and of the gesture class that the prior finds likeliest for each."""
        words = [word.text for word in self._speech.words]
        rows = [
            f"| {word} | {GESTURE_NAMES[p.argmax()] or '(none)'} | {p.max():.2f} |"
            for word, p in zip(words, GestureClassifier(model).words(words), strict=True)
        ]
        return "\n".join(["| word | gesture class | probability |", "|---|---|---|", *rows, ""]).encode()

    def _clip(self, model: MotionDenoiser) -> bytes:
        """A clip of the first shipped avatar that speaks, by reference warp alone: no renderer is needed for it."""
        fps, seconds = self.params.motion.fps, self._speech.seconds
        synthesizer = Synthesizer(read_encoder(self._weights), model, self.params.motion)
        motion = synthesizer.motion(self._speech, MotionControls(style=0), int(seconds * fps), fps)
        frames = self._warped(motion)
        with tempfile.TemporaryDirectory() as folder:
            sound, clip = Path(folder) / "sound.wav", Path(folder) / "clip.mp4"
            sound.write_bytes(wav_bytes(self._speech.samples, SAMPLE_RATE))
            size = frames.shape[1:3]
            write_video(clip, [frames], size, fps, sound, seconds, self.params.video, "preview of a training")
            return clip.read_bytes()

    def _warped(self, motion: Motion) -> np.ndarray:
        """The first shipped avatar in motion, u8 [T, H, W, 3], each side even."""
        library = Library()
        avatar, body = read_avatar(library.find(library.names()[0])), read_body(self.params.body)
        H, W = avatar.regions.shape
        size = tuple(2 * round(extent * _CLIP_PX / max(H, W) / 2) for extent in (H, W))
        view = camera.avatar_camera(avatar, CameraPath(), len(motion.poses), motion.fps, size)
        return control(reference(avatar, body), body, motion, view).warp

    def _reconstruction(self, model: GestureAutoencoder) -> bytes:
        """Body columns of the reference acting over time, and what the autoencoder makes of them."""
        motion = act(self._speech, STYLES[0], 0, self.params.motion.fps)
        windows = model.normalize(torch.from_numpy(model.windows([motion])))
        with torch.inference_mode():
            maps = {"body columns": windows, "reconstructed": model.decoder(model.encoder(windows))}
        # Normalized columns lie within -2..2, but for rare peaks.
        rows = {name: torch.cat(list(values), -1).numpy() / 4 + 0.5 for name, values in maps.items()}
        return picture_bytes(grid([[_heat_map(name, values) for name, values in rows.items()]]), "PNG")

    def _regions(self, model: MaskPredictor) -> bytes:
        """For each person: the warp that the predictor reads, the true regions, the predicted ones."""
        colors, rows = np.array(REGION_COLORS, np.uint8), []
        for person in self._samples:
            [predicted] = model.predict(control_of(person, 0, 1)).argmax(1).cpu().numpy()
            rows.append([person.warp[0], colors[person.regions[0]], colors[predicted]])
        return picture_bytes(grid(rows), "JPEG", quality=90)

    def _pictures(self, model: RenderDenoiser) -> bytes:
        """For each person: truth, warp and rendered frames from three cameras."""
        body, render = read_body(self.params.body), self.params.render
        renderer = Renderer(body, read_masks(self._weights), model, render, training_device())
        return picture_bytes(contact_sheet(renderer, self._samples), "JPEG", quality=90)

    @cached_property
    def _speech(self) -> Speech:
        """The first utterance with words that is long enough, cut to _SECONDS."""
        corpus = [speech for speech in read_corpus(self._corpus / "held_out") if speech.words]
        if not corpus:
            raise UserError(f"{self._corpus / 'held_out'} holds no speech with words; run the stage `speech`")
        speech = next((s for s in corpus if s.seconds >= _MIN_SECONDS), corpus[0])
        words, phonemes = (
            tuple(timed for timed in times if timed.end <= _SECONDS) for times in (speech.words, speech.phonemes)
        )
        return Speech(speech.samples[: int(_SECONDS * SAMPLE_RATE)], speech.loudness, words, phonemes)

    @cached_property
    def _samples(self) -> list[Sample]:
        """The first take of each of the first people."""
        takes = read_people(self._people / "held_out", self.params.body, self.params.people, most=_PEOPLE)
        return list({take.identity: take for take in reversed(takes)}.values())[::-1]


def _heat_map(name: str, values: np.ndarray, rows: Sequence[str] = ()) -> np.ndarray:
    """Values [R, C] as colors from dark (0 and below) to bright (1 and above), with a name above; u8 [H, W, 3].

    rows: names of the rows, written beside them.
    """
    cell = np.ones((_ROW_PX if rows else _ZOOM, _ZOOM), np.uint8)
    levels = np.kron(np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8), cell)
    colors = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    picture = Image.fromarray(np.pad(colors, ((_NAME_PX, _ZOOM), (_ROW_NAME_PX if rows else 0, _ZOOM), (0, 0))))
    for k, row in enumerate(rows):
        ImageDraw.Draw(picture).text((4, _NAME_PX + k * _ROW_PX), row, fill=(255, 255, 255), font_size=_ROW_PX - 2)
    return labelled_tile(np.asarray(picture), name)
