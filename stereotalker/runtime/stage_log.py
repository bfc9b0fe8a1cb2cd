"""The log of a stage: values with names and steps, and what its model does while it trains."""

from __future__ import annotations

from torch import nn


class Log:
    """A log that keeps nothing. Others inherit from it."""

    def begin(self, step: int) -> None:
        """A training begins (0), or goes on from a checkpoint after `step` steps."""

    def __call__(self, name: str, value: float, step: int) -> None:
        """Note a value. name: may become the name of a file."""

    def preview(self, model: nn.Module, step: int) -> None:
        """Show what a model in training does. It is in evaluation mode, with its averaged weights, during the call."""

    def part(self, name: str) -> Log:
        """The log of one of several trainings of a stage."""
        return self
