"""How many cores this process may use."""

from __future__ import annotations

from functools import cache


@cache
def usable_cores() -> int:
    """Cores of the machine, less those that the process's affinity or its container's quota take away."""
    import joblib  # takes half a second, and workers do not need it

    return joblib.cpu_count()
