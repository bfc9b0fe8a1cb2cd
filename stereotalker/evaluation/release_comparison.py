"""Judges a challenger against the champion on the test set: paired for each clip, with bootstrap intervals.

A measure is worse if its mean falls behind the champion's by more than its tolerance. It is better if the whole
interval of the difference lies on the better side. That interval is wider than 95 %, because one of many measures
would look better by chance (Bonferroni), and whole voices and people are drawn, because clips of one voice are alike. A
language can only speak against a challenger. The gates hold if no measure is worse, below its floor or missing, and at
least one is better.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from stereotalker.dataset.test_set import CARD, PEOPLE, SPEECH
from stereotalker.evaluation import motion_metrics, rendering
from stereotalker.evaluation.motion import synthesize
from stereotalker.evaluation.motion_cases import Case, WordCases, held_out_words, read_cases
from stereotalker.evaluation.motion_metrics import NearestGesture
from stereotalker.evaluation.portrait_gestures import wrist_range
from stereotalker.models import Models
from stereotalker.params import Gate, Params, ReleaseParams
from stereotalker.training.samples import Sample, read_people

_LEVEL = 0.05  # chance that a challenger which is equal looks better or worse, over all measures together
_MIN_GROUPS = 3  # voices or people below which a difference proves nothing
LANGUAGE = "lips."  # beginning of the names of measures of single languages


@dataclass(frozen=True)
class Measure:
    """A measure of every clip, and which clips belong together."""

    values: np.ndarray  # f64 [N]; nan: not defined for this clip
    groups: np.ndarray  # [N] voice or person of each clip


Measures = dict[str, Measure]


@dataclass(frozen=True)
class TestSet:
    """What both releases are measured on."""

    version: int
    digest: str
    cases: list[Case]
    words: WordCases
    people: list[Sample]


@dataclass(frozen=True)
class GateRow:
    """A measure of both releases. Differences are positive where the challenger is better."""

    measure: str
    clips: int
    champion: float
    challenger: float
    difference: float
    low: float  # interval of the difference, see above
    high: float
    floor: float | None
    tolerance: float
    result: str  # better, holds, worse, below floor, not measured

    @property
    def fails(self) -> bool:
        return self.result not in ("better", "holds")


@dataclass(frozen=True)
class Comparison:
    """The table of the gates, and what follows."""

    rows: tuple[GateRow, ...]
    test_set: str  # version and digest of the test set

    @property
    def passes(self) -> bool:
        """Whether the challenger may become the champion."""
        return not any(row.fails for row in self.rows) and any(row.result == "better" for row in self.rows)

    @property
    def reason(self) -> str:
        """One line: which measures decided."""
        failed = [f"{row.measure} {row.result}" for row in self.rows if row.fails]
        better = [row.measure for row in self.rows if row.result == "better"]
        if failed:
            return "refused: " + ", ".join(failed)
        return "better: " + ", ".join(better) if better else "refused: no measure is better"

    def records(self) -> tuple[dict, ...]:
        """The rows for the ledger."""
        return tuple(asdict(row) for row in self.rows)

    def table(self) -> str:
        """The table as Markdown."""
        lines = [
            "| measure | clips | champion | challenger | difference, interval | floor | tolerance | result |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            floor = "" if row.floor is None else f"{row.floor:g}"
            interval = f"{row.difference:+.4g} ({row.low:+.3g} to {row.high:+.3g})"
            lines.append(
                f"| {row.measure} | {row.clips} | {row.champion:.4g} | {row.challenger:.4g} | {interval} | {floor} "
                f"| {row.tolerance:g} | {row.result} |"
            )
        return "\n".join([*lines, "", f"Test set {self.test_set}. {self.reason}.", ""])


def read_test_set(folder: Path, params: Params) -> TestSet:
    """Read what the stage `test_set` wrote. Raises UserError if it is missing."""
    fps, seed = params.motion.fps, params.evaluate.seed
    cases = read_cases(folder / SPEECH, fps, seed)
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    words = held_out_words(params.audio.loudness, fps, seed, params.test_set.words, is_test=True)
    shots = params.people.model_copy(update={"takes": params.test_set.takes})
    held_out = folder / PEOPLE / "held_out"
    people = read_people(held_out, params.body, shots, wrong=rendering.FITS["wrong"]) if params.test_set.people else []
    return TestSet(card["version"], card["digest"], cases, words, people)


def compare(champion: Models, challenger: Models, test: TestSet, params: ReleaseParams, seed: int = 0) -> Comparison:
    """Measure both releases, and judge the challenger. Parts that both share are measured once."""
    known: dict[tuple, Measures] = {}
    before, after = (_measure(models, test, known) for models in (champion, challenger))
    gates = params.gates | {name: params.languages for name in before if name.startswith(LANGUAGE)}
    level = _LEVEL / max(len(params.gates), 1)
    nothing = Measure(np.full(1, np.nan), np.zeros(1))
    rows = [
        judge(name, before.get(name, nothing), after.get(name, nothing), gate, params.resamples, seed, level)
        for name, gate in gates.items()
    ]
    rows = [replace(row, result="holds") if _is_language_ahead(row) else row for row in rows]
    return Comparison(tuple(rows), f"version {test.version} ({test.digest[:12]})")


def _is_language_ahead(row: GateRow) -> bool:
    return row.measure.startswith(LANGUAGE) and row.result == "better"


def judge(
    name: str, before: Measure, after: Measure, gate: Gate, resamples: int, seed: int, level: float = _LEVEL
) -> GateRow:
    """Compare a measure of the champion, `before`, with that of the challenger, clip by clip.

    level: chance that the interval misses the true difference.
    """
    both = np.isfinite(before.values) & np.isfinite(after.values)

    def row(result: str, *figures: float) -> GateRow:
        champion, challenger, difference, low, high = figures or [float("nan")] * 5
        clips = int(both.sum())
        return GateRow(name, clips, champion, challenger, difference, low, high, gate.floor, gate.tolerance, result)

    if not both.any() or (np.isfinite(before.values) & ~np.isfinite(after.values)).any():
        return row("not measured")
    sign = 1 if gate.better == "higher" else -1
    differences = sign * (after.values[both] - before.values[both])
    groups = [differences[before.groups[both] == group] for group in np.unique(before.groups[both])]
    sums, counts = np.array([g.sum() for g in groups]), np.array([len(g) for g in groups])
    drawn = np.random.default_rng(seed).integers(len(groups), size=(resamples, len(groups)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = (float(value) for value in np.percentile(means, (50 * level, 100 - 50 * level)))
    champion, challenger, difference = (float(v.mean()) for v in (before.values[both], after.values[both], differences))
    if gate.floor is not None and sign * challenger < sign * gate.floor:
        result = "below floor"
    elif difference < -gate.tolerance:
        result = "worse"
    else:
        result = "better" if low > 0 and len(groups) >= _MIN_GROUPS else "holds"
    return row(result, champion, challenger, difference, low, high)


def _measure(models: Models, test: TestSet, known: dict[tuple, Measures]) -> Measures:
    """All measures of a release. known: measures by the digests of the weights that they depend on."""

    def part(name: str, stages: tuple[str, ...], measure: Callable[[], Measures]) -> Measures:
        key = (name, models.body_version, *(models.digests[stage] for stage in stages))
        if key not in known:
            known[key] = measure()
        return known[key]

    return part("motion", ("audio", "motion"), lambda: _motion_measures(models, test)) | part(
        "pictures", ("masks", "render"), lambda: _picture_measures(models, test)
    )


def _motion_measures(models: Models, test: TestSet) -> Measures:
    body, synthesizer = models.body, models.synthesizer
    closed, correlation, error, ranges = [], [], [], []
    shape = np.zeros(body.betas, np.float32)
    for case in test.cases:
        from_sound, with_text = (synthesize(synthesizer, case, has_text) for has_text in (False, True))
        hits = motion_metrics.closures(from_sound, case.speech, body)
        closed.append(np.mean(hits) if hits else np.nan)
        correlation.append(motion_metrics.lip_agreement(from_sound, case.reference, body)[0])
        error.append(motion_metrics.lip_vertex_error(with_text, case.reference, body))
        reached = (wrist_range(motion, body, shape, None) for motion in (with_text, case.reference))
        ranges.append(next(reached) / max(next(reached), 1e-6))
    table = {
        "lips_closed": closed,
        "lip_correlation": correlation,
        "lip_error_mm": error,
        "hand_range": ranges,
    }
    nearest = {
        style: NearestGesture(style, synthesizer.params.fps) for style in sorted({c.style for c in test.words.cases})
    }
    table["gesture_accuracy"] = [
        float(nearest[case.style].nearest(synthesize(synthesizer, case), time) == gesture)
        for case, time, gesture in zip(test.words.cases, test.words.times, test.words.gestures, strict=True)
    ]
    voices = np.array([case.voice for case in test.cases])
    words = np.arange(len(test.words.cases))  # each word is one of its own
    measures = {
        name: Measure(np.array(values, float), words if name == "gesture_accuracy" else voices)
        for name, values in table.items()
    }
    languages, lips = np.array([case.language for case in test.cases]), measures["lip_correlation"].values
    for language in sorted(set(languages)):
        chosen = languages == language
        measures[f"{LANGUAGE}{language}"] = Measure(lips[chosen], voices[chosen])
    return measures


def _picture_measures(models: Models, test: TestSet) -> Measures:
    table: dict[str, list[float]] = {"masks_iou": [], "hands_iou": [], "picture_db": [], "hands_db": []}
    for sample in test.people:
        masks = rendering.mask_summary(models.renderer, [sample])
        scores = rendering.score_renderer(models.renderer, {"wrong": [sample]}, ("ours",))
        table["masks_iou"].append(masks["mean_iou"])
        table["hands_iou"].append(masks.get("hands_iou", np.nan))
        table["picture_db"].append(scores.mean("ours", "psnr", None, None, "person"))
        table["hands_db"].append(scores.mean("ours", "psnr", None, None, "hands"))
    people = np.array([sample.identity for sample in test.people])
    return {name: Measure(np.array(values, float), people) for name, values in table.items()}
