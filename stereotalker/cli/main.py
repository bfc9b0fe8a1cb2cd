"""The command `stereotalker`: the list of its commands, and its entry point.

Commands import heavy packages, and the flows and tasks, inside their functions, so that `stereotalker --help` is quick.
No other package of the library may call flows and tasks.
"""

from __future__ import annotations

import sys
import webbrowser
from typing import Annotated

import typer

from stereotalker.cli import audit, avatars, motion, pipeline, produce, releases, store
from stereotalker.errors import UserError
from stereotalker.runtime.home import Home

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Overnight batches of talking-human video.",
    pretty_exceptions_enable=False,
)


def ui(stop: Annotated[bool, typer.Option("--stop", help="stop Prefect's server instead")] = False) -> None:
    """Open Prefect's and MLflow's own pages on this home's records; Ctrl-C closes MLflow's."""
    from stereotalker.tasks.server import ensure_server, stop_server

    home = Home.default()
    if stop:
        print("Prefect's server is stopped" if stop_server(home) else "no server of this home is running")
        return
    from stereotalker.tasks.tracking import open_ui

    prefect = ensure_server(home).removesuffix("/api")
    with open_ui(home) as mlflow:
        print(f"Prefect {prefect}\nMLflow  {mlflow.url}\nCtrl-C ends")
        if sys.stdout.isatty():
            webbrowser.open(prefect)
            webbrowser.open(mlflow.url)
        mlflow.wait()


def doctor() -> None:
    """Say what is installed, missing and usable on this machine. Exit status 1 when production cannot run."""
    from stereotalker.cli.doctor import examine

    findings = examine()
    for finding in findings:
        print(f"{finding.mark:8} {finding.what:24} {finding.detail}")
    raise typer.Exit(any(finding.mark == "MISSING" for finding in findings))


COMMANDS = (
    produce.produce,
    produce.pause,
    produce.resume,
    produce.cancel,
    produce.serve,
    produce.verify,
    audit.audit,
    audit.approve,
    audit.forget,
    pipeline.stage,
    motion.motion,
    pipeline.evaluate,
    pipeline.retrain,
    ui,
    doctor,
)
for _command in COMMANDS:
    app.command()(_command)
app.add_typer(avatars.app, name="avatar")
app.add_typer(pipeline.dataset, name="dataset")
app.add_typer(releases.app, name="models")
app.add_typer(store.app, name="store")


def main() -> None:
    """Run the command line. A UserError is printed without a traceback, and the exit status is 2."""
    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
