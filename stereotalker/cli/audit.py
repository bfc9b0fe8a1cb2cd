"""Commands that follow clips back to their origins, approve them, and forget people."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from stereotalker.cli.options import ParamsFile
from stereotalker.errors import UserError
from stereotalker.params import load_params
from stereotalker.runtime.home import Home


def audit(
    file: Annotated[Path | None, typer.Argument(help="a video")] = None,
    clip: Annotated[str | None, typer.Option(help="instead of a file: id of a delivered clip")] = None,
    consent: Annotated[str | None, typer.Option(help="list the clips of this holder of a consent")] = None,
    release: Annotated[int | None, typer.Option(help="list the clips of this release")] = None,
    data: Annotated[
        str | None, typer.Option(help="list the clips of releases trained on this DVC digest or commit")
    ] = (None),
    avatar: Annotated[str | None, typer.Option(help="list the clips of this avatar or portrait")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    html: Annotated[Path | None, typer.Option(help="write a page for people to this file")] = None,
    params: ParamsFile = None,
) -> None:
    """Follow a video back to sound, consent, models and data; or list the clips that something went into.

    Exit status: 0 the chain is whole; 1 a link is broken; 2 it is not ours, or there is nothing to look at.
    """
    from stereotalker.tasks.audit import Auditor, chain_text

    questions = [value for value in (file, clip, consent, release, data, avatar) if value is not None]
    if len(questions) != 1:
        raise UserError("give one of FILE, --clip, --consent, --release, --data and --avatar")
    home, rules = Home.default(), load_params(params).releases
    auditor = Auditor(home, rules)
    if file is not None or clip is not None:
        found = auditor.of_file(file) if file is not None else auditor.of_clip(clip or "")
        if html is not None:
            if not found.record:
                raise UserError(f"{found.file}: without its record there is nothing to write a page of")
            try:
                html.write_text(_page(found), encoding="utf-8")
            except OSError as error:
                raise UserError(f"--html {html} cannot be written: {error.strerror}") from None
        print(found.to_json() if as_json else "\n".join(chain_text(found)))
        raise typer.Exit(0 if found.is_whole else 1)
    if html is not None:
        raise UserError("--html is the page of one video; give FILE or --clip")
    clips = _clips(auditor, home, rules, consent, release, data, avatar)
    if as_json:
        print(json.dumps([asdict(row) for row in clips], indent=1))
    else:
        for row in clips:
            print(f"{row.when}  release {row.release or 'none':4} {row.clip}  {row.file}")
        print(f"{len(clips)} clips")


def approve(
    file: Annotated[Path, typer.Argument(help="a delivered video, with its record beside it")],
    because: Annotated[str, typer.Option(help="what you looked at, for the record")],
) -> None:
    """Write into a video's record, and into MLflow, that you looked at it and approve it."""
    from stereotalker.tasks.audit import approve as run

    print(f"approved by {run(file, because, Home.default())['who']}")


def forget(
    avatar: Annotated[str, typer.Argument(help="one of your own avatars")],
    params: ParamsFile = None,
) -> None:
    """Remove an avatar with its portrait's fit, frames and videos, and write a receipt. Records of clips stay.

    Exit status: 0 all is removed; 1 something could not be removed, and the receipt names it.
    """
    from stereotalker.store.remote import open_store
    from stereotalker.tasks.forget import forget as run

    home = Home.default()
    store = open_store(load_params(params).produce.store or str(home.store), home.store)
    receipt, path = run(avatar, home, store)
    print(f"{len(receipt.removed)} things of {len(receipt.clips)} clips are removed; receipt {path}")
    for line in receipt.not_removed:
        print(f"not removed: {line}")
    raise typer.Exit(1 if receipt.not_removed else 0)


def _clips(auditor, home, rules, consent, release, data, avatar):
    """The clips that one of the questions asks for."""
    from stereotalker.tasks.registry import Registry

    if consent is not None:
        return auditor.clips(consent=consent)
    if avatar is not None:
        return auditor.clips(avatar=avatar)
    if release is not None:
        return auditor.clips(release_number=str(Registry(home, rules).find(release).number))
    return [row for registered in auditor.releases_of_data(data) for row in auditor.clips(release=registered.digest)]


def _page(found) -> str:
    from datetime import datetime

    from jinja2 import Environment, PackageLoader

    from stereotalker.production.clip_record import people_of

    template = Environment(loader=PackageLoader("stereotalker", "assets"), autoescape=True).get_template(
        "audit.html.j2"
    )
    return template.render(
        audit=found,
        made_when=found.record["delivered"]["when"],
        broken=[link.name for link in found.links if link.state == "broken"],
        unchecked=[link.name for link in found.links if link.state == "not checked"],
        people=people_of(found.record["made"]),
        now=datetime.now().isoformat(timespec="seconds"),
    )
