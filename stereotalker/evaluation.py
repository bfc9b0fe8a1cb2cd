"""Stage `evaluate`: every model on people, voices and sentences never trained on, beside its trivial baselines.

Writes metrics/{people,motion,masks,render}.json with fixed keys, and a contact sheet a table can be checked against by eye.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stereotalker.audio.corpus import PARTS, read_corpus, read_index
from stereotalker.avatar.calibrate import read_calibration
from stereotalker.avatar.evaluate import portraits, rendered_people, summary
from stereotalker.avatar.fitted import detector_folder
from stereotalker.avatar.mediapipe import MediaPipe
from stereotalker.body.layout import REGION
from stereotalker.body.model import Body
from stereotalker.control.masks import region_iou
from stereotalker.models import Models, read_gestures
from stereotalker.motion import evaluate as exam
from stereotalker.motion.evaluate import mean
from stereotalker.motion.learn import acted, train_prior
from stereotalker.motion.prior import NO_MODEL, LanguagePrior, Reader
from stereotalker.params import Params, resolve
from stereotalker.people.acting import STYLES, act, closed_spans
from stereotalker.people.dataset import Sample, read_people
from stereotalker.people.shading import render as draw
from stereotalker.people.shards import read_summaries
from stereotalker.people.takes import Cast, cast
from stereotalker.records import Control, Motion, Speech
from stereotalker.store import write_atomic
from stereotalker.training import Log

METRICS = Path("metrics")


def evaluate_all(params: Params, data: Path, weights: Path, log: Log) -> None:
    """Write every metrics file and log every number."""
    models = Models(params, weights)
    crowd = read_people(data / "people" / "held_out", models.body, params.people, params.evaluate.people)
    evaluate_motion(params, data, weights, log)
    _write("people", people_table(params, data, models.body), log)
    _write("masks", masks_table(crowd, models), log)
    _write("render", render_table(crowd, models), log)
    contact_sheet(crowd, models, METRICS / "render.png")


def evaluate_avatar(params: Params, log: Log) -> None:
    """Portraits and rendered people: metrics/avatar.json and a sheet of every avatar's card. Apart from the others, as it needs the detector."""
    models, own = Models(params), params.evaluate
    known = read_calibration()
    with MediaPipe(detector_folder(params)) as detector:
        table = rendered_people(own.rendered, params.avatar.size, detector, models.body, known) if own.rendered else {}
        if own.portraits is not None:
            found, sheet = portraits(resolve(own.portraits), params.avatar.size, detector, models.body, known, print)
            table |= summary(found)
            write_atomic(METRICS / "avatar.jpg", sheet)
    _write("avatar", table, log)


