"""Fitted portraits that speak, judged by an independent detector: is there a face, and does the jaw open in time?

T frames of H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stereotalker.avatar.mediapipe_detector import JawTracker
from stereotalker.diffusion.windows import Window
from stereotalker.geometry import camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.media.contact_sheet import grid
from stereotalker.motion.export import jaw_open
from stereotalker.records import Avatar, Motion
from stereotalker.render.renderer import Renderer

_MAX_LAG = 5  # largest lag that is tried, frames to either side
_SHOWN_FRAMES = 6  # frames of a portrait's row on the contact sheet


@dataclass(frozen=True)
class Spoken:
    """What the detector finds in a rendered clip of a portrait."""

    name: str
    face_share: float  # share of frames in which it finds a face, 0..1
    correlation: float  # of the detected jaw opening with the driving one, at the best lag; nan where unknown
    lag: int  # frames by which the pictures follow the driving motion, at most _MAX_LAG to either side
    row: np.ndarray  # u8 [H, W, 3] the portrait, with some frames beside it


def render_and_track(
    renderer: Renderer, avatar: Avatar, motion: Motion, tracker: JawTracker, size: int = 256
) -> Spoken:
    """Render the motion from the front and measure face and jaw in the frames. size: longer side of the frames, px."""
    H, W = avatar.regions.shape
    shape = tuple(2 * round(extent * size / max(H, W) / 2) for extent in (H, W))
    T = len(motion.poses)
    view = camera.around(avatar, CameraPath(), T, motion.fps, shape)
    frames = renderer.segment(avatar, motion, view, Window(0, 0, T, 0), 0)
    detected, driving = tracker.jaw(frames), jaw_open(motion)
    correlation, lag = _best_lag(detected, driving)
    indices = np.unique(
        np.concatenate([[np.argmax(driving), np.argmin(driving)], np.linspace(0, T - 1, _SHOWN_FRAMES - 2)]).astype(int)
    )[:_SHOWN_FRAMES]
    tiles = [
        cv2.resize(avatar.portrait, shape[::-1], interpolation=cv2.INTER_AREA),
        *frames[indices],
        *[frames[-1]] * (_SHOWN_FRAMES - len(indices)),
    ]
    return Spoken(avatar.name, float(np.isfinite(detected).mean()), correlation, lag, grid([tiles]))


def _best_lag(detected: np.ndarray, driving: np.ndarray) -> tuple[float, int]:
    """The highest correlation over small lags, and that lag in frames (positive: `detected` is late).

    detected: f32 [T], nan where nothing was detected; driving: f32 [T]. Of equal correlations the smallest lag wins.
    Returns nan and 0 where no lag leaves enough frames, or where either signal is constant.
    """
    best = (np.nan, 0)
    for lag in sorted(range(-_MAX_LAG, _MAX_LAG + 1), key=abs):
        a, b = (detected[lag:], driving[: len(driving) - lag]) if lag >= 0 else (detected[:lag], driving[-lag:])
        valid = np.isfinite(a)
        if valid.sum() > 2 * _MAX_LAG and a[valid].std() > 0 and b[valid].std() > 0:
            value = float(np.corrcoef(a[valid], b[valid])[0, 1])
            if not best[0] >= value:  # also true while best[0] is nan
                best = (value, lag)
    return best


def summary(spoken: list[Spoken]) -> dict[str, float]:
    """The keys of metrics/render.json that come from portraits: medians, and the worst portrait."""
    if not spoken:
        return {}
    correlations = [s.correlation for s in spoken if np.isfinite(s.correlation)] or [np.nan]
    return {
        "portraits": len(spoken),
        "face_found": float(np.mean([s.face_share for s in spoken])),
        "face_found_worst": min(s.face_share for s in spoken),
        "jaw_correlation": float(np.median(correlations)),
        "jaw_correlation_worst": min(correlations),
        "jaw_lag_frames": float(np.median([s.lag for s in spoken])),
        "jaw_lag_worst": float(max(abs(s.lag) for s in spoken)),
    }
