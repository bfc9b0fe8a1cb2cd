"""Draws training crops for the mask predictor and the renderer from samples of takes.

Crops lie around important regions. They are mirrored and recolored at random, and some get holes in the reference warp.

W runs of T consecutive frames, B = W x T crops of S x S px.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from scipy.ndimage import uniform_filter

from stereotalker.control.warp_kernels import GUESSED, SEEN
from stereotalker.smplx_layout import REGION
from stereotalker.training.samples import Sample

# Probabilities with which a crop is placed around a pixel of these regions.
_REGION_PROBABILITIES = ((0.3, ("face", "mouth", "hair")), (0.2, ("hands",)))
# Probability with which it is placed around a part of the person that the portrait did not show. Otherwise: any pixel
# of the person.
_HIDDEN_PROBABILITY = 0.3
# Probability that the warp of a run has a hole, and that the hole covers the whole crop.
_HOLE_PROBABILITY, _FULL_HOLE_PROBABILITY = 0.2, 0.03
# Largest changes of color: gain of single channels (relative), and log of the gamma exponent.
_GAIN, _GAMMA = 0.2, 0.25


@dataclass(frozen=True)
class Crops:
    """A batch of crops. Fields without a comment are u8 [B, S, S] or, with three channels, u8 [B, S, S, 3]."""

    image: torch.Tensor
    regions: torch.Tensor
    warp: torch.Tensor
    visibility: torch.Tensor
    normals: torch.Tensor
    labels: torch.Tensor
    plate: torch.Tensor
    portrait: torch.Tensor  # u8 [W, PH, PW, 3], the whole portrait, one per run
    angles: torch.Tensor  # f32 [B, 2] azimuth and elevation, degrees
    frames: int  # T

    def to(self, device: torch.device) -> Crops:
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "frames"})


def draw_crops(people: list[Sample], rng: np.random.Generator, runs: int, frames: int, size: int) -> Crops:
    """Draw `runs` crops of `size` px from random takes and cameras, with `frames` consecutive frames each.

    If a take is too short, its last frame is repeated.
    """
    drawn = [_crop(people[rng.integers(len(people))], frames, rng, size) for _ in range(runs)]
    return Crops(
        **{name: torch.from_numpy(np.concatenate([d[name] for d in drawn])) for name in drawn[0]}, frames=frames
    )


def draw_mixed(
    people: list[Sample],
    photographs: list[Sample],
    share: float,
    rng: np.random.Generator,
    runs: int,
    frames: int,
    size: int,
) -> Crops:
    """Draw crops of people, or, in a `share` of the cases and if there are any, as many single frames of photographs.

    The other arguments are those of `draw_crops`.
    """
    if photographs and rng.random() < share:
        return draw_crops(photographs, rng, runs * frames, 1, size)
    return draw_crops(people, rng, runs, frames, size)


def _crop(sample: Sample, frames: int, rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
    """Arrays of one run [T, S, S(, 3)], with the names of Crops' fields; `portrait` is [1, PH, PW, 3]."""
    T = sample.frames
    first, start = T * int(rng.integers(len(sample.image) // T)), int(rng.integers(max(T - frames, 0) + 1))
    frame_index = first + np.minimum(start + np.arange(frames), T - 1)
    rows, columns = _window(sample.regions[frame_index[0]], sample.visibility[frame_index[0]], rng, size)
    crop = {
        name: getattr(sample, name)[frame_index, rows, columns]
        for name in ("image", "regions", "warp", "visibility", "normals", "labels", "plate")
    }
    crop |= {"portrait": sample.portrait[None], "angles": sample.angles[frame_index]}
    if rng.random() < _HOLE_PROBABILITY:
        crop["warp"], crop["visibility"] = _with_hole(crop["warp"], crop["visibility"], rng)
    if rng.random() < 0.5:
        crop = _mirrored(crop)
    table = _color_table(rng)
    return crop | {name: _recolored(crop[name], table) for name in ("image", "warp", "plate", "portrait")}


def _window(regions: np.ndarray, visibility: np.ndarray, rng: np.random.Generator, size: int) -> tuple[slice, slice]:
    """Rows and columns of a crop around a random pixel of the person.

    The pixel lies in the middle half of the crop, where the borders of the picture allow."""
    H, W = regions.shape
    person = regions != REGION["background"]
    groups = [
        (probability, np.isin(regions, [REGION[name] for name in names]))
        for probability, names in _REGION_PROBABILITIES
    ] + [(_HIDDEN_PROBABILITY, person & (visibility != SEEN))]
    draw, candidates = rng.random(), person
    for probability, group in groups:
        if 0 <= draw < probability and group.any():
            candidates = group
        draw -= probability
    pixels = np.argwhere(candidates)
    y, x = pixels[rng.integers(len(pixels))] if len(pixels) else (H // 2, W // 2)
    top, left = (
        int(np.clip(center - rng.integers(size // 4, 3 * size // 4 + 1), 0, max(extent - size, 0)))
        for center, extent in ((y, H), (x, W))
    )
    return slice(top, top + size), slice(left, left + size)


def _with_hole(warp: np.ndarray, visibility: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Warp and visibility as if the portrait had not shown an ellipse of the crop.

    Inside it the warp is blurred and the visibility is GUESSED. Sometimes the hole covers the whole crop.
    """
    size = warp.shape[1]
    y, x = np.mgrid[:size, :size]
    cy, cx = rng.uniform(0.1, 0.9, 2) * size
    ry, rx = rng.uniform(0.06, 0.25, 2) * size
    inside = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
    if rng.random() < _FULL_HOLE_PROBABILITY / _HOLE_PROBABILITY:
        inside[:] = True
    blurred = uniform_filter(warp, (0, size // 6, size // 6, 0))
    hole = inside & (visibility > 0)
    return np.where(hole[..., None], blurred, warp), np.where(hole, GUESSED, visibility).astype(np.uint8)


def _mirrored(crop: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The crop mirrored left to right, with the x component of its normals and its azimuth negated."""
    flipped = {name: a if name == "angles" else a[:, :, ::-1] for name, a in crop.items()}
    normals = flipped["normals"].copy()
    inside = flipped["visibility"] > 0  # normals are set exactly where visibility is above 0
    normals[..., 0] = np.where(inside, 255 - normals[..., 0], normals[..., 0])
    return flipped | {"normals": normals, "angles": crop["angles"] * np.array([-1, 1], np.float32)}


def _color_table(rng: np.random.Generator) -> np.ndarray:
    """A table u8 [256, 3] from old to new channel values, which changes brightness and white balance."""
    gain, gamma = (
        rng.uniform(1 - _GAIN, 1 + _GAIN, 3) ** 0.5 * rng.uniform(1 - _GAIN, 1 + _GAIN / 2),
        np.exp(rng.uniform(-_GAMMA, _GAMMA)),
    )
    level = (np.arange(256)[:, None] / 255) ** gamma * gain
    return np.clip(np.rint(255 * level), 0, 255).astype(np.uint8)


def _recolored(picture: np.ndarray, table: np.ndarray) -> np.ndarray:
    return np.stack([table[picture[..., k], k] for k in range(3)], -1)
