"""Group normalization (Wu and He 2018) by the statistics of other pictures than the one that is normalized.

A network that works on a part of a picture would normalize it by the part's own mean and variance, and draw other
colors than on the whole. So the statistics are recorded on whole pictures, and parts are normalized by those.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import nn
from torch.nn import functional

# Mean and variance of every channel's group, f32 [C] each, by the layer's number.
Statistics: TypeAlias = dict[int, tuple[torch.Tensor, torch.Tensor]]


class Norms:
    """All group normalizations of some networks."""

    def __init__(self, *networks: nn.Module):
        """Replaces them in the networks."""
        self._recorded: Statistics | None = None
        self._used: Statistics | None = None
        count = 0
        for network in networks:
            for name, layer in list(network.named_modules()):
                if isinstance(layer, nn.GroupNorm):
                    network.set_submodule(name, _Norm(layer, self, count))
                    count += 1

    @contextmanager
    def record(self) -> Iterator[Statistics]:
        """Collect the statistics of what is normalized in the context, the means over the batch."""
        self._recorded = {}
        try:
            yield self._recorded
        finally:
            self._recorded = None

    @contextmanager
    def use(self, statistics: Statistics) -> Iterator[None]:
        """Normalize by these statistics in the context."""
        self._used = statistics
        try:
            yield
        finally:
            self._used = None

    def __call__(self, layer: _Norm, x: torch.Tensor) -> torch.Tensor:
        """Normalize x [B, C, ...] as the context says; by its own statistics outside of any."""
        if self._used is not None:
            mean, variance = self._used[layer.number]
            return functional.batch_norm(x, mean, variance, layer.weight, layer.bias, False, 0.0, layer.eps)
        if self._recorded is not None:
            (B, C), groups = x.shape[:2], layer.num_groups
            normalized, mean, inverse_deviation = torch.native_group_norm(
                x, layer.weight, layer.bias, B, C, x[0, 0].numel(), groups, layer.eps
            )
            variance = inverse_deviation.float() ** -2 - layer.eps
            self._recorded[layer.number] = (
                mean.float().mean(0).repeat_interleave(C // groups),
                variance.mean(0).clamp_min(0).repeat_interleave(C // groups),
            )
            return normalized
        return functional.group_norm(x, layer.num_groups, layer.weight, layer.bias, layer.eps)


class _Norm(nn.GroupNorm):
    """A group normalization that `Norms` carries out."""

    def __init__(self, layer: nn.GroupNorm, norms: Norms, number: int):
        super().__init__(layer.num_groups, layer.num_channels, layer.eps)
        self.weight, self.bias, self.norms, self.number = layer.weight, layer.bias, norms, number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norms(self, x)
