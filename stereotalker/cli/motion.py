"""The command that turns speech into motion files, without a picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from stereotalker.acting.reference_acting import STYLE_INDEX
from stereotalker.cli.options import ParamsFile
from stereotalker.params import load_params
from stereotalker.production.manifest import emotion_key, single_clip
from stereotalker.store.digests import digest


def motion(
    audio: Annotated[Path | None, typer.Argument(help="a file with speech")] = None,
    script: Annotated[
        str | None, typer.Option(help="words to speak, instead of a file; it may have cues such as [nod]")
    ] = None,
    transcript: Annotated[
        str | None,
        typer.Option(help="what is said in the file; with it, words select gestures and the lips follow phonemes"),
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="language of the speech; without it, en-us for a text, else it is recognized")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for the files")] = Path("out/motion"),
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            help="npz (AMASS, SMPL-X Blender add-on), csv (Live Link Face), bvh, mp4 (a mannequin, to look at)",
        ),
    ] = "npz,csv,bvh,mp4",
    style: Annotated[str, typer.Option(help=f"a personality: {', '.join(STYLE_INDEX)}")] = "presenter",
    gesture: Annotated[float, typer.Option(help="size of gestures, from 0 (still arms) to 2")] = 1.0,
    seed: Annotated[int, typer.Option(help="another seed gives another take")] = 0,
    fps: Annotated[float, typer.Option(help="frames a second, 5 to 60")] = 25.0,
    gaze: Annotated[str, typer.Option(help="free, or camera")] = "free",
    body: Annotated[str, typer.Option(help="moving, or still: only head and face move")] = "moving",
    emotion: Annotated[
        list[str] | None,
        typer.Option(help="neutral, happy, serious, or TIME:NAME:AMOUNT like 2.5:happy:0.6; more than one allowed"),
    ] = None,
    start_pose: Annotated[str | None, typer.Option(help="rest, or an .npz whose last frame it begins in")] = None,
    end_pose: Annotated[str | None, typer.Option(help="rest, or an .npz whose first frame it ends in")] = None,
    params: ParamsFile = None,
) -> None:
    """Turn speech into SMPL-X motion without a picture, for Blender, Unreal and others, or to check it early."""
    optional = {
        "audio": audio,
        "script": script,
        "transcript": transcript,
        "language": language,
        "start_pose": start_pose,
        "end_pose": end_pose,
    }
    keys = {
        "style": style,
        "gesture": gesture,
        "seed": seed,
        "fps": fps,
        "gaze": gaze,
        "body": body,
        "emotion": [emotion_key(text) for text in emotion or []],
    }
    clip = single_clip(
        audio.stem if audio else f"script-{digest(script)[:8]}",
        keys | {name: value for name, value in optional.items() if value is not None},
    )
    from stereotalker.models import Models
    from stereotalker.production.clip_speech import speech_notes
    from stereotalker.production.motion_controls import make_motion

    unique_formats = list(dict.fromkeys(name.strip() for name in formats.split(",")))
    models = Models(load_params(params))
    speech, paths, cues = make_motion(clip, models, out, unique_formats)
    notes = [*speech_notes(clip, speech, models.recognizer), *(cue.text for cue in cues)]
    if clip.given_transcript is not None and not speech.words:
        notes.append("the transcript is not what is said: words were left out, lips follow the sound alone")
    if speech.recognized:
        notes.append(f"heard: {speech.recognized}")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print("\n".join(map(str, paths)))
