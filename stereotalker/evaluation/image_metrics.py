"""How like two pictures are, pixel by pixel, so that any region can be asked for. H x W pixels, u8 sRGB."""

from __future__ import annotations

import cv2
import numpy as np

_SSIM_RANGE, _SSIM_SIGMA = ((0.01 * 255) ** 2, (0.03 * 255) ** 2), 1.5  # Wang et al. 2004
_HAAR_C, _HAAR_ALPHA = 30.0, 4.2  # Reisenhofer et al. 2018


def psnr(error: float) -> float:
    """dB of a mean squared error of 8-bit values."""
    return float(10 * np.log10(255**2 / max(error, 1e-3)))


def squares(picture: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Squared error, mean over the channels, f32 [H, W]."""
    return ((picture.astype(np.float32) - truth) ** 2).mean(-1)


def ssim(picture: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Structural similarity of the luminances, f32 [H, W] (Wang et al. 2004)."""
    a, b = (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY).astype(np.float32) for p in (picture, truth))

    def blur(x):
        return cv2.GaussianBlur(x, (11, 11), _SSIM_SIGMA)

    mean_a, mean_b = blur(a), blur(b)
    spread_a, spread_b, both = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    c1, c2 = _SSIM_RANGE
    return (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (spread_a + spread_b + c2))


def haar(picture: np.ndarray, truth: np.ndarray, where: np.ndarray) -> float:
    """Haar wavelet perceptual similarity of the luminances within a region, 0..1, nan of a region without edges (HaarPSI, Reisenhofer et al. 2018; without its chroma)."""
    a, b = (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY).astype(np.float32) for p in (picture, truth))
    a, b = (cv2.blur(x, (2, 2))[::2, ::2] for x in (a, b))
    inside = where[::2, ::2][: a.shape[0], : a.shape[1]]
    top = bottom = 0.0
    for turned in (False, True):
        found_a, found_b = (np.stack([np.abs(_haar(x, scale, turned)) for scale in (1, 2, 3)]) for x in (a, b))
        alike = ((2 * found_a * found_b + _HAAR_C) / (found_a**2 + found_b**2 + _HAAR_C))[:2].mean(0)
        weight = np.maximum(found_a[2], found_b[2]) * inside
        top += float((weight / (1 + np.exp(-_HAAR_ALPHA * alike))).sum())
        bottom += float(weight.sum())
    if bottom == 0:
        return np.nan  # nothing there that has an edge
    mean = np.clip(top / bottom, 1e-6, 1 - 1e-6)
    return float((np.log(mean / (1 - mean)) / _HAAR_ALPHA) ** 2)


def _haar(x: np.ndarray, scale: int, turned: bool) -> np.ndarray:
    side = 2**scale
    kernel = np.ones((side, side), np.float32) / side
    kernel[side // 2 :] *= -1
    return cv2.filter2D(x, -1, kernel.T if turned else kernel, borderType=cv2.BORDER_CONSTANT)


def sharpness(picture: np.ndarray, where: np.ndarray) -> float:
    """Variance of the Laplacian within a region."""
    found = cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.CV_32F)[where]
    return float(found.var()) if found.size else np.nan


def boundary_f(mask: np.ndarray, truth: np.ndarray, within: float) -> float:
    """F measure of a mask's outline: shares of either outline that lie within so many px of the other (Csurka et al. 2013). nan without outlines."""
    edges = [m ^ cv2.erode(m, np.ones((3, 3), np.uint8)) for m in (mask.astype(np.uint8), truth.astype(np.uint8))]
    if not edges[0].any() or not edges[1].any():
        return np.nan
    away = [cv2.distanceTransform(1 - edge, cv2.DIST_L2, 5) for edge in edges]
    precision, recall = (away[1][edges[0] > 0] <= within).mean(), (away[0][edges[1] > 0] <= within).mean()
    return float(2 * precision * recall / max(precision + recall, 1e-9))
