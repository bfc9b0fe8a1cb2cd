"""The records of a batch: a run in MLflow for every clip when it ends, and the report at the end."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from stereotalker.errors import UserError, error_signature
from stereotalker.production.admission import AdmissionControl
from stereotalker.production.clip_record import people_of
from stereotalker.production.follow_up import write_follow_up
from stereotalker.production.manifest import Clip, Manifest, due
from stereotalker.production.outputs import Outputs
from stereotalker.production.pace_history import History, Pace
from stereotalker.production.report import (
    CLIP_STATES,
    BatchRecord,
    BatchSummary,
    ClipResult,
    duration,
    write_batch,
    write_report,
)
from stereotalker.runtime.home import Home
from stereotalker.tasks.tracking import Tracker, person_tag

CLIP_RECORD = "clip.json"  # name of a clip's record among the files of its run


class BatchLog:
    """Collects the rows of a batch and writes its records: a run in MLflow, with a child run for every clip.

    Only the driver writes. If the tracking server does not answer, records are lost, but no clips.
    """

    def __init__(
        self,
        batch: BatchRecord,
        manifest: Manifest,
        outputs: Outputs,
        home: Home,
        admission: AdmissionControl,
        before: dict[str, ClipResult],
    ):
        """before: rows of an earlier run that stay as they are, by clip id."""
        self._batch, self._manifest, self._home = batch, manifest, home
        self._outputs, self._admission, self._history = outputs, admission, History(home.history)
        self._clips = {clip.id: clip for clip in manifest.clips}
        self._rows: dict[str, ClipResult] = dict(before)
        self._previews: dict[str, str] = {}  # clip id -> name of its preview in the outputs
        self._started, self._started_monotonic = datetime.now(), time.monotonic()
        self._lock = threading.Lock()  # for calls of the tracker
        self._reported: set[str] = set()  # causes of tracking errors that were printed
        self._tracker: Tracker | None = None  # None if the tracking server did not answer when the batch began
        self.run = ""  # id of the batch's run
        self._recorded: set[str] | None = None  # digests of the videos of this batch that MLflow knows; None: not read
        write_batch(outputs, batch, has_ended=False)
        self.attempt("the batch", self._begin)

    def _begin(self) -> None:
        """Start the run of the batch."""
        batch, tracker = self._batch, Tracker(self._home, "batch")
        tracker.close_orphans()
        self.run = tracker.start(batch.name, tags={"batch": batch.name, "git_commit": batch.commit, **_release(batch)})
        models = {f"model.{stage}": digest for stage, digest in batch.models.items()}
        params = {"manifest": batch.manifest, "clips": len(self._manifest.clips), "code": batch.code}
        tracker.note(self.run, params={**params, "params": batch.params, **models})
        self._tracker = tracker

    @property
    def rows(self) -> dict[str, ClipResult]:
        """The rows so far, by clip id."""
        return dict(self._rows)

    def confirm(self, result: ClipResult) -> None:
        """Add the row of a clip that an earlier run finished, and its run in MLflow if that was away then."""
        self._rows[result.id] = result
        if self._tracker and self._recorded is None:
            self.attempt("what is on record", self._read_recorded)
        if self._recorded is not None and result.sha256 not in self._recorded:
            with self._lock:
                self.attempt(result.id, lambda: self._write_clip(result))

    def _read_recorded(self) -> None:
        assert self._tracker is not None
        self._recorded = {run.tags.get("sha256", "") for run in self._tracker.find({"batch": self._batch.name})}

    def take(self, result: ClipResult, threads: int, is_preview: bool = False) -> ClipResult:
        """Add the result of a clip that has ended. Returns its row as it will be in the report."""
        if is_preview:
            self._previews[result.id] = result.preview
            return result
        reasons = (*result.reasons, *self._lateness(self._clips[result.id]))
        row = self._rows[result.id] = replace(result, preview=self._previews.get(result.id, ""), reasons=reasons)
        # A clip that was partly found in the store says nothing about speed.
        clip = self._clips[row.id]
        if row.state == "done" and row.rendered >= row.frames * len(clip.people):
            other = sum(seconds for stage, seconds in row.seconds.items() if stage != "render")
            pace = Pace(clip.rendered_pixels, row.frames, threads, row.seconds["render"], other)
            self.attempt("its speed", lambda: self._history.add(pace))
        with self._lock:
            self.attempt(row.id, lambda: self._write_clip(row))
        return row

    def _lateness(self, clip: Clip) -> list[str]:
        """A remark if the clip ended after its deadline."""
        deadline = due(clip, self._started)
        over = (datetime.now() - deadline).total_seconds() if deadline else 0.0
        return [f"{duration(over)} after its deadline"] if over > 0 else []

    def ended(self) -> BatchSummary:
        """The result of the batch so far. Clips without a row get one that says that they were not reached."""
        reason = self._admission.stopped or "the batch ended before it"
        rows = [
            self._rows.get(clip.id)
            or ClipResult(clip.id, row, "stopped", reason, preview=self._previews.get(clip.id, ""))
            for row, clip in enumerate(self._manifest.clips, 1)
        ]
        return BatchSummary(
            rows,
            self._admission.stopped,
            time.monotonic() - self._started_monotonic,
            self._admission.spent.useful,
            self._admission.spent.lost,
            self._admission.breaker_tripped,
        )

    def close(self) -> tuple[BatchSummary, str]:
        """Write the report and end the run in MLflow. Returns the result, and the path or URL of the report."""
        end = self.ended()
        try:
            page = write_report(self._outputs, self._batch, end)
            write_follow_up(self._outputs, self._manifest, end.results)
            write_batch(self._outputs, self._batch, has_ended=not end.count("stopped"))
        except (OSError, UserError) as error:  # the disk is full or not mounted; the clips are in the store
            print(f"note: the report could not be written: {error}", file=sys.stderr)
            page = "not written"
        counts = {shown: end.count(shown) for shown in CLIP_STATES}
        hours = {
            "wall_seconds": end.wall_seconds,
            "worker_hours": end.useful_seconds / 3600,
            "worker_hours_lost": end.lost_seconds / 3600,
        }
        frames = sum(result.frames for result in end.results)

        def write() -> None:
            if self._tracker is None:
                return
            self._tracker.note(
                self.run,
                metrics={"clips": len(end.results), "frames": frames, **counts, **hours},
                tags={"stopped": end.stopped},
            )
            if report := self._outputs.read("report.html"):
                self._tracker.attach(self.run, "report.html", report)
            self._tracker.end(self.run, "KILLED" if end.stopped else "FAILED" if end.status == 1 else "FINISHED")

        self.attempt("the batch", write)
        return end, page

    def attempt(self, what: str, write: Callable[[], None]) -> None:
        """Call `write`. The first error of each cause is printed, and none is raised: records never fail a batch.

        Besides its own errors, MLflow lets those of its database, its disk and its HTTP client through.
        """
        try:
            write()
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            if error_signature(reason) not in self._reported:
                self._reported.add(error_signature(reason))
                print(f"MLflow did not take the record of {what}, the clips go on: {reason}", file=sys.stderr)

    def _write_clip(self, result: ClipResult) -> None:
        """Write the run of a clip, with its record."""
        if self._tracker is None:
            return
        tags = {
            "batch": self._batch.name,
            "clip": result.id,
            "error": result.error,
            "verdict": result.shown,
            "reasons": "; ".join(result.reasons),
            **_release(self._batch),
        }
        data = self._outputs.read(result.record) if result.record else None
        if data is not None:
            record = json.loads(data)
            tags |= {
                "sha256": result.sha256,
                "record": record["digest"],
                "video": self._outputs.name(result.video),
                **_person_tags(record["made"]),
            }
        run = self._tracker.start(result.id, parent=self.run, tags=tags)
        if data is not None:
            self._tracker.attach(run, CLIP_RECORD, data)
        seconds = {f"seconds.{stage}": value for stage, value in result.seconds.items()}
        measures = {f"quality.{name}": value for name, value in result.measures.items()}
        self._tracker.note(
            run,
            params={**result.facts, "code": self._batch.code},
            metrics={"frames": result.frames, **seconds, **measures},
        )
        self._tracker.end(run, {"done": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}[result.state])


def _person_tags(made: dict) -> dict[str, str]:
    """Tags that name the people of a clip and the holders of their consents. made: part of its record."""
    rows = made["row"].get("scene") or [made["row"]]
    tags: dict[str, str] = {}
    for k, (row, person) in enumerate(zip(rows, people_of(made), strict=True)):
        holder = (person["consent"] or {}).get("holder", "")
        tags |= {person_tag("avatar", k): row["avatar"], person_tag("consent", k): holder}
    return tags


def _release(batch: BatchRecord) -> dict[str, str]:
    """Tags that name the release of a batch."""
    return {"release": batch.release, "release_number": str(batch.release_number)} if batch.release else {}
