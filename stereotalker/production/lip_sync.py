"""How far the lips in the pictures lag behind the motion that drives them."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter1d

from stereotalker.media.time_lag import lag_scores

MIN_LIP_S = 4.0  # seconds of pictures that a lag is measured on; fewer say too little
# Lags that are tried, in frames to either side, and those among them that count as no lag.
_MAX_LAG, _NO_LAG = 8, 2
# A lag is reported only if its correlation is larger by this than that of every lag which counts as none.
_LAG_MARGIN = 0.25
_COMPONENTS, _FOLDS, _RIDGE = 8, 5, 0.05  # of the regression from mouth patch to lip aperture


def lip_lag(mouths: np.ndarray | None, aperture: np.ndarray, fps: float) -> tuple[float, float]:
    """Lag of the mouth in the pictures behind the motion, in frames, and the held-out correlation at that lag (0..1).

    mouths: gray patches f32 [T, P], or None; aperture: f32 [T]. The lag is nan if it cannot be measured: the clip is
    too short, shows no face or no movement, or the best lag is hardly better than none.
    """
    T = len(aperture)
    if mouths is None or len(mouths) != T or T < MIN_LIP_S * fps or np.std(aperture) == 0:
        return np.nan, 0.0
    patches, opening = _without_drift(mouths), _without_drift(aperture[:, None])[:, 0]
    left, scale, _ = np.linalg.svd(patches - patches.mean(0), full_matrices=False)
    parts = (left * scale)[:, :_COMPONENTS]
    parts = parts / max(float(parts.std()), 1e-9)
    scores = lag_scores(parts, opening, _MAX_LAG, _held_out_correlation)
    best = max(scores, key=scores.__getitem__)
    without_lag = max(scores[lag] for lag in range(-_NO_LAG, _NO_LAG + 1))
    is_clear = abs(best) <= _NO_LAG or scores[best] - without_lag >= _LAG_MARGIN
    return float(best) if is_clear else np.nan, max(scores[best], 0.0)


def _held_out_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of y [T] with its ridge regression on x [T, C], each fold predicted from the others."""
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
    """Subtract the moving average over 25 frames, because light and pose change slowly while lips move fast."""
    return x - uniform_filter1d(x.astype(np.float64), 25, axis=0, mode="nearest")
