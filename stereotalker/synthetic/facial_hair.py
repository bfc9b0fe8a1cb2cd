"""Eyebrows, beards and lashes as strands: short hair whose roots lie on the face.

Lengths in m; canonical coordinates as in synthetic.anatomy. S strands, V body vertices. Positions such as 0.9095 are
heights and distances on the mean face.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from stereotalker.body.free_body import PARTS
from stereotalker.smplx_layout import REGION
from stereotalker.synthetic.anatomy import Anatomy, bump, ramp
from stereotalker.synthetic.strand_groups import Roots, StrandGroup, StrandLook, make_group, scatter_roots

_STUBBLE_M = 0.004  # Beards shorter than this have fewer and finer strands.


def brow_line(x: np.ndarray, arch: float) -> np.ndarray:
    """Height (m) of the middle of an eyebrow at a distance x (m) from the midline; arch 0 is straight, 1 is curved."""
    return (
        0.9095
        + 0.155 * np.clip(x - 0.012, 0, 0.030)
        + arch * 0.0022 * bump(x - 0.044, 0.012)
        - (0.20 + 0.15 * arch) * np.clip(x - 0.044, 0, 1)
    )


def brows(colour: np.ndarray, thick: float, arch: float, anatomy: Anatomy, rest: np.ndarray, seed: int) -> StrandGroup:
    """Eyebrows: their hairs lie outwards, and stand upright near the nose.

    colour f64 [3] linear light; thick scales the height of the brow; arch as in `brow_line`; rest f64 [V, 3] m.
    """
    rng = np.random.default_rng([seed, 32])

    def inside(p):
        x = np.abs(p[:, 0])
        middle = brow_line(x, arch)
        half = 0.0030 * thick * ramp(x, 0.061, 0.028) * ramp(x, 0.0095, 0.016)
        return np.where((p[:, 2] > 0.08) & (x < 0.062), half - np.abs(p[:, 1] - middle), -1.0)

    roots = scatter_roots(anatomy, rest, inside, 17000, rng)
    canonical = anatomy.body.template[roots.anchors]
    side, x = np.sign(canonical[:, 0]), np.abs(canonical[:, 0])
    up = ramp(x, 0.034, 0.012)
    direction = np.stack(
        [side * (1.0 - 0.55 * up), 0.18 + 0.9 * up - 0.5 * ramp(x, 0.038, 0.055), -0.35 * ramp(x, 0.03, 0.055)], 1
    )
    length = 0.0075 * rng.uniform(0.6, 1.1, len(roots.points))
    look = StrandLook(0.00010, colour, 0.1, REGION["face"])
    return _short_hairs(roots, direction, length, 0.0008, look, anatomy, rest, rng)


def beard(
    colour: np.ndarray, grey: float, length: float, moustache: bool, anatomy: Anatomy, rest: np.ndarray, seed: int
) -> StrandGroup:
    """A beard of a given length in m. Its edge is soft because the roots thin out there.

    colour f64 [3] linear light; grey is the share of white hairs; rest f64 [V, 3] m.
    """
    rng = np.random.default_rng([seed, 33])
    lips = anatomy.body.masks["lips"]
    mouth = cKDTree(anatomy.body.template[lips > 0.4])

    def inside(p):
        x, y, z = np.abs(p[:, 0]), p[:, 1], p[:, 2]
        # The upper edge of the beard rises towards the ears.
        cheek = 0.822 + 0.30 * np.clip(x - 0.030, 0, 1) ** 1.0 + 0.25 * np.clip(0.10 - z, 0, 1)
        jaw = np.minimum(cheek - y, y - (0.752 + 0.1 * np.clip(0.10 - z, 0, 1)))
        lip = np.minimum(0.0055 - np.abs(y - 0.8335 + 0.18 * x), 0.030 - x) if moustache else np.full(len(p), -1.0)
        chin = np.minimum(0.812 - y + 0.4 * x, y - 0.75)
        area = np.maximum(np.minimum(jaw, z - 0.045), np.maximum(lip, np.minimum(chin, 0.028 - x)))
        off_lips = mouth.query(p)[0] - 0.0035
        return np.minimum(np.minimum(area, off_lips) - 0.004 * rng.random(len(p)), (z > 0.03) * 1.0)

    roots = scatter_roots(anatomy, rest, inside, 16000 if length < _STUBBLE_M else 24000, rng)
    canonical = anatomy.body.template[roots.anchors]
    direction = np.stack(
        [
            0.35 * np.sign(canonical[:, 0]) * ramp(np.abs(canonical[:, 0]), 0.0, 0.05),
            np.full(len(canonical), -1.0),
            0.25 * ramp(canonical[:, 2], 0.08, 0.14),
        ],
        1,
    )
    lengths = length * rng.uniform(0.55, 1.15, len(roots.points)) * (0.75 + 0.5 * ramp(canonical[:, 1], 0.80, 0.775))
    look = StrandLook(0.00013 if length < _STUBBLE_M else 0.00022, colour, grey, REGION["face"])
    return _short_hairs(roots, direction, lengths, 0.25 * length, look, anatomy, rest, rng)


def lashes(colour: np.ndarray, thick: float, anatomy: Anatomy, rest: np.ndarray, seed: int) -> StrandGroup:
    """Lashes that grow from the body file's lash ribbons: fine hairs instead of a solid band.

    colour f64 [3] linear light; thick scales the lashes' length and radius; rest f64 [V, 3] m.
    """
    rng = np.random.default_rng([seed, 34])
    body = anatomy.body
    number = PARTS["lashes"][0]
    faces = body.faces[(body.part[body.faces] == number).all(1)]
    picks = faces[rng.integers(len(faces), size=190)]
    bary = rng.dirichlet((1, 1, 1), len(picks))
    base = (rest[picks] * bary[..., None]).sum(1)
    c = (body.template[picks] * bary[..., None]).sum(1)
    is_upper = c[:, 1] > 0.8850 - 0.25 * np.clip(np.abs(c[:, 0]) - 0.042, 0, 1)
    fan = np.sign(c[:, 0]) * np.clip((np.abs(c[:, 0]) - 0.029) / 0.012, -1, 1.3) * 0.7
    direction = np.stack([fan, np.where(is_upper, 0.35, -0.45), np.ones(len(c))], 1) + rng.normal(0, 0.12, c.shape)
    length = np.where(is_upper, 0.0050, 0.0020)[:, None] * rng.uniform(0.6, 1.1, (len(picks), 1)) * thick
    s = np.linspace(0, 1, 4)[None, :, None]
    curl = np.where(is_upper, 0.0030, -0.0004)[:, None, None] * s**2 * np.array([0, 1.0, 0])
    unit = direction / np.linalg.norm(direction, axis=1, keepdims=True)
    paths = base[:, None] + s * (unit * length)[:, None] + curl * thick
    return make_group(paths, picks[:, 0], StrandLook(0.00007 * thick, colour * 0.3, 0.0, REGION["face"]), rng)


def _short_hairs(
    roots: Roots,
    direction: np.ndarray,
    length: np.ndarray,
    stand: float,
    look: StrandLook,
    anatomy: Anatomy,
    rest: np.ndarray,
    rng: np.random.Generator,
) -> StrandGroup:
    """Short hairs along direction f64 [S, 3], of length f64 [S] m, that rise `stand` m over the skin."""
    n = anatomy.normals(rest)[roots.anchors]
    direction = direction + rng.normal(0, 0.22, direction.shape)
    direction -= 0.9 * (direction * n).sum(1, keepdims=True) * n
    direction /= np.linalg.norm(direction, axis=1, keepdims=True) + 1e-6
    s = np.linspace(0, 1, 4)[None, :, None]
    paths = (
        roots.points[:, None]
        + s * (length[:, None] * direction)[:, None]
        + 2.2 * s * (1 - 0.55 * s) * stand * n[:, None]
        - 0.0003 * n[:, None]
    )
    return make_group(paths, roots.anchors, look, rng)