def evaluate_motion(params: Params, data: Path, weights: Path, log: Log) -> None:
    """Everything about the motion: metrics/motion.json, and metrics/motion.md with the tables behind it."""
    models, own = Models(params, weights), params.evaluate
    fps, loudness, body, synthesizer = params.motion.fps, params.audio.loudness, models.body, models.synthesizer
    performances = acted(data / "speech" / "train", weights, params.motion)
    torch.manual_seed(params.motion.prior.seed)
    ablated = LanguagePrior(synthesizer.encoder.features, NO_MODEL, params.motion.lora_rank)
    train_prior(ablated, performances, params.motion, data / "ablated.checkpoint", log)
    cases = exam.read_cases(data / "speech" / "held_out", fps, own.seed)
    spoken = exam.spoken_cases(loudness, fps, own.seed)
    english = [[c for c in cases if c.language == "en" and c.kind == kind] for kind in ("synthetic", "real")]
    compared = english[0][: own.utterances - min(len(english[1]), own.utterances // 2)] + english[1][: own.utterances // 2]
    compared = compared or cases[: own.utterances]
    made = exam.systems(synthesizer, Reader(ablated), performances[: own.performances])
    words = exam.held_out_words(loudness, fps, own.seed, own.words)
    table = exam.compare(made, compared, words, body, read_gestures(weights))
    by_language = exam.languages(synthesizer, [c for c in cases if c.kind == "real"] + spoken, body)
    quiet = exam.unspoken(synthesizer, [resolve(path) for path in own.unspoken], body, own.seed)
    long = exam.long_run(synthesizer, compared, own.minutes)
    _write("motion", exam.figures(table) | exam.more_figures(by_language, quiet) | long, log)
    Image.fromarray(exam.contact_sheet(made, compared, words, body)).save(METRICS / "motion.png")
    write_atomic(METRICS / "motion.md", exam.report(table, by_language, quiet, long).encode())


def _write(name: str, table: dict[str, float], log: Log) -> None:
    """metrics/NAME.json and the log; what had nothing to measure is left out."""
    table = {key: value for key, value in table.items() if np.isfinite(value)}
    write_atomic(METRICS / f"{name}.json", (json.dumps(table, indent=2) + "\n").encode())
    for key, value in table.items():
        log(f"{name}.{key}", value, 0)


def people_table(params: Params, data: Path, body: Body, utterances: int = 60) -> dict[str, float]:
    """The data set's size, the reference acting's closures, and what a frame costs on one core without supersampling.

    A p, b or m counts as closed when the lip aperture falls below a tenth of its 95th percentile within 40 ms of the sound.
    """
    told = [s for part in PARTS for _, summaries in read_summaries(data / "people" / part) for s in summaries]
    spoken = [row for part in PARTS for row in read_index(data / "speech" / part)]
    speeches = read_corpus(data / "speech" / "held_out")[:utterances]
    closed = [share for k, s in enumerate(speeches) if np.isfinite(share := _closed_share(s, k, body))]
    actor = cast(params.people.identities, body, 64, 1)
    return {
        "identities": len({s["identity"] for s in told}), "hours": sum(s["frames"] * s["cameras"] / s["fps"] for s in told) / 3600,
        "speech_hours": sum(row.seconds for row in spoken) / 3600, "languages": len({row.language for row in spoken}), "bilabial_closed": mean(closed),
        "frame_ms_256": _frame_ms(actor, body, 256), "frame_ms_512": _frame_ms(actor, body, 512),
    }  # fmt: skip


def _closed_share(speech: Speech, k: int, body: Body) -> float:
    motion = act(speech, STYLES[k % len(STYLES)], k, 25.0)
    aperture = body.lip_aperture(motion)
    times, limit = (np.arange(len(aperture)) + 0.5) / motion.fps, 0.1 * np.percentile(aperture, 95)
    hits = [bool((aperture[(times >= start - 0.04) & (times <= end + 0.04)] < limit).any()) for start, end in closed_spans(speech.phonemes)]
    return float(np.mean(hits)) if hits else float("nan")


def _frame_ms(actor: Cast, body: Body, size: int, frames: int = 8) -> float:
    """Median wall time of a rendered frame of the portrait, posing included."""
    avatar, dressed = actor.avatar, actor.dressed
    still = Motion(avatar.poses[None], avatar.expression[None], np.zeros((1, 3), np.float32), 25.0)
    K = avatar.intrinsics.copy()
    K[:2] *= size / avatar.regions.shape[0]
    plate, times = np.full((size, size, 3), 128, np.uint8), []
    for _ in range(frames):
        started = time.perf_counter()
        posed = body.posed(still, dressed.betas, dressed.face)
        draw(dressed.figure, posed.vertices[0], posed.turn[0], K, avatar.extrinsics, actor.light, plate)
        times.append(1000 * (time.perf_counter() - started))
    return float(np.median(times[2:]))


def masks_table(crowd: list[Sample], models: Models) -> dict[str, float]:
    """Intersection over union of the prediction, and of the body's own labels as the baseline."""
    predictor = models.renderer.masks
    predicted = np.concatenate([predictor.predict(_control(person)).argmax(1).byte().numpy() for person in crowd])
    truth, body = (np.concatenate([getattr(person, name) for person in crowd]) for name in ("regions", "labels"))
    ours, baseline = (_drop_rare(region_iou(p, truth), truth) for p in (predicted, body))
    named = {f"{name}_iou": value for name, value in ours.items() if name in ("hair", "hands")}
    return {"mean_iou": mean(list(ours.values())), "mean_iou_body": mean(list(baseline.values())), **named}


def render_table(crowd: list[Sample], models: Models) -> dict[str, float]:
    """PSNR of the person, front and turned views apart; baselines: a copy of the portrait, and the warp alone."""
    rows: dict[str, list[tuple[float, float]]] = {}
    for person in crowd:
        frames = render_sample(person, models)
        turned = np.abs(person.angles[:, 0]) > 10
        for n in range(len(frames)):
            truth, regions = person.image[n].astype(np.float32), person.regions[n]
            body = regions != REGION["background"]
            for name, picture in (("ours", frames[n]), ("warp", person.warp[n]), ("copy", person.portrait)):
                rows.setdefault(f"{name}_{'20deg' if turned[n] else 'front'}", []).append(_squares(picture, truth, body))
                rows.setdefault(name, []).append(_squares(picture, truth, body))
            for region in ("mouth", "hands", "face"):
                rows.setdefault(region, []).append(_squares(frames[n], truth, regions == REGION[region]))
    psnr = {name: _psnr(pairs) for name, pairs in rows.items()}
    return {
        "psnr": psnr["ours"], "psnr_warp": psnr["warp"], "psnr_copy": psnr["copy"],
        "psnr_front_wrong_fit": psnr.get("ours_front", 0.0), "psnr_front_wrong_fit_warp": psnr.get("warp_front", 0.0),
        "psnr_20deg_wrong_fit": psnr.get("ours_20deg", 0.0), "psnr_20deg_wrong_fit_warp": psnr.get("warp_20deg", 0.0),
        "psnr_mouth": psnr["mouth"], "psnr_hands": psnr["hands"], "psnr_face": psnr["face"],
        "gain_over_warp_db": psnr["ours"] - psnr["warp"],
    }  # fmt: skip


def render_sample(person: Sample, models: Models) -> np.ndarray:
    """A held-out person's frames through masks and denoiser, u8 [N, H, W, 3]."""
    renderer = models.renderer
    tokens = renderer.tokens(person.portrait)
    step = models.params.render.batch
    parts = [renderer.pictures(_control(person, n, n + step), tokens, person.identity, n, min(n + step, len(person.image))) for n in range(0, len(person.image), step)]  # fmt: skip
    return np.concatenate(parts)


def contact_sheet(crowd: list[Sample], models: Models, path: Path, people: int = 4, frames: int = 6) -> None:
    """Rows of portrait + truth, warp, ours for some held-out people."""
    rows = []
    for person in crowd[:people]:
        for pictures in (person.image, person.warp, render_sample(person, models)):
            rows.append(np.concatenate([person.portrait, *pictures[:frames]], 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path)


def _control(person: Sample, start: int = 0, stop: int | None = None) -> Control:
    cut = slice(start, stop)
    azimuth, elevation = np.ascontiguousarray(person.angles[cut].T.astype(np.float32))
    return Control(person.warp[cut], person.visibility[cut], person.normals[cut], person.labels[cut], person.plate[cut], azimuth, elevation)


def _squares(picture: np.ndarray, truth: np.ndarray, where: np.ndarray) -> tuple[float, float]:
    """Sum of squared errors and count of values."""
    return float(((picture.astype(np.float32) - truth) ** 2)[where].sum()), float(3 * where.sum())


def _psnr(pairs: list[tuple[float, float]]) -> float:
    errors, counts = np.sum(pairs, 0)
    return float(10 * np.log10(255**2 / max(errors / max(counts, 1.0), 1e-9)))


def _drop_rare(table: dict[str, float], truth: np.ndarray) -> dict[str, float]:
    """Without regions that fill less than one pixel in ten thousand: their number would be noise."""
    return {name: value for name, value in table.items() if (truth == REGION[name]).mean() > 1e-4}
