"""Motion quality on voices and sentences that no training saw, beside baselines and ablations.

The formulas of the metrics are in evaluation/motion_metrics.py. T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from stereotalker.acting.reference_acting import STYLES, act
from stereotalker.audio.encoder import SpeechEncoder
from stereotalker.audio.speech import from_file
from stereotalker.body.model import Body
from stereotalker.diffusion.windows import windows
from stereotalker.evaluation import motion_metrics
from stereotalker.evaluation.motion_cases import Case, WordCases
from stereotalker.evaluation.motion_metrics import GestureAutoencoder, NearestGesture, frechet
from stereotalker.motion.audio_features import AudioFeatures
from stereotalker.motion.features import from_slots, to_motion
from stereotalker.motion.language_prior import GestureClassifier
from stereotalker.motion.synthesize import MotionControls, Synthesizer
from stereotalker.records import SAMPLE_RATE, Motion, Speech
from stereotalker.training.motion import MotionExample

System = Callable[[Case], Motion]


def systems(synthesizer: Synthesizer, ablated: GestureClassifier, examples: list[MotionExample]) -> dict[str, System]:
    """All systems that are compared, the baselines first. ablated: a gesture classifier without the language prior."""
    without_prior = Synthesizer(synthesizer.encoder, synthesizer.denoiser, synthesizer.params, ablated)
    mean_pose = to_motion(
        synthesizer.denoiser.face_mean[None].numpy(),
        synthesizer.denoiser.body_mean[None].numpy(),
        synthesizer.params.fps,
    )

    return {
        "mean pose": lambda case: _repeated(mean_pose, len(case.reference.poses)),
        "nearest neighbour": NearestNeighbor(synthesizer.encoder, examples, synthesizer.params.fps),
        "without prior": lambda case: synthesize(without_prior, case),
        "without text": lambda case: synthesize(synthesizer, case, has_text=False),
        "everything": lambda case: synthesize(synthesizer, case),
        "reference": lambda case: case.reference,
    }


def synthesize(model: Synthesizer, case: Case, has_text: bool = True) -> Motion:
    """Motion of a case. has_text: whether the model gets words and phonemes, or the sound alone."""
    speech = case.speech if has_text else Speech(case.speech.samples, case.speech.loudness)
    return model.motion(
        speech, MotionControls(case.style, 1.0, case.seed), len(case.reference.poses), case.reference.fps
    )


def _repeated(motion: Motion, frames: int) -> Motion:
    """The motion's first frame again and again."""
    poses, expression, trans = (np.repeat(a[:1], frames, 0) for a in (motion.poses, motion.expression, motion.trans))
    return Motion(poses, expression, trans, motion.fps)


