"""The command line. The only file of the library that calls flows and tasks, and only when a command asks for them."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer
import yaml

from stereotalker.acting.reference_acting import STYLE_INDEX
from stereotalker.avatar.names import safe_id
from stereotalker.errors import UserError
from stereotalker.media.photos import is_picture
from stereotalker.params import load_params
from stereotalker.production.manifest import consent_of, emotion_key, read_manifest, single_clip
from stereotalker.production.outputs import Outputs
from stereotalker.runtime.home import Home
from stereotalker.store.digests import digest
from stereotalker.store.urls import is_url

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Overnight batches of talking-human video.",
    pretty_exceptions_enable=False,
)

ParamsFile = Annotated[Optional[Path], typer.Option("--params", help="another params.yaml")]  # noqa: UP045
Executor = Annotated[
    Literal["ray", "inline"], typer.Option(help="inline: without Ray and Prefect, for tests and debugging")
]

ConsentHolder = Annotated[str | None, typer.Option(help="of a portrait: whose face it is, or who may speak for them")]  # noqa: UP045
ConsentScope = Annotated[Optional[str], typer.Option(help="of a portrait: what it may be used for")]  # noqa: UP045
ConsentExpires = Annotated[
    str | None, typer.Option(help="of a portrait: the last day, like 2027-12-31; left out: none")
]  # noqa: UP045


def _override(kind, text: str, *names: str):
    """An option that overrides a number of params.yaml's `produce` for this batch."""
    return Annotated[Optional[kind], typer.Option(*names, help=text, show_default=False)]  # noqa: UP045


@app.command()
def produce(
    batch: Annotated[Optional[Path], typer.Argument(help="manifest: .yaml, .jsonl or .csv")] = None,  # noqa: UP045
    out: Annotated[str, typer.Option(help="folder or URL (s3://bucket/night) for the videos and the report")] = "out",
    avatar: Annotated[Optional[str], typer.Option(help="one clip: the avatar's name, or a portrait's file")] = None,  # noqa: UP045
    audio: Annotated[Optional[Path], typer.Option(help="one clip: a file with speech")] = None,  # noqa: UP045
    script: Annotated[Optional[str], typer.Option(help="one clip: words to speak")] = None,  # noqa: UP045
    background: Annotated[
        str | None, typer.Option(help="one clip: portrait, blur, transparent, #rrggbb or a picture's file")
    ] = None,  # noqa: UP045
    consent_holder: ConsentHolder = None,
    consent_scope: ConsentScope = None,
    consent_expires: ConsentExpires = None,
    executor: Executor = "ray",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="look at everything, print the plan, make nothing")
    ] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="only the clips that the last run in --out did not make well")
    ] = False,
    workers: _override(int, "Ray actors that render, at most") = None,
    threads: _override(int, "threads of every worker") = None,
    gpus: _override(float, "GPUs of every worker; fractions are allowed") = None,
    ray_address: _override(str, "a running Ray cluster instead of a local one") = None,
    store: _override(str, "folder or URL of the store that all workers reach") = None,
    start: _override(str, "local time before which nothing begins, like 20:00") = None,
    stop: _override(str, "local time at which the batch stops, like 06:30") = None,
    budget: _override(float, "worker-hours after which the batch stops") = None,
    previews: _override(int, "px of the smaller side: the whole batch small, before the first full clip") = None,
    notify: Annotated[
        list[str] | None, typer.Option(help="Apprise URL or Prefect block told at the end; more than one allowed")
    ] = None,  # noqa: UP045
    params: ParamsFile = None,
) -> None:
    """Render a batch, or one clip with --avatar and --audio or --script.

    Exit status: 0 every clip made and passed; 1 some failed; 2 nothing could start; 3 stopped before the end; 4 some want a look.
    """
    window = {"start": start, "stop": stop}
    worker = {"threads": threads, "gpus": gpus, "address": ray_address}
    store = store if store is None or is_url(store) else os.path.abspath(store)
    more = {
        "workers": workers,
        "store": store,
        "budget_hours": budget,
        "previews": previews,
        "notify": notify,
        "window": window,
        "worker": worker,
    }
    own, home = load_params(params).with_produce(more), Home.default()
    if batch is not None and (avatar or audio or script):
        raise UserError("give a manifest, or --avatar with --audio or --script, not both")
    if not is_url(out) and Path(out).exists() and not Path(out).is_dir():
        raise UserError(f"--out {out} is a file; expected a folder, new or old")
    own_clip = {"background": background, "consent": consent_of(consent_holder, consent_scope, consent_expires)}
    if batch is not None and any(own_clip.values()):
        raise UserError("--background and consent belong to the short form; in a manifest they are keys of the clips")
    manifest = _one_clip(home, avatar, audio, script, own_clip) if batch is None else batch
    checked = read_manifest(manifest)  # a typo is told before any server starts
    if dry_run:
        from stereotalker.models import Models
        from stereotalker.production.preflight import prepare

        found = prepare(checked, Outputs(out), Models(own), home)
        print(found.text())
        raise typer.Exit(1 if found.faults else 0)
    if executor == "ray":
        from stereotalker.tasks.server import ensure_server

        ensure_server(home)
    from stereotalker.flows.produce import produce as run

    done = run(manifest, out, own, home, executor, only_failed=failed)
    for result in done.results:
        print(
            f"{result.shown:8} {result.id}: {'; '.join(filter(None, [result.video and f'{out}/{result.video}', result.error, *result.reasons]))}"
        )
    print(
        f"{done.end.summary()}, in {done.end.wall_seconds:.1f} s\nreport  {done.report}\nrecords {home.tracking_uri} (run {done.run}; see them with `stereotalker ui`)"
    )
    raise typer.Exit(done.end.status)


