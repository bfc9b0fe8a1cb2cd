"""Grows the hair of the head: strands with roots on the scalp that follow a style over head and shoulders.

Lengths in m; canonical coordinates as in synthetic.anatomy. S strands, N points a strand, V body vertices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from stereotalker.smplx_layout import REGION
from stereotalker.synthetic.anatomy import HEAD, Anatomy, bump, noise, ramp
from stereotalker.synthetic.strand_groups import Roots, StrandGroup, StrandLook, make_group, scatter_roots

_SKULL_RADII = np.array([0.078, 0.118, 0.108])  # m, half axes of the ellipsoid that stands for the skull
_GUIDES = 1500  # strands that are grown step by step; the others run beside them
_MIN_CHEST_LENGTH = 0.12  # m at the sides, above which loose hair follows the chest below the shoulders


@dataclass(frozen=True)
class HairStyle:
    """How hair lies. Lengths in m."""

    length: float  # on top of the head
    sides: float  # length at the sides and the back
    volume: float  # height of the outermost strands over the scalp
    line: float = 0.08  # height of the hairline, in skull radii: larger is higher
    parting: float | None = None  # x of the parting; None where there is none
    back: float = 0.0  # strength of the pull to the back
    forward: float = 0.0  # strength of the pull to the front; from 0.9 on a fringe
    upward: float = 0.0  # how far hair stands up before it falls
    curl: float = 0.0  # radius of the curls
    turns: float = 60.0  # of the curls, rad per m
    gather: tuple[float, float, float] | None = None  # canonical point where the hair is tied
    tail: float = 0.0  # length behind the tie; 0 is a bun
    strands: int = 6600
    thickness: float = 0.00052  # radius of a strand, larger than a hair's because few strands stand for many hairs
    clump: float = 0.55  # how far strands approach their guide towards the tip, 0..1
    bald: float = 0.0  # how far the crown is bare, 0..1


STYLES: dict[str, HairStyle] = {
    "buzz": HairStyle(0.008, 0.006, 0.005, strands=9000, clump=0.0, thickness=0.00034),
    "short-parted": HairStyle(0.085, 0.030, 0.026, parting=0.035, back=0.35, upward=0.25),
    "crop": HairStyle(0.050, 0.018, 0.024, forward=0.55, upward=0.55, line=0.05),
    "quiff": HairStyle(0.075, 0.016, 0.040, back=0.9, upward=1.1, line=0.10),
    "slicked": HairStyle(0.120, 0.070, 0.009, back=1.2, line=0.10, clump=0.7),
    "pixie": HairStyle(0.075, 0.050, 0.028, parting=-0.030, forward=0.45, upward=0.15, line=0.02),
    "curls": HairStyle(0.085, 0.055, 0.045, upward=0.8, curl=0.0065, turns=210, clump=0.75, strands=5200),
    "afro": HairStyle(0.085, 0.075, 0.085, upward=2.5, curl=0.006, turns=330, clump=0.15, strands=6400, line=0.02),
    "bob": HairStyle(0.190, 0.140, 0.020, parting=0.020, line=0.02),
    "fringe-bob": HairStyle(0.180, 0.140, 0.020, forward=1.0, line=-0.02),
    "wavy": HairStyle(0.300, 0.270, 0.022, parting=-0.025, curl=0.007, turns=55, line=0.02, strands=7000),
    "long": HairStyle(0.400, 0.360, 0.014, parting=0.0, line=0.02, strands=7600),
    "long-curls": HairStyle(
        0.290, 0.250, 0.034, parting=0.03, curl=0.011, turns=120, line=0.02, strands=6000, clump=0.75
    ),
    "ponytail": HairStyle(0.17, 0.17, 0.006, back=1.0, gather=(0.0, 0.935, -0.075), tail=0.26, line=0.06),
    "bun": HairStyle(0.17, 0.17, 0.006, back=1.0, gather=(0.0, 0.945, -0.080), line=0.06),
    "ring": HairStyle(0.030, 0.022, 0.012, back=0.4, line=0.08, bald=1.0, strands=6000),
}
COVERED = "covered"  # the style of hair under a scarf, of which nothing shows


def style_named(name: str, mirror: bool) -> HairStyle | None:
    """The style of a name, with its parting on the other side if `mirror`; None for covered heads."""
    if name == COVERED:
        return None
    style = STYLES[name]
    return replace(style, parting=-style.parting) if mirror and style.parting else style


def scalp_depth(style: HairStyle, points: np.ndarray) -> np.ndarray:
    """Signed distance (m) from the hairline, f64 [n], positive on the hairy scalp. points [n, 3] canonical."""
    p = (points - HEAD) / _SKULL_RADII
    height = p[:, 1] * np.cos(0.62) - p[:, 2] * np.sin(0.62)
    forehead = np.clip(p[:, 2] - 0.2, 0, 1) * 0.10 * np.clip(1.3 - np.abs(p[:, 0]), 0, 1)
    temples = 0.16 * ramp(np.abs(p[:, 0]), 0.35, 0.75) * ramp(p[:, 2], 0.35, 0.75)
    peak = 0.05 * bump(p[:, 0], 0.35) * np.clip(p[:, 2], 0, 1)
    ears = 0.9 * np.exp(-(((p[:, 1] + 0.18) / 0.26) ** 2 + ((p[:, 2] - 0.02) / 0.22) ** 2)) * (np.abs(p[:, 0]) > 0.80)
    nape = 0.3 * ramp(p[:, 1], -0.62, -0.80)
    crown = style.bald * 0.75 * ramp(p[:, 1], 0.28, 0.62) * ramp(p[:, 2], -0.9, -0.5)
    back = 0.30 * np.clip(-p[:, 2], 0, 1)
    return (height - style.line + back - forehead - temples + peak - ears - nape - crown) * 0.1


def grow(
    style: HairStyle, colour: np.ndarray, grey: float, anatomy: Anatomy, rest: np.ndarray, shell: np.ndarray, seed: int
) -> list[StrandGroup]:
    """Grow the hair of a head. Deterministic in `seed`.

    colour f64 [3] linear light; grey is the share of white strands; rest f64 [V, 3] m is the skin and shell f64 [V, 3]
    m the surface of the clothes over it, both in the rest pose.
    """
    rng = np.random.default_rng([seed, 31])
    roots = scatter_roots(
        anatomy, rest, lambda p: scalp_depth(style, p) + 0.0015 * noise(p, 260, seed), style.strands, rng
    )
    count = len(roots.points)
    crown_shift = rest[anatomy.crown] - anatomy.body.template[anatomy.crown]
    hull = _make_hull(anatomy, rest, shell)
    tie = None if style.gather is None else np.array(style.gather) + crown_shift
    guides = roots.pick(np.sort(rng.choice(count, min(_GUIDES, count), replace=False)))
    guide_paths, guide_lengths = _trace_guides(style, guides, tie, anatomy, rest, crown_shift, hull, rng)

    def split_at_parting(p):
        """Move the two sides of the parting apart, so that no strand finds its guide on the other side."""
        return p + 0.05 * np.sign(p[:, :1] - crown_shift[0] - (style.parting or 0.0)) * np.array([1, 0, 0])

    # Every strand runs beside one of the three guides nearest to it, and approaches it towards the tip.
    nearest = cKDTree(split_at_parting(guides.points)).query(split_at_parting(roots.points), k=3)[1]
    guide = nearest[np.arange(count), rng.integers(3, size=count)]
    s = np.linspace(0, 1, guide_paths.shape[1])[None, :, None]
    offset = (roots.points - guides.points[guide])[:, None] * (
        1 - style.clump * s**1.3 * rng.uniform(0.5, 1, (count, 1, 1))
    )
    stray = rng.normal(0, 0.0035, (count, 1, 3)) * s
    paths = guide_paths[guide] + offset + stray
    if style.curl:
        paths = _curl(paths, style.curl, style.turns, guide_lengths[guide], rng)
    look = StrandLook(style.thickness, colour, grey, REGION["hair"])
    follows_chest = style.sides > _MIN_CHEST_LENGTH and tie is None
    groups = [make_group(paths, roots.anchors, look, rng, follows_chest)]
    if tie is not None:
        groups.append(_behind_tie(style, tie, anatomy, look, hull, rng))
    return groups


def _trace_guides(
    style: HairStyle,
    roots: Roots,
    tie: np.ndarray | None,
    anatomy: Anatomy,
    rest: np.ndarray,
    crown_shift: np.ndarray,
    hull: _Hull,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Grow guide strands step by step: their paths f64 [S, N, 3] m and their lengths f64 [S] m.

    tie f64 [3] m is the point where the hair is tied; crown_shift f64 [3] m leads from the mean body's crown to this
    body's.
    """
    canonical, normals = anatomy.body.template[roots.anchors], anatomy.normals(rest)[roots.anchors]
    S = len(roots.points)
    top = ramp(canonical[:, 1], 0.90, 0.965)
    length = (style.sides + (style.length - style.sides) * top) * rng.uniform(0.82, 1.08, S)
    rank = rng.random(S) ** 0.7  # 0 lies on the scalp, 1 is the outermost layer
    volume = style.volume * (0.55 + 0.45 * top)
    if style.parting is not None:
        volume = volume * (0.35 + 0.65 * np.maximum(ramp(np.abs(canonical[:, 0] - style.parting), 0.0, 0.055), 1 - top))
    if style.forward >= 0.9:  # A fringe ends above the eyes.
        fringe = ramp(canonical[:, 2], 0.03, 0.06) * ramp(np.abs(canonical[:, 0]), 0.064, 0.050)
        length = length * (1 - fringe) + fringe * (0.030 + 1.1 * np.clip(0.128 - canonical[:, 2], 0, 1)) * rng.uniform(
            0.92, 1.04, S
        )
    if tie is not None:
        length = np.linalg.norm(roots.points - tie, axis=1) * 1.25 + 0.02
    N = int(np.clip(length.max() / 0.011, 12, 34))
    paths = np.zeros((S, N, 3))
    paths[:, 0] = roots.points - 0.001 * normals
    direction = normals * min(0.25 + style.upward, 1.0)
    step = (length / (N - 1))[:, None]
    max_lift = 1.4 if style.upward else 0.5
    for k in range(1, N):
        p, s = paths[:, k - 1], (k - 1) / (N - 1)
        if tie is None:
            comb = _comb(style, p - crown_shift, s, length)
        else:
            comb = (tie - p) / (np.linalg.norm(tie - p, axis=1, keepdims=True) + 1e-6)
        n, clearance = hull.above(p)
        rise = min(1.0, 2.6 * s + 0.25) if tie is None else 1.2 * np.sin(np.pi * min(s + 0.12, 1.0))
        target = 0.002 + volume * rank * rise
        lift = np.clip((target - clearance) / np.maximum(step[:, 0], 0.004), -1.2, max_lift)[:, None]
        # Near the hull, the part of the combed direction that leads into it is removed.
        into = np.minimum((comb * n).sum(1, keepdims=True), 0) * n
        along = comb - into * (clearance < target + 0.004)[:, None]
        new = direction * 0.6 + along * (0.75 + 0.4 * s) + n * (0.75 * lift + style.upward * max(1 - 1.4 * s, 0.0))
        direction = new / np.linalg.norm(new, axis=1, keepdims=True)
        paths[:, k] = p + step * direction
        n, clearance = hull.above(paths[:, k])
        paths[:, k] += np.clip(0.0015 + 0.5 * volume * rank * min(3 * s, 1) - clearance, 0, 0.02)[:, None] * n
    return paths, length


