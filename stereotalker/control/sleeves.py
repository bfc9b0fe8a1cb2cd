"""Where a sleeve ends: one distance along the arm, because a sleeve ends at one place all around."""

from __future__ import annotations

import numpy as np

# Share of the arm's places that a sleeve's end must put on the right side, compared with a sleeve that has no end.
_MIN_BARE_FRACTION = 0.03
# An end is believed if it sets right more than this many times what it leaves wrong.
_MIN_GAIN = 0.6
# Stretches of the arm count nearly alike, however few pixels show them, because a forearm that points at the camera
# has few. One with this share of the pixels that a stretch has on the average counts half.
_STRETCH_M, _HALF_SHARE = 0.03, 0.4


def sleeve_end(reach: np.ndarray, is_bare: np.ndarray) -> float:
    """The distance along the arm that separates cloth from skin with the least weight on the wrong side, m.

    reach f32 [N] m along the arm, and is_bare bool [N], of the places that are visible. 0 if the whole arm is bare;
    infinite if the sleeve reaches the hand, if the colors give no clear answer, or without any place.
    """
    if not len(reach):
        return np.inf
    order = np.argsort(reach, kind="stable")
    weight = _weights(reach)[order]
    bare, cloth = weight * is_bare[order], weight * ~is_bare[order]
    bare_before = np.concatenate([[0], np.cumsum(bare)])
    cloth_after = np.concatenate([np.cumsum(cloth[::-1])[::-1], [0]])
    # errors[k]: weight on the wrong side if the first k are cloth and the rest is bare.
    errors, total = bare_before + cloth_after, weight.sum()
    best = int(errors.argmin())
    if best == len(reach) or errors[-1] - errors[best] <= max(_MIN_GAIN * errors[best], _MIN_BARE_FRACTION * total):
        return np.inf
    return 0.0 if weight[:best].sum() < _MIN_BARE_FRACTION * total else float(reach[order][best])


def _weights(reach: np.ndarray) -> np.ndarray:
    """How much every place counts, [N]. reach [N] m."""
    stretch = (reach / _STRETCH_M).astype(int)
    count = np.bincount(stretch)
    return (1 / (count + _HALF_SHARE * count[count > 0].mean()))[stretch]
