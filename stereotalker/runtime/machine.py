"""What this process may use of its machine."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import psutil

# Files in which Linux says how much memory a container may use: cgroups of version 2 and of version 1.
_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@cache
def usable_cores() -> int:
    """Cores of the machine, less those that affinity, a container's quota or LOKY_MAX_CPU_COUNT take away."""
    import joblib  # takes half a second, and workers do not need it

    return joblib.cpu_count()


def usable_memory() -> int:
    """Bytes of memory of the machine, or of the container if that may use less."""
    limits = [int(text) for file in _MEMORY_LIMITS if file.is_file() and (text := file.read_text().strip()).isdigit()]
    return min([psutil.virtual_memory().total, *limits])
