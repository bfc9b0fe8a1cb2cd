"""Makes cloth: shells of the body's surface, cut along implicit edges, lifted off the skin, and painted.

The area of a shell is a signed distance (m) on the mean body, positive inside the cloth, unlike the usual sign. It is
only approximately a distance; its zero is the hem. Canonical coordinates as in synthetic.anatomy.

Shapes: V body vertices, N points. Colors are sRGB 0..255 until they become texels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import ConvexHull

from stereotalker.smplx_layout import REGION
from stereotalker.synthetic.anatomy import Anatomy, bump, noise, ramp
from stereotalker.synthetic.bound_mesh import Mesh, clip, rim, subdivide, submesh, translate
from stereotalker.synthetic.skin import linear

# Canonical points [N, 3] m -> signed distance [N] m from the edge of an area, positive inside.
SignedDistance = Callable[[np.ndarray], np.ndarray]
# Canonical points [N, 3] m -> texel values f32 [N, 7] (shading_kernels.CHANNELS) and regions u8 [N].
Painter = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

# Colors of cloth, sRGB.
DYES = np.array([
    (232, 230, 224), (34, 36, 42), (40, 56, 92), (112, 122, 130), (128, 38, 44), (46, 88, 74), (190, 164, 128),
    (84, 58, 104), (76, 120, 158), (196, 120, 66), (140, 158, 128), (208, 178, 184), (88, 68, 54), (58, 62, 66),
    (168, 72, 84), (214, 196, 148),
], np.float64)  # fmt: skip
_BUTTON_COLOUR = np.array([40, 38, 36])  # sRGB, added to a third of the fabric's color


@dataclass(frozen=True)
class Fabric:
    """What cloth is made of."""

    colour: np.ndarray  # f64 [3] sRGB
    second: np.ndarray  # f64 [3] sRGB, of the pattern
    pattern: str = "plain"  # plain, stripes, check, dots, flowers, melange
    weave: str = "jersey"  # jersey, rib, knit, twill, satin
    folds: float = 1.0  # factor of the folds' height
    gloss: float = 0.10  # as in a texel
    roughness: float = 0.72  # as in a texel
    scale: float = 1.0  # factor of the pattern's size


@dataclass(frozen=True)
class Shell:
    """One layer of cloth. Lengths in m."""

    distance: SignedDistance  # of the area that the cloth covers
    fabric: Fabric
    lift: float  # height of the outer surface over the fitted surface
    thickness: float = 0.0025  # of the hem
    fit: str = "torso"  # torso: hangs from the chest; head: lies smoothly over the ears
    looseness: float = 0.5  # 0 clings, 1 hangs free
    sleeve_ease: float = 0.004  # height of sleeves over the arm
    seams: tuple[float, ...] = (0.018,)  # distances from the edge at which stitches run
    # Both map canonical points [N, 3]: buttons to the opacity [N] of a button, 0..1; relief to a further lift [N].
    buttons: Callable[[np.ndarray], np.ndarray] | None = None
    relief: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True)
class PaintedMesh:
    """A mesh and the function that paints its texels."""

    mesh: Mesh
    paint: Painter


def shell_pieces(
    shell: Shell, distance: np.ndarray, fitted: np.ndarray, anatomy: Anatomy, rest: np.ndarray
) -> list[PaintedMesh]:
    """The cloth of a shell and the rims along its edges.

    distance f64 [V] m is the signed distance of the body's vertices in the cloth; fitted f64 [V, 3] m comes from
    `fit_surface`; rest f64 [V, 3] m is the skin in its rest pose.
    """
    template = anatomy.body.template.astype(np.float64)
    faces = anatomy.faces[(distance[anatomy.faces] > -0.02).any(1) & (distance[anatomy.faces] > -0.5).all(1)]
    if not len(faces):
        return []
    mesh = subdivide(submesh(len(rest), faces))
    outward = anatomy.normals(fitted)
    mesh = translate(mesh, mesh.bind @ (fitted - rest))
    mesh, cut = clip(mesh, shell.distance(mesh.canonical(template)))
    normals = mesh.bind @ outward
    canonical = mesh.canonical(template)
    lift = shell.lift + (0 if shell.relief is None else shell.relief(canonical))
    mesh = translate(mesh, normals * np.reshape(lift, (-1, 1)))
    pieces = [PaintedMesh(mesh, lambda p: paint_cloth(shell, p))]
    if len(cut):
        plain = replace(
            shell,
            seams=(),
            buttons=None,
            fabric=replace(shell.fabric, colour=0.82 * shell.fabric.colour, pattern="plain"),
        )
        pieces.append(
            PaintedMesh(
                rim(mesh, cut, -normals * (shell.thickness + 0.4 * shell.lift)), lambda p: paint_cloth(plain, p)
            )
        )
    return pieces


# ---- how cloth lies --------------------------------------------------------------------------------------------------


def fit_surface(shell: Shell, anatomy: Anatomy, rest: np.ndarray, worn: np.ndarray) -> np.ndarray:
    """The surface that a garment lies on, f64 [V, 3] m, never under the skin.

    rest f64 [V, 3] m is the skin; worn f64 [V, 3] m is the offset of the clothes that are worn already, over which
    headwear lies.
    """
    template = anatomy.body.template
    if shell.fit == "head":
        ears = (
            bump(template[:, 1] - 0.868, 0.06) * bump(template[:, 2] - 0.055, 0.055) * (np.abs(template[:, 0]) > 0.045)
        )
        neck = ramp(template[:, 1], 0.70, 0.74) * ramp(template[:, 1], 0.83, 0.78) * shell.looseness
        under = rest + worn * ramp(template[:, 1], 0.80, 0.74)[:, None] * 1.15
        return _keep_outside(
            anatomy, under, anatomy.smooth(under, np.clip(1.5 * ears + 0.25 + neck, 0, 1) * anatomy.skin, 60), 0.0
        )
    amount = np.clip(1 - anatomy.hand, 0, 1) * anatomy.skin * ramp(template[:, 1], 0.79, 0.72)
    chest = bump(template[:, 1] - 0.50, 0.075) * ramp(template[:, 2], 0.04, 0.10) * (np.abs(template[:, 0]) < 0.19)
    smooth = _keep_outside(anatomy, rest, anatomy.smooth(anatomy.smooth(rest, amount, 40), amount * chest, 110), 0.001)
    hanging = _hang_freely(anatomy, smooth, shell.looseness)
    arm = ramp(np.abs(template[:, 0]), 0.19, 0.26)
    loose = shell.sleeve_ease * arm * (0.75 + 0.35 * np.sin(np.abs(template[:, 0]) * 34))
    out = hanging + anatomy.normals(hanging) * loose[:, None]
    out[:, 1] -= 0.7 * loose * (template[:, 1] < 0.642)  # Sleeves hang down.
    return out


def _keep_outside(anatomy: Anatomy, rest: np.ndarray, cloth: np.ndarray, gap: float) -> np.ndarray:
    """The cloth [V, 3] at least `gap` m over the skin `rest` [V, 3].

    Only the cloth's height over the skin is kept. Points do not slide along the skin, so edges stay where they were
    drawn.
    """
    normals = anatomy.normals(rest)
    height = ((cloth - rest) * normals).sum(1)
    return rest + normals * np.maximum(height, gap)[:, None]


def _hang_freely(anatomy: Anatomy, cloth: np.ndarray, looseness: float) -> np.ndarray:
    """Let cloth [V, 3] span hollows, as between breasts or shoulder blades, and fall from the widest place above.

    The trunk is cut at 40 heights. At each, the convex hull gives a radius for 48 directions, and a radius may shrink
    downwards only with a limited slope, which the looseness sets.
    """
    template = anatomy.body.template
    trunk = anatomy.skin & (anatomy.torso > 0.5) & (np.abs(template[:, 0]) < 0.20) & (template[:, 1] < 0.69)
    axis = np.array([0.0, np.median(cloth[trunk, 2])])
    levels = np.linspace(cloth[trunk, 1].max(), cloth[trunk, 1].min(), 40)
    angles = np.linspace(-np.pi, np.pi, 49)[:-1]
    rays = np.stack([np.sin(angles), np.cos(angles)], 1)
    radius = np.zeros((len(levels), len(angles)))
    for k, level in enumerate(levels):
        ring = cloth[trunk & (np.abs(cloth[:, 1] - level) < 0.022)][:, [0, 2]] - axis
        if len(ring) < 8:
            radius[k] = radius[k - 1]
            continue
        sides = ConvexHull(ring).equations
        reach = -sides[:, 2] / np.where(np.abs(rays @ sides[:, :2].T) > 1e-6, rays @ sides[:, :2].T, 1e-6)
        radius[k] = np.where(reach > 0, reach, np.inf).min(1)
    slope = 1.2 - 1.05 * looseness  # m inwards per m downwards
    for k in range(1, len(levels)):
        if levels[k] < 0.60:
            radius[k] = np.maximum(radius[k], radius[k - 1] - slope * (levels[k - 1] - levels[k]))
    radius = gaussian_filter(radius, (1.2, 1.0), mode=("nearest", "wrap"))
    across = cloth[:, [0, 2]] - axis
    radius_now = np.linalg.norm(across, axis=1)
    a = (np.arctan2(across[:, 0], across[:, 1]) + np.pi) / (2 * np.pi) * len(angles)
    r = np.clip((levels[0] - cloth[:, 1]) / (levels[0] - levels[-1]) * (len(levels) - 1), 0, len(levels) - 1.001)
    i, j = r.astype(int), a.astype(int)
    fi, fj = r - i, a - j

    def corner(di, dj):
        return radius[i + di, (j + dj) % len(angles)]

    above = corner(0, 0) * (1 - fj) + corner(0, 1) * fj
    below = corner(1, 0) * (1 - fj) + corner(1, 1) * fj
    target = above * (1 - fi) + below * fi
    share = (
        ramp(template[:, 1], 0.655, 0.57)
        * ramp(np.abs(template[:, 0]), 0.215, 0.150)
        * anatomy.torso
        * anatomy.skin
        * ramp(template[:, 1], -0.02, 0.06)
    )
    growth = np.maximum(target + 0.012 * looseness - radius_now, 0) * share
    out = cloth.copy()
    growth = anatomy.smooth(np.repeat(growth[:, None], 3, 1), 1.0 * (share > 0), 6)[:, :1]
    out[:, [0, 2]] += across / np.maximum(radius_now, 1e-6)[:, None] * growth
    return out


# ---- cloth's texels --------------------------------------------------------------------------------------------------


def paint_cloth(shell: Shell, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Texels of a shell at canonical points [N, 3] m.

    Returns values f32 [N, 7] (columns as in shading_kernels.CHANNELS) and region u8 [N].
    """
    fabric, seed = shell.fabric, int(shell.fabric.colour.sum() * 7) % 9973
    x, y, z = points.T
    ax = np.abs(x)
    sleeve = (ax > 0.19) & (y > 0.5)
    # Texture coordinates in m, around the sleeve or the trunk (u) and along it (v).
    u = np.where(sleeve, 0.05 * np.arctan2(z - 0.028, y - 0.642), 0.16 * np.arctan2(x, z - 0.02))
    v = np.where(sleeve, ax, y)
    colour = _pattern(fabric, u, v, points, seed)
    distance = shell.distance(points)
    height = _weave(fabric.weave, u, v, points, seed) + fabric.folds * _folds(points, seed)
    for seam in shell.seams:
        colour = colour * (1 - 0.16 * bump(distance - seam, 0.0011))[:, None]
        height = height - 0.0005 * bump(distance - seam, 0.0014) + 0.0004 * bump(distance - 0.5 * seam, 0.45 * seam)
    colour = colour * (1 - 0.10 * ramp(np.abs(distance), 0.0035, 0.0))[:, None]
    if shell.fit == "torso":
        armhole = bump(ax - 0.172 - 0.25 * np.clip(0.60 - y, 0, 1), 0.0012) * (y > 0.52)
        colour = colour * (1 - 0.22 * armhole)[:, None]
        height = height - 0.0006 * armhole
    if shell.buttons is not None:
        button = np.clip(shell.buttons(points), 0, 1)
        colour = colour * (1 - button)[:, None] + button[:, None] * (0.35 * fabric.colour + _BUTTON_COLOUR)
        height = height + 0.0012 * button
    N = len(points)
    surface = np.stack([height, np.full(N, fabric.gloss), np.full(N, fabric.roughness), np.full(N, 0.12)], 1)
    is_on_head = y > 0.74
    region = np.where(
        is_on_head & (shell.fit == "head"), REGION["hair"], np.where(sleeve, REGION["arms"], REGION["torso"])
    )
    region = np.where((y < 0.13) & ~sleeve, REGION["legs"], region)
    return np.concatenate([linear(colour), surface], 1).astype(np.float32), region.astype(np.uint8)


