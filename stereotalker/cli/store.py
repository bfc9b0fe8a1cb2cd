"""Commands that show and clear the store."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from stereotalker.cli.options import ParamsFile
from stereotalker.errors import UserError
from stereotalker.params import load_params
from stereotalker.runtime.home import Home
from stereotalker.store.local import Store
from stereotalker.store.remote import RemoteStore, open_store

app = typer.Typer(no_args_is_help=True, help="What finished stages take on the disk, and how to clear it.")
_AGE = re.compile(r"(\d+(?:\.\d+)?)([dw])")  # such as 30d or 2w


@app.command()
def du(params: ParamsFile = None) -> None:
    """Show how many entries each stage has in the store, and what they take."""
    from stereotalker.production.retention import usage

    store = _local_store(params)
    stages = usage(store)
    for stage, used in stages.items():
        print(f"{stage:12} {used.entries:8} entries {used.bytes / 1e6:12.1f} MB")
    total = sum(used.bytes for used in stages.values())
    print(f"{'in all':12} {sum(u.entries for u in stages.values()):8} entries {total / 1e6:12.1f} MB in {store}")


@app.command()
def gc(
    keep: Annotated[
        str | None, typer.Option(help="age since the last use, like 30d or 8w; default: produce.keep_days")
    ] = None,
    needed_by: Annotated[
        list[Path] | None, typer.Option(help="a manifest whose entries are kept, however old; may be repeated")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be removed")] = False,
    params: ParamsFile = None,
) -> None:
    """Remove entries that nothing has used for some time. A running batch's store is not touched.

    With a shared store, only the copies on this machine are removed.
    """
    from stereotalker.avatar.library import Library
    from stereotalker.media.content_credentials import needs_local_signer, open_signer
    from stereotalker.models import Models
    from stereotalker.production.clip_stages import ClipMaker
    from stereotalker.production.manifest import read_manifest
    from stereotalker.production.retention import collect
    from stereotalker.tasks.registry import resolve

    loaded, home = load_params(params), Home.default()
    has_signer = home.credentials.is_dir() or not needs_local_signer(loaded.provenance)
    signer = open_signer(loaded.provenance, home.credentials) if has_signer else None
    store = _local_store(params)
    source = resolve(home, loaded.releases)
    models = Models(loaded, source.folder, source.release, source.number, source.store)
    maker = ClipMaker(models, store, signer, Library(home.avatars))
    manifests = [read_manifest(path) for path in needed_by or ()]
    days = _days(keep) if keep else loaded.produce.keep_days
    removed = collect(store, days, manifests, maker, dry_run)
    print(
        f"{'would remove' if dry_run else 'removed'} {removed.entries} entries, {removed.bytes / 1e6:.1f} MB, "
        f"not used for {days:g} days"
    )


def _local_store(params: Path | None) -> Store:
    """The store, or that of the local copies of a shared one."""
    home = Home.default()
    store = open_store(load_params(params).produce.store or str(home.store), home.store)
    return store.local if isinstance(store, RemoteStore) else store


def _days(text: str) -> float:
    match = _AGE.fullmatch(text)
    if not match:
        raise UserError(f"--keep {text!r}; expected an age in days or weeks, like 30d or 8w")
    return float(match[1]) * (7 if match[2] == "w" else 1)
