"""Draws the background behind a person: a studio, a room, bokeh or a garden, or a picture of the user's own.

All are out of focus, as behind a portrait lens. x and y of the drawing functions are [H, W] in heights of the picture,
y downwards; colors are sRGB 0..255.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from stereotalker.errors import UserError

KINDS = ("studio", "room", "bokeh", "garden")
# Suffixes of the files that are read as backgrounds.
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def draw_backdrop(seed: int, size: tuple[int, int], pictures: tuple[Path, ...] = ()) -> tuple[np.ndarray, str]:
    """A background u8 [H, W, 3] sRGB, and its kind or the name of the user's picture. Deterministic in `seed`.

    size is (height, width) in px. If the user gives pictures, half of the people stand before one of them. Raises
    UserError for a file that is no picture.
    """
    rng = np.random.default_rng([seed, 9])
    if pictures and rng.random() < 0.5:
        path = pictures[rng.integers(len(pictures))]
        return read_picture(path, size), path.name
    kind = KINDS[rng.choice(len(KINDS), p=[0.35, 0.35, 0.15, 0.15])]
    H, W = size
    y, x = np.mgrid[0:H, 0:W] / H
    image = {"studio": _studio, "room": _room, "bokeh": _bokeh, "garden": _garden}[kind](rng, x, y)
    image = image + rng.normal(0, 1.2, (H, W, 1))
    return np.clip(image, 0, 255).astype(np.uint8), kind


def read_picture(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A picture scaled and cropped to fill u8 [H, W, 3] sRGB, and blurred a little.

    size is (height, width) in px. Raises UserError for a file that is no picture.
    """
    H, W = size
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"background {path} cannot be read as a picture ({error}); expected PNG, JPEG or WebP"
        ) from None
    scale = max(H / picture.height, W / picture.width)
    picture = picture.resize(
        (max(W, round(picture.width * scale)), max(H, round(picture.height * scale))), Image.Resampling.LANCZOS
    )
    left, top = (picture.width - W) // 2, (picture.height - H) // 2
    image = np.asarray(picture.crop((left, top, left + W, top + H)), np.float32)
    return np.rint(gaussian_filter(image, (H * 0.006,) * 2 + (0,))).astype(np.uint8)


def _muted(rng, low: float, high: float, spread: float = 12) -> np.ndarray:
    """A color of interiors, f64 [3]: mostly grey, a little warm or cold."""
    return np.clip(rng.uniform(low, high) + rng.normal(0, spread, 3), 0, 255)


def _blur(image: np.ndarray, share: float) -> np.ndarray:
    """Gaussian blur whose standard deviation is a share of the picture's height."""
    return gaussian_filter(image, (image.shape[0] * share,) * 2 + (0,))


def _studio(rng, x, y) -> np.ndarray:
    """Seamless paper with a pool of light and a vignette."""
    base = _muted(rng, 60, 215, 18)
    pool = np.exp(
        -(
            ((x - rng.uniform(0.2, 0.8)) / rng.uniform(0.45, 0.8)) ** 2
            + ((y - rng.uniform(0.2, 0.6)) / rng.uniform(0.45, 0.8)) ** 2
        )
    )
    return base * (0.62 + 0.48 * pool[..., None])


