"""Stage `evaluate`: every model on people, voices and sentences never trained on, beside its trivial baselines.

Writes metrics/{people,motion,masks,render}.json with fixed keys (what had nothing to be measured on is left out), the tables behind them, and sheets
they can be checked against by eye.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stereotalker.acting.reference_acting import STYLES, act, closed_spans
from stereotalker.avatar.detector_calibration import read_calibration
from stereotalker.avatar.library import RECORD, Library, read_avatar
from stereotalker.avatar.mediapipe_detector import JawTracker, MediaPipe
from stereotalker.body.model import Body
from stereotalker.dataset.shards import read_summaries
from stereotalker.dataset.speech_corpus import PARTS, read_corpus, read_index
from stereotalker.errors import ClipError, UserError
from stereotalker.evaluation import motion, rendering
from stereotalker.evaluation.avatars import portraits, rendered_people, summary
from stereotalker.evaluation.motion import Case, mean
from stereotalker.evaluation.motion_metrics import read_gesture_autoencoder
from stereotalker.evaluation.rendering import Scores
from stereotalker.evaluation.talking_portraits import Spoken, speak
from stereotalker.evaluation.talking_portraits import summary as portraits_summary
from stereotalker.media.photos import is_picture
from stereotalker.models import Models, read_denoiser
from stereotalker.motion.language_prior import NO_MODEL, GestureClassifier, LanguagePrior
from stereotalker.motion.post_processing import with_arms
from stereotalker.motion.synthesize import MotionControls
from stereotalker.params import Params, resolve
from stereotalker.production.avatars import detector_folder, fit_portrait_once
from stereotalker.records import Avatar, Motion, Speech, load
from stereotalker.render.renderer import Renderer
from stereotalker.runtime.home import Home
from stereotalker.store.files import write_atomic
from stereotalker.store.local import Store
from stereotalker.synthetic.actor import Actor, build_actor
from stereotalker.synthetic.shading import render as draw
from stereotalker.training.loop import Log
from stereotalker.training.motion_examples import acted, train_prior
from stereotalker.training.samples import Sample, read_people

METRICS = Path("metrics")
_BY_STEPS = 4  # people by whom the number of the denoiser's steps is judged


def evaluate_all(params: Params, data: Path, weights: Path, log: Log) -> None:
    """Write every metrics file and log every number."""
    evaluate_motion(params, data, weights, log)
    _write("people", people_table(params, data, Models(params, weights).body), log)
    evaluate_render(params, data, weights, log)


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
    examples = acted(data / "speech" / "train", weights, params.motion)
    torch.manual_seed(params.motion.prior.seed)
    ablated = LanguagePrior(synthesizer.encoder.features, NO_MODEL, params.motion.lora_rank)
    train_prior(ablated, examples, params.motion, data / "ablated.checkpoint", log)
    cases = motion.read_cases(data / "speech" / "held_out", fps, own.seed)
    spoken = motion.spoken_cases(loudness, fps, own.seed)
    english = [[c for c in cases if c.language == "en" and c.kind == kind] for kind in ("synthetic", "real")]
    compared = (
        english[0][: own.utterances - min(len(english[1]), own.utterances // 2)] + english[1][: own.utterances // 2]
    )
    compared = compared or cases[: own.utterances]
    made = motion.systems(synthesizer, GestureClassifier(ablated), examples[: own.examples])
    words = motion.held_out_words(loudness, fps, own.seed, own.words)
    table = motion.compare(made, compared, words, body, read_gesture_autoencoder(weights))
    by_language = motion.languages(synthesizer, [c for c in cases if c.kind == "real"] + spoken, body)
    quiet = motion.unspoken(synthesizer, [resolve(path) for path in own.unspoken], body, own.seed)
    long = motion.long_run(synthesizer, compared, own.minutes)
    _write("motion", motion.figures(table) | motion.more_figures(by_language, quiet) | long, log)
    Image.fromarray(motion.contact_sheet(made, compared, words, body)).save(METRICS / "motion.png")
    write_atomic(METRICS / "motion.md", motion.report(table, by_language, quiet, long).encode())


def evaluate_render(params: Params, data: Path, weights: Path, log: Log) -> None:
    """Masks and renderer: metrics/masks.json, render.json, the tables behind them in render.md, and two sheets to be looked at."""
    models, own = Models(params, weights), params.evaluate
    renderer = models.renderer
    crowds = {
        fit: read_people(data / "people" / "held_out", params.body, params.people, own.people, wrong)
        for fit, wrong in rendering.FITS.items()
    }
    scores = rendering.examine(renderer, crowds)
    firsts = {
        fit: people[:: params.people.takes] for fit, people in crowds.items()
    }  # one take a person, where it is long enough
    steps = rendering.by_steps(renderer, firsts["exact"][:_BY_STEPS])
    masks = {fit: rendering.masks_figures(renderer, people) for fit, people in crowds.items()}
    experts = _ablation(renderer, firsts, data, params.ablation.experts)
    cases = motion.read_cases(data / "speech" / "held_out", params.motion.fps, own.seed)
    minutes = motion.long_motion(models.synthesizer, cases, own.minutes)
    lasted = rendering.lasting(renderer, read_avatar(Library().find(own.avatar)), minutes, own.lasting)
    spoken = _portraits(models, cases)
    _write("masks", masks["exact"], log)
    _write(
        "render", rendering.figures(scores) | lasted | rendering.expert_gains(experts) | portraits_summary(spoken), log
    )
    write_atomic(METRICS / "render.md", rendering.report(scores, steps, masks, experts, lasted, spoken).encode())
    Image.fromarray(rendering.contact_sheet(renderer, firsts["exact"])).save(METRICS / "render.jpg", quality=88)
    if spoken:
        widest = max(s.row.shape[1] for s in spoken)
        rows = [np.pad(s.row, ((0, 0), (0, widest - s.row.shape[1]), (0, 0))) for s in spoken]
        Image.fromarray(np.concatenate(rows)).save(METRICS / "portraits.jpg", quality=85)


def _ablation(renderer: Renderer, crowds: dict[str, list[Sample]], data: Path, kinds: list[str]) -> dict[str, Scores]:
    """Held-out scores of ours, of the denoisers in the folder `ablation`, and of ours with the body's labels for masks.

    The stage `ablation` trains them as `render` trains ours. Raises UserError where one of `kinds` is not there.
    """
    ours, folder = renderer.denoiser.config.experts, data / "ablation"
    if absent := [kind for kind in kinds if not (folder / f"{kind}.safetensors").is_file()]:
        raise UserError(f"{folder} holds no denoiser with experts {', '.join(absent)}; run the stage `ablation`")
    made = {ours: renderer, f"{ours}, body mask": rendering.with_body_masks(renderer)}
    made |= {kind: rendering.with_denoiser(renderer, read_denoiser(folder / f"{kind}.safetensors")) for kind in kinds}
    return {name: rendering.examine(other, crowds, ("ours",)) for name, other in made.items()}


def _portraits(models: Models, cases: list[Case]) -> list[Spoken]:
    """Every portrait that can be fitted, with real English speech that nothing was trained on. Said aloud where there is no detector."""
    own = models.params.evaluate
    if own.portraits is None:
        return []
    try:
        watch = JawTracker(detector_folder(models.params))
    except UserError as error:
        print(f"render: portraits are left out: {error}")
        return []
    heard = [case.speech for case in cases if case.kind == "real" and case.language == "en"] or [
        case.speech for case in cases
    ]
    spoken, store, fps = [], Store(Home.default().store), models.params.motion.fps
    with watch:
        for k, path in enumerate(sorted(p for p in resolve(own.portraits).iterdir() if is_picture(p.name))):
            try:
                avatar = load(Avatar, fit_portrait_once(path, models, store)[1] / RECORD)
            except ClipError as error:
                print(f"render: {error}")
                continue
            speech = heard[k % len(heard)]
            frames = round(min(speech.seconds, own.spoken_seconds) * fps)
            motion = models.synthesizer.motion(
                speech, MotionControls(avatar.style, seed=k), round(speech.seconds * fps), fps
            ).frames(0, frames)
            motion = motion if avatar.arms else with_arms(motion, avatar.poses)
            spoken.append(speak(models.renderer, replace(avatar, name=path.stem), motion, watch))
            print(
                f"render: {path.stem}: face in {100 * spoken[-1].found:.0f} %, jaw {spoken[-1].correlation:.2f}, lag {spoken[-1].lag}",
                flush=True,
            )
    return spoken


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
    actor = build_actor(params.people.identities, body, 64, 1)
    return {
        "identities": len({s["identity"] for s in told}), "hours": sum(s["frames"] * s["cameras"] / s["fps"] for s in told) / 3600,
        "speech_hours": sum(row.seconds for row in spoken) / 3600, "languages": len({row.language for row in spoken}), "bilabial_closed": mean(closed),
        "frame_ms_256": _frame_ms(actor, body, 256), "frame_ms_512": _frame_ms(actor, body, 512),
    }  # fmt: skip


def _closed_share(speech: Speech, k: int, body: Body) -> float:
    motion = act(speech, STYLES[k % len(STYLES)], k, 25.0)
    aperture = body.lip_aperture(motion)
    times, limit = (np.arange(len(aperture)) + 0.5) / motion.fps, 0.1 * np.percentile(aperture, 95)
    hits = [
        bool((aperture[(times >= start - 0.04) & (times <= end + 0.04)] < limit).any())
        for start, end in closed_spans(speech.phonemes)
    ]
    return float(np.mean(hits)) if hits else float("nan")


def _frame_ms(actor: Actor, body: Body, size: int, frames: int = 8) -> float:
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
