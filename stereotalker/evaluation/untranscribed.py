"""Recordings without a transcript: how well their words are recognized, and what that gives lips and gestures.

Every recording has a transcript, which the systems do not see: `sound alone` (the encoder), `recognized` (speech
recognition, then forced alignment) and, as the bound, `transcript`. The reference of the phonemes is the alignment of
the transcript, so the errors of the words are measured, and not those of the aligner.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stereotalker.acting.reference_acting import STYLES, act
from stereotalker.audio.encoder import SpeechEncoder, frame_times
from stereotalker.audio.forced_alignment import align
from stereotalker.audio.marks import Speaker
from stereotalker.audio.phonemes import BILABIAL, CLASSES, phoneme_class
from stereotalker.audio.recognition import Recognizer
from stereotalker.audio.speech import from_file, from_script, recognized_speech
from stereotalker.body.model import Body
from stereotalker.dataset.speech_corpus import Recording
from stereotalker.evaluation import motion_metrics
from stereotalker.evaluation.motion import mean
from stereotalker.evaluation.motion_cases import WordCases
from stereotalker.evaluation.motion_metrics import NearestGesture
from stereotalker.motion.synthesize import MotionControls, Synthesizer
from stereotalker.records import SAMPLE_RATE, Motion, Speech

SYSTEMS = ("sound alone", "recognized", "transcript")
# Keys of metrics/speech.json, in the order of SpeechScores.measures.
_KEYS = (
    "pbm_recall",
    "pbm_precision",
    "lips_closed_untranscribed",
    "lip_correlation_untranscribed",
    "swing_untranscribed",
)
_TOLERANCE_S = 0.06  # largest distance of the middles of a found and a true p, b or m


@dataclass
class SpeechScores:
    """What was measured of a language; counts are over all its recordings."""

    recordings: int = 0
    seconds: float = 0.0
    recognition_seconds: float = 0.0  # wall time of the recognition
    words: int = 0
    word_errors: int = 0
    unaligned_seconds: float = 0.0
    # System -> numbers of p, b and m: true ones that were found, true ones, found ones
    bilabials: dict[str, np.ndarray] = field(default_factory=dict)
    closed: dict[str, list[bool]] = field(default_factory=dict)  # system -> for every p, b, m, whether lips closed
    lip_correlation: dict[str, list[float]] = field(default_factory=dict)
    swing: dict[str, list[float]] = field(default_factory=dict)  # diversity of the motion over that of the reference

    @property
    def wer(self) -> float:
        """Word error rate."""
        return self.word_errors / max(self.words, 1)

    def measures(self, system: str) -> dict[str, float]:
        """What is measured of a system, by its name for people; nan where no transcript could be aligned."""
        hits, true, found = self.bilabials.get(system, (0, 0, 0))
        return {
            "p b m, recall": hits / true if true else np.nan,
            "p b m, precision": hits / found if found else np.nan,
            "lips closed on p b m": mean(self.closed.get(system, [])),
            "lip correlation": mean(self.lip_correlation.get(system, [])),
            "swing": mean(self.swing.get(system, [])),
        }


def score_recordings(
    recordings: list[Recording],
    loudness: float,
    recognizer: Recognizer,
    synthesizer: Synthesizer,
    body: Body,
    log: Callable[[str], None] = print,
) -> dict[str, SpeechScores]:
    """Language -> scores. No system knows the language beforehand.

    Recordings whose transcript cannot be aligned count for the words alone.
    """
    scores: dict[str, SpeechScores] = {}
    recognizer.check()  # loading the models is no part of the time that a recording takes
    for k, recording in enumerate(recordings):
        language = recording.language.split("-")[0]
        score = scores.setdefault(language, SpeechScores())
        sound = from_file(recording.path, loudness)
        started = time.perf_counter()
        found = recognizer.recognize(sound.samples)
        score.recognition_seconds += time.perf_counter() - started
        score.recordings += 1
        score.seconds += sound.seconds
        true_words, found_words = plain_words(recording.text), plain_words(found.text)
        errors = edit_distance(true_words, found_words)
        score.words += len(true_words)
        score.word_errors += errors
        score.unaligned_seconds += sum(end - start for start, end in found.unaligned)
        if errors:
            log(f"speech: {recording.display_path}: {errors} errors: {' '.join(true_words)} | {' '.join(found_words)}")
        times = align(sound.samples, recording.text, recording.language)
        if times is None:
            continue
        true = Speech(sound.samples, sound.loudness, *times)
        recognized = recognized_speech(sound, found)
        reference = act(true, STYLES[k % len(STYLES)], k, synthesizer.params.fps)
        for name, speech in zip(SYSTEMS, (sound, recognized, true), strict=True):
            motion = _motion(synthesizer, speech, reference, k)
            score.closed.setdefault(name, []).extend(motion_metrics.closures(motion, true, body))
            agreement = motion_metrics.lip_agreement(motion, reference, body)[0]
            score.lip_correlation.setdefault(name, []).append(agreement)
            swing = motion_metrics.diversity(motion) / motion_metrics.diversity(reference)
            score.swing.setdefault(name, []).append(swing)
            spans = bilabials(speech) if speech.phonemes else _encoder_bilabials(synthesizer.encoder, speech)
            score.bilabials[name] = score.bilabials.get(name, 0) + _matches(bilabials(true), spans)
    return scores


def _motion(synthesizer: Synthesizer, speech: Speech, reference: Motion, k: int) -> Motion:
    controls = MotionControls(k % len(STYLES), seed=k)
    return synthesizer.motion(speech, controls, len(reference.poses), reference.fps)


def gesture_accuracy(cases: WordCases, recognizer: Recognizer, synthesizer: Synthesizer) -> dict[str, float]:
    """System -> share of the held-out words whose gesture is made, see motion_metrics."""
    by_style = {style: NearestGesture(style, cases.cases[0].reference.fps) for style in {c.style for c in cases.cases}}
    hits: dict[str, list[bool]] = {name: [] for name in SYSTEMS}
    for case, moment, gesture in zip(cases.cases, cases.times, cases.gestures, strict=True):
        sound = Speech(case.speech.samples, case.speech.loudness)
        found = recognizer.recognize(sound.samples)
        for name, speech in zip(SYSTEMS, (sound, recognized_speech(sound, found), case.speech), strict=True):
            controls = MotionControls(case.style, seed=case.seed)
            motion = synthesizer.motion(speech, controls, len(case.reference.poses), case.reference.fps)
            hits[name].append(by_style[case.style].nearest(motion, moment) == gesture)
    return {name: float(np.mean(values)) for name, values in hits.items()}


def voice_word_error_rate(texts: list[str], voice: Speaker, judge: Recognizer) -> float:
    """Word error rate of a synthetic voice, as a recognizer hears it."""
    errors = words = 0
    for text in texts:
        spoken = from_script(text, voice, -20.0)
        true = plain_words(text)
        errors += edit_distance(true, plain_words(judge.recognize(spoken.samples, "en-us").text))
        words += len(true)
    return errors / max(words, 1)


def words_in_noise(files: list[Path], recognizer: Recognizer, seed: int) -> dict[str, int]:
    """Sound that nobody speaks -> number of words that are heard in it: the files, silence and white noise."""
    noise = 0.1 * np.random.default_rng(seed).normal(size=10 * SAMPLE_RATE)
    sounds = {path.stem: from_file(path, -20.0).samples for path in files}
    sounds |= {"silence": np.zeros(10 * SAMPLE_RATE, np.float32), "white noise": noise.clip(-1, 1).astype(np.float32)}
    return {name: len(plain_words(recognizer.recognize(samples).text)) for name, samples in sounds.items()}


def plain_words(text: str) -> list[str]:
    """The words of a text in small letters, without punctuation. Numbers stay as they are written."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("’", "'"))


