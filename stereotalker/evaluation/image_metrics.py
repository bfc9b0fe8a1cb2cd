"""Image quality metrics between a rendered picture and the true one, for any region of the picture.

All pictures are u8 [H, W, 3] sRGB; all regions are bool [H, W].
"""

from __future__ import annotations

import cv2
import numpy as np

# Wang et al. 2004: the two stabilizing constants for 8-bit values and the standard deviation of the window in px.
_SSIM_CONSTANTS, _SSIM_SIGMA = ((0.01 * 255) ** 2, (0.03 * 255) ** 2), 1.5
# Standard deviation of the blur that leaves out fine detail, px.
_DETAIL_SIGMA = 1.5
# Reisenhofer et al. 2018: the stabilizing constant C and the slope alpha of the logistic function.
_HAAR_C, _HAAR_ALPHA = 30.0, 4.2


def psnr(error: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error of 8-bit values. Capped at 78 dB to stay finite."""
    return float(10 * np.log10(255**2 / max(error, 1e-3)))


def squares(picture: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Squared error, averaged over the channels, f32 [H, W]."""
    return ((picture.astype(np.float32) - truth) ** 2).mean(-1)


def ssim(picture: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Structural similarity of the luminances, f32 [H, W] (Wang et al. 2004)."""
    a, b = (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY).astype(np.float32) for p in (picture, truth))

    def blur(x):
        return cv2.GaussianBlur(x, (11, 11), _SSIM_SIGMA)

    mean_a, mean_b = blur(a), blur(b)
    variance_a, variance_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = _SSIM_CONSTANTS
    numerator = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return numerator / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))


def haar_psi(picture: np.ndarray, truth: np.ndarray, where: np.ndarray) -> float:
    """Haar wavelet perceptual similarity (HaarPSI) of the luminances within the region `where`, 0..1.

    Follows Reisenhofer et al. 2018 without the chroma channels. Returns nan for a region without edges.
    """
    luminances = (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY).astype(np.float32) for p in (picture, truth))
    a, b = (cv2.blur(luminance, (2, 2))[::2, ::2] for luminance in luminances)
    inside = where[::2, ::2][: a.shape[0], : a.shape[1]]
    weighted_sum = weight_sum = 0.0
    for transposed in (False, True):
        response_a, response_b = (
            np.stack([np.abs(_haar_response(x, scale, transposed)) for scale in (1, 2, 3)]) for x in (a, b)
        )
        similarity = ((2 * response_a * response_b + _HAAR_C) / (response_a**2 + response_b**2 + _HAAR_C))[:2].mean(0)
        weight = np.maximum(response_a[2], response_b[2]) * inside
        weighted_sum += float((weight / (1 + np.exp(-_HAAR_ALPHA * similarity))).sum())
        weight_sum += float(weight.sum())
    if weight_sum == 0:
        return np.nan
    mean = np.clip(weighted_sum / weight_sum, 1e-6, 1 - 1e-6)
    return float((np.log(mean / (1 - mean)) / _HAAR_ALPHA) ** 2)


def _haar_response(x: np.ndarray, scale: int, transposed: bool) -> np.ndarray:
    side = 2**scale
    kernel = np.ones((side, side), np.float32) / side
    kernel[side // 2 :] *= -1
    return cv2.filter2D(x, -1, kernel.T if transposed else kernel, borderType=cv2.BORDER_CONSTANT)


def sharpness(picture: np.ndarray, where: np.ndarray) -> float:
    """Variance of the Laplacian of the luminance within the region `where`; nan for an empty region."""
    laplacian = cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.CV_32F)[where]
    return float(laplacian.var()) if laplacian.size else np.nan


def fine_detail(picture: np.ndarray) -> np.ndarray:
    """Energy of what is finer than some 4 px: the squared difference from a blurred picture, f32 [H, W]."""
    values = picture.astype(np.float32)
    return ((values - cv2.GaussianBlur(values, (0, 0), _DETAIL_SIGMA)) ** 2).mean(-1)


def boundary_f(mask: np.ndarray, truth: np.ndarray, within: float) -> float:
    """F measure of a mask's boundary (Csurka et al. 2013); nan where either mask has no boundary.

    Precision and recall are the shares of either boundary that lie within `within` px of the other one.
    """
    kernel = np.ones((3, 3), np.uint8)
    edges = [np.bitwise_xor(m, cv2.erode(m, kernel)) for m in (mask.astype(np.uint8), truth.astype(np.uint8))]
    if not edges[0].any() or not edges[1].any():
        return np.nan
    distances = [cv2.distanceTransform(1 - edge, cv2.DIST_L2, 5) for edge in edges]
    precision, recall = (distances[1][edges[0] > 0] <= within).mean(), (distances[0][edges[1] > 0] <= within).mean()
    return float(2 * precision * recall / max(precision + recall, 1e-9))
