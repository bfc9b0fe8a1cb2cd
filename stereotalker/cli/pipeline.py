"""Commands of the data and training pipeline: its stages, evaluation, retraining, and the data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from stereotalker.cli.options import ParamsFile
from stereotalker.params import load_params
from stereotalker.runtime.home import Home

dataset = typer.Typer(no_args_is_help=True, help="The training data: its data card, and footage of your own.")


def stage(name: Annotated[str, typer.Argument(help="a stage of dvc.yaml")], params: ParamsFile = None) -> None:
    """Run one stage of the data and training pipeline, as `dvc repro` does, with its curves in MLflow."""
    from stereotalker.tasks.train import run_stage

    run_stage(name, load_params(params), Home.default())


def evaluate(
    part: Annotated[
        Literal["motion", "render", "avatar", "portraits", "all"],
        typer.Argument(
            metavar="what",
            help="motion, render: that stage alone; all: the same as the stage `evaluate`; "
            "avatar: fits of portraits; portraits: their gestures; both need the detector",
        ),
    ] = "all",
    params: ParamsFile = None,
) -> None:
    """Measure the weights on held-out data, beside baselines; writes metrics/ and an MLflow run."""
    from stereotalker.tasks.train import run_stage

    run_stage("evaluate", load_params(params), Home.default(), part)


def retrain() -> None:
    """Bring data, weights and evaluation up to date (`dvc repro`), register the weights, promote them.

    Weights are promoted only if every gate in params.yaml holds; else the exit status is 1.
    """
    from stereotalker.tasks.server import ensure_server

    ensure_server(Home.default())
    from stereotalker.flows.retrain import retrain as run

    raise typer.Exit(1 if run(load_params(), Home.default()) else 0)


@dataset.command()
def ingest(
    folder: Annotated[
        Path, typer.Argument(help="talking videos, with transcripts.csv (file, text) or NAME.txt where there is a text")
    ],
    consent: Annotated[
        str, typer.Option(help="whose permission covers the people in them, and for what; kept with every shot")
    ],
    out: Annotated[Path, typer.Option(help="folder for the shards and rejected.jsonl")] = Path("data/footage"),
    params: ParamsFile = None,
) -> None:
    """Turn talking videos into shards: shots, sound, words and phonemes, faces.

    Exit status: 0 all videos were used; 1 some were refused; 2 there was nothing to read.
    """
    from stereotalker.dataset.ingest import ingest as run

    done = run(folder, out, consent, load_params(params).audio.loudness)
    print(
        f"{done.shots} shots, {done.seconds:.1f} s, in {len(done.shards)} shards at {out}; "
        f"{len(done.rejected)} refused (rejected.jsonl says why)"
    )
    raise typer.Exit(1 if done.rejected else 0)


@dataset.command()
def card(
    out: Annotated[Path, typer.Option(help="folder for card.md and its pictures")] = Path("metrics/people"),
    data: Annotated[Path, typer.Option(help="folder of the stages `speech` and `people`")] = Path("data"),
    params: ParamsFile = None,
) -> None:
    """Count what the data set holds and draw its contact sheets, as the stage `people` does at its end."""
    from stereotalker.dataset.card import write_card
    from stereotalker.models import read_body

    all_params = load_params(params)
    figures = write_card(out, data / "people", data / "speech", read_body(all_params.body), all_params.people)
    print(
        f"{sum(figures.identities.values())} identities, {figures.frames} frames, {figures.video_hours:.2f} h, "
        f"{figures.gigabytes:.2f} GB: {out / 'card.md'}"
    )
