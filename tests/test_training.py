"""The training loop: its random draws, in this process or in processes ahead of the model, and how it resumes."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from stereotalker.params import Training
from stereotalker.training import loop
from stereotalker.training.loop import fit

OPTIONS = Training(steps=7, batch=2, learning_rate=0.1, seed=3)


def draw(size, rng):
    return torch.from_numpy(rng.normal(size=size).astype(np.float32))


@pytest.mark.parametrize("first", [0, 4])
def test_batches_drawn_ahead_equal_batches_drawn_in_this_process(first):
    here, ahead = (list(loop._batches(partial(draw, 5), OPTIONS, first, device)) for device in ("cpu", "cuda"))
    assert len(here) == len(ahead) == OPTIONS.steps - first
    assert all(torch.equal(a, b) for a, b in zip(here, ahead, strict=True))
    assert not torch.equal(here[0], here[1])


def test_the_loss_gets_the_batch_of_its_step(tmp_path):
    model, batches = nn.Linear(5, 1), []

    def loss(batch):
        batches.append(batch)
        return model(batch).square().mean() + torch.rand(())

    fit(model, loss, OPTIONS, tmp_path / "checkpoint", lambda *_: None, draw=partial(draw, 5))
    assert len(batches) == OPTIONS.steps and torch.equal(batches[2], draw(5, np.random.default_rng([OPTIONS.seed, 2])))


def test_torch_draws_depend_only_on_seed_and_step(tmp_path):
    model, drawn = nn.Linear(1, 1), []

    def loss(_):
        drawn.append(torch.rand(()))
        return model(torch.ones(1)).square().mean()

    for k in range(2):
        fit(model, loss, OPTIONS.model_copy(update={"steps": 3}), tmp_path / str(k), lambda *_: None)
    assert drawn[:3] == drawn[3:] and len({float(d) for d in drawn}) == 3


class _Stopped(Exception):
    pass


def test_a_stopped_training_resumes_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)  # A checkpoint is written after every step.

    def train(checkpoint, stop):
        torch.manual_seed(0)
        # Spectral normalization estimates a singular value, and goes on from its last estimate in every step.
        model, steps = spectral_norm(nn.Linear(5, 3)), iter(range(OPTIONS.steps))

        def loss(batch):
            if next(steps) == stop:
                raise _Stopped
            return model(batch + torch.rand(5)).square().mean()

        fit(model, loss, OPTIONS, checkpoint, lambda *_: None, draw=partial(draw, 5))
        return model.weight

    whole = train(tmp_path / "whole", None)
    with pytest.raises(_Stopped):
        train(tmp_path / "stopped", 4)
    assert torch.equal(train(tmp_path / "stopped", None), whole)
