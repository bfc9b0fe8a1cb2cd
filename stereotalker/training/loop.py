"""The training loop of every model: AdamW with cosine decay, a moving average of the weights, and checkpoints.

A run that was interrupted and resumed ends with the same weights as one that was not. On a GPU they are the same up to
rounding.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from stereotalker.errors import UserError
from stereotalker.params import Training
from stereotalker.records import HEADER
from stereotalker.runtime.process_group import (
    average_gradients,
    mean_over_processes,
    process_count,
    process_group_allows,
    process_number,
)
from stereotalker.runtime.stage_log import Log
from stereotalker.store.files import write_atomic

_LOG_EVERY = 50  # steps between two values of the loss in the log
CHECKPOINT_EVERY_S = 180  # seconds between checkpoints
PREVIEW_EVERY_S = 900  # seconds between previews of the model
_EMA_DECAY = 0.998  # of the moving average of the weights, per step
_MAX_DRAWING_PROCESSES = 8  # that draw batches ahead of a model on a GPU


@dataclass(frozen=True)
class Checkpoint:
    """The place of a training's checkpoint, and what it depends on."""

    path: Path
    inputs: str  # digest of parameters, data and code; a checkpoint of other inputs is not taken up

    @property
    def is_begun(self) -> bool:
        """Whether there is a checkpoint of a training with these inputs."""
        return _header(self.path).get("inputs") == self.inputs

    def remove(self) -> None:
        """Remove the file, once the weights are saved."""
        if process_number() == 0:
            self.path.unlink(missing_ok=True)


class Diverged(UserError):
    """The loss or a gradient is not a number. The last checkpoint and the weights before the training stay."""


