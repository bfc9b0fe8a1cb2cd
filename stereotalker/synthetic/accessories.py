"""Makes what is worn on the head: scarves, caps, beanies, glasses and earrings.

Lengths in m; points p [N, 3] are canonical, as in synthetic.anatomy; signed distances are positive inside, as in
synthetic.cloth. All functions draw from the same random generator, so the order of the draws is part of the result.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stereotalker.body.free_body import PARTS
from stereotalker.smplx_layout import REGION
from stereotalker.synthetic.anatomy import Anatomy, bump, noise, ramp
from stereotalker.synthetic.bound_mesh import attach, grid_faces, tube
from stereotalker.synthetic.cloth import DYES, Fabric, PaintedMesh, Painter, Shell, SignedDistance
from stereotalker.synthetic.population import Person
from stereotalker.synthetic.skin import linear

# Gold, silver and copper, sRGB.
METALS = np.array([(196, 160, 92), (190, 190, 194), (206, 150, 130)], np.float64)


def headwear(
    person: Person, rng: np.random.Generator
) -> tuple[list[Shell], SignedDistance | None, Callable[[Anatomy, np.ndarray], list[PaintedMesh]]]:
    """The shells of a scarf, a cap or a beanie, the area that it covers, and a function that makes its further parts.

    Without headwear there are no shells and the area is None. The function takes the anatomy and the skin in its rest
    pose, f64 [V, 3] m.
    """

    def no_parts(anatomy, rest):
        return []

    colour, second = DYES[rng.integers(len(DYES))], DYES[rng.integers(len(DYES))]
    if person.headwear == "scarf":
        cloth = Fabric(
            colour,
            second,
            pattern=str(rng.choice(["plain", "plain", "dots", "flowers"])),
            folds=0.3,
            gloss=0.18,
            roughness=0.6,
            weave="satin",
        )

        def scarf(p):
            x, y, z = p.T
            face = (np.hypot(x / 0.0635, (y - 0.868) / 0.086) - 1) * 0.066
            return np.minimum(
                np.where(z > 0.045, face, 0.1),
                np.minimum(y - (0.615 + 0.25 * np.abs(x) + 0.02 * np.sin(9 * x)), 0.19 - np.abs(x)),
            )

        def wraps(p):
            return (
                0.0035 * np.sin(95 * (p[:, 1] + 0.35 * p[:, 0]) + 2 * noise(p, 14, 3)) * ramp(p[:, 1], 0.80, 0.74)
                + 0.010 * ramp(p[:, 1], 0.785, 0.74) * ramp(p[:, 2], 0.02, 0.08)
                + 0.0015 * noise(p, (60, 30, 60), 4)
            )

        return [Shell(scarf, cloth, 0.007, fit="head", looseness=1.0, seams=(0.006,), relief=wraps)], scarf, no_parts
    if person.headwear == "cap":
        cloth = Fabric(colour, second, weave="twill", folds=0.0, gloss=0.08, roughness=0.8)

        def cap(p):
            return p[:, 1] - 0.932 - 0.10 * (p[:, 2] - 0.06)

        def panels(p):
            return 0.004 * ramp(cap(p), 0.0, 0.02) - 0.0008 * bump(
                np.sin(3 * np.arctan2(p[:, 0], p[:, 2] - 0.055)), 0.06
            )

        return (
            [Shell(cap, cloth, 0.006, fit="head", looseness=0.0, seams=(0.012,), relief=panels)],
            cap,
            lambda anatomy, rest: [_visor(anatomy, rest, cloth)],
        )
    if person.headwear == "beanie":
        cloth = Fabric(colour, second, weave="rib", folds=0.0, gloss=0.03, roughness=0.9)

        def beanie(p):
            return p[:, 1] - 0.915 - 0.16 * (p[:, 2] - 0.06)

        def ribbed(p):
            return 0.0012 * np.sin(46 * np.arctan2(p[:, 0], p[:, 2] - 0.055)) + 0.006 * ramp(beanie(p), 0.03, 0.09)

        def cuff(p):
            return np.minimum(beanie(p) + 0.001, 0.040 - beanie(p))

        return (
            [
                Shell(beanie, cloth, 0.008, fit="head", looseness=0.0, seams=(), relief=ribbed),
                Shell(cuff, cloth, 0.0125, thickness=0.006, fit="head", looseness=0.0, seams=(), relief=ribbed),
            ],
            beanie,
            no_parts,
        )
    return [], None, no_parts


def _to_head(anatomy: Anatomy, rest: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Canonical points [N, 3] near the face -> the same places on a person's head, [N, 3] m.

    They are moved with the middle of the eyes, and scaled sideways: by the distance of the eyes in front, by the head's
    width behind.
    """
    template, body = anatomy.body.template, anatomy.body
    eyes = [(body.part == PARTS["eye"][0]) & (side * template[:, 0] > 0) for side in (1, -1)]
    eyes_mean, eyes_now = (np.stack([v[e].mean(0) for e in eyes]) for v in (template, rest))
    skull = anatomy.skin & (template[:, 1] > 0.90) & (template[:, 1] < 0.94)
    wide = np.ptp(rest[skull, 0]) / np.ptp(template[skull, 0])
    in_front = ramp(points[:, 2], 0.05, 0.14)
    eye_scale = np.linalg.norm(eyes_now[0] - eyes_now[1]) / np.linalg.norm(eyes_mean[0] - eyes_mean[1])
    scale = wide + (eye_scale - wide) * in_front
    out = points.copy()
    out[:, 0] *= scale
    return out + eyes_now.mean(0) - eyes_mean.mean(0)


