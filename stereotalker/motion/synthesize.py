"""Stage `motion`: speech in, SMPL-X motion out, window after window; each starts from the last frames of the one before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from stereotalker.audio.encoder import SpeechEncoder
from stereotalker.diffusion.sampling import noise, sample
from stereotalker.diffusion.windows import Window, windows
from stereotalker.geometry.rotations import resample_axis_angle
from stereotalker.motion.audio_features import Hearing
from stereotalker.motion.denoiser import MotionConditions, MotionDenoiser, Streams
from stereotalker.motion.features import FACE_COLUMNS, body_columns, face_columns, from_slots, to_motion
from stereotalker.motion.language_prior import POOLED, SLOT, GestureClassifier, at_slots, chosen
from stereotalker.motion.post_processing import Emotion, with_blinks, with_emotion, with_gaze, with_still_body
from stereotalker.params import MotionParams
from stereotalker.records import Motion, Speech
from stereotalker.runtime.device import autocast
from stereotalker.store.digests import digest

_JOIN_S = 0.4  # over which a window's first new frames leave the held ones
_PINNED = 2  # slots that a pinned pose holds


@dataclass(frozen=True)
class MotionControls:
    """How a speaker is to move."""

    style: int  # index of people.acting.STYLES
    strength: float = 1.0  # of gestures: 0 (still arms) to 2
    seed: int = 0
    start: Motion | None = None  # of one frame: the pose the clip begins in
    end: Motion | None = None
    still: bool = False  # only head and face move
    emotions: tuple[Emotion, ...] = ()
    gaze: np.ndarray | None = (
        None  # f32 [2, frames]: azimuth and elevation, degrees, of the camera that the eyes are on
    )

    def digest(self) -> str:
        """Equal for equal directions."""
        poses = [None if pose is None else [pose.poses, pose.trans] for pose in (self.start, self.end)]
        return digest(
            self.style,
            self.strength,
            self.seed,
            poses,
            self.still,
            [asdict(emotion) for emotion in self.emotions],
            self.gaze,
        )


class Synthesizer:
    """Models in memory, ready for speech."""

    def __init__(
        self,
        encoder: SpeechEncoder,
        denoiser: MotionDenoiser,
        params: MotionParams,
        reader: GestureClassifier | None = None,
    ):
        """reader: another than the denoiser's own prior, for comparison."""
        self.encoder, self.denoiser, self.params = encoder.eval(), denoiser.eval(), params
        self.reader = reader or GestureClassifier(denoiser.prior)

    def motion(self, speech: Speech, controls: MotionControls, frames: int, fps: float) -> Motion:
        """`frames` frames of motion at `fps`. Work grows with the length, memory only by what comes out."""
        own = self.params.fps
        count = int(np.ceil(frames / fps * own)) + 1
        count += -count % SLOT
        faces, bodies = zip(*self._windows(speech, controls, count), strict=True)
        face, slots = self.denoiser.columns(
            Streams(torch.from_numpy(np.concatenate(faces)), torch.from_numpy(np.concatenate(bodies)))
        )
        motion = resample(to_motion(face.numpy(), from_slots(slots.numpy()), own), frames, fps)
        motion = with_blinks(motion, controls.seed)
        motion = with_still_body(motion) if controls.still else motion
        if controls.gaze is not None:
            motion = with_gaze(
                motion, *controls.gaze, from_start=controls.start is not None, to_end=controls.end is not None
            )
        return with_emotion(motion, controls.emotions)

    def signs(self, speech: Speech, count: int) -> np.ndarray:
        """The sign in each of `count` slots that the language prior reads off the words, or off the sound where none are known. i64 [S]."""
        if speech.words:
            found = chosen(self.reader.words([w.text for w in speech.words]), self.params.gesture_threshold)
            return at_slots(speech.words, found, count, self.params.fps)
        hearing, signs = self._hearing(speech), np.zeros(count + POOLED, np.int64)
        span = 32 * POOLED
        for start in range(0, count, span):
            heard = hearing.frames(start * SLOT, (start + min(span, count - start)) * SLOT)
            found = chosen(
                self.reader.sound(heard.reshape(-1, SLOT, heard.shape[1]).mean(1)), self.params.gesture_threshold
            )
            signs[start : start + POOLED * len(found) : POOLED] = found
        return signs[:count]

    def _hearing(self, speech: Speech) -> Hearing:
        return Hearing(self.encoder, speech, self.params.fps, self.params.closure_odds)

    def _windows(self, speech: Speech, controls: MotionControls, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """New frames [t, P] and slots [t / SLOT, K] of every window, normalised."""
        hearing = self._hearing(speech)
        T, config = self.params.window, self.denoiser.config
        grid = windows(count, T, self.params.overlap)
        if controls.end is not None and len(grid) > 1:
            grid = _with_room_to_end(grid, T)
        signs = self.signs(speech, grid[-1].start // SLOT + T // SLOT)
        last = Streams(torch.zeros(1, T, FACE_COLUMNS), torch.zeros(1, T // SLOT, config.body))
        for window in grid:
            held, given = self._given(window, count, last, hearing, signs, controls)
            made, new, stop = self._sample(window, given, controls.seed), window.overlap, window.stop - window.start
            reach = _JOIN_S * self.params.fps
            face, body = (
                _joined(made.face, held.face, given.held_face, reach),
                _joined(made.body, held.body, given.held_body, reach / SLOT),
            )
            yield face[0, new:stop].numpy(), body[0, new // SLOT : stop // SLOT].numpy()
            last = Streams(face[:, :stop], body[:, : stop // SLOT])

    def _given(
        self, window: Window, count: int, last: Streams, hearing: Hearing, signs: np.ndarray, controls: MotionControls
    ) -> tuple[Streams, MotionConditions]:
        T, K, overlap, first = self.params.window, self.denoiser.config.body, window.overlap, window.start // SLOT
        held = Streams(torch.zeros(1, T, FACE_COLUMNS), torch.zeros(1, T // SLOT, K))
        held_face, held_body = torch.zeros(1, T, dtype=torch.bool), torch.zeros(1, T // SLOT, dtype=torch.bool)

        def pin(pose: Motion, start: int) -> None:
            at = slice(max(start, overlap // SLOT), max(start + _PINNED, overlap // SLOT))
            columns = self.denoiser.normalised(
                torch.from_numpy(face_columns(pose)), torch.from_numpy(body_columns(pose))
            )
            held.body[:, at], held_body[:, at] = columns.body, True
            frames = slice(at.start * SLOT, at.stop * SLOT)
            held.face[:, frames], held_face[:, frames] = columns.face, True

        if overlap:
            held.face[:, :overlap], held.body[:, : overlap // SLOT] = (
                last.face[:, -overlap:],
                last.body[:, -(overlap // SLOT) :],
            )
            held_face[:, :overlap], held_body[:, : overlap // SLOT] = True, True
        elif controls.start is not None:
            pin(controls.start, 0)
        if controls.end is not None:  # where the clip's last slots lie in this window
            pin(controls.end, count // SLOT - _PINNED - first)
        told = torch.tensor([float(bool(hearing.speech.words))])
        audio = torch.from_numpy(hearing.frames(window.start, window.start + T))[None]
        read = torch.from_numpy(signs[first : first + T // SLOT])[None]
        return held, MotionConditions(
            audio, read, told, torch.tensor([controls.style]), torch.tensor([controls.strength], dtype=torch.float32), held, held_face, held_body
        )  # fmt: skip

    @torch.inference_mode()
    def _sample(self, window: Window, given: MotionConditions, seed: int) -> Streams:
        """The body is guided away from what it would do without words (Ho & Salimans 2022): few steps shrink its swing."""
        shapes, w = (given.before.face.shape, given.before.body.shape), self.params.guidance
        split = shapes[0].numel()
        asked = given if w == 1 else _with_unsaid(given)
        rows = len(asked.style)

        def predict(noisy: torch.Tensor, timestep: int) -> torch.Tensor:
            streams = Streams(
                *(
                    x.view(shape).expand(rows, -1, -1)
                    for x, shape in zip(noisy.split([split, shapes[1].numel()]), shapes, strict=True)
                )
            )
            with autocast():
                clean = self.denoiser(streams, torch.full((rows,), timestep), asked)
            face, body = clean.face.float(), clean.body.float()
            return torch.cat([face[0].flatten(), (body[-1] + w * (body[0] - body[-1])).flatten()])

        start = noise((split + shapes[1].numel(),), seed, window.index)
        made = sample(predict, start, self.params.scheduler, self.params.steps)
        return Streams(made[:split].view(shapes[0]), made[split:].view(shapes[1]))


def _with_unsaid(given: MotionConditions) -> MotionConditions:
    """A second row, in which nobody knows what is said."""

    def twice(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x])

    signs, told = (torch.cat([x, torch.zeros_like(x)]) for x in (given.signs, given.told))
    return MotionConditions(
        twice(given.audio), signs, told, twice(given.style), twice(given.strength), Streams(twice(given.before.face), twice(given.before.body)), twice(given.held_face), twice(given.held_body)
    )  # fmt: skip


def _with_room_to_end(grid: list[Window], length: int) -> list[Window]:
    """The same frames, the last window of full `length`, so that the way to an end pose is not shorter than a window."""
    *others, before, last = grid
    moved = replace(last, start=last.stop - length)
    return [*others, replace(before, stop=moved.start + moved.overlap), moved]


def _joined(made: torch.Tensor, held: torch.Tensor, where: torch.Tensor, reach: float) -> torch.Tensor:
    """What was made, put on what was held: the difference at every border dies away within `reach` frames (min-jerk), sooner where another comes."""
    out, known = made.clone(), where[0]
    index = torch.arange(len(known))
    for border in index[known]:
        for step in (-1, 1):
            free = (index - border) * step > 0
            if not (0 <= border + step < len(known)) or known[border + step]:
                continue
            other = index[free & known]
            room = min(float((other - border).abs().min()) if len(other) else np.inf, reach)
            share = (1 - ((index - border) * step / max(room, 1.0)).clamp(0, 1)) * free
            share = share**3 * (10 - 15 * share + 6 * share**2)
            out = out + share[None, :, None] * (held[:, border] - made[:, border])[:, None]
    out[:, known] = held[:, known]
    return out


def resample(motion: Motion, frames: int, fps: float) -> Motion:
    """The same motion sampled at the centres of `frames` frames of another rate."""
    times = (np.arange(len(motion.poses)) + 0.5) / motion.fps
    new = (np.arange(frames) + 0.5) / fps
    if fps == motion.fps and frames <= len(motion.poses):
        return motion.frames(0, frames)
    at = [np.interp(new, times, column) for column in np.concatenate([motion.expression, motion.trans], 1).T]
    linear = np.stack(at, 1).astype(np.float32)
    split = motion.expression.shape[1]
    poses = resample_axis_angle(motion.poses, times, new)
    return Motion(poses, np.ascontiguousarray(linear[:, :split]), np.ascontiguousarray(linear[:, split:]), fps)
