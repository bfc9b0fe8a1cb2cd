"""The nightly deployment: a folder is looked at by the clock, and every manifest in it is produced, once."""

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

_SUFFIXES = (".yaml", ".yml", ".jsonl", ".csv")


def serve_nightly(folder: Path, out: str, cron: str, params: Path | None) -> None:
    """Register with Prefect's server and stay until Ctrl-C. Raises UserError."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; expected the place where manifests are dropped")
    try:
        schedule = Cron(cron, timezone=None)
    except ValueError as error:
        raise UserError(f"--cron {cron!r}: {error}; expected five fields like '0 20 * * *'") from None
    load_params(params)
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
    """Produce what is new in the folder, one batch after the other. Returns manifest -> how it ended."""
    home, ended = Home.default(), {}
    for manifest in new_manifests(Path(folder), home):
        mark, again = _mark(manifest, home), False  # of what is read now: a manifest that is changed meanwhile is new
        try:
            end = produce(manifest, f"{out}/{manifest.stem}", load_params(Path(params) if params else None), home).end
            ended[manifest.name], again = end.summary(), bool(end.stopped) and not end.broken
        except UserError as error:
            ended[manifest.name] = f"refused: {error}"
        except Exception as error:  # one manifest never keeps the others from their night
            ended[manifest.name], again = f"broke off: {type(error).__name__}: {error}", True
        print(f"{manifest.name}: {ended[manifest.name]}")
        if not again:
            write_atomic(
                mark,
                json.dumps(
                    {
                        "manifest": str(manifest),
                        "ended": time.strftime("%Y-%m-%dT%H:%M:%S"),
                        "how": ended[manifest.name],
                    }
                ).encode(),
            )
        elif not ended[manifest.name].startswith("broke off"):
            break  # stopped by hand, window, budget or disk: that holds for the whole night, and the next one goes on
    return ended


def new_manifests(folder: Path, home: Home) -> list[Path]:
    """Manifests that no night has finished yet, oldest first; one that was changed since is new."""
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _SUFFIXES and path.is_file() and not path.name.startswith(".")
    ]
    return sorted(
        (path for path in found if not _mark(path, home).is_file()), key=lambda path: (path.stat().st_mtime, path.name)
    )


def _mark(manifest: Path, home: Home) -> Path:
    return home.root / "taken" / f"{digest(str(manifest.resolve()), file_digest(manifest))}.json"
