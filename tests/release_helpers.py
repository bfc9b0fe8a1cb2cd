"""Releases of tiny weights, for the tests of releases, retraining and audits."""

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from stereotalker.control.masks import read_masks
from stereotalker.releases.release import Release, shipped_files, shipped_release
from stereotalker.store.digests import file_digest
from stereotalker.tasks.registry import Registered, Registry
from stereotalker.weights import PRODUCTION_WEIGHTS, save_weights, weights_file


def release_files(weights: Path) -> dict[str, Path]:
    """The files of a release: the weights in a folder, and the package's body and calibration."""
    return shipped_files() | {
        weights_file(stage, Path()).name: weights_file(stage, weights) for stage in PRODUCTION_WEIGHTS
    }


def other_weights(weights: Path, folder: Path, seed: int) -> Path:
    """A copy of a folder of weights with another mask predictor."""
    shutil.copytree(weights, folder, dirs_exist_ok=True)
    masks = read_masks(weights)
    with torch.no_grad():
        for parameter in masks.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    save_weights(masks, weights_file("masks", folder))
    return folder


def register(registry: Registry, weights: Path, made: str = "2026-11-29T12:00:00+00:00", **changes) -> Registered:
    """Register the weights in a folder as a release."""
    files = release_files(weights)
    digests = {name: file_digest(path) for name, path in files.items()}
    release: Release = replace(shipped_release(), files=digests, made=made, **changes)
    return registry.register(release, files, "# card")
