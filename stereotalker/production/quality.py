"""Quality gate of a finished clip: pass, review or fail, with reasons. It looks at the file alone, as a viewer would.

Faces are found with OpenCV's Haar cascade (Viola and Jones 2001; the file comes in OpenCV's wheel), which has never seen our
renderer. Lips against sound has two legs: the file's sound against the sound that drove the motion, by cross-correlation; and the
mouth's pixels against the motion's lip aperture, by ridge regression on the patch's principal components with held-out folds, at
every lag. Where the second finds no clear peak, it says so and judges nothing.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image
from scipy.io import wavfile
from scipy.ndimage import uniform_filter1d
from scipy.signal import correlate

from stereotalker.geometry.camera import angles_along
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.media.audio_files import OUTPUT_RATE, loudness
from stereotalker.media.faces import find_faces, fitted
from stereotalker.params import QualityParams
from stereotalker.production.manifest import Clip

VERDICTS = ("pass", "review", "fail")
_LOOK_S = 0.2  # between frames that are searched for a face
# Cameras under which the detector knows a face as one: degrees to a side, the person's size over the portrait's, the frame's rise in picture heights.
_FACING, _SIZES, _RISE = 20.0, (0.6, 1.3), 0.2
_POSTER = 256  # px
_STILL = 0.05  # mean change of a frame, of 255, below which it stands still; the encoder repeats such frames exactly
_LAGS, _NEAR = 8, 2  # frames to either side: looked at, and counted as no lag when margins are asked for
_LOOKS = 4  # in a fifth of a clip: of fewer, sharpness tells a blink from nothing
_ALIKE = (2.0, 2.0, 0.03, 0.02)  # by which views of _views may differ, and their faces are as sharp
_LIPS_S = (4.0, 60.0)  # of pictures that lips are judged on: shorter ones tell too little, longer ones take memory
_MARGIN = 0.25  # by which a lag's correlation must beat those near none
_COMPONENTS, _FOLDS, _RIDGE = 8, 5, 0.05
_AAC_FRAME_S = 1024 / OUTPUT_RATE


@dataclass(frozen=True)
class Verdict:
    verdict: str  # one of VERDICTS
    reasons: tuple[str, ...]
    measures: dict[str, float]  # nan: could not be told

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        values = json.loads(text)
        return cls(values["verdict"], tuple(values["reasons"]), values["measures"])


@dataclass(frozen=True)
class Examined:
    verdict: Verdict
    poster: bytes  # JPEG of the middle frame


@dataclass
class _Looks:
    """What one pass over the pictures leaves: a few numbers a frame, and small gray patches of the mouth."""

    levels: list[float]  # mean, of 255
    moves: list[float]  # mean change to the frame before, of 255
    boxes: list[np.ndarray]  # face x, y, side of looked-at frames; nan where none was found
    sharpness: list[float]  # variance of the Laplacian over the face of looked-at frames; nan where none was found
    gray: list[np.ndarray]  # u8 [h, w] of the first _LIPS_S[1] seconds, faces.SIDE px
    poster: bytes


def examine(
    file: Path,
    sound: Path,
    aperture: np.ndarray,
    clip: Clip,
    target: float,
    limits: QualityParams,
    misread: bool = False,
) -> Examined:
    """Look at clip.mp4. sound: the WAV that drove it; aperture f32 [T] the motion's lip opening, any unit; target LUFS.

    misread: the clip has a transcript, and it is not what is said.
    """
    looks = _look(file, len(aperture), clip)
    heard, driving = _sound_of(file), _wav(sound)
    step = max(1, round(_LOOK_S * clip.fps))
    views = _views(clip, len(aperture))[::step]
    boxes, sharpness = (
        looks.boxes[: len(views)],
        np.array(looks.sharpness[: len(views)]),
    )  # a file may have too many frames, or too few
    views = views[: len(boxes)]
    lips, clear = lip_lag(_mouths(looks, step), aperture[: len(looks.gray)], clip.fps)
    audio_lag = _audio_lag(heard, driving) * clip.fps
    m = {
        "frames": len(looks.levels), "frames_expected": len(aperture),
        "audio_minus_video_s": heard.shape[1] / OUTPUT_RATE - len(looks.levels) / clip.fps,
        "audio_lag_frames": audio_lag, "lip_lag_frames": lips if clear >= limits.sync_clear else np.nan, "lip_correlation": clear,
        "darkest_frame": min(looks.levels, default=0.0), "frozen_s": _longest(np.array(looks.moves[1:]) < _STILL) / clip.fps,
        "faces": _share(boxes, _facing(views)),
        "sharpness_kept": _kept(sharpness, views), "lufs": loudness(heard) if heard.size else -np.inf, "lufs_target": target,
        "peak": float(np.abs(heard).max(initial=0.0)), "transcript_misread": misread,
    }  # fmt: skip
    measures = {name: float(value) for name, value in m.items()}
    return Examined(judge(measures, clip.fps, limits), looks.poster)


def judge(m: dict[str, float], fps: float, limits: QualityParams) -> Verdict:
    """The verdict on measures as `examine` makes them; a measure that could not be told judges nothing."""
    found: list[tuple[str, str]] = []

    def rule(verdict: str, broken: bool, reason: str) -> None:
        if broken:
            found.append((verdict, reason))

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
    rule(
        "review",
        np.isnan(share),
        "the camera shows no face from the front, and faces are found only there: look at the clip yourself",
    )
    rule(
        "review",
        m["sharpness_kept"] < limits.sharpness,
        f"the face's sharpness falls to {m['sharpness_kept']:.0%} towards the end",
    )
    if not np.isfinite(m["lufs"]):
        rule("review", True, "the sound is silent")
    else:
        off = m["lufs"] - m["lufs_target"]
        peaks = off < 0 and m["peak"] > 0.9  # loud peaks keep it from being raised further
        rule(
            "review",
            abs(off) > limits.loudness and not peaks,
            f"loudness is {m['lufs']:.1f} LUFS, {off:+.1f} off the target",
        )
    worst = max((VERDICTS.index(verdict) for verdict, _ in found), default=0)
    return Verdict(VERDICTS[worst], tuple(reason for _, reason in found), m)


def lip_lag(mouths: np.ndarray | None, aperture: np.ndarray, fps: float) -> tuple[float, float]:
    """Frames by which the mouth in the pictures follows the motion, and the held-out correlation there (0..1).

    mouths: gray patches f32 [T, P] or None; aperture f32 [T]. nan where it cannot be told: too short, no face, no movement, or a
    lag that is hardly better than none.
    """
    T = len(aperture)
    if mouths is None or len(mouths) != T or T < _LIPS_S[0] * fps or np.std(aperture) == 0:
        return np.nan, 0.0
    patches, opening = _without_drift(mouths), _without_drift(aperture[:, None])[:, 0]
    left, scale, _ = np.linalg.svd(patches - patches.mean(0), full_matrices=False)
    parts = (left * scale)[:, :_COMPONENTS]
    parts = parts / max(float(parts.std()), 1e-9)
    scores = {}
    for lag in range(-_LAGS, _LAGS + 1):
        x, y = parts[max(lag, 0) : T + min(lag, 0)], opening[max(-lag, 0) : T - max(lag, 0)]
        scores[lag] = _held_out_correlation(x, y)
    best = max(scores, key=scores.get)
    near = max(scores[lag] for lag in range(-_NEAR, _NEAR + 1))
    told = abs(best) <= _NEAR or scores[best] - near >= _MARGIN
    return float(best) if told else np.nan, max(scores[best], 0.0)


def _held_out_correlation(x: np.ndarray, y: np.ndarray) -> float:
    folds = np.arange(len(y)) * _FOLDS // len(y)
    predicted = np.zeros(len(y))
    for fold in range(_FOLDS):
        train, test = folds != fold, folds == fold
        a = x[train]
        weights = np.linalg.solve(a.T @ a + _RIDGE * len(a) * np.eye(a.shape[1]), a.T @ (y[train] - y[train].mean()))
        predicted[test] = x[test] @ weights
    if predicted.std() == 0 or y.std() == 0:
        return 0.0
    return float(np.corrcoef(predicted, y)[0, 1])


def _without_drift(x: np.ndarray) -> np.ndarray:
    return x - uniform_filter1d(x.astype(np.float64), 25, axis=0, mode="nearest")


def _look(file: Path, expected: int, clip: Clip) -> _Looks:
    """Of a stereoscopic clip the left eye is looked at."""
    fps = clip.fps
    step, looks, before = max(1, round(_LOOK_S * fps)), _Looks([], [], [], [], [], b""), None
    with av.open(str(file)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            gray = frame.to_ndarray(format="gray")[: clip.height, : clip.width]
            looks.levels.append(float(gray.mean()))
            looks.moves.append(255.0 if before is None else float(cv2.absdiff(gray, before).mean()))
            before = gray
            small = fitted(gray)
            if index < _LIPS_S[1] * fps:
                looks.gray.append(small)
            if index % step == 0:
                box = _face(small)
                looks.boxes.append(box)
                looks.sharpness.append(
                    float(cv2.Laplacian(_crop(small, box), cv2.CV_32F).var()) if np.isfinite(box).all() else np.nan
                )
            if index == expected // 2:
                looks.poster = _jpeg(frame.to_image())
    return looks


def _views(clip: Clip, frames: int) -> np.ndarray:
    """How every frame sees the speaker, f64 [frames, 4]: degrees to a side and upwards, logarithm of the size over the portrait's, the frame's rise."""

    def view(move: CameraPath) -> np.ndarray:
        way = angles_along(move, frames, clip.fps)
        return np.stack([np.abs(way.azimuth), way.elevation, np.log(way.zoom / way.distance), way.vertical_shift], 1)

    found = view(clip.camera)
    for take in clip.retakes:
        if take.camera is not None:
            taken = slice(*take.frames(clip.fps, frames))
            found[taken] = view(take.camera)[taken]
    return found


def _facing(views: np.ndarray) -> np.ndarray:
    """Whether the detector knows a face as one in such views, bool [frames]."""
    aside, _, size, vertical_shift = views.T
    return (
        (aside <= _FACING)
        & (np.log(_SIZES[0]) <= size)
        & (size <= np.log(_SIZES[1]))
        & (np.abs(vertical_shift) <= _RISE)
    )


def _share(boxes: list[np.ndarray], facing: np.ndarray) -> float:
    """Of looked-at frames that may show a face, those that do; nan where none may."""
    if not boxes:
        return 0.0
    return float(np.isfinite(boxes).all(1)[facing].mean()) if facing.any() else np.nan


def _face(gray: np.ndarray) -> np.ndarray:
    """x, y, side of the largest face, px; nan where there is none."""
    found = find_faces(gray)
    return found[0] if len(found) else np.full(3, np.nan)


def _crop(gray: np.ndarray, box: np.ndarray) -> np.ndarray:
    x, y, side = box.astype(int)
    return gray[max(y, 0) : y + side, max(x, 0) : x + side]


def _mouths(looks: _Looks, step: int) -> np.ndarray | None:
    """The lower middle of the face in every frame, small and gray, f32 [T, P]; None where faces are too rare."""
    boxes = np.array(looks.boxes)
    seen = np.isfinite(boxes).all(1) if len(boxes) else np.zeros(0, bool)
    if seen.sum() < 3:
        return None
    at = np.flatnonzero(seen) * step
    frames = np.arange(len(looks.gray))
    x, y, side = (uniform_filter1d(np.interp(frames, at, boxes[seen, k]), 11, mode="nearest") for k in range(3))
    size = (max(8, int(0.5 * side.mean())), max(8, int(0.42 * side.mean())))
    cut = [cv2.getRectSubPix(g, size, (x[t] + 0.5 * side[t], y[t] + 0.82 * side[t])) for t, g in enumerate(looks.gray)]
    return np.stack(
        [cv2.resize(patch, (24, 20), interpolation=cv2.INTER_AREA).astype(np.float32).ravel() for patch in cut]
    )


def _kept(sharpness: np.ndarray, views: np.ndarray) -> float:
    """Mean sharpness of the last fifth over the first fifth; nan where either shows few faces, and where the camera sees them otherwise."""
    fifth = len(sharpness) // 5
    if not fifth:
        return np.nan
    before, after = sharpness[:fifth], sharpness[-fifth:]
    moved = [np.abs(of(views[:fifth], 0) - of(views[-fifth:], 0)) > _ALIKE for of in (np.min, np.mean, np.max)]
    if np.any(moved) or min(np.isfinite(before).sum(), np.isfinite(after).sum()) < _LOOKS:
        return np.nan
    return float(np.nanmean(after) / max(np.nanmean(before), 1e-9))


def _longest(flags: np.ndarray) -> int:
    """Length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return int(max(edges[1::2] - edges[::2], default=0))


def _sound_of(file: Path) -> np.ndarray:
    """The file's sound, f32 [2, N] at OUTPUT_RATE."""
    with av.open(str(file)) as container:
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=OUTPUT_RATE)
        parts = [out.to_ndarray() for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate(parts, 1) if parts else np.zeros((2, 0), np.float32)


def _wav(path: Path) -> np.ndarray:
    _, samples = wavfile.read(path, mmap=True)
    return samples


def _audio_lag(heard: np.ndarray, driving: np.ndarray) -> float:
    """Seconds by which the file's sound follows the driving sound (i16 [N, 2]), from its first half minute; 0 for silence."""
    count = min(heard.shape[1], len(driving), 30 * OUTPUT_RATE)
    a, b = heard[:, :count].mean(0), driving[:count].mean(1) / 32768
    if not np.any(np.abs(a) > 1e-4) or not np.any(np.abs(b) > 1e-4):
        return 0.0
    return (int(np.argmax(correlate(a, b, method="fft"))) - (count - 1)) / OUTPUT_RATE


def _jpeg(picture: Image.Image) -> bytes:
    picture.thumbnail((_POSTER, _POSTER), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
