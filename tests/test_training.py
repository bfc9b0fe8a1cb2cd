"""The training loop: its random draws, how it resumes, what it refuses, and several processes."""

import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import safetensors
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from stereotalker.errors import UserError
from stereotalker.params import Training
from stereotalker.runtime.stage_log import Log
from stereotalker.training import loop
from stereotalker.training.file_log import FileLog
from stereotalker.training.loop import Checkpoint, Diverged, fit

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

    fit(model, loss, OPTIONS, Checkpoint(tmp_path / "checkpoint", "inputs"), Log(), draw=partial(draw, 5))
    assert len(batches) == OPTIONS.steps and torch.equal(batches[2], draw(5, np.random.default_rng([OPTIONS.seed, 2])))


def test_torch_draws_depend_only_on_seed_and_step(tmp_path):
    model, drawn = nn.Linear(1, 1), []

    def loss(_):
        drawn.append(torch.rand(()))
        return model(torch.ones(1)).square().mean()

    for k in range(2):
        fit(
            model,
            loss,
            OPTIONS.model_copy(update={"steps": 3}),
            Checkpoint(tmp_path / str(k), "inputs"),
            Log(),
        )
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

        fit(model, loss, OPTIONS, Checkpoint(checkpoint, "inputs"), Log(), draw=partial(draw, 5))
        return model.weight

    whole = train(tmp_path / "whole", None)
    with pytest.raises(_Stopped):
        train(tmp_path / "stopped", 4)
    assert torch.equal(train(tmp_path / "stopped", None), whole)


class ShownWeights(Log):
    """Keeps what a preview sees, and spoils what a preview might: torch's random state."""

    def __init__(self):
        self.weights, self.steps = [], []

    def preview(self, model, step):
        assert not model.training
        self.weights.append(model.weight.detach().clone())
        self.steps.append(step)
        torch.manual_seed(99)


def test_previews_show_the_averaged_weights_and_change_no_result(tmp_path, monkeypatch):
    def train(log):
        torch.manual_seed(0)
        model = spectral_norm(nn.Linear(5, 3))
        loss = lambda batch: model(batch + torch.rand(5)).square().mean()  # noqa: E731
        fit(model, loss, OPTIONS, Checkpoint(tmp_path / "checkpoint", "inputs"), log, draw=partial(draw, 5))
        (tmp_path / "checkpoint").unlink()
        return model.weight

    at_end, always = ShownWeights(), ShownWeights()
    undisturbed = train(at_end)
    monkeypatch.setattr(loop, "PREVIEW_EVERY_S", -1.0)
    assert torch.equal(train(always), undisturbed)
    assert at_end.steps == [OPTIONS.steps] and always.steps == list(range(1, OPTIONS.steps + 1))
    assert torch.equal(at_end.weights[0], undisturbed) and torch.equal(always.weights[-1], undisturbed)
    assert not torch.equal(always.weights[0], always.weights[1])


def linear_loss(model):
    return lambda batch: model(batch).square().mean()


def test_a_checkpoint_of_other_inputs_is_not_continued(tmp_path, monkeypatch, capsys):
    """Another run's checkpoint was taken over: no step was trained, and the old weights were saved."""
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)
    path, batches = tmp_path / "checkpoint", []

    def train(inputs, stop=None):
        torch.manual_seed(0)
        model = nn.Linear(5, 1)

        def loss(batch):
            if len(batches) == stop:
                raise _Stopped
            batches.append(batch)
            return linear_loss(model)(batch)

        fit(model, loss, OPTIONS, Checkpoint(path, inputs), Log(), draw=partial(draw, 5))

    with pytest.raises(_Stopped):
        train("first", stop=4)
    assert Checkpoint(path, "first").is_begun and not Checkpoint(path, "second").is_begun
    batches.clear()
    train("second")
    assert len(batches) == OPTIONS.steps and "is not continued" in capsys.readouterr().out
    path.write_bytes(b"cut off")  # a file that is no checkpoint is left aside, too
    assert not Checkpoint(path, "first").is_begun


def test_a_finished_part_of_a_stage_is_not_trained_again(tmp_path):
    steps, place = [], Checkpoint(tmp_path / "part", "inputs")

    def train():
        torch.manual_seed(0)
        model = nn.Linear(5, 1)
        loss = linear_loss(model)
        fit(model, lambda b: steps.append(1) or loss(b), OPTIONS, place, Log(), draw=partial(draw, 5))
        return model.weight

    assert torch.equal(train(), train()) and len(steps) == OPTIONS.steps


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_training_that_diverges_ends_and_saves_nothing(tmp_path, monkeypatch, what):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)
    model, place, steps = nn.Linear(5, 1), Checkpoint(tmp_path / "checkpoint", "inputs"), []

    def loss(batch):
        steps.append(1)
        value = linear_loss(model)(batch)
        if len(steps) < 4:
            return value
        # The square root has an infinite gradient at 0, where its value is fine.
        return value * float("nan") if what == "loss" else value + (model.weight.sum() * 0).abs().sqrt()

    with pytest.raises(Diverged, match="at step 4"):
        fit(model, loss, OPTIONS, place, Log(), draw=partial(draw, 5))
    with safetensors.safe_open(place.path, "pt") as file:
        assert all(torch.isfinite(file.get_tensor(name)).all() for name in file.keys())


