"""The training loop of every model: AdamW with cosine decay, a moving average of the weights, and checkpoints.

A run that was interrupted and resumed ends with the same weights as one that was not. On a GPU they are the same up to
rounding.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from stereotalker.params import Training
from stereotalker.store.files import write_atomic

Log = Callable[[str, float, int], None]  # name, value, step
CHECKPOINT_EVERY_S = 180  # seconds between checkpoints
_EMA_DECAY = 0.998  # of the moving average of the weights, per step
_MAX_DRAWING_PROCESSES = 8  # that draw batches ahead of a model on a GPU


def fit(
    model: nn.Module,
    loss: Callable[[Any], torch.Tensor],
    options: Training,
    checkpoint: Path,
    log: Log,
    frozen: str | None = None,
    draw: Callable[[np.random.Generator], Any] | None = None,
) -> None:
    """Train `model` in place; at the end it holds the averaged weights and is in evaluation mode.

    `loss(rng)` draws a batch from `rng` and returns a scalar. `rng` and torch's own seed depend on (seed, step) alone,
    so a run that is interrupted and started again sees the same batches. If `draw` is given, `loss` gets `draw(rng)`
    instead of `rng`; if the model is on a GPU, separate processes then draw batches ahead of it. `checkpoint` is a
    safetensors file, which is written every CHECKPOINT_EVERY_S and removed at the end. Parameters whose names begin
    with `frozen` are not trained.
    """
    named = {
        name: p for name, p in model.named_parameters() if p.requires_grad and not (frozen and name.startswith(frozen))
    }
    average = {name: p.detach().clone() for name, p in named.items()}
    optimizer = torch.optim.AdamW(named.values(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    buffers = dict(model.named_buffers())
    step = _resume(checkpoint, named, average, buffers, optimizer)
    model.train()
    saved, started, recent = time.monotonic(), time.monotonic(), []
    for batch in _batches(draw, options, step, next(iter(named.values())).device.type):
        torch.manual_seed(options.seed * 1_000_003 + step)  # dropout inside library models has no generator argument
        rate = _rate(step, options)
        for group in optimizer.param_groups:
            group["lr"] = rate
        value = loss(batch)
        value.backward()
        nn.utils.clip_grad_norm_(named.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        decay = min(_EMA_DECAY, step / (step + 10))  # early steps average over fewer weights
        get_ema_multi_avg_fn(decay)(list(average.values()), list(named.values()), step)
        recent.append(value.detach())  # stays on its device, because reading it waits for the GPU
        if step % 50 == 0 or step == options.steps:
            log("loss", float(torch.stack(recent).mean()), step)
            log("seconds_a_step", (time.monotonic() - started) / len(recent), step)
            recent, started = [], time.monotonic()
        if time.monotonic() - saved > CHECKPOINT_EVERY_S and step < options.steps:
            _save(checkpoint, step, named, average, buffers, optimizer)
            saved = time.monotonic()
    with torch.no_grad():
        for name, p in named.items():
            p.copy_(average[name])
    model.eval()
    checkpoint.unlink(missing_ok=True)


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
    return np.random.default_rng([seed, step])


def _rate(step: int, options: Training) -> float:
    """Learning rate of a step: linear warm-up, then cosine decay to 2 % of the full rate."""
    warmup = min(200, options.steps // 10 + 1)
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    return options.learning_rate * (
        0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * (step - warmup) / max(options.steps - warmup, 1)))
    )


def _save(path: Path, step: int, named, average, buffers, optimizer) -> None:
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
    write_atomic(path, safetensors.torch.save(contiguous, metadata={"step": str(step)}))


def _resume(path: Path, named, average, buffers, optimizer) -> int:
    """Restore a checkpoint of `_save` in place and return the number of steps done; 0 if there is none."""
    if not path.exists():
        return 0
    with safetensors.safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
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


def print_log(stage: str, path: Path | None = None) -> Log:
    """A Log that prints every value and appends it to `path` (None: no file) as a line of JSON."""

    def log(name: str, value: float, step: int) -> None:
        print(f"{stage} step {step:6d}  {name} {value:.5f}", flush=True)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"stage": stage, "step": step, name: value}) + "\n")

    return log
