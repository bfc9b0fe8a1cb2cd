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
        Literal["motion", "render", "avatar", "portraits", "speech", "all"],
        typer.Argument(
            metavar="what",
            help="motion, render: that stage alone; all: the same as the stage `evaluate`; "
            "avatar: fits of portraits; portraits: their gestures; both need the detector; "
            "speech: recordings without a transcript, which needs the extra words-all",
        ),
    ] = "all",
    release: Annotated[int | None, typer.Option(help="number of a release; default: the champion")] = None,
    params: ParamsFile = None,
) -> None:
    """Measure the weights of a release on held-out data, beside baselines; writes metrics/ and an MLflow run.

    The stage `evaluate` measures what the trainings wrote to artifacts/.
    """
    from stereotalker.tasks.registry import resolve
    from stereotalker.tasks.train import evaluate as run

    loaded, home = load_params(params), Home.default()
    run(part, loaded, resolve(home, loaded.releases, number=release).folder, home)


def retrain(
    stages: Annotated[
        list[str] | None,
        typer.Option("--stage", help="a stage to bring up to date; default: releases.retrain; may be repeated"),
    ] = None,
    params: ParamsFile = None,
) -> None:
    """Train a challenger in a working copy, and judge it against the champion on the test set.

    Exit status: 0 it is the champion now; 1 it was refused, waits for a decision, or stays a challenger; 2 it could not
    be trained.
    """
    from stereotalker.tasks.server import ensure_server

    ensure_server(Home.default())
    from stereotalker.flows.retrain import run_retrain

    raise typer.Exit(0 if run_retrain(tuple(stages or ()), params) else 1)


@dataset.command()
def add(
    folder: Annotated[Path, typer.Argument(help="recordings, with transcripts.csv (path, speaker, lang, text)")],
    name: Annotated[str, typer.Option(help="name of the set")],
    licence: Annotated[str, typer.Option(help="under which the recordings may be used for training")],
    consent: Annotated[str, typer.Option(help="whose permission covers the speakers, and for what")],
    out: Annotated[Path, typer.Option(help="folder of all sets, see speech.added")] = Path("data/recordings"),
) -> None:
    """Add recordings to the training data, with their licence. `retrain` uses them the next time."""
    from stereotalker.dataset.recordings import add_recordings

    added = add_recordings(folder, out, name, licence, consent)
    print(f"{added.recordings} recordings of {added.speakers} speakers, {added.seconds:.0f} s, at {out / name}")


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
    from stereotalker.body.model import read_body
    from stereotalker.dataset.card import write_card

    all_params = load_params(params)
    figures = write_card(out, data / "people", data / "speech", read_body(all_params.body), all_params.people)
    print(
        f"{sum(figures.identities.values())} identities, {figures.frames} frames, {figures.video_hours:.2f} h, "
        f"{figures.gigabytes:.2f} GB: {out / 'card.md'}"
    )
