"""The stages of dvc.yaml. Each is a module with a function `run(params, log)`, and depends on what the module imports.

A stage reads its own section of params.yaml and its inputs under data/ and artifacts/, and writes the outputs that
dvc.yaml lists. All paths are relative to the working directory. Nothing is written into the package.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from stereotalker.params import Params
from stereotalker.runtime.stage_log import Log

DATA_STAGES = ("body", "test_set", "speech", "people", "photographs", "avatar")  # they have no training curves
TRAINING_STAGES = ("audio", "motion", "gestures", "masks", "dense", "render", "finish", "ablation")
# evaluate_avatars and evaluate_portraits need the detector, evaluate_speech the extra words-all.
EVALUATIONS = ("evaluate", "evaluate_avatars", "evaluate_portraits", "evaluate_speech")
STAGES = (*DATA_STAGES, *TRAINING_STAGES, *EVALUATIONS)


def stage_function(name: str) -> Callable[[Params, Log], None]:
    """The function of a stage, one of STAGES."""
    return import_module(f"{__name__}.{name}").run
