"""The nightly deployment: at set times, every manifest in a folder that is new is produced, once."""

from __future__ import annotations

import glob
import json
import time
import zoneinfo
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tzlocal
from prefect import flow, serve
from prefect.schedules import Cron, Schedule

from stereotalker.errors import Unavailable, UserError, shared_fault
from stereotalker.flows.produce import produce
from stereotalker.flows.retrain import retrain
from stereotalker.params import Params, load_params
from stereotalker.runtime.home import Home
from stereotalker.store.digests import digest, file_digest
from stereotalker.store.files import write_atomic
from stereotalker.store.urls import is_url
from stereotalker.tasks.notify import failures_notified

_MANIFEST_SUFFIXES = (".yaml", ".yml", ".jsonl", ".csv")
MAX_TRIES = 3  # of a manifest whose batch breaks off, or in which clip after clip fails alike


def serve_deployments(
    folder: Path,
    out: str,
    cron: str,
    params: Path | None,
    timezone: str | None = None,
    retrain_cron: str | None = None,
) -> None:
    """Register the deployments with Prefect's server and serve them until Ctrl-C.

    cron: five fields; timezone: IANA name of the zone that they are in, None: that of this machine; retrain_cron: when
    to retrain, None: never. Raises UserError if the folder, a schedule, the zone or the parameters cannot be used.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; expected the place where manifests are dropped")
    schedule = nightly_schedule(cron, timezone)
    load_params(params)  # raises UserError now rather than at night
    arguments = {
        "folder": str(folder.resolve()),
        "out": out if is_url(out) else str(Path(out).resolve()),
        "params": str(params.resolve()) if params else None,
    }
    print(f"schedule {cron} in the time zone {schedule.timezone}", flush=True)
    deployments: list[Any] = [
        nightly.to_deployment(name="nightly", schedule=schedule, parameters=arguments, concurrency_limit=1)
    ]
    if retrain_cron:
        when = nightly_schedule(retrain_cron, timezone)
        print(f"retraining {retrain_cron} in the time zone {when.timezone}", flush=True)
        deployments.append(
            retrain.to_deployment(
                name="retrain", schedule=when, parameters={"params": arguments["params"]}, concurrency_limit=1
            )
        )
    serve(*deployments, pause_on_shutdown=False, print_starting_message=True)


def nightly_schedule(cron: str, timezone: str | None) -> Schedule:
    """The schedule of the deployment. Without a zone, Prefect would count in UTC. Raises UserError."""
    zone = timezone or tzlocal.get_localzone_name()
    if zone not in zoneinfo.available_timezones():
        raise UserError(f"--timezone {zone!r} is not an IANA name; expected one like Europe/Berlin or America/New_York")
    try:
        return Cron(cron, timezone=zone)
    except ValueError as error:
        raise UserError(f"--cron {cron!r}: {error}; expected five fields like '0 20 * * *'") from None


@flow(name="nightly", flow_run_name="nightly {folder}", log_prints=True)
def nightly(folder: str, out: str, params: str | None = None) -> dict[str, str]:
    """Produce the new manifests of a folder, one batch after the other. Returns manifest -> how its batch ended.

    Only a manifest's own fault finishes it without its clips. If a disk, a service or a model is not ready, if the
    time window closes, or if somebody stops the batch, this manifest and the remaining ones wait for the next time. A
    batch that breaks off, or in which clip after clip fails alike, may be the fault of either: the manifest is tried
    again the next times, MAX_TRIES in all, and a second such batch in a row ends the night. A manifest that is given
    up gets a note in the folder `failed` beside it. Raises UserError if the parameters cannot be read.
    """
    home, inbox = Home.default(), Path(folder)
    loaded = load_params(Path(params) if params else None)
    with failures_notified(loaded.produce.notify, f"nightly {inbox}"):  # such as an inbox that is not mounted
        manifests = new_manifests(inbox, home)
    ended: dict[str, str] = {}
    is_suspect = False  # whether the batch before broke off, or failed clip after clip
    for manifest in manifests:
        # The record is named after the content that is read now, so a manifest that is changed meanwhile stays new.
        record = _Record.read(manifest, home)
        if record is None:  # it was moved away
            continue
        batch = produce_manifest(manifest, f"{out}/{_results_name(manifest)}", loaded, home)
        print(f"{manifest.name}: {batch.how}")
        ended[manifest.name] = batch.how
        if batch.end == "waits":
            break
        tries = record.tries + 1
        is_given_up = batch.end == "refused" or (batch.end == "suspect" and tries >= MAX_TRIES)
        record.write(tries, batch.how, is_finished=is_given_up or batch.end == "made")
        _write_note(inbox, manifest, batch.how if is_given_up else "")
        if batch.end == "suspect" and is_suspect:
            break
        is_suspect = batch.end == "suspect"
    return ended


@dataclass(frozen=True)
class _BatchEnd:
    """How the batch of a manifest ended, as text for a person, and what that means for the manifest.

    made: its clips are made or have their rows; refused: the manifest is at fault; waits: something else is not ready,
    or the batch stopped; suspect: it broke off, clip after clip failed alike, or not one clip could be made, which may
    mean that the disk of the recordings is away.
    """

    how: str
    end: Literal["made", "refused", "waits", "suspect"]


def produce_manifest(manifest: Path, out: str, params: Params, home: Home) -> _BatchEnd:
    """Produce one manifest. No error leaves this function, because the others must be produced all the same."""
    try:
        with failures_notified(params.produce.notify, manifest.stem):
            end = produce(manifest, out, params, home).end
    except Unavailable as error:
        return _BatchEnd(f"could not start: {error}", "waits")
    except UserError as error:
        return _BatchEnd(f"refused: {error}", "refused")
    except Exception as error:
        how = f"broke off: {type(error).__name__}: {error}"
        return _BatchEnd(how, "waits" if shared_fault(error) else "suspect")
    if end.stopped_by_breaker or end.count("failed") == len(end.results):
        return _BatchEnd(end.summary(), "suspect")
    return _BatchEnd(end.summary(), "waits" if end.stopped else "made")


def new_manifests(folder: Path, home: Home) -> list[Path]:
    """Manifests that are not finished, oldest first. A manifest that was changed since then is new."""
    manifests = [path for path in folder.iterdir() if _is_manifest(path)]
    records = [record for path in manifests if (record := _Record.read(path, home)) is not None]
    unfinished = [record.manifest for record in records if not record.is_finished]
    return sorted(unfinished, key=lambda path: (path.stat().st_mtime, path.name))


@dataclass(frozen=True)
class _Record:
    """What the home remembers of a manifest, with its present content."""

    path: Path
    manifest: Path
    tries: int = 0
    is_finished: bool = False

    @classmethod
    def read(cls, manifest: Path, home: Home) -> _Record | None:
        """None for a manifest that cannot be read; the reason is printed."""
        try:
            key = digest(str(manifest.resolve()), file_digest(manifest))
        except OSError as error:
            print(f"note: {manifest} cannot be read: {error.strerror}")
            return None
        path = home.root / "taken" / f"{key}.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return cls(path, manifest)
        # Records of older versions have neither key; they were written for finished manifests only.
        return cls(path, manifest, values.get("tries", 1), values.get("is_finished", True))

    def write(self, tries: int, how: str, is_finished: bool) -> None:
        values = {
            "manifest": str(self.manifest),
            "ended": time.strftime("%Y-%m-%dT%H:%M:%S"),
            "how": how,
            "tries": tries,
            "is_finished": is_finished,
        }
        try:
            write_atomic(self.path, json.dumps(values).encode())
        except OSError as error:  # then the manifest is produced again, and its clips are found
            print(f"note: {self.path} could not be written: {error.strerror}")


def _is_manifest(path: Path) -> bool:
    return path.suffix.lower() in _MANIFEST_SUFFIXES and path.is_file() and not path.name.startswith(".")


def _results_name(manifest: Path) -> str:
    """Name of the folder of a manifest's results. Two manifests that differ in their endings only get two folders."""
    alike = [path for path in manifest.parent.glob(f"{glob.escape(manifest.stem)}.*") if _is_manifest(path)]
    return manifest.stem if len(alike) < 2 else manifest.name.replace(".", "-")


def _write_note(inbox: Path, manifest: Path, how: str) -> None:
    """Write why a manifest was given up, or remove an older note if `how` is empty. The inbox may be read-only."""
    note = inbox / "failed" / f"{manifest.name}.txt"
    try:
        if how:
            text = f"{time.strftime('%Y-%m-%d %H:%M')} {how}\n\nIt is not tried again until its content changes.\n"
            write_atomic(note, text.encode())
        else:
            note.unlink(missing_ok=True)
    except OSError as error:
        print(f"note: {note} could not be written: {error.strerror}")
