"""The lag of one series behind another: short series by a score at every lag, sound by its cross-correlation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.signal import correlate

Score = Callable[[np.ndarray, np.ndarray], float]


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two series [N] where `a` is finite; nan if either is constant there or one value is left."""
    valid = np.isfinite(a)
    if valid.sum() < 2 or a[valid].std() == 0 or b[valid].std() == 0:
        return float("nan")
    return float(np.corrcoef(a[valid], b[valid])[0, 1])


def lag_scores(late: np.ndarray, driving: np.ndarray, max_lag: int, score: Score = pearson) -> dict[int, float]:
    """Score of the overlap of `late` [T, ...] and `driving` [T] at every lag of at most `max_lag` samples.

    At a positive lag `late` follows `driving` by that many samples. The lags come in the order of their size, so that
    `max` gives the smallest of equal ones.
    """
    scores = {}
    for lag in sorted(range(-max_lag, max_lag + 1), key=abs):
        count = len(driving) - abs(lag)
        scores[lag] = score(late[max(lag, 0) :][:count], driving[max(-lag, 0) :][:count])
    return scores


def best_lag(late: np.ndarray, driving: np.ndarray, max_lag: int, score: Score = pearson) -> tuple[int, float]:
    """The lag with the highest score, and the score. 0 and nan if no lag has a score."""
    scores = {lag: value for lag, value in lag_scores(late, driving, max_lag, score).items() if np.isfinite(value)}
    if not scores:
        return 0, float("nan")
    lag = max(scores, key=scores.__getitem__)
    return lag, scores[lag]


def sound_lag(late: np.ndarray, driving: np.ndarray, max_lag: int | None = None, either_sign: bool = False) -> int:
    """Samples by which the sound `late` [N] follows `driving` [M]: the peak of their cross-correlation.

    max_lag: look no farther than this, in samples; None: look everywhere. either_sign: also take a negative peak, for
    codecs that invert the phase.
    """
    count = min(len(late), len(driving))
    correlation = correlate(late[:count], driving[:count], method="fft")
    if either_sign:
        correlation = np.abs(correlation)
    middle = count - 1  # where the lag is 0
    low = 0 if max_lag is None else max(middle - max_lag, 0)
    high = None if max_lag is None else middle + max_lag + 1
    return int(np.argmax(correlation[low:high])) + low - middle
