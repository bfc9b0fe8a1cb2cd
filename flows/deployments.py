"""The nightly deployment: at set times, every manifest in a folder that is new is produced, once."""

from __future__ import annotations

import json
import time
from pathlib import Path

from prefect import flow
from prefect.schedules import Cron

from stereotalker.errors import UserError
from stereotalker.flows.produce import produce
from stereotalker.params import load_params
from stereotalker.runtime.home import Home
from stereotalker.store.digests import digest, file_digest
from stereotalker.store.files import write_atomic
from stereotalker.store.urls import is_url

_MANIFEST_SUFFIXES = (".yaml", ".yml", ".jsonl", ".csv")


def serve_nightly(folder: Path, out: str, cron: str, params: Path | None) -> None:
    """Register the deployment with Prefect's server and serve it until Ctrl-C.

    cron: five fields, in UTC. Raises UserError if the folder, the schedule or the parameters cannot be used.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; expected the place where manifests are dropped")
    try:
        schedule = Cron(cron, timezone=None)
    except ValueError as error:
        raise UserError(f"--cron {cron!r}: {error}; expected five fields like '0 20 * * *'") from None
    load_params(params)  # raises UserError now rather than at night
    arguments = {
        "folder": str(folder.resolve()),
        "out": out if is_url(out) else str(Path(out).resolve()),
        "params": str(params.resolve()) if params else None,
    }
    nightly.serve(
        name="nightly",
        schedule=schedule,
        parameters=arguments,
        pause_on_shutdown=False,
        print_starting_message=True,
        limit=1,
    )


@flow(name="nightly", flow_run_name="nightly {folder}", log_prints=True)
def nightly(folder: str, out: str, params: str | None = None) -> dict[str, str]:
    """Produce the new manifests of a folder, one batch after the other. Returns manifest -> how its batch ended.

    A manifest that was produced, or cannot be, is marked as finished. One whose batch stopped early is produced again
    at the next time. If it was stopped by hand, by the time window, the budget or a full disk, the remaining manifests
    wait for the next time too, because the reason holds for them as well.
    """
    home = Home.default()
    ended: dict[str, str] = {}
    for manifest in new_manifests(Path(folder), home):
        # The marker is named after the content that is read now, so a manifest that is changed meanwhile stays new.
        marker, is_unfinished, has_crashed = _marker(manifest, home), False, False
        try:
            end = produce(manifest, f"{out}/{manifest.stem}", load_params(Path(params) if params else None), home).end
            ended[manifest.name] = end.summary()
            is_unfinished = bool(end.stopped) and not end.stopped_by_breaker
        except UserError as error:
            ended[manifest.name] = f"refused: {error}"
        except Exception as error:  # the other manifests are produced all the same
            ended[manifest.name] = f"broke off: {type(error).__name__}: {error}"
            is_unfinished = has_crashed = True
        print(f"{manifest.name}: {ended[manifest.name]}")
        if not is_unfinished:
            now = time.strftime("%Y-%m-%dT%H:%M:%S")
            record = {"manifest": str(manifest), "ended": now, "how": ended[manifest.name]}
            write_atomic(marker, json.dumps(record).encode())
        elif not has_crashed:
            break
    return ended


def new_manifests(folder: Path, home: Home) -> list[Path]:
    """Manifests that are not marked as finished, oldest first. A manifest that was changed since then is new."""
    manifests = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _MANIFEST_SUFFIXES and path.is_file() and not path.name.startswith(".")
    ]
    unfinished = (path for path in manifests if not _marker(path, home).is_file())
    return sorted(unfinished, key=lambda path: (path.stat().st_mtime, path.name))


def _marker(manifest: Path, home: Home) -> Path:
    """Path of the file that marks a manifest, with its present content, as finished."""
    return home.root / "taken" / f"{digest(str(manifest.resolve()), file_digest(manifest))}.json"