def _steering(word: str, text: str):
    def command(
        batch: Annotated[str | None, typer.Argument(help="its name; not needed when only one runs")] = None,
    ) -> None:  # noqa: UP045
        from stereotalker.tasks.server import ensure_server

        ensure_server(Home.default())
        from stereotalker.tasks.flowrun import steer

        print(f"{word}: {steer(batch, word)}")

    app.command(word, help=text)(command)


_steering("pause", "Hold a running batch: segments in work are finished, none is begun.")
_steering("resume", "Let a paused batch go on.")
_steering("cancel", "End a running batch after the segments in work; the same command makes the rest later.")


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(help="where manifests are dropped")],
    out: Annotated[str, typer.Option(help="folder or URL; every batch gets a folder of its name there")] = "out",
    cron: Annotated[str, typer.Option(help="when to look, as cron says it, local time")] = "0 20 * * *",
    params: ParamsFile = None,
) -> None:
    """Register the nightly deployment with Prefect and serve it: every manifest in the folder is produced, once."""
    from stereotalker.tasks.server import ensure_server

    ensure_server(Home.default())
    from stereotalker.flows.deployments import serve_nightly

    serve_nightly(folder, out, cron, params)


@app.command()
def verify(file: Annotated[Path, typer.Argument(help="a video")]) -> None:
    """Check a video's content credentials (C2PA). Exit status: 0 whole and marked as generated, 1 changed or not marked, 2 none there."""
    from stereotalker.media.content_credentials import verify as check

    found = check(file)
    print(
        f"state      {found.state}\nsigner     {found.signer}\nsigned     {found.signed}\nsource     {found.source_type}"
    )
    print("".join(f"{name:10} {value}\n" for name, value in sorted(found.claims.items())), end="")
    print("".join(f"fault      {fault}\n" for fault in found.faults), end="")
    raise typer.Exit(0 if found.good else 1)


@app.command()
def stage(name: Annotated[str, typer.Argument(help="a stage of dvc.yaml")], params: ParamsFile = None) -> None:
    """Run one stage of the data and training pipeline, as `dvc repro` does, with its curves in MLflow."""
    from stereotalker.tasks.train import run_stage

    run_stage(name, load_params(params), Home.default())


