"""Stage `evaluate`: every model on people, voices and sentences that no training saw, beside trivial baselines.

Writes metrics/{people,motion,masks,render}.json with fixed keys, the tables behind them, and contact sheets to check
them by eye. A key whose value could not be measured is left out. `evaluate_avatar` writes metrics/avatar.json, and
`evaluate_portraits` writes metrics/portraits.json.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from stereotalker.acting.reference_acting import STYLES, act, lip_closure_spans
from stereotalker.audio import whisper_models
from stereotalker.audio.natural_voices import NaturalVoice, is_available
from stereotalker.audio.recognition import Recognizer
from stereotalker.audio.speech import from_file
from stereotalker.avatar.detector_calibration import read_calibration
from stereotalker.avatar.frame_detectors import HandFinder, JawTracker
from stereotalker.avatar.library import Library, read_avatar
from stereotalker.avatar.mediapipe_detector import MediaPipe
from stereotalker.body.model import Body
from stereotalker.dataset.shards import read_summaries
from stereotalker.dataset.speech_corpus import PARTS, read_corpus, read_index, read_table
from stereotalker.errors import UserError
from stereotalker.evaluation import motion, motion_cases, motion_report, portrait_gestures, rendering, untranscribed
from stereotalker.evaluation.avatars import evaluate_rendered_people, fit_portraits
from stereotalker.evaluation.avatars import summary as avatar_summary
from stereotalker.evaluation.motion import mean
from stereotalker.evaluation.motion_cases import Case
from stereotalker.evaluation.motion_metrics import read_gesture_autoencoder
from stereotalker.evaluation.portrait_gestures import examine, sheet_row, wrist_range
from stereotalker.evaluation.rendering import Scores
from stereotalker.evaluation.talking_portraits import TalkingPortrait, render_and_track
from stereotalker.evaluation.talking_portraits import summary as portraits_summary
from stereotalker.media.contact_sheet import grid
from stereotalker.models import Models
from stereotalker.motion.language_prior import GestureClassifier, LanguagePrior
from stereotalker.motion.retargeting import Retargeting
from stereotalker.motion.synthesize import MotionControls
from stereotalker.params import Params, resolve
from stereotalker.production.avatars import detector_folder, fitted_portraits
from stereotalker.records import Motion, Speech
from stereotalker.render.denoiser import read_denoiser
from stereotalker.render.renderer import Renderer
from stereotalker.runtime.stage_log import Log
from stereotalker.store.code import modules_version
from stereotalker.store.digests import digest, tree_digest
from stereotalker.store.files import write_atomic
from stereotalker.store.public_models import NO_MODEL
from stereotalker.synthetic.actor import Actor, build_actor
from stereotalker.synthetic.shading import render as draw
from stereotalker.training.loop import Checkpoint
from stereotalker.training.motion_examples import make_examples, train_prior
from stereotalker.training.photographs import read_photographs
from stereotalker.training.samples import Sample, read_people

METRICS = Path("metrics")  # folder of all files that are written, relative to the working directory
_NO_PICTURE = np.full((16, 16, 3), 128, np.uint8)  # a sheet without portraits; DVC asks for the file in any case
_STEPS_PEOPLE = 4  # people on whom the numbers of denoiser evaluations are compared
_SPEECHES = 10  # recordings that the portraits gesture to, in turn
_SHEET_SCALE = 0.4  # size of the frames on the contact sheet of gesturing portraits
_REFERENCE_FPS = 25.0  # frame rate at which lip closure of the reference acting is measured


def evaluate_all(params: Params, data: Path, weights: Path, log: Log) -> None:
    """Write every metrics file but avatar.json, and log every number. data, weights: folders of the pipeline."""
    evaluate_motion(params, data, weights, log)
    _write("people", people_table(params, data, Models(params, weights).body), log)
    evaluate_render(params, data, weights, log)


def evaluate_avatar(params: Params, weights: Path, log: Log) -> None:
    """Fit portraits and rendered people: write metrics/avatar.json and a contact sheet of all avatar cards.

    This is not a part of `evaluate_all`, because it needs the detector. Raises UserError without it.
    """
    models, settings = Models(params, weights), params.evaluate
    calibration = read_calibration(models.calibration_file)
    size = params.avatar.size
    with MediaPipe(detector_folder(params)) as detector:
        table = {}
        if settings.rendered:
            table = evaluate_rendered_people(settings.rendered, size, detector, models.body, calibration)
        if settings.portraits is not None:
            folder = resolve(settings.portraits)
            results, sheet = fit_portraits(folder, size, detector, models.body, calibration, print)
            table |= avatar_summary(results)
            write_atomic(METRICS / "avatar.jpg", sheet)
    _write("avatar", table, log)


def evaluate_portraits(params: Params, data: Path, weights: Path, log: Log) -> None:
    """Let every portrait gesture to real speech, and write metrics/portraits.json with a contact sheet.

    What the renderer draws where a portrait shows nothing is measured on held-out people and photographs in the folder
    `data`, if they are there. This is not a part of `evaluate_all`, because it needs the detector. Raises UserError
    without it, and where portraits or transcribed recordings are missing.
    """
    models, settings, fps = Models(params, weights), params.evaluate, params.motion.fps
    if settings.portraits is None or settings.transcripts is None:
        raise UserError("evaluate.portraits and evaluate.transcripts name what is measured; params.yaml leaves one out")
    speeches = _transcribed_speeches(resolve(settings.transcripts), params.audio.loudness)
    scores, ranges_before, rows = [], [], []
    with HandFinder(detector_folder(params)) as finder:
        for k, avatar in fitted_portraits(resolve(settings.portraits), models, "portraits"):
            speech = speeches[k % len(speeches)]
            retargeting = Retargeting.of_speaker(avatar, models.body, avatar.style)
            made, before = (
                models.synthesizer.motion(
                    speech, MotionControls(avatar.style, seed=k, retargeting=way), round(speech.seconds * fps), fps
                )
                for way in (retargeting, None)
            )
            score = examine(models.renderer, avatar, made, finder, models.body)
            rows.append(sheet_row(avatar, score))
            scores.append(score)
            ranges_before.append(wrist_range(before, models.body, avatar.betas, avatar.surface))
            measures = {name: value for name, value in vars(score).items() if name not in ("name", "frames")}
            print(f"portraits: {avatar.name}: {measures}", flush=True)
    unseen = _unseen_figures(params, data, models.renderer)
    _write("portraits", portrait_gestures.summary(scores, ranges_before) | unseen, log)
    sheet = cv2.resize(grid(rows), None, fx=_SHEET_SCALE, fy=_SHEET_SCALE, interpolation=cv2.INTER_AREA)
    Image.fromarray(sheet).save(METRICS / "portrait_gestures.jpg", quality=82)


def _unseen_figures(params: Params, data: Path, renderer: Renderer) -> dict[str, float]:
    """Figures of what the portrait does not show, on one take of held-out people and on held-out photographs."""
    people, photographs = data / "people" / "held_out", read_photographs(data / "photographs" / "held_out")
    samples: dict[str, dict[str, list[Sample]]] = {}
    if any(people.glob("people-*.tar")):
        samples["unseen"] = {
            fit: read_people(people, params.body, params.people, params.evaluate.people, wrong)[:: params.people.takes]
            for fit, wrong in rendering.FITS.items()
        }
    if photographs:
        samples["unseen_photographs"] = {"photograph": photographs}
    figures: dict[str, float] = {}
    for prefix in ("unseen", "unseen_photographs"):
        if prefix in samples:
            scores = rendering.score_renderer(renderer, samples[prefix], ("warp", "ours"))
            figures |= rendering.unseen_summary(scores, prefix)
        else:
            print(f"portraits: {prefix} is not measured, because {data} lacks the held-out samples")
    return figures


def _transcribed_speeches(file: Path, loudness: float) -> list[Speech]:
    """Every second English recording of 5 to 12 s in a table (columns path, lang, text, seconds), at most _SPEECHES.

    Paths are relative to the folder above the table's. Raises UserError if there is none.
    """
    if not file.is_file():
        raise UserError(f"{file} not found; evaluate.transcripts names a table with columns path, lang, seconds, text")
    with open(file, encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["lang"].startswith("en") and row["text"]]
    rows = [row for row in rows if 5 <= float(row["seconds"]) <= 12][: 2 * _SPEECHES : 2]
    speeches = [from_file(file.parent.parent / row["path"], loudness, row["text"]) for row in rows]
    if not speeches:
        raise UserError(f"{file} names no English recording of 5 to 12 s with a text")
    return speeches


def evaluate_motion(params: Params, data: Path, weights: Path, log: Log) -> None:
    """Evaluate the motion model: write metrics/motion.json, motion.md with the tables behind it, and motion.png.

    Trains the ablation without the language prior first.
    """
    models, settings = Models(params, weights), params.evaluate
    fps, loudness, body, synthesizer = params.motion.fps, params.audio.loudness, models.body, models.synthesizer
    examples = make_examples(data / "speech" / "train", weights, params.motion)
    torch.manual_seed(params.motion.prior.seed)
    ablated = LanguagePrior(synthesizer.encoder.features, NO_MODEL, params.motion.lora_rank)
    inputs = [params.motion.model_dump(mode="json"), tree_digest(data / "speech" / "train"), models.version("audio")]
    start = Checkpoint(data / "ablated.checkpoint", digest(modules_version(("training.motion_examples",)), inputs))
    train_prior(ablated, examples, params.motion, start, log)
    start.remove()
    cases = motion_cases.read_cases(data / "speech" / "held_out", fps, settings.seed)
    spoken = motion_cases.synthetic_language_cases(loudness, fps, settings.seed)
    synthetic, real = ([c for c in cases if c.language == "en" and c.kind == kind] for kind in ("synthetic", "real"))
    # Half of the compared utterances are real; synthetic ones take the place of those that are missing.
    half = settings.utterances // 2
    compared = synthetic[: settings.utterances - min(len(real), half)] + real[:half]
    compared = compared or cases[: settings.utterances]
    systems = motion.systems(synthesizer, GestureClassifier(ablated), examples[: settings.examples])
    words = motion_cases.held_out_words(loudness, fps, settings.seed, settings.words)
    table = motion.compare_systems(systems, compared, words, body, read_gesture_autoencoder())
    by_language = motion.lips_by_language(synthesizer, [c for c in cases if c.kind == "real"] + spoken, body)
    sounds = [resolve(path) for path in settings.unspoken]
    non_speech = motion.non_speech_metrics(synthesizer, sounds, body, settings.seed)
    long_clip = motion.long_clip_metrics(synthesizer, compared, settings.minutes)
    figures = (
        motion_report.summary(table) | motion_report.language_and_sound_summary(by_language, non_speech) | long_clip
    )
    _write("motion", figures, log)
    Image.fromarray(motion_report.contact_sheet(systems, compared, words, body)).save(METRICS / "motion.png")
    write_atomic(METRICS / "motion.md", motion_report.report(table, by_language, non_speech, long_clip).encode())


def evaluate_speech(params: Params, weights: Path, log: Log) -> None:
    """Evaluate recordings without a transcript: write metrics/speech.json, and speech.md with the tables behind it.

    This is not a part of `evaluate_all`, because it needs recordings with transcripts, and the extra `words-all`.
    Raises UserError without them.
    """
    models, settings = Models(params, weights), params.evaluate
    if settings.transcripts is None:
        raise UserError("evaluate.transcripts names the recordings that are recognized; params.yaml leaves it out")
    if models.recognizer is None:
        raise UserError("no speech recognition is installed; the extras [words] and [words-all] bring it")
    table = resolve(settings.transcripts)
    recordings = read_table(table, table.parent.parent, "evaluate.transcripts")
    scores = untranscribed.score_recordings(
        recordings, params.audio.loudness, models.recognizer, models.synthesizer, models.body
    )
    voices = {"espeak": None} | ({"heart": NaturalVoice("heart")} if is_available("heart") else {})
    gestures = {
        name: untranscribed.gesture_accuracy(
            motion_cases.held_out_words(
                params.audio.loudness, params.motion.fps, settings.seed, settings.words, voice=voice
            ),
            models.recognizer,
            models.synthesizer,
        )
        for name, voice in voices.items()
    }
    noise = untranscribed.words_in_noise(
        [resolve(path) for path in settings.unspoken], models.recognizer, settings.seed
    )
    figures = untranscribed.summary(scores, gestures, noise)
    if (judge := whisper_models.base()) is not None and is_available("heart"):
        texts = [recording.text for recording in recordings if recording.language.startswith("en")][::3]
        voice = NaturalVoice("heart")
        figures["voice_wer"] = untranscribed.voice_word_error_rate(texts, voice, Recognizer(None, judge))
    _write("speech", figures, log)
    write_atomic(METRICS / "speech.md", untranscribed.report(scores, gestures, noise).encode())


def evaluate_render(params: Params, data: Path, weights: Path, log: Log) -> None:
    """Evaluate mask predictor and renderer: write masks.json, render.json, render.md and two contact sheets."""
    models, settings = Models(params, weights), params.evaluate
    renderer = models.renderer
    samples_by_fit = {
        fit: read_people(data / "people" / "held_out", params.body, params.people, settings.people, wrong)
        for fit, wrong in rendering.FITS.items()
    }
    scores = rendering.score_renderer(renderer, samples_by_fit)
    # The slower evaluations get one take of every person.
    first_takes = {fit: samples[:: params.people.takes] for fit, samples in samples_by_fit.items()}
    steps = rendering.scores_by_steps(renderer, first_takes["exact"][:_STEPS_PEOPLE])
    masks = {fit: rendering.mask_summary(renderer, samples) for fit, samples in samples_by_fit.items()}
    experts = _ablation(renderer, first_takes, data, params.ablation.experts)
    cases = motion_cases.read_cases(data / "speech" / "held_out", params.motion.fps, settings.seed)
    long_motion = motion.long_motion(models.synthesizer, cases, settings.minutes)
    avatar = read_avatar(Library().find(settings.avatar))
    stability = rendering.long_clip_stability(renderer, avatar, long_motion, settings.lasting)
    spoken = _talking_portraits(models, cases)
    _write("masks", masks["exact"], log)
    figures = rendering.summary(scores) | stability | rendering.expert_gains(experts) | portraits_summary(spoken)
    _write("render", figures, log)
    report = rendering.report(scores, steps, masks, experts, stability, spoken)
    write_atomic(METRICS / "render.md", report.encode())
    sheet = rendering.contact_sheet(renderer, first_takes["exact"])
    Image.fromarray(sheet).save(METRICS / "render.jpg", quality=88)
    portraits = grid([[s.row] for s in spoken]) if spoken else _NO_PICTURE
    Image.fromarray(portraits).save(METRICS / "portraits.jpg", quality=85)


def _ablation(
    renderer: Renderer, samples_by_fit: dict[str, list[Sample]], data: Path, kinds: Sequence[str]
) -> dict[str, Scores]:
    """Held-out scores of our denoiser, with predicted masks and with the body's labels, and of others like it.

    The others lack the last training: the one that it began with, and those that the stage `ablation` trained as the
    stage `render` trained that one; `kinds` names their experts. Raises UserError where one of them is not there.
    """
    ours, folder = renderer.denoiser.config.experts, data / "ablation"
    files = {ours: data / "render.safetensors"} | {kind: folder / f"{kind}.safetensors" for kind in kinds}
    if missing := [str(file) for file in files.values() if not file.is_file()]:
        raise UserError(f"{', '.join(missing)} not found; run the stages `render` and `ablation`")
    renderers = {"finished": renderer, "finished, body mask": rendering.with_body_masks(renderer)}
    renderers |= {kind: rendering.with_denoiser(renderer, read_denoiser(file)) for kind, file in files.items()}
    return {name: rendering.score_renderer(other, samples_by_fit, ("ours",)) for name, other in renderers.items()}


def _talking_portraits(models: Models, cases: list[Case]) -> list[TalkingPortrait]:
    """Every portrait that can be fitted, driven by real English held-out speech (other speech where there is none).

    Portraits that cannot be fitted are printed with the reason. Without a detector the list is empty, which is
    printed too.
    """
    settings = models.params.evaluate
    if settings.portraits is None:
        return []
    try:
        tracker = JawTracker(detector_folder(models.params))
    except UserError as error:
        print(f"render: portraits are left out: {error}")
        return []
    speeches = [case.speech for case in cases if case.kind == "real" and case.language == "en"] or [
        case.speech for case in cases
    ]
    spoken, fps = [], models.params.motion.fps
    with tracker:
        for k, avatar in fitted_portraits(resolve(settings.portraits), models, "render"):
            speech = speeches[k % len(speeches)]
            frames = round(min(speech.seconds, settings.spoken_seconds) * fps)
            retargeting = Retargeting.of_speaker(avatar, models.body, avatar.style)
            controls = MotionControls(avatar.style, seed=k, retargeting=retargeting)
            motion = models.synthesizer.motion(speech, controls, round(speech.seconds * fps), fps).frames(0, frames)
            spoken.append(render_and_track(models.renderer, avatar, motion, tracker))
            last = spoken[-1]
            found = f"face in {100 * last.face_share:.0f} %, jaw {last.correlation:.2f}, lag {last.lag}"
            print(f"render: {avatar.name}: {found}", flush=True)
    return spoken


def _write(name: str, table: dict[str, float], log: Log) -> None:
    """Write metrics/NAME.json and log every value; values that are not finite are left out."""
    table = {key: value for key, value in table.items() if np.isfinite(value)}
    write_atomic(METRICS / f"{name}.json", (json.dumps(table, indent=2) + "\n").encode())
    for key, value in table.items():
        log(f"{name}.{key}", value, 0)


def people_table(params: Params, data: Path, body: Body, utterances: int = 60) -> dict[str, float]:
    """The values of metrics/people.json.

    They are the size of the data set, lip closures of the reference acting on some held-out utterances, and the time
    (ms) that one core needs to render a frame without supersampling. A p, b or m counts as closed when the lip aperture
    falls below a tenth of its 95th percentile within 40 ms of the sound.
    """
    takes = [s for part in PARTS for _, summaries in read_summaries(data / "people" / part) for s in summaries]
    rows = [row for part in PARTS for row in read_index(data / "speech" / part)]
    speeches = read_corpus(data / "speech" / "held_out")[:utterances]
    closed = [share for k, s in enumerate(speeches) if np.isfinite(share := _closed_share(s, k, body))]
    actor = build_actor(params.people.identities, body, 64, 1)
    return {
        "identities": len({take["identity"] for take in takes}),
        "hours": sum(take["frames"] * take["cameras"] / take["fps"] for take in takes) / 3600,
        "speech_hours": sum(row.seconds for row in rows) / 3600,
        "languages": len({row.language for row in rows}),
        "bilabial_closed": mean(closed),
        "frame_ms_256": _frame_ms(actor, body, 256),
        "frame_ms_512": _frame_ms(actor, body, 512),
    }


def _closed_share(speech: Speech, k: int, body: Body) -> float:
    """Share of p, b, m sounds with closed lips in the reference acting of the k-th speech; nan without such a sound."""
    motion = act(speech, STYLES[k % len(STYLES)], k, _REFERENCE_FPS)
    aperture = body.lip_aperture(motion)
    times, limit = (np.arange(len(aperture)) + 0.5) / motion.fps, 0.1 * np.percentile(aperture, 95)
    hits = [
        bool((aperture[(times >= start - 0.04) & (times <= end + 0.04)] < limit).any())
        for start, end in lip_closure_spans(speech.phonemes)
    ]
    return float(np.mean(hits)) if hits else float("nan")


def _frame_ms(actor: Actor, body: Body, size: int, frames: int = 8) -> float:
    """Median wall time (ms) of rendering the actor's portrait at `size` px, posing included."""
    avatar, dressed_person = actor.avatar, actor.dressed_person
    still = Motion(avatar.poses[None], avatar.expression[None], np.zeros((1, 3), np.float32), 25.0)
    K = avatar.intrinsics.copy()
    K[:2] *= size / avatar.regions.shape[0]
    plate, times = np.full((size, size, 3), 128, np.uint8), []
    for _ in range(frames):
        started = time.perf_counter()
        posed = body.posed(still, dressed_person.betas, dressed_person.face)
        draw(dressed_person.figure, posed.vertices[0], posed.turn[0], K, avatar.extrinsics, actor.light, plate)
        times.append(1000 * (time.perf_counter() - started))
    return float(np.median(times[2:]))  # the first two frames warm up
