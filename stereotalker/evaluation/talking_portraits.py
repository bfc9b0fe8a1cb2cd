"""Fitted portraits that speak, judged by an independent detector: is there a face, and does the jaw open in time?

T frames of H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stereotalker.avatar.frame_detectors import JawTracker
from stereotalker.diffusion.windows import Window
from stereotalker.geometry import camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.media.contact_sheet import grid
from stereotalker.media.time_lag import best_lag, pearson
from stereotalker.motion.export import jaw_open
from stereotalker.records import Avatar, Motion
from stereotalker.render.renderer import Renderer

_MAX_LAG = 5  # largest lag that is tried, frames to either side
_SHOWN_FRAMES = 6  # frames of a portrait's row on the contact sheet


@dataclass(frozen=True)
class TalkingPortrait:
    """What the detector finds in a rendered clip of a portrait."""

    name: str
    face_share: float  # share of frames in which it finds a face, 0..1
    correlation: float  # of the detected jaw opening with the driving one, at the best lag; nan where unknown
    lag: int  # frames by which the pictures follow the driving motion, at most _MAX_LAG to either side
    row: np.ndarray  # u8 [H, W, 3] the portrait, with some frames beside it


def render_and_track(
    renderer: Renderer, avatar: Avatar, motion: Motion, tracker: JawTracker, size: int = 256
) -> TalkingPortrait:
    """Render the motion from the front and measure face and jaw in the frames. size: longer side of the frames, px."""
    H, W = avatar.regions.shape
    shape = tuple(2 * round(extent * size / max(H, W) / 2) for extent in (H, W))
    T = len(motion.poses)
    view = camera.avatar_camera(avatar, CameraPath(), T, motion.fps, shape)
    frames = renderer.segment(avatar, motion, view, Window(0, 0, T, 0), 0)
    detected, driving = tracker.jaw(frames), jaw_open(motion)
    lag, correlation = best_lag(detected, driving, _MAX_LAG, _score)
    indices = np.unique(
        np.concatenate([[np.argmax(driving), np.argmin(driving)], np.linspace(0, T - 1, _SHOWN_FRAMES - 2)]).astype(int)
    )[:_SHOWN_FRAMES]
    tiles = [
        cv2.resize(avatar.portrait, shape[::-1], interpolation=cv2.INTER_AREA),
        *frames[indices],
        *[frames[-1]] * (_SHOWN_FRAMES - len(indices)),
    ]
    return TalkingPortrait(avatar.name, float(np.isfinite(detected).mean()), correlation, lag, grid([tiles]))


def _score(detected: np.ndarray, driving: np.ndarray) -> float:
    """The correlation, or nan if the detector found too few frames."""
    return pearson(detected, driving) if np.isfinite(detected).sum() > 2 * _MAX_LAG else float("nan")


def summary(spoken: list[TalkingPortrait]) -> dict[str, float]:
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
