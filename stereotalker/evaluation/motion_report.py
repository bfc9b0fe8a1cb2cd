"""The figures, tables and pictures of the motion model's evaluation."""

from __future__ import annotations

import numpy as np

from stereotalker.body.model import Body
from stereotalker.evaluation import motion_metrics
from stereotalker.evaluation.motion import System
from stereotalker.evaluation.motion_cases import SPOKEN, Case, WordCases
from stereotalker.media.contact_sheet import grid
from stereotalker.motion.preview import Mannequin, draw, mannequin
from stereotalker.records import Motion

_MOMENTS = 8  # pictures in a row of the contact sheet


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