def _pattern(fabric: Fabric, u: np.ndarray, v: np.ndarray, points: np.ndarray, seed: int) -> np.ndarray:
    """Colors f64 [N, 3] sRGB of a fabric at texture coordinates u and v [N] m."""
    base = fabric.colour * (1 + 0.022 * noise(points, 22, seed) + 0.02 * noise(points, 900, seed + 1))[:, None]
    s = fabric.scale
    if fabric.pattern == "stripes":
        amount = ramp(np.sin(2 * np.pi * v / (0.034 * s)), 0.25, 0.40)
    elif fabric.pattern == "check":
        amount = 0.45 * ramp(np.sin(2 * np.pi * v / (0.030 * s)), 0.5, 0.62) + 0.45 * ramp(
            np.sin(2 * np.pi * u / (0.030 * s)), 0.5, 0.62
        )
    elif fabric.pattern == "dots":
        row = np.round(v / (0.020 * s))
        across = u / (0.020 * s) + 0.5 * (row % 2)
        amount = ramp(np.hypot(across - np.round(across), v / (0.020 * s) - row), 0.26, 0.20)
    elif fabric.pattern == "flowers":
        row, column = np.round(v / (0.042 * s)), np.round(u / (0.042 * s))
        spin = np.sin(row * 12.9898 + column * 78.233) * 43758.5
        dx, dy = u / (0.042 * s) - column - 0.28 * np.sin(spin), v / (0.042 * s) - row - 0.28 * np.cos(spin)
        radius, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
        amount = ramp(radius - 0.20 * (0.7 + 0.3 * np.cos(5 * angle + spin)), 0.02, -0.02)
    elif fabric.pattern == "melange":
        amount = 0.12 * np.clip(noise(points, (900, 160, 900), seed + 5), 0, 1)
    else:
        return base
    amount = amount[:, None]
    return base * (1 - amount) + fabric.second * amount


