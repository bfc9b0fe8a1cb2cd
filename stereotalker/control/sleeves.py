"""Where a sleeve ends: one distance along the arm, because a sleeve ends at one place all around."""

from __future__ import annotations

import numpy as np

# Fraction of the arm's places that a sleeve's end must put on the right side, compared with a sleeve that has no end.
_MIN_BARE_FRACTION = 0.03


def sleeve_end(reach: np.ndarray, is_bare: np.ndarray) -> float:
    """The distance along the arm that separates cloth from skin with the fewest places on the wrong side, m.

    reach f32 [N] m along the arm, and is_bare bool [N], of the places that are visible. 0 if the whole arm is bare;
    infinite if the sleeve reaches the hand, if the colors give no clear answer, or without any place.
    """
    order, count = np.argsort(reach, kind="stable"), len(reach)
    bare_before = np.concatenate([[0], np.cumsum(is_bare[order])])
    cloth_after = np.concatenate([np.cumsum(~is_bare[order][::-1])[::-1], [0]])
    # errors[k]: places on the wrong side if the first k are cloth and the rest is bare.
    errors = bare_before + cloth_after
    best = int(errors.argmin())
    if best == count or errors[-1] - errors[best] <= max(errors[best], _MIN_BARE_FRACTION * count):
        return np.inf
    return 0.0 if best < _MIN_BARE_FRACTION * count else float(reach[order][best])