def _comb(style: HairStyle, p: np.ndarray, s: float, length: np.ndarray) -> np.ndarray:
    """The direction in which a style pulls strands, unit vectors f64 [S, 3].

    p f64 [S, 3] canonical points; s is the share of the strand that is behind them, 0..1; length f64 [S] m.
    """
    x, y, z = p.T
    top = ramp(y, 0.90, 0.98)
    front = ramp(z, 0.07, 0.14)
    side = np.where(x >= style.parting, 1.0, -1.0) if style.parting is not None else np.clip(x / 0.05, -1, 1)
    sideways = side * (0.9 if style.parting is not None else 0.25) * (0.25 + 0.75 * top)
    sideways = sideways + side * 0.8 * front * ramp(y, 0.95, 0.90) * (style.forward < 0.9)  # away from the face
    back = style.back * (0.4 + 0.6 * top) + 0.5 * front * (length > 0.1) * (style.forward < 0.9) - 0.15
    ahead = style.forward * ramp(z, -0.02, 0.06) * (0.3 + top)
    shoulder = ramp(y, 0.80, 0.74)  # Hair falls either before or behind the shoulders.
    sideways = sideways * (1 - shoulder)
    ahead = ahead + 0.9 * shoulder * np.where(z > 0.035, 1.0, -1.0) * ramp(np.abs(x), 0.03, 0.09)
    down = 0.15 + 1.1 * (1 - top) + 0.9 * s * np.minimum(length / 0.1, 1.0)
    if style.upward > 1.5:  # Hair that stands hardly falls.
        down = down * 0.1
    out = np.stack([sideways, -down, ahead - back], 1)
    return out / (np.linalg.norm(out, axis=1, keepdims=True) + 1e-6)