@app.command()
def motion(
    audio: Annotated[Optional[Path], typer.Argument(help="a file with speech")] = None,  # noqa: UP045
    script: Annotated[Optional[str], typer.Option(help="words to speak, instead of a file")] = None,  # noqa: UP045
    transcript: Annotated[
        str | None,
        typer.Option(help="what is said in the file: words then carry gestures, and lips know their sounds"),
    ] = None,  # noqa: UP045
    language: Annotated[str, typer.Option(help="of script or transcript")] = "en-us",
    out: Annotated[Path, typer.Option(help="folder for the files")] = Path("out/motion"),
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            help="npz (AMASS, SMPL-X Blender add-on), csv (Live Link Face), bvh, mp4 (a mannequin, to look at)",
        ),
    ] = "npz,csv,bvh,mp4",
    style: Annotated[str, typer.Option(help=f"a personality: {', '.join(STYLE_INDEX)}")] = "presenter",
    gesture: Annotated[float, typer.Option(help="0 still arms ... 2")] = 1.0,
    seed: Annotated[int, typer.Option(help="another one, another take")] = 0,
    fps: Annotated[float, typer.Option(help="frames a second, 5 to 60")] = 25.0,
    gaze: Annotated[str, typer.Option(help="free, or camera")] = "free",
    body: Annotated[str, typer.Option(help="moving, or still: only head and face move")] = "moving",
    emotion: Annotated[
        list[str] | None,
        typer.Option(help="neutral, happy, serious, or TIME:NAME:AMOUNT like 2.5:happy:0.6; more than one allowed"),
    ] = None,  # noqa: UP045
    start_pose: Annotated[Optional[str], typer.Option(help="rest, or an .npz whose last frame it begins in")] = None,  # noqa: UP045
    end_pose: Annotated[Optional[str], typer.Option(help="rest, or an .npz whose first frame it ends in")] = None,  # noqa: UP045
    params: ParamsFile = None,
) -> None:
    """Speech in, SMPL-X motion out, without a picture: for Blender, Unreal and others, or to look at before a night is spent."""
    keys = [emotion_key(text) for text in emotion or []]
    named = {"audio": audio, "script": script, "transcript": transcript, "start_pose": start_pose, "end_pose": end_pose}
    told = {
        "language": language,
        "style": style,
        "gesture": gesture,
        "seed": seed,
        "fps": fps,
        "gaze": gaze,
        "body": body,
        "emotion": keys,
    }
    clip = single_clip(
        audio.stem if audio else f"script-{digest(script)[:8]}",
        told | {name: value for name, value in named.items() if value is not None},
    )
    from stereotalker.models import Models
    from stereotalker.production.motion_controls import make_motion

    speech, paths = make_motion(
        clip, Models(load_params(params)), out, list(dict.fromkeys(name.strip() for name in formats.split(",")))
    )
    if transcript is not None and not speech.words:
        print(
            "note: the transcript is not what is said: words were left out, lips follow the sound alone",
            file=sys.stderr,
        )
    print("\n".join(map(str, paths)))


@app.command()
def evaluate(
    what: Annotated[
        Literal["motion", "render", "avatar", "all"],
        typer.Argument(
            help="motion, render: of that stage alone; all: as the stage `evaluate` does; avatar: portraits, which need the detector"
        ),
    ] = "all",
    params: ParamsFile = None,
) -> None:
    """Measure the weights on what they were never trained on, beside baselines; writes metrics/ and an MLflow run."""
    from stereotalker.tasks.train import run_stage

    run_stage("evaluate", load_params(params), Home.default(), what)


avatars = typer.Typer(no_args_is_help=True, help="Portraits that speak: fit, list, show, remove.")
app.add_typer(avatars, name="avatar")
Name = Annotated[str, typer.Argument(help="the avatar's name")]


@avatars.command("add")
def avatar_add(
    portrait: Annotated[
        Path, typer.Argument(help="a picture of one person from the front, head and shoulders or more")
    ],
    name: Annotated[str, typer.Option(help="by which manifests call it")],
    consent_holder: ConsentHolder = None,
    consent_scope: ConsentScope = None,
    consent_expires: ConsentExpires = None,
    style: Annotated[str, typer.Option(help=f"how it moves: {', '.join(STYLE_INDEX)}")] = "presenter",
    landmarks: Annotated[Optional[Path], typer.Option(help="a JSON file of key points instead of the detector")] = None,  # noqa: UP045
    replace: Annotated[bool, typer.Option("--replace", help="put another picture under a name that is there")] = False,
    params: ParamsFile = None,
) -> None:
    """Make an avatar of a portrait: body, regions, clothed surface, background. The fit takes five to ten seconds; the same picture twice is free."""
    from stereotalker.avatar.library import Library
    from stereotalker.models import Models
    from stereotalker.production.avatars import AvatarRequest, add_avatar
    from stereotalker.store.remote import open_store

    own, home = load_params(params), Home.default()
    consent = consent_of(consent_holder, consent_scope, consent_expires)
    card, new = add_avatar(
        Library(home.avatars),
        name,
        portrait,
        Models(own),
        open_store(own.produce.store or str(home.store), home.store),
        AvatarRequest(consent, style, landmarks, replace),
    )
    print(
        f"{name} {'added' if new else 'was there already, unchanged'}\n{_card_text(card)}\nlook at {home.avatars / name / 'card.png'}"
    )


@avatars.command("list")
def avatar_list() -> None:
    """Every avatar: yours, then the shipped ones."""
    from stereotalker.avatar.library import Library

    library = Library(Home.default().avatars)
    for name in library.names():
        card = library.card(name)
        print(f"{name:20} {f'{card.picture}, {_consent_text(card.consent)}' if card else 'shipped, synthetic'}")


@avatars.command("show")
def avatar_show(name: Name) -> None:
    """What is known of an avatar, and where its picture is."""
    from stereotalker.avatar.library import PICTURE, Library

    library = Library(Home.default().avatars)
    card = library.card(name)
    print(
        f"{name}, shipped and synthetic: {library.find(name)}"
        if card is None
        else f"{_card_text(card)}\nlook at {library.find(name).with_name(PICTURE)}"
    )


