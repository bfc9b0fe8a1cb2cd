"""An avatar's body texture: what the portrait saw of the surface, and the unseen rest by symmetry and nearness.

S x S texels over the body file's own texture coordinates (MakeHuman's layout on the free body, SMPL-X's on the licensed one).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.ndimage import distance_transform_edt, map_coordinates
from scipy.spatial import cKDTree

from stereotalker.body.free_body import PARTS
from stereotalker.body.model import Body, load_body
from stereotalker.control.region_sources import BARE, inner_person_mask
from stereotalker.control.sleeves import SourceLabels
from stereotalker.geometry.rasterizer import Fragments, rasterize
from stereotalker.records import Avatar
from stereotalker.smplx_layout import REGION

SIZE = 512  # texels of a side
VISIBILITY_TOLERANCE_M = 0.006  # a surface this close behind the portrait's depth map counts as seen; fingers are 15 mm thick
_ACROSS_M = 0.03  # a place of the other side counts as this much farther
_MOST = 3000  # seen texels of a region that are asked, so that those at a shadowed rim do not speak for all
_ASKED = 24  # seen texels that an unseen one mixes
# What a closed mouth hides: mean colours in the mouths of 25 rendered people.
_INNER = {PARTS["tongue"][0]: (52, 28, 27), PARTS["teeth"][0]: (79, 65, 58)}
_CHEEKS = (62, 36, 34)  # from inside
VISIBLE_TEXEL, MIRRORED_TEXEL = 255, 128  # kinds of texels; 0: a guess


@dataclass(frozen=True)
class Texture:
    """colour f32 [S, S, 3], sRGB without the light's shading, which may put it beyond 255; seen u8 [S, S]: VISIBLE_TEXEL where the portrait showed that place,
    MIRRORED_TEXEL where its mirror image, 0 where a guess."""

    colour: np.ndarray
    seen: np.ndarray


@dataclass(frozen=True)
class _Atlas:
    """Where texels lie on the body. N texels that lie on it."""

    rows: np.ndarray  # i64 [N]
    columns: np.ndarray
    corners: np.ndarray  # i32 [N, 3] vertices of the texel's triangle
    shares: np.ndarray  # f32 [N, 3]
    place: np.ndarray  # f32 [N, 3] m on the mean body at rest


def make_texture(
    avatar: Avatar, body: Body, portrait: np.ndarray, pixels: np.ndarray, picture: Fragments, region: np.ndarray, claims: SourceLabels, shading: np.ndarray
) -> Texture:  # fmt: skip
    """portrait u8 [H, W, 3], whose colours go on beyond the person; pixels f32 [V, 3]: the avatar's body in it; picture: the same, drawn;
    region u8 [V]; shading f32 [V] of the surface in the portrait.

    Colours are only taken from the same region, of arms from the same side of the sleeves' end. Hands, and arms beyond their sleeves, of which
    the portrait shows nothing take the face's colour.
    """
    atlas = _atlas(body.path, body.reader, body.betas)
    H, W = avatar.regions.shape
    at = (pixels[atlas.corners] * atlas.shares[..., None]).sum(1)
    columns, rows = (np.clip(at[:, k].astype(int), 0, (W, H)[k] - 1) for k in (0, 1))
    inside = (at[:, 0] >= 0) & (at[:, 0] < W) & (at[:, 1] >= 0) & (at[:, 1] < H)
    main = atlas.corners[np.arange(len(at)), atlas.shares.argmax(1)]
    part = body.part[main]
    hidden = (body.masks["inner_mouth"][main] > 0.5) & (part == PARTS["body"][0])
    seen = (
        inside
        & (np.abs(picture.depth[rows, columns] - at[:, 2]) < VISIBILITY_TOLERANCE_M)
        & (avatar.regions[rows, columns] != REGION["background"])
    )
    seen &= claims.allowed_sources[main, claims.pixels[rows, columns]] & ~hidden & ~np.isin(part, list(_INNER))
    colour = np.stack(
        [
            map_coordinates(portrait[..., k], [at[:, 1] - 0.5, at[:, 0] - 0.5], np.float32, order=1, mode="nearest")
            for k in range(3)
        ],
        1,
    )
    colour /= (shading[atlas.corners] * atlas.shares).sum(1)[:, None]
    kind = np.where(seen, VISIBLE_TEXEL, 0).astype(np.uint8)
    beyond = (claims.beyond[atlas.corners] * atlas.shares).sum(1) > 0
    groups = np.where(beyond & (region[main] == REGION["arms"]), BARE, region[main])
    trusted = (
        seen
        & inner_person_mask(avatar.regions)[rows, columns]
        & (~np.isin(groups, [REGION["arms"], BARE]) | (claims.pixels[rows, columns] == groups))
    )
    for group in np.unique(groups):
        own = groups == group
        known, asked = np.flatnonzero(own & trusted), np.flatnonzero(own & ~seen)
        known = known[:: max(1, -(-len(known) // _MOST))]
        if len(known) and len(asked):
            colour[asked], mirrored = _guess(atlas.place, colour, known, asked)
            kind[asked[mirrored]] = MIRRORED_TEXEL
        elif len(asked):
            alike = trusted & (groups == REGION["face"]) if group in (REGION["hands"], BARE) else seen
            alike = alike if alike.any() else seen
            colour[asked] = np.median(colour[alike], 0) if alike.any() else 128  # a portrait that shows nobody
    colour[hidden] = _CHEEKS
    for number, fixed in _INNER.items():
        colour[part == number] = fixed
    out, how = np.zeros((SIZE, SIZE, 3), np.float32), np.zeros((SIZE, SIZE), np.uint8)
    out[atlas.rows, atlas.columns], how[atlas.rows, atlas.columns] = colour, kind
    return Texture(_bleed(out, atlas), how)


def _guess(
    place: np.ndarray, colour: np.ndarray, known: np.ndarray, asked: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Colours [asked, 3] by the nearest seen places of this side or the other, and which of them came from the other side."""
    across = place[known] * np.array([-1, 1, 1], np.float32)
    here = np.concatenate(
        [np.pad(place[known], ((0, 0), (0, 1))), np.pad(across, ((0, 0), (0, 1)), constant_values=_ACROSS_M)]
    )
    distance, nearest = cKDTree(here).query(np.pad(place[asked], ((0, 0), (0, 1))), k=min(_ASKED, len(here)))
    share = 1 / (distance + 2e-3)
    share /= share.sum(1, keepdims=True)
    return (colour[known[nearest % len(known)]] * share[..., None]).sum(1), nearest[:, 0] >= len(known)


def _bleed(colour: np.ndarray, atlas: _Atlas) -> np.ndarray:
    """Texels beside an island take its colour, so that bilinear samples at its border are right."""
    empty = np.ones(colour.shape[:2], bool)
    empty[atlas.rows, atlas.columns] = False
    rows, columns = distance_transform_edt(empty, return_distances=False, return_indices=True)
    return colour[rows, columns]


@lru_cache(maxsize=2)
def _atlas(path, reader, betas) -> _Atlas:
    body = load_body(path, reader, betas)
    flat = np.concatenate([texel_corners(body), np.ones((len(body.texture_places), 1), np.float32)], 1)
    drawn = rasterize(flat, body.texture_faces, (SIZE, SIZE))
    rows, columns = np.nonzero(drawn.face >= 0)
    corners, shares = body.faces[drawn.face[rows, columns]], drawn.bary[rows, columns]
    return _Atlas(rows, columns, corners, shares, (body.template[corners] * shares[..., None]).sum(1))


def texel_corners(body: Body) -> np.ndarray:
    """The body's texture coordinates in texels, y down. f32 [N, 2]."""
    return np.stack([body.texture_places[:, 0], 1 - body.texture_places[:, 1]], 1) * np.float32(SIZE)