class NearestNeighbor:
    """The retrieval baseline: for every second, the training motion whose audio features are nearest."""

    def __init__(self, encoder: SpeechEncoder, examples: list[MotionExample], fps: float):
        self._encoder, self._fps, self._span = encoder, fps, int(fps)
        features, motion = [], []
        for example in examples:
            frames = to_frames(example)
            for start in range(0, len(example.audio_features) - self._span + 1, self._span // 2):
                features.append(example.audio_features[start : start + self._span].astype(np.float32).ravel())
                motion.append(frames[start : start + self._span])
        self._features, self._motion = np.stack(features), np.stack(motion)
        self._squared_norms = (self._features**2).sum(1)
        self._face_columns = examples[0].face.shape[1]

    def __call__(self, case: Case) -> Motion:
        T = len(case.reference.poses)
        count = -(-T // self._span)
        features = AudioFeatures(self._encoder, Speech(case.speech.samples, case.speech.loudness), self._fps).frames(
            0, count * self._span
        )
        queries = features.reshape(count, -1)
        # The squared distance less the query's squared norm, which does not change the minimum.
        nearest = (self._squared_norms[None] - 2 * queries @ self._features.T).argmin(1)
        frames = self._motion[nearest].reshape(-1, self._motion.shape[-1])[:T]
        return to_motion(frames[:, : self._face_columns], frames[:, self._face_columns :], self._fps)


def to_frames(example: MotionExample) -> np.ndarray:
    """Face and body columns of an example at every frame, f32 [T, P + Q]."""
    return np.concatenate([example.face, from_slots(example.body)], 1)


def compare_systems(
    systems: dict[str, System], cases: list[Case], words: WordCases, body: Body, autoencoder: GestureAutoencoder
) -> dict[str, dict[str, float]]:
    """Every metric of every system: system -> metric -> value."""
    truth = autoencoder.features([case.reference for case in cases])
    by_style = {
        style: NearestGesture(style, words.cases[0].reference.fps) for style in sorted({c.style for c in words.cases})
    }
    table = {}
    for name, system in systems.items():
        motions = [system(case) for case in cases]
        recognized = [
            by_style[c.style].nearest(system(c), time) for c, time in zip(words.cases, words.times, strict=True)
        ]
        # The reference is compared with another acting of the same speech, which shows the distance that chance makes.
        compared = (
            motions
            if name != "reference"
            else [act(c.speech, STYLES[c.style], c.seed + 5000, c.reference.fps) for c in cases]
        )
        table[name] = _scores(motions, cases, body) | {
            "FGD": frechet(autoencoder.features(compared), truth),
            "gesture accuracy": float(np.mean([a == b for a, b in zip(recognized, words.gestures, strict=True)])),
        }
    return table


def _scores(motions: list[Motion], cases: list[Case], body: Body) -> dict[str, float]:
    """The metrics that need no other system. motions: one per case."""
    agreements = [motion_metrics.lip_agreement(m, c.reference, body) for m, c in zip(motions, cases, strict=True)]
    pauses = np.concatenate(
        [motion_metrics.pause_aperture(m, c.speech, body) for m, c in zip(motions, cases, strict=True)]
    )
    return {
        "closed, synthetic": _closed(motions, cases, body, "synthetic"),
        "closed, real": _closed(motions, cases, body, "real"),
        "lip correlation": mean([r for r, _ in agreements]),
        "lip lag, median": float(np.median([lag for _, lag in agreements])),
        "lip lag within 1 frame": float(np.mean([abs(lag) <= 1 for _, lag in agreements])),
        "pause aperture mm": float(np.percentile(pauses, 95)) if len(pauses) else np.nan,
        "lip vertex error mm": mean(
            [motion_metrics.lip_vertex_error(m, c.reference, body) for m, c in zip(motions, cases, strict=True)]
        ),
        "diversity": mean([motion_metrics.diversity(m) for m in motions]),
        "jerk": mean([motion_metrics.jerk(m) for m in motions]),
        "beat consistency": mean(
            [motion_metrics.beat_consistency(m, c.speech) for m, c in zip(motions, cases, strict=True)]
        ),
    }


def _closed(motions: list[Motion], cases: list[Case], body: Body, kind: str | None = None) -> float:
    """Share of closed lips over all p, b, m sounds of all cases of a kind (None: of any kind); nan without a sound."""
    hits = [
        hit
        for m, c in zip(motions, cases, strict=True)
        if kind in (None, c.kind)
        for hit in motion_metrics.closures(m, c.speech, body)
    ]
    return float(np.mean(hits)) if hits else float("nan")


def lips_by_language(
    synthesizer: Synthesizer, cases: list[Case], body: Body
) -> dict[str, tuple[int, float, float, float]]:
    """Language -> (utterances, lips closed from sound alone, lips closed with the text, lip correlation from sound)."""
    table = {}
    for language in sorted({case.language for case in cases}):
        selected = [case for case in cases if case.language == language]
        from_sound, with_text = (
            [synthesize(synthesizer, case, has_text) for case in selected] for has_text in (False, True)
        )
        table[language] = (
            len(selected),
            _closed(from_sound, selected, body),
            _closed(with_text, selected, body),
            mean(
                [
                    motion_metrics.lip_agreement(m, c.reference, body)[0]
                    for m, c in zip(from_sound, selected, strict=True)
                ]
            ),
        )
    return table


def long_clip_metrics(synthesizer: Synthesizer, cases: list[Case], minutes: int) -> dict[str, float]:
    """Drift, and the speed at window borders, of `long_motion`."""
    motion = long_motion(synthesizer, cases, minutes)
    spread, shift = motion_metrics.drift(motion)
    borders = np.array(
        [
            w.start + w.overlap
            for w in windows(len(motion.poses), synthesizer.params.window, synthesizer.params.overlap)
        ][1:]
    )
    return {"drift_spread": spread, "drift_mean": shift, "seam_speed_ratio": motion_metrics.seams(motion, borders)}


def long_motion(synthesizer: Synthesizer, cases: list[Case], minutes: int) -> Motion:
    """Motion of so many minutes, in which one minute of the cases' speech is repeated."""
    fps = synthesizer.params.fps
    minute = np.concatenate([np.pad(case.speech.samples, (SAMPLE_RATE // 3, 0)) for case in cases])[: 60 * SAMPLE_RATE]
    minute = np.pad(minute, (0, 60 * SAMPLE_RATE - len(minute)), "wrap")
    return synthesizer.motion(Speech(np.tile(minute, minutes), -20.0), MotionControls(0), int(60 * minutes * fps), fps)


def non_speech_metrics(
    synthesizer: Synthesizer, files: list[Path], body: Body, seed: int
) -> dict[str, tuple[float, float, float]]:
    """How still the model stays for silence, white noise, and the first 20 s of sound files without speech.

    Sound -> (95th percentile of the lip aperture, mm; its standard deviation, mm; diversity of the body, rad).
    """
    rng = np.random.default_rng(seed)
    sounds = {
        "silence": np.zeros(10 * SAMPLE_RATE, np.float32),
        "white noise": (0.1 * rng.normal(size=10 * SAMPLE_RATE)).clip(-1, 1).astype(np.float32),
    }
    for path in files:
        sounds[path.stem] = from_file(path, -20.0).samples[: 20 * SAMPLE_RATE]
    table = {}
    for name, samples in sounds.items():
        motion = synthesizer.motion(
            Speech(samples, -20.0),
            MotionControls(0),
            int(len(samples) / SAMPLE_RATE * synthesizer.params.fps),
            synthesizer.params.fps,
        )
        aperture = body.lip_aperture(motion)
        table[name] = float(np.percentile(aperture, 95)), float(aperture.std()), motion_metrics.diversity(motion)
    return table


def mean(values: Sequence[float]) -> float:
    """Mean of the finite values; nan where there are none."""
    finite = [v for v in values if np.isfinite(v)]
    return float(np.mean(finite)) if finite else float("nan")
