"""Makes a person ready to be rendered: shape, skin, hair and clothes are baked once into a `shading.Figure`.

It also makes the person's `shell`, which is what clothes and hair add to the body's own vertices. An Avatar holds
nothing else of them.

Shapes: V vertices of the body; M points and F triangles of a mesh; N texels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from stereotalker.body.free_body import PARTS
from stereotalker.body.model import Body
from stereotalker.body.shape_space import SHAPE_SPACE_FILE, load_shape_space
from stereotalker.smplx_layout import REGION
from stereotalker.synthetic import facial_hair, hair
from stereotalker.synthetic.ambient_occlusion import bake_sky_visibility
from stereotalker.synthetic.anatomy import FLOOR_Y, Anatomy, anatomy, ramp
from stereotalker.synthetic.bound_mesh import Mesh, join_meshes, pack_binding, submesh
from stereotalker.synthetic.population import BEARDS, HAIR_COLOURS, Person
from stereotalker.synthetic.shading import Figure
from stereotalker.synthetic.shading_kernels import Texels
from stereotalker.synthetic.skin import linear, paint_skin
from stereotalker.synthetic.strand_groups import StrandGroup, bind_strands
from stereotalker.synthetic.wardrobe import Outfit, dress

_HIDDEN_M = 0.012  # Triangles of skin that lie deeper under cloth than this are left out.
_MAX_LATTICE_STEPS = 26  # along an edge of a triangle; it bounds the number of texels
_MOUTH_PARTS = (PARTS["tongue"][0], PARTS["teeth"][0])
_MASKS = ("lips", "nails", "inner_mouth", "lids")
_EYE_SPACING_M, _HEAD_SPACING_M, _HAND_SPACING_M, _SKIN_SPACING_M = 0.00028, 0.0011, 0.0018, 0.0035  # of texels
_CLOTH_SPACING_M = 0.0026
_MOUTH_SKY_VISIBILITY = 0.42  # An open mouth lets more light in than the closed one that is baked.
_MAX_HAIR_LIFT_M = 0.09


@dataclass(frozen=True)
class DressedPerson:
    """A person's body with everything that is bound to it."""

    person: Person
    betas: np.ndarray  # f32 [B]
    face: np.ndarray  # f32 [V, 3] m: the part of the shape that the betas leave out, mostly in the face
    shell: np.ndarray  # f16 [V, 3] m: face, clothes and hair on the body's own vertices
    figure: Figure


def build_person(person: Person, body: Body) -> DressedPerson:
    """Shape, dress and bake a person. Takes 2 to 4 s on one core.

    Raises UserError where the file of face shapes is missing.
    """
    mean = anatomy(body)
    shape_space = load_shape_space(SHAPE_SPACE_FILE)
    betas = shape_space.betas(person.phenotypes)[: body.betas]
    face = shape_space.detail(person.phenotypes, person.face)
    rest = (body.rest(betas) + face).astype(np.float64)
    outfit = dress(person, mean, rest)
    groups = _grow_hair(person, mean, rest, outfit)
    shell = face + outfit.surface + _hair_shell(person, mean, rest, groups, outfit)
    return DressedPerson(person, betas, face, shell.astype(np.float16), _bake(person, mean, rest, outfit, groups))


def _grow_hair(person: Person, mean: Anatomy, rest: np.ndarray, outfit: Outfit) -> list[StrandGroup]:
    """Hair of the head, brows, lashes and beard. rest f64 [V, 3] m."""
    colour, seed = linear(HAIR_COLOURS[person.hair_colour]), person.seed
    style = hair.style_named(person.hair, person.parted_right)
    groups = []
    if style is not None:
        grown = hair.grow(style, colour, person.grey, mean, rest, rest + outfit.surface, seed)
        groups += [_below_headwear(group, outfit, mean) for group in grown]
    arch = float(person.presentation == "feminine")
    groups.append(facial_hair.brows(colour * 0.8, person.brow, arch, mean, rest, seed))
    groups.append(facial_hair.lashes(linear((30, 24, 22)), 0.85 + 0.5 * person.makeup, mean, rest, seed))
    if BEARDS[person.beard]:
        length = BEARDS[person.beard]
        groups.append(facial_hair.beard(colour, person.grey, length, person.moustache, mean, rest, seed))
    return groups


