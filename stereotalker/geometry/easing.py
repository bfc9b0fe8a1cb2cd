"""How movements begin and end."""

from __future__ import annotations

import numpy as np


def minimum_jerk(x: np.ndarray) -> np.ndarray:
    """The minimum-jerk ramp (Flash and Hogan 1985) from 0 at x = 0 to 1 at x = 1, constant outside."""
    x = np.clip(x, 0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)
