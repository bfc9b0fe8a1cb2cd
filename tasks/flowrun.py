"""The flow run of a batch in Prefect: its buttons are obeyed, and its progress is shown.

Also closes the flow runs of drivers that have died, and steers running batches from the command line.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal
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
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.states import Cancelling, Crashed, Paused

from stereotalker.errors import UserError
from stereotalker.production.admission import AdmissionControl
from stereotalker.production.outputs import Outputs
from stereotalker.production.report import BatchSummary, ClipResult, contact_sheet
from stereotalker.runtime.process_identity import is_dead

FLOW = "produce"
TAG = "stereotalker"  # of every flow run of ours, by which the automation knows them
_OWNER = "owner:"  # prefix of the tag that holds the driver's process identity
_POLL_S = 2.0  # seconds between two looks at the flow run, and between two updates of its progress
_OPEN_FLOW_STATES = [StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING, StateType.PENDING]
_OPEN_TASK_RUNS = TaskRunFilter(
    state={"type": {"any_": [StateType.RUNNING, StateType.PENDING, StateType.SCHEDULED, StateType.PAUSED]}}
)
_PAGE_SIZE = 200  # runs that Prefect returns at once
_MAX_TABLE_ROWS = 1000  # of the table artifact
_MAX_PAUSE_S = 7 * 24 * 3600  # Prefect asks for a limit

# The automation that marks silent batches: its name, the event it waits for, and the seconds after which it acts.
_SILENCE_AUTOMATION, _HEARTBEAT, _MAX_SILENCE_S = "a silent batch is crashed", "prefect.flow-run.heartbeat", 120


def owner_tag(owner: str) -> str:
    """Tag of a flow run that says which process drives it. owner: see process_identity.identity."""
    return _OWNER + owner


class FlowRunControl:
    """Obeys the buttons of the flow run in Prefect, by polling its state. A context manager.

    Paused makes new work wait, Running lets it continue, and Cancelling stops the batch after the work that runs.
    """

    def __init__(self, run: UUID, admission: AdmissionControl):
        self._run, self._admission, self._done = run, admission, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> FlowRunControl:
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
                except Exception:  # a server that does not answer for a moment changes nothing
                    continue
                assert state is not None
                if state.type == StateType.PAUSED:
                    self._admission.hold("`stereotalker resume`, or Resume in Prefect")
                elif state.type in (StateType.CANCELLING, StateType.CANCELLED):
                    self._admission.stop("cancelled")
                else:
                    self._admission.release()


class Artifacts:
    """Artifacts of the flow run: the progress, and at the end a table and a contact sheet of the clips.

    If Prefect does not accept an artifact, it is left out; clips are not affected.
    """

    def __init__(self, batch: str, clips: int):
        self._batch, self._clips = batch, clips
        self._ended, self._updated = 0, 0.0  # clips that have ended, and time of the last update
        self._progress: UUID | None = None
        with _errors_as_notes():
            self._progress = create_progress_artifact(  # type: ignore[assignment]  # this is synchronous code
                0.0, key="progress", description=f"{batch}: clips that have ended"
            )

    def clip(self) -> None:
        """Count a clip that has ended. The progress is not updated more often than every _POLL_S."""
        self._ended += 1
        if self._progress is None or (time.monotonic() - self._updated < _POLL_S and self._ended < self._clips):
            return
        self._updated = time.monotonic()
        with _errors_as_notes():
            update_progress_artifact(self._progress, 100 * self._ended / self._clips)

    def end(self, end: BatchSummary, outputs: Outputs) -> None:
        """Add the table and the contact sheet of the whole batch."""
        with _errors_as_notes():
            create_table_artifact(
                [_row(result) for result in end.results][:_MAX_TABLE_ROWS], key="clips", description=end.summary()
            )
            sheet = contact_sheet(outputs, end.results)
            picture = f"\n\n![contact sheet]({sheet})" if sheet else ""
            create_markdown_artifact(
                f"# {self._batch}\n\n{end.summary()}{picture}",
                key="contact-sheet",
                description=f"{self._batch}: every clip's middle frame",
            )


@contextmanager
def _errors_as_notes() -> Iterator[None]:
    """Print an error of the block as a note instead of raising it."""
    try:
        yield
    except Exception as error:
        print(f"note: an artifact was lost: {type(error).__name__}: {error}", file=sys.stderr)


def register_silence_automation() -> None:
    """Register an automation with the server, once: a batch that sends no heartbeat for two minutes becomes Crashed.

    Heartbeats come every 30 s. Without the automation, only the next driver would notice (see `close_orphans`). The
    server may be a studio's own, so only flow runs with our tag are meant. An older version's automation, which had no
    such limit, is replaced.
    """
    ends = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    trigger = EventTrigger(
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"},
        for_each={"prefect.resource.id"},
        after={_HEARTBEAT},
        expect={_HEARTBEAT, *ends},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=_MAX_SILENCE_S),
    )
    try:
        existing: Any = Automation.read(name=_SILENCE_AUTOMATION)  # this is synchronous code
    except ValueError:
        existing = None
    if existing is not None:
        if existing.trigger.match_related == trigger.match_related:
            return
        existing.delete()
    Automation(
        name=_SILENCE_AUTOMATION,
        trigger=trigger,
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="no heartbeat")],
    ).create()


def close_orphans() -> int:
    """Set batches, and their clips, to Crashed if their driver ran on this machine and has died.

    Returns the number of batches.
    """
    with get_client(sync_client=True) as client:
        dead = [
            run
            for run in _open_runs(client)
            if any(tag.startswith(_OWNER) and is_dead(tag.removeprefix(_OWNER)) for tag in run.tags)
        ]
        for run in dead:
            crashed: State = Crashed(message="the driver's process ended without a word")
            of_run = FlowRunFilter(id={"any_": [run.id]})
            # One call returns one page of runs.
            while open_tasks := client.read_task_runs(
                flow_run_filter=of_run, task_run_filter=_OPEN_TASK_RUNS, limit=_PAGE_SIZE
            ):
                for task in open_tasks:
                    client.set_task_run_state(task.id, crashed, force=True)
            client.set_flow_run_state(run.id, crashed, force=True)
        return len(dead)


def steer(batch: str | None, command: Literal["pause", "resume", "cancel"]) -> str:
    """Send a command to a running batch. Returns the name of its flow run.

    batch: name of the batch or of its flow run; None: the only one that runs. Raises UserError if there is not exactly
    one such batch, or if a batch that is not paused should be resumed.
    """
    with get_client(sync_client=True) as client:
        matches = [run for run in _open_runs(client) if batch is None or run.name == batch or batch in run.tags]
        if len(matches) != 1:
            names = ", ".join(run.name for run in matches) or "none"
            raise UserError(f"expected one running batch{f' called {batch}' if batch else ''}, found {names}; name one")
        run = matches[0]
        if command == "resume":
            if run.state is None or run.state.type != StateType.PAUSED:
                raise UserError(f"{run.name} is not paused")
            client.resume_flow_run(run.id)
        else:
            state: State = Paused(timeout_seconds=_MAX_PAUSE_S) if command == "pause" else Cancelling()
            client.set_flow_run_state(run.id, state, force=True)
        return run.name


def _open_runs(client: SyncPrefectClient) -> list[FlowRun]:
    state = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_OPEN_FLOW_STATES)))
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])), flow_run_filter=state, limit=_PAGE_SIZE
    )


def _row(result: ClipResult) -> dict[str, str]:
    """A row of the table artifact."""
    return {
        "clip": result.id,
        "state": result.shown,
        "reason": result.error or "; ".join(result.reasons),
        "frames": str(result.frames),
        "seconds": f"{sum(result.seconds.values()):.1f}",
    }
