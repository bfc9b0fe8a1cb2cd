"""The batch's flow run in Prefect: its buttons heard, its progress shown, and runs of dead drivers closed."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.states import Cancelling, Crashed, Paused

from stereotalker.errors import UserError
from stereotalker.production.admission import AdmissionControl
from stereotalker.production.outputs import Outputs
from stereotalker.production.report import BatchEnd, ClipResult, contact_sheet
from stereotalker.runtime.process_identity import is_dead

FLOW = "produce"
_OWNER = "owner:"
_POLL_S = 2.0
_OPEN = [StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING, StateType.PENDING]
_PAGE = 200  # runs Prefect gives at once
_HEARTBEAT, _SILENCE, _SILENT_S = "prefect.flow-run.heartbeat", "a silent batch is crashed", 120


def owner_tag(owner: str) -> str:
    return _OWNER + owner


class Buttons:
    """Polls the flow run: Paused holds the gate, Running opens it, Cancelling stops the batch after what runs. A context manager."""

    def __init__(self, run: UUID, admission: AdmissionControl):
        self._run, self._admission, self._done = run, admission, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Buttons:
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        with get_client(sync_client=True) as client:
            while not self._done.wait(_POLL_S):
                try:
                    state = client.read_flow_run(self._run).state
                except Exception:  # a server that is away for a moment presses no buttons
                    continue
                if state.type == StateType.PAUSED:
                    self._admission.hold("`stereotalker resume`, or Resume in Prefect")
                elif state.type in (StateType.CANCELLING, StateType.CANCELLED):
                    self._admission.stop("cancelled")
                else:
                    self._admission.release()


class Artifacts:
    """Progress as clips end, and a table and the sheet of pictures when all have. What Prefect does not take is lost, and no clip with it."""

    def __init__(self, batch: str, clips: int):
        self._batch, self._clips, self._ended, self._shown, self._progress = batch, clips, 0, 0.0, None
        with _forgiven():
            self._progress = create_progress_artifact(
                0.0, key="progress", description=f"{batch}: clips that have ended"
            )

    def clip(self) -> None:
        self._ended += 1
        if self._progress is None or (time.monotonic() - self._shown < _POLL_S and self._ended < self._clips):
            return
        self._shown = time.monotonic()
        with _forgiven():
            update_progress_artifact(self._progress, 100 * self._ended / self._clips)

    def end(self, end: BatchEnd, outputs: Outputs) -> None:
        with _forgiven():
            create_table_artifact(
                [_row(result) for result in end.results][:1000], key="clips", description=end.summary()
            )
            sheet = contact_sheet(outputs, end.results)
            picture = f"\n\n![contact sheet]({sheet})" if sheet else ""
            create_markdown_artifact(
                f"# {self._batch}\n\n{end.summary()}{picture}",
                key="contact-sheet",
                description=f"{self._batch}: every clip's middle frame",
            )


@contextmanager
def _forgiven() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        print(f"note: an artifact was lost: {type(error).__name__}: {error}", file=sys.stderr)


def mark_silence() -> None:
    """Once a server: a batch whose heartbeats (every 30 s) stay away becomes Crashed, while no other driver is there to say so."""
    try:
        Automation.read(name=_SILENCE)
    except ValueError:
        ends = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
        trigger = EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"}, for_each={"prefect.resource.id"}, after={_HEARTBEAT}, expect={_HEARTBEAT, *ends},
            posture=Posture.Proactive, threshold=1, within=timedelta(seconds=_SILENT_S),
        )  # fmt: skip
        Automation(
            name=_SILENCE,
            trigger=trigger,
            actions=[ChangeFlowRunState(state=StateType.CRASHED, message="no heartbeat")],
        ).create()


def close_orphans() -> int:
    """Batches and their clips that a dead driver of this machine left open become Crashed. Returns how many batches."""
    with get_client(sync_client=True) as client:
        dead = [
            run
            for run in _open_runs(client)
            if any(tag.startswith(_OWNER) and is_dead(tag.removeprefix(_OWNER)) for tag in run.tags)
        ]
        for run in dead:
            crashed = Crashed(message="the driver's process ended without a word")
            while left := [
                task
                for task in client.read_task_runs(
                    flow_run_filter=FlowRunFilter(id={"any_": [run.id]}), task_run_filter=_OPEN_TASKS, limit=_PAGE
                )
            ]:
                for task in left:
                    client.set_task_run_state(task.id, crashed, force=True)
            client.set_flow_run_state(run.id, crashed, force=True)
        return len(dead)


def steer(batch: str | None, word: str) -> str:
    """Pause, resume or cancel a running batch (the only one, if no name is given). Returns its name. Raises UserError."""
    with get_client(sync_client=True) as client:
        live = [run for run in _open_runs(client) if batch is None or run.name == batch or batch in run.tags]
        if len(live) != 1:
            names = ", ".join(run.name for run in live) or "none"
            raise UserError(f"expected one running batch{f' called {batch}' if batch else ''}, found {names}; name one")
        run = live[0]
        if word == "resume":
            if run.state.type != StateType.PAUSED:
                raise UserError(f"{run.name} is not paused")
            client.resume_flow_run(run.id)
        else:
            client.set_flow_run_state(
                run.id, {"pause": Paused(timeout_seconds=_FOREVER_S), "cancel": Cancelling()}[word], force=True
            )
        return run.name


_OPEN_TASKS = TaskRunFilter(
    state={"type": {"any_": [StateType.RUNNING, StateType.PENDING, StateType.SCHEDULED, StateType.PAUSED]}}
)
_FOREVER_S = 7 * 24 * 3600


def _open_runs(client: SyncPrefectClient) -> list[FlowRun]:
    state = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_OPEN)))
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])), flow_run_filter=state, limit=_PAGE
    )


def _row(result: ClipResult) -> dict[str, str]:
    return {
        "clip": result.id,
        "state": result.shown,
        "reason": result.error or "; ".join(result.reasons),
        "frames": str(result.frames),
        "seconds": f"{sum(result.seconds.values()):.1f}",
    }
