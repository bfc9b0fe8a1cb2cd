"""Motion quality on voices and sentences that no training saw, beside baselines and ablations.

The formulas of the metrics are in evaluation/motion_metrics.py. T frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stereotalker.acting.gestures import HELD_OUT, LEXICON
from stereotalker.acting.reference_acting import STYLES, act
from stereotalker.audio.encoder import SpeechEncoder
from stereotalker.audio.speech import from_script
from stereotalker.audio.text_to_speech import Voice
from stereotalker.body.model import Body
from stereotalker.dataset.speech_corpus import Utterance, read_corpus, read_index, read_sentences
from stereotalker.diffusion.windows import windows
from stereotalker.evaluation import motion_metrics
from stereotalker.evaluation.motion_metrics import GestureAutoencoder, NearestGesture, frechet
from stereotalker.media.audio_files import decode, normalise, to_speech_samples
from stereotalker.media.contact_sheet import grid
from stereotalker.motion.audio_features import Hearing
from stereotalker.motion.features import from_slots, to_motion
from stereotalker.motion.language_prior import GestureClassifier
from stereotalker.motion.preview import Mannequin, draw, mannequin
from stereotalker.motion.synthesize import MotionControls, Synthesizer
from stereotalker.params import ASSETS
from stereotalker.records import SAMPLE_RATE, Motion, Speech
from stereotalker.training.motion import MotionExample

_VOICE = Voice("en-us", "m5", 150)  # speaks the held-out words; no training uses this voice
# The sentence around a held-out word, and the silence before it, s. Nothing is spoken before the word, because a beat
# there would keep the acting from making the word's gesture.
_CARRIER, _LEAD_S = "{}, he said.", 0.8
_WIDE_STYLES = (0, 4, 8, 13)  # acting styles that gesture widely
# s from the start of a word to the time around which its gesture is compared; NearestGesture's references use the same.
_WORD_DELAY_S = 0.12
SPOKEN = ("hi", "ar", "cmn")  # languages without recordings: held-out voices of espeak-ng speak them
_UNHEARD = ASSETS / "unheard"  # their sentences, which no training uses
_MOMENTS = 8  # pictures in a row of the contact sheet


@dataclass(frozen=True)
class Case:
    """A held-out utterance, and the reference acting of it."""

    speech: Speech
    kind: str  # synthetic, real
    language: str  # without its region: en, not en-us
    style: int  # index into STYLES
    seed: int
    reference: Motion


System = Callable[[Case], Motion]


@dataclass(frozen=True)
class WordCases:
    """Sentences around held-out words, one list entry per word."""

    cases: list[Case]
    gestures: list[str]  # gesture class that the word asks for
    times: list[float]  # when the gesture is expected, s


def read_cases(folder: Path, fps: float, seed: int) -> list[Case]:
    """Every held-out utterance of a corpus folder that has phoneme times, with the reference acting of it."""
    pairs = zip(read_corpus(folder), read_index(folder), strict=True)
    return [_case(speech, row, k, fps, seed) for k, (speech, row) in enumerate(pairs) if speech.phonemes]


def _case(speech: Speech, row: Utterance, k: int, fps: float, seed: int) -> Case:
    style = k % len(STYLES)
    return Case(
        speech, row.kind, row.language.split("-")[0], style, seed + k, act(speech, STYLES[style], seed + k, fps)
    )


def synthetic_language_cases(loudness: float, fps: float, seed: int) -> list[Case]:
    """Sentences that no training uses, in the languages SPOKEN, by held-out voices. loudness: LUFS."""
    texts, cases = read_sentences(_UNHEARD, list(SPOKEN))[0], []
    for language, lines in sorted(texts.items()):
        for k, text in enumerate(lines):
            speech = from_script(text, Voice(language, ("m5", "linda")[k % 2]), loudness)[0]
            cases.append(
                _case(speech, Utterance("", "synthetic", language, "", text, speech.seconds), len(cases), fps, seed)
            )
    return cases


def held_out_words(loudness: float, fps: float, seed: int, count: int) -> WordCases:
    """About `count` words of HELD_OUT, evenly picked, each in a sentence.

    Words that contain a word of the lexicon, or lie within one, are left out. The reference acting gets a word of the
    lexicon with the same gesture class in the held-out word's place. Styles are four that gesture widely.
    """
    cases, gestures, times = [], [], []
    lexicon_word = {gesture: word for word, gesture in reversed(LEXICON.items())}
    unrelated = [
        (word, gesture)
        for word, gesture in HELD_OUT.items()
        if not any(w in word or word in w for w in LEXICON if len(w) > 2)
    ]
    for k, (word, gesture) in enumerate(unrelated[:: max(len(unrelated) // count, 1)]):
        speech = _delayed(from_script(_CARRIER.format(word), _VOICE, loudness)[0], _LEAD_S)
        spoken_word = next(w for w in speech.words if w.text.lower().strip(",.") == word)
        style = _WIDE_STYLES[k % len(_WIDE_STYLES)]
        acted = replace(
            speech,
            words=tuple(replace(w, text=lexicon_word[gesture]) if w is spoken_word else w for w in speech.words),
        )
        cases.append(Case(speech, "synthetic", "en", style, seed + k, act(acted, STYLES[style], seed + k, fps)))
        gestures.append(gesture)
        times.append(spoken_word.start + _WORD_DELAY_S)
    return WordCases(cases, gestures, times)


def _delayed(speech: Speech, seconds: float) -> Speech:
    """The speech after so many seconds of silence."""
    words, phonemes = (
        tuple(replace(t, start=t.start + seconds, end=t.end + seconds) for t in timed)
        for timed in (speech.words, speech.phonemes)
    )
    return Speech(np.pad(speech.samples, (round(seconds * SAMPLE_RATE), 0)), speech.loudness, words, phonemes)


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
        "without prior": lambda case: _synthesize(without_prior, case),
        "without text": lambda case: _synthesize(synthesizer, case, has_text=False),
        "everything": lambda case: _synthesize(synthesizer, case),
        "reference": lambda case: case.reference,
    }


def _synthesize(model: Synthesizer, case: Case, has_text: bool = True) -> Motion:
    """Motion of a case. has_text: whether the model gets words and phonemes, or the sound alone."""
    speech = case.speech if has_text else Speech(case.speech.samples, case.speech.loudness)
    return model.motion(
        speech, MotionControls(case.style, 1.0, case.seed), len(case.reference.poses), case.reference.fps
    )


def _repeated(motion: Motion, frames: int) -> Motion:
    """The motion's first frame again and again."""
    return Motion(*(np.repeat(a[:1], frames, 0) for a in (motion.poses, motion.expression, motion.trans)), motion.fps)


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
        features = Hearing(self._encoder, Speech(case.speech.samples, case.speech.loudness), self._fps).frames(
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
            [_synthesize(synthesizer, case, has_text) for case in selected] for has_text in (False, True)
        )
        closed = [_closed(motions, selected, body) for motions in (from_sound, with_text)]
        table[language] = (
            len(selected),
            *closed,
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
        sounds[path.stem] = to_speech_samples(normalise(decode(path), -20.0)[0])[: 20 * SAMPLE_RATE]
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


def summary(table: dict[str, dict[str, float]]) -> dict[str, float]:
    """The fixed keys of metrics/motion.json, from the result of `compare_systems`.

    Lips are measured from sound alone; keys with `_with_text` are of motion made with words and phonemes.
    """
    from_sound, with_text, reference = table["without text"], table["everything"], table["reference"]
    ratio = {name: with_text[name] / max(reference[name], 1e-9) for name in ("diversity", "jerk", "beat consistency")}
    return {
        "bilabial_closed_synthetic": from_sound["closed, synthetic"],
        "bilabial_closed_real": from_sound["closed, real"],
        "bilabial_closed_synthetic_with_text": with_text["closed, synthetic"],
        "bilabial_closed_real_with_text": with_text["closed, real"],
        "lip_aperture_correlation": from_sound["lip correlation"],
        "lip_aperture_correlation_with_text": with_text["lip correlation"],
        "lip_lag_frames": from_sound["lip lag, median"],
        "lip_lag_within_1": from_sound["lip lag within 1 frame"],
        "pause_aperture_mm": from_sound["pause aperture mm"],
        "lip_vertex_error_mm": from_sound["lip vertex error mm"],
        "lip_vertex_error_mm_with_text": with_text["lip vertex error mm"],
        "lip_vertex_error_mm_mean_pose": table["mean pose"]["lip vertex error mm"],
        "diversity_ratio": ratio["diversity"],
        "jerk_ratio": ratio["jerk"],
        "beat_consistency_ratio": ratio["beat consistency"],
        "frechet_gesture_distance": with_text["FGD"],
        "frechet_gesture_distance_nearest_neighbour": table["nearest neighbour"]["FGD"],
        "gesture_accuracy_with_prior": with_text["gesture accuracy"],
        "gesture_accuracy_without_prior": table["without prior"]["gesture accuracy"],
        "gesture_accuracy_without_text": from_sound["gesture accuracy"],
    }


def contact_sheet(systems: dict[str, System], cases: list[Case], words: WordCases, body: Body) -> np.ndarray:
    """Pictures of a mannequin to check the tables by eye, u8 [H, W, 3]; 8 moments in a row.

    First come two rows for each of four utterances: the reference acting and our motion. Then come three rows of
    moments at held-out words: the reference acting, our motion, and our motion without the prior.
    """
    rows, figure = [], mannequin(body)
    for case in cases[:2] + cases[-2:]:
        for name in ("reference", "everything"):
            motion = systems[name](case)
            rows.append(
                _draw_moments([(motion, t) for t in np.linspace(0.1, 0.9, _MOMENTS) * len(motion.poses)], body, figure)
            )
    shown = list(zip(words.cases, words.times, strict=True))[:: max(len(words.cases) // _MOMENTS, 1)][:_MOMENTS]
    for name in ("reference", "everything", "without prior"):
        rows.append(
            _draw_moments(
                [(systems[name](case), (time + 0.15) * case.reference.fps) for case, time in shown], body, figure
            )
        )
    return grid(rows, fill=255)


def _draw_moments(moments: list[tuple[Motion, float]], body: Body, figure: Mannequin) -> list[np.ndarray]:
    """One tile for every motion and frame number; numbers beyond the end mean the last frame."""
    return [
        draw(m.frames(k, k + 1), body, figure, (176, 176))[0]
        for m, k in ((m, min(int(t), len(m.poses) - 1)) for m, t in moments)
    ]


def language_and_sound_summary(
    by_language: dict[str, tuple[int, float, float, float]], non_speech: dict[str, tuple[float, float, float]]
) -> dict[str, float]:
    """Keys of metrics/motion.json that depend on the languages and sound files of the evaluation."""
    closed = {
        f"closed_{language}{suffix}": row[k]
        for language, row in by_language.items()
        for k, suffix in ((1, ""), (2, "_with_text"))
    }
    return closed | {
        f"aperture_p95_mm_{''.join(c if c.isalnum() else '_' for c in name)}": row[0]
        for name, row in non_speech.items()
    }


def report(table: dict[str, dict[str, float]], by_language: dict, non_speech: dict, long_clip: dict[str, float]) -> str:
    """The text of metrics/motion.md: all tables as Markdown, with the version of the metrics."""
    names = list(next(iter(table.values())))
    formulas = "stereotalker/evaluation/motion_metrics.py says how"
    lines = [
        f"# Motion, held out (measures version {motion_metrics.VERSION}, {formulas})",
        "",
        f"| measure | {' | '.join(table)} |",
        "|---" * (len(table) + 1) + "|",
    ]
    lines += [f"| {name} | {' | '.join(f'{table[system][name]:.3g}' for system in table)} |" for name in names]
    lines += [
        "",
        "Lips closed on p b m by language: recordings, and held-out voices of espeak-ng for " + ", ".join(SPOKEN) + ".",
        "",
        "| language | utterances | sound alone | with text | lip correlation, sound alone |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {language} | {n} | {from_sound:.2f} | {with_text:.2f} | {r:.2f} |"
        for language, (n, from_sound, with_text, r) in by_language.items()
    ]
    lines += [
        "",
        "Sound without speech:",
        "",
        "| sound | lip aperture, 95th percentile, mm | its standard deviation, mm | diversity of the body, rad |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {p95:.2f} | {std:.2f} | {body:.3f} |" for name, (p95, std, body) in non_speech.items()]
    lines += ["", *(f"- {name}: {value:.3f}" for name, value in long_clip.items()), ""]
    return "\n".join(lines)


def mean(values: list[float]) -> float:
    """Mean of the finite values; nan where there are none."""
    finite = [v for v in values if np.isfinite(v)]
    return float(np.mean(finite)) if finite else float("nan")
