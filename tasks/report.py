"""The batch's records: MLflow runs as clips finish, the page at the end."""

from __future__ import annotations

from pathlib import Path

from stereotalker.report import BatchRecord, ClipResult, write_report
from tasks.tracking import Tracker


class BatchLog:
    """Parent run of a batch and child runs of its clips, written by the driver alone."""

    def __init__(self, tracker: Tracker, batch: BatchRecord, clips: int, out: Path):
        self._tracker, self._batch, self._out = tracker, batch, out
        tracker.close_orphans(batch.name)
        self.run = tracker.start(batch.name, tags={"batch": batch.name, "git_commit": batch.commit})
        pinned = {f"model.{stage}": digest for stage, digest in batch.models.items()}
        versions = {f"version.{stage}": version for stage, version in batch.versions.items()}
        tracker.note(self.run, params={"manifest": batch.manifest, "clips": clips, "code": batch.code, "params": batch.params, **pinned, **versions})

    def clip(self, result: ClipResult) -> None:
        run = self._tracker.start(result.id, parent=self.run, tags={"batch": self._batch.name, "clip": result.id, "error": result.error})
        seconds = {f"seconds.{stage}": value for stage, value in result.seconds.items()}
        pinned = {f"version.{stage}": version for stage, version in self._batch.versions.items()}
        self._tracker.note(run, params={**result.facts, **pinned, "code": self._batch.code}, metrics={"frames": result.frames, **seconds})
        self._tracker.end(run, "FINISHED" if result.ok else "FAILED")

    def finish(self, results: list[ClipResult], wall_seconds: float) -> Path:
        page = write_report(self._out, self._batch, results, wall_seconds)
        failed = sum(not r.ok for r in results)
        frames = sum(r.frames for r in results)
        self._tracker.note(self.run, metrics={"clips": len(results), "failed": failed, "frames": frames, "wall_seconds": wall_seconds})
        self._tracker.attach(self.run, page)
        self._tracker.end(self.run, "FINISHED" if not failed else "FAILED")
        return page

    def abort(self) -> None:
        self._tracker.end(self.run, "KILLED")
