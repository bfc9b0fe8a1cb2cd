"""Commands that manage the avatar library: fit a portrait, list, show and remove avatars, get the detector's files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stereotalker.acting.reference_acting import STYLE_INDEX
from stereotalker.avatar.consent import Consent
from stereotalker.cli.options import ConsentExpires, ConsentHolder, ConsentScope, ParamsFile
from stereotalker.params import load_params
from stereotalker.production.manifest import consent_of
from stereotalker.runtime.home import Home

if TYPE_CHECKING:
    from stereotalker.avatar.library import Card

app = typer.Typer(no_args_is_help=True, help="Avatars made of portraits: fit, list, show, remove.")
AvatarName = Annotated[str, typer.Argument(help="the avatar's name")]


@app.command()
def add(
    portrait: Annotated[
        Path, typer.Argument(help="a picture of one person from the front, head and shoulders or more")
    ],
    name: Annotated[str, typer.Option(help="the name that manifests use for it")],
    consent_holder: ConsentHolder = None,
    consent_scope: ConsentScope = None,
    consent_expires: ConsentExpires = None,
    style: Annotated[str, typer.Option(help=f"how it moves: {', '.join(STYLE_INDEX)}")] = "presenter",
    landmarks: Annotated[Path | None, typer.Option(help="a JSON file of key points instead of the detector")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="replace an avatar that has this name")] = False,
    params: ParamsFile = None,
) -> None:
    """Make an avatar of a portrait: body, regions, clothed surface, background.

    The fit takes some 15 seconds on two cores; a picture that was fitted before takes no time.
    """
    from stereotalker.avatar.library import Library
    from stereotalker.models import Models
    from stereotalker.production.avatars import AvatarRequest, add_avatar
    from stereotalker.store.remote import open_store

    all_params, home = load_params(params), Home.default()
    consent = consent_of(consent_holder, consent_scope, consent_expires)
    card, is_new = add_avatar(
        Library(home.avatars),
        name,
        portrait,
        Models(all_params),
        open_store(all_params.produce.store or str(home.store), home.store),
        AvatarRequest(consent, style, landmarks, replace),
    )
    print(f"{name} {'added' if is_new else 'was there already, unchanged'}")
    print(_card_text(card))
    print(f"look at {home.avatars / name / 'card.png'}")


@app.command("list")
def list_avatars() -> None:
    """List every avatar: yours, then the shipped ones."""
    from stereotalker.avatar.library import Library

    library = Library(Home.default().avatars)
    for name in library.names():
        card = library.card(name)
        print(f"{name:20} {f'{card.picture}, {_consent_text(card.consent)}' if card else 'shipped, synthetic'}")


@app.command()
def show(name: AvatarName) -> None:
    """Print what is recorded about an avatar, and where its picture is."""
    from stereotalker.avatar.library import CARD_IMAGE_FILE, Library

    library = Library(Home.default().avatars)
    card = library.card(name)
    if card is None:
        print(f"{name}, shipped and synthetic: {library.find(name)}")
    else:
        print(f"{_card_text(card)}\nlook at {library.find(name).with_name(CARD_IMAGE_FILE)}")


@app.command()
def remove(name: AvatarName) -> None:
    """Remove one of your own avatars from the library."""
    from stereotalker.avatar.library import Library

    Library(Home.default().avatars).remove(name)
    print(f"{name} removed from the library; its fit and the clips made of it stay in the store until that is removed")


@app.command()
def withdraw(name: AvatarName) -> None:
    """Note that the consent to an avatar was withdrawn, and list the delivered clips to take down."""
    from datetime import date

    from stereotalker.avatar.library import Library
    from stereotalker.params import load_params
    from stereotalker.tasks.audit import Auditor

    home = Home.default()
    consent = Library(home.avatars).withdraw_consent(name, date.today())
    clips = Auditor(home, load_params().releases).clips(avatar=name)
    print(f"the consent of {consent.holder} is withdrawn; no clip of {name} is made any more")
    for row in clips:
        print(f"take down  {row.when}  {row.clip}  {row.file}")
    print(f"{len(clips)} delivered clips; `stereotalker forget {name}` removes what is on this machine")


@app.command()
def detector(
    source: Annotated[
        Path | None, typer.Option("--from", help="a folder that holds the files; left out: fetched from Google")
    ] = None,
    params: ParamsFile = None,
) -> None:
    """Get MediaPipe's four model files (some 20 MB, Apache-2.0); a file is accepted only if its SHA-256 is as expected.

    MediaPipe's wheel reports usage to Google, and this cannot be switched off.
    """
    from stereotalker.avatar.mediapipe_detector import TELEMETRY, copy_from, fetch
    from stereotalker.production.avatars import detector_folder

    print(f"note: {TELEMETRY}", file=sys.stderr)
    folder = detector_folder(load_params(params))
    new_files = copy_from(source, folder) if source else fetch(folder)
    print("\n".join(map(str, new_files)) or f"all files are in {folder}")


def _card_text(card: Card) -> str:
    from stereotalker.avatar.fit_portrait import RESIDUAL_LABELS

    lines = [f"picture   {card.picture}, {card.size[1]} x {card.size[0]} px, fitted {card.made} with {card.detector}"]
    for name, value in card.residuals.items():
        lines.append(f"fit       {RESIDUAL_LABELS[name]}: {'not seen' if value is None else f'{100 * value:.2f} %'}")
    lines.append(f"consent   {_consent_text(card.consent)}")
    lines += [f"note      {note}" for note in card.notes]
    return "\n".join(lines)


def _consent_text(consent: Consent | None) -> str:
    if consent is None:
        return "no consent recorded"
    return f"{consent.holder}, for {consent.scope}, {f'until {consent.expires}' if consent.expires else 'without end'}"
