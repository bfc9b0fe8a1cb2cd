"""Commands that produce batches, steer running ones, serve the nightly deployment, and verify finished videos."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import typer
import yaml

from stereotalker.avatar.consent import Consent
from stereotalker.avatar.names import safe_id
from stereotalker.cli.options import ConsentExpires, ConsentHolder, ConsentScope, ParamsFile, produce_override
from stereotalker.errors import UserError
from stereotalker.media.photos import is_picture
from stereotalker.params import Params, load_params
from stereotalker.production.manifest import consent_of, read_manifest
from stereotalker.production.outputs import Outputs
from stereotalker.production.report import CLIP_STATES, Again
from stereotalker.runtime.home import Home
from stereotalker.store.digests import digest
from stereotalker.store.files import write_atomic
from stereotalker.store.urls import is_url

Executor = Annotated[
    Literal["ray", "inline"], typer.Option(help="inline: without Ray and Prefect, for tests and debugging")
]
_STATES = ", ".join(CLIP_STATES)
BatchName = Annotated[str | None, typer.Argument(help="its name; not needed when only one runs")]


def produce(
    batch: Annotated[Path | None, typer.Argument(help="manifest: .yaml, .jsonl or .csv")] = None,
    out: Annotated[str, typer.Option(help="folder or URL (s3://bucket/night) for the videos and the report")] = "out",
    avatar: Annotated[str | None, typer.Option(help="one clip: the avatar's name, or a portrait's file")] = None,
    audio: Annotated[Path | None, typer.Option(help="one clip: a file with speech")] = None,
    script: Annotated[str | None, typer.Option(help="one clip: words to speak")] = None,
    background: Annotated[
        str | None, typer.Option(help="one clip: portrait, blur, transparent, #rrggbb or a picture's file")
    ] = None,
    keys: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="one clip: any other key of a manifest, like voice=kumo or captions=files; may be repeated"
        ),
    ] = None,
    consent_holder: ConsentHolder = None,
    consent_scope: ConsentScope = None,
    consent_expires: ConsentExpires = None,
    executor: Executor = "ray",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="check everything and print the plan, without making anything")
    ] = False,
    status: Annotated[
        str | None,
        typer.Option(help="make again only clips that ended like this in the last run in --out: " + _STATES),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="the same as --status fail,failed,stopped: what did not end well")
    ] = False,
    again: Annotated[
        list[str] | None,
        typer.Option(help="make again the clip with this id, from its rendering on; may be repeated"),
    ] = None,
    workers: Annotated[
        int | None, produce_override("Ray actors that render, at most; default: as many as this machine has room for")
    ] = None,
    threads: Annotated[int | None, produce_override("threads of every worker")] = None,
    gpus: Annotated[float | None, produce_override("GPUs of every worker; fractions are allowed")] = None,
    ray_address: Annotated[str | None, produce_override("a running Ray cluster instead of a local one")] = None,
    store: Annotated[str | None, produce_override("folder or URL of the store that all workers reach")] = None,
    start: Annotated[str | None, produce_override("local time before which nothing begins, like 20:00")] = None,
    stop: Annotated[str | None, produce_override("local time at which the batch stops, like 06:30")] = None,
    budget: Annotated[float | None, produce_override("worker-hours after which the batch stops")] = None,
    previews: Annotated[
        int | None,
        produce_override("first make the whole batch small, then the full clips; px of the preview's smaller side"),
    ] = None,
    notify: Annotated[
        list[str] | None,
        typer.Option(help="Apprise URL or Prefect block that gets a message at the end; more than one allowed"),
    ] = None,
    release: Annotated[
        int | None,
        typer.Option(help="number of a release; default: that with which the batch began, or else the champion"),
    ] = None,
    params: ParamsFile = None,
) -> None:
    """Render a batch, or one clip with --avatar and --audio or --script.

    Exit status: 0 all clips were made and passed; 1 some failed; 2 nothing could start; 3 stopped before the end;
    4 a person should review some of them.
    """
    overrides = {
        "workers": workers,
        "store": store if store is None or is_url(store) else os.path.abspath(store),
        "budget_hours": budget,
        "previews": previews,
        "notify": notify,
        "window": {"start": start, "stop": stop},
        "worker": {"threads": threads, "gpus": gpus, "address": ray_address},
    }
    batch_params, home = load_params(params).with_produce(overrides), Home.default()
    if batch is not None and (avatar or audio or script):
        raise UserError("give a manifest, or --avatar with --audio or --script, not both")
    if not is_url(out) and Path(out).exists() and not Path(out).is_dir():
        raise UserError(f"--out {out} is a file; expected a folder, new or old")
    consent = consent_of(consent_holder, consent_scope, consent_expires)
    if batch is not None and (background or consent or keys):
        raise UserError(
            "--background, --set and consent belong to the short form; in a manifest they are keys of the clips"
        )
    chosen = _again(status, failed, again)
    with ExitStack() as stack:
        # A dry run makes nothing, so the manifest of a single clip does not stay either.
        folder = Path(stack.enter_context(TemporaryDirectory())) if dry_run else home.root / "manifests"
        manifest = batch or _write_manifest(folder, avatar, audio, script, background, consent, keys or ())
        if dry_run:
            raise typer.Exit(_dry_run(manifest, Outputs(out), batch_params, home, executor, chosen))
    from stereotalker.tasks.notify import failures_notified

    with failures_notified(batch_params.produce.notify, manifest.stem):
        if executor == "ray":
            from stereotalker.tasks.server import ensure_server

            read_manifest(manifest)  # a faulty manifest is reported before any server starts
            ensure_server(home)
        from stereotalker.flows.produce import produce as run

        done = run(manifest, out, batch_params, home, executor, again=chosen, release=release)
    for result in done.results:
        remarks = [result.video and f"{out}/{result.video}", result.error, *result.reasons]
        print(f"{result.shown:8} {result.id}: {'; '.join(filter(None, remarks))}")
    print(f"{done.end.summary()}, in {done.end.wall_seconds:.1f} s")
    print(f"report  {done.report}")
    print(f"records {home.tracking_uri} (run {done.run}; see them with `stereotalker ui`)")
    raise typer.Exit(done.end.status)


def pause(batch: BatchName = None) -> None:
    """Pause a running batch: segments that are being rendered are finished, and no other is begun."""
    _steer("pause", batch)


def resume(batch: BatchName = None) -> None:
    """Let a paused batch continue."""
    _steer("resume", batch)


def cancel(batch: BatchName = None) -> None:
    """End a running batch after the segments that are being rendered; produced again, it makes only the rest."""
    _steer("cancel", batch)


def serve(
    folder: Annotated[Path, typer.Argument(help="folder where manifests are dropped")],
    out: Annotated[str, typer.Option(help="folder or URL; every batch gets a folder of its name there")] = "out",
    cron: Annotated[str, typer.Option(help="when to look for manifests, in cron's notation")] = "0 20 * * *",
    timezone: Annotated[
        str | None, typer.Option(help="IANA name of the zone of --cron, like Europe/Berlin; default: this machine's")
    ] = None,
    retrain_cron: Annotated[
        str | None, typer.Option(help="when to retrain, in cron's notation; a night comes first; default: never")
    ] = None,
    params: ParamsFile = None,
) -> None:
    """Register the nightly deployment with Prefect and serve it: every manifest in the folder is produced, once."""
    from stereotalker.tasks.server import ensure_server

    ensure_server(Home.default())
    from stereotalker.flows.deployments import serve_deployments

    serve_deployments(folder, out, cron, params, timezone, retrain_cron)


def verify(file: Annotated[Path, typer.Argument(help="a video")]) -> None:
    """Check a video's content credentials (C2PA).

    Exit status: 0 the file is unchanged and marked as generated; 1 it was changed or is not marked; 2 it has no
    credentials.
    """
    from stereotalker.media.content_credentials import verify as read_credentials

    credentials = read_credentials(file)
    print(f"state      {credentials.state}")
    print(f"signer     {credentials.signer}")
    print(f"signed     {credentials.signed}")
    print(f"source     {credentials.source_type}")
    for name, value in sorted(credentials.claims.items()):
        print(f"{name:10} {value}")
    for fault in credentials.faults:
        print(f"fault      {fault}")
    raise typer.Exit(0 if credentials.good else 1)


def _dry_run(manifest: Path, outputs: Outputs, params: Params, home: Home, executor: str, again: Again | None) -> int:
    """Print the plan of a batch. Returns the exit status."""
    from stereotalker.models import Models
    from stereotalker.production.preflight import prepare

    checked = read_manifest(manifest)
    if again is not None:
        previous = again.previous(outputs, {clip.id for clip in checked.clips})
        clips = [c for c in checked.clips if c.id not in previous or again.includes(previous[c.id])]
        checked = checked.model_copy(update={"clips": tuple(clips)})
        if not clips:
            print("no clip of the last run is chosen")
            return 0
    plan = prepare(checked, outputs, Models(params), home, executor, dry_run=True)
    print("\n".join([plan.text(), *(f"note: {note}" for note in checked.notes)]))
    return 1 if plan.faults else 0


def _again(status: str | None, failed: bool, clips: list[str] | None) -> Again | None:
    """Which clips are made again; None: all that are not finished. Raises UserError for an unknown state."""
    states = set() if status is None else set(status.replace(" ", "").split(","))
    if unknown := states - set(CLIP_STATES):
        raise UserError(f"--status {', '.join(sorted(unknown))}; expected some of {_STATES}")
    if failed:
        states |= {"fail", "failed", "stopped"}
    return Again(frozenset(states), frozenset(clips or ())) if states or clips else None


def _steer(command: Literal["pause", "resume", "cancel"], batch: str | None) -> None:
    from stereotalker.tasks.server import ensure_server

    ensure_server(Home.default())
    from stereotalker.tasks.flowrun import steer

    print(f"{command}: {steer(batch, command)}")


def _write_manifest(
    folder: Path,
    avatar: str | None,
    audio: Path | None,
    script: str | None,
    background: str | None,
    consent: Consent | None,
    keys: Sequence[str] = (),
) -> Path:
    """Write the manifest of one clip into a folder, so that the same clip can be made again. Returns its path.

    keys: other keys of the clip, as KEY=VALUE. Paths of its files are absolute, because the manifest does not lie in
    the working directory; those in `keys` have to be.
    """
    if avatar is None or (audio is None) == (script is None):
        raise UserError("expected a manifest, or --avatar NAME with --audio FILE or --script TEXT")
    clip_id = safe_id(f"{Path(avatar).stem}-{audio.stem if audio else 'script-' + digest(script)[:8]}")

    def absolute(name: str) -> str:
        return os.path.abspath(name) if is_picture(name) else name

    clip: dict[str, Any] = dict(_key_and_value(text) for text in keys)
    if given := {"id", "avatar", "audio", "script", "background", "consent"} & clip.keys():
        raise UserError(f"--set {sorted(given)[0]}=...: there is an option for it")
    clip |= {"id": clip_id, "avatar": absolute(avatar)}
    if background:
        clip["background"] = absolute(background)
    if consent:
        clip["consent"] = consent.model_dump(mode="json")
    clip |= {"audio": os.path.abspath(audio)} if audio else {"script": script}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{clip_id}.yaml"
    if _names_other_files(path, clip):  # such as mon/take1.wav, and then tue/take1.wav
        clip["id"] = f"{clip_id}-{digest(clip['avatar'], clip.get('audio'))[:8]}"
        path = folder / f"{clip['id']}.yaml"
    write_atomic(path, yaml.safe_dump({"clips": [clip]}, allow_unicode=True).encode())
    return path


def _key_and_value(text: str) -> tuple[str, Any]:
    """A key of a clip and its value, as YAML reads it. Raises UserError unless it is KEY=VALUE."""
    key, is_given, value = text.partition("=")
    try:
        if is_given and key.strip():
            return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        pass
    raise UserError(f"--set {text!r}; expected KEY=VALUE with a value in YAML, such as voice=kumo")


def _names_other_files(path: Path, clip: dict[str, Any]) -> bool:
    """Whether there is a manifest of one clip at the path, with another portrait or recording."""
    if not path.is_file():
        return False
    [before] = yaml.safe_load(path.read_text(encoding="utf-8"))["clips"]
    return any(before.get(key) != clip.get(key) for key in ("avatar", "audio"))