@avatars.command("remove")
def avatar_remove(name: Name) -> None:
    """Take one of your own out of the library."""
    from stereotalker.avatar.library import Library

    Library(Home.default().avatars).remove(name)
    print(f"{name} removed from the library; its fit and the clips made of it stay in the store until that is removed")


@avatars.command("detector")
def avatar_detector(
    source: Annotated[
        Path | None, typer.Option("--from", help="a folder that holds the files; left out: fetched from Google")
    ] = None,  # noqa: UP045
    params: ParamsFile = None,
) -> None:
    """Get MediaPipe's four model files (some 20 MB, Apache-2.0), accepted only with a known SHA-256. Its wheel reports usage to Google and cannot be told not to."""
    from stereotalker.avatar.mediapipe_detector import TELEMETRY, copy_from, fetch
    from stereotalker.production.avatars import detector_folder

    print(f"note: {TELEMETRY}", file=sys.stderr)
    folder = detector_folder(load_params(params))
    made = copy_from(source, folder) if source else fetch(folder)
    print("\n".join(map(str, made)) or f"all files are in {folder}")


dataset = typer.Typer(no_args_is_help=True, help="The training data: a card of what is there, and your own footage.")
app.add_typer(dataset, name="dataset")


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
    """Turn talking videos into shards: shots, sound, words and phonemes, faces. Exit status: 0 all used, 1 some refused, 2 nothing to read."""
    from stereotalker.dataset.ingest import ingest as run

    done = run(folder, out, consent, load_params(params).audio.loudness)
    print(
        f"{done.shots} shots, {done.seconds:.1f} s, in {len(done.shards)} shards at {out}; {len(done.rejected)} refused (rejected.jsonl says why)"
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

    own = load_params(params)
    figures = write_card(out, data / "people", data / "speech", read_body(own.body), own.people)
    print(
        f"{sum(figures.identities.values())} identities, {figures.frames} frames, {figures.video_hours:.2f} h, {figures.gigabytes:.2f} GB: {out / 'card.md'}"
    )


@app.command()
def retrain() -> None:
    """Bring data, weights and evaluation up to date (`dvc repro`), register the weights, promote them if the gates hold."""
    from stereotalker.tasks.server import ensure_server

    ensure_server(Home.default())
    from stereotalker.flows.retrain import retrain as run

    raise typer.Exit(1 if run(load_params(), Home.default()) else 0)


@app.command()
def ui(stop: Annotated[bool, typer.Option("--stop", help="stop Prefect's server instead")] = False) -> None:
    """Open Prefect's and MLflow's own pages on this workplace's records; Ctrl-C closes MLflow's."""
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


@app.command()
def doctor() -> None:
    """Say what is installed, missing and usable on this machine. Exit status 1 when production cannot run."""
    from stereotalker.cli.doctor import examine

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
    except KeyboardInterrupt:
        sys.exit(130)


def _one_clip(home: Home, avatar: str | None, audio: Path | None, script: str | None, more: dict) -> Path:
    """more: background and consent, None where not said. The manifest of the short form, written to the home so that the clip can be made again."""
    if avatar is None or (audio is None) == (script is None):
        raise UserError("expected a manifest, or --avatar NAME with --audio FILE or --script TEXT")
    name = f"{Path(avatar).stem}-{audio.stem if audio else 'script-' + digest(script)[:8]}"
    safe = safe_id(name)

    def picture(name):
        return os.path.abspath(name) if name and is_picture(name) else name

    told = {
        "background": picture(more["background"]),
        "consent": more["consent"] and more["consent"].model_dump(mode="json"),
    }
    clip = (
        {"id": safe, "avatar": picture(avatar)}
        | {key: value for key, value in told.items() if value}
        | ({"audio": os.path.abspath(audio)} if audio else {"script": script})
    )
    folder = home.root / "manifests"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{safe}.yaml"
    path.write_text(yaml.safe_dump({"clips": [clip]}, allow_unicode=True))
    return path


def _card_text(card) -> str:
    from stereotalker.avatar.fit_portrait import IN_WORDS

    lines = [f"picture   {card.picture}, {card.size[1]} x {card.size[0]} px, fitted {card.made} with {card.detector}"]
    lines += [
        f"fit       {IN_WORDS[name]}: {'not seen' if value is None else f'{100 * value:.2f} %'}"
        for name, value in card.residuals.items()
    ]
    return "\n".join(
        [*lines, f"consent   {_consent_text(card.consent)}", *(f"note      {note}" for note in card.notes)]
    )


def _consent_text(consent) -> str:
    return (
        "no consent recorded"
        if consent is None
        else f"{consent.holder}, for {consent.scope}, {f'until {consent.expires}' if consent.expires else 'without end'}"
    )
