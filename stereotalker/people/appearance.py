"""What a synthetic person looks like: skin, hair, clothes, all as functions of the canonical point (rest pose, mean shape).

Everyone is an adult and clothed: every person wears a top with at least short sleeves, and trousers.
Canonical axes: x to the person's left, y up, z front, metres; the head's centre is near y 0.88, the neck's base near y 0.68.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix

from stereotalker.body.layout import JOINT, REGION
from stereotalker.body.model import Body
from stereotalker.body.raster import vertex_normals

HEAD_CENTRE = np.array([0.0, 0.885, 0.065], np.float32)
HEAD_RADII = np.array([0.078, 0.118, 0.108], np.float32)

SKINS = np.array([
    (244, 212, 190), (232, 194, 168), (224, 184, 150), (206, 160, 124), (184, 136, 100), (156, 108, 76), (122, 82, 58), (92, 62, 46),
], np.float32)  # fmt: skip
HAIRS = np.array([(24, 20, 18), (44, 30, 22), (74, 48, 30), (110, 72, 42), (160, 116, 66), (120, 52, 28), (150, 146, 142)], np.float32)
FABRICS = np.array([
    (238, 236, 230), (28, 30, 36), (44, 62, 98), (120, 132, 140), (132, 36, 42), (42, 90, 74), (196, 168, 128), (88, 60, 110),
    (70, 120, 160), (204, 122, 60), (150, 170, 140), (216, 190, 196),
], np.float32)  # fmt: skip
IRISES = np.array([(70, 44, 26), (96, 64, 34), (84, 98, 68), (90, 116, 140)], np.float32)


@dataclass(frozen=True)
class Hair:
    tilt: float  # rad, how far the hair line falls to the back
    line: float  # height of the line, in head radii
    volume: float  # m on the crown
    sides: float  # share of the volume at the sides and back
    fringe: float  # 0..1, how far the hair comes over the forehead
    colour: np.ndarray  # sRGB 0..255


@dataclass(frozen=True)
class Garment:
    neckline: float  # m, height of the collar
    v_depth: float  # m, depth of a V at the front
    sleeve: float  # m from the middle, end of the sleeves in the rest pose
    hem: float  # m, height of the lower edge
    thickness: float  # m over the skin
    colour: np.ndarray
    second: np.ndarray  # of stripes
    stripes: float  # stripes a metre, 0 for none


@dataclass(frozen=True)
class Look:
    """One identity. Colours are sRGB 0..255."""

    betas: np.ndarray  # f32 [B]
    skin: np.ndarray
    iris: np.ndarray
    lips: np.ndarray
    beard: float
    brow: float
    hair: Hair | None
    top: Garment
    trousers: np.ndarray
    style: int  # of acting
    grain: int  # seed of the noise in skin, hair and cloth


def draw_look(seed: int, betas: int, styles: int) -> Look:
    """An adult drawn from the population. Deterministic in `seed`."""
    rng = np.random.default_rng([seed, 77])
    coefficients = np.clip(rng.normal(0, 0.9, betas), -2, 2).astype(np.float32)
    skin = _between(SKINS, rng.uniform(0, len(SKINS) - 1))
    dark = rng.random() < 0.75 or skin.mean() < 140
    colour = HAIRS[rng.integers(0, 3)] if dark else HAIRS[rng.integers(0, len(HAIRS))]
    masculine = rng.random() < 0.5
    kind = rng.choice(["short", "crop", "full", "bob", "bald"], p=[0.34, 0.2, 0.2, 0.2, 0.06])
    hair = {
        "short": Hair(0.62, 0.08, 0.034, 0.45, 0.10, colour), "crop": Hair(0.60, 0.10, 0.014, 0.70, 0.00, colour),
        "full": Hair(0.66, -0.02, 0.046, 0.70, 0.30, colour), "bob": Hair(0.74, -0.16, 0.042, 1.05, 0.40, colour), "bald": None,
    }[kind]  # fmt: skip
    fabric = FABRICS[rng.integers(len(FABRICS))] * rng.uniform(0.85, 1.1)
    return Look(
        betas=coefficients, skin=skin, iris=IRISES[rng.choice(4, p=[0.45, 0.25, 0.15, 0.15])],
        lips=np.array((0.88, 0.68, 0.66)) * skin + np.array((10, 0, 4)) * (not masculine) * rng.uniform(0, 2),
        beard=float(masculine and kind != "bob") * rng.choice([0.0, 0.25, 0.7], p=[0.45, 0.3, 0.25]), brow=rng.uniform(0.6, 1.0),
        hair=hair,
        top=Garment(
            neckline=rng.uniform(0.700, 0.725), v_depth=rng.choice([0.0, rng.uniform(0.04, 0.09)]),
            sleeve=float(rng.choice([rng.uniform(0.30, 0.38), rng.uniform(0.66, 0.69)], p=[0.35, 0.65])),
            hem=rng.uniform(0.08, 0.14), thickness=rng.uniform(0.009, 0.016), colour=fabric,
            second=FABRICS[rng.integers(len(FABRICS))], stripes=float(rng.choice([0, 0, 0, rng.uniform(14, 32)])),
        ),
        trousers=FABRICS[rng.integers(1, 4)] * rng.uniform(0.6, 0.9), style=int(rng.integers(styles)), grain=int(rng.integers(1 << 30)),
    )  # fmt: skip


def surface(look: Look, body: Body) -> np.ndarray:
    """What clothes and hair add to the skin in the rest pose. f16 [V, 3] m."""
    rest = body.rest(look.betas)
    skin = body.part == 0
    covered = np.clip(cloth_depth(look.top, body.template, body) / 0.030 + 0.6, 0, 1) * skin
    legs = np.clip((look.top.hem - body.template[:, 1]) / 0.030 + 0.5, 0, 1) * skin * ~_hands(body)
    smooth = _smoothed(rest, body.faces, np.maximum(covered, legs), 200)
    out = _normals(smooth, body)
    drape = 1 + 0.8 * np.clip((0.55 - body.template[:, 1]) / 0.4, 0, 1)  # cloth stands off more at the waist
    thickness = look.top.thickness * drape * covered + 0.006 * legs * (1 - covered)
    offset = smooth - rest + out * thickness[:, None]
    if look.hair is not None:
        grown = hair_depth(look.hair, body.template)
        on_head = skin * (body.weights[:, [JOINT["head"], JOINT["neck"]]].sum(1) > 0.5)
        height = look.hair.volume * (look.hair.sides + (1 - look.hair.sides) * np.clip((body.template[:, 1] - 0.93) / 0.06, 0, 1))
        lift = np.clip(grown / 0.012 + 0.35, 0, 1) * on_head * height
        ruffle = 1 + 0.18 * noise(body.template * np.array([1, 0.6, 1], np.float32), 70, look.grain)
        scalp = _smoothed(rest, body.faces, np.clip(grown / 0.01, 0, 1) * on_head, 12)  # buries the ears where hair covers them
        offset += (scalp - rest) + _normals(scalp, body) * (lift * ruffle)[:, None]
    return offset.astype(np.float16)


def cloth_depth(top: Garment, points: np.ndarray, body: Body | None = None) -> np.ndarray:
    """Signed distance-like depth inside the top, m, positive inside. points f32 [N, 3] canonical."""
    x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]
    collar = top.neckline - 0.25 * np.clip(z - 0.02, -0.1, 0.1) - y
    if top.v_depth:
        collar -= np.where(z > 0.0, top.v_depth * np.clip(1 - x / 0.055, 0, 1), 0)
    return np.minimum(np.minimum(collar, top.sleeve - x), y - top.hem)


def hair_depth(hair: Hair, points: np.ndarray) -> np.ndarray:
    """Signed depth inside the hairy scalp, m, positive inside. points f32 [N, 3] canonical."""
    p = (points - HEAD_CENTRE) / HEAD_RADII
    height = p[:, 1] * np.cos(hair.tilt) - p[:, 2] * np.sin(hair.tilt)
    forehead = np.clip(p[:, 2] - 0.25, 0, 1) * (0.16 - 0.5 * hair.fringe) * np.clip(1.2 - np.abs(p[:, 0]), 0, 1)
    temples = 0.10 * np.clip(np.abs(p[:, 0]) - 0.55, 0, 1) * np.clip(p[:, 2], 0, 1)
    ears = 0.9 * np.exp(-(((p[:, 1] + 0.12) / 0.30) ** 2 + ((p[:, 2] + 0.02) / 0.28) ** 2)) * (np.abs(p[:, 0]) > 0.75) * (hair.sides < 1)
    return (height - hair.line - forehead - temples - ears) * 0.1


def paint(look: Look, body: Body, points: np.ndarray, masks: np.ndarray, part: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colour, region and gloss of surface points.

    points f32 [N, 3] canonical; masks f32 [N, 6]: lips, nails, inner_mouth, lids, hand, torso weights; part u8 [N].
    Returns linear colour f32 [N, 3] in 0..1, region u8 [N], gloss f32 [N].
    """
    lips, nails, inner, lids, hand, torso = masks.T
    x, y, z = points.T
    g = look.grain
    skin = look.skin * (1 + 0.035 * noise(points, 90, g)[:, None] + 0.03 * noise(points, 420, g + 1)[:, None])
    cheeks = np.exp(-(((np.abs(x) - 0.042) / 0.020) ** 2 + ((y - 0.845) / 0.020) ** 2)) * (z > 0.08)
    nose = np.exp(-((x / 0.014) ** 2 + ((y - 0.850) / 0.016) ** 2)) * (z > 0.14)
    skin *= 1 - (0.10 * cheeks + 0.06 * nose)[:, None] * np.array([0.2, 1.0, 0.9], np.float32)
    colour, gloss = skin, np.full(len(x), 0.22, np.float32)
    region = np.where(y > 0.715, REGION["face"], np.where(hand > 0.5, REGION["hands"], np.where(torso > 0.5, REGION["face"], REGION["arms"])))
    region = region.astype(np.uint8)

    def cover(where: np.ndarray, with_colour: np.ndarray, shine: float | None = None, label: str | None = None) -> None:
        nonlocal colour
        amount = np.clip(where, 0, 1)[:, None]
        colour = colour * (1 - amount) + amount * with_colour
        if shine is not None:
            gloss[:] = gloss * (1 - amount[:, 0]) + amount[:, 0] * shine
        if label is not None:
            region[amount[:, 0] > 0.5] = REGION[label]

    fine = noise(points, 900, g + 2)
    if look.beard:
        jawline = np.clip((0.838 - y) / 0.015, 0, 1) * np.clip((y - 0.755) / 0.02, 0, 1) * (z > 0.02) * (1 - lips)
        cover(look.beard * jawline * (0.8 + 0.3 * fine), 0.55 * (look.hair.colour if look.hair else HAIRS[1]) + 0.2 * look.skin)
    ax = np.abs(x)
    arch = 0.9165 - 3.2 * (ax - 0.034) ** 2 - 0.05 * np.clip(ax - 0.045, 0, 1)
    brow = np.clip(1 - np.abs(y - arch) / (0.0055 - 0.03 * np.clip(ax - 0.03, 0, 1)), 0, 1) * (ax > 0.011) * (ax < 0.056) * (z > 0.07)
    cover(look.brow * np.clip(1.6 * brow, 0, 1) * (0.8 + 0.3 * fine), 0.8 * (look.hair.colour if look.hair else HAIRS[1]))
    cover(0.35 * lids, look.skin * np.array([0.72, 0.6, 0.58]))
    cover(lips, look.lips * (1 + 0.05 * fine[:, None]), 0.45)
    cover(nails, look.skin * 1.05 + np.array([6, -4, -2]), 0.5)
    cover(inner * (part == 0) * (lips < 0.4), np.array([92, 34, 34]), 0.3, "mouth")
    if look.hair is not None:
        strand = noise(points * np.array([1, 0.10, 0.5], np.float32), 520, g + 3) + 0.6 * noise(points, 160, g + 4)
        edge = hair_depth(look.hair, points) / 0.006 + 0.4 * noise(points * np.array([1, 0.3, 1], np.float32), 500, g + 5)
        cover(edge * ((y > 0.70) & (hand < 0.5) & (part == 0)), look.hair.colour * (0.85 + 0.20 * strand)[:, None], 0.30, "hair")
    cloth = look.top.colour * (1 + 0.03 * noise(points, 800, g + 6) + 0.05 * noise(points, 28, g + 7))[:, None]
    if look.top.stripes:
        cloth = np.where((np.sin(2 * np.pi * look.top.stripes * y) > 0.3)[:, None], look.top.second, cloth)
    depth = cloth_depth(look.top, points)
    cloth *= 1 - 0.18 * np.exp(-(((depth - 0.010) / 0.0022) ** 2))[:, None]  # the seam
    is_sleeve = (ax > 0.19) & (y > 0.45)
    cover((look.top.hem - y) / 0.003 * (hand < 0.5), look.trousers * (1 + 0.04 * fine[:, None]), 0.05, "legs")
    cover(depth / 0.003 * (hand < 0.5), cloth, 0.04)
    region[(depth > 0.0015) & (hand < 0.5)] = np.where(is_sleeve, REGION["arms"], REGION["torso"])[(depth > 0.0015) & (hand < 0.5)]
    _paint_parts(look, points, part, colour, region, gloss)
    return np.clip(colour / 255, 0, 1).astype(np.float32) ** 2.2, region, gloss


