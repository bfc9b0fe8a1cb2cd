"""Runs stages of the data and training pipeline, and writes their parameters, inputs and curves to MLflow."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import yaml
from torch import nn

from stereotalker.errors import UserError
from stereotalker.evaluation.previews import Previews
from stereotalker.params import ROOT, Params
from stereotalker.runtime.home import Home
from stereotalker.runtime.process_group import process_group, process_number
from stereotalker.runtime.stage_log import Log
from stereotalker.stages import DATA_STAGES, EVALUATIONS, STAGES, TRAINING_STAGES, stage_function
from stereotalker.stages.paths import CURVES, DATA, LOGS, PEOPLE, SPEECH, WEIGHTS
from stereotalker.store.code import checkout_commit
from stereotalker.store.digests import file_digest
from stereotalker.store.files import write_atomic
from stereotalker.tasks.tracking import Tracker
from stereotalker.training.file_log import FileLog
from stereotalker.weights import PRODUCTION_WEIGHTS, weights_file

# Stage -> whose weights in artifacts/ it writes. `finish` ends what `render` began.
_WEIGHTS_OF = {"audio": "audio", "motion": "motion", "gestures": "gestures", "masks": "masks", "finish": "render"}
_PAUSE_S = 300.0  # after an error of MLflow, before it is asked again
EvaluationPart = Literal["motion", "render", "avatar", "portraits", "speech", "all"]


def run_stage(name: str, params: Params, home: Home) -> None:
    """Run a stage. A training or an evaluation becomes a run in MLflow.

    Raises UserError for an unknown stage, and for one that builds data in several processes.
    """
    if name not in STAGES:
        raise UserError(f"stage {name!r} is unknown; expected one of {', '.join(STAGES)}")
    with process_group() as processes:
        if name in DATA_STAGES:
            if processes > 1:
                raise UserError(f"stage {name} builds data, and starts its own processes; run it without torchrun")
            stage_function(name)(params, FileLog(name, LOGS / name))
            return
        with _recorded(name, params, home) as log:
            stage_function(name)(params.per_process(processes), log)


def evaluate(part: EvaluationPart, params: Params, weights: Path, home: Home) -> None:
    """Measure the weights in a folder, and write metrics/."""
    from stereotalker.evaluation import stage

    with _recorded("evaluate", params, home, part) as log:
        if part in ("avatar", "speech"):
            of_weights: dict[str, Callable] = {"avatar": stage.evaluate_avatar, "speech": stage.evaluate_speech}
            of_weights[part](params, weights, log)
        else:
            measure: dict[str, Callable] = {
                "motion": stage.evaluate_motion,
                "render": stage.evaluate_render,
                "portraits": stage.evaluate_portraits,
                "all": stage.evaluate_all,
            }
            measure[part](params, DATA, weights, log)


@contextmanager
def _recorded(name: str, params: Params, home: Home, part: str = "") -> Iterator[Log]:
    """Yield a log that writes to the terminal, to a file, and to a run in MLflow, which ends as the block ends.

    MLflow never ends a training: if it does not answer, its records are lost, with one message.
    Of several processes, only the first one writes.
    """
    if process_number():
        yield Log()
        return
    record = _Record(home, "evaluation" if name in EVALUATIONS else "training")
    tags = {"stage": name, "scale": params.scale, "git_commit": checkout_commit()} | ({"part": part} if part else {})
    record.start(f"{name}-{params.scale}", tags)
    section = getattr(params, "evaluate" if name in EVALUATIONS else name).model_dump(mode="json")
    record.note(params={key: json.dumps(value) for key, value in section.items()})
    record.inputs(lambda: _inputs(name))
    values = FileLog(name, LOGS / name)
    log = _RecordedLog(values, record, Previews(params, SPEECH, PEOPLE, WEIGHTS))
    try:
        with _killed_by_signal():
            yield log
    except (KeyboardInterrupt, SystemExit):
        record.end("KILLED")
        raise
    except BaseException:
        record.end("FAILED")
        raise
    if name in TRAINING_STAGES:
        values.copy_curves(CURVES / name)
    written = weights_file(_WEIGHTS_OF.get(name, ""), WEIGHTS)
    if name in _WEIGHTS_OF and written.is_file():
        record.note(tags={"weights": file_digest(written)})
    record.end("FINISHED")


class _RecordedLog(Log):
    """Writes values and previews to the files of a FileLog and to a run in MLflow."""

    def __init__(self, files: FileLog, record: _Record, previews: Previews):
        self._files, self._record, self._previews = files, record, previews
        self._last_fault = ""  # of a preview

    def begin(self, step: int) -> None:
        self._files.begin(step)

    def __call__(self, name: str, value: float, step: int) -> None:
        self._files(name, value, step)
        self._record.note(metrics={self._files.prefix + name: value}, step=step)

    def preview(self, model: nn.Module, step: int) -> None:
        """Write STEP.* beside the curves. A preview that fails is left out with a message."""
        try:
            ending, data = self._previews.draw(model)
            name = f"{step:06d}.{ending}"
            write_atomic(self._files.folder / name, data)
        except Exception as error:  # a training of hours does not end because of a picture
            fault = f"{type(error).__name__}: {error}"
            if fault != self._last_fault:
                print(f"no preview at step {step}, the stage goes on: {fault}", file=sys.stderr, flush=True)
            self._last_fault = fault
            return
        self._record.attach(self._files.prefix + name, data)

    def part(self, name: str) -> _RecordedLog:
        return _RecordedLog(self._files.part(name), self._record, self._previews)


class _Record:
    """A run in MLflow, or none if it does not answer."""

    def __init__(self, home: Home, kind: str):
        self._home, self._kind = home, kind
        self._tracker: Tracker | None = None
        self._run = ""
        self._has_reported = False
        self._away_until = 0.0  # monotonic s until which nothing is sent

    def start(self, name: str, tags: dict[str, str]) -> None:
        def write() -> None:
            tracker = Tracker(self._home, self._kind)
            tracker.close_orphans()
            self._run = tracker.start(name, tags=tags)
            self._tracker = tracker

        self._attempt(write)

    def note(self, **values) -> None:
        if tracker := self._tracker:
            self._attempt(lambda: tracker.note(self._run, **values))

    def attach(self, name: str, data: bytes) -> None:
        if tracker := self._tracker:
            self._attempt(lambda: tracker.attach(self._run, name, data))

    def inputs(self, datasets: Callable[[], dict[str, tuple[str, str]]]) -> None:
        if tracker := self._tracker:
            self._attempt(lambda: tracker.note_inputs(self._run, datasets()))

    def end(self, status: str) -> None:
        if tracker := self._tracker:
            self._attempt(lambda: tracker.end(self._run, status))

    def _attempt(self, write: Callable[[], object]) -> None:
        """Call `write`. Its first error is printed; a training of hours does not end because of a lost record."""
        if time.monotonic() < self._away_until:
            return
        try:
            write()
        except Exception as error:
            self._away_until = time.monotonic() + _PAUSE_S  # each try may take a minute
            if not self._has_reported:
                reason = (str(error) or type(error).__name__).splitlines()[0]
                print(f"MLflow did not take a record, the stage goes on: {reason}", file=sys.stderr, flush=True)
            self._has_reported = True


@contextmanager
def _killed_by_signal() -> Iterator[None]:
    """Let SIGTERM end the block like Ctrl-C, so that the run says that it was killed."""

    def stop(number, frame) -> None:
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _inputs(stage: str) -> dict[str, tuple[str, str]]:
    """What a stage reads, as dvc.lock knows it: path -> (digest, how to get it). Empty without a dvc.yaml."""
    files = Path("dvc.yaml"), Path("dvc.lock")
    if not all(file.is_file() for file in files):
        return {}
    described, locked = (yaml.safe_load(file.read_text(encoding="utf-8"))["stages"] for file in files)
    known = {out["path"]: out["md5"] for entry in locked.values() for out in entry.get("outs", ())}
    wanted = [dep for dep in described.get(stage, {}).get("deps", ()) if not dep.endswith(".py")]
    lock = ROOT / "requirements.lock"
    found = {name: (known[name], f"dvc checkout {name}") for name in wanted if name in known}
    return found | ({"requirements.lock": (file_digest(lock)[:36], "git")} if lock.is_file() else {})


def trained_by(home: Home, files: dict[str, Path]) -> dict[str, str]:
    """Stage -> id of the run in MLflow that trained its weights, for those whose run is found. files: by name."""
    tracker = Tracker(home, "training")
    paths = {stage: files.get(weights_file(stage, Path()).name) for stage in PRODUCTION_WEIGHTS}
    runs = {stage: tracker.find({"weights": file_digest(path)}) for stage, path in paths.items() if path}
    return {stage: found[0].id for stage, found in runs.items() if found}
