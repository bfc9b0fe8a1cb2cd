"""Figures beside what was asked: tables of the files in metrics/ and benchmarks/, made at every build.

Whether a target is met is computed here from the figure, never written by hand. A page asks for a table by a comment:
`<!-- figures: rendering -->` becomes `table("rendering", root)`, and `<!-- figures: metrics/render.md: HEADING -->`
copies the table under a heading of that file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evaluation_figures import MISSED, Figures, Row, copied
from speed_tables import batches, speed


def table(name: str, root: Path) -> str:
    """The Markdown of a table by its name. Raises KeyError for a name that is none."""
    if name.startswith(("metrics/", "benchmarks/")):
        file, _, heading = name.partition(": ")
        return copied(root / file, heading)
    if name == "missed":
        return missed(Figures(root))
    columns, rows = TABLES[name]
    made = rows(Figures(root))
    head = ["measure", "asked", *columns, "target"]
    cells = [[row.measure, row.asked, *row.measured, row.verdict] for row in made]
    used = [k for k in range(len(head)) if any(line[k] for line in cells)]
    lines = [[line[k] for k in used] for line in (head, ["---"] * len(head), *cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def missed(figures: Figures) -> str:
    """Every row of every table that misses its target, wholly or in part."""
    lines = ["| what | measure | asked | measured | target |", "|---|---|---|---|---|"]
    for name, (columns, rows) in TABLES.items():
        for row in (row for row in rows(figures) if MISSED in row.verdict):
            shown = [f"{column} {value}" for column, value in zip(columns, row.measured, strict=True) if value]
            lines.append(f"| {name} | {row.measure} | {row.asked} | {', '.join(shown)} | {row.verdict} |")
    return "\n".join(lines)


def portraits(f: Figures) -> list[Row]:
    def share(key: str, digits: int = 2) -> tuple[str, str]:
        return tuple(f"{100 * f['avatar', name]:.{digits}f} %" for name in (key, f"{key}_worst"))

    def worst(key: str) -> float:
        return f["avatar", f"{key}_worst"]

    def at_most(key: str, asked: float) -> dict[str, bool]:
        return {"in the median": f["avatar", key] <= asked, "by the worst": worst(key) <= asked}

    def at_least(key: str, asked: float) -> dict[str, bool]:
        return {"in the median": f["avatar", key] >= asked, "by the worst": worst(key) >= asked}

    warp = f["avatar", "selfwarp_psnr"], worst("selfwarp_psnr")

    def share_row(what: str, key: str, limit: float) -> Row:
        return Row(what, f"at most {100 * limit:g} %", share(key), at_most(key, limit))

    def pair(key: str, form: str, unit: str = "") -> tuple[str, str]:
        return f"{f['avatar', key]:{form}}{unit}", f"{worst(key):{form}}{unit}"

    return [
        Row(
            "portraits fitted",
            "34",
            (f"{f['avatar', 'fitted']} of {f['avatar', 'portraits']} pictures", ""),
            f["avatar", "fitted"] >= 34,
        ),
        share_row("face points off the face, share of its height: the body's fit", "face_error_before_snap", 0.01),
        share_row("the same, after the last pixel is moved onto the points", "face_error", 0.003),
        share_row("wrists off the detector's hands, share of the shoulders' width", "wrist_error", 0.04),
        Row(
            "person's outline covered by the clothed surface (IoU)",
            "at least 0.97",
            pair("silhouette_iou", ".3f"),
            at_least("silhouette_iou", 0.97),
        ),
        Row("the same of the bare body", "", pair("silhouette_iou_bare", ".2f"), None),
        Row(
            "portrait warped to its own pose, PSNR of the person",
            "at least 32 dB",
            (f"{warp[0]:.1f} dB", f"{warp[1]:.1f} dB"),
            at_least("selfwarp_psnr", 32),
        ),
        Row("time of a fit", "at most 20 s", pair("seconds", ".1f", " s"), at_most("seconds", 20)),
        Row(
            f"joints off, {f['avatar', 'rendered_people']} rendered people, in the view plane",
            "at most 25 mm",
            (f"{f['avatar', 'joint_error_mm']:.0f} mm", ""),
            f["avatar", "joint_error_mm"] <= 25,
        ),
        Row(
            f"the head's turn off, {f['avatar', 'rendered_people']} rendered people",
            "at most 2 degrees",
            (f"{f['avatar', 'head_error_degrees']:.1f} degrees", ""),
            f["avatar", "head_error_degrees"] <= 2,
        ),
    ]


def rendering(f: Figures) -> list[Row]:
    def pair(key: str) -> tuple[str, str]:
        return f"{f['render', key]:.1f} dB", f"{f['render', key + '_warp']:.1f} dB"

    def psnr(measure: str, key: str, asked: float) -> Row:
        return Row(measure, f"at least {asked:g} dB", pair(key), f["render", key] >= asked)

    def gain(measure: str, key: str) -> Row:
        return Row(measure, "at least 2 dB", (f"{f['render', key]:.2f} dB", ""), f["render", key] >= 2)

    def expert(measure: str, key: str) -> Row:
        return Row(measure, "above 0 dB", (f"{f['render', key]:.2f} dB", ""), f["render", key] > 0)

    kept = [f["render", f"{name}_last_over_first"] for name in ("sharpness", "identity")]
    return [
        psnr("person, portrait's view, exact fit", "psnr_front", 30),
        psnr("person, portrait's view, wrong fit", "psnr_front_wrong_fit", 27),
        psnr("person, 20 degrees to a side, exact fit", "psnr_20deg", 25),
        psnr("person, 20 degrees to a side, wrong fit", "psnr_20deg_wrong_fit", 23.5),
        psnr("mouth, portrait's view", "psnr_mouth", 25),
        psnr("hands, portrait's view", "psnr_hands", 22),
        gain("gain over the warp, portrait's view, exact fit", "gain_front_db"),
        gain("gain over the warp, 20 degrees, exact fit", "gain_20deg_db"),
        gain("gain over the warp, portrait's view, wrong fit", "gain_front_wrong_fit_db"),
        gain("gain over the warp, 20 degrees, wrong fit", "gain_20deg_wrong_fit_db"),
        Row(
            "change from frame to frame over the truth's (1 is right)",
            "at most 1.15",
            (f"{f['render', 'flicker_ratio']:.2f}", ""),
            f["render", "flicker_ratio"] <= 1.15,
        ),
        expert("gain of view experts over none, 20 degrees", "gain_view_experts_db"),
        expert("gain of region experts over none: hair, face, mouth, hands", "gain_region_experts_db"),
        expert("gain of both over none: person, all views", "gain_both_experts_db"),
        Row(
            "sharpness, last 10 s of 5 minutes over the first",
            "0.98 to 1.02",
            (f"{kept[0]:.3f}", ""),
            0.98 <= kept[0] <= 1.02,
        ),
        Row(
            "likeness to the portrait, the same stretches",
            "0.98 to 1.02",
            (f"{kept[1]:.3f}", ""),
            0.98 <= kept[1] <= 1.02,
        ),
    ]


def speaking(f: Figures) -> list[Row]:
    found, jaw, lag = (
        (f["render", a], f["render", b])
        for a, b in (
            ("face_found", "face_found_worst"),
            ("jaw_correlation", "jaw_correlation_worst"),
            ("jaw_lag_frames", "jaw_lag_worst"),
        )
    )
    return [
        Row(
            f"MediaPipe finds the face, {f['render', 'portraits']} portraits",
            "at least 99 % of the frames",
            tuple(f"{100 * v:.1f} %" for v in found),
            found[0] >= 0.99,
        ),
        Row(
            "the picture's jaw follows the motion's (correlation)",
            "at least 0.8",
            tuple(f"{v:.2f}" for v in jaw),
            jaw[1] >= 0.8,
        ),
        Row("lag of the jaw", "at most 1 frame", tuple(f"{v:g} frames" for v in lag), max(map(abs, lag)) <= 1),
    ]


def gestures(f: Figures) -> list[Row]:
    def row(measure: str, key: str, asked: str, form: Callable[[float], str], good: Callable[[float], bool]) -> Row:
        value = f["portraits", key]
        try:
            before = form(f["portraits_before", key])
        except KeyError:
            before = ""
        return Row(measure, asked, (before, form(value)), good(value))

    def percent(value: float) -> str:
        return f"{100 * value:.1f} %"

    def plain(value: float) -> str:
        return f"{value:.2f}"

    labelled = int(f["portraits", "sleeves_labelled"])
    own = f["portraits", "portrait_joint_error"]
    return [
        row("MediaPipe finds the driven hands", "hands_found", "at least 97 %", percent, lambda v: v >= 0.97),
        row(
            f"its joints off the driven ones, palms ({own:.2f} in the photographs themselves)",
            "finger_joint_error",
            "at most 0.10",
            plain,
            lambda v: v <= 0.10,
        ),
        row("shown of hands, never in the portrait", "unseen_hands", "at most 20 %", percent, lambda v: v <= 0.20),
        row("shown of arms, never in the portrait", "unseen_arms", "at most 15 %", percent, lambda v: v <= 0.15),
        row("range of the wrists over before", "wrist_range_over_before", "at least 0.7", plain, lambda v: v >= 0.7),
        row(
            "shoulders higher than in the portrait, half shoulder widths",
            "shoulder_rise",
            "within 0.04",
            plain,
            lambda v: abs(v) <= 0.04,
        ),
        row(
            "sleeves' ends right to 5 % of the arm",
            "sleeves_right",
            f"{labelled} of {labelled}",
            lambda v: f"{v:.0f} of {labelled}",
            lambda v: v == labelled,
        ),
        row("hands and faces in the backgrounds", "background_hands", "0", lambda v: f"{v:.0f}", lambda v: v == 0),
        row("person in the backgrounds", "background_person", "below 0.5 %", percent, lambda v: v < 0.005),
        row(
            "unseen pixels of rendered people: gain over the warp, dB",
            "unseen_gain_db",
            "at least 1.5",
            plain,
            lambda v: v >= 1.5,
        ),
        row(
            "the same: energy of fine detail over the truth's",
            "unseen_sharpness",
            "0.8 to 1.2",
            plain,
            lambda v: 0.8 <= v <= 1.2,
        ),
        row(
            "unseen pixels of photographs that gesture and come back: gain, dB",
            "unseen_photographs_gain_db",
            "above 0",
            plain,
            lambda v: v > 0,
        ),
        row(
            "the same: energy of fine detail",
            "unseen_photographs_sharpness",
            "0.8 to 1.2",
            plain,
            lambda v: 0.8 <= v <= 1.2,
        ),
    ]


def masks(f: Figures) -> list[Row]:
    def rows(measure: str, key: str, asked: str, good: Callable[[float], bool], digits: int) -> list[Row]:
        found = {
            fit: [f.cell("render", "Masks", name, fit) for name in (key, f"{key}_body")] for fit in ("exact", "wrong")
        }
        return [
            Row(f"{measure}, {fit} fit", asked, tuple(f"{v:.{digits}f}" for v in values), good(values[0]))
            for fit, values in found.items()
        ]

    return [
        *rows("all regions, mean IoU", "mean_iou", "at least 0.93", lambda v: v >= 0.93, 3),
        *rows("hair, IoU", "hair_iou", "at least 0.85", lambda v: v >= 0.85, 3),
        *rows("hands, IoU", "hands_iou", "at least 0.85", lambda v: v >= 0.85, 3),
        *rows("change from frame to frame over the truth's", "flicker", "at most 1.15", lambda v: v <= 1.15, 2),
    ]


def motion(f: Figures) -> list[Row]:
    def both(key: str, form: Callable[[float], str]) -> tuple[str, str]:
        return form(f["motion", key]), form(f["motion", f"{key}_with_text"])

    def ratio(row: str) -> tuple[float, float]:
        reference = f.cell("motion", "", row, "reference")
        return tuple(f.cell("motion", "", row, column) / reference for column in ("without text", "everything"))

    def percent(value: float) -> str:
        return f"{100 * value:.0f} %"

    def reached(sound: bool, text: bool) -> dict[str, bool]:
        return {"from sound alone": sound, "with text": text}

    def at_least(key: str, asked: float) -> dict[str, bool]:
        return reached(f["motion", key] >= asked, f["motion", f"{key}_with_text"] >= asked)

    spread, jerk, beat = ratio("diversity"), ratio("jerk"), ratio("beat consistency")
    right, ablated = f["motion", "gesture_accuracy_with_prior"], f["motion", "gesture_accuracy_without_prior"]
    return [
        Row(
            "lips closed on p, b, m: synthetic voices",
            "at least 95 %",
            both("bilabial_closed_synthetic", percent),
            at_least("bilabial_closed_synthetic", 0.95),
        ),
        Row(
            "lips closed on p, b, m: real voices",
            "at least 90 %",
            both("bilabial_closed_real", percent),
            at_least("bilabial_closed_real", 0.90),
        ),
        Row(
            "lip opening against the reference's, correlation",
            "at least 0.85",
            both("lip_aperture_correlation", lambda v: f"{v:.2f}"),
            at_least("lip_aperture_correlation", 0.85),
        ),
        Row(
            "worst lip vertex off the reference's",
            "at most 3 mm",
            both("lip_vertex_error_mm", lambda v: f"{v:.1f} mm"),
            reached(f["motion", "lip_vertex_error_mm"] <= 3, f["motion", "lip_vertex_error_mm_with_text"] <= 3),
        ),
        Row(
            "how far the body moves, over the reference's",
            "at least 0.9",
            tuple(f"{v:.2f}" for v in spread),
            reached(*(v >= 0.9 for v in spread)),
        ),
        Row(
            "jerk, over the reference's",
            "at most 1.1",
            tuple(f"{v:.2f}" for v in jerk),
            reached(*(v <= 1.1 for v in jerk)),
        ),
        Row(
            "hands in time with the speech, over the reference's",
            "0.9 to 1.1",
            tuple(f"{v:.2f}" for v in beat),
            reached(*(0.9 <= v <= 1.1 for v in beat)),
        ),
        Row(
            f"right gesture on words that no training labelled (without language model {percent(ablated)})",
            "twice that without language model",
            (percent(f["motion", "gesture_accuracy_without_text"]), percent(right)),
            right >= 2 * ablated,
        ),
        Row(
            "lag of the lips: utterances within 1 frame",
            "",
            (f"{100 * f['motion', 'lip_lag_within_1']:.0f} %", ""),
            None,
        ),
        Row(
            "five minutes: spread of the last minute off the first's",
            "at most 5 %",
            (f"{100 * f['motion', 'drift_spread']:.1f} %", ""),
            f["motion", "drift_spread"] <= 0.05,
        ),
        Row(
            "five minutes: shift of the mean, over the spread",
            "at most 5 %",
            (f"{100 * f['motion', 'drift_mean']:.1f} %", ""),
            f["motion", "drift_mean"] <= 0.05,
        ),
    ]


def people(f: Figures) -> list[Row]:
    return [
        Row("identities", "", (f"{f['people', 'identities']}",), None),
        Row("video of all cameras", "", (f"{f['people', 'hours']:.2f} h",), None),
        Row("speech", "", (f"{f['people', 'speech_hours']:.2f} h",), None),
        Row("languages of the speech, accents counted", "", (f"{f['people', 'languages']}",), None),
        Row(
            "lips closed on p, b, m in the reference acting",
            "",
            (f"{100 * f['people', 'bilabial_closed']:.0f} %",),
            None,
        ),
        Row(
            "one frame at 256 px, at 512 px, one core, no supersampling",
            "",
            (f"{f['people', 'frame_ms_256']:.0f} ms, {f['people', 'frame_ms_512']:.0f} ms",),
            None,
        ),
    ]


def speech(f: Figures) -> list[Row]:
    def cells(key: str, form: Callable[[float], str]) -> tuple[str, str, str]:
        return tuple(form(f["speech", f"{key}{suffix}"]) for suffix in ("_sound_alone", "", "_transcript"))

    def percent(value: float) -> str:
        return f"{100 * value:.0f} %"

    def row(what: str, asked: str, key: str, limit: float, form: Callable[[float], str] = percent) -> Row:
        return Row(what, asked, cells(key, form), {"with recognized words": f["speech", key] >= limit})

    def error(language: str, key: str, limit: float) -> Row:
        value = f["speech", key]
        return Row(
            f"word error rate, {language}",
            f"at most {100 * limit:g} %",
            ("", f"{100 * value:.1f} %", ""),
            value <= limit,
        )

    return [
        error("English", "wer_en", 0.06),
        error("German", "wer_de", 0.25),
        row("p, b, m that are found (recall)", "97 %", "pbm_recall", 0.97),
        row("p, b, m that are right (precision)", "98 %", "pbm_precision", 0.98),
        row("lips closed on p, b, m", "97 %", "lips_closed_untranscribed", 0.97),
        row(
            "lip opening against the reference's, correlation",
            "0.9",
            "lip_correlation_untranscribed",
            0.9,
            lambda v: f"{v:.2f}",
        ),
        row("how far the body moves, over the reference's", "0.9", "swing_untranscribed", 0.9, lambda v: f"{v:.2f}"),
        row("gesture of unseen words, spoken by espeak-ng", "40 %", "gesture_accuracy_untranscribed", 0.4),
        row("the same, spoken by heart", "40 %", "gesture_accuracy_untranscribed_heart", 0.4),
        Row(
            "words that are heard where nobody speaks",
            "0",
            ("", f"{f['speech', 'words_on_noise']:.0f}", ""),
            f["speech", "words_on_noise"] == 0,
        ),
    ]


TABLES: dict[str, tuple[tuple[str, ...], Callable[[Figures], list[Row]]]] = {
    "portraits": (("median", "worst"), portraits),
    "rendering": (("ours", "the warp alone"), rendering),
    "speaking": (("all portraits", "the worst"), speaking),
    "gestures": (("before", "now"), gestures),
    "masks": (("ours", "the body's labels"), masks),
    "motion": (("sound alone", "with text"), motion),
    "speech": (("sound alone", "recognized", "transcript"), speech),
    "speed": (("measured",), speed),
    "batches": (("measured",), batches),
    "people": (("measured",), people),
}
