"""Several processes that train one model, as torchrun starts them. In a single process nothing here does anything.

torchrun sets WORLD_SIZE and the others for each process that it starts. Gradients are averaged over all of them, so one
step sees the examples of all. Each process gets a part of the batch (`Params.per_process`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import distributed, nn


def process_count() -> int:
    """Number of the processes."""
    return distributed.get_world_size() if _is_open() else 1


def process_number() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if _is_open() else 0


@contextmanager
def process_group() -> Iterator[int]:
    """Join the group that torchrun's variables describe, if there are any. Yields the number of processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield 1
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield process_count()
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes."""
    if not _is_open():
        return
    # A parameter without a gradient here may have one in another process.
    trained = list(parameters)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= process_count()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.grad = gradient


def mean_over_processes(value: torch.Tensor) -> torch.Tensor:
    """The mean of a value over the processes."""
    if not _is_open():
        return value
    value = value.clone()
    distributed.all_reduce(value)
    return value / process_count()


def process_group_allows(decision: bool) -> bool:
    """The decision of the first process, so that all of them do the same."""
    if not _is_open():
        return decision
    value = torch.tensor(int(decision))
    distributed.broadcast(value, 0)
    return bool(value)


def _is_open() -> bool:
    return distributed.is_available() and distributed.is_initialized()