def _paint_parts(look: Look, points, part, colour, region, gloss) -> None:
    """Tongue, eyes, lashes and teeth, which are meshes of their own."""
    mouth = REGION["mouth"]
    for number, tint, shine, label in ((1, (176, 84, 86), 0.4, mouth), (3, (34, 26, 24), 0.0, REGION["face"]), (4, (226, 218, 204), 0.6, mouth)):
        here = part == number
        colour[here], gloss[here], region[here] = tint, shine, label
    eye = part == 2
    p = points[eye]
    off = np.hypot(np.abs(p[:, 0]) - 0.0312, p[:, 1] - 0.888)
    white = np.array((232, 226, 220)) * (1 - 0.25 * np.clip((off - 0.006) / 0.010, 0, 1))[:, None]
    ring = np.clip((0.0066 - off) / 0.0008, 0, 1)[:, None]
    iris = look.iris * (1.15 - 0.5 * np.clip(off / 0.0066, 0, 1))[:, None]
    pupil = np.clip((0.0028 - off) / 0.0006, 0, 1)[:, None]
    colour[eye] = (white * (1 - ring) + iris * ring) * (1 - pupil) + 12 * pupil
    gloss[eye], region[eye] = 0.9, REGION["face"]


def noise(points: np.ndarray, frequency: float, seed: int) -> np.ndarray:
    """Smooth noise of about unit range: a sum of eight plane waves. points f32 [N, 3] -> f32 [N]."""
    rng = np.random.default_rng(seed)
    waves = rng.normal(size=(8, 3)).astype(np.float32)
    waves *= frequency * rng.uniform(0.6, 1.6, (8, 1)).astype(np.float32) / np.linalg.norm(waves, axis=1, keepdims=True)
    phases = rng.uniform(0, 2 * np.pi, 8).astype(np.float32)
    return np.sin(points.astype(np.float32) @ waves.T + phases).sum(1) / 3


