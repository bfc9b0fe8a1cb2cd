"""Segmentation by color: the distance of pixels from the colors of a sample, and graph cuts.

The graph cuts are GrabCut (Rother et al. 2004) as OpenCV implements it.
"""

from __future__ import annotations

import cv2
import numpy as np

# Colors up to this many standard deviations from a sample count as the same material.
SAME_MATERIAL_SD = 3.0
# Iterations of GrabCut; more of them change little.
_ITERATIONS = 3
# Share of a sample that is used: the pixels nearest to its median color.
_USED_SHARE = 0.85
# Standard deviation of color that every material has at least, in units of `cielab`.
_MIN_SD = 2.0
# Fewest pixels of a sample, and of each side of a graph cut.
_MIN_PIXELS = 16


def cielab(picture: np.ndarray) -> np.ndarray:
    """Convert sRGB u8 [H, W, 3] to CIELAB as OpenCV scales it, f32 [H, W, 3].

    Lightness counts half, because skin and cloth also lie in shadow.
    """
    return cv2.cvtColor(picture, cv2.COLOR_RGB2LAB).astype(np.float32) * np.array([0.5, 1, 1], np.float32)


def distance(lab: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """Mahalanobis distance of pixels f32 [H, W, 3] from the colors of a sample f32 [N, 3]. f32 [H, W].

    It is infinite if the sample has too few pixels.
    """
    if len(sample) < _MIN_PIXELS:
        return np.full(lab.shape[:2], np.inf, np.float32)
    deviation = np.linalg.norm(sample - np.median(sample, 0), axis=1)
    used = sample[deviation <= np.quantile(deviation, _USED_SHARE)]
    inverse = np.linalg.inv(np.cov(used.T) + _MIN_SD**2 * np.eye(3)).astype(np.float32)
    deviation = lab - used.mean(0)
    return np.sqrt(np.einsum("hwi,ij,hwj->hw", deviation, inverse, deviation, optimize=True))


def grab_cut(picture: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """The foreground that GrabCut finds from its marks u8 [H, W] (cv2.GC_*). bool [H, W].

    picture u8 [H, W, 3]. If foreground or background has too few marks, the result is the marked foreground.
    """
    foreground = np.isin(marks, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if foreground.sum() < _MIN_PIXELS or (~foreground).sum() < _MIN_PIXELS:
        return foreground
    cv2.setRNGSeed(0)
    background_model, foreground_model = np.zeros((1, 65)), np.zeros((1, 65))
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    no_rectangle = (0, 0, 0, 0)
    labels = cv2.grabCut(
        bgr, marks.copy(), no_rectangle, background_model, foreground_model, _ITERATIONS, cv2.GC_INIT_WITH_MASK
    )[0]
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
