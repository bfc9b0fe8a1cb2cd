"""Commands of releases: the sets of weights that production can use, and which of them it uses."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from stereotalker.cli.options import ParamsFile
from stereotalker.errors import UserError
from stereotalker.params import load_params
from stereotalker.runtime.home import Home

app = typer.Typer(no_args_is_help=True, help="Releases: the weights that production uses, and who decided it.")
Number = Annotated[int, typer.Argument(help="number of a release; 0 is the package")]
Reason = Annotated[str, typer.Option("--because", help="why, for the ledger")]


@app.command("list")
def list_releases(params: ParamsFile = None) -> None:
    """List all releases. The champion is the one that production uses."""
    registry = _registry(params)
    champion, challenger, previous = registry.champion(), registry.challenger(), registry.previous()
    for registered in registry.all():
        roles = {"champion": champion, "challenger": challenger, "previous": None if previous == champion else previous}
        named = ", ".join(name for name, role in roles.items() if role == registered)
        release = registry.manifest(registered)
        origin = f"{release.made[:16]}, commit {release.commit[:7]}" if release.made else "the package"
        print(f"{registered.number:4}  {registered.digest[:12]}  {origin:34}  {registry.state(registered):14}  {named}")


@app.command()
def show(
    number: Number,
    cards: Annotated[bool, typer.Option("--cards", help="its model card and its data card instead")] = False,
    params: ParamsFile = None,
) -> None:
    """Show what a release consists of, and what became of it."""
    registry = _registry(params)
    registered = registry.find(number)
    if cards:
        print("\n".join(registry.cards(registered)))
        return
    release = registry.manifest(registered)
    print(f"{registered.digest}\nmade     {release.made or 'with the package'}\ncommit   {release.commit or 'none'}")
    print(f"code     {release.code}\nlock     {release.lock or 'none'}")
    for name, sha256 in release.files.items():
        print(f"file     {name:20} {sha256}")
    for stage, run in release.runs.items():
        print(f"run      {stage:20} {run}")
    for name, md5 in release.data.items():
        print(f"data     {name:20} {md5}")
    for source in release.sources:
        print(f"source   {source.source}: {source.licence} ({source.use})")
    for entry in registry.ledger.entries():
        if entry.release == registered.digest:
            print(
                f"ledger   {entry.when} {entry.action} by {entry.who}{': ' * bool(entry.why or entry.batch)}"
                + ", ".join(part for part in (entry.why, entry.batch) if part)
            )


@app.command()
def compare(first: Number, second: Number, params: ParamsFile = None) -> None:
    """Say in which files, parameters, libraries and data two releases differ."""
    registry = _registry(params)
    ours, theirs = (registry.manifest(registry.find(number)) for number in (first, second))
    count = 0
    for part in ("files", "libraries", "data", "params"):
        before, after = (_flat(getattr(release, part)) for release in (ours, theirs))
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                print(f"{part:10} {name}: {_short(before.get(name))} -> {_short(after.get(name))}")
                count += 1
    for part in ("code", "lock", "commit"):
        if getattr(ours, part) != getattr(theirs, part):
            print(f"{part:10} {_short(getattr(ours, part))} -> {_short(getattr(theirs, part))}")
            count += 1
    if not count:
        print("they do not differ")


@app.command()
def judge(number: Number) -> None:
    """Judge a release again, against the champion and by the gates that the checkout has committed now.

    Exit status: 0 it is the champion now; 1 it is not.
    """
    from stereotalker.flows.retrain import run_judgement
    from stereotalker.tasks.server import ensure_server

    ensure_server(Home.default())
    raise typer.Exit(0 if run_judgement(number) else 1)


@app.command()
def promote(
    number: Number,
    because: Reason = "by hand",
    anyway: Annotated[bool, typer.Option("--anyway", help="also if it was refused, or never judged")] = False,
    params: ParamsFile = None,
) -> None:
    """Make a release the champion. Batches that begin from now on use it."""
    registry = _registry(params)
    registered = registry.find(number)
    if not anyway and (state := registry.state(registered)) in ("refused", "registered"):
        raise UserError(
            f"{registered} was {'refused by the gates' if state == 'refused' else 'never judged'}; see "
            f"`stereotalker models show {number} --cards`, and say `--anyway` to promote it"
        )
    registry.promote(registered, because)
    print(f"{registered} is the champion")


@app.command()
def rollback(
    to: Annotated[int | None, typer.Option(help="number of a release; default: the champion before")] = None,
    because: Reason = "by hand",
    params: ParamsFile = None,
) -> None:
    """Make the release that was the champion before, or another one, the champion again."""
    registry = _registry(params)
    print(f"{registry.roll_back(None if to is None else registry.find(to), because)} is the champion")


@app.command()
def sign(number: Number, params: ParamsFile = None) -> None:
    """Sign a release again, such as with the studio's new key (releases.key in params.yaml)."""
    registry = _registry(params)
    registered = registry.find(number)
    registry.sign(registered)
    print(f"{registered} is signed")


@app.command()
def verify(
    number: Annotated[int | None, typer.Argument(help="number of a release; default: all, and the ledger")] = None,
    params: ParamsFile = None,
) -> None:
    """Check files and signatures of releases, and the chain of the ledger with its mirror in MLflow.

    Exit status: 0 all is well; 1 something is wrong.
    """
    registry = _registry(params)
    chosen = registry.all() if number is None else [registry.find(number)]
    faults = [fault for registered in chosen for fault in registry.faults(registered)]
    if number is None:
        faults += registry.ledger_faults()
    lines = len(registry.ledger.lines()) if number is None else 0
    well = f"{'1 release is' if len(chosen) == 1 else f'{len(chosen)} releases are'} as made"
    print("\n".join(faults) if faults else well + (f", and so is the ledger ({lines} lines)" if number is None else ""))
    raise typer.Exit(1 if faults else 0)


@app.command()
def public(params: ParamsFile = None) -> None:
    """List the public weights that params.yaml names: whether they are here, their size and their licence."""
    from stereotalker.models import PUBLIC_SETTINGS
    from stereotalker.motion.language_prior import minilm_folder
    from stereotalker.store.public_models import MINILM, NO_MODEL, describe

    loaded = load_params(params)
    for stage, setting in PUBLIC_SETTINGS.items():
        source = getattr(getattr(loaded, stage), setting)
        name = f"{stage}.{setting}"
        if source in (None, NO_MODEL):
            print(f"{name:22} none")
            continue
        model = describe(str(minilm_folder()) if source == MINILM else source, name)
        where = f"{model.bytes / 1e6:.1f} MB at {model.folder}" if model.folder else "not on this machine"
        print(
            f"{name:22} {source}  {where}  {'Apache-2.0' if source == MINILM else model.licence or 'licence unknown'}"
        )


def _registry(params):
    from stereotalker.tasks.registry import Registry

    return Registry(Home.default(), load_params(params).releases)


def _flat(values: dict, prefix: str = "") -> dict[str, object]:
    """Every value of nested dicts by its dotted name."""
    result: dict[str, object] = {}
    for name, value in values.items():
        result |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return result


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:60] or "none"
