"""Hair as strands: roots on the scalp, a style that says how they lie, grown step by step over the head and the shoulders.

Also brows, lashes and beards, which are short hair with roots on the face. Canonical coordinates as in people.anatomy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_matrix, vstack
from scipy.spatial import cKDTree

from stereotalker.body.free_body import PARTS
from stereotalker.smplx_layout import REGION
from stereotalker.synthetic.anatomy import HEAD, Anatomy, bump, noise, ramp
from stereotalker.synthetic.bound_mesh import pack
from stereotalker.synthetic.shading import Strands

_RADII = np.array([0.078, 0.118, 0.108])  # of the skull
_GUIDES = 1500  # strands that are grown; the others run beside them


@dataclass(frozen=True)
class Style:
    """How hair lies. Lengths in m."""

    length: float  # on top
    sides: float  # at the sides and the back
    volume: float  # the outermost strands' height over the scalp
    line: float = 0.08  # height of the hair line, in skull radii: larger is higher
    parting: float | None = None  # x of the parting; None: none
    back: float = 0.0  # pull to the back
    forward: float = 0.0  # pull to the front: a fringe
    upward: float = 0.0  # stands up before it falls
    curl: float = 0.0  # radius of the curls
    turns: float = 60.0  # of a curl, rad per m
    gather: tuple[float, float, float] | None = None  # where the hair is tied
    tail: float = 0.0  # length behind the tie; 0: a bun
    strands: int = 6600
    thickness: float = 0.00052
    clump: float = 0.55
    bald: float = 0.0  # 0..1, how far the crown is bare


STYLES: dict[str, Style] = {
    "buzz": Style(0.008, 0.006, 0.005, strands=9000, clump=0.0, thickness=0.00034),
    "short-parted": Style(0.085, 0.030, 0.026, parting=0.035, back=0.35, upward=0.25),
    "crop": Style(0.050, 0.018, 0.024, forward=0.55, upward=0.55, line=0.05),
    "quiff": Style(0.075, 0.016, 0.040, back=0.9, upward=1.1, line=0.10),
    "slicked": Style(0.120, 0.070, 0.009, back=1.2, line=0.10, clump=0.7),
    "pixie": Style(0.075, 0.050, 0.028, parting=-0.030, forward=0.45, upward=0.15, line=0.02),
    "curls": Style(0.085, 0.055, 0.045, upward=0.8, curl=0.0065, turns=210, clump=0.75, strands=5200),
    "afro": Style(0.085, 0.075, 0.085, upward=2.5, curl=0.006, turns=330, clump=0.15, strands=6400, line=0.02),
    "bob": Style(0.190, 0.140, 0.020, parting=0.020, line=0.02),
    "fringe-bob": Style(0.180, 0.140, 0.020, forward=1.0, line=-0.02),
    "wavy": Style(0.300, 0.270, 0.022, parting=-0.025, curl=0.007, turns=55, line=0.02, strands=7000),
    "long": Style(0.400, 0.360, 0.014, parting=0.0, line=0.02, strands=7600),
    "long-curls": Style(0.290, 0.250, 0.034, parting=0.03, curl=0.011, turns=120, line=0.02, strands=6000, clump=0.75),
    "ponytail": Style(0.17, 0.17, 0.006, back=1.0, gather=(0.0, 0.935, -0.075), tail=0.26, line=0.06),
    "bun": Style(0.17, 0.17, 0.006, back=1.0, gather=(0.0, 0.945, -0.080), line=0.06),
    "ring": Style(0.030, 0.022, 0.012, back=0.4, line=0.08, bald=1.0, strands=6000),
}  # fmt: skip
COVERED = "covered"  # under a scarf or a cap that leaves little to see


def scalp_depth(style: Style, points: np.ndarray) -> np.ndarray:
    """Signed depth inside the hairy scalp, m, positive inside. points [N, 3] canonical."""
    p = (points - HEAD) / _RADII
    height = p[:, 1] * np.cos(0.62) - p[:, 2] * np.sin(0.62)
    forehead = np.clip(p[:, 2] - 0.2, 0, 1) * 0.10 * np.clip(1.3 - np.abs(p[:, 0]), 0, 1)
    temples = 0.16 * ramp(np.abs(p[:, 0]), 0.35, 0.75) * ramp(p[:, 2], 0.35, 0.75)
    peak = 0.05 * bump(p[:, 0], 0.35) * np.clip(p[:, 2], 0, 1)
    ears = 0.9 * np.exp(-(((p[:, 1] + 0.18) / 0.26) ** 2 + ((p[:, 2] - 0.02) / 0.22) ** 2)) * (np.abs(p[:, 0]) > 0.80)
    nape = 0.3 * ramp(p[:, 1], -0.62, -0.80)
    crown = style.bald * 0.75 * ramp(p[:, 1], 0.28, 0.62) * ramp(p[:, 2], -0.9, -0.5)
    return (
        height - style.line + 0.30 * np.clip(-p[:, 2], 0, 1) - forehead - temples + peak - ears - nape - crown
    ) * 0.1


@dataclass(frozen=True)
class Lock:
    """Strands in the making: paths [S, N, 3] in the rest pose, anchors [S] body vertices of the roots."""

    paths: np.ndarray
    anchors: np.ndarray
    radius: np.ndarray  # [S, N]
    colour: np.ndarray  # [S, N, 3] linear
    region: int
    falls: bool = False  # low points ride on the chest instead of the head


def grow(
    style: Style, colour: np.ndarray, grey: float, anatomy: Anatomy, rest: np.ndarray, shell: np.ndarray, seed: int
) -> list[Lock]:
    """The hair of a head. colour linear [3]; rest [V, 3] the skin, shell [V, 3] what lies over it (clothes), both in the rest pose."""
    rng = np.random.default_rng([seed, 31])
    roots, anchors = _roots(
        anatomy, rest, lambda p: scalp_depth(style, p) + 0.0015 * noise(p, 260, seed), style.strands, rng
    )
    shift = rest[anatomy.crown] - anatomy.body.template[anatomy.crown]
    hull = _hull(anatomy, rest, shell)
    gather = None if style.gather is None else np.array(style.gather) + shift
    guides = np.sort(rng.choice(len(roots), min(_GUIDES, len(roots)), replace=False))
    traced, length = _trace(style, roots[guides], anchors[guides], gather, anatomy, rest, shift, hull, rng)

    # Every strand runs beside one of the guides near it, on the same side of the parting, and nears it towards the tip.
    def apart(p):
        return p + 0.05 * np.sign(p[:, :1] - shift[0] - (style.parting or 0.0)) * np.array([1, 0, 0])

    near = cKDTree(apart(roots[guides])).query(apart(roots), k=3)[1]
    owner = near[np.arange(len(roots)), rng.integers(3, size=len(roots))]
    s = np.linspace(0, 1, traced.shape[1])[None, :, None]
    away = (roots - roots[guides][owner])[:, None] * (
        1 - style.clump * s**1.3 * rng.uniform(0.5, 1, (len(roots), 1, 1))
    )
    own = rng.normal(0, 0.0035, (len(roots), 1, 3)) * s
    paths = traced[owner] + away + own
    if style.curl:
        paths = _curl(paths, style.curl, style.turns, length[owner], rng)
    locks = [
        _lock(
            paths,
            anchors,
            style.thickness,
            colour,
            grey,
            REGION["hair"],
            rng,
            falls=style.sides > 0.12 and gather is None,
        )
    ]
    if gather is not None:
        locks.append(_tail(style, gather, anatomy, colour, grey, hull, rng))
    return locks


def _trace(
    style: Style, roots, anchors, gather, anatomy: Anatomy, rest, shift, hull: _Hull, rng
) -> tuple[np.ndarray, np.ndarray]:
    """Guide strands [S, N, 3] from roots [S, 3], step by step, and their lengths [S]."""
    canonical, normals, S = anatomy.body.template[anchors], anatomy.normals(rest)[anchors], len(roots)
    top = ramp(canonical[:, 1], 0.90, 0.965)
    length = (style.sides + (style.length - style.sides) * top) * rng.uniform(0.82, 1.08, S)
    rank = rng.random(S) ** 0.7  # 0 lies on the scalp, 1 is the outermost layer
    volume = style.volume * (0.55 + 0.45 * top)
    if style.parting is not None:
        volume = volume * (0.35 + 0.65 * np.maximum(ramp(np.abs(canonical[:, 0] - style.parting), 0.0, 0.055), 1 - top))
    if style.forward >= 0.9:  # a fringe ends above the eyes
        fringe = ramp(canonical[:, 2], 0.03, 0.06) * ramp(np.abs(canonical[:, 0]), 0.064, 0.050)
        length = length * (1 - fringe) + fringe * (0.030 + 1.1 * np.clip(0.128 - canonical[:, 2], 0, 1)) * rng.uniform(
            0.92, 1.04, S
        )
    if gather is not None:
        length = np.linalg.norm(roots - gather, axis=1) * 1.25 + 0.02
    N = int(np.clip(length.max() / 0.011, 12, 34))
    paths = np.zeros((S, N, 3))
    paths[:, 0] = roots - 0.001 * normals
    direction = normals * min(0.25 + style.upward, 1.0)
    step = (length / (N - 1))[:, None]
    most = 1.4 if style.upward else 0.5
    for k in range(1, N):
        p, s = paths[:, k - 1], (k - 1) / (N - 1)
        comb = (
            _comb(style, p - shift, s, length)
            if gather is None
            else (gather - p) / (np.linalg.norm(gather - p, axis=1, keepdims=True) + 1e-6)
        )
        n, clearance = hull.above(p)
        vertical_shift = min(1.0, 2.6 * s + 0.25) if gather is None else 1.2 * np.sin(np.pi * min(s + 0.12, 1.0))
        wanted = 0.002 + volume * rank * vertical_shift
        lift = np.clip((wanted - clearance) / np.maximum(step[:, 0], 0.004), -1.2, most)[:, None]
        into = np.minimum((comb * n).sum(1, keepdims=True), 0) * n
        along = comb - into * (clearance < wanted + 0.004)[:, None]
        new = direction * 0.6 + along * (0.75 + 0.4 * s) + n * (0.75 * lift + style.upward * max(1 - 1.4 * s, 0.0))
        direction = new / np.linalg.norm(new, axis=1, keepdims=True)
        paths[:, k] = p + step * direction
        n, clearance = hull.above(paths[:, k])
        paths[:, k] += np.clip(0.0015 + 0.5 * volume * rank * min(3 * s, 1) - clearance, 0, 0.02)[:, None] * n
    return paths, length


def _comb(style: Style, p: np.ndarray, s: float, length: np.ndarray) -> np.ndarray:
    """Which way a strand wants to go at canonical points p [S, 3]; unit vectors."""
    x, y, z = p.T
    top = ramp(y, 0.90, 0.98)
    front = ramp(z, 0.07, 0.14)
    side = np.where(x >= style.parting, 1.0, -1.0) if style.parting is not None else np.clip(x / 0.05, -1, 1)
    sideways = side * (0.9 if style.parting is not None else 0.25) * (0.25 + 0.75 * top)
    sideways = sideways + side * 0.8 * front * ramp(y, 0.95, 0.90) * (style.forward < 0.9)  # out of the face
    back = style.back * (0.4 + 0.6 * top) + 0.5 * front * (length > 0.1) * (style.forward < 0.9) - 0.15
    ahead = style.forward * ramp(z, -0.02, 0.06) * (0.3 + top)
    shoulder = ramp(y, 0.80, 0.74)  # hair parts before and behind the shoulders
    sideways = sideways * (1 - shoulder)
    ahead = ahead + 0.9 * shoulder * np.where(z > 0.035, 1.0, -1.0) * ramp(np.abs(x), 0.03, 0.09)
    down = 0.15 + 1.1 * (1 - top) + 0.9 * s * np.minimum(length / 0.1, 1.0)
    if style.upward > 1.5:  # hair that stands
        down = down * 0.1
    out = np.stack([sideways, -down, ahead - back], 1)
    return out / (np.linalg.norm(out, axis=1, keepdims=True) + 1e-6)


def _roots(anatomy: Anatomy, rest: np.ndarray, inside, count: int, rng) -> tuple[np.ndarray, np.ndarray]:
    """Points spread evenly over the skin where inside(canonical) > 0, and the body vertex nearest to each."""
    template = anatomy.body.template
    faces = anatomy.faces
    depth = inside(template.astype(np.float64))
    faces = faces[(depth[faces] > -0.004).any(1) & (anatomy.head[faces].mean(1) > 0.5)]
    a, b, c = (rest[faces[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    chosen = np.searchsorted(np.cumsum(area) / area.sum(), (np.arange(count) + rng.random(count)) / count)
    chosen = np.minimum(chosen, len(faces) - 1)
    u, v = rng.random((2, count))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    share = np.stack([1 - u - v, u, v], 1)
    kept = inside((template[faces[chosen]] * share[..., None]).sum(1)) > 0
    chosen, share = chosen[kept], share[kept]
    points = (rest[faces[chosen]] * share[..., None]).sum(1)
    return points, faces[chosen, share.argmax(1)]


@dataclass(frozen=True)
class _Hull:
    """What hair lies on: the head without its ears' folds, the shoulders with their clothes."""

    tree: cKDTree
    points: np.ndarray
    normals: np.ndarray

    def above(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Outward direction and height (m) of points [S, 3] over the hull."""
        near = self.tree.query(p)[1]
        n = self.normals[near]
        return n, ((p - self.points[near]) * n).sum(1)


def _hull(anatomy: Anatomy, rest: np.ndarray, shell: np.ndarray) -> _Hull:
    template = anatomy.body.template
    ears = bump(template[:, 1] - 0.868, 0.045) * bump(template[:, 2] - 0.055, 0.035) * (np.abs(template[:, 0]) > 0.055)
    hull = anatomy.smooth(np.where(anatomy.head[:, None] > 0.5, rest, shell), np.clip(1.6 * ears, 0, 1), 12)
    kept = np.flatnonzero(anatomy.skin & (template[:, 1] > 0.3) & (np.abs(template[:, 0]) < 0.28))
    return _Hull(cKDTree(hull[kept]), hull[kept], anatomy.normals(hull)[kept])


def _curl(paths: np.ndarray, radius: float, turns: float, length: np.ndarray, rng) -> np.ndarray:
    """Helices around the paths, alike for neighbours, resampled finely enough to be round."""
    fine = max(paths.shape[1], int(length.max() * turns / 0.75))
    fine = min(fine, 48)
    at = np.linspace(0, paths.shape[1] - 1, fine)
    low = np.minimum(at.astype(int), paths.shape[1] - 2)
    paths = paths[:, low] + (at - low)[None, :, None] * (paths[:, low + 1] - paths[:, low])
    tangent = np.gradient(paths, axis=1)
    tangent /= np.linalg.norm(tangent, axis=2, keepdims=True) + 1e-9
    side = np.cross(tangent, np.array([0.3, 0.2, 0.93]))
    side /= np.linalg.norm(side, axis=2, keepdims=True) + 1e-9
    up = np.cross(tangent, side)
    phase = 2.2 * noise(paths[:, 0], 110, 7)[:, None] + rng.normal(0, 0.35, (len(paths), 1))
    turn = phase + length[:, None] * np.linspace(0, 1, fine) * turns
    size = radius * np.clip(np.linspace(0, 3, fine), 0, 1) * rng.uniform(0.75, 1.2, (len(paths), 1))
    return paths + size[..., None] * (np.cos(turn)[..., None] * side + np.sin(turn)[..., None] * up)


def _tail(style: Style, gather: np.ndarray, anatomy: Anatomy, colour, grey, hull: _Hull, rng) -> Lock:
    """What is behind the tie: a ponytail, or a bun wound around itself."""
    S, N = 900, 16
    s = np.linspace(0, 1, N)
    start = gather + rng.normal(0, 0.007, (S, 3))
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
        centre, tilt = gather + np.array([0, 0.012, -0.018]), rng.uniform(-0.9, 0.9, S)
        turn = rng.uniform(0, 2 * np.pi, S)[:, None] + 3.4 * s
        ring = 0.034 * np.cos(tilt)[:, None]
        paths = centre + np.stack(
            [
                ring * np.cos(turn),
                0.030 * np.sin(tilt)[:, None] + 0.55 * ring * np.sin(turn) * 0.8,
                ring * np.sin(turn) * 0.9,
            ],
            2,
        )
    return _lock(paths, np.full(S, anatomy.crown), style.thickness * 1.5, colour, grey, REGION["hair"], rng)


def _lock(paths, anchors, thickness: float, colour, grey: float, region: int, rng, falls: bool = False) -> Lock:
    S, N = paths.shape[:2]
    s = np.linspace(0, 1, N)
    tint = rng.lognormal(0, 0.22, (S, 1, 1)) * (0.80 + 0.35 * s)[None, :, None]
    own = colour * tint
    white = (rng.random((S, 1, 1)) < grey) * 0.85
    own = own * (1 - white) + white * np.array([0.31, 0.305, 0.30]) * tint
    return Lock(
        paths,
        anchors,
        thickness * (1 - 0.55 * s**3)[None] * rng.uniform(0.8, 1.25, (S, 1)),
        np.clip(own, 0.002, 0.9),
        region,
        falls,
    )


def brow_line(x: np.ndarray, arch: float) -> np.ndarray:
    """Height of the middle of an eyebrow at a distance x (m) from the midline; arch 0 straight, 1 curved."""
    return (
        0.9095
        + 0.155 * np.clip(x - 0.012, 0, 0.030)
        + arch * 0.0022 * bump(x - 0.044, 0.012)
        - (0.20 + 0.15 * arch) * np.clip(x - 0.044, 0, 1)
    )


def brows(colour: np.ndarray, thick: float, arch: float, anatomy: Anatomy, rest: np.ndarray, seed: int) -> Lock:
    """Eyebrows: hairs that lie outwards, upright near the nose."""
    rng = np.random.default_rng([seed, 32])

    def inside(p):
        x = np.abs(p[:, 0])
        middle = brow_line(x, arch)
        half = 0.0030 * thick * ramp(x, 0.061, 0.028) * ramp(x, 0.0095, 0.016)
        return np.where((p[:, 2] > 0.08) & (x < 0.062), half - np.abs(p[:, 1] - middle), -1.0)

    roots, anchors = _roots(anatomy, rest, inside, 17000, rng)
    c = anatomy.body.template[anchors]
    side, x = np.sign(c[:, 0]), np.abs(c[:, 0])
    up = ramp(x, 0.034, 0.012)
    way = np.stack(
        [side * (1.0 - 0.55 * up), 0.18 + 0.9 * up - 0.5 * ramp(x, 0.038, 0.055), -0.35 * ramp(x, 0.03, 0.055)], 1
    )
    return _short(
        roots,
        anchors,
        way,
        0.0075 * rng.uniform(0.6, 1.1, len(roots)),
        0.0008,
        0.00010,
        colour,
        0.1,
        REGION["face"],
        anatomy,
        rest,
        rng,
    )


def beard(
    colour: np.ndarray, grey: float, length: float, moustache: bool, anatomy: Anatomy, rest: np.ndarray, seed: int
) -> Lock:
    """Beard of a given length, m; its edge is soft because roots thin out there."""
    rng = np.random.default_rng([seed, 33])
    lips = anatomy.body.masks["lips"]
    mouth = cKDTree(anatomy.body.template[lips > 0.4])

    def inside(p):
        x, y, z = np.abs(p[:, 0]), p[:, 1], p[:, 2]
        cheek = (
            0.822 + 0.30 * np.clip(x - 0.030, 0, 1) ** 1.0 + 0.25 * np.clip(0.10 - z, 0, 1)
        )  # the upper edge rises to the ears
        jaw = np.minimum(cheek - y, y - (0.752 + 0.1 * np.clip(0.10 - z, 0, 1)))
        lip = np.minimum(0.0055 - np.abs(y - 0.8335 + 0.18 * x), 0.030 - x) if moustache else np.full(len(p), -1.0)
        chin = np.minimum(0.812 - y + 0.4 * x, y - 0.75)
        area = np.maximum(np.minimum(jaw, z - 0.045), np.maximum(lip, np.minimum(chin, 0.028 - x)))
        clear = mouth.query(p)[0] - 0.0035
        return np.minimum(np.minimum(area, clear) - 0.004 * rng.random(len(p)), (z > 0.03) * 1.0)

    roots, anchors = _roots(anatomy, rest, inside, 16000 if length < 0.004 else 24000, rng)
    c = anatomy.body.template[anchors]
    way = np.stack(
        [
            0.35 * np.sign(c[:, 0]) * ramp(np.abs(c[:, 0]), 0.0, 0.05),
            np.full(len(c), -1.0),
            0.25 * ramp(c[:, 2], 0.08, 0.14),
        ],
        1,
    )
    sizes = length * rng.uniform(0.55, 1.15, len(roots)) * (0.75 + 0.5 * ramp(c[:, 1], 0.80, 0.775))
    return _short(
        roots,
        anchors,
        way,
        sizes,
        0.25 * length,
        0.00013 if length < 0.004 else 0.00022,
        colour,
        grey,
        REGION["face"],
        anatomy,
        rest,
        rng,
    )


def lashes(colour: np.ndarray, thick: float, anatomy: Anatomy, rest: np.ndarray, seed: int) -> Lock:
    """Lashes that grow from the body file's lash ribbons: fine hairs instead of a solid band."""
    rng = np.random.default_rng([seed, 34])
    body = anatomy.body
    number = PARTS["lashes"][0]
    faces = body.faces[(body.part[body.faces] == number).all(1)]
    picks = faces[rng.integers(len(faces), size=190)]
    share = rng.dirichlet((1, 1, 1), len(picks))
    base = (rest[picks] * share[..., None]).sum(1)
    c = (body.template[picks] * share[..., None]).sum(1)
    upper = c[:, 1] > 0.8850 - 0.25 * np.clip(np.abs(c[:, 0]) - 0.042, 0, 1)
    fan = np.sign(c[:, 0]) * np.clip((np.abs(c[:, 0]) - 0.029) / 0.012, -1, 1.3) * 0.7
    way = np.stack([fan, np.where(upper, 0.35, -0.45), np.ones(len(c))], 1) + rng.normal(0, 0.12, c.shape)
    reach = np.where(upper, 0.0050, 0.0020)[:, None] * rng.uniform(0.6, 1.1, (len(picks), 1)) * thick
    s = np.linspace(0, 1, 4)[None, :, None]
    curl = np.where(upper, 0.0030, -0.0004)[:, None, None] * s**2 * np.array([0, 1.0, 0])
    paths = base[:, None] + s * (way / np.linalg.norm(way, axis=1, keepdims=True) * reach)[:, None] + curl * thick
    return _lock(paths, picks[:, 0], 0.00007 * thick, colour * 0.3, 0.0, REGION["face"], rng)


def _short(
    roots, anchors, way, length, stand: float, thickness: float, colour, grey, region: int, anatomy: Anatomy, rest, rng
) -> Lock:
    """Short hairs that leave the skin by `stand` and lie along `way` [S, 3]."""
    n = anatomy.normals(rest)[anchors]
    way = way + rng.normal(0, 0.22, way.shape)
    way -= 0.9 * (way * n).sum(1, keepdims=True) * n
    way /= np.linalg.norm(way, axis=1, keepdims=True) + 1e-6
    s = np.linspace(0, 1, 4)[None, :, None]
    paths = (
        roots[:, None]
        + s * (length[:, None] * way)[:, None]
        + 2.2 * s * (1 - 0.55 * s) * stand * n[:, None]
        - 0.0003 * n[:, None]
    )
    return _lock(paths, anchors, thickness, colour, grey, region, rng)


def strands(locks: list[Lock], anatomy: Anatomy, rest: np.ndarray) -> Strands:
    """Bind every lock to the body and join them; their occlusion is still to be baked."""
    V, template = len(rest), anatomy.body.template
    chest = np.flatnonzero(anatomy.skin & (anatomy.torso > 0.8) & (template[:, 1] > 0.35))
    tree = cKDTree(rest[chest])
    binds, offsets, counts, radius, colour, region = [], [], [], [], [], []
    for lock in locks:
        S, N = lock.paths.shape[:2]
        points, rows = lock.paths.reshape(-1, 3), np.arange(S * N)
        own = np.repeat(lock.anchors, N)
        if lock.falls:
            low = ramp(points[:, 1] - (rest[anatomy.crown] - template[anatomy.crown])[1], 0.80, 0.70)
            other = chest[tree.query(points)[1]]
            bind = csr_matrix(
                (np.concatenate([1 - low, low]), (np.tile(rows, 2), np.concatenate([own, other]))), shape=(S * N, V)
            )
        else:
            bind = csr_matrix((np.ones(S * N), (rows, own)), shape=(S * N, V))
        binds.append(bind)
        offsets.append(points - bind @ rest)
        counts += [N] * S
        radius.append(lock.radius.ravel())
        colour.append(lock.colour.reshape(-1, 3))
        region.append(np.full(S * N, lock.region, np.uint8))
    P = sum(len(o) for o in offsets)
    return Strands(
        binding=pack(vstack(binds), np.concatenate(offsets)), first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        radius=np.concatenate(radius).astype(np.float32), colour=np.concatenate(colour).astype(np.float32),
        occlusion=np.ones(P, np.float32), region=np.concatenate(region),
    )  # fmt: skip


def style_named(name: str, mirror: bool) -> Style | None:
    """A style, with its parting on the other side if asked; None for covered heads."""
    if name == COVERED:
        return None
    style = STYLES[name]
    return replace(style, parting=-style.parting) if mirror and style.parting else style