def _below_headwear(group: StrandGroup, outfit: Outfit, mean: Anatomy) -> StrandGroup:
    """Only the strands whose roots lie below the rim of a cap."""
    if outfit.headwear is None:
        return group
    is_bare = outfit.headwear(mean.body.template[group.anchors].astype(np.float64)) < -0.002
    return replace(
        group,
        paths=group.paths[is_bare],
        anchors=group.anchors[is_bare],
        radius=group.radius[is_bare],
        colour=group.colour[is_bare],
    )


def _hair_shell(
    person: Person, mean: Anatomy, rest: np.ndarray, groups: list[StrandGroup], outfit: Outfit
) -> np.ndarray:
    """How far hair lifts the vertices of the scalp: to the height of the strands above them. f64 [V, 3] m."""
    template = mean.body.template
    style = hair.STYLES.get(person.hair)
    if style is None:
        return np.zeros_like(rest)
    inside = ramp(hair.scalp_depth(style, template.astype(np.float64)), -0.002, 0.006) * (mean.head > 0.5) * mean.skin
    if outfit.headwear is not None:
        inside = inside * (outfit.headwear(template.astype(np.float64)) < 0)
    points = np.concatenate([group.paths.reshape(-1, 3) for group in groups if group.region == REGION["hair"]])
    if not len(points):
        return np.zeros_like(rest)
    normals = mean.normals(rest)
    scalp = np.flatnonzero(inside > 0)
    owner = cKDTree(rest[scalp]).query(points)[1]
    height = ((points - rest[scalp][owner]) * normals[scalp][owner]).sum(1)
    lift = np.zeros(len(rest))
    order = np.lexsort((height, owner))
    counts = np.bincount(owner, minlength=len(scalp))
    ends = np.cumsum(counts)
    has_strands = counts > 4
    # The height near the highest of a vertex's strand points; the top eighth are strays.
    near_top = (ends[has_strands] - 1 - counts[has_strands] // 8).astype(int)
    lift[scalp[has_strands]] = height[order][near_top]
    field = np.repeat(np.clip(lift, 0, _MAX_HAIR_LIFT_M)[:, None], 3, 1)
    smooth = mean.smooth(field, (mean.head > 0.3) * mean.skin * 1.0, 4)[:, :1]
    return normals * smooth * inside[:, None]


# ---- baking ----------------------------------------------------------------------------------------------------------


def _bake(person: Person, mean: Anatomy, rest: np.ndarray, outfit: Outfit, groups: list[StrandGroup]) -> Figure:
    """Texels, sky visibility and bindings of the whole figure. rest f64 [V, 3] m."""
    body, template = mean.body, mean.body.template.astype(np.float64)
    skin, parts = _bare_skin(mean, outfit)
    masks = np.stack([body.masks[n] for n in _MASKS] + [mean.hand, mean.torso, body.part], 1)
    head, hand = ((skin.bind @ weights)[skin.faces].mean(1) for weights in (mean.head, mean.hand))
    spacing = np.select(
        [parts == PARTS["eye"][0], head > 0.3, hand > 0.3],
        [_EYE_SPACING_M, _HEAD_SPACING_M, _HAND_SPACING_M],
        _SKIN_SPACING_M,
    )
    baked = [
        _bake_texels(
            skin,
            np.concatenate([skin.canonical(template), skin.bind @ masks], 1),
            spacing,
            lambda a: paint_skin(person, a[:, :3], a[:, 3:9], a[:, 9].round().astype(np.uint8)),
        )
    ]
    for piece in outfit.pieces:
        baked.append(_bake_texels(piece.mesh, piece.mesh.canonical(template), _CLOTH_SPACING_M, piece.paint))
    mesh = join_meshes([skin, *(piece.mesh for piece in outfit.pieces)])
    strands = bind_strands(groups, mean, rest)
    at_rest = rest.astype(np.float32), np.broadcast_to(np.eye(3, dtype=np.float32), (len(rest), 3, 3)).copy()
    sky_visibility, strand_sky_visibility = bake_sky_visibility(
        mesh.place(rest).astype(np.float32), mesh.faces, strands, strands.binding.pose(*at_rest)
    )
    # The mouth is closed while it is baked, so what lies inside of it gets a constant; lids and lips keep a minimum.
    in_mouth = skin.bind @ ((body.masks["inner_mouth"] > 0.5) | np.isin(body.part, _MOUTH_PARTS))
    soft = skin.bind @ np.maximum(body.masks["lips"], body.masks["lids"])
    n = len(skin.offset)
    sky_visibility[:n] = np.where(in_mouth > 0.3, _MOUTH_SKY_VISIBILITY, np.maximum(sky_visibility[:n], 0.75 * soft))
    recess = np.zeros(len(mesh.faces), np.uint8)
    recess[: len(parts)] = np.select([parts == PARTS["eye"][0], np.isin(parts, _MOUTH_PARTS)], [1, 2])
    return Figure(
        binding=pack_binding(mesh.bind, mesh.offset),
        faces=mesh.faces,
        texels=_join_texels(baked),
        sky_visibility=sky_visibility,
        recess=recess,
        strands=replace(strands, sky_visibility=np.clip(strand_sky_visibility * 2.2, 0.12, 1).astype(np.float32)),
    )


def _bare_skin(mean: Anatomy, outfit: Outfit) -> tuple[Mesh, np.ndarray]:
    """The body's triangles that cloth does not hide, without lash ribbons and legs; and the part u8 [F] of each."""
    body = mean.body
    part = body.part[body.faces[:, 0]]
    is_bare = (outfit.covered[body.faces] < _HIDDEN_M).any(1) & (body.template[body.faces, 1] > FLOOR_Y).any(1)
    is_shown = np.where(part == PARTS["body"][0], is_bare, part != PARTS["lashes"][0])
    return submesh(len(body.template), body.faces[is_shown]), part[is_shown]


def _bake_texels(
    mesh: Mesh,
    attributes: np.ndarray,
    spacing: np.ndarray | float,
    paint: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paint a lattice of samples on every triangle: fineness u8 [F], values f32 [N, 7] and region u8 [N].

    attributes [M, C] are what `paint` gets, interpolated to the samples; the first three columns are canonical points
    in m. spacing is the largest distance of two samples in m, of all triangles or of each [F].
    """
    corners = attributes[mesh.faces, :3]
    longest = np.max(
        [np.linalg.norm(corners[:, i] - corners[:, j], axis=1) for i, j in ((0, 1), (1, 2), (2, 0))], axis=0
    )
    resolution = np.clip(np.ceil(longest / spacing), 1, _MAX_LATTICE_STEPS).astype(np.uint8)
    counts = (resolution.astype(int) + 1) * (resolution.astype(int) + 2) // 2
    first = np.cumsum(counts) - counts
    samples = np.zeros((counts.sum(), attributes.shape[1]), np.float32)
    for R in np.unique(resolution):
        triangles = np.flatnonzero(resolution == R)
        j, i = np.meshgrid(np.arange(R + 1), np.arange(R + 1), indexing="ij")
        inside = i + j <= R
        bary = np.stack([R - i[inside] - j[inside], i[inside], j[inside]], 1) / R
        rows = first[triangles][:, None] + np.arange(len(bary))
        samples[rows] = np.einsum("nk,fkc->fnc", bary, attributes[mesh.faces[triangles]])
    return resolution, *paint(samples)


def _join_texels(baked: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Texels:
    resolution, values, region = (np.concatenate(column) for column in zip(*baked, strict=True))
    counts = (resolution.astype(np.int64) + 1) * (resolution.astype(np.int64) + 2) // 2
    return Texels((np.cumsum(counts) - counts).astype(np.int32), resolution, values, region)
