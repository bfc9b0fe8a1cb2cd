"""Motion on voices and sentences never trained on, beside its baselines and without its parts. Formulas: motion/motion_metrics.py."""

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
from stereotalker.motion.audio_features import Hearing
from stereotalker.motion.features import from_slots, to_motion
from stereotalker.motion.language_prior import GestureClassifier
from stereotalker.motion.preview import Mannequin, draw, mannequin
from stereotalker.motion.synthesize import MotionControls, Synthesizer
from stereotalker.params import ASSETS
from stereotalker.records import SAMPLE_RATE, Motion, Speech
from stereotalker.training.motion import MotionExample

_VOICE = Voice("en-us", "m5", 150)  # of the words that are held out; never trained on
_CARRIER, _LEAD_S = "{}, he said.", 0.8  # nothing before the word, or a beat there would forbid the sign
_SIGN_STYLES = (0, 4, 8, 13)
SPOKEN = ("hi", "ar", "cmn")  # languages without recordings: held-out voices of espeak-ng
_UNHEARD = ASSETS / "unheard"
_MOMENTS = 8


@dataclass(frozen=True)
class Case:
    speech: Speech
    kind: str  # synthetic, real
    language: str
    style: int
    seed: int
    reference: Motion


System = Callable[[Case], Motion]


@dataclass(frozen=True)
class Words:
    """Held-out words in a sentence: what sign each means and when it is said (s)."""

    cases: list[Case]
    signs: list[str]
    times: list[float]


def read_cases(folder: Path, fps: float, seed: int) -> list[Case]:
    """Every held-out utterance with phoneme times, with the reference acting of it."""
    pairs = zip(read_corpus(folder), read_index(folder), strict=True)
    return [_case(speech, row, k, fps, seed) for k, (speech, row) in enumerate(pairs) if speech.phonemes]


def _case(speech: Speech, row: Utterance, k: int, fps: float, seed: int) -> Case:
    style = k % len(STYLES)
    return Case(
        speech, row.kind, row.language.split("-")[0], style, seed + k, act(speech, STYLES[style], seed + k, fps)
    )


def spoken_cases(loudness: float, fps: float, seed: int) -> list[Case]:
    """Sentences that no training says, in languages without recordings, by held-out voices."""
    texts, cases = read_sentences(_UNHEARD, list(SPOKEN))[0], []
    for language, lines in sorted(texts.items()):
        for k, text in enumerate(lines):
            speech = from_script(text, Voice(language, ("m5", "linda")[k % 2]), loudness)[0]
            cases.append(
                _case(speech, Utterance("", "synthetic", language, "", text, speech.seconds), len(cases), fps, seed)
            )
    return cases