PROCESS = """
import json, sys
from pathlib import Path
import torch
from torch import nn
from stereotalker.params import Training
from stereotalker.runtime.process_group import process_group, process_number
from stereotalker.runtime.stage_log import Log
from stereotalker.training.loop import Checkpoint, fit

class Losses(Log):
    def __call__(self, name, value, step):
        if name == "loss":
            losses.append(value)

folder, steps, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
with process_group() as processes:
    torch.manual_seed(0)
    model, losses = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)), []
    options = Training(steps=steps, batch=batch // processes, learning_rate=2e-2, seed=1)

    def loss(rng):
        x = torch.from_numpy(rng.normal(size=(options.batch, 8))).float()
        return (model(x)[:, 0] - x[:, 0] * x[:, 1]).square().mean()

    fit(model, loss, options, Checkpoint(Path(folder, f"c{processes}"), "inputs"), Losses())
    total = float(sum(p.abs().sum() for p in model.parameters()))
    Path(folder, f"{processes}-{process_number()}.json").write_text(json.dumps([losses, total]))
"""


@pytest.mark.integration
def test_two_processes_train_as_one_does(tmp_path):
    """The loss of two processes with half of the batch each follows that of one, and both hold the same weights."""
    script = tmp_path / "train.py"
    script.write_text(PROCESS)

    def run(*command):
        arguments = [str(script), str(tmp_path), "400", "128"]
        answer = subprocess.run([sys.executable, *command, *arguments], capture_output=True, text=True, timeout=120)
        assert answer.returncode == 0, answer.stderr[-2000:]

    def result(name):
        return json.loads((tmp_path / f"{name}.json").read_text())

    run()
    run("-m", "torch.distributed.run", "--nproc-per-node", "2")
    (alone, _), (first, first_sum), (_, second_sum) = result("1-0"), result("2-0"), result("2-1")
    assert first_sum == second_sum and len(first) == len(alone) == 8
    assert np.allclose(first, alone, rtol=0.15, atol=0.02), (first, alone)
    assert alone[-1] < 0.3 * alone[0] and first != alone


def test_a_batch_that_cannot_be_divided_is_refused(tiny_params):
    assert tiny_params.per_process(2).finish.training.batch == tiny_params.finish.training.batch // 2
    with pytest.raises(UserError, match="cannot be divided among 3"):
        tiny_params.per_process(3)


def test_a_curve_goes_on_where_the_training_does(tmp_path, capsys):
    folder = tmp_path / "logs"
    path, preview = folder / "loss.tsv", folder / "000050.png"

    def train(begin, *steps):
        log = FileLog("audio", folder)
        log.begin(begin)
        for step in steps:
            log("loss", step / 10, step)
        return log

    train(0, 17, 50, 100, 150)
    preview.touch()
    train(70, 100, 150)
    assert path.read_text() == "step\tloss\n17\t1.7\n50\t5\n100\t10\n150\t15\n" and preview.exists()
    with open(path, "ab") as file:
        file.write(b"20\0\0\n\xff")  # damaged by a crash
    train(150, 200)
    assert path.read_text().splitlines()[-2:] == ["150\t15", "200\t20"]
    train(0, 50)
    assert path.read_text() == "step\tloss\n50\t5\n" and not preview.exists()
    assert "audio step     50  loss 5.00000" in capsys.readouterr().out


def test_finished_curves_are_those_of_this_training(tmp_path, capsys):
    old = FileLog("ablation", tmp_path / "logs")
    old.part("none")("loss", 1.0, 50)
    log = FileLog("ablation", tmp_path / "logs")
    log("loss", 2.0, 50)
    part = log.part("view")
    part("loss", 3.0, 50)
    (tmp_path / "out").mkdir(), (tmp_path / "out" / "old.tsv").touch()
    log.copy_curves(tmp_path / "out")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.tsv")}
    assert found == {"loss.tsv", "view/loss.tsv"} and "view.loss 3.0" in capsys.readouterr().out


def test_a_curve_that_cannot_be_written_ends_no_training(tmp_path, capsys):
    (tmp_path / "file").touch()
    log = FileLog("audio", tmp_path / "file" / "logs")
    log.begin(0)
    log("loss", 1.0, 50), log("loss", 1.0, 100)
    assert capsys.readouterr().err.count("the stage goes on") == 1
