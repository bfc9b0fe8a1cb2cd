"""Quality gate of a finished clip: the verdict pass, review or fail, with reasons.

Only the finished file is measured, as a viewer would see it. Faces are found with OpenCV's Haar cascade (Viola and
Jones 2001; the file comes in OpenCV's wheel), which was not trained on pictures of our renderer. Two measurements test
whether lips and sound agree: the lag of the file's sound behind the sound that drove the motion, by cross-correlation;
and the lag of the mouth's pixels behind the motion's lip aperture. The second one predicts the aperture from the
principal components of the mouth patch by ridge regression with held-out folds, at every lag. If no lag is clearly the
best, the measure is nan and no rule uses it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter1d

from stereotalker.avatar.names import safe_id
from stereotalker.geometry.camera import angles_along
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.media.audio_files import OUTPUT_RATE, loudness, read_wav
from stereotalker.media.faces import find_faces, resize_for_detection
from stereotalker.motion.coverage import Unseen
from stereotalker.params import QualityParams
from stereotalker.production.clip_cues import CueOutcome
from stereotalker.production.lip_sync import MIN_LIP_S, lip_lag
from stereotalker.production.manifest import Clip
from stereotalker.production.sound_measures import measure_sound, sound_delay

VERDICTS = ("pass", "review", "fail")
# Seconds between the frames that are sampled, that is, searched for a face.
_SAMPLE_INTERVAL_S = 0.2

# Camera views in which the detector finds a face. Outside them a missing face says nothing about the picture.
_MAX_AZIMUTH_DEG = 20.0  # to either side
_SIZE_RANGE = (0.6, 1.3)  # size of the person, relative to the portrait
_MAX_VERTICAL_SHIFT = 0.2  # picture heights

_POSTER_PX = 256  # longer side of the poster

# Mean change of a frame, in gray levels of 255, below which it counts as frozen. The encoder repeats such frames
# exactly, so a small limit is enough.
_FROZEN_CHANGE = 0.05


# Faces that a fifth of the clip must show. With fewer, a blink would look like a loss of sharpness.
_MIN_FACES = 4


class ViewDelta(NamedTuple):
    """Differences between two views of the speaker, in the order of the columns of `_views`."""

    azimuth_deg: float
    elevation_deg: float
    log_size: float  # of the person in the picture
    vertical_shift: float  # in picture heights


# Sharpness is compared only between frames seen from the same view: a turned face looks softer.
_SAME_VIEW_TOLERANCE = ViewDelta(azimuth_deg=2, elevation_deg=2, log_size=0.03, vertical_shift=0.02)

# Measures of `examine` that are those of the file, whoever is examined in it.
_OF_FILE = (
    "frames",
    "frames_expected",
    "audio_minus_video_s",
    "audio_lag_frames",
    "lufs",
    "lufs_target",
    "peak",
)
_MAX_LISTENING_MM = 1.0  # beyond it somebody who listens seems to speak

# Seconds of pictures that lip movement is judged on. More would take too much memory.
_MAX_LIP_S = 60.0


_AAC_FRAME_S = 1024 / OUTPUT_RATE


@dataclass(frozen=True)
class Verdict:
    """What the quality gate decided, and from which measures."""

    verdict: str  # one of VERDICTS
    reasons: tuple[str, ...]
    measures: dict[str, float]  # nan: could not be measured
    cues: tuple[CueOutcome, ...] = ()  # what the speaker was asked to do

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        values = json.loads(text)
        cues = tuple(CueOutcome(**cue) for cue in values["cues"])
        return cls(values["verdict"], tuple(values["reasons"]), values["measures"], cues)


@dataclass(frozen=True)
class Examination:
    """Result of `examine`."""

    verdict: Verdict
    poster: bytes  # JPEG of the middle frame


@dataclass
class _FrameMeasures:
    """What one pass over the pictures keeps: a few numbers for each frame, and small gray pictures.

    Sampled frames are those that are searched for a face, one every _SAMPLE_INTERVAL_S.
    """

    levels: list[float]  # mean gray level, of 255
    changes: list[float]  # mean absolute change since the frame before, of 255
    boxes: list[np.ndarray]  # face x, y, side in px of the sampled frames; nan where no face was found
    sharpness: list[float]  # variance of the Laplacian over the face of the sampled frames; nan where none was found
    gray: list[np.ndarray]  # u8 [h, w] of the first _MAX_LIP_S seconds, faces.SIDE px
    poster: bytes


@dataclass(frozen=True)
class ClipInputs:
    """What a clip was made from, against which it is judged."""

    aperture: np.ndarray  # f32 [T] lip opening of the motion, in any unit
    loudness: float  # asked for, LUFS
    unseen: Unseen  # what the clip shows of hands and arms that the portrait does not
    is_misread: bool = False  # the clip has a transcript, and it is not what is said
    cues: tuple[CueOutcome, ...] = ()
    listening_mm: float | None = None  # how far the lips part while another speaks; None: nobody else does
    # Rows and columns (first, behind the last, each) in which the person is; None: the whole picture.
    area: tuple[int, int, int, int] | None = None
    shows_face: bool = True  # whether the face is in the picture, and nobody stands before it
    speaks_s: float = np.inf  # how long the person speaks


def examine(file: Path, sound: Path, inputs: ClipInputs, clip: Clip, limits: QualityParams) -> Examination:
    """Measure a finished video file and judge it. sound: the WAV file that drove the motion."""
    aperture = inputs.aperture
    measured = _measure_frames(file, len(aperture), clip, inputs.area or (0, clip.height, 0, clip.width))
    file_sound, driving_sound = measure_sound(file), read_wav(sound)
    step = max(1, round(_SAMPLE_INTERVAL_S * clip.fps))
    views = _views(clip, len(aperture))[::step]
    if not inputs.shows_face:
        measured.boxes = [np.full(3, np.nan)] * len(measured.boxes)
    # The file may have more or fewer frames than expected.
    boxes = measured.boxes[: len(views)]
    sharpness = np.array(measured.sharpness[: len(views)])
    views = views[: len(boxes)]
    lag, correlation = np.nan, np.nan
    if inputs.speaks_s >= MIN_LIP_S:
        lag, correlation = lip_lag(_mouth_patches(measured, step), aperture[: len(measured.gray)], clip.fps)
    m = {
        "frames": len(measured.levels),
        "frames_expected": len(aperture),
        "audio_minus_video_s": file_sound.samples / OUTPUT_RATE - len(measured.levels) / clip.fps,
        "audio_lag_frames": sound_delay(file_sound.beginning, driving_sound) * clip.fps,
        "lip_lag_frames": lag if correlation >= limits.sync_clear else np.nan,
        "lip_correlation": correlation,
        "darkest_frame": min(measured.levels, default=0.0),
        "frozen_s": _longest_run(np.array(measured.changes[1:]) < _FROZEN_CHANGE) / clip.fps,
        "faces": _face_share(boxes, _may_show_face(views) & inputs.shows_face),
        "sharpness_kept": _sharpness_ratio(sharpness, views),
        "lufs": loudness(file) if file_sound.samples else -np.inf,
        "lufs_target": inputs.loudness,
        "peak": file_sound.peak,
        "transcript_misread": inputs.is_misread,
        "unseen_hands": inputs.unseen.hands,
        "unseen_arms": inputs.unseen.arms,
        "face_hidden": not inputs.shows_face,
    } | ({} if inputs.listening_mm is None else {"listening_mm": inputs.listening_mm})
    measures = {name: float(value) for name, value in m.items()}
    return Examination(judge(measures, clip.fps, limits, inputs.cues), measured.poster)


def judge(m: dict[str, float], fps: float, limits: QualityParams, cues: tuple[CueOutcome, ...] = ()) -> Verdict:
    """The verdict on the measures of `examine` and on cues. A measure that is nan breaks no rule."""
    broken_rules: list[tuple[str, str]] = []

    def rule(verdict: str, is_broken: bool, reason: str) -> None:
        if is_broken:
            broken_rules.append((verdict, reason))

    rule("fail", m["frames"] != m["frames_expected"], f"{m['frames']:.0f} frames, expected {m['frames_expected']:.0f}")
    gap = abs(m["audio_minus_video_s"])
    rule("fail", gap > 1 / fps + 2 * _AAC_FRAME_S, f"sound and pictures differ in length by {gap:.2f} s")
    for what in ("audio", "lip"):
        lag = m[f"{what}_lag_frames"]
        rule(
            "fail",
            abs(lag) > limits.lag_frames,
            f"{'the sound' if what == 'audio' else 'the lips'} lag by {lag:+.1f} frames",
        )
    rule("fail", m["darkest_frame"] < limits.black, f"a black frame (mean level {m['darkest_frame']:.0f} of 255)")
    frozen = m["frozen_s"]
    rule(
        "fail" if frozen >= 3 * limits.frozen else "review",
        frozen >= limits.frozen,
        f"the picture stands still for {frozen:.1f} s",
    )
    rule(
        "review",
        m.get("transcript_misread", 0.0) > 0,
        "the transcript is not what is said: words were left out, lips follow the sound alone",
    )
    share = m["faces"]
    rule(
        "fail" if share < limits.faces / 2 else "review",
        share < limits.faces,
        f"a face in {share:.0%} of the frames looked at",
    )
    is_hidden = m.get("face_hidden", 0.0) > 0
    rule("review", is_hidden, "the face is cut off by the picture's edge, or somebody stands before it")
    rule(
        "review",
        np.isnan(share) and not is_hidden,
        "the camera shows no face from the front, and faces are found only there: look at the clip yourself",
    )
    rule(
        "review",
        m["sharpness_kept"] < limits.sharpness,
        f"the face's sharpness falls to {m['sharpness_kept']:.0%} towards the end",
    )
    for part in ("hands", "arms"):
        share = m[f"unseen_{part}"]
        rule("review", share > limits.unseen, f"{share:.0%} of the {part} that are shown were never in the portrait")
    if not np.isfinite(m["lufs"]):
        rule("review", True, "the sound is silent")
    else:
        deviation = m["lufs"] - m["lufs_target"]
        is_peak_limited = deviation < 0 and m["peak"] > 0.9  # the sound cannot be made louder without clipping
        rule(
            "review",
            abs(deviation) > limits.loudness and not is_peak_limited,
            f"loudness is {m['lufs']:.1f} LUFS, {deviation:+.1f} off the target",
        )
    opening = m.get("listening_mm", np.nan)
    rule("review", opening > _MAX_LISTENING_MM, f"the lips part by {opening:.1f} mm while another speaks")
    for cue in cues:
        rule("review", bool(cue.missed), cue.text)
    worst = max((VERDICTS.index(verdict) for verdict, _ in broken_rules), default=0)
    return Verdict(VERDICTS[worst], tuple(reason for _, reason in broken_rules), m, cues)


def together(examined: dict[str, Examination], cues: Sequence[CueOutcome]) -> Examination:
    """What the examinations of the people of a scene, by name, and all of their cues say of the whole."""
    verdicts = {name: each.verdict for name, each in examined.items()}
    first = next(iter(verdicts.values()))
    of_all = [reason for reason in first.reasons if all(reason in v.reasons for v in verdicts.values())]
    of_one = [f"{name}: {reason}" for name, v in verdicts.items() for reason in v.reasons if reason not in of_all]
    missed = [cue.text for cue in cues if cue.missed]  # these name who was to do them
    measures = {name: value for name, value in first.measures.items() if name in _OF_FILE}
    for name, verdict in verdicts.items():
        measures |= {f"{safe_id(name)}.{key}": value for key, value in verdict.measures.items() if key not in _OF_FILE}
    found = [*(verdict.verdict for verdict in verdicts.values()), *("review" for _ in missed)]
    worst = max(found, key=VERDICTS.index)
    whole = Verdict(worst, (*of_all, *of_one, *missed), measures, tuple(cues))
    return Examination(whole, next(iter(examined.values())).poster)


def _measure_frames(file: Path, expected: int, clip: Clip, area: tuple[int, int, int, int]) -> _FrameMeasures:
    """Decode the video once. Of a stereoscopic clip only the left eye is measured.

    expected: number of frames; area: rows and columns that are measured.
    """
    top, bottom, left, right = area
    fps = clip.fps
    step = max(1, round(_SAMPLE_INTERVAL_S * fps))
    measured = _FrameMeasures([], [], [], [], [], b"")
    before = None
    with av.open(str(file)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            gray = frame.to_ndarray(format="gray")[top:bottom, left:right]
            measured.levels.append(float(gray.mean()))
            measured.changes.append(255.0 if before is None else float(cv2.absdiff(gray, before).mean()))
            before = gray
            small = resize_for_detection(gray)
            if index < _MAX_LIP_S * fps:
                measured.gray.append(small)
            if index % step == 0:
                box = _face(small, in_middle=bool(clip.scene))
                measured.boxes.append(box)
                has_face = np.isfinite(box).all()
                measured.sharpness.append(
                    float(cv2.Laplacian(_crop(small, box), cv2.CV_32F).var()) if has_face else np.nan
                )
            if index == expected // 2:
                measured.poster = _jpeg(frame.to_image())
    return measured


def _views(clip: Clip, frames: int) -> np.ndarray:
    """How the camera sees the speaker in every frame, f64 [frames, 4].

    The columns are azimuth to either side in degrees, elevation in degrees, logarithm of the size relative to the
    portrait, and vertical shift in picture heights.
    """

    def view(path: CameraPath) -> np.ndarray:
        angles = angles_along(path, frames, clip.fps)
        size = np.log(angles.zoom / angles.distance)
        return np.stack([np.abs(angles.azimuth), angles.elevation, size, angles.vertical_shift], 1)

    views = view(clip.camera)
    for retake in clip.retakes:
        if retake.camera is not None:
            span = slice(*retake.frames(clip.fps, frames))
            views[span] = view(retake.camera)[span]
    return views


def _may_show_face(views: np.ndarray) -> np.ndarray:
    """Whether the detector can be expected to find a face in such views, bool [frames]."""
    azimuth, _, size, vertical_shift = views.T
    low, high = (np.log(size) for size in _SIZE_RANGE)
    return (
        (azimuth <= _MAX_AZIMUTH_DEG) & (low <= size) & (size <= high) & (np.abs(vertical_shift) <= _MAX_VERTICAL_SHIFT)
    )


def _face_share(boxes: list[np.ndarray], may_show_face: np.ndarray) -> float:
    """Share of frames with a face among the sampled frames that may show one; nan if none may."""
    if not boxes:
        return 0.0
    return float(np.isfinite(np.array(boxes)).all(1)[may_show_face].mean()) if may_show_face.any() else np.nan


def _face(gray: np.ndarray, in_middle: bool = False) -> np.ndarray:
    """x, y and side in px of the largest face, or of the one nearest to the middle, f64 [3]; nan if there is none."""
    faces = find_faces(gray)
    if not len(faces):
        return np.full(3, np.nan)
    return faces[np.abs(faces[:, 0] + faces[:, 2] / 2 - gray.shape[1] / 2).argmin()] if in_middle else faces[0]


def _crop(gray: np.ndarray, box: np.ndarray) -> np.ndarray:
    x, y, side = box.astype(int)
    return gray[max(y, 0) : y + side, max(x, 0) : x + side]


def _mouth_patches(measured: _FrameMeasures, step: int) -> np.ndarray | None:
    """The lower middle of the face in every frame, as small gray patches f32 [T, P]; None if faces are too rare."""
    boxes = np.array(measured.boxes)
    has_face = np.isfinite(boxes).all(1) if len(boxes) else np.zeros(0, bool)
    if has_face.sum() < 3:
        return None
    face_frames = np.flatnonzero(has_face) * step
    frames = np.arange(len(measured.gray))
    x, y, side = (
        uniform_filter1d(np.interp(frames, face_frames, boxes[has_face, k]), 11, mode="nearest") for k in range(3)
    )
    size = (max(8, int(0.5 * side.mean())), max(8, int(0.42 * side.mean())))
    patches = [
        cv2.getRectSubPix(gray, size, (x[t] + 0.5 * side[t], y[t] + 0.82 * side[t]))
        for t, gray in enumerate(measured.gray)
    ]
    return np.stack(
        [cv2.resize(patch, (24, 20), interpolation=cv2.INTER_AREA).astype(np.float32).ravel() for patch in patches]
    )


def _sharpness_ratio(sharpness: np.ndarray, views: np.ndarray) -> float:
    """Mean sharpness of the face in the last fifth of the clip, divided by that in the first fifth.

    nan if either fifth shows few faces, or if the camera sees the speaker differently in them.
    """
    fifth = len(sharpness) // 5
    if not fifth:
        return np.nan
    first, last = sharpness[:fifth], sharpness[-fifth:]
    differs = [
        np.abs(statistic(views[:fifth], 0) - statistic(views[-fifth:], 0)) > _SAME_VIEW_TOLERANCE
        for statistic in (np.min, np.mean, np.max)
    ]
    if np.any(differs) or min(np.isfinite(first).sum(), np.isfinite(last).sum()) < _MIN_FACES:
        return np.nan
    return float(np.nanmean(last) / max(np.nanmean(first), 1e-9))


def _longest_run(flags: np.ndarray) -> int:
    """Length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return int(max(edges[1::2] - edges[::2], default=0))


def _jpeg(picture: Image.Image) -> bytes:
    """A JPEG of the picture, scaled down to _POSTER_PX."""
    picture.thumbnail((_POSTER_PX, _POSTER_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
