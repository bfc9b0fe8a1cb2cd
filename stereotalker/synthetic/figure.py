"""A person made ready to be rendered: shape, skin, hair and clothes baked once into a `shading.Figure`.

Also the person's `shell`: what clothes and hair add to the body's own vertices, which is all that an Avatar knows of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from stereotalker.body.free_body import PARTS
from stereotalker.body.model import Body
from stereotalker.body.shape_space import FACES, load_variety
from stereotalker.smplx_layout import REGION
from stereotalker.synthetic import hair
from stereotalker.synthetic.anatomy import FLOOR_Y, Anatomy, anatomy, ramp
from stereotalker.synthetic.bound_mesh import Mesh, join, pack, submesh
from stereotalker.synthetic.population import BEARDS, HAIR_COLOURS, Person
from stereotalker.synthetic.shading import Figure, Texels, occlude
from stereotalker.synthetic.skin import linear, paint_skin
from stereotalker.synthetic.wardrobe import Outfit, dress

_HIDDEN_M = 0.012  # skin deeper under cloth than this is left out
_FINEST = 26  # lattice steps a triangle at the most
_IN_MOUTH = (PARTS["tongue"][0], PARTS["teeth"][0])
_MASKS = ("lips", "nails", "inner_mouth", "lids")


@dataclass(frozen=True)
class Dressed:
    """A person's body and all that hangs on it. V vertices of the body."""

    person: Person
    betas: np.ndarray  # f32 [B]
    face: np.ndarray  # f32 [V, 3] m: what the betas leave out of the shape, the face above all
    shell: np.ndarray  # f16 [V, 3] m: face, clothes and hair on the body's own vertices
    figure: Figure


def build(person: Person, body: Body) -> Dressed:
    """Bake a person. 2 to 4 s on one core."""
    known = anatomy(body)
    variety = load_variety(FACES)
    betas = variety.betas(person.phenotypes)[: body.betas]
    face = variety.detail(person.phenotypes, person.face)
    rest = (body.rest(betas) + face).astype(np.float64)
    outfit = dress(person, known, rest)
    locks = _locks(person, known, rest, outfit)
    shell = face + outfit.surface + _hair_shell(person, known, rest, locks, outfit)
    return Dressed(person, betas, face, shell.astype(np.float16), _bake(person, known, rest, outfit, locks))


def _locks(person: Person, known: Anatomy, rest: np.ndarray, outfit: Outfit) -> list[hair.Lock]:
    colour = linear(HAIR_COLOURS[person.hair_colour])
    style = hair.style_named(person.hair, person.parted_right)
    locks = []
    if style is not None:
        grown = hair.grow(style, colour, person.grey, known, rest, rest + outfit.surface, person.seed)
        locks += [_under(lock, outfit, known) for lock in grown]
    locks.append(
        hair.brows(colour * 0.8, person.brow, float(person.presentation == "feminine"), known, rest, person.seed)
    )
    locks.append(hair.lashes(linear((30, 24, 22)), 0.85 + 0.5 * person.makeup, known, rest, person.seed))
    if BEARDS[person.beard]:
        locks.append(hair.beard(colour, person.grey, BEARDS[person.beard], person.moustache, known, rest, person.seed))
    return locks


def _under(lock: hair.Lock, outfit: Outfit, known: Anatomy) -> hair.Lock:
    """Only the hairs that grow below the rim of a cap."""
    if outfit.headwear is None:
        return lock
    kept = outfit.headwear(known.body.template[lock.anchors].astype(np.float64)) < -0.002
    return replace(
        lock, paths=lock.paths[kept], anchors=lock.anchors[kept], radius=lock.radius[kept], colour=lock.colour[kept]
    )