def _visor(anatomy: Anatomy, rest: np.ndarray, cloth: Fabric) -> PaintedMesh:
    """The visor of a cap: two curved sheets and the edge between them."""
    angle, out = np.linspace(-1.0, 1.0, 25)[:, None], np.linspace(0, 1, 9)[None]
    reach = 0.066 * np.cos(0.85 * angle) * out
    x = (0.080 + 0.25 * reach) * np.sin(angle)
    z = 0.058 + 0.112 * np.cos(angle) + reach
    y = 0.952 - 0.22 * reach - 0.022 * angle**2
    points = np.stack([x, y, z], 2).reshape(-1, 3)
    faces = grid_faces(25, 9)
    doubled = np.concatenate([points, points - np.array([0, 0.0035, 0])])
    edge = np.arange(25) * 9 + 8
    side = np.concatenate(
        [np.stack([edge[:-1], edge[1:], edge[:-1] + 225], 1), np.stack([edge[1:], edge[1:] + 225, edge[:-1] + 225], 1)]
    )
    mesh = attach(
        len(rest),
        np.full(450, anatomy.crown),
        rest,
        _to_head(anatomy, rest, doubled),
        np.concatenate([faces, faces + 225, side]),
    )
    return PaintedMesh(mesh, _plain_painter(cloth.colour, 0.08, 0.8, "hair"))


