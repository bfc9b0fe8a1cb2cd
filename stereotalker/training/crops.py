"""What masks and renderer see in training: crops of takes around what matters, mirrored, recoloured, with holes in the warp.

W runs of T frames that follow each other, B = W x T, S x S px a crop.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from scipy.ndimage import uniform_filter

from stereotalker.control.reference_warp import GUESSED, SEEN
from stereotalker.smplx_layout import REGION
from stereotalker.training.samples import Sample

# How often a crop's middle is looked for in these regions; next to these, where the portrait showed nothing of the person; else anywhere on it.
_MIDDLES = ((0.3, ("face", "mouth", "hair")), (0.2, ("hands",)))
_HIDDEN = 0.3
_HOLE, _NO_WARP = 0.2, 0.03  # how often the warp has a hole, or is nothing but colours
_GAIN, _GAMMA = 0.2, 0.25  # of colours: changes of channels and of brightness


@dataclass(frozen=True)
class Crops:
    """A batch. u8 [B, S, S(, 3)] but the portraits, which are whole, and the angles."""

    image: torch.Tensor
    regions: torch.Tensor
    warp: torch.Tensor
    visibility: torch.Tensor
    normals: torch.Tensor
    labels: torch.Tensor
    plate: torch.Tensor
    portrait: torch.Tensor  # u8 [W, PH, PW, 3], one a run
    angles: torch.Tensor  # f32 [B, 2] degrees
    frames: int  # T

    def to(self, device: torch.device) -> Crops:
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "frames"})


def draw_crops(people: list[Sample], rng: np.random.Generator, runs: int, frames: int, size: int) -> Crops:
    """`runs` crops of random takes and cameras, `frames` that follow each other in each. Of a take that is too short the last frame stands."""
    drawn = [_crop(people[rng.integers(len(people))], frames, rng, size) for _ in range(runs)]
    return Crops(
        **{name: torch.from_numpy(np.concatenate([d[name] for d in drawn])) for name in drawn[0]}, frames=frames
    )


def _crop(sample: Sample, frames: int, rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
    T = sample.frames
    first, start = T * int(rng.integers(len(sample.image) // T)), int(rng.integers(max(T - frames, 0) + 1))
    at = first + np.minimum(start + np.arange(frames), T - 1)
    rows, columns = _window(sample.regions[at[0]], sample.visibility[at[0]], rng, size)
    cut = {
        name: getattr(sample, name)[at, rows, columns]
        for name in ("image", "regions", "warp", "visibility", "normals", "labels", "plate")
    }
    cut |= {"portrait": sample.portrait[None], "angles": sample.angles[at]}
    if rng.random() < _HOLE:
        cut["warp"], cut["visibility"] = _holed(cut["warp"], cut["visibility"], rng)
    if rng.random() < 0.5:
        cut = _mirrored(cut)
    table = _recolouring(rng)
    return cut | {name: _recoloured(cut[name], table) for name in ("image", "warp", "plate", "portrait")}


def _window(regions: np.ndarray, visibility: np.ndarray, rng: np.random.Generator, size: int) -> tuple[slice, slice]:
    """Where to cut: around a pixel of the person."""
    H, W = regions.shape
    person = regions != REGION["background"]
    groups = [(share, np.isin(regions, [REGION[name] for name in names])) for share, names in _MIDDLES] + [
        (_HIDDEN, person & (visibility != SEEN))
    ]
    chance, where = rng.random(), person
    for share, wanted in groups:
        if 0 <= chance < share and wanted.any():
            where = wanted
        chance -= share
    spots = np.argwhere(where)
    y, x = spots[rng.integers(len(spots))] if len(spots) else (H // 2, W // 2)
    top, left = (
        int(np.clip(at - rng.integers(size // 4, 3 * size // 4 + 1), 0, max(extent - size, 0)))
        for at, extent in ((y, H), (x, W))
    )
    return slice(top, top + size), slice(left, left + size)


def _holed(warp: np.ndarray, visibility: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """As if the portrait had not shown an ellipse of the crop: blurred colours there, known for a guess."""
    size = warp.shape[1]
    y, x = np.mgrid[:size, :size]
    cy, cx, ry, rx = (*rng.uniform(0.1, 0.9, 2) * size, *rng.uniform(0.06, 0.25, 2) * size)
    inside = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
    if rng.random() < _NO_WARP / _HOLE:
        inside[:] = True
    blurred = uniform_filter(warp, (0, size // 6, size // 6, 0))
    hole = inside & (visibility > 0)
    return np.where(hole[..., None], blurred, warp), np.where(hole, GUESSED, visibility).astype(np.uint8)


def _mirrored(cut: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    flipped = {name: a if name == "angles" else a[:, :, ::-1] for name, a in cut.items()}
    normals = flipped["normals"].copy()
    inside = flipped["visibility"] > 0  # seen at the very places that normals are
    normals[..., 0] = np.where(inside, 255 - normals[..., 0], normals[..., 0])
    return flipped | {"normals": normals, "angles": cut["angles"] * np.array([-1, 1], np.float32)}


def _recolouring(rng: np.random.Generator) -> np.ndarray:
    """A table u8 [256, 3]: other light, other white."""
    gain, gamma = (
        rng.uniform(1 - _GAIN, 1 + _GAIN, 3) ** 0.5 * rng.uniform(1 - _GAIN, 1 + _GAIN / 2),
        np.exp(rng.uniform(-_GAMMA, _GAMMA)),
    )
    level = (np.arange(256)[:, None] / 255) ** gamma * gain
    return np.clip(np.rint(255 * level), 0, 255).astype(np.uint8)


def _recoloured(picture: np.ndarray, table: np.ndarray) -> np.ndarray:
    return np.stack([table[picture[..., k], k] for k in range(3)], -1)