def fit(
    model: nn.Module,
    loss: Callable[[Any], torch.Tensor],
    options: Training,
    checkpoint: Checkpoint,
    log: Log,
    frozen: str | None = None,
    draw: Callable[[np.random.Generator], Any] | None = None,
) -> None:
    """Train `model` in place; at the end it holds the averaged weights and is in evaluation mode.

    `loss(rng)` draws a batch from `rng` and returns a scalar. `rng` and torch's own seed depend on (seed, step) alone,
    so a run that is interrupted and started again sees the same batches. If `draw` is given, `loss` gets `draw(rng)`
    instead of `rng`; if the model is on a GPU, separate processes then draw batches ahead of it. `checkpoint` is a
    safetensors file, which is written every CHECKPOINT_EVERY_S and at the end; the caller removes it when it has
    saved the model, so that a process that is killed in between loses nothing. Parameters whose names begin
    with `frozen` are not trained. `log.preview` is called every PREVIEW_EVERY_S and at the end; it changes no result.
    Raises Diverged if the loss or a gradient is not finite.

    In a process group (torchrun), every process draws batches of its own, and their gradients are averaged. The first
    process alone logs and writes checkpoints.
    """
    named = {
        name: p for name, p in model.named_parameters() if p.requires_grad and not (frozen and name.startswith(frozen))
    }
    average = {name: p.detach().clone() for name, p in named.items()}
    optimizer = torch.optim.AdamW(named.values(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    buffers = dict(model.named_buffers())
    step = saved_step = _resume(checkpoint, named, average, buffers, optimizer)
    log.begin(step)
    model.train()
    saved = last_preview = started = time.monotonic()
    recent, norms = [], []
    for batch in _batches(draw, options, step, next(iter(named.values())).device.type):
        torch.manual_seed(options.seed * 1_000_003 + step)  # dropout inside library models has no generator argument
        rate = _rate(step, options)
        for group in optimizer.param_groups:
            group["lr"] = rate
        value = loss(batch)
        value.backward()
        average_gradients(named.values())
        norms.append(nn.utils.clip_grad_norm_(named.values(), 1.0))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        decay = min(_EMA_DECAY, step / (step + 10))  # early steps average over fewer weights
        get_ema_multi_avg_fn(decay)(list(average.values()), list(named.values()), step)
        recent.append(value.detach())  # stays on its device, because reading it waits for the GPU
        is_due = process_group_allows(time.monotonic() - saved > CHECKPOINT_EVERY_S)
        if step % _LOG_EVERY == 0 or step == options.steps or is_due:
            mean = mean_over_processes(torch.stack(recent).mean())
            if not torch.isfinite(torch.stack([mean, *norms])).all():
                raise Diverged(
                    f"the training diverged at step {step}: the loss is {float(mean):g}; lower its learning rate, or "
                    "look at its data. Nothing was saved since the last checkpoint"
                )
            log("loss", float(mean), step)
            seconds = (time.monotonic() - started) / len(recent)
            log("seconds_a_step", seconds, step)
            log("examples_a_second", options.batch * process_count() / seconds, step)
            recent, norms, started = [], [], time.monotonic()
        if is_due and step < options.steps:
            if process_number() == 0:
                _save(checkpoint, step, named, average, buffers, optimizer)
            saved = time.monotonic()
        if process_number() == 0 and time.monotonic() - last_preview > PREVIEW_EVERY_S and step < options.steps:
            began = time.monotonic()
            with _averaged(model, named, average):
                log.preview(model, step)
            last_preview = time.monotonic()
            started += last_preview - began  # the time of a step does not count it
    if process_number() == 0 and saved_step < options.steps:
        _save(checkpoint, step, named, average, buffers, optimizer)
    _set_parameters(named, average)
    model.eval()
    if process_number() == 0:
        log.preview(model, step)


@contextmanager
def _averaged(model: nn.Module, named: dict[str, nn.Parameter], average: dict[str, torch.Tensor]) -> Iterator[None]:
    """Give the model its averaged weights, in evaluation mode, during the block."""
    trained = {name: p.detach().clone() for name, p in named.items()}
    _set_parameters(named, average)
    model.eval()
    try:
        yield
    finally:
        _set_parameters(named, trained)
        model.train()


@torch.no_grad()
def _set_parameters(named: dict[str, nn.Parameter], values: dict[str, torch.Tensor]) -> None:
    """Copy to every parameter the value of its name."""
    for name, p in named.items():
        p.copy_(values[name])


def _batches(
    draw: Callable[[np.random.Generator], Any] | None, options: Training, first: int, device: str
) -> Iterator[Any]:
    """The argument of `loss` for every step from `first` on."""
    steps = range(first, options.steps)
    if draw is None:
        return (_generator(options.seed, step) for step in steps)
    # Forked processes share the gigabytes of samples that they draw from. Each of them holds two batches in shared
    # memory.
    workers: dict[str, Any] = (
        {}
        if device == "cpu"
        else {
            "num_workers": min(max((os.cpu_count() or 1) - 1, 1), _MAX_DRAWING_PROCESSES),
            "multiprocessing_context": "fork",
        }
    )
    return iter(
        DataLoader(
            _Batches(draw, options.seed), batch_size=None, sampler=steps, collate_fn=lambda batch: batch, **workers
        )
    )


@dataclass(frozen=True)
class _Batches(Dataset):
    """A dataset whose item is the batch of a step."""

    draw: Callable[[np.random.Generator], Any]
    seed: int

    def __getitem__(self, step: int) -> Any:
        return self.draw(_generator(self.seed, step))


def _generator(seed: int, step: int) -> np.random.Generator:
    """Random numbers of a step. A process group draws others in each process but the first."""
    return np.random.default_rng([seed, step, *([process_number()] if process_number() else [])])


def _rate(step: int, options: Training) -> float:
    """Learning rate of a step: linear warm-up, then cosine decay to 2 % of the full rate."""
    warmup = min(200, options.steps // 10 + 1)
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    return options.learning_rate * (
        0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * (step - warmup) / max(options.steps - warmup, 1)))
    )


def _save(checkpoint: Checkpoint, step: int, named, average, buffers, optimizer) -> None:
    """Write a checkpoint atomically.

    Keys: p/ parameters, a/ averaged parameters, b/ buffers (spectral normalization changes its own in every step), m/
    and v/ AdamW's first and second moments. The metadata holds the step.
    """
    tensors = {f"p/{n}": p.detach() for n, p in named.items()} | {f"a/{n}": a for n, a in average.items()}
    tensors |= {f"b/{name}": buffer for name, buffer in buffers.items()}
    for name, p in named.items():
        state = optimizer.state[p]
        tensors |= {f"m/{name}": state["exp_avg"], f"v/{name}": state["exp_avg_sq"]}
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    header = {"step": step, "inputs": checkpoint.inputs}
    write_atomic(checkpoint.path, safetensors.torch.save(contiguous, metadata={HEADER: json.dumps(header)}))


def _header(path: Path) -> dict:
    """The header of a checkpoint; empty if there is none, or if it cannot be read."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {}).get(HEADER, "{}"))
    except (OSError, ValueError, safetensors.SafetensorError):
        return {}


def _resume(checkpoint: Checkpoint, named, average, buffers, optimizer) -> int:
    """Restore a checkpoint of `_save` in place and return the number of steps done; 0 if there is none.

    A checkpoint of a training with other parameters, data or code is left aside.
    """
    if not checkpoint.is_begun:
        if checkpoint.path.exists():
            print(f"note: {checkpoint.path} is of a training with other inputs, and is not continued", flush=True)
        return 0
    step = _header(checkpoint.path)["step"]
    with safetensors.safe_open(checkpoint.path, "pt") as file:
        with torch.no_grad():
            for name, buffer in buffers.items():
                buffer.copy_(file.get_tensor(f"b/{name}"))
            for name, p in named.items():
                p.copy_(file.get_tensor(f"p/{name}"))
                average[name].copy_(file.get_tensor(f"a/{name}"))
                optimizer.state[p] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": file.get_tensor(f"m/{name}").to(p.device),
                    "exp_avg_sq": file.get_tensor(f"v/{name}").to(p.device),
                }
    return step