def _between(table: np.ndarray, at: float) -> np.ndarray:
    low = min(int(at), len(table) - 2)
    return table[low] + (at - low) * (table[low + 1] - table[low])


def _hands(body: Body) -> np.ndarray:
    return hand_weights(body) > 0.5


def hand_weights(body: Body) -> np.ndarray:
    columns = [i for name, i in JOINT.items() if name.endswith("wrist") or name[-1] in "123" and name.startswith(("left", "right"))]
    return body.weights[:, columns].sum(1)


def torso_weights(body: Body) -> np.ndarray:
    return body.weights[:, [JOINT[n] for n in ("pelvis", "spine1", "spine2", "spine3", "left_collar", "right_collar", "neck")]].sum(1)


def _normals(vertices: np.ndarray, body: Body) -> np.ndarray:
    return vertex_normals(vertices, body.faces)


def _smoothed(vertices: np.ndarray, faces: np.ndarray, amount: np.ndarray, rounds: int) -> np.ndarray:
    """Laplacian smoothing, as strong at every vertex as `amount` [V] in 0..1 says."""
    pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    links = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(vertices),) * 2).tocsr()
    links.data[:] = 1
    degree = np.maximum(np.asarray(links.sum(1)).ravel(), 1)
    out = vertices.astype(np.float64)
    for _ in range(rounds):
        out += amount[:, None] * 0.6 * (links @ out / degree[:, None] - out)
    return out