def _weave(kind: str, u: np.ndarray, v: np.ndarray, points: np.ndarray, seed: int) -> np.ndarray:
    """Heights f64 [N] m of a weave's threads."""
    if kind == "rib":
        return 0.0007 * np.sin(2 * np.pi * u / 0.0062)
    if kind == "knit":
        return 0.0006 * np.sin(2 * np.pi * (v / 0.0085 + 0.35 * np.abs(np.sin(np.pi * u / 0.0085))))
    if kind == "twill":
        return 0.00012 * np.sin(2 * np.pi * (u + v) / 0.0032)
    return 0.00008 * noise(points, 2000, seed + 3) * (kind == "jersey")


def _folds(points: np.ndarray, seed: int) -> np.ndarray:
    """Heights f64 [N] m of folds: rings about the elbow, pulls from the armpit, soft waves on the trunk."""
    x, y, z = points.T
    ax = np.abs(x)
    arm = ramp(ax, 0.20, 0.27)
    elbow = (
        (bump(ax - 0.465, 0.075) + 0.35) * arm * np.sin(ax * 120 + 3.0 * noise(points, (8, 40, 40), seed + 6)) * 0.0013
    )
    across = (ax - 0.165) * 0.7 + (y - 0.55) * 0.7
    pull = (
        bump(np.hypot(ax - 0.155, y - 0.555), 0.085)
        * np.sin((across + 0.012 * noise(points, 25, seed + 7)) * 190)
        * 0.0013
    )
    waves = 0.0020 * noise(points, (38, 20, 30), seed + 8) + 0.0011 * noise(points, (95, 45, 80), seed + 9)
    waist = 0.0018 * bump(y - 0.34, 0.10) * noise(points, (22, 95, 30), seed + 10)
    return elbow + (1 - arm) * (pull + (waves + waist) * ramp(y, 0.70, 0.62))
