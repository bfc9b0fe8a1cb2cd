"""Where the videos of a batch lie in its outputs. A file is only ever found in the folder that fits its verdict.

clips/       what passed
review/      what a person should look at first
rejected/    what failed the quality gate
previews/    small versions of the whole batch, if wanted
superseded/  what a later run did not make again: its clip failed, was judged otherwise, or lost its consent
"""

from __future__ import annotations

from pathlib import Path

from stereotalker.production.manifest import FILE_ENDINGS, Clip
from stereotalker.production.outputs import Outputs

FOLDERS = {"pass": "clips", "review": "review", "fail": "rejected"}


def deliver(outputs: Outputs, clip: Clip, verdict: str, video: Path, poster: Path) -> tuple[str, str]:
    """Copy a finished video and its poster to the outputs, and move its older videos away. Returns both names there."""
    name, poster_name = f"{FOLDERS[verdict]}/{clip.file_name}", f"posters/{clip.id}.jpg"
    outputs.place(name, video)
    outputs.place(poster_name, poster)
    supersede(outputs, clip.id, keep=name)
    return name, poster_name


def deliver_preview(outputs: Outputs, clip: Clip, video: Path) -> str:
    """Copy a preview to the outputs. Returns its name there."""
    outputs.place(f"previews/{clip.file_name}", video)
    return f"previews/{clip.file_name}"


def supersede(outputs: Outputs, clip: str, keep: str = "") -> None:
    """Move the videos of a clip to superseded/, all but `keep`. clip: its id."""
    for folder in FOLDERS.values():
        for ending in FILE_ENDINGS:
            name = f"{folder}/{clip}{ending}"
            if name != keep:
                outputs.move(name, f"superseded/{clip}{ending}")