def edit_distance(true: list[str], found: list[str]) -> int:
    """Least number of words to replace, leave out or add (Levenshtein)."""
    row = list(range(len(found) + 1))
    for i, word in enumerate(true, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(found, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


def bilabials(speech: Speech) -> np.ndarray:
    """Middles in s of every p, b and m, f64 [N]."""
    return np.array([(p.start + p.end) / 2 for p in speech.phonemes if phoneme_class(p.text) in BILABIAL])


def _encoder_bilabials(encoder: SpeechEncoder, speech: Speech) -> np.ndarray:
    """Middles in s of every stretch of frames in which the encoder hears p, b or m more than anything else."""
    posteriors = encoder.encode(speech.samples)[:, -len(CLASSES) :]
    is_bilabial = np.isin(posteriors.argmax(1), [CLASSES.index(name) for name in BILABIAL])
    edges = np.flatnonzero(np.diff(is_bilabial.astype(int), prepend=0, append=0))
    times = frame_times(len(posteriors) + 1)
    return np.array([(times[a] + times[b - 1]) / 2 for a, b in zip(edges[::2], edges[1::2], strict=True)])


def _matches(true: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Numbers of true ones that are found, of true ones, and of found ones, i64 [3]; none is found twice."""
    is_free, hits = np.ones(len(found), bool), 0
    for moment in true:
        distance = np.where(is_free, np.abs(found - moment), np.inf) if len(found) else np.array([])
        if len(distance) and distance.min() <= _TOLERANCE_S:
            is_free[distance.argmin()] = False
            hits += 1
    return np.array([hits, len(true), len(found)])


GesturesByVoice = dict[str, dict[str, float]]  # voice of the held-out words -> `gesture_accuracy`


def summary(scores: dict[str, SpeechScores], gestures: GesturesByVoice, noise: dict[str, int]) -> dict[str, float]:
    """The fixed keys of metrics/speech.json. espeak-ng's gestures have keys without the name of a voice."""
    figures = {f"wer_{language}": score.wer for language, score in scores.items()}
    for name, suffix in zip(SYSTEMS, ("_sound_alone", "", "_transcript"), strict=True):
        if "en" in scores:
            measures = zip(_KEYS, scores["en"].measures(name).values(), strict=True)
            figures |= {f"{key}{suffix}": value for key, value in measures}
        for voice, accuracy in gestures.items():
            own = "" if voice == "espeak" else f"_{voice}"
            figures[f"gesture_accuracy_untranscribed{own}{suffix}"] = accuracy[name]
    seconds = sum(score.recognition_seconds for score in scores.values())
    figures["recognition_seconds_a_minute"] = 60 * seconds / sum(score.seconds for score in scores.values())
    figures["words_on_noise"] = sum(noise.values())
    return figures


def report(scores: dict[str, SpeechScores], gestures: GesturesByVoice, noise: dict[str, int]) -> str:
    """The text of metrics/speech.md: all tables as Markdown."""
    lines = [
        "# Recordings without a transcript",
        "",
        "| language | recordings | s | word error rate | s without known words | s of recognition for a minute |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {language} | {s.recordings} | {s.seconds:.0f} | {s.wer:.3f} | {s.unaligned_seconds:.1f} | "
        f"{60 * s.recognition_seconds / s.seconds:.1f} |"
        for language, s in scores.items()
    ]
    lines += ["", "| language | measure | " + " | ".join(SYSTEMS) + " |", "|---|---|---|---|---|"]
    for language, s in scores.items():
        columns = [s.measures(name) for name in SYSTEMS]
        lines += [
            f"| {language} | {measure} | {' | '.join(f'{column[measure]:.3f}' for column in columns)} |"
            for measure in columns[0]
        ]
    lines += [
        f"| en | gesture of held-out words, voice {voice} | {' | '.join(f'{accuracy[s]:.3f}' for s in SYSTEMS)} |"
        for voice, accuracy in gestures.items()
    ]
    lines += ["", "Words that are heard where nobody speaks:", "", "| sound | words |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {count} |" for name, count in noise.items()), ""])
