"""The command line. The only file of the library that calls flows and tasks, and only when a command asks for them."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer
import yaml

from stereotalker.errors import UserError
from stereotalker.home import Home
from stereotalker.manifest import read_manifest
from stereotalker.params import Params, load_params
from stereotalker.store import digest

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Overnight batches of talking-human video.", pretty_exceptions_enable=False)

Workers = Annotated[Optional[int], typer.Option(help="Ray actors that render; default: produce.workers of params.yaml")]  # noqa: UP045
Threads = Annotated[Optional[int], typer.Option(help="threads of every worker; default: produce.threads")]  # noqa: UP045
ParamsFile = Annotated[Optional[Path], typer.Option("--params", help="another params.yaml")]  # noqa: UP045
Executor = Annotated[Literal["ray", "inline"], typer.Option(help="inline: without Ray and Prefect, for tests and debugging")]


@app.command()
def produce(
    batch: Annotated[Optional[Path], typer.Argument(help="manifest: .yaml, .jsonl or .csv")] = None,  # noqa: UP045
    out: Annotated[Path, typer.Option(help="folder for the videos and the report")] = Path("out"),
    avatar: Annotated[Optional[str], typer.Option(help="one clip: the avatar's name")] = None,  # noqa: UP045
    audio: Annotated[Optional[Path], typer.Option(help="one clip: a file with speech")] = None,  # noqa: UP045
    script: Annotated[Optional[str], typer.Option(help="one clip: words to speak")] = None,  # noqa: UP045
    executor: Executor = "ray",
    workers: Workers = None,
    threads: Threads = None,
    params: ParamsFile = None,
) -> None:
    """Render a batch, or one clip with --avatar and --audio or --script. Exit status: 0 all done, 1 some clips failed, 2 nothing could start."""
    own = _with_workers(load_params(params), workers, threads)
    home = Home.default()
    if batch is not None and (avatar or audio or script):
        raise UserError("give a manifest, or --avatar with --audio or --script, not both")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; expected a folder, new or old")
    manifest = _one_clip(out, avatar, audio, script) if batch is None else batch
    read_manifest(manifest)  # a typo is told before any server starts
    if executor == "ray":
        from tasks.server import ensure_server

        ensure_server(home)
    from flows.produce import produce as run

    done = run(manifest, out, own, home, executor)
    for result in done.results:
        print(f"{'ok    ' if result.ok else 'FAILED'} {result.id}: {out / result.video if result.ok else result.error}")
    print(f"{len(done.results) - done.failed} of {len(done.results)} clips in {done.wall_seconds:.1f} s")
    print(f"videos  {out / 'clips'}\nreport  {done.report}\nrecords {home.tracking_uri} (run {done.run}; see them with `stereotalker ui`)")
    raise typer.Exit(1 if done.failed else 0)


@app.command()
def stage(name: Annotated[str, typer.Argument(help="a stage of dvc.yaml")], params: ParamsFile = None) -> None:
    """Run one stage of the data and training pipeline, as `dvc repro` does, with its curves in MLflow."""
    from tasks.train import run_stage

    run_stage(name, load_params(params), Home.default())


@app.command()
def retrain() -> None:
    """Bring data, weights and evaluation up to date (`dvc repro`), register the weights, promote them if the gates hold."""
    from tasks.server import ensure_server

    ensure_server(Home.default())
    from flows.retrain import retrain as run

    raise typer.Exit(1 if run(load_params(), Home.default()) else 0)


@app.command()
def ui(stop: Annotated[bool, typer.Option("--stop", help="stop Prefect's server instead")] = False) -> None:
    """Open Prefect's and MLflow's own pages on this workplace's records; Ctrl-C closes MLflow's."""
    from tasks.server import ensure_server, stop_server

    home = Home.default()
    if stop:
        print("Prefect's server is stopped" if stop_server(home) else "no server of this home is running")
        return
    from tasks.tracking import open_ui

    prefect = ensure_server(home).removesuffix("/api")
    with open_ui(home) as mlflow:
        print(f"Prefect {prefect}\nMLflow  {mlflow.url}\nCtrl-C ends")
        if sys.stdout.isatty():
            webbrowser.open(prefect)
            webbrowser.open(mlflow.url)
        mlflow.wait()


@app.command()
def doctor() -> None:
    """Say what is installed, missing and usable on this machine. Exit status 1 when production cannot run."""
    from stereotalker.doctor import examine

    findings = examine()
    for finding in findings:
        print(f"{finding.mark:8} {finding.what:24} {finding.detail}")
    raise typer.Exit(any(finding.mark == "MISSING" for finding in findings))


def main() -> None:
    """Entry point: a user's fault is one line a fault and exit status 2, our own a traceback."""
    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def _with_workers(params: Params, workers: int | None, threads: int | None) -> Params:
    changed = {name: value for name, value in (("workers", workers), ("threads", threads)) if value is not None}
    if any(value < 1 for value in changed.values()):
        raise UserError(f"--workers and --threads must be at least 1, got {changed}")
    return params.model_copy(update={"produce": params.produce.model_copy(update=changed)})


def _one_clip(out: Path, avatar: str | None, audio: Path | None, script: str | None) -> Path:
    """The manifest of the short form, written beside its video so that the clip can be made again."""
    if avatar is None or (audio is None) == (script is None):
        raise UserError("expected a manifest, or --avatar NAME with --audio FILE or --script TEXT")
    name = f"{Path(avatar).stem}-{audio.stem if audio else 'script-' + digest(script)[:8]}"
    safe = "".join(c if c.isalnum() and c.isascii() or c in "-_" else "-" for c in name)[:100].strip("-") or "clip"
    clip = {"id": safe, "avatar": avatar} | ({"audio": os.path.abspath(audio)} if audio else {"script": script})
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{safe}.yaml"
    path.write_text(yaml.safe_dump({"clips": [clip]}, allow_unicode=True))
    return path


if __name__ == "__main__":
    main()
