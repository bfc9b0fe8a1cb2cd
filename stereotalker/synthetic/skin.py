"""Paints the texels of skin, eyes, teeth and tongue.

Canonical coordinates as in synthetic.anatomy. Colors are sRGB 0..255 until they become texels. N points.
"""

from __future__ import annotations

import numpy as np

from stereotalker.body.free_body import PARTS
from stereotalker.smplx_layout import REGION
from stereotalker.synthetic.anatomy import EYE, bump, noise, ramp
from stereotalker.synthetic.facial_hair import brow_line
from stereotalker.synthetic.hair import STYLES, scalp_depth
from stereotalker.synthetic.population import BEARDS, HAIR_COLOURS, IRISES, Person

_EYE_CENTRE = np.array([0.0312, 0.888, 0.1348])  # canonical center about which the left eyeball turns, m


def linear(colour: np.ndarray | tuple[int, int, int]) -> np.ndarray:
    """sRGB 0..255 to linear light 0..1, with a gamma of 2.2; f64 of the same shape."""
    return (np.clip(np.asarray(colour, np.float64), 0, 255) / 255) ** 2.2


def paint_skin(
    person: Person, points: np.ndarray, masks: np.ndarray, part: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Texels of the body's own surface.

    points [N, 3] canonical m; masks [N, 6] are the weights of lips, nails, inner_mouth, lids, hand and torso; part u8
    [N] holds the values of free_body.PARTS. Returns values f32 [N, 7] (columns as in shading_kernels.CHANNELS, colors
    linear) and region u8 [N].
    """
    lips, nails, inner, lids, hand, torso = masks.T
    x, y, z = points.T
    ax, seed, old = np.abs(x), person.seed % 100_000, np.clip((person.age - 32) / 48, 0, 1)
    face = (z > 0.04) & (y > 0.765) & (y < 0.97)
    pale = 1 - person.tone / 9
    mottle = 0.018 * noise(points, 60, seed)
    mottle = 1 + mottle + 0.016 * noise(points, 300, seed + 1) + 0.012 * noise(points, 1300, seed + 2)
    colour = person.skin * mottle[:, None]

    def tint(amount: np.ndarray, factor) -> None:
        """Multiply the color by a factor [3] where amount [N] is 1."""
        nonlocal colour
        colour = colour * (1 - amount[:, None] * (1 - np.asarray(factor)))

    def cover(amount: np.ndarray, over) -> None:
        """Paint a color over the skin with opacity amount [N]."""
        nonlocal colour
        amount = np.clip(amount, 0, 1)[:, None]
        colour = colour * (1 - amount) + amount * over

    blood = np.array([1.0, 0.86, 0.86])  # tint of skin that is thin or warm
    cheeks = bump(np.hypot(ax - 0.043, 1.1 * (y - 0.848)), 0.021) * (z > 0.07)
    nose = bump(np.hypot(x, y - 0.848), 0.016) * (z > 0.15)
    ears = (ax > 0.066) & (y > 0.825) & (y < 0.905)
    tint((0.40 * cheeks + 0.45 * nose + 0.5 * bump(np.hypot(x, y - 0.782), 0.014) * face) * (0.45 + 0.75 * pale), blood)
    tint(0.5 * ears * (0.4 + 0.6 * pale), blood)
    knuckles = hand * (0.5 + 0.5 * noise(points, (190, 60, 190), seed + 3))
    tint(0.35 * np.clip(knuckles, 0, 1), np.array([1.0, 0.90, 0.88]))
    eyes = np.hypot(ax - EYE[0], 1.35 * (y - EYE[1]))
    tint(0.35 * bump(eyes - 0.012, 0.011) * face, np.array([0.90, 0.84, 0.85]))
    under_eyes = bump(np.hypot(0.7 * (ax - 0.030), y - 0.8735), 0.0065)
    tint((0.25 + 0.3 * old) * under_eyes * face, np.array([0.86, 0.80, 0.82]))
    tint(0.25 * ramp(y, 0.93, 0.97) * (z > 0.08), np.array([0.97, 0.96, 0.95]))
    if person.freckles:
        spots = np.clip(noise(points, 900, seed + 4, 16) - 0.9, 0, 0.6)
        where = (bump(np.hypot(0.5 * x, y - 0.858), 0.022) * face + 0.35 * (torso > 0.5) + 0.3 * (ax > 0.2)) * (
            lips < 0.2
        )
        tint(person.freckles * spots * np.clip(where, 0, 1), np.array([0.72, 0.58, 0.48]))
    if old > 0.3:
        tint(0.5 * old * np.clip(noise(points, 160, seed + 5, 14) - 1.25, 0, 1), np.array([0.80, 0.70, 0.62]))
    for mole in range(3):
        r = np.random.default_rng([seed, mole])
        place = np.array([r.uniform(-0.05, 0.05), r.uniform(0.78, 0.94)])
        cover(
            0.8 * ramp(np.hypot(x - place[0], y - place[1]), 0.0016, 0.0009) * face * (r.random() < 0.5),
            0.45 * person.skin,
        )

    rosy = np.array([0.84, 0.66, 0.66]) * (1 - 0.5 * pale) + 0.5 * pale * (
        np.array([0.88, 0.66, 0.66]) if person.presentation == "feminine" else np.array([0.87, 0.72, 0.70])
    )
    lip_colour = person.skin * rosy
    makeup = person.makeup
    if makeup:
        r = np.random.default_rng([seed, 9])
        lipsticks = np.array([(176, 62, 70), (150, 58, 72), (190, 98, 96), (134, 40, 52), (168, 86, 78)])
        lipstick = lipsticks[r.integers(5)] * (0.75 + 0.35 * pale)
        lip_colour = lip_colour * (1 - 0.75 * makeup) + 0.75 * makeup * lipstick
        shadow = person.skin * np.array([(0.72, 0.60, 0.56), (0.60, 0.52, 0.56), (0.78, 0.62, 0.50)])[r.integers(3)]
        cover(
            0.55 * makeup * np.clip(lids + 0.6 * bump(np.hypot(ax - EYE[0], 2.2 * (y - 0.8985)), 0.012), 0, 1) * face,
            shadow,
        )
        tint(0.22 * makeup * bump(np.hypot(0.8 * (ax - 0.050), y - 0.855), 0.014) * face, np.array([1.0, 0.78, 0.78]))
    else:
        tint(0.22 * lids, np.array([0.88, 0.80, 0.78]))
    lash_line = bump(eyes - 0.0125, 0.0022) * face * ramp(y, 0.880, 0.892)
    tint((0.25 + 0.45 * makeup) * lash_line, np.array([0.45, 0.38, 0.36]))
    cover(
        0.92 * ramp(lips, 0.30, 0.62) * (1 - ramp(inner, 0.4, 0.7)),
        lip_colour * (1 + 0.05 * noise(points, (900, 120, 300), seed + 6))[:, None],
    )
    cover(ramp(nails, 0.35, 0.6), 0.5 * person.skin + 0.5 * np.array([226, 178, 168]) if makeup < 0.6 else lip_colour)
    gloss = 0.34 + 0.10 * nose + 0.08 * bump(np.hypot(x, y - 0.935), 0.03) * face
    roughness = np.full(len(x), 0.46) - 0.05 * nose - 0.05 * (lips > 0.4)
    gloss = gloss + 0.5 * (lips > 0.4) * (0.4 + makeup) * 0.5 + 0.3 * (nails > 0.5)
    height = (
        _pores(points, face, lips, seed)
        + old * _wrinkles(x, y, z, face, seed)
        + 0.00012 * hand * noise(points, (900, 240, 900), seed + 8)
    )
    height = height + 0.00016 * lips * noise(points, (1500, 90, 300), seed + 10)

    region = np.where(
        y > 0.715,
        REGION["face"],
        np.where(hand > 0.5, REGION["hands"], np.where(torso > 0.5, REGION["face"], REGION["arms"])),
    )
    hair_colour = np.array(HAIR_COLOURS[person.hair_colour], float)
    hair_colour = hair_colour * (1 - person.grey) + person.grey * np.array([150, 148, 146])
    style = STYLES.get(person.hair)
    is_on_head = (y > 0.74) & (hand < 0.1)
    if style is not None:
        # Under the strands the scalp takes their color, which fades out at the hairline.
        depth = scalp_depth(style, points) + 0.0022 * noise(points, (700, 260, 700), seed + 11)
        density = 0.86 if style.length > 0.02 else 0.62
        amount = density * ramp(depth, -0.004, 0.007) * is_on_head
        cover(amount, 0.62 * hair_colour)
        region = np.where(is_on_head & (depth > 0.001), REGION["hair"], region)
    # Signed distance from the brow's outline, in mm.
    brow = (
        0.0030 * person.brow * ramp(ax, 0.060, 0.030) * ramp(ax, 0.010, 0.017)
        - np.abs(y - brow_line(ax, float(person.presentation == "feminine")))
    ) * 1000
    cover(0.4 * ramp(brow, -1.2, 1.6) * (z > 0.08) * face, 0.55 * hair_colour + 0.35 * person.skin)
    beard = BEARDS[person.beard]
    if person.presentation == "masculine":
        shaved = ramp(
            0.822 + 0.30 * np.clip(ax - 0.03, 0, 1) + 0.25 * np.clip(0.10 - z, 0, 1) - y, -0.004, 0.012
        ) * ramp(y, 0.752, 0.768) * (z > 0.045) + (
            ramp(np.abs(y - 0.834), 0.008, 0.004) * ramp(ax, 0.034, 0.026) * face
        )
        cover(
            (0.10 if not beard else 0.30 if beard < 0.01 else 0.45)
            * np.clip(shaved, 0, 1)
            * (1 - lips)
            * (1 - 0.5 * person.grey),
            0.5 * hair_colour + 0.30 * person.skin,
        )
    mouth = ramp(inner, 0.35, 0.6) * (lips < 0.45)
    cover(mouth, np.array([112, 42, 42]))
    region = np.where(mouth > 0.5, REGION["mouth"], region).astype(np.uint8)
    flesh = np.full(len(x), 1.0)
    values = np.concatenate([linear(colour), np.stack([height, gloss, roughness, flesh], 1)], 1)
    _paint_parts(person, points, part, values, region)
    return values.astype(np.float32), region


def _pores(points: np.ndarray, face: np.ndarray, lips: np.ndarray, seed: int) -> np.ndarray:
    """Heights [N] m of pores and fine grain."""
    fine = noise(points, 3400, seed + 20) * noise(points, 2900, seed + 21)
    return 0.000030 * fine * face * (1 - lips) + 0.000022 * noise(points, 1700, seed + 22)


def _wrinkles(x: np.ndarray, y: np.ndarray, z: np.ndarray, face: np.ndarray, seed: int) -> np.ndarray:
    """Heights [N] m of an old face's lines.

    They are on the brow, between the brows, beside and under the eyes, from nose to mouth, below the mouth's corners,
    and on the neck.
    """
    ax = np.abs(x)
    wobble = 0.0022 * np.sin(90 * x + seed % 7) + 0.0012 * np.sin(210 * x + seed % 5)
    brow = sum(bump(y - level - wobble, 0.0016) for level in (0.932, 0.943, 0.955)) * ramp(ax, 0.055, 0.035)
    frown = sum(bump(x - s * 0.0055 - 0.1 * s * (y - 0.91), 0.0012) for s in (-1, 1)) * bump(y - 0.912, 0.008)
    angle = np.arctan2(y - 0.886, ax - 0.042)
    crow = (
        np.clip(np.cos(angle * 14 + seed % 3), 0, 1) ** 3
        * ramp(np.hypot(ax - 0.042, y - 0.886), 0.008, 0.012)
        * ramp(np.hypot(ax - 0.042, y - 0.886), 0.026, 0.016)
        * (ax > 0.046)
    )
    under = sum(bump(y - level - 6.0 * (ax - 0.030) ** 2, 0.0011) for level in (0.8715, 0.8665)) * ramp(
        np.abs(ax - 0.030), 0.018, 0.010
    )
    fold = bump(ax - (0.021 + 0.36 * (0.846 - y)), 0.0026) * ramp(y, 0.808, 0.820) * ramp(y, 0.852, 0.842)
    corner = bump(ax - 0.030 - 0.12 * (0.812 - y), 0.0018) * ramp(y, 0.790, 0.800) * ramp(y, 0.816, 0.808)
    neck = sum(bump(y - level - 0.1 * ax, 0.0020) for level in (0.735, 0.720)) * (z > 0.02)
    return (
        -1.0
        * face
        * (0.00042 * brow + 0.0005 * frown + 0.0004 * crow + 0.00042 * under + 0.0011 * fold + 0.0006 * corner)
        - 0.0006 * neck
    )


def _paint_parts(person: Person, points: np.ndarray, part: np.ndarray, values: np.ndarray, region: np.ndarray) -> None:
    """Paint tongue, teeth and eyeballs into values [N, 7] and region [N] in place. They are meshes of their own."""
    for name, tint, gloss, roughness, flesh in (
        ("tongue", (168, 82, 84), 0.5, 0.35, 0.8),
        ("teeth", (226, 216, 200), 0.8, 0.25, 0.3),
    ):
        rows = part == PARTS[name][0]
        front = ramp(points[rows, 2], 0.10, 0.145)[:, None]  # The back of the mouth is dark.
        values[rows] = np.concatenate(
            [linear(tint) * (0.25 + 0.75 * front), np.broadcast_to([0, gloss, roughness, flesh], (rows.sum(), 4))], 1
        )
        region[rows] = REGION["mouth"]
    eye = part == PARTS["eye"][0]
    p = points[eye]
    side = np.sign(p[:, 0])
    radius = np.hypot(np.abs(p[:, 0]) - _EYE_CENTRE[0], p[:, 1] - _EYE_CENTRE[1])
    angle = np.arctan2(p[:, 1] - _EYE_CENTRE[1], side * (np.abs(p[:, 0]) - _EYE_CENTRE[0]))
    r = np.random.default_rng([person.seed, 3])
    phases = r.uniform(0, 6.3, 5)
    fibres = sum(np.sin(angle * k + phase) for k, phase in zip((9, 17, 23, 31, 41), phases, strict=True)) / 5
    white = (
        np.array((214, 206, 200))
        * (1 - 0.30 * ramp(radius, 0.008, 0.016))[:, None]
        * (1 - 0.08 * ramp(radius, 0.007, 0.015)[:, None] * np.array([0, 1, 1]))
    )
    iris_radius, pupil = 0.0062, r.uniform(0.0022, 0.0030)
    iris = np.array(IRISES[person.iris], float)
    dark_edge = 0.55 * ramp(radius, iris_radius - 0.0014, iris_radius)
    iris = iris * (1.05 + 0.35 * fibres + 0.25 * bump(radius - pupil, 0.0012) - dark_edge)[:, None]
    ring = ramp(radius, iris_radius + 0.0004, iris_radius - 0.0004)[:, None]
    hole = ramp(radius, pupil + 0.0003, pupil - 0.0003)[:, None]
    colour = (white * (1 - ring) + iris * ring) * (1 - hole) + 10 * hole
    values[eye] = np.concatenate([linear(colour), np.broadcast_to([0, 0.5, 0.10, 0.2], (eye.sum(), 4))], 1)
    region[eye] = REGION["face"]
