"""Stage `motion`: synthesizes SMPL-X motion from speech, window by window.

Each window starts with the last frames of the window before it. T frames, S = T / SLOT slots, P face columns, K body
coefficients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from stereotalker.audio.encoder import SpeechEncoder
from stereotalker.diffusion.sampling import noise, sample
from stereotalker.diffusion.windows import Window, windows
from stereotalker.geometry.rotations import resample_axis_angle
from stereotalker.motion.audio_features import AudioFeatures
from stereotalker.motion.cues import TimedCue, with_arm_cues, with_head_and_face_cues
from stereotalker.motion.denoiser import MotionConditions, MotionDenoiser, Streams
from stereotalker.motion.features import FACE_COLUMNS, body_columns, face_columns, from_slots, to_motion
from stereotalker.motion.language_prior import (
    SLOT,
    SLOTS_PER_TOKEN,
    GestureClassifier,
    choose_gesture_labels,
    labels_at_slots,
)
from stereotalker.motion.listening import Listening, with_looks, with_shut_lips
from stereotalker.motion.post_processing import Emotion, with_blinks, with_emotion, with_gaze, with_still_body
from stereotalker.motion.retargeting import Retargeting
from stereotalker.params import MotionParams
from stereotalker.records import Motion, Speech
from stereotalker.runtime.device import autocast
from stereotalker.store.digests import digest

_BLEND_S = 0.4  # seconds over which a window's new frames move from the fixed frames to what was sampled
_PINNED_SLOTS = 2  # slots that a pinned start or end pose fixes


@dataclass(frozen=True)
class MotionControls:
    """How the speaker of a clip is to move."""

    style: int  # index into acting.reference_acting.STYLES
    strength: float = 1.0  # of gestures: 0 (still arms) to 2
    seed: int = 0
    start: Motion | None = None  # one frame: the pose in which the clip begins
    end: Motion | None = None  # one frame: the pose in which the clip ends
    still: bool = False  # if True, only head and face move
    emotions: tuple[Emotion, ...] = ()
    # f32 [2, frames]: azimuth and elevation, degrees, of the camera that the eyes look at. None leaves the gaze free.
    gaze: np.ndarray | None = None
    retargeting: Retargeting | None = None  # to the pose of the speaker's portrait; None: none
    cues: tuple[TimedCue, ...] = ()  # what a director asks for, in the order of time
    listening: Listening = Listening()  # what the speaker does while others speak

    def digest(self) -> str:
        """Equal for equal controls."""
        poses = [None if pose is None else [pose.poses, pose.trans] for pose in (self.start, self.end)]
        return digest(
            self.style,
            self.strength,
            self.seed,
            poses,
            self.still,
            [asdict(emotion) for emotion in self.emotions],
            self.gaze,
            self.retargeting and self.retargeting.digest(),
            [asdict(cue) for cue in self.cues],
            asdict(self.listening),
        )


class Synthesizer:
    """The models of the motion stage, loaded, with the parameters to sample from them.

    Several threads may use one at once.
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        denoiser: MotionDenoiser,
        params: MotionParams,
        gesture_classifier: GestureClassifier | None = None,
    ):
        """`reader` replaces the gesture classifier of the denoiser's own prior, to compare priors."""
        self.encoder, self.denoiser, self.params = encoder.eval(), denoiser.eval(), params
        self.gesture_classifier = gesture_classifier or GestureClassifier(denoiser.prior)

    def motion(self, speech: Speech, controls: MotionControls, frames: int, fps: float) -> Motion:
        """`frames` frames of motion at `fps`.

        Time grows linearly with the length. Memory holds one window and the result.
        """
        model_fps = self.params.fps
        count = int(np.ceil(frames / fps * model_fps)) + 1
        count += -count % SLOT
        faces, bodies = zip(*self._windows(speech, controls, count), strict=True)
        face, slots = self.denoiser.denormalize(
            Streams(torch.from_numpy(np.concatenate(faces)), torch.from_numpy(np.concatenate(bodies)))
        )
        motion = resample(to_motion(face.numpy(), from_slots(slots.numpy()), model_fps), frames, fps)
        cued = with_arm_cues(motion, controls.cues, controls.style, controls.seed)
        if controls.retargeting is not None:
            motion = controls.retargeting.apply(motion, controls.start, controls.end, cued)
        elif cued:
            motion = cued.motion
        motion = with_blinks(motion, controls.seed)
        motion = with_still_body(motion) if controls.still else motion
        if controls.gaze is not None:
            azimuth, elevation = controls.gaze
            motion = with_gaze(motion, azimuth, elevation, controls.start is not None, controls.end is not None)
        listening, prescribed = controls.listening, (controls.start is not None, controls.end is not None)
        motion = with_looks(with_shut_lips(motion, listening.silent, *prescribed), listening.looks, *prescribed)
        cues = sorted((*controls.cues, *listening.cues), key=lambda cue: cue.time)
        return with_head_and_face_cues(with_emotion(motion, controls.emotions), cues)

    def gesture_labels(self, speech: Speech, count: int) -> np.ndarray:
        """Gesture class of each of `count` slots, i64 [S], index into GESTURE_NAMES.

        The language prior predicts it from the words, or from the sound where the words are not known.
        """
        if not speech.words:
            return self._gestures_of_sound(speech, 0, count)
        labels = choose_gesture_labels(
            self.gesture_classifier.words([w.text for w in speech.words]), self.params.gesture_threshold
        )
        gesture_labels = labels_at_slots(speech.words, labels, count, self.params.fps)
        for begin, end in speech.unaligned:
            first, last = (min(int(time * self.params.fps / SLOT), count) for time in (begin, end))
            if first < last:
                gesture_labels[first:last] = self._gestures_of_sound(speech, first, last)
        return gesture_labels

    def _gestures_of_sound(self, speech: Speech, first: int, last: int) -> np.ndarray:
        """Gesture class of the slots first..last-1 as the sound tells, i64 [last - first]."""
        audio_features, count = self._audio_features(speech), last - first
        gesture_labels = np.zeros(count + SLOTS_PER_TOKEN, np.int64)
        span = 32 * SLOTS_PER_TOKEN
        for start in range(0, count, span):
            begin = first + start
            features = audio_features.frames(begin * SLOT, (begin + min(span, count - start)) * SLOT)
            labels = choose_gesture_labels(
                self.gesture_classifier.sound(features.reshape(-1, SLOT, features.shape[1]).mean(1)),
                self.params.gesture_threshold,
            )
            gesture_labels[start : start + SLOTS_PER_TOKEN * len(labels) : SLOTS_PER_TOKEN] = labels
        return gesture_labels[:count]

    def _audio_features(self, speech: Speech) -> AudioFeatures:
        return AudioFeatures(self.encoder, speech, self.params.fps, self.params.closure_odds)

    def _windows(self, speech: Speech, controls: MotionControls, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield every window's new frames [t, P] and slots [t / SLOT, K], normalized; `count` frames in all."""
        audio_features = self._audio_features(speech)
        T, config = self.params.window, self.denoiser.config
        grid = windows(count, T, self.params.overlap)
        if controls.end is not None and len(grid) > 1:
            grid = _with_full_last_window(grid, T)
        gesture_labels = self.gesture_labels(speech, grid[-1].start // SLOT + T // SLOT)
        last = Streams(torch.zeros(1, T, FACE_COLUMNS), torch.zeros(1, T // SLOT, config.body))
        for window in grid:
            context, conditions = self._conditions(window, count, last, audio_features, gesture_labels, controls)
            sampled = self._sample(window, conditions, controls.seed)
            new, stop = window.overlap, window.stop - window.start
            reach = _BLEND_S * self.params.fps
            face, body = (
                _joined(sampled.face, context.face, conditions.face_mask, reach),
                _joined(sampled.body, context.body, conditions.body_mask, reach / SLOT),
            )
            yield face[0, new:stop].numpy(), body[0, new // SLOT : stop // SLOT].numpy()
            last = Streams(face[:, :stop], body[:, : stop // SLOT])

    def _conditions(
        self,
        window: Window,
        count: int,
        last: Streams,
        audio_features: AudioFeatures,
        gesture_labels: np.ndarray,
        controls: MotionControls,
    ) -> tuple[Streams, MotionConditions]:
        """The fixed motion of a window and all of its conditions, in a batch of one.

        `last` is the motion of the window before, normalized.
        """
        T, K, overlap, first = self.params.window, self.denoiser.config.body, window.overlap, window.start // SLOT
        context = Streams(torch.zeros(1, T, FACE_COLUMNS), torch.zeros(1, T // SLOT, K))
        face_mask, body_mask = torch.zeros(1, T, dtype=torch.bool), torch.zeros(1, T // SLOT, dtype=torch.bool)

        def pin(pose: Motion, start: int) -> None:
            """Fix `pose` from slot `start` on; slots outside the window or inside its overlap are left out."""
            slots = slice(max(start, overlap // SLOT), max(start + _PINNED_SLOTS, overlap // SLOT))
            columns = self.denoiser.normalize(
                torch.from_numpy(face_columns(pose)), torch.from_numpy(body_columns(pose))
            )
            context.body[:, slots], body_mask[:, slots] = columns.body, True
            frames = slice(slots.start * SLOT, slots.stop * SLOT)
            context.face[:, frames], face_mask[:, frames] = columns.face, True

        if overlap:
            context.face[:, :overlap], context.body[:, : overlap // SLOT] = (
                last.face[:, -overlap:],
                last.body[:, -(overlap // SLOT) :],
            )
            face_mask[:, :overlap], body_mask[:, : overlap // SLOT] = True, True
        elif controls.start is not None:
            pin(controls.start, 0)
        if controls.end is not None:  # pins only where the clip's last slots lie in this window
            pin(controls.end, count // SLOT - _PINNED_SLOTS - first)
        has_text = torch.tensor([float(_has_known_words(audio_features.speech, window, self.params.fps))])
        audio = torch.from_numpy(audio_features.frames(window.start, window.start + T))[None]
        window_labels = torch.from_numpy(gesture_labels[first : first + T // SLOT])[None]
        style = torch.tensor([controls.style])
        strength = torch.tensor([controls.strength], dtype=torch.float32)
        return context, MotionConditions(audio, window_labels, has_text, style, strength, context, face_mask, body_mask)

    @torch.inference_mode()
    def _sample(self, window: Window, conditions: MotionConditions, seed: int) -> Streams:
        """Sample a window, normalized, with a batch of one.

        The body is guided away from the prediction without words (classifier-free guidance, Ho & Salimans 2022),
        because few sampling steps make its movements smaller than they should be. `guidance` 1 turns guidance off.
        """
        shapes, guidance = (conditions.context.face.shape, conditions.context.body.shape), self.params.guidance
        face_size = shapes[0].numel()
        batch = conditions if guidance == 1 else _with_unconditional_row(conditions)
        rows = len(batch.style)

        def predict(noisy: torch.Tensor, timestep: int) -> torch.Tensor:
            """The clean window, flattened, from a noisy flattened one."""
            streams = Streams(
                *(
                    x.view(shape).expand(rows, -1, -1)
                    for x, shape in zip(noisy.split([face_size, shapes[1].numel()]), shapes, strict=True)
                )
            )
            with autocast():
                clean = self.denoiser(streams, torch.full((rows,), timestep), batch)
            face, body = clean.face.float(), clean.body.float()
            return torch.cat([face[0].flatten(), (body[-1] + guidance * (body[0] - body[-1])).flatten()])

        start = noise((face_size + shapes[1].numel(),), seed, window.index)
        sampled = sample(predict, start, self.params.scheduler, self.params.steps)
        return Streams(sampled[:face_size].view(shapes[0]), sampled[face_size:].view(shapes[1]))


def _has_known_words(speech: Speech, window: Window, fps: float) -> bool:
    """Whether the words of most of a window are known."""
    start, stop = window.start / fps, window.stop / fps
    unknown = sum(max(0.0, min(end, stop) - max(begin, start)) for begin, end in speech.unaligned)
    return bool(speech.words) and unknown < (stop - start) / 2


def _with_unconditional_row(conditions: MotionConditions) -> MotionConditions:
    """Add a second row that is equal but for the words: it has no gesture labels and no text."""

    def twice(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x])

    gesture_labels, has_text = (
        torch.cat([x, torch.zeros_like(x)]) for x in (conditions.gesture_labels, conditions.has_text)
    )
    return MotionConditions(
        twice(conditions.audio),
        gesture_labels,
        has_text,
        twice(conditions.style),
        twice(conditions.strength),
        Streams(twice(conditions.context.face), twice(conditions.context.body)),
        twice(conditions.face_mask),
        twice(conditions.body_mask),
    )


def _with_full_last_window(grid: list[Window], length: int) -> list[Window]:
    """The same frames, but the last window has full `length`, so that the speaker has time to reach the end pose."""
    *others, before, last = grid
    moved = replace(last, start=last.stop - length)
    return [*others, replace(before, stop=moved.start + moved.overlap), moved]


def _joined(sampled: torch.Tensor, context: torch.Tensor, mask: torch.Tensor, reach: float) -> torch.Tensor:
    """Blend sampled motion [1, N, C] into the context [1, N, C] at the positions where `mask` [1, N] is True.

    Masked positions take the context. At each border between masked and free positions, the difference between context
    and sample is added to the free side with a minimum-jerk weight that falls from 1 to 0 within `reach` positions, or
    sooner if another masked position is nearer.
    """
    out, is_fixed = sampled.clone(), mask[0]
    index = torch.arange(len(is_fixed))
    for border in index[is_fixed]:
        for step in (-1, 1):
            on_side = (index - border) * step > 0
            if not (0 <= border + step < len(is_fixed)) or is_fixed[border + step]:
                continue
            other = index[on_side & is_fixed]
            room = min(float((other - border).abs().min()) if len(other) else np.inf, reach)
            weight = (1 - ((index - border) * step / max(room, 1.0)).clamp(0, 1)) * on_side
            weight = weight**3 * (10 - 15 * weight + 6 * weight**2)
            out = out + weight[None, :, None] * (context[:, border] - sampled[:, border])[:, None]
    out[:, is_fixed] = context[:, is_fixed]
    return out


def resample(motion: Motion, frames: int, fps: float) -> Motion:
    """The same motion, sampled at the centers of `frames` frames at another rate."""
    times = (np.arange(len(motion.poses)) + 0.5) / motion.fps
    new_times = (np.arange(frames) + 0.5) / fps
    if fps == motion.fps and frames <= len(motion.poses):
        return motion.frames(0, frames)
    columns = np.concatenate([motion.expression, motion.trans], 1).T
    interpolated = [np.interp(new_times, times, column) for column in columns]
    linear = np.stack(interpolated, 1).astype(np.float32)
    split = motion.expression.shape[1]
    poses = resample_axis_angle(motion.poses, times, new_times)
    return Motion(poses, np.ascontiguousarray(linear[:, :split]), np.ascontiguousarray(linear[:, split:]), fps)
