"""Telling what a pixel shows by its colour: how far it is from a sample's colours, and graph cuts (Rother et al. 2004, OpenCV's)."""

from __future__ import annotations

import cv2
import numpy as np

ALIKE = 3.0  # standard deviations of colour that still are the same stuff
_ROUNDS = 3  # of the cut; more change little
_KEPT, _NOISE = 0.85, 2.0  # of a sample, those nearest its median; and the least standard deviation of any stuff
_FEWEST = 16  # pixels of a sample or a side


def cielab(picture: np.ndarray) -> np.ndarray:
    """f32 [H, W, 3] of sRGB u8, as OpenCV scales it; lightness counts half, as skin and cloth lie in shadow, too."""
    return cv2.cvtColor(picture, cv2.COLOR_RGB2LAB).astype(np.float32) * np.float32([0.5, 1, 1])


def distance(lab: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """How many standard deviations pixels f32 [H, W, 3] are from a sample's colours f32 [N, 3], f32 [H, W]; infinite where the sample is nearly empty."""
    if len(sample) < _FEWEST:
        return np.full(lab.shape[:2], np.inf, np.float32)
    off = np.linalg.norm(sample - np.median(sample, 0), axis=1)
    kept = sample[off <= np.quantile(off, _KEPT)]
    inverse = np.linalg.inv(np.cov(kept.T) + _NOISE**2 * np.eye(3)).astype(np.float32)
    off = lab - kept.mean(0)
    return np.sqrt(np.einsum("hwi,ij,hwj->hw", off, inverse, off, optimize=True))


def cut(picture: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """What is in front, bool [H, W], by OpenCV's GrabCut from its marks u8 [H, W]; as marked where one of the two sides would be empty."""
    front = np.isin(marks, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if front.sum() < _FEWEST or (~front).sum() < _FEWEST:
        return front
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    found = cv2.grabCut(
        cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), marks.copy(), None, *models, _ROUNDS, cv2.GC_INIT_WITH_MASK
    )[0]
    return np.isin(found, (cv2.GC_FGD, cv2.GC_PR_FGD))
