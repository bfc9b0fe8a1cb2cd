"""What the trainings share: models with seeds, and checkpoints that know their inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from stereotalker.params import Section, Training
from stereotalker.stages.paths import DATA
from stereotalker.store.code import training_code_version
from stereotalker.store.digests import digest, tree_digest
from stereotalker.training.loop import Checkpoint
from stereotalker.weights import Model


def seeded(training: Training, make: Callable[[], Model]) -> Model:
    """Build a model with initial weights that depend on the seed of its training alone."""
    torch.manual_seed(training.seed)
    return make()


def checkpoint(stage: str, name: str, sections: list[Section], data: list[Path]) -> Checkpoint:
    """The checkpoint data/NAME.checkpoint of a stage. It is taken up only by a run with the same inputs.

    sections: the parameters of the training; data: its files and folders. The code of the stage counts, too.
    """
    inputs = digest(
        training_code_version(stage),
        [section.model_dump(mode="json") for section in sections],
        [tree_digest(path) for path in data],
    )
    return Checkpoint(DATA / f"{name}.checkpoint", inputs)
