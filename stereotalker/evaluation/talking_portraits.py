"""Real-looking portraits that speak: does an independent detector find the face, and see the jaw open when it should?"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stereotalker.avatar.mediapipe_detector import JawTracker
from stereotalker.diffusion.windows import Window
from stereotalker.geometry import camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.motion.export import jaw_open
from stereotalker.records import Avatar, Motion
from stereotalker.render.renderer import Renderer

_LAGS = 5  # frames that are looked at to either side
_SHOWN = 6  # frames of a row of the sheet


@dataclass(frozen=True)
class Spoken:
    """A portrait's clip under the detector."""

    name: str
    found: float  # share of frames with a face
    correlation: float  # of the jaw that is seen with the driving one, at the best lag
    lag: int  # frames by which the pictures follow
    row: np.ndarray  # u8 [H, W, 3] the portrait and some frames


def speak(renderer: Renderer, avatar: Avatar, motion: Motion, watch: JawTracker, size: int = 256) -> Spoken:
    """Render the motion from the front and look at it."""
    H, W = avatar.regions.shape
    shape = tuple(2 * round(extent * size / max(H, W) / 2) for extent in (H, W))
    T = len(motion.poses)
    view = camera.around(avatar, CameraPath(), T, motion.fps, shape)
    frames = renderer.segment(avatar, motion, view, Window(0, 0, T, 0), 0)
    seen, driving = watch.jaw(frames), jaw_open(motion)
    correlation, lag = _best_lag(seen, driving)
    at = np.unique(
        np.concatenate([[np.argmax(driving), np.argmin(driving)], np.linspace(0, T - 1, _SHOWN - 2)]).astype(int)
    )[:_SHOWN]
    shown = [
        cv2.resize(avatar.portrait, shape[::-1], interpolation=cv2.INTER_AREA),
        *frames[at],
        *[frames[-1]] * (_SHOWN - len(at)),
    ]
    return Spoken(avatar.name, float(np.isfinite(seen).mean()), correlation, lag, np.concatenate(shown, 1))


def _best_lag(seen: np.ndarray, driving: np.ndarray) -> tuple[float, int]:
    """The best correlation over small lags, and that lag; nan and 0 where nothing can be said."""
    best = (np.nan, 0)
    for lag in sorted(range(-_LAGS, _LAGS + 1), key=abs):
        a, b = (seen[lag:], driving[: len(driving) - lag]) if lag >= 0 else (seen[:lag], driving[-lag:])
        good = np.isfinite(a)
        if good.sum() > 2 * _LAGS and a[good].std() > 0 and b[good].std() > 0:
            value = float(np.corrcoef(a[good], b[good])[0, 1])
            if not best[0] >= value:
                best = (value, lag)
    return best


def summary(spoken: list[Spoken]) -> dict[str, float]:
    """The figures of metrics/render.json; medians and the worst."""
    if not spoken:
        return {}
    correlations = [s.correlation for s in spoken if np.isfinite(s.correlation)] or [np.nan]
    return {
        "portraits": len(spoken), "face_found": float(np.mean([s.found for s in spoken])), "face_found_worst": min(s.found for s in spoken),
        "jaw_correlation": float(np.median(correlations)), "jaw_correlation_worst": min(correlations),
        "jaw_lag_frames": float(np.median([s.lag for s in spoken])), "jaw_lag_worst": float(max(abs(s.lag) for s in spoken)),
    }  # fmt: skip