def _hair_shell(person: Person, known: Anatomy, rest: np.ndarray, locks: list[hair.Lock], outfit: Outfit) -> np.ndarray:
    """How far the hair lifts the scalp's own vertices: to the height of the strands above them. [V, 3] m."""
    template = known.body.template
    style = hair.STYLES.get(person.hair)
    if style is None:
        return np.zeros_like(rest)
    inside = ramp(hair.scalp_depth(style, template.astype(np.float64)), -0.002, 0.006) * (known.head > 0.5) * known.skin
    if outfit.headwear is not None:
        inside = inside * (outfit.headwear(template.astype(np.float64)) < 0)
    points = np.concatenate([lock.paths.reshape(-1, 3) for lock in locks if lock.region == REGION["hair"]])
    if not len(points):
        return np.zeros_like(rest)
    normals = known.normals(rest)
    grown = np.flatnonzero(inside > 0)
    owner = cKDTree(rest[grown]).query(points)[1]
    height = ((points - rest[grown][owner]) * normals[grown][owner]).sum(1)
    lifted = np.zeros(len(rest))
    order = np.lexsort((height, owner))
    counts = np.bincount(owner, minlength=len(grown))
    last = np.cumsum(counts)
    some = counts > 4
    lifted[grown[some]] = height[order][
        (last[some] - 1 - counts[some] // 8).astype(int)
    ]  # near the highest, but for strays
    field = np.repeat(np.clip(lifted, 0, 0.09)[:, None], 3, 1)
    smooth = known.smooth(field, (known.head > 0.3) * known.skin * 1.0, 4)[:, :1]
    return normals * smooth * inside[:, None]


# ---- baking --------------------------------------------------------------------------------------------------------------


def _bake(person: Person, known: Anatomy, rest: np.ndarray, outfit: Outfit, locks: list[hair.Lock]) -> Figure:
    body, template = known.body, known.body.template.astype(np.float64)
    skin, parts = _bare(known, outfit)
    masks = np.stack([body.masks[n] for n in _MASKS] + [known.hand, known.torso, body.part], 1)
    head, hand = ((skin.bind @ weights)[skin.faces].mean(1) for weights in (known.head, known.hand))
    baked = [_texels(
        skin, np.concatenate([skin.canonical(template), skin.bind @ masks], 1), np.select([parts == PARTS["eye"][0], head > 0.3, hand > 0.3], [0.00028, 0.0011, 0.0018], 0.0035),
        lambda a: paint_skin(person, a[:, :3], a[:, 3:9], a[:, 9].round().astype(np.uint8)),
    )]  # fmt: skip
    baked += [_texels(piece.mesh, piece.mesh.canonical(template), 0.0026, piece.paint) for piece in outfit.pieces]
    mesh = join([skin, *(piece.mesh for piece in outfit.pieces)])
    strands = hair.strands(locks, known, rest)
    at_rest = rest.astype(np.float32), np.broadcast_to(np.eye(3, dtype=np.float32), (len(rest), 3, 3)).copy()
    sky, hair_sky = occlude(mesh.at(rest).astype(np.float32), mesh.faces, strands, strands.binding.pose(*at_rest))
    # A mouth is baked shut, so what lies inside gets a sky of its own; lids and lips keep some of theirs.
    inner = skin.bind @ ((body.masks["inner_mouth"] > 0.5) | np.isin(body.part, _IN_MOUTH))
    soft = skin.bind @ np.maximum(body.masks["lips"], body.masks["lids"])
    n = len(skin.offset)
    sky[:n] = np.where(inner > 0.3, 0.42, np.maximum(sky[:n], 0.75 * soft))
    recess = np.zeros(len(mesh.faces), np.uint8)
    recess[: len(parts)] = np.select([parts == PARTS["eye"][0], np.isin(parts, _IN_MOUTH)], [1, 2])
    return Figure(
        binding=pack(mesh.bind, mesh.offset), faces=mesh.faces, texels=_joined(baked), occlusion=sky, recess=recess,
        strands=replace(strands, occlusion=np.clip(hair_sky * 2.2, 0.12, 1).astype(np.float32)),
    )  # fmt: skip


def _bare(known: Anatomy, outfit: Outfit) -> tuple[Mesh, np.ndarray]:
    """The body's triangles that cloth does not hide, without the lash ribbons and the legs; and the part of each."""
    body = known.body
    first = body.part[body.faces[:, 0]]
    bare = (outfit.covered[body.faces] < _HIDDEN_M).any(1) & (body.template[body.faces, 1] > FLOOR_Y).any(1)
    shown = np.where(first == PARTS["body"][0], bare, first != PARTS["lashes"][0])
    return submesh(len(body.template), body.faces[shown]), first[shown]


def _texels(
    mesh: Mesh, attributes: np.ndarray, spacing: np.ndarray | float, paint
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fineness u8 [F], values f32 [N, 7], region u8 [N] of a mesh; attributes [M, C], canonical points first, are what `paint` gets."""
    corners = attributes[mesh.faces, :3]
    longest = np.max(
        [np.linalg.norm(corners[:, i] - corners[:, j], axis=1) for i, j in ((0, 1), (1, 2), (2, 0))], axis=0
    )
    fineness = np.clip(np.ceil(longest / spacing), 1, _FINEST).astype(np.uint8)
    counts = (fineness.astype(int) + 1) * (fineness.astype(int) + 2) // 2
    first = np.cumsum(counts) - counts
    samples = np.zeros((counts.sum(), attributes.shape[1]), np.float32)
    for R in np.unique(fineness):
        some = np.flatnonzero(fineness == R)
        j, i = np.meshgrid(np.arange(R + 1), np.arange(R + 1), indexing="ij")
        inside = i + j <= R
        share = np.stack([R - i[inside] - j[inside], i[inside], j[inside]], 1) / R
        place = first[some][:, None] + np.arange(len(share))
        samples[place] = np.einsum("nk,fkc->fnc", share, attributes[mesh.faces[some]])
    return fineness, *paint(samples)


def _joined(baked: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Texels:
    fineness, values, region = (np.concatenate(column) for column in zip(*baked, strict=True))
    counts = (fineness.astype(np.int64) + 1) * (fineness.astype(np.int64) + 2) // 2
    return Texels((np.cumsum(counts) - counts).astype(np.int32), fineness, values, region)