def _room(rng, x, y) -> np.ndarray:
    """A wall with a window, pictures, a shelf of books or a lamp, lit from one side."""
    wall = _muted(rng, 110, 225)
    side = rng.uniform(-0.35, 0.35)
    image = np.broadcast_to(wall, (*x.shape, 3)) * (1 + side * (x - 0.5) - 0.15 * (y - 0.5))[..., None]
    W = x.max()

    def box(cx, cy, w, h, colour, amount=1.0) -> None:
        """Paint a rectangle with its middle at (cx, cy) over the picture, with opacity `amount`."""
        nonlocal image
        inside = ((np.abs(x - cx) < w / 2) & (np.abs(y - cy) < h / 2))[..., None] * amount
        image = image * (1 - inside) + inside * colour

    floor = rng.uniform(0.78, 0.95)
    box(W / 2, floor + 0.5, 2 * W, 1.0, _muted(rng, 60, 150))
    box(W / 2, floor - 0.008, 2 * W, 0.02, wall * 0.8)
    for cx in (rng.uniform(0.0, 0.28) * W, rng.uniform(0.72, 1.0) * W):
        item = rng.choice(["window", "picture", "shelf", "lamp", "door", "none"], p=[0.25, 0.2, 0.2, 0.15, 0.1, 0.1])
        if item == "window":
            w, h, cy = rng.uniform(0.22, 0.4), rng.uniform(0.35, 0.6), rng.uniform(0.25, 0.4)
            box(cx, cy, w + 0.03, h + 0.03, np.array([232.0, 230, 226]))
            box(cx, cy, w, h, np.array([214.0, 228, 240]) * rng.uniform(0.85, 1.06))
            box(cx, cy + h / 5, w, h * 0.6, np.array([150.0, 172, 140]) * rng.uniform(0.8, 1.1), 0.5)
            box(cx, cy, 0.012, h, np.array([232.0, 230, 226]))
        elif item == "picture":
            w, h, cy = rng.uniform(0.14, 0.3), rng.uniform(0.14, 0.3), rng.uniform(0.2, 0.45)
            box(cx, cy, w + 0.024, h + 0.024, _muted(rng, 30, 120))
            box(cx, cy, w, h, _muted(rng, 90, 230, 30))
            box(cx + w * 0.1, cy + h * 0.1, w * 0.5, h * 0.4, _muted(rng, 60, 200, 40))
        elif item == "shelf":
            for level in np.arange(0.12, 0.85, 0.17):
                box(cx, level + 0.145, 0.42, 0.014, _muted(rng, 60, 110))
                left = cx - 0.19
                while left < cx + 0.18:
                    w, h = rng.uniform(0.012, 0.035), rng.uniform(0.08, 0.13)
                    box(left + w / 2, level + 0.138 - h / 2, w * 0.9, h, _muted(rng, 40, 190, 40))
                    left += w
        elif item == "lamp":
            glow = np.exp(-(((x - cx) / 0.16) ** 2 + ((y - 0.35) / 0.22) ** 2))[..., None]
            image = image + glow * np.array([70.0, 56, 34])
            box(cx, 0.36, 0.12, 0.13, np.array([250.0, 236, 205]))
            box(cx, 0.62, 0.012, 0.4, _muted(rng, 40, 80))
        elif item == "door":
            box(cx, 0.6, 0.3, 1.0, _muted(rng, 90, 220))
    return _blur(image, rng.uniform(0.006, 0.024))


def _bokeh(rng, x, y) -> np.ndarray:
    """Lights at night, far out of focus."""
    dark = _muted(rng, 22, 80)
    image = dark + (_muted(rng, 30, 110) - dark) * y[..., None]
    for _ in range(rng.integers(14, 40)):
        disc = np.hypot(x - rng.uniform(0, x.max()), y - rng.uniform(0.05, 0.95)) - rng.uniform(0.015, 0.055)
        light = (
            np.array([255.0, rng.uniform(170, 245), rng.uniform(90, 230)])
            if rng.random() < 0.75
            else np.array([rng.uniform(120, 200), 205.0, 255.0])
        )
        rim = np.clip(-disc / 0.004, 0, 1) * (0.75 + 0.25 * np.clip(1 + disc / 0.01, 0, 1))
        image = image + rim[..., None] * light * rng.uniform(0.12, 0.5)
    return _blur(image, 0.003)


def _garden(rng, x, y) -> np.ndarray:
    """Leaves and sky."""
    image = np.zeros((*x.shape, 3))
    tone = rng.normal(0, 1, 3)
    for scale, amount in ((0.10, 1.0), (0.04, 0.6), (0.018, 0.35)):
        field = gaussian_filter(rng.normal(size=x.shape), x.shape[0] * scale)
        image += amount * (field / field.std())[..., None] * np.array([22.0, 26, 15])
    sky = np.clip(
        0.45 - y + 0.12 * gaussian_filter(rng.normal(size=x.shape), x.shape[0] * 0.08)[..., None][..., 0] * 30, 0, 1
    )[..., None]
    image = image + np.array([96.0, 118, 74]) + 6 * tone + sky * np.array([120.0, 118, 150])
    return _blur(np.clip(image, 8, 245), rng.uniform(0.008, 0.02))