def held_out_words(loudness: float, fps: float, seed: int, count: int) -> Words:
    """Every k-th of the words of HELD_OUT that hold no word of the lexicon (and are in none), about `count` of them.

    The reference acts a word of the lexicon with the same sign in its place. Styles are four that gesture widely.
    """
    cases, signs, times = [], [], []
    known = {sign: word for word, sign in reversed(LEXICON.items())}
    unrelated = [
        (word, sign)
        for word, sign in HELD_OUT.items()
        if not any(w in word or word in w for w in LEXICON if len(w) > 2)
    ]
    for k, (word, sign) in enumerate(unrelated[:: max(len(unrelated) // count, 1)]):
        speech = _delayed(from_script(_CARRIER.format(word), _VOICE, loudness)[0], _LEAD_S)
        said = next(w for w in speech.words if w.text.lower().strip(",.") == word)
        style = _SIGN_STYLES[k % len(_SIGN_STYLES)]
        acted = replace(speech, words=tuple(replace(w, text=known[sign]) if w is said else w for w in speech.words))
        cases.append(Case(speech, "synthetic", "en", style, seed + k, act(acted, STYLES[style], seed + k, fps)))
        signs.append(sign)
        times.append(said.start + 0.12)
    return Words(cases, signs, times)


def _delayed(speech: Speech, seconds: float) -> Speech:
    words, phonemes = (
        tuple(replace(t, start=t.start + seconds, end=t.end + seconds) for t in timed)
        for timed in (speech.words, speech.phonemes)
    )
    return Speech(np.pad(speech.samples, (round(seconds * SAMPLE_RATE), 0)), speech.loudness, words, phonemes)


def systems(synthesizer: Synthesizer, ablated: GestureClassifier, examples: list[MotionExample]) -> dict[str, System]:
    """All that is compared, the baselines first."""
    without_prior = Synthesizer(synthesizer.encoder, synthesizer.denoiser, synthesizer.params, ablated)
    still = to_motion(
        synthesizer.denoiser.face_mean[None].numpy(),
        synthesizer.denoiser.body_mean[None].numpy(),
        synthesizer.params.fps,
    )

    return {
        "mean pose": lambda case: _repeated(still, len(case.reference.poses)),
        "nearest neighbour": Retrieval(synthesizer.encoder, examples, synthesizer.params.fps),
        "without prior": lambda case: _made(without_prior, case),
        "without text": lambda case: _made(synthesizer, case, told=False),
        "everything": lambda case: _made(synthesizer, case),
        "reference": lambda case: case.reference,
    }


def _made(model: Synthesizer, case: Case, told: bool = True) -> Motion:
    """told: words and phonemes are known."""
    speech = case.speech if told else Speech(case.speech.samples, case.speech.loudness)
    return model.motion(
        speech, MotionControls(case.style, 1.0, case.seed), len(case.reference.poses), case.reference.fps
    )


def _repeated(motion: Motion, frames: int) -> Motion:
    return Motion(*(np.repeat(a[:1], frames, 0) for a in (motion.poses, motion.expression, motion.trans)), motion.fps)


class Retrieval:
    """The baseline that knows no model: second by second, the training motion whose sound is nearest."""

    def __init__(self, encoder: SpeechEncoder, examples: list[MotionExample], fps: float):
        self._encoder, self._fps, self._span = encoder, fps, int(fps)
        heard, motion = [], []
        for p in examples:
            frames = to_frames(p)
            for at in range(0, len(p.heard) - self._span + 1, self._span // 2):
                heard.append(p.heard[at : at + self._span].astype(np.float32).ravel())
                motion.append(frames[at : at + self._span])
        self._heard, self._motion = np.stack(heard), np.stack(motion)
        self._sizes = (self._heard**2).sum(1)
        self._face = examples[0].face.shape[1]

    def __call__(self, case: Case) -> Motion:
        T = len(case.reference.poses)
        count = -(-T // self._span)
        heard = Hearing(self._encoder, Speech(case.speech.samples, case.speech.loudness), self._fps).frames(
            0, count * self._span
        )
        asked = heard.reshape(count, -1)
        best = (self._sizes[None] - 2 * asked @ self._heard.T).argmin(1)
        frames = self._motion[best].reshape(-1, self._motion.shape[-1])[:T]
        return to_motion(frames[:, : self._face], frames[:, self._face :], self._fps)


def to_frames(performance: MotionExample) -> np.ndarray:
    """Face and body columns at every frame of a performance, f32 [T, P + Q]."""
    return np.concatenate([performance.face, from_slots(performance.body)], 1)


def compare(
    made: dict[str, System], cases: list[Case], words: Words, body: Body, autoencoder: GestureAutoencoder
) -> dict[str, dict[str, float]]:
    """Every measure of every system."""
    truth = autoencoder.features([case.reference for case in cases])
    by_style = {
        style: NearestGesture(style, words.cases[0].reference.fps) for style in sorted({c.style for c in words.cases})
    }
    table = {}
    for name, system in made.items():
        motions = [system(case) for case in cases]
        told = [by_style[c.style].nearest(system(c), at) for c, at in zip(words.cases, words.times, strict=True)]
        again = (
            motions
            if name != "reference"
            else [act(c.speech, STYLES[c.style], c.seed + 5000, c.reference.fps) for c in cases]
        )  # what chance alone makes
        table[name] = _scores(motions, cases, body) | {
            "FGD": frechet(autoencoder.features(again), truth), "gesture accuracy": float(np.mean([a == b for a, b in zip(told, words.signs, strict=True)])),
        }  # fmt: skip
    return table


def _scores(motions: list[Motion], cases: list[Case], body: Body) -> dict[str, float]:
    agreed = [motion_metrics.lip_agreement(m, c.reference, body) for m, c in zip(motions, cases, strict=True)]
    pauses = np.concatenate(
        [motion_metrics.pause_aperture(m, c.speech, body) for m, c in zip(motions, cases, strict=True)]
    )
    return {
        "closed, synthetic": _closed(motions, cases, body, "synthetic"), "closed, real": _closed(motions, cases, body, "real"),
        "lip correlation": mean([r for r, _ in agreed]), "lip lag, median": float(np.median([lag for _, lag in agreed])),
        "lip lag within 1 frame": float(np.mean([abs(lag) <= 1 for _, lag in agreed])), "pause aperture mm": float(np.percentile(pauses, 95)) if len(pauses) else np.nan,
        "lip vertex error mm": mean([motion_metrics.lip_vertex_error(m, c.reference, body) for m, c in zip(motions, cases, strict=True)]),
        "diversity": mean([motion_metrics.diversity(m) for m in motions]), "jerk": mean([motion_metrics.jerk(m) for m in motions]),
        "beat consistency": mean([motion_metrics.beat_consistency(m, c.speech) for m, c in zip(motions, cases, strict=True)]),
    }  # fmt: skip


def _closed(motions: list[Motion], cases: list[Case], body: Body, kind: str | None = None) -> float:
    """Of all sounds of all utterances of a kind."""
    hits = [
        hit
        for m, c in zip(motions, cases, strict=True)
        if kind in (None, c.kind)
        for hit in motion_metrics.closures(m, c.speech, body)
    ]
    return float(np.mean(hits)) if hits else float("nan")


def languages(synthesizer: Synthesizer, cases: list[Case], body: Body) -> dict[str, tuple[int, float, float, float]]:
    """Language -> utterances, lips closed from sound alone, with the text, and lip correlation from sound alone."""
    table = {}
    for language in sorted({case.language for case in cases}):
        own = [case for case in cases if case.language == language]
        alone, told = ([_made(synthesizer, case, told) for case in own] for told in (False, True))
        closed = [_closed(motions, own, body) for motions in (alone, told)]
        table[language] = (
            len(own),
            *closed,
            mean([motion_metrics.lip_agreement(m, c.reference, body)[0] for m, c in zip(alone, own, strict=True)]),
        )
    return table


def long_run(synthesizer: Synthesizer, cases: list[Case], minutes: int) -> dict[str, float]:
    """The same minute of speech again and again: drift, and speed across window borders."""
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
    """Minutes of one minute of speech."""
    fps = synthesizer.params.fps
    minute = np.concatenate([np.pad(case.speech.samples, (SAMPLE_RATE // 3, 0)) for case in cases])[: 60 * SAMPLE_RATE]
    minute = np.pad(minute, (0, 60 * SAMPLE_RATE - len(minute)), "wrap")
    return synthesizer.motion(Speech(np.tile(minute, minutes), -20.0), MotionControls(0), int(60 * minutes * fps), fps)


def unspoken(
    synthesizer: Synthesizer, files: list[Path], body: Body, seed: int
) -> dict[str, tuple[float, float, float]]:
    """Sound nobody speaks -> 95th percentile of the lip aperture mm, the aperture's deviation mm, the body's diversity rad."""
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


def figures(table: dict[str, dict[str, float]]) -> dict[str, float]:
    """The fixed keys of metrics/motion.json. Lips are measured from sound alone; `_with_text` where words and phonemes are known."""
    alone, told, reference = table["without text"], table["everything"], table["reference"]
    ratio = {name: told[name] / max(reference[name], 1e-9) for name in ("diversity", "jerk", "beat consistency")}
    return {
        "bilabial_closed_synthetic": alone["closed, synthetic"], "bilabial_closed_real": alone["closed, real"],
        "bilabial_closed_synthetic_with_text": told["closed, synthetic"], "bilabial_closed_real_with_text": told["closed, real"],
        "lip_aperture_correlation": alone["lip correlation"], "lip_aperture_correlation_with_text": told["lip correlation"],
        "lip_lag_frames": alone["lip lag, median"], "lip_lag_within_1": alone["lip lag within 1 frame"], "pause_aperture_mm": alone["pause aperture mm"], "lip_vertex_error_mm": alone["lip vertex error mm"], "lip_vertex_error_mm_with_text": told["lip vertex error mm"],
        "lip_vertex_error_mm_mean_pose": table["mean pose"]["lip vertex error mm"],
        "diversity_ratio": ratio["diversity"], "jerk_ratio": ratio["jerk"], "beat_consistency_ratio": ratio["beat consistency"],
        "frechet_gesture_distance": told["FGD"], "frechet_gesture_distance_nearest_neighbour": table["nearest neighbour"]["FGD"],
        "gesture_accuracy_with_prior": told["gesture accuracy"], "gesture_accuracy_without_prior": table["without prior"]["gesture accuracy"],
        "gesture_accuracy_without_text": alone["gesture accuracy"],
    }  # fmt: skip


def contact_sheet(made: dict[str, System], cases: list[Case], words: Words, body: Body) -> np.ndarray:
    """To check the tables by eye, u8 [H, W, 3]. Rows of 8 moments: some utterances, acted and made; then the moments of held-out words, acted,
    made, and made without the prior."""
    rows, worn = [], mannequin(body)
    for case in cases[:2] + cases[-2:]:
        for name in ("reference", "everything"):
            motion = made[name](case)
            rows.append(_row([(motion, t) for t in np.linspace(0.1, 0.9, _MOMENTS) * len(motion.poses)], body, worn))
    shown = list(zip(words.cases, words.times, strict=True))[:: max(len(words.cases) // _MOMENTS, 1)][:_MOMENTS]
    for name in ("reference", "everything", "without prior"):
        rows.append(_row([(made[name](case), (at + 0.15) * case.reference.fps) for case, at in shown], body, worn))
    width = max(row.shape[1] for row in rows)
    return np.concatenate(
        [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    )


def _row(moments: list[tuple[Motion, float]], body: Body, worn: Mannequin) -> np.ndarray:
    return np.concatenate(
        [
            draw(m.frames(k, k + 1), body, worn, (176, 176))[0]
            for m, k in ((m, min(int(t), len(m.poses) - 1)) for m, t in moments)
        ],
        1,
    )


def more_figures(
    by_language: dict[str, tuple[int, float, float, float]], quiet: dict[str, tuple[float, float, float]]
) -> dict[str, float]:
    """Keys of metrics/motion.json for every language and every sound."""
    spoken = {
        f"closed_{language}{suffix}": row[k]
        for language, row in by_language.items()
        for k, suffix in ((1, ""), (2, "_with_text"))
    }
    return spoken | {
        f"aperture_p95_mm_{''.join(c if c.isalnum() else '_' for c in name)}": row[0] for name, row in quiet.items()
    }


def report(table: dict[str, dict[str, float]], by_language: dict, quiet: dict, long: dict[str, float]) -> str:
    """The tables as Markdown, with the version of the measures."""
    names = list(next(iter(table.values())))
    lines = [
        f"# Motion, held out (measures version {motion_metrics.VERSION}, stereotalker/evaluation/motion_metrics.py says how)",
        "",
        f"| measure | {' | '.join(table)} |",
        "|---" * (len(table) + 1) + "|",
    ]
    lines += [f"| {name} | {' | '.join(f'{table[system][name]:.3g}' for system in table)} |" for name in names]
    lines += ["", "Lips closed on p b m by language: recordings, and held-out voices of espeak-ng for " + ", ".join(SPOKEN) + ".", "",
              "| language | utterances | sound alone | with text | lip correlation, sound alone |", "|---|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {language} | {n} | {alone:.2f} | {told:.2f} | {r:.2f} |"
        for language, (n, alone, told, r) in by_language.items()
    ]
    lines += [
        "",
        "Sound that nobody speaks:",
        "",
        "| sound | lip aperture, 95th percentile, mm | its deviation, mm | diversity of the body, rad |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {high:.2f} | {moving:.2f} | {body:.3f} |" for name, (high, moving, body) in quiet.items()]
    lines += ["", *(f"- {name}: {value:.3f}" for name, value in long.items()), ""]
    return "\n".join(lines)


def mean(values: list[float]) -> float:
    """Of the finite ones; NaN without any."""
    real = [v for v in values if np.isfinite(v)]
    return float(np.mean(real)) if real else float("nan")