@dataclass(frozen=True)
class _Hull:
    """The surface that hair lies on: the head without the folds of the ears, and the shoulders with their clothes."""

    tree: cKDTree  # over points
    points: np.ndarray  # f64 [M, 3] m
    normals: np.ndarray  # f32 [M, 3] unit, outwards

    def above(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Outward direction [S, 3] and height (m) [S] of points [S, 3] over the hull."""
        nearest = self.tree.query(p)[1]
        n = self.normals[nearest]
        return n, ((p - self.points[nearest]) * n).sum(1)


def _make_hull(anatomy: Anatomy, rest: np.ndarray, shell: np.ndarray) -> _Hull:
    template = anatomy.body.template
    ears = bump(template[:, 1] - 0.868, 0.045) * bump(template[:, 2] - 0.055, 0.035) * (np.abs(template[:, 0]) > 0.055)
    hull = anatomy.smooth(np.where(anatomy.head[:, None] > 0.5, rest, shell), np.clip(1.6 * ears, 0, 1), 12)
    rows = np.flatnonzero(anatomy.skin & (template[:, 1] > 0.3) & (np.abs(template[:, 0]) < 0.28))
    return _Hull(cKDTree(hull[rows]), hull[rows], anatomy.normals(hull)[rows])


def _curl(paths: np.ndarray, radius: float, turns: float, length: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn paths f64 [S, N, 3] into helices around them, resampled finely enough to be round; f64 [S, N', 3] m.

    Neighbors curl alike. radius in m, turns in rad per m, length f64 [S] m.
    """
    N = max(paths.shape[1], int(length.max() * turns / 0.75))
    N = min(N, 48)
    place = np.linspace(0, paths.shape[1] - 1, N)
    low = np.minimum(place.astype(int), paths.shape[1] - 2)
    paths = paths[:, low] + (place - low)[None, :, None] * (paths[:, low + 1] - paths[:, low])
    tangent = np.gradient(paths, axis=1)
    tangent /= np.linalg.norm(tangent, axis=2, keepdims=True) + 1e-9
    side = np.cross(tangent, np.array([0.3, 0.2, 0.93]))
    side /= np.linalg.norm(side, axis=2, keepdims=True) + 1e-9
    up = np.cross(tangent, side)
    phase = 2.2 * noise(paths[:, 0], 110, 7)[:, None] + rng.normal(0, 0.35, (len(paths), 1))
    angle = phase + length[:, None] * np.linspace(0, 1, N) * turns
    size = radius * np.clip(np.linspace(0, 3, N), 0, 1) * rng.uniform(0.75, 1.2, (len(paths), 1))
    return paths + size[..., None] * (np.cos(angle)[..., None] * side + np.sin(angle)[..., None] * up)


def _behind_tie(
    style: HairStyle, tie: np.ndarray, anatomy: Anatomy, look: StrandLook, hull: _Hull, rng: np.random.Generator
) -> StrandGroup:
    """The hair behind the tie: a ponytail, or a bun that is wound around itself. tie f64 [3] m."""
    S, N = 900, 16
    s = np.linspace(0, 1, N)
    start = tie + rng.normal(0, 0.007, (S, 3))
    if style.tail:
        spread = rng.normal(0, 1, (S, 3)) * np.array([0.020, 0.01, 0.013])
        drop = np.stack(
            [np.zeros(N), -style.tail * s**1.4, -0.055 * np.sin(np.pi * np.minimum(0.25 + s, 1.0)) + 0.02], 1
        )
        taper = np.sin(np.pi * np.clip(s * 0.8 + 0.12, 0, 1))
        paths = start[:, None] + drop * rng.uniform(0.8, 1.05, (S, 1, 1)) + taper[None, :, None] * spread[:, None]
        n, clearance = hull.above(paths.reshape(-1, 3))
        paths += (np.clip(0.004 - clearance, 0, 0.05)[:, None] * n).reshape(S, N, 3)
    else:
        center, tilt = tie + np.array([0, 0.012, -0.018]), rng.uniform(-0.9, 0.9, S)
        angle = rng.uniform(0, 2 * np.pi, S)[:, None] + 3.4 * s
        ring = 0.034 * np.cos(tilt)[:, None]
        paths = center + np.stack(
            [
                ring * np.cos(angle),
                0.030 * np.sin(tilt)[:, None] + 0.55 * ring * np.sin(angle) * 0.8,
                ring * np.sin(angle) * 0.9,
            ],
            2,
        )
    return make_group(paths, np.full(S, anatomy.crown), replace(look, radius=look.radius * 1.5), rng)
