"""Follows a clip back to everything that it was made from, and finds the clips that something went into."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import yaml

from stereotalker.avatar.library import Library
from stereotalker.errors import Unavailable, UserError
from stereotalker.params import ROOT, ReleaseParams
from stereotalker.production import audit
from stereotalker.production.audit import Link, broken, whole
from stereotalker.production.clip_record import record_digest, to_json
from stereotalker.production.delivery import RECORD_ENDING
from stereotalker.releases.ledger import Ledger
from stereotalker.releases.release import SHIPPED_NUMBER, Release, shipped_release
from stereotalker.runtime.home import Home
from stereotalker.runtime.process_identity import person
from stereotalker.store.digests import file_digest
from stereotalker.store.files import write_atomic
from stereotalker.store.urls import is_url
from stereotalker.tasks.forget import forgotten_on
from stereotalker.tasks.registry import LEDGER, Registered, Registry, TrackingUnavailable
from stereotalker.tasks.report import CLIP_RECORD
from stereotalker.tasks.tracking import FoundRun, Tracker, TrackingError
from stereotalker.weights import PRODUCTION_WEIGHTS, weights_file


class NotOurs(UserError):
    """Neither the file nor the records say that we made it."""


@dataclass(frozen=True)
class Audit:
    """The chain of a clip, from the file to the recordings that its models heard."""

    clip: str
    file: str
    record: dict
    links: tuple[Link, ...]
    release: Release | None

    @property
    def is_whole(self) -> bool:
        """Whether no link is broken."""
        return all(link.state != "broken" for link in self.links)

    def to_json(self) -> str:
        """All of it, for other programs."""
        links = [link.__dict__ for link in self.links]
        release = self.release and json.loads(self.release.to_json())
        values = {"clip": self.clip, "file": self.file, "whole": self.is_whole, "links": links}
        return json.dumps(values | {"record": self.record, "release": release}, indent=1)


@dataclass(frozen=True)
class DeliveredClip:
    """A clip that was delivered, as MLflow knows it."""

    clip: str
    batch: str
    file: str
    sha256: str
    release: str  # number
    when: str
    run: str


class Auditor:
    """Looks into the records of a home."""

    def __init__(self, home: Home, params: ReleaseParams):
        self._home, self._params = home, params
        self._library = Library(home.avatars)
        self._tracker: Tracker | None = None
        self._reason = ""
        try:
            self._tracker = Tracker(home, "batch")
        except (TrackingError, OSError) as error:
            self._reason = f"MLflow at {home.tracking_uri} does not answer ({type(error).__name__})"

    def of_file(self, file: Path) -> Audit:
        """The audit of a video. Raises NotOurs if nothing says that we made it, UserError if it does not exist."""
        if not file.is_file():
            raise UserError(f"{file} is a folder; expected a video" if file.is_dir() else f"{file} not found")
        if file.suffix == RECORD_ENDING:
            raise UserError(f"{file} is a record; give the video beside it")
        credentials, reason = audit.credentials_of(file)
        claimed = credentials.claims.get("record", "") if credentials else ""
        rows = self._rows({"record": claimed}) if claimed else []
        rows = rows or self._rows({"sha256": file_digest(file)})
        beside, missing = audit.record_beside(file)
        record = beside or self._record_of(rows)
        if record is None and credentials and claimed:
            links = [audit.whole("credentials", f"unchanged since they were signed by: {credentials.signer}")]
            links.append(broken("record", "it is neither beside the video nor in MLflow; the credentials name it"))
            return Audit(str(credentials.claims.get("clip", "")), str(file), {}, tuple(links), None)
        if record is None:
            raise NotOurs(f"{file}: neither its content credentials nor a record say that we made it ({reason})")
        rows = rows or self._rows({"record": record["digest"]})
        links = audit.file_links(file, credentials, reason, record, missing)
        return self._audit(str(file), record, rows, links)

    def of_clip(self, clip: str) -> Audit:
        """The audit of the newest delivery of a clip with this id. Raises UserError if there is none."""
        if self._tracker is None:
            raise Unavailable(f"{self._reason}, so clip {clip!r} cannot be looked up; give its file")
        rows = self._rows({"clip": clip})
        if not rows:
            raise UserError(f"no delivered clip {clip!r} is on record")
        video = rows[0].tags["video"]
        if Path(video).is_file():
            return self.of_file(Path(video))
        record = self._record_of(rows)
        if record is None:
            raise UserError(f"clip {clip!r}: its record is gone from MLflow, and {video} is not there")
        link = (
            Link("video", "not checked", f"{video} is at a URL; fetch it and audit the file")
            if is_url(video)
            else broken("video", f"{video} is not there")
        )
        return self._audit(video, record, rows, [link])

    def clips(self, **wanted: str) -> list[DeliveredClip]:
        """Every delivered clip with these tags: avatar, consent, release (a digest), release_number.

        Raises Unavailable if MLflow does not answer.
        """
        if self._tracker is None:
            raise Unavailable(self._reason)
        return [_delivered(run) for run in self._rows(wanted)]

    def releases_of_data(self, revision: str) -> list[Registered]:
        """The releases that were trained on data with this digest in DVC, or at this commit; beginnings are enough."""
        registry = Registry(self._home, self._params)
        found = []
        for registered in registry.all():
            release = registry.manifest(registered)
            if any(value.startswith(revision) for value in (release.commit, *release.data.values()) if value):
                found.append(registered)
        return found

    def _audit(self, file: str, record: dict, rows: list[FoundRun], links: list[Link]) -> Audit:
        links = [*links, self._row_link(record, rows)]
        links += audit.origin_links(record, self._library, lambda name: forgotten_on(self._home, name))
        release: Release | None = None
        try:
            registry = Registry(self._home, self._params)
            release, found = self._release_links(record, registry)
            links += found
        except TrackingUnavailable:
            links.append(Link("release", "not checked", self._reason or "MLflow does not answer"))
        except Unavailable as error:
            links.append(broken("release", str(error)))
        return Audit(record["made"]["clip"], file, record, tuple(links), release)

    def _rows(self, tags: dict[str, str]) -> list[FoundRun]:
        """Runs of delivered clips with these tags, the newest first."""
        if self._tracker is None:
            return []
        return [run for run in self._tracker.find(tags) if run.tags.get("record")]

    def _record_of(self, rows: list[FoundRun]) -> dict | None:
        """The record that MLflow holds."""
        if not rows or self._tracker is None:
            return None
        return audit.read_record(self._tracker.attached(rows[0].id, CLIP_RECORD))

    def _row_link(self, record: dict, rows: list[FoundRun]) -> Link:
        """Whether MLflow has the clip, and says the same."""
        if self._tracker is None:
            return Link("MLflow", "not checked", self._reason)
        same = [row for row in rows if row.tags["record"] == record["digest"]]
        if not same:
            return broken("MLflow", "it has no run of this clip with this record")
        if not any(row.tags.get("sha256") == record["delivered"]["sha256"] for row in same):
            return broken("MLflow", "its run names other bytes than the record")
        stored = self._record_of(same)
        if stored is None or record_digest(stored["made"]) != record["digest"]:
            return broken("MLflow", "the record that it holds is gone or was changed")
        approval = record["delivered"].get("approved")
        if {**record["delivered"], "approved": None} != {**stored["delivered"], "approved": None}:
            return broken("MLflow", "it knows no delivery at this time and place; it may have been away then")
        if approval and all(row.tags.get("approved") != json.dumps(approval, sort_keys=True) for row in same):
            return broken("MLflow", "it does not know the approval that the record names")
        return whole("MLflow", f"run {same[0].id}")

    def _release_links(self, record: dict, registry: Registry) -> tuple[Release | None, list[Link]]:
        """Release, weights, ledger, trainings, data and commit."""
        named, models = record["made"]["release"], record["made"]["models"]
        digest, number = named["digest"], named["number"]
        if not digest:
            return None, [broken("release", "the weights belonged to no release")]
        shipped = shipped_release()
        if number == SHIPPED_NUMBER:
            release = shipped
            link = (
                whole("release", f"0, the package, {digest[:12]}")
                if digest == shipped.digest
                else Link("release", "not checked", f"0, an earlier package, {digest[:12]}")
            )
        else:
            known = Registered(number, digest)
            if known not in registry.all():
                return None, [broken("release", f"{known} is not registered")]
            release, link = registry.manifest(known), whole("release", str(known))
            if faults := registry.faults(known):
                return release, [link, broken("weights", "; ".join(faults)), *self._ledger_links(registry, known)]
        others = [s for s in PRODUCTION_WEIGHTS if release.files[weights_file(s, Path()).name] != models[s]]
        text = ", ".join(f"{stage} {models[stage][:12]}" for stage in PRODUCTION_WEIGHTS)
        if not others:
            weights = whole("weights", text)
        elif link.state == "not checked":
            weights = Link("weights", "not checked", f"{text}: not those of today's package")
        else:
            weights = broken(
                "weights", f"the release has other weights of {', '.join(others)} than the clip was made with"
            )
        ledger = self._ledger_links(registry, Registered(number, digest))
        origins = self._training_links(release, number)
        return release, [link, weights, *ledger, *origins]

    def _ledger_links(self, registry: Registry, release: Registered) -> list[Link]:
        if faults := registry.ledger_faults():
            return [broken("ledger", "; ".join(faults))]
        entries = [e for e in Ledger(self._home.releases / LEDGER).entries() if e.release == release.digest]
        moves = [f"{e.action} {e.when} by {e.who}" for e in entries if e.action in ("promoted", "rolled back")]
        if not moves and release.number != SHIPPED_NUMBER:
            return [whole("ledger", "chosen by its number: it never was the champion")]
        if not moves:
            return [
                Link("ledger", "not checked", "the package is the champion from the beginning: there is no line of it")
            ]
        return [whole("ledger", "; ".join(moves))]

    def _training_links(self, release: Release, number: int) -> list[Link]:
        """Runs of the trainings, data with its licences, and the commit."""
        sources = "; ".join(f"{source.source} ({source.licence})" for source in release.sources)
        if number == SHIPPED_NUMBER:
            text = "trained before the package was made; docs/training.md says how"
            names = ("trainings", text), ("data", sources), ("commit", "the package names none")
            return [Link(name, "not checked", found) for name, found in names]
        tracker = Tracker(self._home, "training")
        lost = [stage for stage, run in release.runs.items() if tracker.status(run) != "FINISHED"]
        if lost:
            trainings = broken("trainings", f"MLflow has no finished run of {', '.join(lost)}")
        elif release.runs:
            trainings = whole("trainings", ", ".join(f"{stage} {run[:12]}" for stage, run in release.runs.items()))
        else:
            trainings = Link("trainings", "not checked", "the release names none")
        return [trainings, *_data_links(release, sources)]


def _data_links(release: Release, sources: str) -> list[Link]:
    """Whether the commit is there, and its dvc.lock names the data of the release."""
    commit = release.commit.removesuffix("+changes")
    if not commit or not (ROOT / ".git").exists():
        reason = "there is no checkout here" if commit else "the release names none"
        return [Link("data", "not checked", sources), Link("commit", "not checked", reason)]
    if _at_commit(commit) is None:
        return [Link("data", "not checked", sources), broken("commit", f"{commit[:12]} is not in {ROOT}")]
    lock = yaml.safe_load(_at_commit(commit, "dvc.lock") or "stages: {}")
    locked = {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage.get("outs", ())}
    for name in release.data:
        if name.startswith(("data/recordings/", "data/inputs/")) and (pointer := _at_commit(commit, f"{name}.dvc")):
            locked[name] = yaml.safe_load(pointer)["outs"][0]["md5"]
    other = [name for name, md5 in release.data.items() if locked.get(name) != md5]
    data = broken("data", f"the commit names other {', '.join(other)}") if other else whole("data", sources)
    return [data, whole("commit", commit[:12])]


def _at_commit(commit: str, file: str = "") -> str | None:
    """A file at a commit of the checkout, or the commit itself; None if it is not there."""
    what = f"{commit}:{file}" if file else f"{commit}^{{commit}}"
    shown = subprocess.run(["git", "-C", str(ROOT), "cat-file", "-p", what], capture_output=True, text=True)
    return None if shown.returncode else shown.stdout


def approve(video: Path, why: str, home: Home) -> dict:
    """Write into the record of a delivered video that a person looked at it. Returns what was written.

    The record in MLflow gets the same as tags. Raises UserError if the video has no record, or is another one.
    """
    if not video.is_file():
        raise UserError(f"{video} not found")
    if not why.strip():
        raise UserError("--because must say what you looked at")
    record, missing = audit.record_beside(video)
    if record is None:
        raise UserError(f"{video} has no record: {missing}; expected a video as `produce` delivered it")
    if file_digest(video) != record["delivered"]["sha256"]:
        raise UserError(f"{video} is not the delivered file any more; audit it first")
    if record_digest(record["made"]) != record["digest"]:
        raise UserError(f"the record beside {video} was changed; audit it first")
    approval = {"who": person(), "when": datetime.now().astimezone().isoformat(timespec="seconds"), "why": why}
    record["delivered"]["approved"] = approval
    tracker = Tracker(home, "batch")
    for run in tracker.find({"record": record["digest"]}):
        tracker.tag(run.id, "approved", json.dumps(approval, sort_keys=True))
    write_atomic(video.with_suffix(RECORD_ENDING), to_json(record))
    return approval


def _delivered(run: FoundRun) -> DeliveredClip:
    tags = run.tags
    return DeliveredClip(
        tags["clip"],
        tags.get("batch", ""),
        tags.get("video", ""),
        tags.get("sha256", ""),
        tags.get("release_number", ""),
        datetime.fromtimestamp(run.ended).isoformat(timespec="seconds"),
        run.id,
    )


def chain_text(found: Audit) -> Iterator[str]:
    """The chain, a line for each link."""
    yield f"{found.clip}  {found.file}"
    for link in found.links:
        yield f"{link.state:12} {link.name:12} {link.text}"