def _plain_painter(colour: np.ndarray, gloss: float, roughness: float, region: str) -> Painter:
    """A painter of one color, sRGB [3], in one region, a key of smplx_layout.REGION."""

    def paint(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = np.broadcast_to(np.concatenate([linear(colour), [0.0, gloss, roughness, 0.0]]), (len(points), 7))
        return values.astype(np.float32), np.full(len(points), REGION[region], np.uint8)

    return paint


def jewellery(person: Person, anatomy: Anatomy, rest: np.ndarray, rng: np.random.Generator) -> list[PaintedMesh]:
    """The person's earrings, each bound to one vertex of an ear lobe. rest f64 [V, 3] m is the skin, unposed."""
    if person.earrings == "none":
        return []
    template = anatomy.body.template
    paint = _plain_painter(METALS[rng.integers(3)], 1.6, 0.25, "face")
    pieces = []
    for side in (1, -1):
        x = side * template[:, 0]
        lobe = np.flatnonzero(
            anatomy.skin
            & (x > 0.060)
            & (template[:, 2] > 0.04)
            & (template[:, 2] < 0.085)
            & (template[:, 1] > 0.825)
            & (template[:, 1] < 0.85)
        )
        anchor = int(lobe[np.argmin(template[lobe, 1])])
        place = rest[anchor] + np.array([0.002 * side, 0.002, 0.003])
        angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
        if person.earrings == "hoop":
            points, faces = tube(
                place + np.stack([0 * angle, 0.014 * np.cos(angle) - 0.014, 0.014 * np.sin(angle)], 1),
                0.0011,
                closed=True,
            )
        else:
            is_drop = person.earrings == "drop"
            length = np.linspace(0, 1, 8)
            size = 0.0035 * np.sin(np.pi * np.clip(length, 0.05, 0.95)) * (1.2 if is_drop else 0.9)
            points, faces = tube(
                place + np.stack([0 * length, -(0.026 if is_drop else 0.005) * length, 0 * length], 1), size, sides=8
            )
        pieces.append(PaintedMesh(attach(len(rest), np.full(len(points), anchor), rest, points, faces), paint))
    return pieces


def glasses(person: Person, anatomy: Anatomy, rest: np.ndarray, rng: np.random.Generator) -> list[PaintedMesh]:
    """The rims in front of the eyes, the bridge between them, and the temples to the ears.

    The glass is left out, because it is clear. All parts are bound to one vertex of the forehead. rest f64 [V, 3] m is
    the skin in its rest pose.
    """
    if person.glasses == "none":
        return []
    roundness = {"round": 1.0, "square": 0.55, "half": 0.6}[person.glasses]
    wide, high = (0.0235, 0.0215) if person.glasses == "round" else (0.0260, 0.0185)
    thick = {"round": 0.0010, "square": rng.uniform(0.0012, 0.0021), "half": 0.0011}[person.glasses]
    angle = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)
    paths = []
    for side in (1, -1):
        x = 0.0325 + wide * np.sign(c) * np.abs(c) ** roundness
        y = 0.8845 + high * np.sign(s) * np.abs(s) ** roundness
        z = 0.1695 - 3.0 * np.clip(x - 0.022, 0, 1) ** 2 - 0.06 * (0.8845 - y)
        ring = np.stack([side * x, y, z], 1)
        paths.append((ring[:18] if person.glasses == "half" else ring, person.glasses != "half"))
        back = np.linspace(0, 1, 14)
        x = 0.0325 + wide + 0.004 * ramp(back, 0, 0.1) + (0.0785 - 0.0325 - wide) * ramp(back, 0.0, 0.6)
        temple = np.stack([side * x, 0.893 - 0.035 * ramp(back, 0.82, 1.0), 0.158 - 0.125 * back], 1)
        paths.append((temple, False))
    bridge = np.linspace(-1, 1, 7)
    paths.append(
        (
            np.stack(
                [bridge * (0.0325 - wide), 0.8925 + 0.0022 * (1 - bridge**2), 0.1700 + 0.0015 * (1 - bridge**2)], 1
            ),
            False,
        )
    )
    anchor = int(np.argmin(np.linalg.norm(anatomy.body.template - np.array([0, 0.93, 0.165]), axis=1) + ~anatomy.skin))
    pieces = []
    frame = np.array([(28, 26, 26), (70, 46, 32), (120, 116, 114), (150, 120, 70)])[rng.integers(4)]
    for path, closed in paths:
        points, faces = tube(_to_head(anatomy, rest, path), thick, closed=closed)
        pieces.append(
            PaintedMesh(
                attach(len(rest), np.full(len(points), anchor), rest, points, faces),
                _plain_painter(frame, 0.7, 0.3, "face"),
            )
        )
    return pieces
