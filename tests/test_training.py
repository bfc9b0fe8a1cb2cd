"""The training loop: what is drawn for every step, here or by processes ahead of the model."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from stereotalker.params import Training
from stereotalker.training import loop
from stereotalker.training.loop import fit

OPTIONS = Training(steps=7, batch=2, learning_rate=0.1, seed=3)


def draw(size, rng):
    return torch.from_numpy(rng.normal(size=size).astype(np.float32))


@pytest.mark.parametrize("first", [0, 4])
def test_what_is_drawn_ahead_is_what_would_be_drawn_here(first):
    here, ahead = (list(loop._batches(partial(draw, 5), OPTIONS, first, device)) for device in ("cpu", "cuda"))
    assert len(here) == len(ahead) == OPTIONS.steps - first
    assert all(torch.equal(a, b) for a, b in zip(here, ahead, strict=True))
    assert not torch.equal(here[0], here[1])


def test_loss_gets_what_was_drawn(tmp_path):
    model, seen = nn.Linear(5, 1), []

    def loss(batch):
        seen.append(batch)
        return model(batch).square().mean() + torch.rand(())

    fit(model, loss, OPTIONS, tmp_path / "checkpoint", lambda *_: None, draw=partial(draw, 5))
    assert len(seen) == OPTIONS.steps and torch.equal(seen[2], draw(5, np.random.default_rng([OPTIONS.seed, 2])))


def test_torchs_chance_depends_on_seed_and_step_alone(tmp_path):
    model, drawn = nn.Linear(1, 1), []

    def loss(_):
        drawn.append(torch.rand(()))
        return model(torch.ones(1)).square().mean()

    for k in range(2):
        fit(model, loss, OPTIONS.model_copy(update={"steps": 3}), tmp_path / str(k), lambda *_: None)
    assert drawn[:3] == drawn[3:] and len({float(d) for d in drawn}) == 3


class _Stopped(Exception):
    pass


def test_a_stopped_run_goes_on_to_the_same_end(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)  # after every step

    def run(checkpoint, stop):
        torch.manual_seed(0)
        model, steps = nn.Linear(5, 1), iter(range(OPTIONS.steps))

        def loss(batch):
            if next(steps) == stop:
                raise _Stopped
            return model(batch + torch.rand(5)).square().mean()

        fit(model, loss, OPTIONS, checkpoint, lambda *_: None, draw=partial(draw, 5))
        return model.weight

    whole = run(tmp_path / "whole", None)
    with pytest.raises(_Stopped):
        run(tmp_path / "stopped", 4)
    assert torch.equal(run(tmp_path / "stopped", None), whole)
