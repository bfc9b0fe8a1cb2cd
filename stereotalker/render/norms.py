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

# By the number of a layer, for each of its calls in turn: mean and variance of every channel's group, f32 [C] each.
Statistics: TypeAlias = dict[int, list[tuple[torch.Tensor, torch.Tensor]]]


class Norms:
    """All group normalizations of some networks."""

    def __init__(self, *networks: nn.Module):
        """Replaces them in the networks."""
        self._recorded: Statistics | None = None
        self._used: Statistics | None = None
        self._calls: dict[int, int] = {}  # of every layer since `use`
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
        """Normalize by these statistics in the context.

        A part of a picture calls the layers as often as the whole did, and each call has its own statistics.
        """
        self._used, self._calls = statistics, dict.fromkeys(statistics, 0)
        try:
            yield
        finally:
            self._used = None

    def __call__(self, layer: _Norm, x: torch.Tensor) -> torch.Tensor:
        """Normalize x [B, C, ...] as the context says; by its own statistics outside of any."""
        if self._used is not None:
            recorded = self._used[layer.number]
            mean, variance = recorded[self._calls[layer.number] % len(recorded)]
            self._calls[layer.number] += 1
            return functional.batch_norm(x, mean, variance, layer.weight, layer.bias, False, 0.0, layer.eps)
        if self._recorded is not None:
            self._recorded.setdefault(layer.number, []).append(_group_moments(x.float(), layer.num_groups))
        return functional.group_norm(x, layer.num_groups, layer.weight, layer.bias, layer.eps)


class _Norm(nn.GroupNorm):
    """A group normalization that `Norms` carries out."""

    def __init__(self, layer: nn.GroupNorm, norms: Norms, number: int):
        super().__init__(layer.num_groups, layer.num_channels, layer.eps)
        self.weight, self.bias, self.norms, self.number = layer.weight, layer.bias, norms, number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norms(self, x)


def _group_moments(x: torch.Tensor, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the groups of x f32 [B, C, ...] over places and channels, means over B: [C] each."""
    places = tuple(range(2, x.dim()))
    mean, square = (m.unflatten(1, (groups, -1)).mean(-1) for m in (x.mean(places), (x * x).mean(places)))
    per_group = x.shape[1] // groups
    variance = (square - mean**2).clamp_min(0).mean(0)
    return mean.mean(0).repeat_interleave(per_group), variance.repeat_interleave(per_group)
